package redis

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Address is where a store is and how to reach it: exactly one of URL, Sentinel and Cluster is set.
// Addresses are comparable; equal ones are the same store.
type Address struct {
	URL      string // one server: redis://HOST:PORT/DB, rediss:// for TLS, unix:///PATH?db=DB
	Sentinel string // the name by which Sentinels know the server
	Cluster  bool   // a Redis Cluster

	Hosts string // HOST:PORT of the Sentinels, or of some nodes of the Cluster, with spaces between

	Username string // of the server's ACL; "": the URL's, or the server's default user
	Password string // "": the URL's, or none

	SentinelUsername, SentinelPassword string // of the Sentinels

	DB int // number of the database, 0 with Cluster

	TLS        bool   // encrypt the connections, also those to Sentinels; implied by rediss://
	CA         string // PEM file of the certificate authority; "": those that the machine trusts
	Cert, Key  string // PEM files of a client certificate; "": none
	ServerName string // the name in the servers' certificates; "": the host of each

	ReplicasAck int // number of replicas that must have a change before Apply returns nil
}

// String returns the address for logs and errors, without passwords.
func (a Address) String() string {
	switch {
	case a.Sentinel != "":
		return fmt.Sprintf("redis sentinel %s %s%s", a.Sentinel, a.Hosts, a.db())
	case a.Cluster:
		return "redis cluster " + a.Hosts
	}
	u, err := url.Parse(a.URL)
	if err != nil { // was validated before
		return "redis"
	}
	u.User = nil
	return u.String() + a.db()
}

func (a Address) db() string {
	if a.DB == 0 {
		return ""
	}
	return fmt.Sprintf(" db %d", a.DB)
}

// Validate returns what is wrong with the address. The error doesn't contain the URL, which may
// have a password. Files aren't read.
func (a Address) Validate() error {
	_, err := a.options()
	return err
}

const writeURL = "redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH"

// options returns the options of a client of the server, without those of TLS that are in files.
// For Sentinel and Cluster, they are for each server, without its address.
func (a Address) options() (*redis.Options, error) {
	r := &redis.Options{Network: "tcp", DB: a.DB}
	if a.Sentinel == "" && !a.Cluster {
		u, err := url.Parse(a.URL)
		if err != nil {
			return nil, errors.New("the URL can't be read; write " + writeURL)
		}
		for setting := range u.Query() {
			if u.Scheme != "unix" || setting != "db" {
				return nil, fmt.Errorf("the URL has a setting %q, which isn't one of Doorpost's; leave it out", setting)
			}
		}
		if r, err = redis.ParseURL(a.URL); err != nil {
			return nil, errors.New("that is not the URL of a Redis server; write " + writeURL)
		}
		if a.DB != 0 && r.DB != 0 {
			return nil, errors.New("the URL has the number of the database already; write it there, or as db, not twice")
		}
		r.DB = cmp.Or(r.DB, a.DB)
		if a.TLS && r.Network == "unix" {
			return nil, errors.New("a unix socket takes no TLS; remove tls")
		}
		if r.TLSConfig != nil || a.TLS {
			r.TLSConfig = &tls.Config{ServerName: cmp.Or(a.ServerName, u.Hostname()), MinVersion: tls.VersionTLS12}
		}
	} else {
		hosts := a.hosts()
		if len(hosts) == 0 {
			return nil, errors.New("no HOST:PORT is given")
		}
		for _, host := range hosts {
			if err := checkHost(host); err != nil {
				return nil, err
			}
		}
		if a.TLS { // without a name: it is the host of each server
			r.TLSConfig = &tls.Config{ServerName: a.ServerName, MinVersion: tls.VersionTLS12}
		}
	}
	r.Username, r.Password = cmp.Or(a.Username, r.Username), cmp.Or(a.Password, r.Password)
	setLimits(r)
	return r, nil
}

func (a Address) hosts() []string { return strings.Fields(a.Hosts) }

func checkHost(host string) error {
	name, port, err := net.SplitHostPort(host)
	switch {
	case strings.Contains(host, "://"):
		return fmt.Errorf("%q is a URL; write HOST:PORT here, and username, password, db and tls in the block", withoutUser(host))
	case err != nil || name == "" || port == "":
		return fmt.Errorf("%q is no HOST:PORT; write it with its port, such as n1:6379", host)
	}
	return nil
}

// withoutUser returns a URL without user and password.
func withoutUser(text string) string {
	scheme, rest, _ := strings.Cut(text, "://")
	if _, after, ok := strings.Cut(rest, "@"); ok {
		rest = after
	}
	return scheme + "://" + rest
}

// setLimits sets the options that are the same for every client.
func setLimits(r *redis.Options) {
	r.Protocol = 2           // without push messages
	r.MaxRetries = -1        // go-redis would repeat unsafe requests; do repeats with a nonce
	r.DialerRetries = 1      // do repeats
	r.DisableIdentity = true // its late reply was once taken for another one (CVE-2025-29923)
	r.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	r.DialTimeout, r.ReadTimeout, r.WriteTimeout = attemptTimeout, attemptTimeout, attemptTimeout
	r.ContextTimeoutEnabled = true
	r.PoolSize = max(32, 10*runtime.GOMAXPROCS(0))
	r.PoolTimeout = 300 * time.Millisecond // less than attemptTimeout: a full pool doesn't mean a dead server
	r.ConnMaxIdleTime = time.Minute        // less than the idle timeout of usual firewalls
	r.ReadBufferSize, r.WriteBufferSize = 8<<10, 8<<10
}

// TLSError is about a file of the TLS settings.
type TLSError struct {
	Setting string // ca or cert
	Err     error
}

func (e *TLSError) Error() string { return fmt.Sprintf("tls %s: %v", e.Setting, e.Err) }
func (e *TLSError) Unwrap() error { return e.Err }

// CheckFiles reads the files of the TLS settings, and returns a *TLSError for one that can't be
// used.
func (a Address) CheckFiles() error { return a.readFiles(new(tls.Config)) }

func (a Address) readFiles(c *tls.Config) error {
	if a.CA != "" {
		pem, err := os.ReadFile(a.CA)
		if err != nil {
			return &TLSError{"ca", err}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return &TLSError{"ca", fmt.Errorf("%s holds no certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----", a.CA)}
		}
	}
	if a.Cert != "" {
		pair, err := tls.LoadX509KeyPair(a.Cert, a.Key)
		if err != nil {
			return &TLSError{"cert", err}
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// sentinelOptions returns the options of a client of the Sentinel at host, given those of a server.
func (a Address) sentinelOptions(server *redis.Options, host string) *redis.Options {
	o := *server
	o.Addr, o.DB, o.Username, o.Password, o.PoolSize = host, 0, a.SentinelUsername, a.SentinelPassword, 2
	return &o
}
