package directory

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrOwnPassword is what Passwords.Import returns for a contact who has set, used or removed
// a password here: no file has a say in it any more.
var ErrOwnPassword = errors.New("directory: a password was set, used or removed here")

// Passwords is what a Book needs of whoever keeps the contacts' passwords, which are no
// part of it: what a change means for them is made with it, or not at all. The functions
// return Ops that fail with store.ErrConflict if the password was changed in between.
type Passwords struct {
	// Import gives a contact the hash they had elsewhere; no Ops: they have it already. An
	// error that wraps neither ErrOwnPassword nor store.ErrUnavailable says what is wrong
	// with the hash, and doesn't repeat it. nil: the firm has no passwords.
	Import func(ctx context.Context, contact, hash string) ([]store.Op, error)
	// Check says what is wrong with a hash, and doesn't repeat it. Set where Import is.
	Check func(hash string) error
	// End takes the password of a contact who has lost an address: it may have been set by
	// who reads the mail there.
	End func(ctx context.Context, contact string) ([]store.Op, error)
	// Forget leaves nothing of a contact who is no more.
	Forget func(ctx context.Context, contact string) ([]store.Op, error)
}

// afterHand returns the Ops about the password of a contact that was changed by hand;
// after is nil where it was removed.
func (p *Passwords) afterHand(ctx context.Context, before, after *entry) ([]store.Op, error) {
	switch {
	case p == nil || before == nil:
		return nil, nil
	case after == nil:
		return p.Forget(ctx, before.ID)
	case len(lacking(before.Emails, after.Emails)) > 0:
		return p.End(ctx, before.ID)
	}
	return nil, nil
}

// fromFile returns the Ops about the password of a contact as a row has it, and why its
// hash isn't taken ("": it is, or there is none).
func (p *Passwords) fromFile(ctx context.Context, before *entry, after entry, hash string) (ops []store.Op, kept string, err error) {
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
	if p == nil || before == nil || len(lacking(before.Emails, after.Emails)) == 0 {
		return nil, kept, nil
	}
	ops, err = p.End(ctx, after.ID)
	return ops, kept, err
}
