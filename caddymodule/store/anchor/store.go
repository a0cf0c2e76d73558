package anchor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// settling is the key of a context of Settle's.
type settling struct{}

func (s *Store) settles(ctx context.Context) bool { return ctx.Value(settling{}) == s }

// ready returns an error unless the store is trusted, or ctx is Settle's.
func (s *Store) ready(ctx context.Context) error {
	if s.settles(ctx) {
		return nil
	}
	if s.doubt.Load() {
		if err := s.look(ctx); err != nil {
			return err
		}
	}
	return s.Err()
}

// believe returns err, which the store gave, or the reason to believe nothing that it says:
// an absent record is absent only in the right store.
func (s *Store) believe(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrUnavailable):
		s.doubt.Store(true) // it may come back as another one
		return err
	case err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict), s.settles(ctx):
		return err
	}
	if failed := s.look(ctx); failed != nil {
		return failed
	}
	if lost := s.ready(ctx); lost != nil {
		return lost
	}
	return err
}

// evenly is the key of a context of Evenly's.
type evenly struct{}

// Evenly returns a context with which Get and Scan ask the store the same number of times for a record
// that is there as for one that isn't. It is for callers whose time must not tell which.
func Evenly(ctx context.Context) context.Context { return context.WithValue(ctx, evenly{}, true) }

func isEven(ctx context.Context) bool { return ctx.Value(evenly{}) != nil }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := s.ready(ctx); err != nil {
		return store.Record{}, err
	}
	rec, err := s.Store.Get(ctx, k)
	if err != nil || isEven(ctx) {
		err = s.believe(ctx, err)
	}
	return rec, err
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	recs, err := s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
	if err != nil || len(recs) == 0 || isEven(ctx) {
		err = s.believe(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// Apply implements store.Store. The identity is a condition of it.
func (s *Store) Apply(ctx context.Context, ops ...store.Op) error {
	if err := s.ready(ctx); err != nil || len(ops) == 0 {
		return err
	}
	for tries := 0; ; tries++ {
		id := s.identity.Load()
		err := s.Store.Apply(ctx, append(ops[:len(ops):len(ops)], s.identities(nil).Check(*id))...)
		if err == nil {
			s.changed.Store(true)
			return nil
		}
		err = s.believe(ctx, err)
		if !errors.Is(err, store.ErrConflict) || s.identity.Load() == id || tries == 3 {
			return err
		}
		// The identity has been sealed again meanwhile, which may be all that was in the way.
	}
}

var _ store.Store = (*Store)(nil)

// Note tells the anchor which companies' old links ask for sign-in, as the directory has it
// its Mark. It is written before Note returns. What is older than the anchor is ignored, but
// for the zero Closed, and unless the anchor is Beside.
func (s *Store) Note(c Closed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.closed.Load(); c.Mark != 0 && c.Mark < was.Mark && !was.Beside {
		return nil
	}
	s.closed.Store(&c)
	s.closedLost = false
	if s.quiet {
		return nil
	}
	err := s.writeFile(s.closedPath(), &c)
	s.saved(err)
	return err
}

// Restored reports whether a copy was put back that the gate hasn't taken over yet, and
// what the operator said.
func (s *Store) Restored() (r Restore, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.anchor.Restored == nil {
		return r, false
	}
	return *s.anchor.Restored, true
}

// Settle makes the store the right one from now on, whatever it was before, for every
// machine that has the secret and knew one of the two. Before anybody else is answered, it
// has settle bring the store up to what must hold; settle's context alone gets answers until
// then. With reopen, what the anchors say of old links is forgotten; without, and where that
// can't be read any more, all old links ask for sign-in. An ErrUntrusted says that the store
// can't be taken over as it is; with any error, and if it comes to no end, nobody trusts it.
func (s *Store) Settle(ctx context.Context, reopen bool, settle func(context.Context) error) error {
	s.checks.turn.Lock() // nobody checks meanwhile
	defer s.checks.turn.Unlock()
	if l := s.lost.Load(); l != nil && (l.Reason == Unread || l.Reason == Moved || l.Reason == Sealed) {
		return l
	}
	s.lost.CompareAndSwap(nil, s.loss(Restored, "wait a moment", "it is being taken over"))
	ids := s.identities(s.keys.Load())
	was, err := ids.Get(ctx, only)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	next := was.Value.next(s.known().Store, reopen)
	if was, err = s.identify(ctx, was, next); err != nil {
		return err
	}
	switch {
	case reopen:
		err = s.Note(Closed{})
	case s.lostClosed():
		err = s.Note(Closed{All: true})
	}
	if err == nil {
		err = settle(context.WithValue(ctx, settling{}, s))
	}
	if err != nil {
		return err
	}
	next.Settling = false
	if _, err := s.identify(ctx, was, next); err != nil {
		return err
	}
	s.adopt(next, beat{})
	if err := s.beat(ctx); err != nil {
		return err
	}
	s.save()
	s.trust()
	s.log.Warn("the store was accepted as the one from now on", "store", s.place)
	return nil
}

// identify writes the identity in the place of the one that was read, and returns what is
// there then.
func (s *Store) identify(ctx context.Context, was sealed.Record[identity], next identity) (sealed.Record[identity], error) {
	ids := s.identities(s.keys.Load())
	op, err := ids.Write(was, next, time.Time{})
	if err == nil {
		err = s.Store.Apply(ctx, op)
	}
	if err == nil {
		was, err = ids.Get(ctx, only)
	}
	if err == nil {
		s.identity.Store(&was)
	}
	return was, err
}

// Status is what operators are told of a Store.
type Status struct {
	Place   string
	Path    string    // of the anchor
	Loss    *Loss     // nil: the store is trusted
	Unsaved error     // why the anchor couldn't be written
	Beat    time.Time // the last change that was seen
	Closed  Closed
	Behind  int    // how many secrets behind the newest one records may still be sealed with
	Apart   string // what to do about another machine that seals with another secret; "": none does
}

// Status returns how the store stands.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Place: s.place, Path: s.path(), Loss: s.lost.Load(), Unsaved: s.unsaved, Beat: s.anchor.At, Closed: *s.closed.Load()}
	newest := s.keys.Load().IDs()[0]
	for _, id := range s.anchor.Keys {
		if id != newest {
			st.Behind++
		}
	}
	if s.isApart() {
		st.Apart = putFirst
	}
	return st
}

// Behind reports whether it is time to Reseal: records may be sealed with a secret behind the
// newest one, and no other machine goes on sealing with another one, as far as is known.
func (s *Store) Behind() bool {
	st := s.Status()
	return st.Loss == nil && st.Behind > 0 && st.Apart == "" && s.settled()
}

// settled reports whether the secrets have stood for a while.
func (s *Store) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Sub(s.rekeyed) >= s.settleTime()
}

// Reseal has reseal seal all other records of the firm with the newest secret, and notes
// that no older one is needed any more. It is a store.ErrConflict where another machine turns
// out to seal with another one meanwhile.
func (s *Store) Reseal(ctx context.Context, reseal func(context.Context) error) error {
	keys := s.keys.Load()
	if err := reseal(ctx); err != nil {
		return err
	}
	if _, err := s.identities(keys).Reseal(ctx); err != nil {
		return err
	}
	if err := s.look(ctx); err != nil { // it has another value now
		return err
	}
	if keys != s.keys.Load() {
		return fmt.Errorf("the secrets were changed meanwhile: %w", store.ErrConflict)
	}
	if st := s.Status(); st.Apart != "" {
		return fmt.Errorf("another machine seals with another secret: %w", store.ErrConflict)
	}
	if err := s.setBeat(ctx, func(b *beat) { b.Keys, b.Seals = keys.IDs()[:1], nil }); err != nil {
		return err
	}
	s.save()
	return nil
}
