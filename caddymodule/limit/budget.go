// Package limit keeps budgets: how often something may happen, whoever asks.
//
// Two kinds of them. What a contact gets is a record in the store, changed in the same
// step as what it counts, so that no crash, restart or second gate forgets any of it
// (budget.go, mail.go). What a network does is counted in memory, in cells of sixteen bytes
// that empty by themselves (network.go, cells.go), and is written down now and then
// (snapshot.go). Devices that a contact has signed in on have budgets of their own
// (device.go), which is what keeps a flood from locking anybody out.
package limit

import (
	"errors"
	"time"
)

// ErrOver: the budget is used up for now.
var ErrOver = errors.New("limit: over the budget")

// Budget is how many mails a contact may get: Burst at once, then one in Every, by the
// generic cell rate algorithm, so that a flood gets its mails spread over the day, and not
// all before somebody else asks. In 24 hours these are at most Burst + 24h/Every - 1. The zero
// value allows none.
type Budget struct {
	Apart    time.Duration // at least so long between two
	Hour     int           // in any hour at most, however many are answered
	Burst    int
	Every    time.Duration
	Reserved int // of Burst, for networks that no mail was made for lately, see memory
}

// The budgets of sign-in mails: 12 in 24 hours. Staff have twice as much: who has to help a
// client under a flood must get in.
var (
	ForClients = Budget{Apart: time.Minute, Hour: 6, Burst: 5, Every: 3 * time.Hour, Reserved: 2}
	ForStaff   = Budget{Apart: time.Minute, Hour: 12, Burst: 10, Every: 96 * time.Minute, Reserved: 4}
)

// ForNews is the budget of mails about sign-ins on new devices: 10 in 24 hours. They count in a
// purse of their own: who has somebody's password must neither flood them nor use up the mails
// by which they get in.
var ForNews = Budget{Hour: 4, Burst: 4, Every: 24 * time.Hour / 7}

// ForChanges is how often somebody who is signed in may change or remove their password: 20
// times in 24 hours. Each time a mail tells of it, which is never left out, so it is the change
// that has to wait.
var ForChanges = Budget{Hour: 10, Burst: 10, Every: 24 * time.Hour / 11}

const (
	// memory is how long it is remembered that a mail was made for a network, and
	// maxNetworks how many networks are.
	memory      = 30 * 24 * time.Hour
	maxNetworks = 400

	// clockSkew is by how much the clocks of two machines may differ. What was made later
	// than that was written before the clock was set back: by how much nobody knows, so it
	// no longer counts, and nobody is locked out.
	clockSkew = 5 * time.Minute
)

// balance is what is known of a contact's mails.
type balance struct {
	Made []time.Time `json:"made,omitempty"` // in the last hour
	// Owed is the theoretical arrival time: when all mails so far would have come, one in
	// Every.
	Owed time.Time `json:"owed,omitzero"`
	// Networks are those that a mail was made for lately, each with the hour (since 1970) of
	// the last. Networks that somebody signed in from aren't among them.
	Networks map[string]int64 `json:"networks,omitempty"`

	// Next is the request that waits until there may be a mail again.
	Next      string    `json:"next,omitempty"`
	NextDue   time.Time `json:"next_due,omitzero"`
	NextFresh bool      `json:"next_fresh,omitempty"` // it comes from a network that isn't among Networks
}

// fresh reports whether no mail was made for the network lately.
func (p *balance) fresh(network string, now time.Time) bool {
	at, found := p.Networks[network]
	age := now.Sub(time.Unix(at*3600, 0))
	return !found || age >= memory || age < -clockSkew // of before the clock was set back
}

// wait returns how long until the budget allows one more mail for the network; "" has all of
// the burst. It is ErrOver for a budget that allows none.
func (b Budget) wait(p *balance, network string, now time.Time) (wait time.Duration, err error) {
	if b.Burst <= 0 {
		return 0, ErrOver
	}
	var hour []time.Duration // how long ago mails were made, in their order
	for _, at := range p.Made {
		if age := now.Sub(at); age >= -clockSkew && age < time.Hour {
			hour = append(hour, max(age, 0))
			wait = max(wait, b.Apart-max(age, 0))
		}
	}
	if n := len(hour); n >= b.Hour {
		wait = max(wait, time.Hour-hour[n-b.Hour])
	}
	most := b.Burst
	if network != "" && !p.fresh(network, now) {
		most -= b.Reserved
	}
	return max(wait, b.owed(p, now)-time.Duration(most-1)*b.Every), nil
}

// owed is how long the mails so far take to come, one in Every.
func (b Budget) owed(p *balance, now time.Time) time.Duration {
	owed := max(p.Owed.Sub(now), 0)
	if owed > time.Duration(b.Burst)*b.Every+clockSkew {
		return 0 // the clock was set back
	}
	return owed
}

// spend counts one more mail.
func (b Budget) spend(p *balance, network string, now time.Time) {
	now = now.UTC().Round(0)
	made := []time.Time{}
	for _, at := range p.Made {
		if age := now.Sub(at); age >= -clockSkew && age < time.Hour {
			made = append(made, at)
		}
	}
	p.Made = append(made, now)
	p.Owed = now.Add(b.owed(p, now) + b.Every)
	p.Next, p.NextDue, p.NextFresh = "", time.Time{}, false
	if network != "" {
		p.remember(network, now)
	}
}

// remember notes that a mail was made for the network.
func (p *balance) remember(network string, now time.Time) {
	if p.Networks == nil {
		p.Networks = make(map[string]int64)
	}
	p.Networks[network] = now.Unix() / 3600
	oldest := ""
	for name, at := range p.Networks {
		if p.fresh(name, now) {
			delete(p.Networks, name)
		} else if oldest == "" || at < p.Networks[oldest] {
			oldest = name
		}
	}
	if len(p.Networks) > maxNetworks {
		delete(p.Networks, oldest)
	}
}

// expires is when the balance says nothing any more.
func (p *balance) expires(now time.Time) time.Time {
	end := now.Add(24 * time.Hour)
	if len(p.Networks) > 0 {
		return now.Add(memory)
	}
	return end
}
