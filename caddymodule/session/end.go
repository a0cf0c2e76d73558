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

// End ends one session; the next request with its cookie is signed out, and its
// requests in flight are cancelled.
func (s *Sessions) End(ctx context.Context, contact, id string) error {
	e := Ending{ids: []string{id}}
	err := retry(ctx, func() (err error) {
		if e.Ops, err = s.endingOne(ctx, contact, id); err == nil {
			err = s.Store.Apply(ctx, e.Ops...)
		}
		return err
	})
	s.Ended(ctx, e, err)
	return err
}

// retry calls try again while another session of the contact begins or ends meanwhile.
func retry(ctx context.Context, try func() error) (err error) {
	for n := range 16 {
		if err = try(); !errors.Is(err, store.ErrConflict) {
			return err
		}
		select { // those who meet at one roster would meet again; at random times all get through
		case <-time.After(rand.N(time.Millisecond * time.Duration(1+n))):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
	return err
}

func (s *Sessions) endingOne(ctx context.Context, contact, id string) ([]store.Op, error) {
	listed, err := s.strike(ctx, contact, id)
	if err != nil {
		return nil, err
	}
	told, err := s.news(id)
	return slices.Concat([]store.Op{s.records().Delete(id)}, listed, told), err
}

// strike returns the Ops that take a session from its contact's roster; none where it isn't
// on it.
func (s *Sessions) strike(ctx context.Context, contact, id string) ([]store.Op, error) {
	was, err := s.roster(ctx, contact)
	if err != nil || was.Value.find(id) < 0 {
		return nil, err
	}
	return s.write(was, was.Value.without(id))
}

// EndEverybody ends the sessions of all contacts, a few at a time, and returns how many
// there were.
func (s *Sessions) EndEverybody(ctx context.Context) (n int, err error) {
	for _, b := range []string{sessionBucket, rosterBucket} {
		gone, err := store.Clear(ctx, s.Store, s.Firm, b)
		if n = max(n, gone); err != nil {
			return n, fmt.Errorf("ending all sessions: %w", err)
		}
	}
	s.Reread()
	return n, nil
}

// Reread has the store asked about every session once more: it may be another store.
func (s *Sessions) Reread() { s.memory().rereadAll() }

// Ending is the end of sessions, which comes as soon as its Ops are applied.
type Ending struct {
	Ops    []store.Op
	Count  int // how many sessions of the contact end
	ids    []string
	spared string
	now    uint64 // the contact's generation afterwards
}

// Ending makes the end of every session of a contact but the one with the ID except ("":
// none is spared), for a caller who applies its Ops together with those that give the
// contact the generation, and then calls Ended. store.ErrConflict, here or of the Ops,
// means that a session of the contact has begun, ended, or been seen meanwhile, or that the
// one to spare isn't there any more.
func (s *Sessions) Ending(ctx context.Context, contact, except string, generation uint64) (Ending, error) {
	e := Ending{spared: except, now: generation}
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
	listed, err := s.write(was, now)
	if err != nil {
		return Ending{}, err
	}
	told, err := s.news(e.ids...)
	e.Ops = slices.Concat(e.Ops, listed, told)
	return e, err
}

// Ended tells the Sessions what came of applying the Ops: nil, or the store's error.
func (s *Sessions) Ended(ctx context.Context, e Ending, err error) {
	if k, ok := parseKey(e.spared); ok && err == nil {
		if l := s.memory().find(k); l != nil {
			l.generation.Store(e.now)
		}
	}
	if len(e.ids) == 0 {
		return
	}
	if err != nil {
		// They may be gone all the same: let the store say so, not memory.
		for _, id := range e.ids {
			s.memory().reread(id)
		}
		return
	}
	s.memory().forget(e.ids...)
	s.Others.Changed(ctx)
}

// Confirm returns nil if the session goes on while its contact is of the generation, else
// ErrNone, or the store's error. It asks the store only where memory says that it doesn't.
func (s *Sessions) Confirm(ctx context.Context, l *Live, generation uint64) error {
	if l.generation.Load() == generation {
		return nil
	}
	as, err := s.read(ctx, l.ID)
	if err == nil && as.Generation != generation {
		err = ErrNone
	}
	if errors.Is(err, ErrNone) {
		s.memory().forget(l.ID)
		l.end() // also where another Live is in memory for it
	} else if err == nil {
		l.generation.Store(generation)
	}
	return err
}

// List returns the sessions of a contact who is of the generation, the latest sign-in first.
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
			if l := s.memory().find(k); l != nil { // memory knows the last request better
				as.Seen = time.Unix(0, l.seen.Load()).UTC()
			}
		}
		all = append(all, as)
	}
	return all, nil
}
