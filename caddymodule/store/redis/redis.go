// Package redis implements the store for many machines on one Redis server, on the server that
// Sentinels name, or on a Redis Cluster, using go-redis. It is tested with Redis 7.0.
//
// All keys of a firm have the same hash tag, so that in a Cluster they have the same slot: see
// topology.go for how a request finds its server. Scripts use keys that depend on what they read, so
// they can't declare all of them. In a Cluster every script declares one more key of the firm, which
// never exists: while a slot moves, Redis refuses a request for several keys with TRYAGAIN unless it
// has all of them. So no script runs while its firm's keys are in two places.
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Options of Open.
type Options struct {
	Address

	Clock func() time.Time // decides what has expired; nil: time.Now
	Log   *slog.Logger     // outages of the server and their end; nil: no log
	Sweep time.Duration    // how often to delete expired records; 0: ten seconds

	// Late makes Open succeed if the server can't be reached yet. The Store returns
	// store.ErrUnavailable until the server is reachable and was found usable.
	Late bool
}

// Store is an open store. It implements store.Store and is safe for concurrent use.
type Store struct {
	where    Address
	address  string // for logs, without credentials
	clock    func() time.Time
	log      *slog.Logger
	topology topology

	nonces   string // prefix of this Store's nonces
	requests atomic.Uint64
	notReady atomic.Pointer[error] // why the server isn't set up yet; nil once it is

	firms       sync.Map    // firms used so far, for sweeping
	stagedFirms chan string // wakes the sweeper: a firm has a committed large Apply
	closed      atomic.Bool
	life        context.Context // ends with Close
	end         context.CancelFunc
	tasks       sync.WaitGroup // watching servers and the topology, and the sweeper
}

var _ store.Store = (*Store)(nil)

// Open connects to the server and checks that it is usable. If the server can't be reached or
// rejects a request, the error wraps store.ErrUnavailable and says what to do. If the server may
// lose data, Open logs a warning. The caller must Close the Store.
func Open(ctx context.Context, o Options) (*Store, error) {
	options, err := o.options()
	if err == nil && options.TLSConfig != nil {
		err = o.readFiles(options.TLSConfig)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		where:       o.Address,
		address:     o.Address.String(),
		clock:       o.Clock,
		log:         o.Log,
		nonces:      rand.Text()[:16],
		stagedFirms: make(chan string, 1),
	}
	s.life, s.end = context.WithCancel(context.Background())
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Sentinel != "":
		s.topology = s.newSentinels(o.Address, options)
	case o.Cluster:
		s.topology = s.newCluster(o.Address, options)
	default:
		s.address = options.Addr
		s.topology = single{s.newNode(options, options.Addr, func() {})}
	}
	s.topology.start(ctx)
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
		if n, err := s.topology.route(recordKey(s.probeKey())); err == nil && n.down.Load() != nil {
			continue // it is being probed
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

// isDown reports whether a server is known not to reply.
func (s *Store) isDown() bool {
	return slices.ContainsFunc(s.topology.all(), func(n *node) bool { return n.down.Load() != nil })
}

// probeKey returns a key without a record, for probes: of a server that replies, where there are
// several.
func (s *Store) probeKey() store.Key {
	k := store.Key{Bucket: "probe", ID: "none"}
	for i := range 64 {
		if n, err := s.topology.route(recordKey(k)); err != nil || n.down.Load() == nil {
			return k
		}
		if !s.where.Cluster {
			break
		}
		k.Firm = fmt.Sprint("probe ", i)
	}
	return store.Key{Bucket: "probe", ID: "none"}
}

// Close closes all connections. Concurrent calls may return store.ErrUnavailable; later calls of
// any method do. A second Close does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.end()
	err := s.topology.close()
	s.tasks.Wait()
	return err
}

// setUp checks that the server is usable.
func (s *Store) setUp(ctx context.Context) error {
	err := s.reach(ctx)
	if mode := s.mode(ctx); mode != "" && (mode == "cluster") != s.where.Cluster || mode == "sentinel" {
		return settingsError{wrongMode(mode)}
	}
	if err != nil {
		return s.explain(err)
	}
	// Every command of the operations, on a test record: if the server's user lacks a permission, a
	// script would otherwise fail half done.
	k := s.probeKey()
	k.ID = rand.Text()
	for end := time.Now().Add(startTime); ; { // replicas may be just starting
		err = s.Apply(ctx, store.Put(k, nil, s.clock().Add(time.Minute)))
		if !errors.Is(err, ErrFewReplicas) || time.Now().After(end) {
			break
		}
	}
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

// startTime is how long setUp waits for servers that are just starting.
const startTime = 2 * time.Second

// reach sends the first request, and waits a little for a server that is just starting.
func (s *Store) reach(ctx context.Context) error {
	for end := time.Now().Add(startTime); ; {
		_, err := s.Get(ctx, s.probeKey())
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
	return errors.Is(err, ErrSettings) || foreign || plain || slices.Contains([]string{"WRONGPASS", "NOAUTH", "NOPERM", "MOVED", "CROSSSLOT"}, kind) ||
		strings.Contains(says, "unknown command") || strings.Contains(says, "DB index")
}

// mode returns the kind of server, such as "standalone", "cluster" or "sentinel"; "" if unknown. A
// cluster node may reply to every request until its slots move.
func (s *Store) mode(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	n, err := s.topology.route(recordKey(s.probeKey()))
	if err != nil || n.down.Load() != nil {
		return ""
	}
	info, err := n.client.Load().Info(ctx, "server").Result()
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

// wrongMode returns the error for a server in a mode that the address doesn't say.
func wrongMode(mode string) error {
	switch mode {
	case "cluster":
		return errors.New("this is a node of a Redis Cluster, whose slots may move to another node; write \"store redis cluster HOST:PORT HOST:PORT …\", with some of its nodes")
	case "sentinel":
		return errors.New("this is a Sentinel, which holds no data; write \"store redis sentinel NAME HOST:PORT HOST:PORT …\", with all Sentinels and the name by which they know the server")
	case "standalone":
		return errors.New("this Redis server is no node of a Cluster; write \"store redis redis://HOST:6379/0\" for one server")
	}
	return fmt.Errorf("this is a Redis server in the mode %q; write the address of a standalone server, of Sentinels or of a Cluster", mode)
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
		return fmt.Errorf("%w: write \"tls { ca FILE }\" with the certificate of its authority, or put that where this system looks for it (on Debian /usr/local/share/ca-certificates/NAME.crt, then run update-ca-certificates), and restart Caddy", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w: write the name that its certificate is for, in rediss:// or as \"server_name\" in tls", err)
	case plain:
		return fmt.Errorf("%w: the server doesn't speak TLS on this port; write redis:// instead of rediss:// and remove tls, or give its TLS port", err)
	case s.encrypts() && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: if the server doesn't speak TLS on this port, write redis:// instead of rediss:// and remove tls", err)
	case !s.encrypts() && !strings.HasPrefix(s.where.URL, "unix:") && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		return fmt.Errorf("%w: if the server wants TLS on this port, write rediss:// instead of redis://, or \"tls\" in the block", err)
	}
	switch kindOf(err) {
	case "MOVED", "CROSSSLOT":
		return fmt.Errorf("%w: %w", wrongMode("cluster"), err)
	case "CLUSTERDOWN":
		return fmt.Errorf("%w: a part of the Cluster has no server that replies; with \"cluster-require-full-coverage no\" on each node the others go on meanwhile", err)
	case "WRONGPASS", "NOAUTH":
		return fmt.Errorf("%w: check username and password", err)
	case "NOPERM":
		return fmt.Errorf("%w: give the user: ~%s* &%[2]s* +@read +@write +@scripting +@pubsub +@connection +info +time%s", err, keyPrefix, s.morePermissions())
	case "READONLY":
		return fmt.Errorf("%w: this server is a replica; give the address of the master", err)
	default:
		return err
	}
}

func (s *Store) morePermissions() string {
	if s.where.Cluster {
		return " +cluster|info +cluster|slots"
	}
	return ""
}

func (s *Store) encrypts() bool { return s.where.TLS || strings.HasPrefix(s.where.URL, "rediss:") }

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
	for _, n := range s.topology.all() {
		s.warnAboutNode(ctx, n)
	}
}

func (s *Store) warnAboutNode(ctx context.Context, n *node) {
	if n.down.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	info, err := n.client.Load().Info(ctx).Result()
	if err != nil {
		s.log.Debug("settings of the Redis server cannot be read", "address", n.name(), "error", err)
		return
	}
	settings := map[string]string{}
	for line := range strings.Lines(info) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			settings[name] = value
		}
	}
	if policy := settings["maxmemory_policy"]; policy != "" && policy != "noeviction" {
		s.log.Warn("the Redis server deletes records when its memory is full, so visitors would be signed out and contacts lost; set maxmemory-policy noeviction", "address", n.name(), "maxmemory_policy", policy)
	}
	if settings["aof_enabled"] == "0" {
		s.log.Warn("the Redis server loses changes since its last snapshot when it stops; set appendonly yes", "address", n.name())
	}
}
