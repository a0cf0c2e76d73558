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

// Budget limits the wrong passwords for a contact: Burst at once, then one in Every, by the generic
// cell rate algorithm. So a right password works again at most Every after the last wrong one. A
// right password refills the budget. The zero value allows none.
type Budget struct {
	Burst int
	Every time.Duration
}

// The budgets allow 100 wrong passwords in any 30 days, the limit of NIST SP 800-63B-4, section
// 3.2.2, for consecutive failures, and 1,105 and 993 in a year. A device that the contact has
// signed in on has a budget of its own, which other clients can't use up.
var (
	ForUnknown = Budget{Burst: 10, Every: 8 * time.Hour}
	ForDevice  = Budget{Burst: 20, Every: 9 * time.Hour}
)

// LimitKey identifies a budget: a contact's, for all addresses and spellings, or the budget of one
// of the devices that the contact has signed in on.
type LimitKey struct {
	Contact string // ID, or a dummy ID
	Device  string // ID; "": all other devices together
}

func (p LimitKey) id() string {
	if p.Device == "" {
		return p.Contact
	}
	return p.Contact + "/" + p.Device
}

func (p LimitKey) budget() Budget {
	if p.Device == "" {
		return ForUnknown
	}
	return ForDevice
}

// limitKey returns the key under which an attempt is counted.
func (p *Passwords) limitKey(a Attempt) LimitKey {
	if a.Contact == "" {
		return LimitKey{Contact: p.dummyID(a.Address)}
	}
	return LimitKey{Contact: a.Contact, Device: a.Device}
}

const dummyRecords = 1024 // dummy records, shared by all addresses without a contact

// dummyID returns a dummy contact ID for an address without a contact, so that counting costs the
// same. It is no contact's ID. It depends on the secret: otherwise an attacker could find two
// addresses that share a record, notice that guesses at one delay guesses at the other, and learn
// that neither is a contact's.
func (p *Passwords) dummyID(a address.Address) string {
	h := fnv.New32a()
	h.Write([]byte(p.Keys.MAC(dummyPurpose, p.Firm, string(a))))
	return fmt.Sprintf("nobody-%d", h.Sum32()%dummyRecords)
}

const (
	guessBucket  = "password-guesses" // by LimitKey
	dummyPurpose = "password-nobody"  // of MACs
	maxClockSkew = 5 * time.Minute    // between two machines
)

// tries is a stored budget.
type tries struct {
	// TAT is the theoretical arrival time in seconds since 1970: when the guesses so far would have
	// arrived at a rate of one in Every.
	TAT int64 `json:"owed"`
}

// allow decides on one more guess, and returns the budget after it. A TAT too far in the future was
// written before the clock was set back: it is ignored, so that nobody is locked out.
func (b Budget) allow(t tries, now time.Time) (after tries, over bool) {
	owed := max(time.Unix(t.TAT, 0).Sub(now), 0)
	if owed > time.Duration(b.Burst)*b.Every+maxClockSkew {
		owed = 0
	}
	if b.Burst <= 0 || owed > time.Duration(b.Burst-1)*b.Every {
		return t, true
	}
	return tries{TAT: now.Add(owed + b.Every).Unix()}, false
}

// countGuess counts one more guess, and reports whether it is one too many. It always writes, so
// that the time doesn't reveal whether the guess is compared.
func (p *Passwords) countGuess(ctx context.Context, whose LimitKey) (over bool, err error) {
	b, bucket := whose.budget(), p.guesses()
	for range 64 { // as in store.Swap
		was, err := bucket.Get(ctx, whose.id())
		now, had := p.now(), was.Value
		switch {
		case errors.Is(err, store.ErrNotFound):
		case errors.Is(err, sealed.ErrUntrusted):
			had.TAT = now.Add(time.Duration(b.Burst) * b.Every).Unix() // used up
		case err != nil:
			return true, err
		}
		had, over = b.allow(had, now)
		op, err := bucket.Write(was, had, now.Add(time.Duration(b.Burst)*b.Every))
		if err != nil {
			return true, err
		}
		if err = p.Store.Apply(ctx, op); !errors.Is(err, store.ErrConflict) {
			return over, err
		}
		select {
		case <-time.After(rand.N(5 * time.Millisecond)): // random, so that callers that conflict once don't conflict forever
		case <-ctx.Done():
			return true, fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
	return true, ErrBusy // too many concurrent guesses for one key
}

func (p *Passwords) guesses() *sealed.Bucket[tries] {
	return &sealed.Bucket[tries]{Store: p.Store, Keys: p.Keys, Firm: p.Firm, Name: guessBucket, Now: p.Now, Format: 1, OnUntrusted: p.OnUntrusted}
}

func (p *Passwords) guessKey(whose LimitKey) store.Key { return p.guesses().Key(whose.id()) }

// deleteGuesses returns the Ops that reset all budgets of a contact.
func (p *Passwords) deleteGuesses(ctx context.Context, contact string) ([]store.Op, error) {
	ops := []store.Op{store.Delete(p.guessKey(LimitKey{Contact: contact}))}
	const most = 256 // a contact has fewer devices; any further records expire
	all, err := p.Store.Scan(ctx, p.Firm, guessBucket, contact+"/", "", most)
	for _, rec := range all {
		ops = append(ops, store.Delete(rec.Key))
	}
	return ops, err
}
