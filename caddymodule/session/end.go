package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// End ends one session; the next request with its cookie is signed out, and its
// requests in flight are cancelled.
func (s *Sessions) End(ctx context.Context, contact, id string) error {
	return s.end(ctx, contact, id)
}

// EndAll ends every session of a contact but the one with the ID except ("": none
// is spared), all at once, and returns how many ended.
func (s *Sessions) EndAll(ctx context.Context, contact, except string) (int, error) {
	all, err := s.List(ctx, contact)
	if err != nil {
		return 0, err
	}
	var ids []string
	for _, one := range all {
		if one.ID != except {
			ids = append(ids, one.ID)
		}
	}
	if len(ids) == 0 {
		return 0, nil
	}
	return len(ids), s.end(ctx, contact, ids...)
}

func (s *Sessions) end(ctx context.Context, contact string, ids ...string) error {
	e := s.ending(contact, ids)
	err := s.Store.Apply(ctx, e.Ops...)
	s.Ended(ctx, e, err)
	return err
}

// Ending is the end of sessions, which comes as soon as its Ops are applied.
type Ending struct {
	Ops []store.Op
	ids []string
}

// Ending makes the end of every session of a contact but the one with the ID except ("":
// none is spared), for who applies its Ops together with something else, and then calls
// Ended.
func (s *Sessions) Ending(ctx context.Context, contact, except string) (Ending, error) {
	index, err := s.index(ctx, contact)
	if err != nil {
		return Ending{}, err
	}
	var ids []string
	for _, e := range index {
		if e.id != except {
			ids = append(ids, e.id)
		}
	}
	return s.ending(contact, ids), nil
}

func (s *Sessions) ending(contact string, ids []string) Ending {
	e := Ending{ids: ids}
	for _, id := range ids {
		e.Ops = append(e.Ops, s.deletes(contact, id)...)
	}
	e.Ops = append(e.Ops, s.news(ids...)...)
	return e
}

// Ended tells the Sessions what came of applying the Ops: nil, or the store's error.
func (s *Sessions) Ended(ctx context.Context, e Ending, err error) {
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

// List returns the sessions of a contact, the latest sign-in first.
func (s *Sessions) List(ctx context.Context, contact string) ([]Session, error) {
	index, err := s.index(ctx, contact)
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, e := range slices.Backward(index) {
		as, err := s.read(ctx, e.id)
		if errors.Is(err, ErrNone) {
			continue
		} else if err != nil {
			return nil, err
		}
		if k, ok := parseKey(e.id); ok {
			if l := s.memory().find(k); l != nil { // memory knows the last request better
				as.Seen = time.Unix(0, l.seen.Load()).UTC()
			}
		}
		all = append(all, as)
	}
	return all, nil
}

// Alive returns an Op that is a store.ErrConflict once the session has ended, or has been
// written again. Where it has ended already, that is the error.
func (s *Sessions) Alive(ctx context.Context, id string) (store.Op, error) {
	rec, err := s.Store.Get(ctx, s.key(id))
	if errors.Is(err, store.ErrNotFound) {
		err = store.ErrConflict
	}
	return store.Check(s.key(id), rec.Value), err
}
