package token

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Buckets; see the package's doc.
const (
	flowBucket   = "flow"
	linkBucket   = "link"
	activeBucket = "live"
	handedBucket = "handed-over"
	ringBucket   = "ring"
	triesBucket  = "tries"
)

const (
	// SignIn and SetPassword are the purposes of a link: Link.Purpose, MailRequest.Purpose.
	SignIn      = "sign-in"
	SetPassword = "set-password"

	linkPurpose  = "link" // of MACs
	codePurpose  = "code"
	phonePurpose = "phone code"
	dummyPurpose = "nobody"
	sealPurpose  = "token" // of sealed records of earlier releases

	format       = 2               // of sealed records
	version      = '1'             // first byte of values of earlier releases, and of the ring's
	maxClockSkew = 5 * time.Minute // between two machines
)

// BrowserOf returns the browser's ID in the store: the hash of its 256-bit cookie.
func BrowserOf(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// flow holds a browser's mail requests, the latest last.
type flow struct {
	Requests []request `json:"asks"`
	Slot     string    `json:"slot,omitempty"` // in the ring; another browser may have taken it since
	Until    time.Time `json:"until,omitzero"` // end of the slot; see ringLife
	Kept     bool      `json:"kept,omitempty"` // a mail was made for it, so it stays when another browser takes the slot

	Phone *request `json:"phone,omitempty"` // for the code that staff read out; nil: none

	Entered *Entered `json:"entered,omitempty"` // see Tokens.Entered; nil: none
}

// expires returns when the flow is no longer needed or its slot in the ring ends.
func (f flow) expires(now time.Time) time.Time {
	end := now.Add(recordLife)
	if !f.Until.IsZero() && f.Until.Before(end) {
		return f.Until
	}
	return end
}

type request struct {
	MailRequest
	Code       string `json:"code,omitempty"` // MAC of the code; "": none yet
	Contact    string `json:"contact,omitempty"`
	Generation uint64 `json:"generation,omitempty"` // the contact's when the mail was made
	Link       string `json:"for,omitempty"`        // ID of the link in the same mail
	Guesses    int    `json:"guesses"`
	Phone      bool   `json:"phone,omitempty"` // the code is read out over the phone; see IssueByPhone
}

// codePurpose is the purpose of the MAC of the request's code.
func (a request) codePurpose() string {
	if a.Phone {
		return phonePurpose
	}
	return codePurpose
}

// codeLife is the life of the request's code; 0: Tokens.Life.
func (a request) codeLife() time.Duration {
	if a.Phone {
		return PhoneLife
	}
	return 0
}

// without returns the flow without the requests for the contact.
func (f flow) without(contact string) flow {
	var rest []request
	for _, one := range f.Requests {
		if one.Contact != contact {
			rest = append(rest, one)
		}
	}
	f.Requests = rest
	if f.Phone != nil && f.Phone.Contact == contact {
		f.Phone = nil
	}
	return f
}

// activeLinks are the active links and codes of a contact.
type activeLinks struct {
	Links []activeLink `json:"links"`
}

type activeLink struct {
	ID          string    `json:"id"`
	Browser     string    `json:"browser"`         // that requested it
	LimitKey    string    `json:"purse,omitempty"` // see MailRequest.LimitKey
	RequestedAt time.Time `json:"asked"`
	Tries       int       `json:"tries,omitempty"` // addresses compared on its page
	Consumed    bool      `json:"over,omitempty"`  // the link is used up, but its code isn't

	Life time.Duration `json:"life,omitempty"` // its own; 0: Tokens.Life
}

// expires returns when the record is no longer needed.
func (l activeLinks) expires(now time.Time) time.Time {
	end := now.Add(recordLife)
	for _, one := range l.Links {
		if own := one.RequestedAt.Add(recordLife + one.Life); own.After(end) {
			end = own
		}
	}
	return end
}

// without returns the links that the browser has not requested ("": all).
func (l activeLinks) without(browser string) activeLinks {
	var rest activeLinks
	for _, one := range l.Links {
		if browser == "" || one.Browser != browser {
			rest.Links = append(rest.Links, one)
		}
	}
	return rest
}

// find returns the index of a link, or -1.
func (l activeLinks) find(id string) int {
	for i := range l.Links {
		if l.Links[i].ID == id {
			return i
		}
	}
	return -1
}

// count returns the number of links of a limit key that aren't consumed.
func (l activeLinks) count(purse string) (n int) {
	for _, one := range l.Links {
		if !one.Consumed && one.LimitKey == purse {
			n++
		}
	}
	return n
}

// handover is the last known state of a mail's hand-over.
type handover struct {
	state handoverState
	at    time.Time
}

type handoverState byte

const (
	waiting   handoverState = 'w' // for the first attempt; not stored
	attempted handoverState = 't' // the server may have accepted it, or another attempt follows
	delivered handoverState = 'a'
	givenUp   handoverState = 'g' // like attempted, but no attempt follows
)

// endsAt returns when link and code end: life after the mail server accepted the mail. If the
// process ended before the server's answer, it is the latest time at which the server may
// have accepted the mail, plus life.
func (h handover) endsAt(asked time.Time, life time.Duration) time.Time {
	switch h.state {
	case delivered:
		return h.at.Add(life)
	case attempted, givenUp:
		return h.at.Add(HandOverTime + life)
	default:
		return asked.Add(MaxMailDelay + HandOverTime + life)
	}
}

// freeAt returns when the link no longer counts against MaxLive: after the last possible
// attempt has run out.
func (h handover) freeAt(asked time.Time, life time.Duration) time.Time {
	if h.state == attempted {
		h.state = waiting
	}
	return h.endsAt(asked, life)
}

// active reports whether link and code work now. Those of a waiting mail don't: nobody can
// have them yet, and losing a record must not make other links last longer. A hand-over in
// the future was recorded before the clock was set back by an unknown amount; it may have
// ended, so it isn't active.
func (h handover) active(asked time.Time, life time.Duration, now time.Time) bool {
	return h.state != waiting && now.Before(h.endsAt(asked, life)) && !h.at.After(now.Add(maxClockSkew))
}

// handoverRecord is a handover in the store.
type handoverRecord struct {
	Was string    `json:"was"`
	At  time.Time `json:"at"`
}

// handover returns the state of a link's mail. It costs one read for every ID.
func (t *Tokens) handover(ctx context.Context, linkID string) (handover, error) {
	rec, err := t.handovers().Find(ctx, cmp.Or(linkID, "none"))
	h := rec.Value
	if err != nil || len(h.Was) != 1 {
		return handover{state: waiting}, err
	}
	return handover{state: handoverState(h.Was[0]), at: h.At}, nil
}

func (t *Tokens) putHandover(link Link, h handover) (store.Op, error) {
	return t.handovers().Put(link.ID, handoverRecord{string(h.state), h.at.UTC().Round(0)}, link.RequestedAt.Add(recordLife+link.Life))
}

// link returns the link with the ID, or ErrUnknown.
func (t *Tokens) link(ctx context.Context, id string) (Link, error) {
	rec, err := t.links().Find(ctx, id)
	if err != nil {
		return Link{}, err
	}
	link := rec.Value
	if link.Contact == "" {
		return Link{}, ErrUnknown
	}
	link.ID = id
	return link, nil
}

// writeActive returns the Op that replaces was with l.
func (t *Tokens) writeActive(was sealed.Record[activeLinks], l activeLinks) (store.Op, error) {
	return t.active().Write(was, l, l.expires(t.now()))
}

// writeFlow returns the Op that replaces was with f.
func (t *Tokens) writeFlow(was sealed.Record[flow], f flow) (store.Op, error) {
	return t.flows().Write(was, f, f.expires(t.now()))
}

// swapFlow changes a flow record in one transaction with the Ops that change returns. If
// change returns an error, swapFlow changes nothing.
func (t *Tokens) swapFlow(ctx context.Context, browser string, change func(*flow) ([]store.Op, error)) error {
	return t.flows().Swap(ctx, browser, func(f flow) (flow, time.Time, []store.Op, error) {
		more, err := change(&f)
		return f, f.expires(t.now()), more, err
	})
}

func (t *Tokens) key(bucket, id string) store.Key {
	return store.Key{Firm: t.Firm, Bucket: bucket, ID: id}
}

// The sealed buckets: all except the ring, which authorizes nothing. Records that Doorpost
// did not seal count as missing, and the next change overwrites them.
func (t *Tokens) flows() *sealed.Bucket[flow]         { return bucketOf[flow](t, flowBucket) }
func (t *Tokens) links() *sealed.Bucket[Link]         { return bucketOf[Link](t, linkBucket) }
func (t *Tokens) active() *sealed.Bucket[activeLinks] { return bucketOf[activeLinks](t, activeBucket) }
func (t *Tokens) handovers() *sealed.Bucket[handoverRecord] {
	return bucketOf[handoverRecord](t, handedBucket)
}
func (t *Tokens) guesses() *sealed.Bucket[tries] { return bucketOf[tries](t, triesBucket) }

func bucketOf[T any](t *Tokens, name string) *sealed.Bucket[T] {
	return &sealed.Bucket[T]{Store: t.Store, Keys: t.Keys, Firm: t.Firm, Name: name, Now: t.now, Format: format, OnUntrusted: t.OnUntrusted,
		Earlier: func(k store.Key, value []byte) (v T, err error) { // of releases before package sealed
			if value[0] != version {
				return v, secret.ErrSealed
			}
			plain, err := t.Keys.Open(sealPurpose, k.Firm+"\x00"+k.Bucket+"\x00"+k.ID, value[1:])
			if err == nil {
				err = json.Unmarshal(plain, &v)
			}
			return v, err
		}}
}

// Compact is json.Marshal without escaping for HTML, which could make visitors' input take
// six times the space in the store.
func Compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Reseal seals all records again with the newest secret. Afterwards older secrets can be
// removed without ending a link or a code.
func (t *Tokens) Reseal(ctx context.Context) error {
	for _, reseal := range []func(context.Context) (int, error){
		t.flows().Reseal, t.links().Reseal, t.active().Reseal, t.handovers().Reseal, t.guesses().Reseal,
	} {
		if _, err := reseal(ctx); err != nil {
			return err
		}
	}
	return nil
}
