package admin

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/typo"
)

// ListEvents asks for one page of events.
type ListEvents struct {
	Since time.Time `json:"since,omitzero"`  // not before; zero: from the beginning
	After string    `json:"after,omitempty"` // Next of the page before; "": the first page
	Limit int       `json:"limit,omitempty"` // 1 to 1000; 0: 100
}

// EventList is one page of events, in the order of time.
type EventList struct {
	Events []Event `json:"events"`
	Next   string  `json:"next,omitempty"` // where the next page begins; "": there is none
}

// Event is one thing that happened at the door.
type Event struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	audit.Event
	Scanner bool `json:"scanner,omitempty"` // in a timeline: it looks like a mail scanner's
}

// StrangerList is the addresses that somebody asked with and that are no contact's, the
// latest first.
type StrangerList struct {
	Addresses []audit.UnknownAddress `json:"addresses"`
}

func (f Firm) ListEvents(ctx context.Context, in ListEvents) (EventList, error) {
	out := EventList{Events: []Event{}}
	limit, err := ListRequest{Limit: in.Limit}.limit()
	if err != nil {
		return out, err
	}
	events, next, err := f.Audit.Events(ctx, in.Since, in.After, limit)
	for _, e := range events {
		out.Events = append(out.Events, eventOf(e))
	}
	out.Next = next
	return out, err
}

// eventOf is an event as it is shown: without the mark, which says nothing to people.
func eventOf(e audit.Event) Event {
	e.Mark, e.LostMarks = "", nil
	return Event{ID: e.ID, Time: e.Time, Event: e}
}

func (f Firm) ListStrangers(ctx context.Context, _ struct{}) (StrangerList, error) {
	all, err := f.Audit.UnknownAddresses(ctx)
	if all == nil {
		all = []audit.UnknownAddress{}
	}
	return StrangerList{all}, err
}

// TimelineOf asks what happened to the contact that has the address.
type TimelineOf struct {
	Email string    `json:"email"`
	Since time.Time `json:"since,omitzero"` // not before; zero: from the beginning
}

// Timeline has the events of one address.
type Timeline struct {
	Email    string                 `json:"email"`             // in its canonical form
	Contact  *directory.Contact     `json:"contact,omitempty"` // nil: the address is no contact's
	Sessions int                    `json:"sessions"`          // browsers that the contact is signed in with now
	File     *directory.Kept        `json:"file,omitempty"`    // what the file of contacts says otherwise, and was left alone
	Events   []Event                `json:"events"`            // in the order of time
	Asked    *audit.UnknownAddress  `json:"asked,omitempty"`   // where it is no contact's: who asked with it all the same
	Similar  []audit.UnknownAddress `json:"similar"`           // addresses like it that somebody asked with and that are no contact's
	Near     []directory.Contact    `json:"near"`              // where it is no contact's: those with an address like it, at most five
	Former   *Former                `json:"former,omitempty"`  // where it is no contact's any more

	NoCompany bool `json:"no_company,omitempty"` // the contact belongs to none of the firm's companies

	Waiting    []WaitingMail  `json:"waiting"`               // mails to the contact that aren't sent yet
	MailServer *outbox.Outage `json:"mail_server,omitempty"` // why no mail goes out now; missing: nothing is known
}

// Former is the contact who had an address.
type Former struct {
	Contact *directory.Contact `json:"contact,omitempty"` // nil: the contact was removed
	Lost    time.Time          `json:"lost,omitzero"`     // when; zero: it isn't known
}

// WaitingMail is a mail that isn't sent yet.
type WaitingMail struct {
	Request string    `json:"request"`
	Kind    string    `json:"kind"`
	Tries   int       `json:"tries"`
	Reason  string    `json:"reason,omitempty"` // why the last try failed
	Next    time.Time `json:"next,omitzero"`    // no try before that
	Until   time.Time `json:"until"`            // when it is given up
}

const maxNear = 5

func (f Firm) Timeline(ctx context.Context, in TimelineOf) (Timeline, error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return Timeline{}, err
	}
	out := Timeline{Email: string(email), Events: []Event{}, Similar: []audit.UnknownAddress{}, Near: []directory.Contact{}, Waiting: []WaitingMail{}}
	emails, contact := []address.Address{email}, ""
	c, err := f.Directory.ByEmail(ctx, email)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		if out.Near, err = f.near(ctx, email); err != nil {
			return out, err
		}
	case err != nil:
		return out, err
	default:
		out.Contact, emails, contact = &c, c.Emails, c.ID
		sessions, err := f.Sessions.List(ctx, c.ID, c.Generation)
		if err != nil {
			return out, err
		}
		out.Sessions = len(sessions)
		if c.Role != directory.Staff && len(c.Companies) == 0 {
			companies, err := f.Directory.Companies(ctx, "", "", 1)
			if err != nil {
				return out, err
			}
			out.NoCompany = len(companies) > 0
		}
	}
	if out.File, err = leftAlone(ctx, f, c, string(email)); err != nil {
		return out, err
	}
	if out.Events, err = f.eventsOf(ctx, contact, emails, in.Since); err != nil {
		return out, err
	}
	if out.Former, err = f.former(ctx, out); err != nil {
		return out, err
	}
	if out.Waiting, err = f.waiting(ctx, out.Events); err != nil {
		return out, err
	}
	if down, ok := f.Queue.Outage(); ok {
		out.MailServer = &down
	}
	strangers, err := f.Audit.UnknownAddresses(ctx)
	for _, s := range strangers {
		switch {
		case s.Address == email:
			out.Asked = &s
		case slices.ContainsFunc(emails, func(a address.Address) bool { return alike(a, s.Address) }):
			out.Similar = append(out.Similar, s)
		}
	}
	if out.Contact != nil {
		out.Asked = nil // from before it was a contact's
	}
	return out, err
}

// eventsOf returns the events of a contact ("": of nobody), and those of its addresses and
// requests that don't know whose they are.
func (f Firm) eventsOf(ctx context.Context, contact string, emails []address.Address, since time.Time) ([]Event, error) {
	var some []audit.Event // that may be the contact's
	requests, marks := map[string]bool{}, map[string]bool{}
	for _, a := range emails {
		for _, m := range f.Audit.Marks(a) {
			marks[m] = true
		}
	}
	about := func(e audit.Event) bool {
		lost := contact == "" && slices.ContainsFunc(e.LostMarks, func(m string) bool { return marks[m] })
		return e.Contact != "" && e.Contact == contact || e.Contact == "" && marks[e.Mark] || lost
	}
	for after := ""; ; {
		page, next, err := f.Audit.Events(ctx, since, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if about(e) || (e.Contact == "" || contact == "") && e.Request != "" {
				some = append(some, e)
			}
			if about(e) && e.Request != "" {
				requests[e.Request] = true
			}
		}
		if after = next; after == "" {
			break
		}
	}
	some = slices.DeleteFunc(some, func(e audit.Event) bool { return !about(e) && !requests[e.Request] })
	out := []Event{}
	notices := map[string]bool{}
	for _, e := range some {
		notices[e.Request] = notices[e.Request] || isNotice(e)
	}
	var asked, sent audit.Event // the latest, which a link that is opened is likely from
	for _, e := range some {
		one := eventOf(e)
		switch e.Kind {
		case audit.Requested:
			asked = e
		case audit.Sent:
			if !notices[e.Request] {
				sent = e
			}
		case audit.Opened, audit.OpenedOld:
			one.Scanner = audit.Scanner(e, asked, sent)
		}
		out = append(out, one)
	}
	return out, nil
}

// isNotice reports whether the event says that its request is for a notice.
func isNotice(e audit.Event) bool {
	return e.Request != "" && (e.Kind == audit.Notified || e.Kind == audit.Dropped)
}

// NoticeRequests returns which requests of the events are for notices, as opposed to mails by which contacts
// sign in.
func NoticeRequests(events []Event) map[string]bool {
	all := map[string]bool{}
	for _, e := range events {
		if isNotice(e.Event) {
			all[e.Request] = true
		}
	}
	return all
}

// former returns who had an address that is no contact's: by the change that took it, or
// else by the mails that went there.
func (f Firm) former(ctx context.Context, t Timeline) (*Former, error) {
	if t.Contact != nil {
		return nil, nil
	}
	for _, e := range slices.Backward(t.Events) {
		if e.Contact == "" {
			continue
		}
		out := &Former{}
		if e.Kind == audit.Changed {
			out.Lost = e.Time
		}
		c, err := f.Directory.ByID(ctx, e.Contact)
		switch {
		case err == nil:
			out.Contact = &c
		case !errors.Is(err, directory.ErrUnknown):
			return nil, err
		}
		return out, nil
	}
	return nil, nil
}

// waiting returns the mails of the events that aren't sent yet.
func (f Firm) waiting(ctx context.Context, events []Event) ([]WaitingMail, error) {
	requests := map[string]bool{}
	for _, e := range events {
		if e.Request != "" {
			requests[e.Request] = true
		}
	}
	out := []WaitingMail{}
	if len(requests) == 0 {
		return out, nil
	}
	for after := ""; ; {
		list, next, err := f.Queue.List(ctx, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, e := range list {
			if requests[e.ID] && e.Ready {
				out = append(out, WaitingMail{Request: e.ID, Kind: e.Kind, Tries: e.Tries, Reason: e.Last, Next: e.Due, Until: e.NotAfter})
			}
		}
		if after = next; after == "" {
			return out, nil
		}
	}
}

// near returns the first contacts that have an address like this one.
func (f Firm) near(ctx context.Context, email address.Address) ([]directory.Contact, error) {
	found := []directory.Contact{}
	for after := ""; ; {
		contacts, err := f.Directory.Contacts(ctx, "", after, contactsAtOnce)
		if err != nil {
			return nil, err
		}
		for _, c := range contacts {
			if slices.ContainsFunc(c.Emails, func(a address.Address) bool { return alike(a, email) }) {
				if found = append(found, c); len(found) == maxNear {
					return found, nil
				}
			}
			after = c.ID
		}
		if len(contacts) < contactsAtOnce {
			return found, nil
		}
	}
}

// alike reports whether one address may be meant by the other: the same name at another
// domain, with or without a tag ("ann+portal") or dots, or two slips of the finger.
func alike(a, b address.Address) bool {
	nameA, nameB := bareName(a), bareName(b)
	return nameA == nameB && (len(nameA) >= 3 || a.Domain() == b.Domain()) || typo.Count(string(a), string(b)) <= 2
}

// bareName returns the local part of an address without the parts that many mail services ignore.
func bareName(a address.Address) string {
	name, _, _ := strings.Cut(string(a), "@")
	name, _, _ = strings.Cut(name, "+")
	return strings.ToLower(strings.ReplaceAll(name, ".", ""))
}
