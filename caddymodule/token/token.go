// Package token issues and spends what a sign-in mail carries: a one-time link, and
// a code to type in the browser that asked.
//
// Three records hold the state. "flow", by browser: what this browser asked for, and
// the MACs of its codes with their guesses. "link", by the MAC of a link's secret:
// whose it is and where it leads; kept for 30 days, so that an old link still knows
// the way back. "live", by contact: which links work now. A link is good if and only
// if it is in "live", and spending it is one compare-and-swap there: of any number
// of simultaneous tries one wins. A fourth record, "handed", by link, says when the
// mail server took the mail, from which the life of link and code is counted.
//
// Spending returns Ops instead of applying them: the caller adds the session's own
// and applies all at once, so a link is used up if and only if somebody is in.
package token

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// What callers decide on. A wrong, burnt, expired or never issued code is one error,
// since the difference would help who guesses.
var (
	ErrUnknown = errors.New("token: no such link")
	ErrOver    = errors.New("token: the link was used, replaced, or ran out")
	ErrCode    = errors.New("token: not a code that works here")
	ErrTooMany = errors.New("token: enough links of this contact are alive")
)

const (
	// MaxLive is how many links of a contact work at a time.
	MaxLive = 3
	// Guesses is how often a code may be tried.
	Guesses = 5
	// Patience is how long after the request a mail may still be handed over.
	Patience = time.Hour
	// WayBack is how long an old link remembers whom to send a new one, and where it led.
	WayBack = 30 * 24 * time.Hour

	flowLife  = 2 * time.Hour // Patience and the longest life of a code
	liveLife  = 48 * time.Hour
	flowAsks  = 5               // so many requests of one browser are remembered
	sending   = 2 * time.Minute // how long one hand-over may take
	linkBytes = 43              // 256 bits in base64url
)

// Tokens are the links and codes of one firm. All methods may be called from many
// goroutines.
type Tokens struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Life  time.Duration    // of a link and its code, from each hand-over to the mail server
	Now   func() time.Time // the clock; nil: time.Now
}

// Ask is one request for a sign-in mail, as a browser made it.
type Ask struct {
	ID      string          `json:"id"`
	Address address.Address `json:"address"`
	Hidden  bool            `json:"hidden,omitempty"` // not typed in this browser, so shown in part only
	To      string          `json:"to"`               // where to go once in: a path on this site
	Shared  bool            `json:"shared,omitempty"` // a shared computer
	Browser string          `json:"browser"`          // see BrowserOf
	Agent   string          `json:"agent,omitempty"`  // the browser in words
	At      time.Time       `json:"at"`
}

// Link says whose a link is and where it leads.
type Link struct {
	ID      string          `json:"-"` // the MAC of its secret
	Contact string          `json:"contact"`
	Address address.Address `json:"address"` // where the mail went
	Browser string          `json:"browser"` // the browser that asked
	To      string          `json:"to"`
	Shared  bool            `json:"shared,omitempty"`
	Asked   time.Time       `json:"asked"`
	Purpose string          `json:"purpose"`
}

// Grant is a proof that was accepted: sign this contact in.
type Grant struct {
	Contact string
	Address address.Address // the address that was proved
	To      string
	Shared  bool
	Method  string // "link" or "code"
	Ops     []store.Op
}

type flow struct {
	Asks  []asked `json:"asks"`
	Nonce string  `json:"nonce"` // makes every value differ, so that a compare-and-swap can't be fooled
}

type asked struct {
	Ask
	Code    string `json:"code,omitempty"` // MAC of the code, once there is one
	Contact string `json:"contact,omitempty"`
	Link    string `json:"link,omitempty"`
	Epoch   string `json:"epoch,omitempty"` // of the contact's live record when the code was made
	Guesses int    `json:"guesses"`
}

type live struct {
	Links []liveLink `json:"links"`
	Epoch string     `json:"epoch"` // changes when everything ends that is on its way to the contact
	Nonce string     `json:"nonce"`
}

type liveLink struct {
	ID    string    `json:"id"`
	Asked time.Time `json:"asked"`
	Tries int       `json:"tries,omitempty"` // wrong addresses typed on its page
}

// BrowserOf returns what stands for a browser in the store: the hash of its
// 256-bit cookie.
func BrowserOf(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Ask commits a request together with the Ops of the caller, alike for every
// address: nothing is looked up.
func (t *Tokens) Ask(ctx context.Context, a Ask, with ...store.Op) error {
	return t.swapFlow(ctx, a.Browser, func(f *flow) ([]store.Op, error) {
		f.Asks = append(f.Asks, asked{Ask: a})
		f.Asks = f.Asks[max(0, len(f.Asks)-flowAsks):]
		return with, nil
	})
}

// Asked returns what the browser asked for last, or ErrUnknown.
func (t *Tokens) Asked(ctx context.Context, browser string) (Ask, error) {
	f, _, err := t.flow(ctx, browser)
	if err != nil {
		return Ask{}, err
	}
	if len(f.Asks) == 0 {
		return Ask{}, ErrUnknown
	}
	return f.Asks[len(f.Asks)-1].Ask, nil
}

// Issued is a new link and code, for one mail and no log.
type Issued struct {
	ID          string // of the link; for HandOver
	Token, Code string
	Ops         []store.Op
}

// Issue makes link and code for a request whose address turned out to be to's. The
// caller applies the Ops together with the mail. ErrTooMany: MaxLive links work
// already, and none of them is given up for a new one.
func (t *Tokens) Issue(ctx context.Context, a Ask, contact string, to address.Address) (Issued, error) {
	out := Issued{Token: secret.Random(), Code: newCode()}
	out.ID = t.linkID(out.Token)
	l, was, err := t.live(ctx, contact)
	if err != nil {
		return Issued{}, err
	}
	if l.Links, err = t.stillLive(ctx, l.Links); err != nil {
		return Issued{}, err
	}
	if len(l.Links) >= MaxLive {
		return Issued{}, ErrTooMany
	}
	if l.Epoch == "" {
		l.Epoch = rand.Text()
	}
	l.Links = append(l.Links, liveLink{ID: out.ID, Asked: a.At})
	link := Link{Contact: contact, Address: to, Browser: a.Browser, To: a.To, Shared: a.Shared, Asked: a.At, Purpose: signIn}
	sealed, err := t.seal(t.key("link", out.ID), link)
	if err != nil {
		return Issued{}, err
	}
	liveOp, err := t.liveOp(contact, was, l)
	if err != nil {
		return Issued{}, err
	}
	out.Ops = []store.Op{liveOp, store.Create(t.key("link", out.ID), sealed, a.At.Add(WayBack))}

	f, wasFlow, err := t.flow(ctx, a.Browser)
	if err != nil {
		return Issued{}, err
	}
	for i := range f.Asks {
		if f.Asks[i].ID == a.ID {
			f.Asks[i].Code, f.Asks[i].Contact = t.codeMAC(a.Browser, a.ID, out.Code), contact
			f.Asks[i].Link, f.Asks[i].Epoch = out.ID, l.Epoch
			op, err := t.flowOp(a.Browser, wasFlow, f)
			if err != nil {
				return Issued{}, err
			}
			out.Ops = append(out.Ops, op)
		}
	}
	return out, nil
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
	start := at
	if !accepted {
		// If we die before we hear the answer, the link must have lived long enough.
		start = at.Add(sending)
		if at.After(link.Asked.Add(Patience)) {
			return nil, ErrOver
		}
		l, _, err := t.live(ctx, link.Contact)
		if err != nil {
			return nil, err
		}
		if find(l.Links, linkID) < 0 {
			return nil, ErrOver
		}
	}
	value := strconv.AppendInt(nil, start.UnixMilli(), 10)
	return []store.Op{store.Put(t.key("handed", linkID), value, link.Asked.Add(liveLife))}, nil
}

// Peek returns what a link is without spending it. The error is ErrUnknown when
// there is none (the Link is empty), ErrOver when it works no longer (the Link says
// whose it was and where it led), or the store's.
func (t *Tokens) Peek(ctx context.Context, token string) (Link, error) {
	link, _, _, err := t.look(ctx, token)
	return link, err
}

func (t *Tokens) look(ctx context.Context, token string) (link Link, l live, was []byte, err error) {
	if len(token) != linkBytes {
		return Link{}, l, nil, ErrUnknown
	}
	for _, id := range t.Keys.MACs(linkPurpose, t.Firm, token) {
		if link, err = t.link(ctx, id); !errors.Is(err, ErrUnknown) {
			break
		}
	}
	if err != nil {
		return Link{}, l, nil, err
	}
	if link.Purpose != signIn {
		return Link{}, l, nil, ErrUnknown
	}
	if l, was, err = t.live(ctx, link.Contact); err != nil {
		return Link{}, l, nil, err
	}
	i := find(l.Links, link.ID)
	if i < 0 || l.Links[i].Tries >= Guesses {
		return link, l, was, ErrOver
	}
	until, err := t.until(ctx, link.ID, link.Asked)
	if err == nil && !t.now().Before(until) {
		err = ErrOver
	}
	return link, l, was, err
}

// Spend returns the grant of a live link for the browser that opened it. Its Ops end
// every link of the contact, and the asking browser's code too if it is the one that
// opened the link. Errors are those of Peek; store.ErrConflict when the Ops are
// applied means that another was faster: call Spend again, it will say ErrOver.
func (t *Tokens) Spend(ctx context.Context, token, browser string) (Grant, error) {
	link, l, was, err := t.look(ctx, token)
	if err != nil {
		return Grant{}, err
	}
	g := Grant{Contact: link.Contact, Address: link.Address, To: link.To, Shared: link.Shared, Method: "link"}
	l.Links = nil
	op, err := t.liveOp(link.Contact, was, l)
	if err != nil {
		return Grant{}, err
	}
	g.Ops = []store.Op{op}
	if browser != link.Browser {
		return g, nil
	}
	f, wasFlow, err := t.flow(ctx, browser)
	if err != nil || len(wasFlow) == 0 {
		return g, err
	}
	op, err = t.flowOp(browser, wasFlow, f.without(link.Contact))
	g.Ops = append(g.Ops, op)
	return g, err
}

// WrongAddress counts an address typed on a link's page that wasn't the link's. After
// Guesses of them the link is over.
func (t *Tokens) WrongAddress(ctx context.Context, link Link) error {
	return store.Swap(ctx, t.Store, t.key("live", link.Contact), func(was []byte) ([]byte, time.Time, []store.Op, error) {
		l, err := t.openLive(link.Contact, was)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		if i := find(l.Links, link.ID); i >= 0 {
			l.Links[i].Tries++
		}
		value, err := t.sealLive(link.Contact, l)
		return value, t.now().Add(liveLife), nil, err
	})
}

// Guess tries a code in the browser that asked. The try is counted in the store
// before it is judged, so that parallel tries get no more than Guesses. ErrCode is
// every failure that isn't the store's.
func (t *Tokens) Guess(ctx context.Context, browser, typed string) (Grant, error) {
	code, ok := normalCode(typed)
	if !ok {
		return Grant{}, ErrCode
	}
	var judged []asked
	err := t.swapFlow(ctx, browser, func(f *flow) ([]store.Op, error) {
		judged = judged[:0]
		if len(f.Asks) == 0 {
			return nil, ErrCode
		}
		for i := range f.Asks {
			if f.Asks[i].Guesses < Guesses {
				f.Asks[i].Guesses++
				judged = append(judged, f.Asks[i])
			}
		}
		return nil, nil
	})
	if err != nil {
		return Grant{}, err
	}
	var right *asked
	for i := range judged {
		// The same work whether or not there is a code: who asked for an unknown
		// address must not see the difference.
		until, err := t.until(ctx, judged[i].Link, judged[i].At)
		if err != nil {
			return Grant{}, err
		}
		same := hmac.Equal([]byte(judged[i].Code), []byte(t.codeMAC(browser, judged[i].ID, code)))
		if same && t.now().Before(until) {
			right = &judged[i]
		}
	}
	if right == nil {
		return Grant{}, ErrCode
	}
	return t.spendCode(ctx, browser, right)
}

func (t *Tokens) spendCode(ctx context.Context, browser string, a *asked) (Grant, error) {
	f, wasFlow, err := t.flow(ctx, browser)
	if err != nil {
		return Grant{}, err
	}
	still := false
	for _, one := range f.Asks {
		still = still || one.ID == a.ID
	}
	l, was, err := t.live(ctx, a.Contact)
	if err != nil {
		return Grant{}, err
	}
	if !still || l.Epoch != a.Epoch {
		return Grant{}, ErrCode
	}
	l.Links = nil
	liveOp, err := t.liveOp(a.Contact, was, l)
	if err != nil {
		return Grant{}, err
	}
	flowOp, err := t.flowOp(browser, wasFlow, f.without(a.Contact))
	return Grant{Contact: a.Contact, Address: a.Address, To: a.To, Shared: a.Shared, Method: "code",
		Ops: []store.Op{liveOp, flowOp}}, err
}

// EndAll returns the Op that ends every link and code on its way to a contact.
func (t *Tokens) EndAll(contact string) (store.Op, error) {
	value, err := t.sealLive(contact, live{Epoch: rand.Text()})
	return store.Put(t.key("live", contact), value, t.now().Add(liveLife)), err
}

// stillLive returns the links that still work.
func (t *Tokens) stillLive(ctx context.Context, links []liveLink) ([]liveLink, error) {
	var still []liveLink
	for _, one := range links {
		until, err := t.until(ctx, one.ID, one.Asked)
		if err != nil {
			return nil, err
		}
		if t.now().Before(until) && one.Tries < Guesses {
			still = append(still, one)
		}
	}
	return still, nil
}

// until returns when a link and its code end: Life after the last hand-over, or, for
// a mail that still waits, as late as its hand-over could make it.
func (t *Tokens) until(ctx context.Context, linkID string, asked time.Time) (time.Time, error) {
	if linkID == "" {
		linkID = "none"
	}
	rec, err := t.Store.Get(ctx, t.key("handed", linkID))
	if errors.Is(err, store.ErrNotFound) {
		return asked.Add(Patience + t.Life), nil
	} else if err != nil {
		return time.Time{}, err
	}
	ms, err := strconv.ParseInt(string(rec.Value), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading when a mail was handed over: %w", err)
	}
	return time.UnixMilli(ms).Add(t.Life), nil
}

func (t *Tokens) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}

const (
	signIn      = "sign-in"
	linkPurpose = "link"
)

func (t *Tokens) linkID(token string) string { return t.Keys.MAC(linkPurpose, t.Firm, token) }

func (t *Tokens) codeMAC(browser, ask, code string) string {
	return t.Keys.MAC("code", t.Firm, browser, ask, code)
}

func find(links []liveLink, id string) int {
	for i := range links {
		if links[i].ID == id {
			return i
		}
	}
	return -1
}

// without returns the flow less what was asked for the contact.
func (f flow) without(contact string) flow {
	var rest []asked
	for _, one := range f.Asks {
		if one.Contact != contact {
			rest = append(rest, one)
		}
	}
	return flow{Asks: rest}
}

// alphabet is Crockford's base 32: no i, l, o or u, so that nothing can be misread.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newCode returns 40 random bits as abcd-efgh.
func newCode() string {
	var b [8]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	for i := range b {
		b[i] = alphabet[b[i]&31]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

// normalCode forgives what people do to a code on its way from a mail to a form.
func normalCode(typed string) (string, bool) {
	if len(typed) > 256 {
		return "", false
	}
	code := strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			r += 'a' - 'A'
		case r == '-' || r == '_' || r == '.' || r == ' ' || r == '\t' || r == '\r' || r == '\n' ||
			r >= 0x2010 && r <= 0x2015 || r == 0x00a0 || r >= 0x2000 && r <= 0x200f || r == 0x202f || r == 0xfeff:
			return -1
		}
		switch r {
		case 'o':
			return '0'
		case 'i', 'l':
			return '1'
		}
		return r
	}, typed)
	if len(code) != 8 || strings.Trim(code, alphabet) != "" {
		return "", false
	}
	return code[:4] + "-" + code[4:], true
}

func (t *Tokens) key(bucket, id string) store.Key {
	return store.Key{Firm: t.Firm, Bucket: bucket, ID: id}
}

const version = '1' // first byte of every sealed value of ours

func (t *Tokens) seal(k store.Key, v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append([]byte{version}, t.Keys.Seal("token", k.Firm+"\x00"+k.Bucket+"\x00"+k.ID, plain)...), nil
}

func (t *Tokens) open(k store.Key, value []byte, v any) error {
	if len(value) == 0 || value[0] != version {
		return fmt.Errorf("%s record of another version: %w", k.Bucket, store.ErrUnavailable)
	}
	plain, err := t.Keys.Open("token", k.Firm+"\x00"+k.Bucket+"\x00"+k.ID, value[1:])
	if err != nil {
		return fmt.Errorf("opening a %s record: %w", k.Bucket, err)
	}
	return json.Unmarshal(plain, v)
}

func (t *Tokens) link(ctx context.Context, id string) (Link, error) {
	var link Link
	rec, err := t.Store.Get(ctx, t.key("link", id))
	if errors.Is(err, store.ErrNotFound) {
		return link, ErrUnknown
	} else if err != nil {
		return link, err
	}
	err = t.open(rec.Key, rec.Value, &link)
	link.ID = id
	return link, err
}

func (t *Tokens) live(ctx context.Context, contact string) (live, []byte, error) {
	rec, err := t.Store.Get(ctx, t.key("live", contact))
	if errors.Is(err, store.ErrNotFound) {
		return live{}, nil, nil
	} else if err != nil {
		return live{}, nil, err
	}
	l, err := t.openLive(contact, rec.Value)
	return l, rec.Value, err
}

func (t *Tokens) openLive(contact string, value []byte) (l live, err error) {
	if value != nil {
		err = t.open(t.key("live", contact), value, &l)
	}
	return l, err
}

func (t *Tokens) sealLive(contact string, l live) ([]byte, error) {
	l.Nonce = rand.Text()
	return t.seal(t.key("live", contact), l)
}

func (t *Tokens) liveOp(contact string, was []byte, l live) (store.Op, error) {
	value, err := t.sealLive(contact, l)
	return swapOp(t.key("live", contact), was, value, t.now().Add(liveLife)), err
}

func (t *Tokens) flow(ctx context.Context, browser string) (flow, []byte, error) {
	var f flow
	k := t.key("flow", browser)
	rec, err := t.Store.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return f, nil, nil
	} else if err != nil {
		return f, nil, err
	}
	return f, rec.Value, t.open(k, rec.Value, &f)
}

func (t *Tokens) flowOp(browser string, was []byte, f flow) (store.Op, error) {
	f.Nonce = rand.Text()
	value, err := t.seal(t.key("flow", browser), f)
	return swapOp(t.key("flow", browser), was, value, t.now().Add(flowLife)), err
}

func (t *Tokens) swapFlow(ctx context.Context, browser string, change func(*flow) ([]store.Op, error)) error {
	k := t.key("flow", browser)
	return store.Swap(ctx, t.Store, k, func(was []byte) ([]byte, time.Time, []store.Op, error) {
		var f flow
		if was != nil {
			if err := t.open(k, was, &f); err != nil {
				return nil, time.Time{}, nil, err
			}
		}
		more, err := change(&f)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		f.Nonce = rand.Text()
		value, err := t.seal(k, f)
		return value, t.now().Add(flowLife), more, err
	})
}

func swapOp(k store.Key, was, value []byte, expires time.Time) store.Op {
	if was == nil {
		return store.Create(k, value, expires)
	}
	return store.Replace(k, was, value, expires)
}
