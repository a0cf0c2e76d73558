// Package anchor notices when a store isn't the one that it was: new, emptied, older, or
// another one. What closes access must not be undone by losing data, so until an operator
// says otherwise such a store answers nothing.
//
// Two records of each firm lie in the store: its identity, which is made once, and a beat
// that counts up whenever something has changed. A file outside the store, the anchor,
// holds what this machine saw last: the identity, the beat, which companies' old links ask
// for sign-in, and which secrets the records still need. All of it is sealed with the
// secret.
//
// A Store stands between a firm and its records. It answers ErrUntrusted, which is a
// store.ErrUnavailable, while identity or beat contradict the anchor. Every Apply requires
// the identity in the same step, and an absent record counts as absent only once the
// identity has been found after it, so an emptied store gets nothing and says nothing.
// A store whose contents went back is noticed within CheckEvery, and at every start.
//
// The limits: whoever can write to the store may put single old records back beside a new
// beat, which the anchor can't tell. A store that may lose what it has acknowledged (Redis,
// by a failover or a power failure) may be behind by Lag.
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

// CheckEvery is how often a Store looks whether it is still the one it was.
const CheckEvery = time.Second

// ErrUntrusted: the store contradicts the anchor, or couldn't be compared with it yet.
var ErrUntrusted = fmt.Errorf("the store isn't trusted: %w", store.ErrUnavailable)

// Options are what Open needs.
type Options struct {
	Firm  string
	Store store.Store // with the records of all firms
	Place string      // where that is, as operators know it
	Dir   string      // the folder of the anchors, made when needed
	Keys  *secret.Keyring
	Lag   time.Duration // how long a store may lose again what it has acknowledged; 0: it never does
	Quiet bool          // another store is in use; see Speak
	Now   func() time.Time
	Log   *slog.Logger
}

// Store is a store.Store for one firm that answers only as long as it is the one that the
// anchor describes. It is safe for use by many goroutines. Close it before the store
// within.
type Store struct {
	store.Store

	firm, place, dir string
	lag              time.Duration
	now              func() time.Time
	log              *slog.Logger
	keys             atomic.Pointer[secret.Keyring]

	lost     atomic.Pointer[Loss]                    // nil: trusted
	identity atomic.Pointer[sealed.Record[identity]] // as last read
	closed   atomic.Pointer[Closed]                  // what the anchor says of old links
	doubt    atomic.Bool                             // the store was away: check before the next answer
	changed  atomic.Bool                             // something was applied since the last beat
	checks   checks
	trusted  atomic.Pointer[chan struct{}] // closed when the store is trusted again

	mu         sync.Mutex // guards what follows, and the files
	anchor     anchor
	written    *written          // nil: nothing yet
	unsaved    error             // why the anchor couldn't be written last time
	quiet      bool              // another store is in use, and the anchor describes that one
	closedLost bool              // what the anchor said of old links can't be read any more
	sighted    []sighting        // beats, the oldest first
	latest     beat              // the one with the highest count
	behind     uint64            // count of a beat behind it that the last look has met; 0: none
	rekeyed    time.Time         // when the secrets were set
	seals      map[string]uint64 // of the latest beat
	apart      time.Time         // when another process was last seen to seal with another secret
	parted     time.Time         // when that began
	saidApart  time.Time         // when operators were last told of it
	said       time.Time         // when operators were last told of the loss
	stopping   context.CancelFunc
	running    sync.WaitGroup
}

// sighting is a beat and when it was seen.
type sighting struct {
	at   time.Time
	beat uint64
}

// Reason is why a store isn't trusted.
type Reason string

// The reasons.
const (
	Unread   Reason = "unread"   // it hasn't answered yet
	Empty    Reason = "empty"    // it has no records of the firm
	Other    Reason = "other"    // it is another store
	Older    Reason = "older"    // it is what it was at an earlier time
	Moved    Reason = "moved"    // its file is gone, or another file has its name
	Sealed   Reason = "sealed"   // its identity was sealed with another secret
	Restored Reason = "restored" // an operator put a copy back, and the gate hasn't taken it over yet
	Settling Reason = "settling" // it is being accepted, or that came to no end
	Damaged  Reason = "damaged"  // it is the anchor that can't be read
)

// Loss is why a store isn't trusted, for operators.
type Loss struct {
	Reason Reason    `json:"reason"`
	Since  time.Time `json:"since"`
	What   string    `json:"what"` // what happened, in a sentence
	Do     string    `json:"do"`   // what to do about it

	err error // of the store, where it couldn't be read
}

// Error returns what happened and what to do.
func (l *Loss) Error() string { return l.What + "; " + l.Do }

// Unwrap lets errors.Is find ErrUntrusted, and what the store said.
func (l *Loss) Unwrap() []error {
	if l.err != nil {
		return []error{ErrUntrusted, l.err}
	}
	return []error{ErrUntrusted}
}

// Open reads the anchor and compares the store with it. A store that contradicts the
// anchor, or that can't be reached yet, is no error: the Store answers ErrUntrusted and
// goes on looking. An error that wraps secret.ErrSealed means that the anchor or the store
// needs a secret which isn't among the keys; nothing was changed.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{
		Store: o.Store, firm: o.Firm, place: o.Place, dir: o.Dir, lag: o.Lag, now: o.Now, log: o.Log, quiet: o.Quiet,
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
	if err := s.look(ctx); errors.Is(err, secret.ErrSealed) { // else it is looked at again
		return err
	}
	return nil
}

// Hush has the Store write no anchor any more, since another store is in use from now on. What
// still uses this one goes on.
func (s *Store) Hush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = true
}

// Speak has the Store write the anchor from now on: its store is the one that is in use.
func (s *Store) Speak() {
	s.mu.Lock()
	was := s.quiet
	if s.quiet = false; was {
		s.written = nil // whatever is in the files, it isn't of this Store
	}
	s.mu.Unlock()
	if was && s.Err() == nil {
		s.save()
	}
}

// Return compares the store with the anchor once more if another one was in use meanwhile, before
// this one may come back into use. Its error wraps secret.ErrSealed.
func (s *Store) Return(ctx context.Context, keys *secret.Keyring) error {
	s.mu.Lock()
	quiet := s.quiet
	if quiet {
		s.keys.Store(s.keys.Load().With(keys))
		s.sighted, s.latest, s.seals, s.behind = nil, beat{}, nil, 0
	}
	s.mu.Unlock()
	if !quiet {
		return nil
	}
	return s.begin(ctx)
}

// Close ends the looking, and writes what it saw last.
func (s *Store) Close() error {
	s.stopping()
	s.running.Wait()
	return nil
}

// CheckKeys returns an error that wraps secret.ErrSealed where the records need a secret that
// isn't among the keys. It changes no keys.
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
	return nil // a store that can't be reached is asked again
}

// SetKeys brings the secrets of a configuration that has taken the place of another: they
// seal from now on. An error that wraps secret.ErrSealed: the records need one that isn't
// among them; nothing was changed.
func (s *Store) SetKeys(ctx context.Context, keys *secret.Keyring) error {
	if slices.Equal(s.keys.Load().IDs(), keys.IDs()) {
		return nil
	}
	if err := s.CheckKeys(ctx, keys); err != nil {
		return err
	}
	s.keys.Store(keys)
	s.mu.Lock()
	s.rekeyed, s.seals, s.apart = s.now(), nil, time.Time{}
	s.mu.Unlock()
	_ = s.look(ctx) // a store that can't be reached is asked again
	return nil
}

// Err returns nil while the store is trusted, else a *Loss, which is an ErrUntrusted.
func (s *Store) Err() error {
	if s == nil {
		return nil
	}
	if l := s.lost.Load(); l != nil {
		return l
	}
	return nil
}

// Trusted returns a channel that is closed as soon as the store is trusted after it wasn't.
// It may be another store by then, so what was read before counts no more.
func (s *Store) Trusted() <-chan struct{} { return *s.trusted.Load() }

// trust has the store trusted, and reports whether it wasn't.
func (s *Store) trust() bool {
	if s.lost.Swap(nil) == nil {
		return false
	}
	close(*s.trusted.Swap(new(make(chan struct{}))))
	return true
}

// Closed returns what the anchor says of old links: they ask for sign-in, whatever the
// store says.
func (s *Store) Closed() *Closed {
	if s == nil {
		return new(Closed)
	}
	return s.closed.Load()
}

// watch looks at the store until ctx ends, beats when something has changed, and keeps the
// anchor up to both.
func (s *Store) watch(ctx context.Context) {
	tick := time.NewTicker(CheckEvery)
	defer tick.Stop()
	for {
		if s.look(ctx) == nil && s.Err() == nil {
			if s.changed.Load() || s.lag > 0 && s.Status().Behind > 0 { // others have to know which secret seals here
				_ = s.beat(ctx) // else the next one will do
			}
			s.save()
			s.tellApart()
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
