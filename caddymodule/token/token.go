// Package token issues and consumes the two secrets in a sign-in mail: a one-time link, and a code
// to type in the browser that requested the mail.
//
// Sealed records hold the state:
//   - "flow", by browser: its mail requests, the MACs of its codes, and the guesses at them. Until a
//     mail was made for it, a flow occupies a slot in a ring (ring.go), since anybody can request mails.
//   - "link", by the MAC of a link's secret: the link's contact and target. It is stored for 30 days,
//     so that an expired link still leads to a request for a new one.
//   - "live", by contact: the active links and codes.
//   - "handed-over", by link: when the mail server accepted the mail. The life of link and code begins
//     then.
//   - "tries", by contact: the guesses at the contact's codes in all browsers (guesses.go).
//
// Records that Doorpost did not seal are ignored.
//
// A link is active only if "live" lists it and its mail was handed over. The same holds for its
// code. Consuming either is one compare-and-swap of "live", so of any number of simultaneous
// attempts one succeeds.
//
// Spend and Guess return Ops instead of applying them. The caller adds the session's Ops and
// applies all in one transaction, so a link is consumed only together with a successful sign-in.
//
// Read Ask, Issue and HandOver here to see how a link comes about; then spend.go (the link),
// code.go (the code) and records.go (how everything is stored).
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

// Errors that callers handle, besides ShapeError. A code that is wrong, expired, was never issued
// or has no guesses left gives the same error, since the difference would help an attacker.
var (
	ErrUnknown   = errors.New("token: unknown link")
	ErrInactive  = errors.New("token: the link was used or replaced, or has expired")
	ErrWrongCode = errors.New("token: wrong code")
	ErrTooMany   = errors.New("token: too many active links of this contact")
)

const (
	// MaxActive is how many links of a contact may be active at a time, for each MailRequest.LimitKey. Requests
	// from unknown browsers therefore cannot block those of the contact's own devices.
	MaxActive = 3
	// MaxGuesses is how often a code may be tried, and an address on a link's page.
	MaxGuesses = 5
	// MaxMailDelay is how long after the request the mail may still be handed over.
	MaxMailDelay = time.Hour
	// StaffLife is how long a password link sent by staff works: their client may read mail only
	// once a day. NIST SP 800-63B-4, section 4.2.1.2, allows as much for a code sent by mail.
	StaffLife = 24 * time.Hour
	// LinkRetention is how long an expired link is remembered, so that its page can offer a new one.
	LinkRetention = 30 * 24 * time.Hour
	// MaxLife is the maximum of Tokens.Life.
	MaxLife = time.Hour
	// HandOverTime is the maximum time to hand one mail over to the mail server. If no answer
	// arrived, the life of the link is counted from the end of this time.
	HandOverTime = 2 * time.Minute

	recordLife  = MaxMailDelay + 2*HandOverTime + MaxLife // how long the records flow, live and handed-over are needed
	maxRequests = 5                                       // number of requests of a browser that are stored
)

// Tokens are the links and codes of one firm. All methods are safe for concurrent use. Several
// Tokens may use one store.
type Tokens struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Life  time.Duration    // life of a link and its code, from each hand-over to the mail server; at most MaxLife
	Now   func() time.Time // the clock; nil: time.Now
	Ring  *Ring            // assigns slots to new browsers; nil: random slots

	// OnUntrusted is called for records that Doorpost did not seal; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

func (t *Tokens) EndEverything(ctx context.Context) error {
	if _, err := store.Clear(ctx, t.Store, t.Firm, activeBucket); err != nil {
		return fmt.Errorf("end all links: %w", err)
	}
	return nil
}

// MailRequest is one request for a sign-in mail.
type MailRequest struct {
	ID      string          `json:"id"`
	Address address.Address `json:"address"`
	Hidden  bool            `json:"hidden,omitempty"` // the visitor didn't type the address in this browser, so pages show only a part of it
	Link    string          `json:"link,omitempty"`   // with Hidden: the old link that gave the address
	To      string          `json:"to"`               // where to go after the sign-in: a path on this site
	Site    string          `json:"site,omitempty"`   // origin of another site of the firm, to which the link leads; "": the firm's own
	Shared  bool            `json:"shared,omitempty"` // on a shared computer
	Browser string          `json:"browser"`          // see BrowserOf
	Agent   string          `json:"agent,omitempty"`  // the browser in plain words
	IP      netip.Addr      `json:"ip,omitzero"`      // client address, if known
	Device  string          `json:"device,omitempty"` // ID of the device, if it has one
	At      time.Time       `json:"at"`

	// Languages are those that the browser accepts, as action.Browser has them.
	Languages string `json:"languages,omitempty"`

	// Purpose of the link; "": SignIn.
	Purpose string `json:"purpose,omitempty"`
	// Staff requested the mail for the contact; only with SetPassword. The link works for
	// StaffLife, and no browser waits for it.
	Staff bool `json:"staff,omitempty"`
	// Again: the visitor pressed "send again" on the page that waits for the mail.
	Again bool `json:"again,omitempty"`

	// Limited: the client's network is over its limit, so no mail is made.
	Limited bool `json:"-"`
	// Reserved: the request comes from a known device or an old link, and gets one of the slots
	// reserved for these.
	Reserved bool `json:"-"`

	// Known: the contact has signed in on Device before. Set it before Issue.
	Known bool `json:"known,omitempty"`
}

// LimitKey returns the key under which the request's links count against MaxLive. It is the device if
// the contact is known on it, "link" if the request comes from an old link (only the contact's
// mailbox has it), "staff" if staff made the request, and "" for requests that anybody can make.
func (a MailRequest) LimitKey() string {
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

// life returns how long the link works; 0: Tokens.Life.
func (a MailRequest) life() time.Duration {
	if a.Staff {
		return StaffLife
	}
	return 0
}

// purpose returns Purpose, or SignIn if it is empty.
func (a MailRequest) purpose() string { return cmp.Or(a.Purpose, SignIn) }

// MailRequest stores a request and applies the caller's Ops in the same transaction. It does the same work
// for every address: it doesn't look the address up.
func (t *Tokens) Request(ctx context.Context, a MailRequest, with ...store.Op) error {
	return t.swapFlow(ctx, a.Browser, func(f *flow) ([]store.Op, error) {
		f.Requests, f.Entered = append(f.Requests, request{MailRequest: a}), nil
		f.Requests = f.Requests[max(0, len(f.Requests)-maxRequests):]
		for len(f.Requests) > 1 && f.size() > maxFlow {
			f.Requests = f.Requests[1:]
		}
		place, err := t.takeSlot(ctx, a.Browser, f, a)
		return append(place, with...), err
	})
}

// LastRequest returns the browser's latest request. It returns ErrUnknown if there is none, or if the
// ring has given the flow's slot to another browser since.
func (t *Tokens) LastRequest(ctx context.Context, browser string) (MailRequest, error) {
	rec, err := t.flows().Find(ctx, browser)
	if err != nil {
		return MailRequest{}, err
	}
	f := rec.Value
	placed, _, err := t.hasSlot(ctx, browser, f.Slot)
	if err != nil {
		return MailRequest{}, err
	}
	if len(f.Requests) == 0 || !placed {
		return MailRequest{}, ErrUnknown
	}
	return f.Requests[len(f.Requests)-1].MailRequest, nil
}

// Issued is a new link and code. Put Token and Code only into the mail, never into a log.
type Issued struct {
	ID          string // of the link; for HandOver and GiveUp
	Token, Code string // Code: only for SignIn
	Ops         []store.Op
}

// Recipient is the contact to whom a link and its code belong.
type Recipient struct {
	Contact    string          // ID
	Generation uint64          // the contact's; link and code end when the contact gets another one
	Address    address.Address // where the mail goes
}

// Issue makes a link and a code for a request whose address belongs to the contact to. The caller
// applies the Ops in the transaction that queues the mail. If the store returns store.ErrConflict,
// a record has changed meanwhile: call Issue again. ErrTooMany: MaxLive links are active or wait to
// be mailed; Issue ends none of them for the new one.
func (t *Tokens) Issue(ctx context.Context, a MailRequest, to Recipient) (Issued, error) {
	contact := to.Contact
	out := Issued{Token: newLinkSecret()}
	out.ID = t.Keys.MAC(linkPurpose, t.Firm, out.Token)
	was, err := t.active().Find(ctx, contact)
	if err != nil {
		return Issued{}, err
	}
	l := was.Value
	if l.Links, err = t.stillActive(ctx, l.Links); err != nil {
		return Issued{}, err
	}
	if l.count(a.LimitKey()) >= MaxActive {
		return Issued{}, ErrTooMany
	}
	l.Links = append(l.Links, activeLink{ID: out.ID, Browser: a.Browser, LimitKey: a.LimitKey(), RequestedAt: a.At, Life: a.life()})
	liveOp, err := t.writeActive(was, l)
	if err != nil {
		return Issued{}, err
	}
	linkOp, err := t.links().Create(out.ID, Link{Contact: contact, Generation: to.Generation, Address: to.Address, Browser: a.Browser,
		To: a.To, Shared: a.Shared, RequestedAt: a.At, Purpose: a.purpose(), Life: a.life()}, a.At.Add(LinkRetention))
	if err != nil {
		return Issued{}, err
	}
	out.Ops = []store.Op{liveOp, linkOp}
	if a.purpose() != SignIn {
		return out, nil // no code for passwords: an attacker without the mailbox could guess it
	}
	out.Code = newCode()
	codeOps, err := t.codeOps(ctx, a, to, out)
	out.Ops = append(out.Ops, codeOps...)
	return out, err
}

// codeOps returns the Ops that add the code to the browser's flow and store the flow until it
// expires.
func (t *Tokens) codeOps(ctx context.Context, a MailRequest, to Recipient, issued Issued) ([]store.Op, error) {
	was, err := t.flows().Find(ctx, a.Browser)
	if err != nil {
		return nil, err
	}
	f := was.Value
	if !was.Found() {
		f.Requests = []request{{MailRequest: a}} // the flow was pushed out of the ring
	}
	for i := range f.Requests {
		if f.Requests[i].ID != a.ID {
			continue
		}
		f.Requests[i].Code = t.Keys.MAC(codePurpose, t.Firm, a.Browser, a.ID, issued.Code)
		f.Requests[i].Contact, f.Requests[i].Generation, f.Requests[i].Link, f.Requests[i].Known = to.Contact, to.Generation, issued.ID, a.Known
		ops, err := t.keepFlow(ctx, a.Browser, &f)
		if err != nil {
			return nil, err
		}
		op, err := t.writeFlow(was, f)
		return append(ops, op), err
	}
	return nil, nil // more than maxRequests requests followed, so this one was dropped
}

// stillActive returns the links that are active or may still be mailed, and those whose code is
// active.
func (t *Tokens) stillActive(ctx context.Context, links []activeLink) ([]activeLink, error) {
	var still []activeLink
	for _, one := range links {
		h, err := t.handover(ctx, one.ID)
		if err != nil {
			return nil, err
		}
		if t.now().Before(h.freeAt(one.RequestedAt, t.lifeOf(one.Life))) {
			still = append(still, one)
		}
	}
	return still, nil
}

// HandOver returns the Ops that set the life of a link and its code. Apply those for accepted false
// before each attempt to hand the mail over, and those for accepted true when the mail server has
// accepted it. ErrOver: the link is no longer active or Patience has passed, so don't send the
// mail.
func (t *Tokens) HandOver(ctx context.Context, linkID string, at time.Time, accepted bool) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if err != nil {
		return nil, err
	}
	if accepted {
		return ops(t.putHandover(link, handover{state: delivered, at: at}))
	}
	if at.After(link.RequestedAt.Add(MaxMailDelay)) {
		return nil, ErrInactive
	}
	rec, err := t.active().Find(ctx, link.Contact)
	if err != nil {
		return nil, err
	}
	if i := rec.Value.find(linkID); i < 0 || rec.Value.Links[i].Consumed {
		return nil, ErrInactive
	}
	return ops(t.putHandover(link, handover{state: attempted, at: at}))
}

// GiveUp returns the Ops for a mail that will not be attempted again. If the mail can't be in any
// mailbox, its link no longer counts against MaxLive; otherwise the link works as long as its last
// attempt allows. GiveUp returns no Ops if the link doesn't exist, so that the mail can be dropped.
func (t *Tokens) GiveUp(ctx context.Context, linkID string) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	h, err := t.handover(ctx, linkID)
	if err != nil || h.state == delivered {
		return nil, err
	}
	h.state = givenUp
	return ops(t.putHandover(link, h))
}

// Refused returns the Ops for a mail that the mail server rejected for good. Its link is in no
// mailbox, so it ends at once and no longer counts against MaxLive. Refused returns no Ops if the
// link doesn't exist.
func (t *Tokens) Refused(ctx context.Context, linkID string) ([]store.Op, error) {
	link, err := t.link(ctx, linkID)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return ops(t.putHandover(link, handover{state: givenUp, at: link.RequestedAt.Add(-HandOverTime - max(MaxLife, link.Life))}))
}

func ops(op store.Op, err error) ([]store.Op, error) { return []store.Op{op}, err }

// lifeOf returns the link's own life, or Tokens.Life if it has none.
func (t *Tokens) lifeOf(own time.Duration) time.Duration { return cmp.Or(own, t.Life) }

func (t *Tokens) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}
