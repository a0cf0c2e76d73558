package action

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

const (
	// wakeAfter is how long a request lies before it is looked at, and at most twice that.
	wakeAfter = 20 * time.Millisecond
	// longTo is how many bytes of a way back are kept while manyWait requests wait: a flood
	// mustn't fill the disk.
	longTo   = 1 << 10
	manyWait = 500
)

// MailRequests commits what visitors ask for: a mail with a link. Set its fields in one literal
// before use.
type MailRequests struct {
	Tokens   *token.Tokens
	Queue    *outbox.Queue
	Networks *limit.Networks
	Audit    *audit.Log
	Now      func() time.Time
}

// Commit puts a request into the store, whoever's address it holds, before anybody is told that a
// mail is coming; by has a flow cookie. Commit sets the fields of ask for the browser and
// the time. The error is outbox.ErrFull, or the store's.
func (m *MailRequests) Commit(ctx context.Context, by Browser, ask token.MailRequest) error {
	if len(ask.To) > longTo && m.Queue.Len() > manyWait {
		ask.To = "/"
	}
	ask.At = m.Now()
	kind := kindSignIn
	if ask.Purpose == token.SetPassword {
		kind = kindSetPassword
	}
	ask.Agent, ask.IP, ask.Device, ask.Languages = by.Agent, by.IP, by.Device, by.Languages
	// Those that come from a known device or an old link have a budget and room of their own.
	// Others are counted whatever becomes of them. Where too much was asked for, the page
	// shows what was typed as before, and that is all.
	ask.ID = outbox.NewID(kind, ask.At)
	if ask.Reserved = m.Networks.AllowKnown(ask.Device) || m.Networks.AllowKnown(ask.Link); ask.Reserved {
		ask.ID = outbox.NewReservedID(kind, ask.At)
	}
	ask.Limited = !ask.Reserved && !m.Networks.Allow(limit.MailRequest, ask.IP)
	if err := m.Queue.Full(ask.ID); err != nil && !ask.Limited {
		return err
	}
	ask.Browser = by.FlowID()
	payload, err := token.Compact(ask)
	if err != nil {
		return err
	}
	add := []store.Op{m.Queue.Add(outbox.Request{
		ID: ask.ID, Kind: kind, Asked: ask.At, NotAfter: ask.At.Add(token.MaxMailDelay), Payload: payload,
	})}
	if ask.Limited {
		add = nil
	}
	if err := m.Tokens.Request(ctx, ask, add...); err != nil {
		return err
	}
	event := audit.Event{Kind: audit.Requested, Address: ask.Address.Masked(), Request: ask.ID,
		What: EventOf(ask.Purpose), Agent: ask.Agent, IP: ask.IP, Whole: ask.Address}
	m.Audit.Record(ctx, event)
	// Not at once: what differs by address, and by network, would be felt in the time of
	// this answer and of the next.
	later := func() { m.Queue.Wake(ask.ID) }
	if ask.Limited {
		ctx, event := context.WithoutCancel(ctx), event
		event.Kind = audit.Limited
		later = func() { m.Audit.Record(ctx, event) }
	}
	time.AfterFunc(wakeAfter+rand.N(wakeAfter), later)
	return nil
}

// EventOf says in an event what a link, or the mail with it, is for.
func EventOf(purpose string) string {
	if purpose == token.SetPassword {
		return audit.SetPassword
	}
	return ""
}
