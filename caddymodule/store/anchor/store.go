package anchor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// settling is the context key of Settle.
type settling struct{}

func (s *Store) settles(ctx context.Context) bool { return ctx.Value(settling{}) == s }

// ready returns an error unless the store is trusted, or ctx is Settle's.
func (s *Store) ready(ctx context.Context) error {
	if s.settles(ctx) {
		return nil
	}
	if s.unverified.Load() {
		if err := s.checkShared(ctx); err != nil {
			return err
		}
	}
	return s.Err()
}

// verify returns err, a result of the store, or an error if the store can't be trusted: a missing
// record counts only in the right store.
func (s *Store) verify(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrUnavailable):
		s.unverified.Store(true) // it may be another store when it returns
		return err
	case err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrConflict), s.settles(ctx):
		return err
	}
	if failed := s.checkShared(ctx); failed != nil {
		return failed
	}
	if lost := s.ready(ctx); lost != nil {
		return lost
	}
	return err
}

// evenly is the context key of Evenly.
type evenly struct{}

// Evenly returns a context with which Get and Scan make the same number of store calls whether or
// not a record exists, for callers whose time must not reveal it.
func Evenly(ctx context.Context) context.Context { return context.WithValue(ctx, evenly{}, true) }

func isEvenly(ctx context.Context) bool { return ctx.Value(evenly{}) != nil }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := s.ready(ctx); err != nil {
		return store.Record{}, err
	}
	rec, err := s.Store.Get(ctx, k)
	if err != nil || isEvenly(ctx) {
		err = s.verify(ctx, err)
	}
	return rec, err
}

// Scan implements store.Store.
func (s *Store) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	recs, err := s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
	if err != nil || len(recs) == 0 || isEvenly(ctx) {
		err = s.verify(ctx, err)
	}
	if err != nil {
		return nil, err
	}
	return recs, nil
}

// Apply implements store.Store. It requires the identity.
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
		err = s.verify(ctx, err)
		if !errors.Is(err, store.ErrConflict) || s.identity.Load() == id || tries == 3 {
			return err
		}
		// The identity was sealed again meanwhile, which may be the only conflict.
	}
}

var _ store.Store = (*Store)(nil)

// Note writes to the anchor which companies' old links require sign-in, with the directory's Mark.
// When Note returns, it is durable. Note ignores a Closed older than the anchor's, unless it is
// zero or the anchor is Beside.
func (s *Store) Note(c Closed) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was := s.closed.Load(); c.Mark != 0 && c.Mark < was.Mark && !was.Beside {
		return nil
	}
	s.closed.Store(&c)
	s.closedLost = false
	if s.suspended {
		return nil
	}
	err := s.writeFile(s.closedPath(), &c)
	s.logSaveErr(err)
	return err
}

// Restored reports whether a copy was restored that the gate hasn't accepted yet, with the
// operator's decision.
func (s *Store) Restored() (r Restore, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.anchor.Restored == nil {
		return r, false
	}
	return *s.anchor.Restored, true
}

// Accept accepts the store, whatever it was before, for every machine that has the secret and knew
// one of the two stores. First it calls settle to bring the store into a valid state; until then
// only calls with settle's context are answered. With reopen, anchors forget about old links;
// without it, or if the anchor about them is unreadable, all old links require sign-in. An
// ErrUntrusted means that the store can't be accepted as it is. After any error or interruption, no
// machine trusts the store.
func (s *Store) Accept(ctx context.Context, reopen bool, settle func(context.Context) error) error {
	s.checks.turn.Lock() // no concurrent checks
	defer s.checks.turn.Unlock()
	if l := s.lost.Load(); l != nil && (l.Reason == Unread || l.Reason == Moved || l.Reason == Sealed) {
		return l
	}
	s.lost.CompareAndSwap(nil, s.loss(Restored, "wait a moment", "it is being taken over"))
	ids := s.identities(s.keys.Load())
	was, err := ids.Get(ctx, recordID)
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
	s.setTrusted()
	s.log.Warn("store accepted", "store", s.place)
	return nil
}

// identify replaces the identity, and returns the new record.
func (s *Store) identify(ctx context.Context, was sealed.Record[identity], next identity) (sealed.Record[identity], error) {
	ids := s.identities(s.keys.Load())
	op, err := ids.Write(was, next, time.Time{})
	if err == nil {
		err = s.Store.Apply(ctx, op)
	}
	if err == nil {
		was, err = ids.Get(ctx, recordID)
	}
	if err == nil {
		s.identity.Store(&was)
	}
	return was, err
}

// Status is the state of a Store for operators.
type Status struct {
	DSN     string
	Path    string    // of the anchor
	Loss    *Loss     // nil: the store is trusted
	Unsaved error     // last error of writing the anchor
	Beat    time.Time // the last observed change
	Closed  Closed
	Behind  int    // number of secrets besides the newest that records may still be sealed with
	Apart   string // what to do if another machine seals with another secret; "": none does
}

// Status returns the state of the store.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{DSN: s.place, Path: s.path(), Loss: s.lost.Load(), Unsaved: s.saveErr, Beat: s.anchor.At, Closed: *s.closed.Load()}
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

// Behind reports whether it is time to Reseal: records may be sealed with older secrets, and as far
// as is known no other machine still seals with another one.
func (s *Store) Behind() bool {
	st := s.Status()
	return st.Loss == nil && st.Behind > 0 && st.Apart == "" && s.keysSettled()
}

// keysSettled reports whether the keys haven't changed for settleTime.
func (s *Store) keysSettled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now().Sub(s.rekeyed) >= s.settleTime()
}

// Reseal calls reseal to seal all other records of the firm with the newest secret, and then
// records that no older one is needed. It returns store.ErrConflict if another machine seals with
// another secret meanwhile.
func (s *Store) Reseal(ctx context.Context, reseal func(context.Context) error) error {
	keys := s.keys.Load()
	if err := reseal(ctx); err != nil {
		return err
	}
	if _, err := s.identities(keys).Reseal(ctx); err != nil {
		return err
	}
	if err := s.checkShared(ctx); err != nil { // its value has changed
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
