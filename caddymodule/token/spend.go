package token

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Link is a stored link: its contact and its target.
type Link struct {
	ID          string          `json:"-"` // MAC of its secret
	Contact     string          `json:"contact"`
	Generation  uint64          `json:"generation,omitempty"` // the contact's when the mail was made
	Address     address.Address `json:"address"`              // where the mail went
	Browser     string          `json:"browser"`              // that requested it
	To          string          `json:"to"`
	Shared      bool            `json:"shared,omitempty"`
	RequestedAt time.Time       `json:"asked"`
	Purpose     string          `json:"purpose"`
	Life        time.Duration   `json:"life,omitempty"` // its own; 0: Tokens.Life
}

// AuthResult is an accepted sign-in of a contact.
type AuthResult struct {
	Contact    string
	Generation uint64          // the contact's when the mail was made: the grant ends when the contact gets another one; 0 with a password
	Address    address.Address // the address that was proved; with ByPhone, the one that was typed, which nobody proved
	To         string
	Shared     bool
	Method     string // "link", "code", ByPhone or "password"
	Link       string // ID of the link; "": not by link
	Foreign    bool   // first use of a password set elsewhere: the contact hasn't proved access to a mailbox
	Ops        []store.Op
}

// Peek returns the sign-in link of a token without consuming it. Errors: ErrUnknown if there
// is none (the Link is empty), ErrOver if it no longer works (the Link has its contact and
// target), or the store's.
func (t *Tokens) Peek(ctx context.Context, token string) (Link, error) {
	link, _, err := t.lookUp(ctx, SignIn, token)
	return link, err
}

// PeekPassword is Peek for links that set a password. Each purpose knows only its own links.
func (t *Tokens) PeekPassword(ctx context.Context, token string) (Link, error) {
	link, _, err := t.lookUp(ctx, SetPassword, token)
	return link, err
}

// SpendPassword returns an active link that sets a password, and the Ops that end it and every
// other link and code of the contact. Errors, and store.ErrConflict from applying the Ops, are
// those of Spend.
func (t *Tokens) SpendPassword(ctx context.Context, token string) (Link, []store.Op, error) {
	link, was, err := t.lookUp(ctx, SetPassword, token)
	if err != nil {
		return link, nil, err
	}
	op, err := t.writeActive(was, activeLinks{})
	return link, []store.Op{op}, err
}

// lookUp is Peek for a purpose. It also returns the record of active links that it read.
func (t *Tokens) lookUp(ctx context.Context, purpose, token string) (link Link, was sealed.Record[activeLinks], err error) {
	if link, err = t.linkOf(ctx, purpose, token); err != nil {
		return Link{}, was, err
	}
	if was, err = t.active().Find(ctx, link.Contact); err != nil {
		return Link{}, was, err
	}
	h, err := t.handover(ctx, link.ID)
	if err != nil {
		return Link{}, was, err
	}
	l := was.Value
	if i := l.find(link.ID); i < 0 || l.Links[i].Consumed || !h.active(link.RequestedAt, t.lifeOf(link.Life), t.now()) {
		return link, was, ErrInactive
	}
	return link, was, nil
}

// linkOf returns the link of a token, active or not. It returns ErrUnknown if there is none of
// this purpose.
func (t *Tokens) linkOf(ctx context.Context, purpose, token string) (Link, error) {
	if token = Clean(token); len(token) != LinkLength && len(token) != longLinkLength {
		return Link{}, ErrUnknown
	}
	for _, id := range t.Keys.MACs(linkPurpose, t.Firm, token) {
		link, err := t.link(ctx, id)
		switch {
		case errors.Is(err, ErrUnknown):
			continue
		case err == nil && link.Purpose != purpose:
			return Link{}, ErrUnknown
		}
		return link, err
	}
	return Link{}, ErrUnknown
}

// Try is Peek, and counts one comparison of a typed address with the link's address. Call it
// before the comparison, so that parallel attempts get no more than Guesses. After that many,
// it returns ErrOver, but the link still works in the browser that requested it: a mail
// scanner that fills in forms must not lock the contact out.
func (t *Tokens) Try(ctx context.Context, token string) (Link, error) {
	link, _, err := t.lookUp(ctx, SignIn, token)
	if err != nil {
		return link, err
	}
	err = t.active().Swap(ctx, link.Contact, func(l activeLinks) (activeLinks, time.Time, []store.Op, error) {
		i := l.find(link.ID)
		if i < 0 || l.Links[i].Consumed || l.Links[i].Tries >= MaxGuesses {
			return l, time.Time{}, nil, ErrInactive
		}
		l.Links[i].Tries++
		return l, l.expires(t.now()), nil, nil
	})
	return link, err
}

// Spend returns the grant of an active link for the browser that opened it ("": one that never
// requested a mail). The caller has checked that this browser requested the link, or that its
// visitor knows the address (see Try).
//
// The grant's Ops end all links and codes that the opening browser requested for the contact.
// If another browser requested this link, that browser's links end and its codes go on, since
// a person may be waiting there. Links of further browsers go on, so that two people who share
// a mailbox don't end each other's.
//
// Errors are those of Peek. If the store returns store.ErrConflict for the Ops, a record has
// changed: call Spend again; it returns ErrOver if another attempt has consumed the link.
func (t *Tokens) Spend(ctx context.Context, token, browser string) (AuthResult, error) {
	link, was, err := t.lookUp(ctx, SignIn, token)
	if err != nil {
		return AuthResult{}, err
	}
	l := was.Value.without(browser)
	for i := range l.Links {
		if l.Links[i].Browser == link.Browser {
			l.Links[i].Consumed = true
		}
	}
	g := AuthResult{Contact: link.Contact, Generation: link.Generation, Address: link.Address, To: link.To, Shared: link.Shared, Method: "link", Link: link.ID}
	g.Ops, err = t.signInOps(ctx, was, l, browser, false)
	return g, err
}

// signInOps returns the Ops of a sign-in: they replace was with l and remove the contact's
// requests from the browser's flow, since another person may use the browser next. The target
// of the latest request is stored for Entered.
func (t *Tokens) signInOps(ctx context.Context, was sealed.Record[activeLinks], l activeLinks, browser string, byCode bool) ([]store.Op, error) {
	contact := was.ID
	liveOp, err := t.writeActive(was, l)
	if err != nil || browser == "" {
		return []store.Op{liveOp}, err
	}
	wasFlow, err := t.flows().Find(ctx, browser)
	if err != nil {
		return nil, err
	}
	f := wasFlow.Value
	rest := f.without(contact)
	if len(rest.Requests) == len(f.Requests) && rest.Phone == f.Phone {
		return []store.Op{liveOp}, nil
	}
	if f.Phone != nil && rest.Phone == nil {
		rest.Entered = &Entered{Contact: contact, To: f.Phone.To, ByCode: byCode}
	}
	for _, one := range f.Requests {
		if one.Contact == contact {
			rest.Entered = &Entered{Contact: contact, To: one.To, ByCode: byCode}
		}
	}
	flowOp, err := t.writeFlow(wasFlow, rest)
	return []store.Op{liveOp, flowOp}, err
}

// Entered describes a sign-in in a browser while one of its tabs waited for a mail.
type Entered struct {
	Contact string `json:"contact"`
	To      string `json:"to"`                // target of that tab's request
	ByCode  bool   `json:"by_code,omitempty"` // by the code, which the visitor types in that tab
}

// Entered returns the sign-in that happened in the browser while a tab waited for a mail. It
// returns ErrUnknown if there was none, or once the browser has requested another mail.
func (t *Tokens) Entered(ctx context.Context, browser string) (Entered, error) {
	rec, err := t.flows().Find(ctx, browser)
	if err != nil {
		return Entered{}, err
	}
	if rec.Value.Entered == nil {
		return Entered{}, ErrUnknown
	}
	return *rec.Value.Entered, nil
}

// EndOf returns the Ops that end all links and codes that the browser requested for the
// contact, for a sign-in there by other means. For store.ErrConflict see Spend.
func (t *Tokens) EndOf(ctx context.Context, contact, browser string) ([]store.Op, error) {
	if browser == "" {
		return nil, nil
	}
	was, err := t.active().Find(ctx, contact)
	if err != nil {
		return nil, err
	}
	rest := was.Value.without(browser)
	if len(rest.Links) == len(was.Value.Links) {
		return nil, nil
	}
	return t.signInOps(ctx, was, rest, browser, false)
}

// RevokeAll returns the Op that ends every link and code of a contact, even those being issued
// or consumed concurrently. Apply it before you end the contact's sessions: then no mail sent
// earlier can begin another one.
func (t *Tokens) RevokeAll(contact string) (store.Op, error) {
	return t.active().Put(contact, activeLinks{}, t.now().Add(recordLife))
}
