package action

import (
	"context"
	"errors"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// RevokeOthers ends all sessions of a contact but the one of that ID, and returns how many these
// were. The error is store.ErrConflict where others changed the contact each time, or the store's.
func RevokeOthers(ctx context.Context, book *directory.Directory, sessions *session.Sessions, contact, spare string) (ended int, err error) {
	for range 3 {
		renewal, err := book.Renew(ctx, contact)
		if err != nil {
			return 0, err
		}
		end, err := sessions.Ending(ctx, contact, spare, renewal.Generation)
		if err == nil {
			err = sessions.Store.Apply(ctx, slices.Concat(renewal.Ops, end.Ops)...)
			sessions.Ended(ctx, end, err)
			book.Renewed(ctx, err)
		}
		if !errors.Is(err, store.ErrConflict) {
			return end.Count, err
		}
	}
	return 0, store.ErrConflict
}
