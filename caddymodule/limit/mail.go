// Package limit keeps budgets: how often something may happen, whoever asks.
//
// Two kinds of them. What a contact gets is a record in the store, changed in the same
// step as what it counts, so that no crash, restart or second gate forgets any of it
// (mail.go). What a network does is counted in memory, in cells of sixteen bytes that
// empty by themselves (network.go, cells.go), and is written down now and then
// (snapshot.go). Devices that a contact has signed in on have budgets of their own
// (device.go), which is what keeps a flood from locking anybody out.
package limit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrOver: the budget is used up for now.
var ErrOver = errors.New("limit: over the budget")

// Budget is how many mails a contact may get. The zero value allows none.
type Budget struct {
	Apart time.Duration // at least so long between two
	Hour  int           // in any hour
	Day   int           // in any day, as long as nobody signs in with one of them
}

// The budgets of sign-in mails. Staff have twice as much: who has to help a client
// under a flood must get in.
var (
	ForClients = Budget{Apart: time.Minute, Hour: 6, Day: 12}
	ForStaff   = Budget{Apart: time.Minute, Hour: 12, Day: 24}
)

// ForNews is the budget of mails about sign-ins on new devices. They count in a purse of
// their own: who has somebody's password must neither flood them nor use up the mails by
// which they get in.
var ForNews = Budget{Hour: 4, Day: 10}

// ForChanges is how often somebody who is signed in may change or remove their password.
// Each time a mail tells of it, which is never left out, so it is the change that has to wait.
var ForChanges = Budget{Hour: 10, Day: 20}

// Purse is whose budget it is: a contact's, whatever address or spelling was typed. What
// strangers can't do has a purse apart: one for each device the contact has signed in on,
// and one for the buttons of sign-in links that are over.
type Purse struct {
	Contact string // ID
	Apart   string // the device's ID, or another word; "": what anybody can ask for
}

func (p Purse) id() string {
	if p.Apart == "" {
		return p.Contact
	}
	return p.Contact + "/" + p.Apart
}

// Mail is one mail that was made.
type Mail struct {
	At      time.Time `json:"at"`
	Network string    `json:"network,omitempty"` // where it was asked for from, see Networks.Name
}

// purse is what the store knows of one.
type purse struct {
	Made     []Mail    `json:"made"`
	Answered time.Time `json:"answered,omitzero"` // when somebody signed in last
	Next     string    `json:"next,omitempty"`    // the request that is put off until Apart is over
}

// clockSkew is by how much the clocks of two machines may differ. What was made later
// than that was written before the clock was set back: by how much nobody knows, so it
// no longer counts, and nobody is locked out.
const clockSkew = 5 * time.Minute

// allows decides on one more mail after those that were made: ErrOver, or how long to
// wait for it, which is never longer than Apart. A network may use half of a budget, so
// that who floods from one place leaves room for the owner in another; of a purse
// apart (network "") it may use all.
func (b Budget) allows(p purse, now time.Time, network string) (wait time.Duration, err error) {
	var hour, day, hourHere, dayHere int
	for _, m := range p.Made {
		age := now.Sub(m.At)
		if age < -clockSkew {
			continue
		}
		age = max(age, 0)
		wait = max(wait, b.Apart-age)
		here := network != "" && m.Network == network
		if age < time.Hour {
			hour++
			if here {
				hourHere++
			}
		}
		if age < 24*time.Hour && m.At.After(p.Answered) {
			day++
			if here {
				dayHere++
			}
		}
	}
	if hour >= b.Hour || day >= b.Day || hourHere >= (b.Hour+1)/2 || dayHere >= (b.Day+1)/2 {
		return 0, ErrOver
	}
	return wait, nil
}

// Mails keeps the budgets of a firm's contacts. It may be used by many goroutines, and
// by several processes on one store.
type Mails struct {
	Firm  string
	Store store.Store
}

// Spent is what comes of Spend. Its Ops are to be applied with whatever follows from it;
// store.ErrConflict then means that another was faster: call Spend again.
type Spent struct {
	Ops   []store.Op
	Later time.Time // not now: ask again then, with the same request; zero: now
}

// Spend counts one more mail for a request that came from the network (see
// Networks.Name). It is ErrOver when there may be none. Where the last mail is only less
// than Apart ago, one request of a purse is put off until then: whoever corrects
// themselves gets a mail. Others meanwhile are ErrOver: a mail is on its way anyhow.
func (m *Mails) Spend(ctx context.Context, whose Purse, b Budget, request, network string, now time.Time) (Spent, error) {
	if whose.Apart != "" {
		network = ""
	}
	k, p, was, err := m.read(ctx, whose)
	if err != nil {
		return Spent{}, err
	}
	wait, err := b.allows(p, now, network)
	switch {
	case err != nil:
		return Spent{}, err
	case wait > 0 && p.Next == request:
		return Spent{Later: now.Add(wait)}, nil
	case wait > 0 && p.Next != "":
		return Spent{}, ErrOver
	case wait > 0:
		p.Next = request
		op, err := write(k, was, p, now)
		return Spent{Ops: []store.Op{op}, Later: now.Add(wait)}, err
	}
	p.Next = ""
	p.Made = append(slices.DeleteFunc(p.Made, func(one Mail) bool {
		age := now.Sub(one.At)
		return age >= 24*time.Hour || age < -clockSkew || age >= time.Hour && !one.At.After(p.Answered)
	}), Mail{At: now.UTC().Round(0), Network: network})
	op, err := write(k, was, p, now)
	return Spent{Ops: []store.Op{op}}, err
}

// Answered returns the Ops for a sign-in by one of the purse's mails: those that were
// made were no flood. The time between two, and the hour's budget, stay.
func (m *Mails) Answered(ctx context.Context, whose Purse, now time.Time) ([]store.Op, error) {
	k, p, was, err := m.read(ctx, whose)
	if err != nil || was == nil {
		return nil, err
	}
	p.Answered = now.UTC().Round(0)
	op, err := write(k, was, p, now)
	return []store.Op{op}, err
}

const (
	mailBucket = "mails" // by purse: what was made in the last day
	version    = '1'     // first byte of every value
)

// read returns the purse, and the value it was read from (nil: none).
func (m *Mails) read(ctx context.Context, whose Purse) (store.Key, purse, []byte, error) {
	var p purse
	k := store.Key{Firm: m.Firm, Bucket: mailBucket, ID: whose.id()}
	rec, err := m.Store.Get(ctx, k)
	if errors.Is(err, store.ErrNotFound) {
		return k, p, nil, nil
	} else if err != nil {
		return k, p, nil, err
	}
	if err := decode(rec, &p); err != nil {
		return k, p, nil, err
	}
	return k, p, rec.Value, nil
}

func write(k store.Key, was []byte, p purse, now time.Time) (store.Op, error) {
	value, err := json.Marshal(p)
	if err != nil {
		return store.Op{}, fmt.Errorf("writing a %s record: %w", k.Bucket, err)
	}
	value = append([]byte{version}, value...)
	if was == nil {
		return store.Create(k, value, now.Add(24*time.Hour)), nil
	}
	return store.Replace(k, was, value, now.Add(24*time.Hour)), nil
}

func decode(rec store.Record, v any) error {
	if len(rec.Value) == 0 || rec.Value[0] != version {
		return fmt.Errorf("%s record of another version: %w", rec.Key.Bucket, store.ErrUnavailable)
	}
	if err := json.Unmarshal(rec.Value[1:], v); err != nil {
		return fmt.Errorf("reading a %s record: %w", rec.Key.Bucket, err)
	}
	return nil
}
