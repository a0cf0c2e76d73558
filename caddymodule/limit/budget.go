// Package limit limits how often something may happen.
//
// There are two kinds of limits. Limits per contact are records in the store, changed in the
// transaction of the event that they count, so that no crash, restart or second gate loses a count
// (budget.go, mail.go). Limits per network are counted in memory, in buckets of sixteen bytes that
// drain with time (network.go, gcra.go), and are saved as snapshots (snapshot.go). Devices that a
// contact has signed in on have limits of their own (device.go), so that a flood locks nobody out.
package limit

import (
	"errors"
	"time"
)

// ErrOver: the budget is used up for now.
var ErrOver = errors.New("limit: budget used up")

// Budget limits the mails to a contact: Burst at once, then one in Every, by the generic cell rate
// algorithm. So a flood's mails are spread over the day, and leave some for the contact's own
// requests. In 24 hours the maximum is Burst + 24h/Every - 1. The zero value allows none.
type Budget struct {
	Apart    time.Duration // minimum time between two mails
	Hour     int           // maximum in any hour, even if sign-ins follow
	Burst    int
	Every    time.Duration
	Reserved int // part of Burst for networks without a recent mail; see networkMemory
}

// Budgets of sign-in mails. ForClients is 12 in 24 hours. Staff have twice as many: while there is
// a flood they must still be able to help clients.
var (
	ForClients = Budget{Apart: time.Minute, Hour: 6, Burst: 5, Every: 3 * time.Hour, Reserved: 2}
	ForStaff   = Budget{Apart: time.Minute, Hour: 12, Burst: 10, Every: 96 * time.Minute, Reserved: 4}
)

// ForNotifications is the budget of mails about sign-ins on new devices: 10 in 24 hours. They are
// counted under their own key: an attacker with a contact's password must neither flood the contact
// nor use up the sign-in mails.
var ForNotifications = Budget{Hour: 4, Burst: 4, Every: 24 * time.Hour / 7}

// ForChanges limits how often a signed-in contact may change or remove their password: 20 times in
// 24 hours. Every change sends a mail that is never left out, so the changes are limited instead.
var ForChanges = Budget{Hour: 10, Burst: 10, Every: 24 * time.Hour / 11}

// ForLastingLinks limits the mails with the lasting link that staff have sent to one contact: 15 in 24 hours.
var ForLastingLinks = Budget{Hour: 5, Burst: 5, Every: 24 * time.Hour / 11}

// ForPhoneCodes limits the codes that staff read to one contact: 15 in 24 hours. ForPhoneCodesMade limits those that one
// member of staff makes, for all contacts together: 60 in 24 hours, so that who takes over their browser can't go
// through the directory.
var (
	ForPhoneCodes     = Budget{Hour: 5, Burst: 5, Every: 24 * time.Hour / 11}
	ForPhoneCodesMade = Budget{Hour: 20, Burst: 20, Every: 24 * time.Hour / 41}
)

const (
	// networkMemory is how long a network with a mail is remembered, and maxNetworks how many
	// networks are.
	networkMemory = 30 * 24 * time.Hour
	maxNetworks   = 400

	// maxClockSkew is the maximum difference between the clocks of two machines. Times later than
	// that were written before the clock was set back by an unknown amount: they are ignored, so
	// that nobody is locked out.
	maxClockSkew = 5 * time.Minute
)

// balance is the stored state of a contact's budget.
type balance struct {
	Made []time.Time `json:"made,omitempty"` // within the last hour
	// TAT is the theoretical arrival time: when the mails so far would have been sent at a rate of
	// one in Every.
	TAT time.Time `json:"owed,omitzero"`
	// Networks are the networks with a recent mail, each with the hour of the last (since 1970).
	// Networks with a sign-in are removed.
	Networks map[string]int64 `json:"networks,omitempty"`

	// Next is the ID of the request that waits for the next mail.
	Next      string    `json:"next,omitempty"`
	NextDue   time.Time `json:"next_due,omitzero"`
	NextIsNew bool      `json:"next_fresh,omitempty"` // its network isn't among Networks
}

// isNew reports whether no mail was made for the network within networkMemory.
func (p *balance) isNew(network string, now time.Time) bool {
	at, found := p.Networks[network]
	age := now.Sub(time.Unix(at*3600, 0))
	return !found || age >= networkMemory || age < -maxClockSkew // from before the clock was set back
}

// wait returns how long until the budget allows one more mail for the network. "" may use the whole
// burst. It returns ErrOver if the budget allows none.
func (b Budget) wait(p *balance, network string, now time.Time) (wait time.Duration, err error) {
	if b.Burst <= 0 {
		return 0, ErrOver
	}
	var hour []time.Duration // ages of mails, in order
	for _, at := range p.Made {
		if age := now.Sub(at); age >= -maxClockSkew && age < time.Hour {
			hour = append(hour, max(age, 0))
			wait = max(wait, b.Apart-max(age, 0))
		}
	}
	if n := len(hour); n >= b.Hour {
		wait = max(wait, time.Hour-hour[n-b.Hour])
	}
	most := b.Burst
	if network != "" && !p.isNew(network, now) {
		most -= b.Reserved
	}
	return max(wait, b.backlog(p, now)-time.Duration(most-1)*b.Every), nil
}

// backlog returns how far TAT is ahead of now.
func (b Budget) backlog(p *balance, now time.Time) time.Duration {
	owed := max(p.TAT.Sub(now), 0)
	if owed > time.Duration(b.Burst)*b.Every+maxClockSkew {
		return 0 // the clock was set back
	}
	return owed
}

// spend counts one more mail.
func (b Budget) spend(p *balance, network string, now time.Time) {
	now = now.UTC().Round(0)
	made := []time.Time{}
	for _, at := range p.Made {
		if age := now.Sub(at); age >= -maxClockSkew && age < time.Hour {
			made = append(made, at)
		}
	}
	p.Made = append(made, now)
	p.TAT = now.Add(b.backlog(p, now) + b.Every)
	p.Next, p.NextDue, p.NextIsNew = "", time.Time{}, false
	if network != "" {
		p.addNetwork(network, now)
	}
}

// addNetwork records that a mail was made for the network.
func (p *balance) addNetwork(network string, now time.Time) {
	if p.Networks == nil {
		p.Networks = make(map[string]int64)
	}
	p.Networks[network] = now.Unix() / 3600
	oldest := ""
	for name, at := range p.Networks {
		if p.isNew(name, now) {
			delete(p.Networks, name)
		} else if oldest == "" || at < p.Networks[oldest] {
			oldest = name
		}
	}
	if len(p.Networks) > maxNetworks {
		delete(p.Networks, oldest)
	}
}

// expires returns when the balance is no longer needed.
func (p *balance) expires(now time.Time) time.Time {
	end := now.Add(24 * time.Hour)
	if len(p.Networks) > 0 {
		return now.Add(networkMemory)
	}
	return end
}
