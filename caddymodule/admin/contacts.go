package admin

import (
	"context"
	"errors"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// ContactList is one page of contacts, in the order in which they were added.
type ContactList struct {
	Contacts []directory.Contact `json:"contacts"`
	Next     string              `json:"next,omitempty"` // where the next page begins; "": there is none
}

// ByEmail names a contact by any of its addresses.
type ByEmail struct {
	Email string `json:"email"`
}

// SetContact asks for a change of the contact that has the address Email.
type SetContact struct {
	Email  string           `json:"email"`
	Change directory.Change `json:"change"`
}

// ContactChanged answers a change of a contact.
type ContactChanged struct {
	Contact       directory.Contact `json:"contact"`        // as it is now, or was when it was removed
	SessionsEnded int               `json:"sessions_ended"` // browsers that were signed out by it

	lost []address.Address // that the contact has no more
}

func (c ContactChanged) changed() audit.Event {
	return audit.Event{Contact: c.Contact.ID, Address: c.Contact.Email().Masked(), Count: c.SessionsEnded, Lost: c.lost}
}

func (s SetContact) fields() []string { return named(s.Change) }

func listContacts(ctx context.Context, f Firm, in ListRequest) (ContactList, error) {
	limit, err := in.limit()
	if err != nil {
		return ContactList{}, err
	}
	out := ContactList{}
	if out.Contacts, err = f.Book.Contacts(ctx, in.Text, in.After, limit); err != nil {
		return out, err
	}
	if len(out.Contacts) == limit {
		out.Next = out.Contacts[limit-1].ID
	} else if out.Contacts == nil {
		out.Contacts = []directory.Contact{}
	}
	return out, nil
}

func addContact(ctx context.Context, f Firm, in directory.Change) (ContactChanged, error) {
	if in.Email == nil {
		return ContactChanged{}, &Error{Status: 400, Code: "invalid", Field: "email", Reason: "is missing", Remedy: "a contact needs an address"}
	}
	email, err := parseAddress(*in.Email)
	if err != nil {
		return ContactChanged{}, err
	}
	c, err := f.Book.AddContact(ctx, email, in)
	return ContactChanged{Contact: c}, err
}

func setContact(ctx context.Context, f Firm, in SetContact) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Book.SetContact(ctx, email, in.Change)
	})
}

func disableContact(ctx context.Context, f Firm, in ByEmail) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Book.Disable(ctx, email)
	})
}

func enableContact(ctx context.Context, f Firm, in ByEmail) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Book.Enable(ctx, email)
	})
}

func removeContact(ctx context.Context, f Firm, in ByEmail) (ContactChanged, error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return ContactChanged{}, err
	}
	c, err := f.Book.RemoveContact(ctx, email)
	if errors.Is(err, directory.ErrUnknown) {
		return ContactChanged{}, unknownContact(email)
	} else if err != nil {
		return ContactChanged{}, err
	}
	n, err := f.EndAccess(ctx, c.ID)
	return ContactChanged{c, n, c.Emails}, err
}

// change carries out a change of the contact that has the address, and shows out
// whoever it takes an address or the permission from.
func (f Firm) change(ctx context.Context, typed string, do func(address.Address) (directory.Contact, error)) (ContactChanged, error) {
	email, err := parseAddress(typed)
	if err != nil {
		return ContactChanged{}, err
	}
	before, err := f.Book.ByEmail(ctx, email)
	if errors.Is(err, directory.ErrUnknown) {
		return ContactChanged{}, unknownContact(email)
	} else if err != nil {
		return ContactChanged{}, err
	}
	after, err := do(email)
	if errors.Is(err, directory.ErrUnknown) && !isField(err) {
		return ContactChanged{}, unknownContact(email)
	} else if err != nil {
		return ContactChanged{}, err
	}
	out := ContactChanged{Contact: after}
	for _, a := range before.Emails {
		if !slices.Contains(after.Emails, a) {
			out.lost = append(out.lost, a)
		}
	}
	if loses(before, after) {
		out.SessionsEnded, err = f.EndAccess(ctx, after.ID)
	}
	return out, err
}

func isField(err error) bool {
	_, ok := errors.AsType[*directory.FieldError](err)
	return ok
}

// loses reports whether a change ends what was proved by the contact so far: who is
// disabled may not come in, and whoever came in by an address that was taken away may
// be the reason for taking it away.
func loses(before, after directory.Contact) bool {
	return after.Disabled || slices.ContainsFunc(before.Emails, func(a address.Address) bool { return !slices.Contains(after.Emails, a) })
}
