package password

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Budget is how many wrong passwords a contact takes. The zero value allows none.
type Budget struct {
	Hour  int // in any hour
	Month int // in any 30 days, as long as none was right
}

// The budgets. NIST SP 800-63B-4, section 3.2.2, allows for 100 in a row. A device that
// the contact has signed in on has one of its own, which others can't use up.
var (
	ForUnknown = Budget{Hour: 10, Month: 100}
	ForDevice  = Budget{Hour: 20, Month: 100}
)

// Purse is whose budget it is: a contact's, whatever address or spelling was typed, or
// that of one of the devices the contact has signed in on.
type Purse struct {
	Contact string // ID, or what stands in for it
	Device  string // ID; "": all other devices together
}

func (p Purse) id() string {
	if p.Device == "" {
		return p.Contact
	}
	return p.Contact + "/" + p.Device
}

func (p Purse) budget() Budget {
	if p.Device == "" {
		return ForUnknown
	}
	return ForDevice
}

// purse returns whose budget a try is counted against.
func (a Attempt) purse() Purse {
	if a.Contact == "" {
		return Purse{Contact: nobody(a.Address)}
	}
	return Purse{Contact: a.Contact, Device: a.Device}
}

const nobodies = 1024 // purses for all the addresses that are nobody's

// nobody returns what stands in for the contact of an address that has none, so that
// counting costs the same. It is no contact's ID, nor more than one of a few.
func nobody(a address.Address) string {
	h := fnv.New32a()
	h.Write([]byte(a))
	return fmt.Sprintf("nobody-%d", h.Sum32()%nobodies)
}

const (
	guessBucket = "password-tries" // by purse
	month       = 30 * 24 * time.Hour
	clockSkew   = 5 * time.Minute // by how much the clocks of two machines may differ
)

// tries is what the store knows of a purse.
type tries struct {
	At   []int64 `json:"at"`   // when passwords were judged, in seconds since 1970
	Last int64   `json:"last"` // when the last was tried, judged or not
}

// allows decides on one more try, and returns the purse as it is after it. What is in
// the future was written before the clock was set back: it no longer counts, and nobody
// is locked out.
func (b Budget) allows(t tries, now time.Time) (after tries, over bool) {
	var hour int
	after.Last = now.Unix()
	for _, at := range t.At {
		age := now.Sub(time.Unix(at, 0))
		if age >= month || age < -clockSkew {
			continue
		}
		after.At = append(after.At, at)
		if age < time.Hour {
			hour++
		}
	}
	if hour >= b.Hour || len(after.At) >= b.Month {
		return after, true
	}
	after.At = append(after.At, now.Unix())
	return after, false
}

// reserve counts one more try, and reports whether it is one too many. It writes in any
// case: a try that isn't judged must not be told by its time.
func (p *Passwords) reserve(ctx context.Context, whose Purse) (over bool, err error) {
	err = store.Swap(ctx, p.Store, p.purse(whose), func(was []byte) ([]byte, time.Time, []store.Op, error) {
		had, err := decodeTries(was)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		now := p.now()
		had, over = whose.budget().allows(had, now)
		value, err := json.Marshal(had)
		return slices.Concat([]byte{version}, value), now.Add(month), nil, err
	})
	if errors.Is(err, store.ErrConflict) {
		return true, ErrBusy // so many tries of one purse at once that this one didn't get through
	}
	return over, err
}

func decodeTries(value []byte) (t tries, err error) {
	switch {
	case value == nil:
		return t, nil
	case len(value) == 0 || value[0] != version:
		return t, fmt.Errorf("%s record of another version: %w", guessBucket, store.ErrUnavailable)
	}
	if err := json.Unmarshal(value[1:], &t); err != nil {
		return t, fmt.Errorf("reading a %s record: %w", guessBucket, err)
	}
	return t, nil
}

// purse returns where a purse is kept.
func (p *Passwords) purse(whose Purse) store.Key {
	return store.Key{Firm: p.Firm, Bucket: guessBucket, ID: whose.id()}
}

// purses returns the Ops that empty all purses of a contact.
func (p *Passwords) purses(ctx context.Context, contact string) ([]store.Op, error) {
	ops := []store.Op{store.Delete(p.purse(Purse{Contact: contact}))}
	const most = 256 // a contact has fewer devices, and any others run out by themselves
	all, err := p.Store.Scan(ctx, p.Firm, guessBucket, contact+"/", "", most)
	for _, rec := range all {
		ops = append(ops, store.Delete(rec.Key))
	}
	return ops, err
}
