package limit

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

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

// Mails keeps the budgets of a firm's contacts. It may be used by many goroutines, and
// by several processes on one store.
type Mails struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock that records expire by; nil: time.Now

	// Alarm is told of records that are none of ours; see sealed.Bucket.
	Alarm func(context.Context, store.Key)
}

// Request is a request for a mail.
type Request struct {
	ID      string
	Network string    // that it came from, see Networks.Name; "": it doesn't matter
	Ready   time.Time // not before; zero: now
	Until   time.Time // of no use later; zero: only now
}

// Spent is what comes of Spend. Its Ops are to be applied with whatever follows from it;
// store.ErrConflict then means that another was faster: call Spend again.
type Spent struct {
	Ops   []store.Op
	Later time.Time // not now: ask again then, with the same request; zero: now
	Again bool      // with Later: the request has been waiting already
}

const (
	// longestWait is how far ahead Later is at most: clocks may be set meanwhile.
	longestWait = 10 * time.Minute
	// late is how long a request that waits is expected after its time. After that it is
	// taken for lost.
	late = time.Minute
)

// Spend counts one more mail for the request. It is ErrOver when there may be none, now or as
// long as the request is of use. Otherwise the request waits until there may be one, but only
// one request of a purse at a time: others are ErrOver, for a mail to the same mailbox is on
// its way. A request from a network that had no mail lately takes the place of one from a
// network that had, so that somebody who asks for the first time isn't kept waiting by networks
// that ask all day.
func (m *Mails) Spend(ctx context.Context, whose Purse, b Budget, r Request, now time.Time) (Spent, error) {
	if whose.Apart != "" {
		r.Network = ""
	}
	was, p, _, err := m.read(ctx, whose, b, now)
	if err != nil {
		return Spent{}, err
	}
	wait, err := b.wait(&p, r.Network, now)
	if err != nil {
		return Spent{}, err
	}
	wait = max(wait, r.Ready.Sub(now))
	fresh := p.fresh(r.Network, now)
	mine, taken := p.Next == r.ID, p.Next != "" && now.Before(p.NextDue.Add(late)) && p.NextDue.Before(now.Add(24*time.Hour))
	switch {
	case !mine && taken && (p.NextFresh || !fresh):
		return Spent{}, ErrOver
	case wait <= 0:
		b.spend(&p, r.Network, now)
		return m.write(was, p, now, time.Time{})
	case now.Add(wait).After(r.Until):
		return Spent{}, ErrOver
	}
	later, due := now.Add(min(wait, longestWait)), now.Add(wait).UTC().Round(0)
	if mine && p.NextDue.Sub(due).Abs() < time.Second {
		return Spent{Later: later, Again: true}, nil
	}
	p.Next, p.NextDue, p.NextFresh = r.ID, due, fresh
	spent, err := m.write(was, p, now, later)
	spent.Again = mine
	return spent, err
}

// Answered returns the Ops for a sign-in from a network, by one of the purse's mails or
// another way: those that were made were no flood, and the network is the contact's. The time
// between two, and the hour's budget, stay.
func (m *Mails) Answered(ctx context.Context, whose Purse, network string, now time.Time) ([]store.Op, error) {
	was, p, found, err := m.read(ctx, whose, Budget{}, now)
	if err != nil || !found {
		return nil, err
	}
	p.Owed = time.Time{}
	delete(p.Networks, network)
	spent, err := m.write(was, p, now, time.Time{})
	return spent.Ops, err
}

func (m *Mails) bucket() *sealed.Bucket[balance] {
	return &sealed.Bucket[balance]{Store: m.Store, Keys: m.Keys, Firm: m.Firm, Name: "mail-budget", Now: m.Now, Format: 1, Alarm: m.Alarm}
}

// Reseal seals with the newest secret what older ones have sealed. A budget that couldn't be
// opened any more would count as used up.
func (m *Mails) Reseal(ctx context.Context) error {
	_, err := m.bucket().Reseal(ctx)
	return err
}

// read returns the balance of a purse, and whether there is a record of it. One that can't be
// trusted is used up.
func (m *Mails) read(ctx context.Context, whose Purse, b Budget, now time.Time) (was sealed.Record[balance], p balance, found bool, err error) {
	was, err = m.bucket().Get(ctx, whose.id())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return was, balance{}, false, nil
	case errors.Is(err, sealed.ErrUntrusted):
		return was, balance{Owed: now.Add(time.Duration(b.Burst) * b.Every)}, true, nil
	}
	return was, was.Value, true, err
}

func (m *Mails) write(was sealed.Record[balance], p balance, now, later time.Time) (Spent, error) {
	op, err := m.bucket().Write(was, p, p.expires(now))
	return Spent{Ops: []store.Op{op}, Later: later}, err
}

const version = '1' // first byte of every value that isn't sealed
