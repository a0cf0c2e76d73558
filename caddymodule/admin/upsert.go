package admin

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// upsertTries is how often an upsert tries again if others add or remove the same entry meanwhile.
const upsertTries = 4

// UpsertContact changes the contact that has the address, or one that has the new address of the change; where there
// is none, it adds one.
func (f Firm) UpsertContact(ctx context.Context, in SetContact) (out ContactChanged, err error) {
	for range upsertTries {
		if out, err = f.SetContact(ctx, in); !isUnknown(err) {
			return out, err
		}
		if in.Change.Email != nil {
			if out, err = f.SetContact(ctx, SetContact{*in.Change.Email, in.Change}); !isUnknown(err) {
				return out, err
			}
		}
		change := in.Change
		if change.Email == nil {
			change.Email = &in.Email
		}
		if out, err = f.AddContact(ctx, change); !errors.Is(err, directory.ErrTaken) {
			return out, err
		}
	}
	return out, err
}

// UpsertCompany changes the company, or adds it.
func (f Firm) UpsertCompany(ctx context.Context, in SetCompany) (out CompanyChanged, err error) {
	for range upsertTries {
		if out, err = f.SetCompany(ctx, in); !isUnknown(err) {
			return out, err
		}
		if out, err = f.AddCompany(ctx, AddCompany{in.ID, in.Change}); !errors.Is(err, directory.ErrTaken) {
			return out, err
		}
	}
	return out, err
}

// isUnknown reports whether the error says that what is to be changed isn't there.
func isUnknown(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == "unknown"
}
