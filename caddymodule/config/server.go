package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"os"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// Server configures what all firms of one Caddy share: the secret, the store and the mail
// transport. In the Caddyfile it is the global option `doorpost`.
//
// Text settings may contain {env.NAME} and {file./PATH}. They stay as written here and in Caddy's
// /config; only Resolved contains the values.
type Server struct {
	// Secret is the secret from which all keys are derived: the newest first, then older ones,
	// which only open what they sealed. Each has at least 32 random characters. Default: a file of
	// mode 0600 in Doorpost's data folder, made at the first start. Write {file./PATH} or
	// {env.NAME}: a literal secret appears in /config and in Caddy's autosave.json.
	Secret []string `json:"secret,omitempty"`

	// Store is where all records are kept. Default: bolt in Doorpost's data folder,
	// $XDG_DATA_HOME/doorpost.
	Store *Store `json:"store,omitempty"`

	// Mail is the mail transport. Required.
	Mail *Mail `json:"mail,omitempty"`

	// Text is the transport of text messages to phones. Default: there are none.
	Text *Text `json:"text,omitempty"`
}

// Store configures where all records are kept.
type Store struct {
	// Engine is "bolt" (default) for one file and one process, or "redis" for any number of Caddys
	// with the same secret.
	Engine string `json:"engine,omitempty"`

	// Path is bolt's file. A relative path starts at Caddy's working directory. Default:
	// doorpost.db in Doorpost's data folder.
	Path string `json:"path,omitempty"`

	// URL is one Redis server: redis://HOST:PORT/DB, rediss:// with TLS, or unix:///PATH. With redis,
	// one of URL, Sentinel and Cluster is required.
	URL string `json:"url,omitempty"`

	// Sentinel is the name by which Sentinels know the Redis server and what takes its place.
	Sentinel string `json:"sentinel,omitempty"`

	// Cluster is whether the servers form a Redis Cluster.
	Cluster bool `json:"cluster,omitempty"`

	// Addresses are the HOST:PORT of all Sentinels, or of some nodes of the Cluster. Required with
	// these.
	Addresses []string `json:"addresses,omitempty"`

	// Username and Password are for a Redis server that requires them. As in Secret and Mail, write
	// {file./PATH} or {env.NAME}.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// SentinelUsername and SentinelPassword are for Sentinels that require them. They don't get
	// Username and Password.
	SentinelUsername string `json:"sentinel_username,omitempty"`
	SentinelPassword string `json:"sentinel_password,omitempty"`

	// DB is the number of the database. Not with Cluster, which has only one. Default: 0, or the
	// URL's.
	DB int `json:"db,omitempty"`

	// TLS encrypts the connections, also those to Sentinels. Default: only with rediss://, and then
	// verified by the authorities that the machine trusts.
	TLS *StoreTLS `json:"tls,omitempty"`

	// ReplicasAck is the number of replicas that must have a change before it counts as made.
	// Default: 0, so that a failover may lose the last changes.
	ReplicasAck int `json:"replicas_ack,omitempty"`
}

// StoreTLS configures connections to Redis.
type StoreTLS struct {
	// CA is a PEM file with the certificate authority of the servers. Default: the authorities that
	// the machine trusts.
	CA string `json:"ca,omitempty"`

	// Cert and Key are PEM files with a client certificate and its key, for servers that require
	// one.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`

	// ServerName is the name in the servers' certificates. Default: the host of each.
	ServerName string `json:"server_name,omitempty"`
}

// Mail configures the mail transport.
type Mail struct {
	// Transport is "smtp", or "folder" to try Doorpost. Required.
	Transport string `json:"via,omitempty"`

	// Address is the HOST:PORT of the mail server. Required with smtp.
	Address string `json:"address,omitempty"`

	// Username and Password are both set or both empty: relays that trust the network need none.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`

	// OAuth takes the place of the password, for Microsoft 365 and Google.
	OAuth *OAuth `json:"oauth,omitempty"`

	// TLS is "starttls", "implicit" or "off"; default "implicit" on port 465, otherwise "starttls".
	// It is enforced: a server that doesn't offer it gets no mail. With "off" a password is sent
	// only to this machine.
	TLS string `json:"tls,omitempty"`

	// CA is a PEM file with the certificate authority of an internal relay. Default: the
	// authorities that the machine trusts.
	CA string `json:"ca,omitempty"`

	// Cert and Key are PEM files with a client certificate and its key, for relays that require
	// one. Both or neither.
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`

	// Helo is the name in Doorpost's greeting to the mail server. Default: the sender's domain.
	Helo string `json:"helo,omitempty"`

	// Connections is the number of mails sent at the same time, over connections that stay open
	// between mails. Default 4, at most 100.
	Connections int `json:"connections,omitempty"`

	// Rate limits the mails per second (s), minute (m) or hour (h). Default "60/m".
	Rate string `json:"rate,omitempty"`

	// Path is the folder for the messages, one .eml file each. Required with folder.
	Path string `json:"path,omitempty"`
}

const (
	defaultRate     = "60/m"
	mostConnections = 100
)

// textSetting is a setting that may contain placeholders.
type textSetting struct {
	path  string
	value *string
}

func (c *Store) texts() []textSetting {
	all := []textSetting{
		{"store", &c.Path}, {"store", &c.URL}, {"store", &c.Sentinel},
		{"store.username", &c.Username}, {"store.password", &c.Password},
		{"store.sentinel_username", &c.SentinelUsername}, {"store.sentinel_password", &c.SentinelPassword},
	}
	for i := range c.Addresses {
		all = append(all, textSetting{"store", &c.Addresses[i]})
	}
	if t := c.TLS; t != nil {
		all = append(all, textSetting{"store.tls.ca", &t.CA}, textSetting{"store.tls.cert", &t.Cert}, textSetting{"store.tls.cert", &t.Key},
			textSetting{"store.tls.server_name", &t.ServerName})
	}
	return all
}

// clone returns a copy that shares nothing.
func (c Store) clone() Store {
	c.Addresses = slices.Clone(c.Addresses)
	if c.TLS != nil {
		own := *c.TLS
		c.TLS = &own
	}
	return c
}

// redisAddress returns the address of the Redis store.
func (c Store) redisAddress() redis.Address {
	a := redis.Address{
		URL: c.URL, Sentinel: c.Sentinel, Cluster: c.Cluster, Hosts: strings.Join(c.Addresses, " "),
		Username: c.Username, Password: c.Password, SentinelUsername: c.SentinelUsername, SentinelPassword: c.SentinelPassword,
		DB: c.DB, ReplicasAck: c.ReplicasAck,
	}
	if c.TLS != nil {
		a.TLS, a.CA, a.Cert, a.Key, a.ServerName = true, c.TLS.CA, c.TLS.Cert, c.TLS.Key, c.TLS.ServerName
	}
	return a
}

func (c *Mail) texts() []textSetting {
	all := []textSetting{
		{"mail", &c.Address}, {"mail.username", &c.Username},
		{"mail.password", &c.Password}, {"mail", &c.Path},
		{"mail.ca", &c.CA}, {"mail.cert", &c.Cert}, {"mail.cert", &c.Key}, {"mail.helo", &c.Helo},
	}
	if c.OAuth != nil {
		all = append(all, c.OAuth.texts()...)
	}
	return all
}

// Pace returns a new limiter for a rate such as 60/m: at most that many mails in any such period,
// and a tenth of them at once. A folder has no limit.
func (c Mail) Pace() (*rate.Limiter, error) {
	if c.Transport == "folder" {
		return rate.NewLimiter(rate.Inf, 1), nil
	}
	n, per, err := parseRate(c.Rate)
	if err != nil {
		return nil, atPath("mail.rate", err)
	}
	return outbox.Pace(n, per), nil
}

// AtATime returns the number of mails sent at the same time.
func (c Mail) AtATime() int { return cmp.Or(c.Connections, outbox.DefaultConnections) }

// SMTP returns the settings of the SMTP transport. It reads the certificate files.
func (c Mail) SMTP() (outbox.SMTP, error) {
	s := outbox.SMTP{Address: c.Address, Username: c.Username, Password: c.Password, TLS: outbox.TLS(c.TLS), Helo: c.Helo}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return s, atPath("mail.ca", err)
		}
		s.RootCAs = x509.NewCertPool()
		if !s.RootCAs.AppendCertsFromPEM(pem) {
			return s, invalid("mail.ca", "%s holds no certificate in PEM form, which begins with -----BEGIN CERTIFICATE-----", c.CA)
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return s, atPath("mail.cert", err)
		}
		s.Certificates = []tls.Certificate{pair}
	}
	return s, nil
}

// files returns the files that the settings name.
func (c Mail) files() (all []NamedFile) {
	for _, t := range c.texts() {
		all = append(all, filesIn(settingName(t.path), *t.value)...)
	}
	for _, f := range []NamedFile{{"mail ca", c.CA}, {"mail cert", c.Cert}, {"mail cert", c.Key}} {
		if f.Path != "" && !hasPlaceholder(f.Path) {
			all = append(all, f)
		}
	}
	return all
}

// MailTransport returns the mail transport as written: "smtp", "folder", or "".
func (s Server) MailTransport() string { return valueOr(s.Mail, Mail{}).Transport }
