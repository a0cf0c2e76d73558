// Package token issues and spends what a sign-in mail carries: a one-time link, and
// a code to type in the browser that asked.
//
// Four records hold the state. "flow", by browser: what this browser asked for, and
// the MACs of its codes with their guesses; as long as no mail was made for it, it has a
// place in a ring (ring.go), since anybody can ask for anything. "link", by the MAC of a link's secret:
// whose it is and where it leads; kept for 30 days, so that an old link still knows
// the way back. "live", by contact: which links and codes work now. "handed-over", by link:
// when the mail server took the mail, from which the life of both is counted. A fifth,
// "tries", counts the guesses at a contact's codes over all browsers (tries.go). All are
// sealed, and what is none of ours counts for nothing.
//
// A link is good if and only if "live" names it and its mail was handed over, a code if and
// only if that is so of its link, and spending either is one compare-and-swap in "live": of
// any number of simultaneous tries one wins.
//
// Spending returns Ops instead of applying them: the caller adds the session's own
// and applies all at once, so a link is used up if and only if somebody is in.
//
// Read Ask, Issue and HandOver here for how a link comes to be; then spend.go (the
// link), code.go (the code) and records.go (how it all lies in the store).
package token

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// What callers decide on, beside ShapeError. A wrong, burnt, expired or never issued
// code is one error, since the difference would help who guesses.
var (
	ErrUnknown = errors.New("token: no such link")
	ErrOver    = errors.New("token: the link was used, replaced, or ran out")
	ErrCode    = errors.New("token: not a code that works here")
	ErrTooMany = errors.New("token: enough links of this contact are alive")
)

const (
	// MaxLive is how many links of a contact work at a time: of each purse (see
	// Ask.Purse), so that strangers can't take up the places of the owner.
	MaxLive = 3
	// Guesses is how often a code may be tried, and an address on a link's page.
	Guesses = 5
	// Patience is how long after the request a mail may still be handed over.
	Patience = time.Hour
	// StaffLife is how long a link to set a password lives that staff have sent: their
	// client may read mail once a day. It is what NIST SP 800-63B-4, section 4.2.1.2,
	// gives a code that goes by mail.
	StaffLife = 24 * time.Hour
	// WayBack is how long an old link remembers whom to send a new one, and where it led.
	WayBack = 30 * 24 * time.Hour
	// MaxLife is the longest Life.
	MaxLife = time.Hour
	// HandOverTime is how long a mail server may take for one mail. A link's life begins at
	// the end of an attempt, whether or not we hear how that ended.
	HandOverTime = 2 * time.Minute

	keep     = Patience + 2*HandOverTime + MaxLife // how long flow, live and handed are of any use
	flowAsks = 5                                   // so many requests of one browser are remembered
)

// Tokens are the links and codes of one firm. All methods may be called from many
// goroutines, and by several Tokens on one store.
type Tokens struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Life  time.Duration    // of a link and its code, from each hand-over to the mail server; at most MaxLife
	Now   func() time.Time // the clock; nil: time.Now
	Ring  *Ring            // where new browsers get their places; nil: anywhere

	// Alarm is told of records that are none of ours; see sealed.Bucket.
	Alarm func(context.Context, store.Key)
}

// EndEverything ends the links and codes of all contacts.
func (t *Tokens) EndEverything(ctx context.Context) error {
	if _, err := store.Clear(ctx, t.Store, t.Firm, liveBucket); err != nil {
		return fmt.Errorf("ending all links: %w", err)
	}
	return nil
}

// Ask is one request for a sign-in mail, as a browser made it.
type Ask struct {
	ID      string          `json:"id"`
	Address address.Address `json:"address"`
	Hidden  bool            `json:"hidden,omitempty"` // not typed in this browser, so shown in part only
	Link    string          `json:"link,omitempty"`   // with Hidden: the old link that knows the address
	To      string          `json:"to"`               // where to go once in: a path on this site
	Site    string          `json:"site,omitempty"`   // the origin of a further site of the firm, to which the link leads; "": the firm's own
	Shared  bool            `json:"shared,omitempty"` // a shared computer
	Browser string          `json:"browser"`          // see BrowserOf
	Agent   string          `json:"agent,omitempty"`  // the browser in words
	IP      netip.Addr      `json:"ip,omitzero"`      // where it came from, as far as is known
	Device  string          `json:"device,omitempty"` // ID of the device, where it has one
	At      time.Time       `json:"at"`

	// Purpose is what the link is for; "": SignIn.
	Purpose string `json:"purpose,omitempty"`
	// Staff have asked in the contact's place; of SetPassword alone. The link lives for
	// StaffLife, and no browser waits for it.
	Staff bool `json:"staff,omitempty"`
	// Again: by the button of the page that waits for an email.
	Again bool `json:"again,omitempty"`

	// Crowded: it comes from where too much is asked for, so no mail is made for it.
	Crowded bool `json:"-"`
	// Reserved: it comes from a known device or an old link, and has a place that others
	// can't take.
	Reserved bool `json:"-"`

	// Known: the contact has signed in on Device. To be found out before Issue.
	Known bool `json:"known,omitempty"`
}

// Purse is what sets the ask apart from those that anybody can make, or "": the device,
// where the contact is known on it; "link", where it comes from an old link, which only
// who reads the contact's mail has; "staff", where these have asked.
func (a Ask) Purse() string {
	switch {
	case a.Staff:
		return "staff"
	case a.Known:
		return a.Device
	case a.Link != "":
		return "link"
	}
	return ""
}

// life is how long the link that comes of it lives; 0: as Tokens.Life says.
func (a Ask) life() time.Duration {
	if a.Staff {
		return StaffLife
	}
	return 0
}

// purpose is Purpose, filled in.
func (a Ask) purpose() string { return cmp.Or(a.Purpose, SignIn) }

// Ask commits a request together with the Ops of the caller, alike for every
// address: nothing is looked up.
func (t *Tokens) Ask(ctx context.Context, a Ask, with ...store.Op) error {
	return t.swapFlow(ctx, a.Browser, func(f *flow) ([]store.Op, error) {
		f.Asks, f.Entered = append(f.Asks, asked{Ask: a}), nil
		f.Asks = f.Asks[max(0, len(f.Asks)-flowAsks):]
		for len(f.Asks) > 1 && f.size() > maxFlow {
			f.Asks = f.Asks[1:]
		}
		place, err := t.takePlace(ctx, a.Browser, f, a)
		return append(place, with...), err
	})
}

// Asked returns what the browser asked for last, or ErrUnknown, also when so many others
// have asked since that it is forgotten.
func (t *Tokens) Asked(ctx context.Context, browser string) (Ask, error) {
	rec, err := t.flows().Find(ctx, browser)
	if err != nil {
		return Ask{}, err
	}
	f := rec.Value
	placed, _, err := t.has(ctx, browser, f.Slot)
	if err != nil {
		return Ask{}, err
	}
	if len(f.Asks) == 0 || !placed {
		return Ask{}, ErrUnknown
	}
	return f.Asks[len(f.Asks)-1].Ask, nil
}

// Issued is a new link and code, for one mail and no log.
type Issued struct {
	ID          string // of the link; for HandOver and GiveUp
	Token, Code string // Code: of SignIn alone
	Ops         []store.Op
}

// Recipient is whom a link and its code are for.
type Recipient struct {
	Contact    string          // ID
	Generation uint64          // the contact's; once they have another one, link and code are over
	Address    address.Address // where the mail goes
}

// Issue makes link and code for a request whose address turned out to be to's. The
// caller applies the Ops together with the mail; store.ErrConflict then means that
// something moved meanwhile: call Issue again. ErrTooMany: MaxLive links work already,
// or wait to be mailed, and none of them is given up for a new one.
func (t *Tokens) Issue(ctx context.Context, a Ask, to Recipient) (Issued, error) {
	contact := to.Contact
	out := Issued{Token: newLinkSecret()}
	out.ID = t.Keys.MAC(linkPurpose, t.Firm, out.Token)
	was, err := t.lives().Find(ctx, contact)
	if err != nil {
		return Issued{}, err
	}
	l := was.Value
	if l.Links, err = t.stillLive(ctx, l.Links); err != nil {
		return Issued{}, err
	}
	if l.links(a.Purse()) >= MaxLive {
		return Issued{}, ErrTooMany
	}
	l.Links = append(l.Links, liveLink{ID: out.ID, Browser: a.Browser, Purse: a.Purse(), Asked: a.At, Life: a.life()})
	liveOp, err := t.writeLive(was, l)
	if err != nil {
		return Issued{}, err
	}
	linkOp, err := t.links().Create(out.ID, Link{Contact: contact, Generation: to.Generation, Address: to.Address, Browser: a.Browser,
		To: a.To, Shared: a.Shared, Asked: a.At, Purpose: a.purpose(), Life: a.life()}, a.At.Add(WayBack))
	if err != nil {
		return Issued{}, err
	}
	out.Ops = []store.Op{liveOp, linkOp}
	if a.purpose() != SignIn {
		return out, nil // no code sets a password: it would be guessed at by who doesn't read the mail
	}
	out.Code = newCode()
	codeOps, err := t.codeOps(ctx, a, to, out)
	out.Ops = append(out.Ops, codeOps...)
	return out, err
}

// codeOps returns the Ops by which the browser that asked learns of the code, and is
// kept from now on.
func (t *Tokens) codeOps(ctx context.Context, a Ask, to Recipient, issued Issued) ([]store.Op, error) {
	was, err := t.flows().Find(ctx, a.Browser)
	if err != nil {
		return nil, err
	}
	f := was.Value
	if !was.Found() {
		f.Asks = []asked{{Ask: a}} // a flood has pushed it out of the ring
	}
	for i := range f.Asks {
		if f.Asks[i].ID != a.ID {
			continue
		}
		f.Asks[i].Code = t.Keys.MAC(codePurpose, t.Firm, a.Browser, a.ID, issued.Code)
		f.Asks[i].Contact, f.Asks[i].Generation, f.Asks[i].Link, f.Asks[i].Known = to.Contact, to.Generation, issued.ID, a.Known
		ops, err := t.keepFlow(ctx, a.Browser, &f)
		if err != nil {
			return nil, err
		}
		op, err := t.writeFlow(was, f)
		return append(ops, op), err
	}
	return nil, nil // it has asked for so much since that it was forgotten
}

// stillLive returns the links that still work, or may yet be mailed, and those whose
// code does.
func (t *Tokens) stillLive(ctx context.Context, links []liveLink) ([]liveLink, error) {
	var still []liveLink
	for _, one := range links {
		h, err := t.handed(ctx, one.ID)
		if err != nil {
			return nil, err
		}
		if t.now().Before(h.free(one.Asked, t.lifeOf(one.Life))) {
			still = append(still, one)
		}
	}
	return still, nil
}

// HandOver returns the Ops that set the life of a link and its code, for the attempt
// at that moment to give the mail to the mail server (accepted: false, applied
// before it) and for its acceptance (true). ErrOver: the link isn't alive any more,
// or Patience is over, so the mail is not to be sent.
func (t *Tokens) HandOver(ctx context.Context, linkID string, at time.Time, accepted bool) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if err != nil {
		return nil, err
	}
	if accepted {
		return ops(t.handedOp(link, handover{was: taken, at: at}))
	}
	if at.After(link.Asked.Add(Patience)) {
		return nil, ErrOver
	}
	rec, err := t.lives().Find(ctx, link.Contact)
	if err != nil {
		return nil, err
	}
	if i := rec.Value.find(linkID); i < 0 || rec.Value.Links[i].Over {
		return nil, ErrOver
	}
	return ops(t.handedOp(link, handover{was: tried, at: at}))
}

// GiveUp returns the Ops for a mail that will not be sent any more, whether or not an
// attempt has been made: a link that can't be in any mailbox doesn't count among the
// MaxLive. One that might be lives as long as that attempt has given it. There are no
// Ops for a link that isn't there: a mail that is over must not wait for it.
func (t *Tokens) GiveUp(ctx context.Context, linkID string) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	h, err := t.handed(ctx, linkID)
	if err != nil || h.was == taken {
		return nil, err
	}
	h.was = givenUp
	return ops(t.handedOp(link, h))
}

// Refused returns the Ops for a mail that the mail server will not take: its link is in
// nobody's mailbox, so it ends and frees its place at once. Like GiveUp, there are none
// for a link that isn't there.
func (t *Tokens) Refused(ctx context.Context, linkID string) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return ops(t.handedOp(link, handover{was: givenUp, at: link.Asked.Add(-HandOverTime - max(MaxLife, link.Life))}))
}

// ops is one Op as a list.
func ops(op store.Op, err error) ([]store.Op, error) { return []store.Op{op}, err }

// lifeOf is the life of a link that has one of its own, or else that of all.
func (t *Tokens) lifeOf(own time.Duration) time.Duration { return cmp.Or(own, t.Life) }

func (t *Tokens) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}
