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

// The buckets, see the package's doc.
const (
	flowBucket   = "flow"
	linkBucket   = "link"
	liveBucket   = "live"
	handedBucket = "handed-over"
	ringBucket   = "ring"
	triesBucket  = "tries"
)

const (
	// SignIn and SetPassword are what a link is for: Link.Purpose, Ask.Purpose.
	SignIn      = "sign-in"
	SetPassword = "set-password"

	linkPurpose   = "link" // of MACs
	codePurpose   = "code"
	nobodyPurpose = "nobody"
	sealPurpose   = "token" // of what is sealed

	format  = 2               // of what is sealed
	version = '1'             // first byte of the values of earlier releases, and of the ring's
	skew    = 5 * time.Minute // by which the clocks of two machines may differ
)

// BrowserOf returns what stands for a browser in the store: the hash of its
// 256-bit cookie.
func BrowserOf(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// flow is what a browser asked for, the latest last.
type flow struct {
	Asks  []asked   `json:"asks"`
	Slot  string    `json:"slot,omitempty"` // its place in the ring, unless another has that by now
	Until time.Time `json:"until,omitzero"` // when that ends, see ringLife
	Kept  bool      `json:"kept,omitempty"` // a mail was made for it: it stays when another takes the place

	Entered *Entered `json:"entered,omitempty"` // see Tokens.Entered; nil: none
}

// expires is when the flow is of no use any more, or its place in the ring ends.
func (f flow) expires(now time.Time) time.Time {
	end := now.Add(keep)
	if !f.Until.IsZero() && f.Until.Before(end) {
		return f.Until
	}
	return end
}

type asked struct {
	Ask
	Code       string `json:"code,omitempty"` // MAC of the code, once there is one
	Contact    string `json:"contact,omitempty"`
	Generation uint64 `json:"generation,omitempty"` // the contact's, of when the mail was made
	Link       string `json:"for,omitempty"`        // ID of the link that was mailed with the code
	Guesses    int    `json:"guesses"`
}

// without returns the flow less what was asked for the contact.
func (f flow) without(contact string) flow {
	var rest []asked
	for _, one := range f.Asks {
		if one.Contact != contact {
			rest = append(rest, one)
		}
	}
	f.Asks = rest
	return f
}

// live is what works for a contact.
type live struct {
	Links []liveLink `json:"links"`
}

type liveLink struct {
	ID      string    `json:"id"`
	Browser string    `json:"browser"`         // that asked
	Purse   string    `json:"purse,omitempty"` // see Ask.Purse
	Asked   time.Time `json:"asked"`
	Tries   int       `json:"tries,omitempty"` // addresses compared on its page
	Over    bool      `json:"over,omitempty"`  // the link is used up, its code isn't

	Life time.Duration `json:"life,omitempty"` // its own; 0: Tokens.Life
}

// expires is when none of it is of any use any more.
func (l live) expires(now time.Time) time.Time {
	end := now.Add(keep)
	for _, one := range l.Links {
		if own := one.Asked.Add(keep + one.Life); own.After(end) {
			end = own
		}
	}
	return end
}

// without returns what works but for what the browser has asked for ("": nothing has).
func (l live) without(browser string) live {
	var rest live
	for _, one := range l.Links {
		if browser == "" || one.Browser != browser {
			rest.Links = append(rest.Links, one)
		}
	}
	return rest
}

// find returns the index of a link, or -1.
func (l live) find(id string) int {
	for i := range l.Links {
		if l.Links[i].ID == id {
			return i
		}
	}
	return -1
}

// links counts those that aren't used up, of one purse.
func (l live) links(purse string) (n int) {
	for _, one := range l.Links {
		if !one.Over && one.Purse == purse {
			n++
		}
	}
	return n
}

// handover is the last thing that is known of a mail on its way.
type handover struct {
	was what
	at  time.Time
}

type what byte

const (
	waiting what = 'w' // for its first attempt; no record says so
	tried   what = 't' // the server may have taken it, or an attempt will follow
	taken   what = 'a'
	givenUp what = 'g' // as tried, and no attempt will follow
)

// until returns when link and code end: life after the mail server took the mail. If
// we died before we heard its answer, they must have lived long enough.
func (h handover) until(asked time.Time, life time.Duration) time.Time {
	switch h.was {
	case taken:
		return h.at.Add(life)
	case tried, givenUp:
		return h.at.Add(HandOverTime + life)
	default:
		return asked.Add(Patience + HandOverTime + life)
	}
}

// free returns when the link's place among the MaxLive is free: not before the last
// attempt that may yet be made has run out.
func (h handover) free(asked time.Time, life time.Duration) time.Time {
	if h.was == tried {
		h.was = waiting
	}
	return h.until(asked, life)
}

// good reports whether link and code live now. Those of a mail that waits don't: nobody can
// have them yet, and a record that was lost must not make others live longer. A mail that was
// handed over in the future was so by a clock that has been set back, by who knows how much:
// what might have ended does not come back.
func (h handover) good(asked time.Time, life time.Duration, now time.Time) bool {
	return h.was != waiting && now.Before(h.until(asked, life)) && !h.at.After(now.Add(skew))
}

// handedOver is a handover in the store.
type handedOver struct {
	Was string    `json:"was"`
	At  time.Time `json:"at"`
}

// handed returns what is known of the mail of a link, at the cost of one read whatever
// the ID is.
func (t *Tokens) handed(ctx context.Context, linkID string) (handover, error) {
	rec, err := t.handovers().Find(ctx, cmp.Or(linkID, "none"))
	h := rec.Value
	if err != nil || len(h.Was) != 1 {
		return handover{was: waiting}, err
	}
	return handover{was: what(h.Was[0]), at: h.At}, nil
}

func (t *Tokens) handedOp(link Link, h handover) (store.Op, error) {
	return t.handovers().Put(link.ID, handedOver{string(h.was), h.at.UTC().Round(0)}, link.Asked.Add(keep+link.Life))
}

// link returns the link of an ID, or ErrUnknown.
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

// writeLive returns the Op that makes l what works for the contact of was.
func (t *Tokens) writeLive(was sealed.Record[live], l live) (store.Op, error) {
	return t.lives().Write(was, l, l.expires(t.now()))
}

// writeFlow returns the Op that makes f the flow of the browser of was.
func (t *Tokens) writeFlow(was sealed.Record[flow], f flow) (store.Op, error) {
	return t.flows().Write(was, f, f.expires(t.now()))
}

// swapFlow changes the flow record in one step, together with the Ops that change
// returns; an error of change leaves it alone.
func (t *Tokens) swapFlow(ctx context.Context, browser string, change func(*flow) ([]store.Op, error)) error {
	return t.flows().Swap(ctx, browser, func(f flow) (flow, time.Time, []store.Op, error) {
		more, err := change(&f)
		return f, f.expires(t.now()), more, err
	})
}

func (t *Tokens) key(bucket, id string) store.Key {
	return store.Key{Firm: t.Firm, Bucket: bucket, ID: id}
}

// The buckets whose records are sealed: all but the ring, which grants nothing. What is none
// of ours counts as none: it grants nothing, and the next change writes over it.
func (t *Tokens) flows() *sealed.Bucket[flow]           { return bucketOf[flow](t, flowBucket) }
func (t *Tokens) links() *sealed.Bucket[Link]           { return bucketOf[Link](t, linkBucket) }
func (t *Tokens) lives() *sealed.Bucket[live]           { return bucketOf[live](t, liveBucket) }
func (t *Tokens) handovers() *sealed.Bucket[handedOver] { return bucketOf[handedOver](t, handedBucket) }
func (t *Tokens) guesses() *sealed.Bucket[tries]        { return bucketOf[tries](t, triesBucket) }

func bucketOf[T any](t *Tokens, name string) *sealed.Bucket[T] {
	return &sealed.Bucket[T]{Store: t.Store, Keys: t.Keys, Firm: t.Firm, Name: name, Now: t.now, Format: format, Alarm: t.Alarm,
		Earlier: func(k store.Key, value []byte) (v T, err error) { // of the releases before there was package sealed
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

// Compact is json.Marshal without the escaping that only HTML needs: what visitors send
// must not take six times the room in the store.
func Compact(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Reseal seals with the newest secret what older ones have sealed: afterwards these may go
// without ending a link or a code.
func (t *Tokens) Reseal(ctx context.Context) error {
	for _, reseal := range []func(context.Context) (int, error){
		t.flows().Reseal, t.links().Reseal, t.lives().Reseal, t.handovers().Reseal, t.guesses().Reseal,
	} {
		if _, err := reseal(ctx); err != nil {
			return err
		}
	}
	return nil
}
