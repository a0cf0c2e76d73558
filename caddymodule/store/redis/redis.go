// Package redis keeps the store on one Redis server for many machines, on go-redis. It is
// tested with Redis 7.0.
//
// Every verb is one script, so that it happens as a whole, but for an Apply of thousands of
// changes, which would hold up everybody else: see large.go. Every question carries a number
// that its answer repeats, so that an answer to somebody else's question is noticed; and
// what changes something leaves its answer on the server for some seconds, so that asking
// again after a lost answer changes nothing twice.
//
// The clock of Options decides what has ended. The server forgets by itself too, a day
// after that, so that nothing lies there for ever: each key has a life. That of records
// that stay is ten years, and renewed every year while a Doorpost runs. The clocks of all
// machines have to agree.
//
// What a method has acknowledged is as durable as the server is set to be: with
// "appendonly yes" and "appendfsync everysec" a power failure costs a second at most.
//
// An error that wraps store.ErrUnavailable from Apply doesn't say that nothing
// was done: the server may have done it and not been able to say so.
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

// Options are what Open is told.
type Options struct {
	URL      string // redis://HOST:PORT/DB, rediss:// for TLS, unix:///PATH?db=DB; required
	Username string // of the server's ACL; "": the server's default user, or the URL's
	Password string // "": none, or the URL's

	Clock func() time.Time // decides what has expired; time.Now when nil
	Log   *slog.Logger     // when the server is gone, and when it is back; nobody when nil
	Sweep time.Duration    // between two looks for what has expired; 0: ten seconds

	// Late has Open succeed where the server can't be reached yet. The Store answers with
	// store.ErrUnavailable until it can, and was found to be one that can be worked with.
	Late bool
}

// Validate reports what is wrong with the URL, without showing it: it may hold a password.
func (o Options) Validate() error {
	_, err := parse(o)
	return err
}

// Store is an open store. It implements store.Store, and is safe for use by many goroutines.
type Store struct {
	options *redis.Options // never changed; every client gets a copy
	address string         // as logs show it, without credentials
	clock   func() time.Time
	log     *slog.Logger

	client   atomic.Pointer[redis.Client] // another one after each trouble, see renew
	renewing sync.Mutex
	nonces   string // what this Store's nonces begin with
	asked    atomic.Uint64
	down     atomic.Pointer[outage] // nil while the server answers
	unmet    atomic.Pointer[error]  // why the server couldn't be greeted yet; nil once it was
	fell     chan struct{}          // wakes the watcher: down has been set

	firms  sync.Map    // of the firms that were asked for, to be swept
	aside  chan string // wakes the sweeper: a firm's large Apply is to be carried over
	closed atomic.Bool
	life   context.Context // ends with Close
	end    context.CancelFunc
	tasks  sync.WaitGroup // the watcher and the sweeper
}

var _ store.Store = (*Store)(nil)

// Open connects to the server and makes sure that it can be worked with. A server that
// can't be reached, or refuses, is an error that wraps store.ErrUnavailable and says what
// to do; one that may lose what it is given is a warning in the log. The caller owns the
// Store and has to Close it.
func Open(ctx context.Context, o Options) (*Store, error) {
	options, err := parse(o)
	if err != nil {
		return nil, err
	}
	s := &Store{
		options: options,
		address: options.Addr,
		clock:   o.Clock,
		log:     o.Log,
		nonces:  rand.Text()[:16],
		fell:    make(chan struct{}, 1),
		aside:   make(chan string, 1),
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
	if err := s.greet(ctx); err != nil {
		err = fmt.Errorf("the store at %s: %w", s.address, err)
		if !o.Late || !errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSettings) {
			return nil, errors.Join(err, s.Close())
		}
		s.unmet.Store(&err)
		s.tasks.Go(func() {
			if s.greetLater(err) {
				sweep()
			}
		})
		return s, nil
	}
	s.tasks.Go(sweep)
	return s, nil
}

// Met reports whether the server was found to be one that can be worked with: always,
// unless it was opened late.
func (s *Store) Met() bool { return s.unmet.Load() == nil }

// greeting marks the questions by which a server that comes late is greeted; no others are
// asked until that is done.
type greeting struct{}

const (
	greetEvery   = 250 * time.Millisecond // between two looks whether the server is there
	greetSlowest = 15 * time.Second       // between two tries of one that is there and can't be used
	greetTell    = time.Minute            // between two log lines about the same
)

// greetLater greets the server once it is there, and reports whether it did so before the
// Store was closed.
func (s *Store) greetLater(why error) bool {
	began, wait := time.Now(), greetEvery
	var told time.Time
	for {
		if now := time.Now(); now.Sub(told) >= greetTell {
			told = now
			s.log.Error("the store can't be used yet; what needs it is refused, and it is tried again until it can", "address", s.address, "error", why)
		}
		select {
		case <-s.life.Done():
			return false
		case <-time.After(wait):
		}
		if s.down.Load() != nil {
			continue // the watcher looks for it
		}
		ctx, cancel := context.WithTimeout(context.WithValue(s.life, greeting{}, true), 10*time.Second)
		err := s.greet(ctx)
		cancel()
		if err == nil {
			s.unmet.Store(nil)
			s.log.Info("the store can be used now", "address", s.address, "after", time.Since(began).Round(time.Millisecond).String())
			return true
		}
		if err.Error() != why.Error() {
			told = time.Time{}
		}
		why = err
		err = fmt.Errorf("the store at %s: %w", s.address, err)
		s.unmet.Store(&err)
		wait = min(2*wait, greetSlowest)
	}
}

// How long one attempt may take, and how many there are: together less than a second.
const (
	patience = 450 * time.Millisecond
	attempts = 2
)

// parse reads the URL. Its errors don't show it, since it may hold a password.
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
	r.Protocol = 2           // nothing comes that wasn't asked for
	r.MaxRetries = -1        // it would repeat what mustn't be done twice; ask repeats with a nonce
	r.DialerRetries = 1      // ask repeats
	r.DisableIdentity = true // its answer, come late, was once taken for another one (CVE-2025-29923)
	r.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	r.DialTimeout, r.ReadTimeout, r.WriteTimeout = patience, patience, patience
	r.ContextTimeoutEnabled = true
	r.PoolSize = max(32, 10*runtime.GOMAXPROCS(0))
	r.PoolTimeout = 300 * time.Millisecond // less than patience: a crowd is no sign of a dead server
	r.ConnMaxIdleTime = time.Minute        // less than what stands between lets idle ones live
	r.ReadBufferSize, r.WriteBufferSize = 8<<10, 8<<10
	return r, nil
}

func (s *Store) dial() *redis.Client {
	options := *s.options
	return redis.NewClient(&options)
}

// Close lets go of the server. What is under way may end with store.ErrUnavailable; later
// calls of any method do. A second Close does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.end()
	s.tasks.Wait()
	s.renewing.Lock() // whoever renews the client has done so, or sees that it is too late
	defer s.renewing.Unlock()
	return s.client.Load().Close()
}

// greet finds out whether the server can be worked with.
func (s *Store) greet(ctx context.Context) error {
	err := s.reach(ctx)
	if mode := s.mode(ctx); mode != "" && mode != "standalone" {
		return settingsError{wrongMode(mode)}
	}
	if err != nil {
		return s.explain(err)
	}
	// Every command that the verbs need, on a record of our own: where the server's user
	// may not use one, a script would stop half done.
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
	s.advise(ctx)
	return nil
}

// reach asks the first question, and waits a little for a server that is just starting.
func (s *Store) reach(ctx context.Context) error {
	for end := time.Now().Add(2 * time.Second); ; {
		_, err := s.Get(ctx, nothing)
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

// ErrSettings is wrapped by the errors of Open that go on until somebody changes the
// settings, here or at the server. Any other error may pass by itself.
var ErrSettings = errors.New("redis: the settings don't fit the server")

// settingsError is an ErrSettings that says so in its own words.
type settingsError struct{ error }

func (e settingsError) Unwrap() error        { return e.error }
func (e settingsError) Is(target error) bool { return target == ErrSettings }

// needsSettings reports whether the same question brings the same error again, until
// somebody changes the settings.
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

// mode returns what kind of server it is, such as "standalone", "cluster" or "sentinel";
// "" where it doesn't say so. A node of a cluster may answer every question until its slots
// move.
func (s *Store) mode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
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

// wrongMode is the error of a server that can't be the store.
func wrongMode(mode string) error {
	switch mode {
	case "cluster":
		return errors.New("this is a node of a Redis Cluster, whose slots may move to another node; give `store redis` the address of one standalone server")
	case "sentinel":
		return errors.New("this is a Sentinel, which holds no data; give `store redis` the address of the master that it watches, such as redis://HOST:6379/0")
	}
	return fmt.Errorf("this is a Redis server in the mode %q; give `store redis` the address of one standalone server", mode)
}

// kindOf returns the first word of the server's answer, where the error is one.
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

// forbidden is how NOPERM reads where a script meets it.
const forbidden = "ERR The user executing the script"

// explain adds to an error of the first contact what the operator can do.
func (s *Store) explain(err error) error {
	if needsSettings(err) {
		return settingsError{s.advised(err)}
	}
	return s.advised(err)
}

// advised is the error with what the operator can do.
func (s *Store) advised(err error) error {
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

// compareClocks warns where the server's clock and ours disagree: others that use the
// store have ours or the server's.
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

// advise warns of settings of the server by which it would lose what it is given. A user
// who may not ask for them gets no advice.
func (s *Store) advise(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	info, err := s.client.Load().Info(ctx).Result()
	if err != nil {
		s.log.Debug("the settings of the Redis server can't be looked at", "address", s.address, "error", err)
		return
	}
	settings := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			settings[name] = value
		}
	}
	if policy := settings["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		s.log.Warn("the Redis server throws records away when its memory is full: people would be signed out, and contacts be gone; set maxmemory-policy noeviction", "address", s.address, "maxmemory_policy", policy)
	}
	if settings["aof_enabled"] == "0" {
		s.log.Warn("the Redis server forgets what came since its last snapshot when it stops; set appendonly yes", "address", s.address)
	}
}
