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

// Anybody can request mails without a cookie, as often as they like. So browsers have slots
// in a ring. A new browser takes the next slot, and the same transaction deletes the flow
// that had the slot before. Only a flow for which a mail was made stays, because of its code;
// the number of these is bounded by the mails to contacts. Asked returns ErrUnknown for it
// all the same: otherwise a flood would reveal for which addresses a mail was made. Networks
// over their limit have a ring of their own, so that one network pushes nobody out, and so
// have known devices and old links.
const (
	// All slots of all rings, times maxFlow plus the store's overhead, take less than 64 MiB.
	ringSlots    = 4096
	limitedSlots = 512
	knownSlots   = 512
	// ringLife is how long a slot lasts; every record needs an end.
	ringLife = 24 * time.Hour
	// maxFlow is about how many bytes of requests a flow may hold; one request is always
	// allowed.
	maxFlow = 4096
	maxID   = 512 // maximum length of a record's ID in bytes
)

// Ring assigns slots to new browsers. The zero value is ready to use. NewRing starts at
// random slots, so that several processes don't compete for the same ones.
type Ring struct{ head, limited, known atomic.Uint64 }

// NewRing returns a Ring for a process.
func NewRing() *Ring {
	r := new(Ring)
	r.head.Store(rand.Uint64())
	r.limited.Store(rand.Uint64())
	r.known.Store(rand.Uint64())
	return r
}

func (r *Ring) next(a MailRequest) string {
	if r == nil {
		r = NewRing()
	}
	switch {
	case a.Reserved:
		return fmt.Sprintf("known-%03x", r.known.Add(1)%knownSlots)
	case a.Limited:
		return fmt.Sprintf("crowd-%03x", r.limited.Add(1)%limitedSlots)
	}
	return fmt.Sprintf("%04x", r.head.Add(1)%ringSlots)
}

// The second byte of a slot's value: whether the browser's flow stays when another browser
// takes the slot.
const temporaryFlow, keptFlow = 'p', 's'

// slotValue is the value of a browser's slot.
func slotValue(browser string, kept bool) []byte {
	mark := byte(temporaryFlow)
	if kept {
		mark = keptFlow
	}
	return append([]byte{version, mark}, browser...)
}

// hasSlot reports whether the browser has the slot, and returns the slot's record. It costs
// one read for every slot.
func (t *Tokens) hasSlot(ctx context.Context, browser, slot string) (bool, store.Record, error) {
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
		return false, store.Record{Key: rec.Key, Value: append([]byte{}, rec.Value...)}, nil // a slot of no browser
	}
	return string(rec.Value[2:]) == browser, rec, nil
}

// size returns about how many bytes the flow's requests take.
func (f flow) size() (n int) {
	for _, one := range f.Requests {
		n += len(one.To) + len(one.Address) + len(one.Link) + 400
	}
	return n
}

// takeSlot assigns a slot in the ring to a flow, unless it has one for long enough. Apply the
// Ops together with the flow.
func (t *Tokens) takeSlot(ctx context.Context, browser string, f *flow, a MailRequest) ([]store.Op, error) {
	if mine, _, err := t.hasSlot(ctx, browser, f.Slot); err != nil || mine && f.Until.Sub(t.now()) >= recordLife {
		return nil, err
	}
	f.Slot, f.Until = t.Ring.next(a), t.now().Add(ringLife)
	k := t.key(ringBucket, f.Slot)
	mine, rec, err := t.hasSlot(ctx, browser, f.Slot)
	if err != nil {
		return nil, err
	}
	if rec.Value == nil {
		return []store.Op{store.Create(k, slotValue(browser, f.Kept), f.Until)}, nil
	}
	ops := []store.Op{store.Replace(k, rec.Value, slotValue(browser, f.Kept), f.Until)}
	if !mine && len(rec.Value) > 2 && len(rec.Value) <= 2+maxID && rec.Value[1] == temporaryFlow {
		ops = append(ops, store.Delete(t.key(flowBucket, string(rec.Value[2:]))))
	}
	return ops, nil
}

// keepFlow makes a flow stay until it expires, even if another browser takes its slot.
func (t *Tokens) keepFlow(ctx context.Context, browser string, f *flow) ([]store.Op, error) {
	f.Kept = true
	mine, rec, err := t.hasSlot(ctx, browser, f.Slot)
	if err != nil || !mine {
		return nil, err
	}
	return []store.Op{store.Replace(rec.Key, rec.Value, slotValue(browser, true), rec.Expires)}, nil
}
