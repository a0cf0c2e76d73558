package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// ResetLinkSent answers a request to mail a link to set a password. The mail is promised:
// it is in the store.
type ResetLinkSent struct {
	Contact directory.Contact `json:"contact"`
	To      address.Address   `json:"to"`      // where the mail goes: the address that was named
	Request string            `json:"request"` // which ties its events together
}

func (s ResetLinkSent) changed() audit.Event {
	return audit.Event{Contact: s.Contact.ID, Address: s.To.Masked(), Request: s.Request}
}

// resetLink has a link mailed by which the contact may choose a password, once, within a
// day. Nobody else sees the link, and until it is used nothing changes.
func (f Firm) ResetLink(ctx context.Context, in ByEmail) (out ResetLinkSent, err error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return out, err
	}
	c, err := f.Directory.ByEmail(ctx, email)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		return out, unknownContact(email)
	case err != nil:
		return out, err
	case c.Disabled:
		return out, &Error{Status: 409, Code: "disabled", Field: "email", Reason: fmt.Sprintf("%s is disabled, so a password would open nothing", email),
			Remedy: "let them in first, with contacts enable; then do this again"}
	case f.NoPasswords:
		return out, &Error{Status: 409, Code: "passwords_off", Reason: "the firm has no passwords: the Caddyfile says passwords off",
			Remedy: "tell them to ask for a sign-in mail; or take that line out, reload, and do this again"}
	}
	ask := token.MailRequest{Purpose: token.SetPassword, Staff: true, Address: email, To: "/", At: f.now()}
	ask.ID = outbox.NewReservedID(kindSetPassword, ask.At)
	if err := f.mayMail(ctx, c, ask); err != nil {
		return out, err
	}
	payload, err := token.Compact(ask)
	if err != nil {
		return out, err
	}
	err = f.Tokens.Store.Apply(ctx, f.Queue.Add(outbox.Request{
		ID: ask.ID, Kind: kindSetPassword, Asked: ask.At, NotAfter: ask.At.Add(token.MaxMailDelay), Payload: payload,
	}))
	if err != nil {
		return out, fmt.Errorf("promising the mail: %w", err)
	}
	f.Queue.Wake(ask.ID)
	return ResetLinkSent{c, email, ask.ID}, nil
}

const kindSetPassword = "set-password" // as the gate calls its requests

// mayMail says why no such mail would be made, as the gate decides later: who asks here
// can be told. It counts and keeps nothing.
func (f Firm) mayMail(ctx context.Context, c directory.Contact, ask token.MailRequest) error {
	if err := f.Queue.Full(ask.ID); err != nil {
		return &Error{Status: 503, Code: "unavailable", Reason: err.Error(), Remedy: "look in the log why mails aren't taken, then try again"}
	}
	mails, budget := limit.Mails{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys, Now: f.Tokens.Now}, limit.ForClients
	if c.Role == directory.Staff {
		budget = limit.ForStaff
	}
	_, err := mails.Spend(ctx, limit.Key{Contact: c.ID, Scope: ask.LimitKey()}, budget, limit.Request{ID: ask.ID, Until: ask.At.Add(token.MaxMailDelay)}, ask.At)
	if err == nil {
		_, err = f.Tokens.Issue(ctx, ask, token.Recipient{Contact: c.ID, Generation: c.Generation, Address: ask.Address})
	}
	switch {
	case errors.Is(err, token.ErrTooMany):
		return &Error{Status: 409, Code: "limited", Field: "email", Reason: fmt.Sprintf("%d links that were sent to %s so still work", token.MaxActive, ask.Address),
			Remedy: "let them take one of these mails, each good for a day; sessions revoke ends the links, and signs them out"}
	case errors.Is(err, limit.ErrOver):
		return &Error{Status: 409, Code: "limited", Field: "email", Reason: fmt.Sprintf("%s got so many such mails that there is none more just now", ask.Address),
			Remedy: "let them take the newest of these mails, or do this again in an hour"}
	}
	return err
}

func (f Firm) now() time.Time {
	if f.Tokens.Now != nil {
		return f.Tokens.Now()
	}
	return time.Now()
}
