package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// TextJobs prepares the texts of a firm. The workers of its queue call it. Set its fields in one literal
// before use.
type TextJobs struct {
	*MailJobs
	Region string // of phone numbers without a country code; see phone.Parse
}

// Prepare makes the text of a notice, unless the contact may not see any more what it is about, or gets no texts
// any more.
func (j *TextJobs) Prepare(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	var n noticeRequest
	if err := json.Unmarshal(r.Payload, &n); err != nil {
		return outbox.Prepared{}, fmt.Errorf("read request %s: %w", r.ID, err)
	}
	c, company, ended, err := j.recipientOf(ctx, n)
	if err != nil {
		return outbox.Prepared{}, err
	}
	number, _ := textTo(c, j.Region)
	if number == "" && ended == "" {
		ended = audit.Dropped
	}
	end := func(kind audit.Kind, reason string) (outbox.Prepared, error) {
		return outbox.Prepared{Done: func() {
			j.Audit.Record(ctx, audit.Event{Kind: kind, Contact: n.Contact, Address: number.Masked(), Method: audit.Text, Request: r.ID, What: r.Kind, Company: n.Company, Reason: reason})
		}}, nil
	}
	if ended != "" {
		return end(ended, "")
	}
	mail, err := j.mailTo(ctx, c, c.Email(), "")
	if err != nil {
		return outbox.Prepared{}, err
	}
	mail.Link, mail.AskedAt = j.pageLink(n.Path, n.Company), n.At.Local()
	text, err := j.Messages.Text(brand.Notice{Mail: mail, Kind: r.Kind, Template: n.Template, Company: company.Name, Data: n.Data})
	if errors.Is(err, brand.ErrTextLength) { // with names or a link that long nothing is to be done
		return end(audit.Refused, "the text takes too many messages")
	} else if err != nil {
		return outbox.Prepared{}, fmt.Errorf("write a text: %w", err)
	}
	return outbox.Prepared{Message: &outbox.Message{To: string(number), Data: []byte(text)}, Ref: r.ID}, nil
}

// Ended is called once a text has left its queue: sent, or, with why, unsent.
func (j *TextJobs) Ended(ctx context.Context, request string, why error) {
	j.ended(ctx, audit.Text, request, why)
}

// Waiting is called when a try to send a text failed and it will be tried again: at first, and when
// the reason changes.
func (j *TextJobs) Waiting(ctx context.Context, request, reason string) {
	j.Audit.Record(ctx, audit.Event{Kind: audit.Waiting, Method: audit.Text, Request: request, Reason: reason})
}
