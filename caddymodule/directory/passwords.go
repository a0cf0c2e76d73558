package directory

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrOwnPassword is returned by Passwords.Import for a contact who has set, used or removed a
// password here: files no longer change it.
var ErrOwnPassword = errors.New("directory: a password was set, used or removed here")

// Passwords connects a Directory to the store of the contacts' passwords, which aren't part of the
// directory, so that a change of the directory and its effect on passwords are applied together.
// Applying the returned Ops fails with store.ErrConflict if the password was changed in between.
type Passwords struct {
	// Import gives a contact the hash they had in an earlier portal. No Ops mean that they have it
	// already. An error that wraps neither ErrOwnPassword nor store.ErrUnavailable says what is
	// wrong with the hash without repeating it. nil means that the firm has no passwords.
	Import func(ctx context.Context, contact, hash string) ([]store.Op, error)
	// Check returns what is wrong with a hash, without repeating it. It is set if Import is.
	Check func(hash string) error
	// Revoke removes the password of a contact who has lost an address: it may have been set by
	// somebody who reads the mail of that address.
	Revoke func(ctx context.Context, contact string) ([]store.Op, error)
	// Delete deletes all data about a removed contact.
	Delete func(ctx context.Context, contact string) ([]store.Op, error)
}

// afterManualChange returns the Ops for the password of a contact that was changed manually; after
// is nil for a removal.
func (p *Passwords) afterManualChange(ctx context.Context, before, after *storedContact) ([]store.Op, error) {
	switch {
	case p == nil || before == nil:
		return nil, nil
	case after == nil:
		return p.Delete(ctx, before.ID)
	case len(subtract(before.Emails, after.Emails)) > 0:
		return p.Revoke(ctx, before.ID)
	}
	return nil, nil
}

// fromFileRow returns the Ops for the password of a contact in a row, and the reason why its hash
// isn't imported, or "".
func (p *Passwords) fromFileRow(ctx context.Context, before *storedContact, after storedContact, hash string) (ops []store.Op, kept string, err error) {
	if hash != "" && (p == nil || p.Import == nil) {
		hash, kept = "", PasswordsOff
	}
	if hash != "" {
		ops, err = p.Import(ctx, after.ID, hash)
		if !errors.Is(err, ErrOwnPassword) {
			return ops, "", err
		}
		kept = PasswordOwn
	}
	if p == nil || before == nil || len(subtract(before.Emails, after.Emails)) == 0 {
		return nil, kept, nil
	}
	ops, err = p.Revoke(ctx, after.ID)
	return ops, kept, err
}
