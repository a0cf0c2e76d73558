package admin

import (
	"context"
	"fmt"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const endsAtOnce = 200 // contacts whose links end in one write

// EndAccess ends the sessions of contacts, given by their ids, and the links and codes on
// their way to them, and has no device be known as theirs any more; it returns how many
// sessions there were. What took the permission or an address from them stays done, so it
// goes on when the client has left. A process that is killed meanwhile does the rest at its
// next start (see EndPending).
func (f Firm) EndAccess(ctx context.Context, contacts ...string) (ended int, err error) {
	ctx = context.WithoutCancel(ctx)
	for some := range slices.Chunk(contacts, endsAtOnce) {
		var ops []store.Op
		for _, id := range some {
			op, err := f.Tokens.EndAll(id)
			if err != nil {
				return 0, fmt.Errorf("ending links on their way: %w", err)
			}
			ops = append(ops, op)
		}
		if err := f.Tokens.Store.Apply(ctx, ops...); err != nil {
			return 0, fmt.Errorf("not all links on their way could be ended, do it with sessions revoke: %w", err)
		}
	}
	defer func() {
		if err == nil {
			if err = f.Book.EndedAccess(ctx, contacts...); err != nil {
				err = fmt.Errorf("they are signed out, but it will be done once more: %w", err)
			}
		}
	}()
	devices := limit.Devices{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys}
	for _, id := range contacts {
		n, err := f.Sessions.EndAll(ctx, id, "")
		if ended += n; err != nil {
			return ended, fmt.Errorf("not all sessions could be ended, do it with sessions revoke: %w", err)
		}
		if err := devices.Forget(ctx, id); err != nil {
			return ended, fmt.Errorf("they are signed out, but not all their devices are forgotten, do it with sessions revoke: %w", err)
		}
	}
	return ended, nil
}

// EndPending ends the access that was taken from contacts and hasn't ended yet, since a
// process was killed or the store failed in between; it returns how many sessions there
// were.
func (f Firm) EndPending(ctx context.Context) (int, error) {
	contacts, err := f.Book.AccessEnding(ctx)
	if err != nil || len(contacts) == 0 {
		return 0, err
	}
	return f.EndAccess(ctx, contacts...)
}
