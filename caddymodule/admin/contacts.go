package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
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

// RemoveContact asks for the removal of the contact that has the address Email.
type RemoveContact struct {
	Email   string `json:"email"`
	Version string `json:"version,omitempty"` // of the contact that is meant; "": whatever state it is in
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

	Lost  []address.Address `json:"lost,omitempty"`  // addresses that the contact has no more; not with remove
	Hints []string          `json:"hints,omitempty"` // addresses that look like a slip, and what was meant

	removed bool // the whole contact
}

func (c ContactChanged) changed() audit.Event {
	lost := c.Lost
	if c.removed {
		lost = c.Contact.Emails
	}
	return audit.Event{Contact: c.Contact.ID, Address: c.Contact.Email().Masked(), Count: c.SessionsEnded, Lost: lost}
}

func (s SetContact) fields() []string {
	s.Change.Version = ""
	return named(s.Change)
}

// ListContacts asks for one page of contacts.
type ListContacts struct {
	ListRequest
	Only string `json:"only,omitempty"` // OnlyDisabled, OnlyNeverSignedIn or OnlyOldLinks; "": all
}

// Filters of a list of contacts.
const (
	OnlyDisabled      = "disabled"
	OnlyNeverSignedIn = "never-signed-in" // they have never come in, on any device
	OnlyOldLinks      = "old-links"       // they belong to a company whose old links still open without sign-in
)

func (f Firm) filter(ctx context.Context, only string) (func(directory.Contact) (bool, error), error) {
	switch only {
	case "":
		return func(directory.Contact) (bool, error) { return true, nil }, nil
	case OnlyDisabled:
		return func(c directory.Contact) (bool, error) { return c.Disabled, nil }, nil
	case OnlyNeverSignedIn:
		devices := limit.Devices{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys}
		return func(c directory.Contact) (bool, error) {
			first, _, err := devices.First(ctx, c.ID)
			return first, err
		}, nil
	case OnlyOldLinks:
		open := map[string]bool{}
		for after := ""; ; {
			page, err := f.Directory.Companies(ctx, "", after, contactsAtOnce)
			if err != nil {
				return nil, err
			}
			for _, c := range page {
				if after = c.ID; !c.Upgraded && len(c.LegacyTokens) > 0 {
					open[c.ID] = true
				}
			}
			if len(page) < contactsAtOnce {
				break
			}
		}
		return func(c directory.Contact) (bool, error) {
			return slices.ContainsFunc(c.Companies, func(id string) bool { return open[id] }), nil
		}, nil
	}
	return nil, &Error{Status: 400, Code: "invalid", Field: "only", Reason: fmt.Sprintf("%q is none of %s, %s, %s", only, OnlyDisabled, OnlyNeverSignedIn, OnlyOldLinks)}
}

func (f Firm) ListContacts(ctx context.Context, in ListContacts) (ContactList, error) {
	most, err := in.limit()
	if err != nil {
		return ContactList{}, err
	}
	wanted, err := f.filter(ctx, in.Only)
	if err != nil {
		return ContactList{}, err
	}
	out := ContactList{}
	for after := in.After; ; {
		page, err := f.Directory.Contacts(ctx, in.Text, after, most)
		if err != nil {
			return ContactList{}, err
		}
		for _, c := range page {
			ok, err := wanted(c)
			if err != nil {
				return ContactList{}, err
			}
			if ok && len(out.Contacts) < most {
				out.Contacts = append(out.Contacts, c)
			}
		}
		if len(page) < most || len(out.Contacts) == most {
			break
		}
		after = page[most-1].ID
	}
	if len(out.Contacts) == most {
		out.Next = out.Contacts[most-1].ID
	} else if out.Contacts == nil {
		out.Contacts = []directory.Contact{}
	}
	return out, nil
}

func (f Firm) AddContact(ctx context.Context, in directory.Change) (ContactChanged, error) {
	if in.Email == nil {
		return ContactChanged{}, &Error{Status: 400, Code: "invalid", Field: "email", Reason: "is missing", Remedy: "a contact needs an address"}
	}
	email, err := parseAddress(*in.Email)
	if err != nil {
		return ContactChanged{}, err
	}
	c, err := f.Directory.AddContact(ctx, email, in)
	return ContactChanged{Contact: c, Hints: hints(nil, c.Emails)}, err
}

func (f Firm) SetContact(ctx context.Context, in SetContact) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Directory.SetContact(ctx, email, in.Change)
	})
}

func (f Firm) DisableContact(ctx context.Context, in ByEmail) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Directory.Disable(ctx, email)
	})
}

func (f Firm) EnableContact(ctx context.Context, in ByEmail) (ContactChanged, error) {
	return f.change(ctx, in.Email, func(email address.Address) (directory.Contact, error) {
		return f.Directory.Enable(ctx, email)
	})
}

func (f Firm) RemoveContact(ctx context.Context, in RemoveContact) (ContactChanged, error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return ContactChanged{}, err
	}
	c, err := f.Directory.RemoveContactAt(ctx, email, in.Version)
	if errors.Is(err, directory.ErrUnknown) {
		return ContactChanged{}, unknownContact(email)
	} else if err != nil {
		return ContactChanged{}, err
	}
	n, err := f.EndAccess(ctx, c.ID)
	return ContactChanged{Contact: c, SessionsEnded: n, removed: true}, err
}

// change carries out a change of the contact that has the address, and shows out
// whoever it takes an address or the permission from.
func (f Firm) change(ctx context.Context, typed string, do func(address.Address) (directory.Contact, error)) (ContactChanged, error) {
	email, err := parseAddress(typed)
	if err != nil {
		return ContactChanged{}, err
	}
	before, err := f.Directory.ByEmail(ctx, email)
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
	out := ContactChanged{Contact: after, Hints: hints(before.Emails, after.Emails)}
	for _, a := range before.Emails {
		if !slices.Contains(after.Emails, a) {
			out.Lost = append(out.Lost, a)
		}
	}
	if loses(before, after) {
		out.SessionsEnded, err = f.EndAccess(ctx, after.ID)
	}
	return out, err
}

// hints names the new addresses that look like a slip.
func hints(before, after []address.Address) (all []string) {
	for _, a := range after {
		if meant := directory.LikelyDomain(a); meant != "" && !slices.Contains(before, a) {
			all = append(all, fmt.Sprintf("%s: did you mean %s?", a, meant))
		}
	}
	return all
}

func isField(err error) bool {
	_, ok := errors.AsType[*directory.FieldError](err)
	return ok
}

// loses reports whether a change revokes the contact's access so far: a disabled contact may not
// sign in, and a removed address may be one that somebody else has signed in with.
func loses(before, after directory.Contact) bool {
	return after.Disabled || slices.ContainsFunc(before.Emails, func(a address.Address) bool { return !slices.Contains(after.Emails, a) })
}
