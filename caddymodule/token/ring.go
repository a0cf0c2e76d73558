package token

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Anybody can ask for anything, without a cookie, as often as they like. So browsers have
// places in a ring: a new one takes the next place, and with it, in the same step, ends the
// flow that had it. Only a flow for which a mail was made stays, for its code's sake; how
// many these are is bounded by what contacts are mailed. But Asked doesn't know it any more,
// either: else a flood would tell for which addresses there was a mail. What comes from
// networks over their limit has a ring of its own, so that one network pushes nobody out, and
// so has what comes from known devices and old links, so that others push none of these out.
const (
	// The places of all rings, times maxFlow and what a store adds, are less than 64 MiB.
	ringPlaces  = 4096
	crowdPlaces = 512
	knownPlaces = 512
	// ringLife is how long a place lasts; records of the ring have to end some time.
	ringLife = 24 * time.Hour
	// maxFlow is about how many bytes of requests a flow may hold, or else one request.
	maxFlow = 4096
	mostID  = 512 // bytes that the ID of a record has at most
)

// Ring hands out the places of new browsers. Its zero value is ready; NewRing begins
// somewhere, so that several processes don't want the same places.
type Ring struct{ head, crowd, known atomic.Uint64 }

// NewRing makes a Ring for a process.
func NewRing() *Ring {
	r := new(Ring)
	r.head.Store(rand.Uint64())
	r.crowd.Store(rand.Uint64())
	r.known.Store(rand.Uint64())
	return r
}

func (r *Ring) next(a Ask) string {
	if r == nil {
		r = NewRing()
	}
	switch {
	case a.Reserved:
		return fmt.Sprintf("known-%03x", r.known.Add(1)%knownPlaces)
	case a.Crowded:
		return fmt.Sprintf("crowd-%03x", r.crowd.Add(1)%crowdPlaces)
	}
	return fmt.Sprintf("%04x", r.head.Add(1)%ringPlaces)
}

// The second byte of a place: whether the flow of who has it stays when another takes it.
const passing, staying = 'p', 's'

// holder is the value of a browser's place.
func holder(browser string, kept bool) []byte {
	mark := byte(passing)
	if kept {
		mark = staying
	}
	return append([]byte{version, mark}, browser...)
}

// has reports whether the browser has the place, at the cost of one read whatever the
// place is, and returns the place's record.
func (t *Tokens) has(ctx context.Context, browser, slot string) (bool, store.Record, error) {
	if slot == "" {
		slot = "none"
	}
	rec, err := t.Store.Get(ctx, t.key(ringBucket, slot))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, store.Record{}, nil
	case err != nil:
		return false, store.Record{}, err
	case len(rec.Value) < 3 || rec.Value[0] != version:
		return false, store.Record{Key: rec.Key, Value: append([]byte{}, rec.Value...)}, nil // nobody's place
	}
	return string(rec.Value[2:]) == browser, rec, nil
}

// size is about how many bytes the flow's requests take.
func (f flow) size() (n int) {
	for _, one := range f.Asks {
		n += len(one.To) + len(one.Address) + len(one.Link) + 400
	}
	return n
}

// takePlace gives a flow its place in the ring, unless it has one for a while yet. The Ops
// are to be applied with the flow.
func (t *Tokens) takePlace(ctx context.Context, browser string, f *flow, a Ask) ([]store.Op, error) {
	if mine, _, err := t.has(ctx, browser, f.Slot); err != nil || mine && f.Until.Sub(t.now()) >= keep {
		return nil, err
	}
	f.Slot, f.Until = t.Ring.next(a), t.now().Add(ringLife)
	k := t.key(ringBucket, f.Slot)
	mine, rec, err := t.has(ctx, browser, f.Slot)
	if err != nil {
		return nil, err
	}
	if rec.Value == nil {
		return []store.Op{store.Create(k, holder(browser, f.Kept), f.Until)}, nil
	}
	ops := []store.Op{store.Replace(k, rec.Value, holder(browser, f.Kept), f.Until)}
	if !mine && len(rec.Value) > 2 && len(rec.Value) <= 2+mostID && rec.Value[1] == passing {
		ops = append(ops, store.Delete(t.key(flowBucket, string(rec.Value[2:]))))
	}
	return ops, nil
}

// keepFlow makes a flow stay until it expires, whoever takes its place in the ring.
func (t *Tokens) keepFlow(ctx context.Context, browser string, f *flow) ([]store.Op, error) {
	f.Kept = true
	mine, rec, err := t.has(ctx, browser, f.Slot)
	if err != nil || !mine {
		return nil, err
	}
	return []store.Op{store.Replace(rec.Key, rec.Value, holder(browser, true), rec.Expires)}, nil
}
