package token

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Link says whose a link is and where it leads.
type Link struct {
	ID         string          `json:"-"` // the MAC of its secret
	Contact    string          `json:"contact"`
	Generation uint64          `json:"generation,omitempty"` // the contact's, of when the mail was made
	Address    address.Address `json:"address"`              // where the mail went
	Browser    string          `json:"browser"`              // the browser that asked
	To         string          `json:"to"`
	Shared     bool            `json:"shared,omitempty"`
	Asked      time.Time       `json:"asked"`
	Purpose    string          `json:"purpose"`
	Life       time.Duration   `json:"life,omitempty"` // its own; 0: Tokens.Life
}

// Grant is a proof that was accepted: sign this contact in.
type Grant struct {
	Contact    string
	Generation uint64          // the contact's, of when the mail was made: once they have another one, the grant is over. Not with a password
	Address    address.Address // the address that was proved
	To         string
	Shared     bool
	Method     string // "link", "code" or "password"
	Link       string // the link's ID; "" where it was no link
	Foreign    bool   // by a password from elsewhere, used for the first time: no mailbox was ever proved
	Ops        []store.Op
}

// Peek returns what a sign-in link is without spending it. The error is ErrUnknown when
// there is none (the Link is empty), ErrOver when it works no longer (the Link says
// whose it was and where it led), or the store's.
func (t *Tokens) Peek(ctx context.Context, token string) (Link, error) {
	link, _, err := t.look(ctx, SignIn, token)
	return link, err
}

// PeekPassword is Peek for a link to set a password: a link for one is none for the other.
func (t *Tokens) PeekPassword(ctx context.Context, token string) (Link, error) {
	link, _, err := t.look(ctx, SetPassword, token)
	return link, err
}

// SpendPassword returns a live link to set a password, and the Ops that end it and every
// other link and code of the contact. Errors, and store.ErrConflict of the Ops, are as
// those of Spend.
func (t *Tokens) SpendPassword(ctx context.Context, token string) (Link, []store.Op, error) {
	link, was, err := t.look(ctx, SetPassword, token)
	if err != nil {
		return link, nil, err
	}
	op, err := t.writeLive(was, live{})
	return link, []store.Op{op}, err
}

// look is Peek for a purpose, with the live record that it went by.
func (t *Tokens) look(ctx context.Context, purpose, token string) (link Link, was sealed.Record[live], err error) {
	if link, err = t.linkOf(ctx, purpose, token); err != nil {
		return Link{}, was, err
	}
	if was, err = t.lives().Find(ctx, link.Contact); err != nil {
		return Link{}, was, err
	}
	h, err := t.handed(ctx, link.ID)
	if err != nil {
		return Link{}, was, err
	}
	l := was.Value
	if i := l.find(link.ID); i < 0 || l.Links[i].Over || !h.good(link.Asked, t.lifeOf(link.Life), t.now()) {
		return link, was, ErrOver
	}
	return link, was, nil
}

// linkOf returns the link of a token, alive or not, or ErrUnknown: also for a link that
// is for another purpose.
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

// Try returns what Peek does, and counts that an address is going to be compared with
// the link's: call it before the comparison, so that parallel tries get no more than
// Guesses. After these it is ErrOver, though the link still works in the browser that
// asked: a mail scanner that fills in forms must not lock anybody out.
func (t *Tokens) Try(ctx context.Context, token string) (Link, error) {
	link, _, err := t.look(ctx, SignIn, token)
	if err != nil {
		return link, err
	}
	err = t.lives().Swap(ctx, link.Contact, func(l live) (live, time.Time, []store.Op, error) {
		i := l.find(link.ID)
		if i < 0 || l.Links[i].Over || l.Links[i].Tries >= Guesses {
			return l, time.Time{}, nil, ErrOver
		}
		l.Links[i].Tries++
		return l, l.expires(t.now()), nil, nil
	})
	return link, err
}

// Spend returns the grant of a live link for the browser that opened it ("": one that
// never asked for anything). The caller has made sure that it is the one that asked,
// or that its visitor knows the address (see Try).
//
// The grant's Ops end every link and code that the opening browser has asked for on behalf of
// the contact. When another browser asked for this link, its links end, and its codes go on:
// somebody may be waiting there. What other browsers asked for lives until it expires, so that
// two people who read one mailbox don't end each other's.
//
// Errors are those of Peek; store.ErrConflict when the Ops are applied means that
// something moved: call Spend again, it says ErrOver when another was faster.
func (t *Tokens) Spend(ctx context.Context, token, browser string) (Grant, error) {
	link, was, err := t.look(ctx, SignIn, token)
	if err != nil {
		return Grant{}, err
	}
	l := was.Value.without(browser)
	for i := range l.Links {
		if l.Links[i].Browser == link.Browser {
			l.Links[i].Over = true
		}
	}
	g := Grant{Contact: link.Contact, Generation: link.Generation, Address: link.Address, To: link.To, Shared: link.Shared, Method: "link", Link: link.ID}
	g.Ops, err = t.enterOps(ctx, was, l, browser, false)
	return g, err
}

// enterOps returns the Ops by which the contact of was gets in: l in its place, and
// the browser's requests forgotten, since the next person in front of it may be somebody
// else. Where the newest of them led is kept for Entered.
func (t *Tokens) enterOps(ctx context.Context, was sealed.Record[live], l live, browser string, byCode bool) ([]store.Op, error) {
	contact := was.ID
	liveOp, err := t.writeLive(was, l)
	if err != nil || browser == "" {
		return []store.Op{liveOp}, err
	}
	wasFlow, err := t.flows().Find(ctx, browser)
	if err != nil {
		return nil, err
	}
	f := wasFlow.Value
	rest := f.without(contact)
	if len(rest.Asks) == len(f.Asks) {
		return []store.Op{liveOp}, nil
	}
	for _, one := range f.Asks {
		if one.Contact == contact {
			rest.Entered = &Entered{Contact: contact, To: one.To, ByCode: byCode}
		}
	}
	flowOp, err := t.writeFlow(wasFlow, rest)
	return []store.Op{liveOp, flowOp}, err
}

// Entered is who has signed in in a browser while a tab of it waited for a mail.
type Entered struct {
	Contact string `json:"contact"`
	To      string `json:"to"`                // where that tab wanted to go
	ByCode  bool   `json:"by_code,omitempty"` // by the code, which is typed in that very tab
}

// Entered returns who has signed in in the browser while a tab waited for a mail. It is
// ErrUnknown if there is none, or once the browser has asked for another mail.
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

// EndOf returns the Ops that end every link and code that the browser has asked for on behalf
// of the contact, for a sign-in there that needs neither. Of store.ErrConflict the same
// holds as with Spend.
func (t *Tokens) EndOf(ctx context.Context, contact, browser string) ([]store.Op, error) {
	if browser == "" {
		return nil, nil
	}
	was, err := t.lives().Find(ctx, contact)
	if err != nil {
		return nil, err
	}
	rest := was.Value.without(browser)
	if len(rest.Links) == len(was.Value.Links) {
		return nil, nil
	}
	return t.enterOps(ctx, was, rest, browser, false)
}

// EndAll returns the Op that ends every link and code of a contact, those included
// that are being issued or spent at this moment. Apply it before the contact's
// sessions are ended: after it none can begin by what was mailed before.
func (t *Tokens) EndAll(contact string) (store.Op, error) {
	return t.lives().Put(contact, live{}, t.now().Add(keep))
}
