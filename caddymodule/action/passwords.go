package action

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Passwords returns what a directory.Directory needs of the passwords. Where the firm has switched them off
// it takes no more of them, but what is there still ends with its contact.
func Passwords(p *password.Passwords, off bool) *directory.Passwords {
	devices := &limit.Devices{Firm: p.Firm, Store: p.Store, Keys: p.Keys}
	d := &directory.Passwords{
		Check:  password.CheckHash,
		Revoke: p.Remove,
		Delete: func(ctx context.Context, contact string) ([]store.Op, error) {
			ops, err := p.Delete(ctx, contact)
			return append(ops, devices.Unlearn(contact)), err
		},
	}
	if !off {
		d.Import = func(ctx context.Context, contact, hash string) ([]store.Op, error) {
			ops, err := p.Import(ctx, contact, hash)
			if errors.Is(err, password.ErrNotImportable) {
				err = directory.ErrOwnPassword
			}
			return ops, err
		}
	}
	return d
}
