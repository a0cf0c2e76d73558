package password

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Budget is how many wrong passwords a contact takes: Burst at once, then one in Every, by the
// generic cell rate algorithm. So a right one is taken again at most Every after the last wrong
// one. A right one makes all of Burst free again. The zero value allows none.
type Budget struct {
	Burst int
	Every time.Duration
}

// The budgets: 100 in any 30 days, as NIST SP 800-63B-4, section 3.2.2, allows for in a row, and
// 1,105 and 993 in a year. A device that the contact has signed in on has one of its own, which
// others can't use up.
var (
	ForUnknown = Budget{Burst: 10, Every: 8 * time.Hour}
	ForDevice  = Budget{Burst: 20, Every: 9 * time.Hour}
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

// purseOf returns whose budget a try is counted against.
func (p *Passwords) purseOf(a Attempt) Purse {
	if a.Contact == "" {
		return Purse{Contact: p.nobody(a.Address)}
	}
	return Purse{Contact: a.Contact, Device: a.Device}
}

const nobodies = 1024 // purses for all the addresses that are nobody's

// nobody returns what stands in for the contact of an address that has none, so that
// counting costs the same. It is no contact's ID, nor more than one of a few. Which one depends on
// the secret: who tries passwords on another address that has the same one would keep those who try
// one on this address waiting, and learn that it is nobody's.
func (p *Passwords) nobody(a address.Address) string {
	h := fnv.New32a()
	h.Write([]byte(p.Keys.MAC(nobodyPurpose, p.Firm, string(a))))
	return fmt.Sprintf("nobody-%d", h.Sum32()%nobodies)
}

const (
	guessBucket   = "password-guesses" // by purse
	nobodyPurpose = "password-nobody"  // of MACs
	clockSkew     = 5 * time.Minute    // by how much the clocks of two machines may differ
)

// tries is what the store knows of a purse.
type tries struct {
	// Owed is the theoretical arrival time, in seconds since 1970: when all tries so far would
	// have come, one in Every.
	Owed int64 `json:"owed"`
}

// allows decides on one more try, and returns the purse as it is after it. What is too far in
// the future was written before the clock was set back: it no longer counts, and nobody is
// locked out.
func (b Budget) allows(t tries, now time.Time) (after tries, over bool) {
	owed := max(time.Unix(t.Owed, 0).Sub(now), 0)
	if owed > time.Duration(b.Burst)*b.Every+clockSkew {
		owed = 0
	}
	if b.Burst <= 0 || owed > time.Duration(b.Burst-1)*b.Every {
		return t, true
	}
	return tries{Owed: now.Add(owed + b.Every).Unix()}, false
}

// reserve counts one more try, and reports whether it is one too many. It writes in any
// case: a try that isn't judged must not be told by its time.
func (p *Passwords) reserve(ctx context.Context, whose Purse) (over bool, err error) {
	b, bucket := whose.budget(), p.guesses()
	for range 64 { // as store.Swap
		was, err := bucket.Get(ctx, whose.id())
		now, had := p.now(), was.Value
		switch {
		case errors.Is(err, store.ErrNotFound):
		case errors.Is(err, sealed.ErrUntrusted):
			had.Owed = now.Add(time.Duration(b.Burst) * b.Every).Unix() // used up
		case err != nil:
			return true, err
		}
		had, over = b.allows(had, now)
		op, err := bucket.Write(was, had, now.Add(time.Duration(b.Burst)*b.Every))
		if err != nil {
			return true, err
		}
		if err = p.Store.Apply(ctx, op); !errors.Is(err, store.ErrConflict) {
			return over, err
		}
		select {
		case <-time.After(rand.N(5 * time.Millisecond)): // those who meet would meet again and again
		case <-ctx.Done():
			return true, fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
	return true, ErrBusy // so many tries of one purse at once that this one didn't get through
}

func (p *Passwords) guesses() *sealed.Bucket[tries] {
	return &sealed.Bucket[tries]{Store: p.Store, Keys: p.Keys, Firm: p.Firm, Name: guessBucket, Now: p.Now, Format: 1, Alarm: p.Alarm}
}

// purse returns where a purse is kept.
func (p *Passwords) purse(whose Purse) store.Key { return p.guesses().Key(whose.id()) }

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
