package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// EndAccess deletes the sessions of contacts, given by their ids, the links and codes mailed to
// them, and their known devices, and returns the number of sessions. All of these are invalid
// already, since the contacts have a new generation or were removed: this deletes the records. It
// continues after the client has disconnected, because the change before it can't be undone. A
// process that is killed meanwhile does the rest at its next start (see EndPending).
func (f Firm) EndAccess(ctx context.Context, contacts ...string) (ended int, err error) {
	ctx = context.WithoutCancel(ctx)
	defer func() {
		if err == nil {
			if err = f.Directory.RevocationsDone(ctx, contacts...); err != nil {
				err = fmt.Errorf("they are signed out, but it will be done once more: %w", err)
			}
		}
	}()
	for _, id := range contacts {
		n, err := f.endAccess(ctx, id, nothing)
		if ended += n; err != nil {
			return ended, fmt.Errorf("they can do nothing any more, but not all of what they had is cleared away: %w", err)
		}
	}
	return ended, nil
}

// EndPending ends the access that was taken from contacts and hasn't ended yet, since a
// process was killed or the store failed in between; it returns how many sessions there
// were.
func (f Firm) EndPending(ctx context.Context) (int, error) {
	contacts, err := f.Directory.PendingRevocations(ctx)
	if err != nil || len(contacts) == 0 {
		return 0, err
	}
	return f.EndAccess(ctx, contacts...)
}

// RevokeAccess gives the contact another generation, and does what EndAccess does, all in
// one step.
func (f Firm) RevokeAccess(ctx context.Context, contact string) (ended int, err error) {
	ended, err = f.endAccess(context.WithoutCancel(ctx), contact, func(ctx context.Context) (directory.Renewal, error) { return f.Directory.Renew(ctx, contact) })
	if err != nil {
		return ended, fmt.Errorf("nothing was ended, do it with sessions revoke: %w", err)
	}
	return ended, nil
}

func nothing(context.Context) (directory.Renewal, error) { return directory.Renewal{}, nil }

// tries is how often an end is tried that others come in between of.
const tries = 64

func (f Firm) endAccess(ctx context.Context, contact string, renew func(context.Context) (directory.Renewal, error)) (ended int, err error) {
	devices := limit.Devices{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys, Now: f.Tokens.Now, OnUntrusted: f.Tokens.OnUntrusted}
	for range tries {
		renewal, err := renew(ctx)
		if err != nil {
			return 0, err
		}
		end, err := f.Sessions.Ending(ctx, contact, "", renewal.Generation)
		if err != nil {
			return 0, err
		}
		links, err := f.Tokens.RevokeAll(contact)
		if err != nil {
			return 0, err
		}
		forget, err := devices.Forget(ctx, contact)
		if err != nil {
			return 0, err
		}
		err = f.Tokens.Store.Apply(ctx, slices.Concat(renewal.Ops, end.Ops, forget, []store.Op{links})...)
		f.Sessions.Ended(ctx, end, err)
		if len(renewal.Ops) > 0 {
			f.Directory.Renewed(ctx, err)
		}
		if !errors.Is(err, store.ErrConflict) {
			return end.Count, err
		}
	}
	return 0, store.ErrConflict
}
