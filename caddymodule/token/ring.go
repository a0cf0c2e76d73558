package token

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Anybody can ask for anything, without a cookie, as often as they like. So the browsers
// for which no mail was made have places in a ring: a new one takes the next place, and
// with it, in the same step, ends the flow that had it. A flow for which a mail is made
// leaves the ring; how many these are is bounded by what contacts are mailed.
const (
	// ringPlaces, times maxFlow and what a store adds, is less than 64 MiB.
	ringPlaces = 8192
	// ringLife is how long a place lasts; records of the ring have to end some time.
	ringLife = 24 * time.Hour
	// maxFlow is about how many bytes of requests a flow may hold, or else one request.
	maxFlow = 4096
)

// Ring hands out the places of new browsers. Its zero value is ready; NewRing begins
// somewhere, so that several processes don't want the same places.
type Ring struct{ head atomic.Uint64 }

// NewRing makes a Ring for a process.
func NewRing() *Ring {
	r := new(Ring)
	r.head.Store(rand.Uint64())
	return r
}

func (r *Ring) next() string {
	n := rand.Uint64()
	if r != nil {
		n = r.head.Add(1)
	}
	return fmt.Sprintf("%04x", n%ringPlaces)
}

// size is about how many bytes the flow's requests take.
func (f flow) size() (n int) {
	for _, one := range f.Asks {
		n += len(one.To) + len(one.Address) + len(one.Link) + 400
	}
	return n
}

// takePlace gives a flow its place in the ring, unless it has one for a while yet, or
// needs none. The Ops are to be applied with the flow.
func (t *Tokens) takePlace(ctx context.Context, browser string, f *flow) ([]store.Op, error) {
	if now := t.now(); f.Kept || f.Slot != "" && f.Until.Sub(now) >= keep {
		return nil, nil
	}
	f.Slot, f.Until = t.Ring.next(), t.now().Add(ringLife)
	k := t.key(ringBucket, f.Slot)
	mine := append([]byte{version}, browser...)
	rec, err := t.Store.Get(ctx, k)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return []store.Op{store.Create(k, mine, f.Until)}, nil
	case err != nil:
		return nil, err
	case len(rec.Value) < 2 || rec.Value[0] != version:
		return nil, foreign(ringBucket)
	}
	ops := []store.Op{store.Replace(k, rec.Value, mine, f.Until)}
	if !bytes.Equal(rec.Value, mine) {
		ops = append(ops, store.Delete(t.key(flowBucket, string(rec.Value[1:]))))
	}
	return ops, nil
}

// leavePlace takes a flow out of the ring, so that it stays until it expires.
func (t *Tokens) leavePlace(ctx context.Context, browser string, f *flow) ([]store.Op, error) {
	slot := f.Slot
	f.Kept, f.Slot, f.Until = true, "", time.Time{}
	if slot == "" {
		return nil, nil
	}
	k := t.key(ringBucket, slot)
	rec, err := t.Store.Get(ctx, k)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !bytes.Equal(rec.Value, append([]byte{version}, browser...)):
		return nil, nil
	}
	return []store.Op{store.Remove(k, rec.Value)}, nil
}
