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
	var ops []store.Op
	for _, id := range ids {
		ops = append(ops, s.deletes(contact, id)...)
	}
	ops = append(ops, s.news(ids...)...)
	if err := s.Store.Apply(ctx, ops...); err != nil {
		// They may be gone all the same: let the store say so, not memory.
		for _, id := range ids {
			s.memory().reread(id)
		}
		return err
	}
	s.memory().forget(ids...)
	s.Others.Changed(ctx)
	return nil
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
