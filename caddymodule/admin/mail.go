package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ListMail asks for one page of the emails that wait, or of those that failed.
type ListMail struct {
	Failed bool   `json:"failed,omitempty"`
	Texts  bool   `json:"texts,omitempty"` // text messages in place of emails
	After  string `json:"after,omitempty"` // Next of the page before; "": the first page
	Limit  int    `json:"limit,omitempty"` // 1 to 1000; 0: 100
}

// MailList is one page of emails, in the order of sending.
type MailList struct {
	Mails []Mail `json:"mails"`
	Next  string `json:"next,omitempty"` // where the next page begins; "": there is none

	MailServer *outbox.Outage `json:"mail_server,omitempty"` // why none goes out now; missing: nothing is known
}

// Mail is an email that waits, or that failed within the last 48 hours.
type Mail struct {
	ID      string    `json:"id"`   // that of its request, as in events
	Kind    string    `json:"kind"` // such as sign-in
	To      string    `json:"to"`   // the address, in part; "": the email isn't written yet
	AskedAt time.Time `json:"asked_at"`
	Until   time.Time `json:"until"`           // when it is given up
	Tries   int       `json:"tries"`           // that failed
	Reason  string    `json:"reason"`          // why the last one failed, in the mail server's words; "": none did
	Advice  string    `json:"advice"`          // what to do about it
	Next    time.Time `json:"next,omitzero"`   // no try before that
	Failed  time.Time `json:"failed,omitzero"` // when it ended unsent
	Late    bool      `json:"late,omitempty"`  // … since its time was over
}

func (f Firm) ListMail(ctx context.Context, in ListMail) (MailList, error) {
	out := MailList{Mails: []Mail{}}
	limit, err := ListRequest{Limit: in.Limit}.limit()
	if err != nil {
		return out, err
	}
	queue := f.Queue
	if in.Texts {
		if queue = f.Notices.Texts; queue == nil {
			return out, nil
		}
	}
	if down, ok := queue.Outage(); ok {
		out.MailServer = &down
	}
	list := queue.List
	if in.Failed {
		list = queue.ListUnsent
	}
	entries, next, err := list(ctx, in.After, limit)
	for _, e := range entries {
		out.Mails = append(out.Mails, mailOf(e, out.MailServer))
	}
	out.Next = next
	return out, err
}

// mailOf returns an entry for display; down is the outage that keeps all emails waiting.
func mailOf(e outbox.Entry, down *outbox.Outage) Mail {
	m := Mail{ID: e.ID, Kind: e.Kind, To: e.To, AskedAt: e.Asked.UTC(), Until: e.NotAfter.UTC(), Tries: e.Tries, Reason: e.Last, Failed: e.Ended, Late: e.Late()}
	if e.Ended.IsZero() {
		m.Next = e.Due
		if down != nil && e.Ready {
			m.Reason = down.Reason
			if down.Next.After(m.Next) {
				m.Next = down.Next
			}
		}
	}
	if m.Reason != "" {
		m.Advice = outbox.Advice(m.Reason)
	}
	return m
}

// RetryMail asks to have an email tried again now.
type RetryMail struct {
	ID string `json:"id"`
}

// MailRetried is the email that is tried again.
type MailRetried struct {
	Mail Mail `json:"mail"`
}

func (m MailRetried) changed() audit.Event {
	if m.Mail.ID == "" {
		return audit.Event{}
	}
	return audit.Event{Request: m.Mail.ID, Count: 1}
}

// RetryMail has an email that waits, or one that was refused, tried again now. One whose time is
// over isn't sent any more.
func (f Firm) RetryMail(ctx context.Context, in RetryMail) (MailRetried, error) {
	e, err := f.Queue.Retry(ctx, in.ID)
	if errors.Is(err, store.ErrNotFound) && f.Notices != nil && f.Notices.Texts != nil {
		e, err = f.Notices.Texts.Retry(ctx, in.ID)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return MailRetried{}, &Error{Status: 404, Code: "unknown", Field: "id", Reason: fmt.Sprintf("no email with the id %q waits, or failed within the last 48 hours", in.ID),
			Remedy: "look for the right one with mail list, or with mail list --failed"}
	case errors.Is(err, outbox.ErrLate):
		return MailRetried{}, &Error{Status: 409, Code: "late", Reason: fmt.Sprintf("this email (%s, %s) was of use until %s", e.Kind, e.To, e.NotAfter.In(time.Local).Format(time.DateTime)),
			Remedy: inPlaceOf(e.Kind)}
	case errors.Is(err, outbox.ErrInHand):
		return MailRetried{}, &Error{Status: 409, Code: "conflict", Reason: "this email is being sent right now", Remedy: "see with mail list what becomes of it"}
	case err != nil:
		return MailRetried{}, err
	}
	return MailRetried{mailOf(e, nil)}, nil
}

// inPlaceOf says what to do where an email of the kind is of no use any more.
func inPlaceOf(kind string) string {
	switch kind {
	case "sign-in":
		return "let them ask for a new one on the sign-in page"
	case kindSetPassword:
		return "mail a new one with reset-link EMAIL, or let them use “Get help signing in” on the sign-in page"
	}
	return "do what it was about again: the email tells of something that is past"
}

// TestMail asks to send an email that says only that it is a test.
type TestMail struct {
	Email string `json:"email"`
}

// MailTested is the dialogue between Doorpost and the mail server about a test email.
type MailTested struct {
	To address.Address `json:"to"`
	outbox.Dialogue
}

func (m MailTested) changed() audit.Event {
	if m.To == "" {
		return audit.Event{}
	}
	return audit.Event{Address: m.To.Masked(), Count: 1}
}

// TestMail sends an email to any address, with all settings of the firm, over a connection of its
// own, and returns the dialogue.
func (f Firm) TestMail(ctx context.Context, in TestMail) (MailTested, error) {
	to, err := parseAddress(in.Email)
	if err != nil {
		return MailTested{}, err
	}
	now := f.now()
	letter, err := f.Messages.Test(string(to), now.Local())
	if err != nil {
		return MailTested{}, fmt.Errorf("writing the test: %w", err)
	}
	data, err := letter.Bytes(now)
	if err != nil {
		return MailTested{}, fmt.Errorf("writing the test: %w", err)
	}
	d, err := f.Queue.Talk(ctx, outbox.Message{From: letter.From, To: letter.To, Data: data})
	return MailTested{to, d}, err
}
