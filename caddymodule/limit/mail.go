package limit

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Key identifies a budget: a contact's, for all their addresses and spellings. Requests that
// other people cannot make have budgets apart: one for each device that the contact has signed
// in on, and one for the buttons of expired sign-in links.
type Key struct {
	Contact string // ID
	Scope   string // ID of the device, or another scope; "": requests that anybody can make
}

func (p Key) id() string {
	if p.Scope == "" {
		return p.Contact
	}
	return p.Contact + "/" + p.Scope
}

// Mails are the mail budgets of a firm's contacts. All methods are safe for concurrent use, and
// several processes may use one store.
type Mails struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // clock for the expiry of records; nil: time.Now

	// OnUntrusted is called for records that Doorpost did not seal; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)
}

type Request struct {
	ID      string
	Network string    // the client's network, see Networks.Pseudonym; "": irrelevant
	Ready   time.Time // earliest time; zero: now
	Until   time.Time // latest useful time; zero: only now
}

// Spent is the result of Spend. Apply its Ops in the transaction that queues the mail or lets
// the request wait. If the store returns store.ErrConflict, the budget has changed meanwhile:
// call Spend again.
type Spent struct {
	Ops   []store.Op
	Later time.Time // call Spend again then, with the same request; zero: the mail may be sent now
	Again bool      // with Later: the request was waiting before
}

const (
	// maxLater limits how far ahead Later is, since clocks may be set meanwhile.
	maxLater = 10 * time.Minute
	// maxDelay is how long a waiting request is expected after its time. After that it counts
	// as lost.
	maxDelay = time.Minute
)

// Spend counts one more mail for the request. It returns ErrOver if no mail may be sent now or
// while the request is useful. Otherwise the request may have to wait (Spent.Later), but only
// one request of a budget at a time: others get ErrOver, since a mail to the same mailbox is
// due anyway. A request from a network without a recent mail replaces a waiting one from a
// network with one, so that networks that send requests all day don't delay a contact's own.
func (m *Mails) Spend(ctx context.Context, whose Key, b Budget, r Request, now time.Time) (Spent, error) {
	if whose.Scope != "" {
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
	fresh := p.isNew(r.Network, now)
	mine, taken := p.Next == r.ID, p.Next != "" && now.Before(p.NextDue.Add(maxDelay)) && p.NextDue.Before(now.Add(24*time.Hour))
	switch {
	case !mine && taken && (p.NextIsNew || !fresh):
		return Spent{}, ErrOver
	case wait <= 0:
		b.spend(&p, r.Network, now)
		return m.write(was, p, now, time.Time{})
	case now.Add(wait).After(r.Until):
		return Spent{}, ErrOver
	}
	later, due := now.Add(min(wait, maxLater)), now.Add(wait).UTC().Round(0)
	if mine && p.NextDue.Sub(due).Abs() < time.Second {
		return Spent{Later: later, Again: true}, nil
	}
	p.Next, p.NextDue, p.NextIsNew = r.ID, due, fresh
	spent, err := m.write(was, p, now, later)
	spent.Again = mine
	return spent, err
}

// Answered returns the Ops for a sign-in from a network, whether by one of the budget's mails
// or another way. It shows that the mails were no flood and that the network is the contact's.
// The minimum time between two mails and the hourly maximum stay.
func (m *Mails) Answered(ctx context.Context, whose Key, network string, now time.Time) ([]store.Op, error) {
	was, p, found, err := m.read(ctx, whose, Budget{}, now)
	if err != nil || !found {
		return nil, err
	}
	p.TAT = time.Time{}
	delete(p.Networks, network)
	spent, err := m.write(was, p, now, time.Time{})
	return spent.Ops, err
}

func (m *Mails) bucket() *sealed.Bucket[balance] {
	return &sealed.Bucket[balance]{Store: m.Store, Keys: m.Keys, Firm: m.Firm, Name: "mail-budget", Now: m.Now, Format: 1, OnUntrusted: m.OnUntrusted}
}

// Reseal seals all records again with the newest secret. A budget that can't be opened would
// count as used up.
func (m *Mails) Reseal(ctx context.Context) error {
	_, err := m.bucket().Reseal(ctx)
	return err
}

// read returns a budget's state, and whether there is a record of it. An untrusted record
// counts as used up.
func (m *Mails) read(ctx context.Context, whose Key, b Budget, now time.Time) (was sealed.Record[balance], p balance, found bool, err error) {
	was, err = m.bucket().Get(ctx, whose.id())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return was, balance{}, false, nil
	case errors.Is(err, sealed.ErrUntrusted):
		return was, balance{TAT: now.Add(time.Duration(b.Burst) * b.Every)}, true, nil
	}
	return was, was.Value, true, err
}

func (m *Mails) write(was sealed.Record[balance], p balance, now, later time.Time) (Spent, error) {
	op, err := m.bucket().Write(was, p, p.expires(now))
	return Spent{Ops: []store.Op{op}, Later: later}, err
}

const version = '1' // first byte of every unsealed value
