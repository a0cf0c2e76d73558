package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// End ends one session: its cookie no longer signs in, and its requests in flight are
// canceled.
func (s *Sessions) End(ctx context.Context, contact, id string) error {
	e := Ending{ids: []string{id}}
	err := retry(ctx, func() (err error) {
		if e.Ops, err = s.endOne(ctx, contact, id); err == nil {
			err = s.Store.Apply(ctx, e.Ops...)
		}
		return err
	})
	s.Ended(ctx, e, err)
	return err
}

// retry calls try again while it returns store.ErrConflict, up to 16 times.
func retry(ctx context.Context, try func() error) (err error) {
	for n := range 16 {
		if err = try(); !errors.Is(err, store.ErrConflict) {
			return err
		}
		select { // wait a random time, so that callers that conflict once don't conflict forever
		case <-time.After(rand.N(time.Millisecond * time.Duration(1+n))):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
	return err
}

func (s *Sessions) endOne(ctx context.Context, contact, id string) ([]store.Op, error) {
	listed, err := s.unlist(ctx, contact, id)
	if err != nil {
		return nil, err
	}
	revoked, err := s.announce(id)
	return slices.Concat([]store.Op{s.records().Delete(id)}, listed, revoked), err
}

// unlist returns the Ops that remove a session from its contact's roster. It returns none if
// the session isn't on it.
func (s *Sessions) unlist(ctx context.Context, contact, id string) ([]store.Op, error) {
	was, err := s.roster(ctx, contact)
	if err != nil || was.Value.find(id) < 0 {
		return nil, err
	}
	return s.writeRoster(was, was.Value.without(id))
}

// EndEverybody ends the sessions of all contacts, in batches, and returns how many it ended.
func (s *Sessions) EndEverybody(ctx context.Context) (n int, err error) {
	for _, b := range []string{sessionBucket, rosterBucket} {
		gone, err := store.Clear(ctx, s.Store, s.Firm, b)
		if n = max(n, gone); err != nil {
			return n, fmt.Errorf("end all sessions: %w", err)
		}
	}
	s.EvictAll()
	return n, nil
}

// EvictAll empties the memory, so that every session is read from the store again. Call it
// when the store may have been replaced.
func (s *Sessions) EvictAll() { s.memory().evictAll() }

// Ending ends sessions of a contact. It takes effect when its Ops are applied.
type Ending struct {
	Ops        []store.Op
	Count      int // number of sessions that end
	ids        []string
	spared     string
	generation uint64 // the contact's new generation
}

// Ending prepares to end all sessions of a contact except the one with the ID except ("":
// all). The caller applies the Ops in the transaction that gives the contact the new
// generation, and then calls Ended. If Ending or the store returns store.ErrConflict, a
// session of the contact has begun, ended or been used meanwhile, or the session to spare
// has ended.
func (s *Sessions) Ending(ctx context.Context, contact, except string, generation uint64) (Ending, error) {
	e := Ending{spared: except, generation: generation}
	was, err := s.roster(ctx, contact)
	if err != nil {
		return Ending{}, err
	}
	var now roster
	for _, a := range was.Value.Sessions {
		if a.ID == except {
			now.Sessions = append(now.Sessions, a)
			continue
		}
		e.ids = append(e.ids, a.ID)
		e.Ops = append(e.Ops, s.records().Delete(a.ID))
	}
	e.Count = len(e.ids)
	if except != "" {
		spared, err := s.record(ctx, except)
		if errors.Is(err, ErrNone) || err == nil && (spared.Value.Contact != contact || len(now.Sessions) == 0) {
			return Ending{}, store.ErrConflict
		} else if err != nil {
			return Ending{}, err
		}
		as := spared.Value
		as.Generation = generation
		op, err := s.records().Write(spared, as, s.Ends(as))
		if err != nil {
			return Ending{}, err
		}
		e.Ops = append(e.Ops, op)
	}
	listed, err := s.writeRoster(was, now)
	if err != nil {
		return Ending{}, err
	}
	revoked, err := s.announce(e.ids...)
	e.Ops = slices.Concat(e.Ops, listed, revoked)
	return e, err
}

// Ended updates memory and notifies other processes after the Ops of e were applied. err is
// the store's error, or nil.
func (s *Sessions) Ended(ctx context.Context, e Ending, err error) {
	if k, ok := parseKey(e.spared); ok && err == nil {
		if l := s.memory().find(k); l != nil {
			l.generation.Store(e.generation)
		}
	}
	if len(e.ids) == 0 {
		return
	}
	if err != nil {
		// The sessions may have ended in spite of the error, so read them from the store
		// again.
		for _, id := range e.ids {
			s.memory().evict(id)
		}
		return
	}
	s.memory().revoke(e.ids...)
	s.Peers.NotifyPeers(ctx)
}

// Confirm returns nil if the session is valid for the contact's current generation,
// otherwise ErrNone or the store's error. It reads the store only if memory holds another
// generation.
func (s *Sessions) Confirm(ctx context.Context, l *Cached, generation uint64) error {
	if l.generation.Load() == generation {
		return nil
	}
	as, err := s.read(ctx, l.ID)
	if err == nil && as.Generation != generation {
		err = ErrNone
	}
	if errors.Is(err, ErrNone) {
		s.memory().revoke(l.ID)
		l.end() // l may not be the Live in memory
	} else if err == nil {
		l.generation.Store(generation)
	}
	return err
}

// List returns the sessions of a contact that belong to the generation, the latest sign-in
// first.
func (s *Sessions) List(ctx context.Context, contact string, generation uint64) ([]Session, error) {
	on, err := s.roster(ctx, contact)
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, a := range slices.Backward(on.Value.Sessions) {
		rec, err := s.record(ctx, a.ID)
		if errors.Is(err, ErrNone) || err == nil && (rec.Value.Contact != contact || rec.Value.Generation != generation) {
			continue
		} else if err != nil {
			return nil, err
		}
		as := rec.Value
		if k, ok := parseKey(a.ID); ok {
			if l := s.memory().find(k); l != nil { // memory knows later requests
				as.Seen = time.Unix(0, l.seen.Load()).UTC()
			}
		}
		all = append(all, as)
	}
	return all, nil
}

// SignedIn returns contacts who have sessions, up to limit, in the order of their IDs, beginning after one; the sessions
// may have ended since. next is where to go on, or "".
func (s *Sessions) SignedIn(ctx context.Context, after string, limit int) (contacts []string, next string, err error) {
	recs, err := s.Store.Scan(ctx, s.Firm, rosterBucket, "", after, limit)
	for _, rec := range recs {
		contacts = append(contacts, rec.Key.ID)
	}
	if len(recs) == limit {
		next = contacts[limit-1]
	}
	return contacts, next, err
}
