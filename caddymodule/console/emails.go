package console

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// testPatience is how long a page waits for the mail server.
const testPatience = 50 * time.Second

// doneToEmails says what was done with an email, by the word in the URL.
var doneToEmails = map[string]string{
	"retry":   "It is tried again now. If it doesn’t go out, it is listed here again in a moment.",
	"preview": "It is on its way to you.",
}

// GetEmails shows the emails that wait or failed.
func (h *Handlers) GetEmails(w http.ResponseWriter, r *http.Request) error {
	return h.showEmails(w, r, web.StaffEmailsPage{Done: doneToEmails[web.OnlyValue(r.URL.Query()["done"])]})
}

// showEmails shows the emails that wait or failed. page has what is to be said about the last action.
func (h *Handlers) showEmails(w http.ResponseWriter, r *http.Request, page web.StaffEmailsPage) error {
	v, err := h.staff(r)
	if err != nil {
		return err
	}
	if page.Email == "" {
		page.Email = v.Contact.Email().Display()
	}
	ctx, now := r.Context(), h.Now()
	waiting, err := h.Firm.ListMail(ctx, admin.ListMail{Limit: atOnce})
	if err != nil {
		return err
	}
	unsent, err := h.Firm.ListMail(ctx, admin.ListMail{Failed: true, Limit: atOnce})
	if err != nil {
		return err
	}
	for _, m := range waiting.Mails {
		page.Waiting = append(page.Waiting, emailRow(m, now))
	}
	for _, m := range unsent.Mails {
		page.Unsent = append(page.Unsent, emailRow(m, now))
	}
	page.MoreWaiting, page.MoreUnsent = waiting.Next != "", unsent.Next != ""
	if down := waiting.MailServer; down != nil {
		page.Outage, page.OutageSince, page.Advice = explain.Printable(down.Reason), down.Since.Local(), outbox.Advice(down.Reason)
	}
	status := http.StatusOK
	if page.Failed != "" {
		status = http.StatusConflict
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

func emailRow(m admin.Mail, now time.Time) web.EmailRow {
	row := web.EmailRow{ID: m.ID, What: explain.Email(m.Kind), To: m.To, Asked: m.AskedAt.Local(), Tries: m.Tries, Reason: explain.Printable(m.Reason), Advice: m.Advice,
		Until: m.Until.Local(), Ended: localTime(m.Failed), Retry: m.Until.After(now) && !m.Late}
	if m.Next.After(now) {
		row.Next = m.Next.Local()
	}
	if m.Failed.IsZero() && m.Tries == 0 { // it goes out in a moment
		row.Retry = false
	}
	return row
}

// PostEmails has an email tried again, or sends a test.
func (h *Handlers) PostEmails(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	page := web.StaffEmailsPage{}
	switch get("do") {
	case "retry":
		if _, err = admin.Do(r.Context(), h.Firm, by, "mail/retry", admin.Firm.RetryMail, admin.RetryMail{ID: get("id")}); err == nil {
			return h.Answers.SeeOwn(w, "/staff/emails?done=retry")
		}
	case "preview":
		var email string
		if email, err = h.emailOf(r.Context(), by.Staff); err != nil {
			return err
		}
		if _, err = admin.Do(r.Context(), h.Firm, by, "preview", admin.Firm.Preview, admin.PreviewMails{Kind: get("kind"), Language: get("language"), To: email}); err == nil {
			return h.Answers.SeeOwn(w, "/staff/emails?done=preview")
		}
	case "test":
		page.Email = strings.TrimSpace(get("email"))
		page.Test, err = h.testEmail(r.Context(), by, page.Email)
	default:
		return web.ErrBadForm
	}
	if page.Failed, err = problemOf(err); err != nil {
		return err
	}
	return h.showEmails(w, r, page)
}

func (h *Handlers) testEmail(ctx context.Context, by admin.By, to string) (*web.EmailTest, error) {
	ctx, cancel := context.WithTimeout(ctx, testPatience)
	defer cancel()
	out, err := admin.Do(ctx, h.Firm, by, "mail/test", admin.Firm.TestMail, admin.TestMail{Email: to})
	if err != nil {
		return nil, err
	}
	test := &web.EmailTest{To: out.To.Display(), Server: out.Server, Accepted: out.Accepted, Reason: explain.Printable(out.Reason), Advice: out.Advice}
	speakers := map[outbox.Speaker]string{outbox.Us: "We", outbox.Them: "The mail server", outbox.Note: "What happened"}
	for _, l := range out.Lines {
		test.Lines = append(test.Lines, web.TestLine{By: speakers[l.By], Text: explain.Printable(l.Text), Means: explain.Printable(l.Means)})
	}
	return test, nil
}
