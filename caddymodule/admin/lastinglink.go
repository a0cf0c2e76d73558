package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// LastingLink is the link that leads a contact to their pages at any time. It holds no secret.
type LastingLink struct {
	Contact directory.Contact `json:"contact"`
	Link    string            `json:"link"`
}

// LastingLink returns the contact's lasting link.
func (f Firm) LastingLink(ctx context.Context, in ByEmail) (out LastingLink, err error) {
	c, _, err := f.contactNamed(ctx, in.Email)
	switch {
	case err != nil:
		return out, err
	case f.Portal == nil:
		return out, &Error{Status: 503, Code: "unavailable", Reason: "the portal's links aren't known here"}
	}
	return LastingLink{c, f.Portal.LastingLink(c)}, nil
}

// contactNamed returns the contact that has an address, and the address.
func (f Firm) contactNamed(ctx context.Context, typed string) (c directory.Contact, email address.Address, err error) {
	if email, err = parseAddress(typed); err != nil {
		return c, email, err
	}
	if c, err = f.Directory.ByEmail(ctx, email); errors.Is(err, directory.ErrUnknown) {
		err = unknownContact(email)
	}
	return c, email, err
}

// LinkMailed answers a request to mail a contact their lasting link. The mail is promised: it is in the
// store.
type LinkMailed struct {
	Contact directory.Contact `json:"contact"`
	To      address.Address   `json:"to"`      // their main address
	Request string            `json:"request"` // which ties its events together
}

func (m LinkMailed) changed() audit.Event {
	if m.Request == "" {
		return audit.Event{}
	}
	return audit.Event{Contact: m.Contact.ID, Address: m.To.Masked(), Request: m.Request}
}

// linkTaker is the scope of the budget of mails with the lasting link.
const linkTaker = "lasting-link"

// MailLink has the contact's lasting link mailed to their main address.
func (f Firm) MailLink(ctx context.Context, in ByEmail) (out LinkMailed, err error) {
	c, email, err := f.contactNamed(ctx, in.Email)
	switch {
	case err != nil:
		return out, err
	case c.Disabled:
		return out, &Error{Status: 409, Code: "disabled", Field: "email", Reason: fmt.Sprintf("%s is disabled, so the link would open nothing", email),
			Remedy: "let them in first, with contacts enable; then do this again"}
	case len(c.Companies) == 0:
		return out, &Error{Status: 409, Code: "no_company", Field: "email", Reason: fmt.Sprintf("%s belongs to no company, so there is no page to lead to", email),
			Remedy: "give them one, with contacts set EMAIL --companies ID; then do this again"}
	}
	ask, err := f.Announcements.Alone(c.ID)
	if err != nil {
		return out, err
	}
	if err := f.Queue.Full(ask.ID); err != nil {
		return out, &Error{Status: 503, Code: "unavailable", Reason: err.Error(), Remedy: "look in the log why mails aren't taken, then try again"}
	}
	mails := limit.Mails{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys, Now: f.Tokens.Now, OnUntrusted: f.Tokens.OnUntrusted}
	for range tries {
		spent, err := mails.Spend(ctx, limit.Key{Contact: c.ID, Scope: linkTaker}, limit.ForLastingLinks, limit.Request{ID: ask.ID}, ask.Asked)
		if errors.Is(err, limit.ErrOver) {
			return out, &Error{Status: 409, Code: "limited", Field: "email", Reason: fmt.Sprintf("%s got so many such emails that there is none more just now", c.Email()),
				Remedy: "let them look for the newest one, or do this again in an hour"}
		} else if err != nil {
			return out, err
		}
		switch err := f.Tokens.Store.Apply(ctx, append(spent.Ops, f.Queue.Add(ask))...); {
		case errors.Is(err, store.ErrConflict): // another one was counted
			continue
		case err != nil:
			return out, fmt.Errorf("promise the mail: %w", err)
		}
		f.Queue.Wake(ask.ID)
		return LinkMailed{c, c.Email(), ask.ID}, nil
	}
	return out, store.ErrConflict
}
