// Package redis implements the store on one Redis server for many machines, using go-redis. It is
// tested with Redis 7.0.
//
// Every operation is one script, so it is atomic. Only an Apply of thousands of changes isn't,
// since it would block everybody else: see large.go. Every request carries a nonce that its reply
// repeats, so that a reply to another request is detected. A request that changes something leaves
// its reply on the server for some seconds, so that repeating it after a lost reply changes nothing
// twice.
//
// The clock of Options decides what has expired. The server also deletes records by itself, a day
// later, so that nothing stays forever: each key has a TTL. For records without expiry it is ten
// years, renewed every year while a Doorpost runs. The clocks of all machines must agree.
//
// Acknowledged changes are as durable as the server's settings make them: with "appendonly yes" and
// "appendfsync everysec" a power failure loses at most a second.
//
// If Apply returns an error that wraps store.ErrUnavailable, the server may have made the change
// without being able to acknowledge it.
package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Options of Open.
type Options struct {
	URL      string // redis://HOST:PORT/DB, rediss:// for TLS, unix:///PATH?db=DB; required
	Username string // of the server's ACL; "": the URL's, or the server's default user
	Password string // "": the URL's, or none

	Clock func() time.Time // decides what has expired; nil: time.Now
	Log   *slog.Logger     // outages of the server and their end; nil: no log
	Sweep time.Duration    // how often to delete expired records; 0: ten seconds

	// Late makes Open succeed if the server can't be reached yet. The Store returns
	// store.ErrUnavailable until the server is reachable and was found usable.
	Late bool
}

// Validate returns what is wrong with the URL. The error doesn't contain the URL, which may have a
// password.
func (o Options) Validate() error {
	_, err := parse(o)
	return err
}

// Store is an open store. It implements store.Store and is safe for concurrent use.
type Store struct {
	options *redis.Options // never changed; every client gets a copy
	address string         // for logs, without credentials
	clock   func() time.Time
	log     *slog.Logger

	client        atomic.Pointer[redis.Client] // replaced after each problem, see replaceClient
	clientMu      sync.Mutex
	nonces        string // prefix of this Store's nonces
	requests      atomic.Uint64
	down          atomic.Pointer[outage] // nil while the server replies
	notReady      atomic.Pointer[error]  // why the server isn't set up yet; nil once it is
	circuitOpened chan struct{}          // wakes watch: down was set

	firms       sync.Map    // firms used so far, for sweeping
	stagedFirms chan string // wakes the sweeper: a firm has a committed large Apply
	closed      atomic.Bool
	life        context.Context // ends with Close
	end         context.CancelFunc
	tasks       sync.WaitGroup // watch and the sweeper
}

var _ store.Store = (*Store)(nil)

// Open connects to the server and checks that it is usable. If the server can't be reached or
// rejects a request, the error wraps store.ErrUnavailable and says what to do. If the server may
// lose data, Open logs a warning. The caller must Close the Store.
func Open(ctx context.Context, o Options) (*Store, error) {
	options, err := parse(o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		options:       options,
		address:       options.Addr,
		clock:         o.Clock,
		log:           o.Log,
		nonces:        rand.Text()[:16],
		circuitOpened: make(chan struct{}, 1),
		stagedFirms:   make(chan string, 1),
	}
	s.life, s.end = context.WithCancel(context.Background())
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.client.Store(s.dial())
	s.tasks.Go(s.watch)
	sweep := func() { s.sweep(cmp.Or(o.Sweep, 10*time.Second)) }
	if err := s.setUp(ctx); err != nil {
		err = fmt.Errorf("the store at %s: %w", s.address, err)
		if !o.Late || !errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSettings) {
			return nil, errors.Join(err, s.Close())
		}
		s.notReady.Store(&err)
		s.tasks.Go(func() {
			if s.setUpLater(err) {
				sweep()
			}
		})
		return s, nil
	}
	s.tasks.Go(sweep)
	return s, nil
}

// Ready reports whether the server was found usable. It is always true without Options.Late.
func (s *Store) Ready() bool { return s.notReady.Load() == nil }

// settingUp is the context key of requests that set up a late server. Other requests fail until
// that is done.
type settingUp struct{}

const (
	setUpEvery    = 250 * time.Millisecond // between two probes for the server
	setUpMaxDelay = 15 * time.Second       // between two attempts at a reachable server that isn't usable
	setUpLogEvery = time.Minute            // between two equal log lines
)

// setUpLater sets up the server once it is reachable, and returns true, or false if the Store was
// closed before.
func (s *Store) setUpLater(why error) bool {
	began, wait := time.Now(), setUpEvery
	var logged time.Time
	for {
		if now := time.Now(); now.Sub(logged) >= setUpLogEvery {
			logged = now
			s.log.Error("the store can't be used yet; what needs it is refused, and it is tried again until it can", "address", s.address, "error", why)
		}
		select {
		case <-s.life.Done():
			return false
		case <-time.After(wait):
		}
		if s.down.Load() != nil {
			continue // watch probes it
		}
		ctx, cancel := context.WithTimeout(context.WithValue(s.life, settingUp{}, true), 10*time.Second)
		err := s.setUp(ctx)
		cancel()
		if err == nil {
			s.notReady.Store(nil)
			s.log.Info("the store can be used now", "address", s.address, "after", time.Since(began).Round(time.Millisecond).String())
			return true
		}
		if err.Error() != why.Error() {
			logged = time.Time{}
		}
		why = err
		err = fmt.Errorf("the store at %s: %w", s.address, err)
		s.notReady.Store(&err)
		wait = min(2*wait, setUpMaxDelay)
	}
}

// Maximum time of one attempt, and number of attempts: together less than a second.
const (
	attemptTimeout = 450 * time.Millisecond
	maxAttempts    = 2
)

// parse reads the URL. Its errors don't contain the URL, which may have a password.
func parse(o Options) (*redis.Options, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL can't be read; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH")
	}
	for setting := range u.Query() {
		if u.Scheme != "unix" || setting != "db" {
			return nil, fmt.Errorf("the URL has a setting %q, which isn't one of Doorpost's; leave it out", setting)
		}
	}
	r, err := redis.ParseURL(o.URL)
	if err != nil {
		return nil, fmt.Errorf("that is not the URL of a Redis server; write redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix:///PATH")
	}
	r.Username, r.Password = cmp.Or(o.Username, r.Username), cmp.Or(o.Password, r.Password)
	if r.TLSConfig != nil {
		r.TLSConfig = &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	}
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
	return r, nil
}

func (s *Store) dial() *redis.Client {
	options := *s.options
	return redis.NewClient(&options)
}

// Close closes all connections. Concurrent calls may return store.ErrUnavailable; later calls of
// any method do. A second Close does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.end()
	s.tasks.Wait()
	s.clientMu.Lock() // wait for a concurrent replaceClient; later ones see closed
	defer s.clientMu.Unlock()
	return s.client.Load().Close()
}

// setUp checks that the server is usable.
func (s *Store) setUp(ctx context.Context) error {
	err := s.reach(ctx)
	if mode := s.mode(ctx); mode != "" && mode != "standalone" {
		return settingsError{wrongMode(mode)}
	}
	if err != nil {
		return s.explain(err)
	}
	// Every command of the operations, on a test record: if the server's user lacks a permission, a
	// script would otherwise fail half done.
	k := store.Key{Bucket: "probe", ID: rand.Text()}
	err = s.Apply(ctx, store.Create(k, nil, s.clock().Add(time.Minute)))
	if err == nil {
		_, err = s.Scan(ctx, k.Firm, k.Bucket, k.ID, "", 1)
	}
	if err == nil {
		err = s.Apply(ctx, store.Remove(k, nil))
	}
	if err == nil {
		_, err = s.Sweep(ctx)
	}
	if err == nil {
		err = s.Publish(ctx, k.Firm, "probe")
	}
	if err == nil {
		err = s.compareClocks(ctx)
	}
	if err != nil {
		return s.explain(err)
	}
	s.warnAboutSettings(ctx)
	return nil
}

// reach sends the first request, and waits a little for a server that is just starting.
func (s *Store) reach(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Second); ; {
		_, err := s.Get(ctx, probeKey)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case ctx.Err() != nil, time.Now().After(end), needsSettings(err):
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ErrSettings is wrapped by errors of Open that persist until the settings are changed, here or on
// the server. Other errors may pass by themselves.
var ErrSettings = errors.New("redis: the settings don't fit the server")

// settingsError is an ErrSettings with its own text.
type settingsError struct{ error }

func (e settingsError) Unwrap() error        { return e.error }
func (e settingsError) Is(target error) bool { return target == ErrSettings }

// needsSettings reports whether the error persists until the settings are changed.
func needsSettings(err error) bool {
	_, foreign := errors.AsType[*tls.CertificateVerificationError](err)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	kind, says := kindOf(err), ""
	if kind == "ERR" {
		says = err.Error()
	}
	return foreign || plain || slices.Contains([]string{"WRONGPASS", "NOAUTH", "NOPERM", "MOVED", "CROSSSLOT", "CLUSTERDOWN"}, kind) ||
		strings.Contains(says, "unknown command") || strings.Contains(says, "DB index")
}

// mode returns the kind of server, such as "standalone", "cluster" or "sentinel"; "" if unknown. A
// cluster node may reply to every request until its slots move.
func (s *Store) mode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if s.down.Load() != nil {
		return ""
	}
	info, err := s.client.Load().Info(ctx, "server").Result()
	if kind := kindOf(err); kind == "MOVED" || kind == "CLUSTERDOWN" {
		return "cluster"
	}
	for line := range strings.Lines(info) {
		if mode, ok := strings.CutPrefix(strings.TrimSpace(line), "redis_mode:"); ok {
			return mode
		}
	}
	return ""
}

// wrongMode returns the error for a server that can't be the store.
func wrongMode(mode string) error {
	switch mode {
	case "cluster":
		return errors.New("this is a node of a Redis Cluster, whose slots may move to another node; give `store redis` the address of one standalone server")
	case "sentinel":
		return errors.New("this is a Sentinel, which holds no data; give `store redis` the address of the master that it watches, such as redis://HOST:6379/0")
	}
	return fmt.Errorf("this is a Redis server in the mode %q; give `store redis` the address of one standalone server", mode)
}

// kindOf returns the first word of the server's error, or "".
func kindOf(err error) string {
	answer, ok := errors.AsType[redis.Error](err)
	if !ok {
		return ""
	}
	if strings.HasPrefix(answer.Error(), forbidden) {
		return "NOPERM"
	}
	kind, _, _ := strings.Cut(answer.Error(), " ")
	return kind
}

// forbidden is the text of NOPERM errors inside scripts.
const forbidden = "ERR The user executing the script"

// explain adds advice for operators to an error of setUp.
func (s *Store) explain(err error) error {
	if needsSettings(err) {
		return settingsError{s.withAdvice(err)}
	}
	return s.withAdvice(err)
}

// withAdvice returns the error with advice for operators.
func (s *Store) withAdvice(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: put the certificate of its authority where this system looks for it (on Debian /usr/local/share/ca-certificates/NAME.crt, then run update-ca-certificates), and restart Caddy", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w: write in rediss:// the name that its certificate is for", err)
	case plain:
		return fmt.Errorf("%w: the server doesn't speak TLS on this port; write redis:// instead of rediss://, or its TLS port", err)
	case s.options.TLSConfig != nil && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: if the server doesn't speak TLS on this port, write redis:// instead of rediss://", err)
	case s.options.TLSConfig == nil && s.options.Network == "tcp" && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return fmt.Errorf("%w: if the server wants TLS on this port, write rediss:// instead of redis://", err)
	}
	switch kindOf(err) {
	case "MOVED", "CROSSSLOT", "CLUSTERDOWN":
		return fmt.Errorf("%w: %w", wrongMode("cluster"), err)
	case "WRONGPASS", "NOAUTH":
		return fmt.Errorf("%w: check username and password", err)
	case "NOPERM":
		return fmt.Errorf("%w: give the user: ~%s* &%[2]s* +@read +@write +@scripting +@pubsub +@connection +info +time", err, keyPrefix)
	case "READONLY":
		return fmt.Errorf("%w: this server is a replica; give the address of the master", err)
	default:
		return err
	}
}

// compareClocks warns if the server's clock and ours differ: other users of the store have our
// clock or the server's.
func (s *Store) compareClocks(ctx context.Context) error {
	server, err := s.serverTime(ctx)
	if err != nil {
		return err
	}
	if apart := time.Since(server).Abs(); apart > 30*time.Second {
		s.log.Warn("the clocks of this machine and of the Redis server disagree; set both by NTP", "address", s.address, "apart", apart.Round(time.Second).String())
	}
	return nil
}

// warnAboutSettings warns about settings of the server that could lose data. It does nothing if the
// user may not read them.
func (s *Store) warnAboutSettings(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	info, err := s.client.Load().Info(ctx).Result()
	if err != nil {
		s.log.Debug("settings of the Redis server cannot be read", "address", s.address, "error", err)
		return
	}
	settings := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			settings[name] = value
		}
	}
	if policy := settings["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		s.log.Warn("the Redis server deletes records when its memory is full, so visitors would be signed out and contacts lost; set maxmemory-policy noeviction", "address", s.address, "maxmemory_policy", policy)
	}
	if settings["aof_enabled"] == "0" {
		s.log.Warn("the Redis server loses changes since its last snapshot when it stops; set appendonly yes", "address", s.address)
	}
}
