// Package anchor notices when a store is no longer the same: new, emptied, older, or another one.
// Losing data must not undo a decision to close access, so such a store answers nothing until an
// operator decides.
//
// The store contains two records for each firm: its identity, created once, and a beat, which
// counts up after changes. A file outside the store, the anchor, contains what this machine saw
// last: the identity, the beat, which companies' old links require sign-in, and which secrets the
// records still need. All of it is sealed.
//
// A Store wraps the store of a firm. While identity or beat contradict the anchor, it returns
// ErrUntrusted, which is a store.ErrUnavailable. Every Apply requires the identity in the same
// transaction, and a missing record counts as missing only after the identity has been read again,
// so an emptied store gets no writes and returns no wrong answers. A store with older contents is
// noticed within CheckEvery, and at every start.
//
// Limits: an attacker who can write to the store may restore single old records together with the
// current beat, which the anchor can't notice. A store that may lose acknowledged changes (Redis,
// after a failover or a power failure) may be behind by Lag.
//
// Read Store.check first.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// CheckEvery is the interval at which a Store checks its store.
const CheckEvery = time.Second

// ErrUntrusted: the store contradicts the anchor, or couldn't be compared with it yet.
var ErrUntrusted = fmt.Errorf("the store isn't trusted: %w", store.ErrUnavailable)

type Options struct {
	Firm      string
	Store     store.Store // with the records of all firms
	DSN       string      // address of the store for operators
	Dir       string      // folder of the anchors, created when needed
	Keys      *secret.Keyring
	Lag       time.Duration // how long the store may lose acknowledged changes; 0: it never does
	Suspended bool          // another store is in use; see Resume
	Now       func() time.Time
	Log       *slog.Logger
}

// Store is a store.Store for one firm that answers only while it matches the anchor. It is safe
// for concurrent use. Close it before the wrapped store.
type Store struct {
	store.Store

	firm, place, dir string
	lag              time.Duration
	now              func() time.Time
	log              *slog.Logger
	keys             atomic.Pointer[secret.Keyring]

	lost       atomic.Pointer[Loss]                    // nil: trusted
	identity   atomic.Pointer[sealed.Record[identity]] // as last read
	closed     atomic.Pointer[Closed]                  // old links according to the anchor
	unverified atomic.Bool                             // the store was unavailable: check before the next answer
	changed    atomic.Bool                             // changes were applied since the last beat
	checks     checks
	trusted    atomic.Pointer[chan struct{}] // closed when the store is trusted again

	mu          sync.Mutex // guards the fields below, and the files
	anchor      anchor
	written     *written          // nil: nothing yet
	saveErr     error             // last error of writing the anchor
	suspended   bool              // another store is in use, and the anchor describes that one
	closedLost  bool              // the anchor's file about old links is unreadable
	observed    []observation     // beats, the oldest first
	latest      beat              // the one with the highest count
	staleBeat   uint64            // count of an older beat that the last check read; 0: none
	rekeyed     time.Time         // when the keys were set
	seals       map[string]uint64 // of the latest beat
	lastApart   time.Time         // last time another process sealed with another secret
	apartSince  time.Time         // when that began
	apartLogged time.Time         // last log line about it
	lossLogged  time.Time         // last log line about the loss
	stopping    context.CancelFunc
	running     sync.WaitGroup
}

// observation is a beat and when it was read.
type observation struct {
	at   time.Time
	beat uint64
}

// Reason is why a store isn't trusted.
type Reason string

const (
	Unread   Reason = "unread"   // it hasn't answered yet
	Empty    Reason = "empty"    // it has no records of the firm
	Other    Reason = "other"    // it is another store
	Older    Reason = "older"    // its contents are older
	Moved    Reason = "moved"    // its file is gone or was replaced
	Sealed   Reason = "sealed"   // its identity was sealed with another secret
	Restored Reason = "restored" // an operator restored a copy, and the gate hasn't accepted it yet
	Settling Reason = "settling" // it is being accepted, or that was interrupted
	Damaged  Reason = "damaged"  // the anchor itself is unreadable
)

// Loss tells operators why a store isn't trusted.
type Loss struct {
	Reason Reason    `json:"reason"`
	Since  time.Time `json:"since"`
	What   string    `json:"what"` // what happened, in a sentence
	Do     string    `json:"do"`   // what to do about it

	err error // of the store, if it couldn't be read
}

// Error returns what happened and what to do.
func (l *Loss) Error() string { return l.What + "; " + l.Do }

// Unwrap lets errors.Is find ErrUntrusted and the store's error.
func (l *Loss) Unwrap() []error {
	if l.err != nil {
		return []error{ErrUntrusted, l.err}
	}
	return []error{ErrUntrusted}
}

// Open reads the anchor and compares the store with it. If the store contradicts the anchor or is
// unreachable, Open returns no error: the Store returns ErrUntrusted and keeps checking. An error
// that wraps secret.ErrSealed means that the anchor or the store needs a secret that isn't among
// the keys; nothing was changed.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{
		Store: o.Store, firm: o.Firm, place: o.DSN, dir: o.Dir, lag: o.Lag, now: o.Now, log: o.Log, suspended: o.Suspended,
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.keys.Store(o.Keys)
	s.rekeyed = s.now()
	s.closed.Store(new(Closed))
	s.trusted.Store(new(make(chan struct{})))
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	if s.Err() == nil {
		_ = s.beat(ctx) // so that a copy from before this start is older
		s.save()
	}
	ctx, s.stopping = context.WithCancel(context.Background())
	s.running.Go(func() { s.watch(ctx) })
	return s, nil
}

// begin reads the anchor and compares the store with it. Its error wraps secret.ErrSealed.
func (s *Store) begin(ctx context.Context) error {
	s.lost.Store(&Loss{Reason: Unread, Since: s.now(), What: "the store hasn't answered yet", Do: "wait, or see the log"})
	if err := s.read(); err != nil {
		return err
	}
	if err := s.checkShared(ctx); errors.Is(err, secret.ErrSealed) { // other errors: it is checked again
		return err
	}
	return nil
}

// Suspend stops writing the anchor, because another store is in use from now on. Callers that
// still use this one can continue.
func (s *Store) Suspend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suspended = true
}

// Resume writes the anchor from now on, because this store is in use.
func (s *Store) Resume() {
	s.mu.Lock()
	was := s.suspended
	if s.suspended = false; was {
		s.written = nil // the files describe another store
	}
	s.mu.Unlock()
	if was && s.Err() == nil {
		s.save()
	}
}

// Recheck compares the store with the anchor again if another store was in use meanwhile. Call it
// before this one is used again. Its error wraps secret.ErrSealed.
func (s *Store) Recheck(ctx context.Context, keys *secret.Keyring) error {
	s.mu.Lock()
	quiet := s.suspended
	if quiet {
		s.keys.Store(s.keys.Load().With(keys))
		s.observed, s.latest, s.seals, s.staleBeat = nil, beat{}, nil, 0
	}
	s.mu.Unlock()
	if !quiet {
		return nil
	}
	return s.begin(ctx)
}

// Close stops checking, and writes the anchor.
func (s *Store) Close() error {
	s.stopping()
	s.running.Wait()
	return nil
}

// CheckKeys returns an error that wraps secret.ErrSealed if the records need a secret that isn't
// among the keys. It doesn't change the Store's keys.
func (s *Store) CheckKeys(ctx context.Context, keys *secret.Keyring) error {
	if slices.Equal(s.keys.Load().IDs(), keys.IDs()) {
		return nil
	}
	s.mu.Lock()
	err := s.lacking(keys, s.anchor.Keys)
	s.mu.Unlock()
	if err == nil {
		_, err = s.compare(ctx, keys)
	}
	if errors.Is(err, secret.ErrSealed) {
		return err
	}
	return nil // an unreachable store is checked again
}

// SetKeys sets the secrets of a new configuration, which seal from now on. An error that wraps
// secret.ErrSealed means that the records need a secret that isn't among them; nothing was
// changed.
func (s *Store) SetKeys(ctx context.Context, keys *secret.Keyring) error {
	if slices.Equal(s.keys.Load().IDs(), keys.IDs()) {
		return nil
	}
	if err := s.CheckKeys(ctx, keys); err != nil {
		return err
	}
	s.keys.Store(keys)
	s.mu.Lock()
	s.rekeyed, s.seals, s.lastApart = s.now(), nil, time.Time{}
	s.mu.Unlock()
	_ = s.checkShared(ctx) // an unreachable store is checked again
	return nil
}

// Err returns nil while the store is trusted, otherwise a *Loss, which is an ErrUntrusted.
func (s *Store) Err() error {
	if s == nil {
		return nil
	}
	if l := s.lost.Load(); l != nil {
		return l
	}
	return nil
}

// Trusted returns a channel that is closed when the store becomes trusted again. It may be another
// store then, so values in memory are invalid.
func (s *Store) Trusted() <-chan struct{} { return *s.trusted.Load() }

// setTrusted marks the store as trusted, and reports whether it wasn't.
func (s *Store) setTrusted() bool {
	if s.lost.Swap(nil) == nil {
		return false
	}
	close(*s.trusted.Swap(new(make(chan struct{}))))
	return true
}

// Closed returns the companies whose old links require sign-in according to the anchor, whatever
// the store contains.
func (s *Store) Closed() *Closed {
	if s == nil {
		return new(Closed)
	}
	return s.closed.Load()
}

// watch checks the store until ctx ends, writes a beat after changes, and keeps the anchor up to
// date.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTicker(CheckEvery)
	defer tick.Stop()
	for {
		if s.checkShared(ctx) == nil && s.Err() == nil {
			if s.changed.Load() || s.lag > 0 && s.Status().Behind > 0 { // others must know which secret seals here
				_ = s.beat(ctx) // retried at the next tick
			}
			s.save()
			s.logApart()
		}
		select {
		case <-ctx.Done():
			if s.Err() == nil {
				_ = s.beat(context.WithoutCancel(ctx))
				s.save()
			}
			return
		case <-tick.C:
		}
	}
}
