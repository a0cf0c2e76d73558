package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// Prepare makes the mail of a committed request, in a worker, long after the visitor
// has had their answer: who is it, may they have a link, which one. A request that
// comes to nothing just ends.
func (g *Gate) Prepare(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	if r.Kind == kindChanged || r.Kind == kindNewDevice {
		return g.prepareNews(ctx, r)
	}
	var ask token.Ask
	if err := json.Unmarshal(r.Payload, &ask); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	event := audit.Event{Address: ask.Address.Masked(), Request: ask.ID, What: whatOf(ask.Purpose), Agent: ask.Agent, IP: ask.IP, Whole: ask.Address}
	note := func(kind audit.Kind) func() {
		event.Kind = kind
		return func() { g.Audit.Record(ctx, event) }
	}
	nothing := func(kind audit.Kind) (outbox.Prepared, error) {
		return outbox.Prepared{Done: note(kind)}, nil
	}
	if ask.Purpose == token.SetPassword && g.Passwords == nil {
		return outbox.Prepared{}, nil // they were switched off since
	}
	c, err := g.Book.ByEmail(ctx, ask.Address)
	if errors.Is(err, directory.ErrUnknown) {
		return nothing(audit.Unknown)
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	event.Contact = c.ID
	if c.Disabled {
		return nothing(audit.Disabled)
	}
	// To the stored address that matched, never to what was typed.
	i := slices.Index(c.Emails, ask.Address)
	if i < 0 {
		return nothing(audit.Unknown)
	}
	if ask.Known, err = g.devices.Knows(ctx, ask.Device, c.ID); err != nil {
		return outbox.Prepared{}, err
	}
	var ready time.Time
	issued, err := g.Tokens.Issue(ctx, ask, token.Recipient{Contact: c.ID, Generation: c.Generation, Address: c.Emails[i]})
	if errors.Is(err, token.ErrTooMany) {
		ready = g.Now().Add(fullWait) // with others that wait, until one of the links is over
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	spent, err := g.spendMail(ctx, ask, c, ready)
	switch {
	case errors.Is(err, limit.ErrOver):
		return nothing(audit.Limited)
	case err != nil:
		return outbox.Prepared{}, err
	case spent.Again:
		return outbox.Prepared{Later: spent.Later, Ops: spent.Ops}, nil
	case !spent.Later.IsZero():
		return outbox.Prepared{Later: spent.Later, Ops: spent.Ops, Done: note(audit.Delayed)}, nil
	}
	message, err := g.letter(ctx, ask, c, c.Emails[i], issued)
	if err != nil {
		return outbox.Prepared{}, err
	}
	// A device is known as such before it is known whose it is: on one of somebody else's, the request
	// has had room in the queue, but its mail goes out in its turn.
	return outbox.Prepared{Message: message, Ops: append(issued.Ops, spent.Ops...), Ref: ask.ID + " " + issued.ID,
		Common: ask.Purse() == "", Done: note(audit.Queued)}, nil
}

// fullWait is after how long it is looked again whether another link of a contact may be made.
const fullWait = time.Minute

// spendMail counts one more mail to the contact, in the purse of the ask, not to be made
// before it may be.
func (g *Gate) spendMail(ctx context.Context, ask token.Ask, c directory.Contact, ready time.Time) (limit.Spent, error) {
	purse, budget := limit.Purse{Contact: c.ID, Apart: ask.Purse()}, limit.ForClients
	if c.Role == directory.Staff {
		budget = limit.ForStaff
	}
	return g.mails.Spend(ctx, purse, budget, limit.Request{
		ID: ask.ID, Network: g.Networks.Name(ask.IP), Ready: ready, Until: ask.At.Add(token.Patience),
	}, g.Now())
}

// Attempt is called before each hand-over of a mail: its link's life begins anew, if it
// has one.
func (g *Gate) Attempt(ctx context.Context, ref string, at time.Time) ([]store.Op, error) {
	_, link, ok := strings.Cut(ref, " ")
	if !ok {
		return nil, nil
	}
	ops, err := g.Tokens.HandOver(ctx, link, at, false)
	if errors.Is(err, token.ErrOver) || errors.Is(err, token.ErrUnknown) {
		return nil, outbox.ErrDrop
	}
	return ops, err
}

// Sent is called when the mail server has accepted a mail.
func (g *Gate) Sent(ctx context.Context, ref string, at time.Time) ([]store.Op, error) {
	_, link, ok := strings.Cut(ref, " ")
	if !ok {
		return nil, nil
	}
	return g.Tokens.HandOver(ctx, link, at, true)
}

// Failed is called when a mail ends unsent: refused for good, or too late.
func (g *Gate) Failed(ctx context.Context, ref string, _ time.Time, why error) ([]store.Op, error) {
	_, link, ok := strings.Cut(ref, " ")
	if !ok {
		return nil, nil
	}
	if errors.Is(why, outbox.ErrRefused) {
		return g.Tokens.Refused(ctx, link)
	}
	return g.Tokens.GiveUp(ctx, link)
}

// Ended is called once a mail has left the outbox: sent, or, with why, unsent.
func (g *Gate) Ended(ctx context.Context, request string, why error) {
	event := audit.Event{Kind: audit.Sent, Request: request}
	switch {
	case errors.Is(why, outbox.ErrRefused):
		event.Kind, event.Reason = audit.Refused, outbox.Reason(why)
	case why != nil:
		event.Kind = audit.Late
		if reason := outbox.Reason(why); why.Error() != outbox.ErrLate.Error() {
			event.Reason = reason
		}
	}
	g.Audit.Record(ctx, event)
}

// Waiting is called when a try to send a mail failed and it will be tried again: at first,
// and when the reason changes.
func (g *Gate) Waiting(ctx context.Context, request, reason string) {
	g.Audit.Record(ctx, audit.Event{Kind: audit.Waiting, Request: request, Reason: reason})
}

// letter writes the mail that was asked for.
func (g *Gate) letter(ctx context.Context, ask token.Ask, c directory.Contact, to address.Address, issued token.Issued) (*outbox.Message, error) {
	mail, err := g.mailTo(ctx, c, to)
	if err != nil {
		return nil, err
	}
	site := g.siteNamed(ask.Site)
	link := site.JoinPath(g.Prefix, "link")
	if ask.Purpose == token.SetPassword {
		link = site.JoinPath(g.Prefix, "password", "set")
	}
	link.RawQuery = "t=" + issued.Token
	mail.Link, mail.Code, mail.Life, mail.AskedAt, mail.Agent = link.String(), issued.Code, g.Tokens.Life, ask.At.Local(), ask.Agent
	if ask.Staff {
		mail.Life = token.StaffLife
	}
	var letter brand.Letter
	if ask.Purpose == token.SetPassword {
		letter, err = g.Letters.SetPassword(brand.SetPassword{Mail: mail, ByStaff: ask.Staff})
	} else {
		letter, err = g.Letters.SignIn(brand.SignIn(mail))
	}
	if err != nil {
		return nil, fmt.Errorf("writing a mail with a link: %w", err)
	}
	return messageOf(letter, ask.At)
}

// mailTo begins a mail to an address of the contact.
func (g *Gate) mailTo(ctx context.Context, c directory.Contact, to address.Address) (brand.Mail, error) {
	companies, err := g.companyNames(ctx, c)
	return brand.Mail{To: string(to), FirstName: c.FirstName, LastName: c.LastName, Companies: companies}, err
}

func messageOf(letter brand.Letter, at time.Time) (*outbox.Message, error) {
	data, err := letter.Bytes(at)
	if err != nil {
		return nil, fmt.Errorf("writing a mail: %w", err)
	}
	return &outbox.Message{From: letter.From, To: letter.To, Data: data}, nil
}

func (g *Gate) companyNames(ctx context.Context, c directory.Contact) ([]string, error) {
	var names []string
	for _, id := range c.Companies {
		company, err := g.Book.Company(ctx, id)
		if errors.Is(err, directory.ErrUnknown) {
			continue
		} else if err != nil {
			return nil, err
		}
		names = append(names, company.Name)
	}
	return names, nil
}
