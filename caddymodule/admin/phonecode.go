package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// PhoneCode asks for a code to read to the contact over the phone.
type PhoneCode struct {
	Email   string `json:"email"`
	Request string `json:"request,omitempty"` // of the browser that it is for; "": the only one that waits

	by By
}

func (p *PhoneCode) madeBy(by By) { p.by = by }

// PhoneCodeMade is a code. It works once, in that browser alone, until its time is over, and isn't shown again.
type PhoneCodeMade struct {
	Contact directory.Contact `json:"contact"`
	Code    string            `json:"code"`
	Until   time.Time         `json:"until"`
	Browser WaitingBrowser    `json:"browser"`
}

// WaitingBrowser is a browser whose page waits for a sign-in email to the contact.
type WaitingBrowser struct {
	Request string          `json:"request"` // stands for it
	Email   address.Address `json:"email"`   // that was typed
	Agent   string          `json:"agent"`   // the browser in words
	At      time.Time       `json:"at"`      // when it asked
	Known   bool            `json:"known"`   // the contact has signed in on it before
}

// WaitingBrowsers has the browsers that wait, the latest first.
type WaitingBrowsers struct {
	Contact  directory.Contact `json:"contact"`
	Browsers []WaitingBrowser  `json:"browsers"`
}

// phoneMaker is the scope of the budget of who makes codes to read over the phone, and phoneTaker that of the contact.
const phoneMaker, phoneTaker = "phone-codes-made", "phone-code"

// errNotWaiting is the answer where no browser, or another one, waits.
func errNotWaiting(email address.Address) *Error {
	return &Error{Status: 409, Code: "not_waiting", Field: "email", Reason: fmt.Sprintf("no browser waits for an email to %s", email),
		Remedy: "let them type their address on the sign-in page, and leave the page open that tells them to check their email; then do this again"}
}

// WaitingBrowsers returns the browsers that a code may be made for.
func (f Firm) WaitingBrowsers(ctx context.Context, in ByEmail) (out WaitingBrowsers, err error) {
	c, _, err := f.phoned(ctx, in.Email)
	if err != nil {
		return out, err
	}
	out, _, err = f.waitingBrowsers(ctx, c)
	return out, err
}

// phoned returns the contact, if they may get a code over the phone.
func (f Firm) phoned(ctx context.Context, typed string) (c directory.Contact, email address.Address, err error) {
	if email, err = parseAddress(typed); err != nil {
		return c, email, err
	}
	c, err = f.Directory.ByEmail(ctx, email)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		return c, email, unknownContact(email)
	case err != nil:
		return c, email, err
	case c.Role == directory.Staff:
		return c, email, &Error{Status: 409, Code: "staff", Field: "email", Reason: fmt.Sprintf("%s is staff, who get no code over the phone: they reach every company", email),
			Remedy: "let them sign in by email, or with their password"}
	case c.Disabled:
		return c, email, &Error{Status: 409, Code: "disabled", Field: "email", Reason: fmt.Sprintf("%s is disabled, so a code would open nothing", email),
			Remedy: "let them in first, with contacts enable; then do this again"}
	}
	return c, email, nil
}

// waitingBrowsers returns the browsers in both forms, in the same order.
func (f Firm) waitingBrowsers(ctx context.Context, c directory.Contact) (out WaitingBrowsers, all []token.WaitingBrowser, err error) {
	out = WaitingBrowsers{Contact: c, Browsers: []WaitingBrowser{}}
	if all, err = f.Tokens.WaitingFor(ctx, c.Emails); err != nil {
		return out, nil, err
	}
	devices := limit.Devices{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys, Now: f.Tokens.Now}
	known := map[string]bool{} // requests
	for _, b := range all {
		if known[b.Request.ID], err = devices.Knows(ctx, b.Request.Device, c.ID); err != nil {
			return out, nil, err
		}
	}
	// Anybody can have browsers wait: those on the contact's own devices aren't lost among them.
	slices.SortStableFunc(all, func(a, b token.WaitingBrowser) int { return rankOf(known[a.Request.ID]) - rankOf(known[b.Request.ID]) })
	for _, b := range all {
		out.Browsers = append(out.Browsers, WaitingBrowser{Request: b.Request.ID, Email: b.Request.Address, Agent: b.Request.Agent, At: b.Request.At.UTC(), Known: known[b.Request.ID]})
	}
	return out, all, nil
}

func rankOf(known bool) int {
	if known {
		return 0
	}
	return 1
}

// PhoneCode makes a code for one browser that waits. The event that says who made it is in the store before anybody
// sees the code.
func (f Firm) PhoneCode(ctx context.Context, in PhoneCode) (out PhoneCodeMade, err error) {
	for range tries {
		if out, err = f.phoneCode(ctx, in); !errors.Is(err, store.ErrConflict) {
			return out, err
		}
	}
	return PhoneCodeMade{}, err
}

func (f Firm) phoneCode(ctx context.Context, in PhoneCode) (out PhoneCodeMade, err error) {
	c, email, err := f.phoned(ctx, in.Email)
	if err != nil {
		return out, err
	}
	list, all, err := f.waitingBrowsers(ctx, c)
	if err != nil {
		return out, err
	}
	i := slices.IndexFunc(all, func(b token.WaitingBrowser) bool { return in.Request == "" || b.Request.ID == in.Request })
	switch {
	case i < 0:
		return out, errNotWaiting(email)
	case in.Request == "" && len(all) > 1:
		return out, &Error{Status: 409, Code: "choose", Field: "request", Reason: fmt.Sprintf("%d browsers wait for an email to %s", len(all), email),
			Remedy: "ask what browser they sit at and when they asked; contacts phone-code --list shows the browsers, --request names one"}
	}
	now := f.now()
	issued, err := f.Tokens.IssueByPhone(ctx, all[i], list.Browsers[i].Known, token.Recipient{Contact: c.ID, Generation: c.Generation, Address: all[i].Request.Address})
	if errors.Is(err, token.ErrUnknown) {
		return out, errNotWaiting(email)
	} else if err != nil {
		return out, err
	}
	spent, err := f.spendPhoneCode(ctx, c, in.by, all[i].Request.ID, now)
	if err != nil {
		return out, err
	}
	event, stored := f.Audit.With(audit.Event{Kind: audit.Changed, By: in.by.Who, Staff: in.by.Staff, What: "contacts/phone-code", Contact: c.ID,
		Address: all[i].Request.Address.Masked(), Request: all[i].Request.ID, Agent: all[i].Request.Agent})
	if err := f.Tokens.Store.Apply(ctx, slices.Concat(issued.Ops, spent, stored)...); err != nil {
		return out, err
	}
	f.Audit.Record(ctx, event)
	return PhoneCodeMade{Contact: c, Code: issued.Code, Until: now.Add(token.PhoneLife).UTC(), Browser: list.Browsers[i]}, nil
}

// spendPhoneCode counts one more code for the contact, and for the member of staff who makes it.
func (f Firm) spendPhoneCode(ctx context.Context, c directory.Contact, by By, request string, now time.Time) (ops []store.Op, err error) {
	mails := limit.Mails{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys, Now: f.Tokens.Now, OnUntrusted: f.Tokens.OnUntrusted}
	spent, err := mails.Spend(ctx, limit.Key{Contact: c.ID, Scope: phoneTaker}, limit.ForPhoneCodes, limit.Request{ID: request}, now)
	if errors.Is(err, limit.ErrOver) {
		return nil, &Error{Status: 409, Code: "limited", Field: "email", Reason: fmt.Sprintf("%s got so many codes that there is none more just now", c.Email()),
			Remedy: "mail them a link, or do this again in an hour"}
	} else if err != nil || by.Staff == "" {
		return spent.Ops, err
	}
	made, err := mails.Spend(ctx, limit.Key{Contact: by.Staff, Scope: phoneMaker}, limit.ForPhoneCodesMade, limit.Request{ID: request}, now)
	if errors.Is(err, limit.ErrOver) {
		return nil, &Error{Status: 409, Code: "limited", Reason: "you have made so many codes that there is none more just now", Remedy: "mail them a link, or do this again in an hour"}
	}
	return append(spent.Ops, made.Ops...), err
}
