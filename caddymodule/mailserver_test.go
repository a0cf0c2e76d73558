package caddymodule_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// timeline returns the data for the command of the same name.
func (h *house) timeline(email string) admin.Timeline {
	h.t.Helper()
	out, err := h.office().Timeline(h.t.Context(), "example", admin.TimelineOf{Email: email})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// kinds returns the kinds of the events, sorted and without duplicates.
func (h *house) kinds() (kinds []string) {
	for _, e := range h.history() {
		kinds = append(kinds, string(e.Kind))
	}
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// If a mail server refuses us at RCPT, as many do for reasons of their own, no mail is lost: no
// address is blamed, operators see the server's reply and what to do from the first failure on, and
// all mails are sent once the problem is solved.
func TestMailIsKeptWhileTheMailServerRefusesUs(t *testing.T) {
	for _, refusal := range []*smtp.SMTPError{
		{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 7, 1}, Message: "<ann@example.com>: Relay access denied"},
		{Code: 450, EnhancedCode: smtp.EnhancedCode{4, 7, 1}, Message: "Error: too much mail from you"},
	} {
		s, log := newSink(t), newLogFile(t)
		s.refuse = refusal
		h := openHouse(t, layout{admin: freeAddress(t), global: log.global, app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t\trate 1000/s\n\t\t}", s.addr)})
		h.browser().send("/-/sign-in", form("email", "ann@example.com"))
		h.browser().send("/-/sign-in", form("email", "bob@example.com"))
		if _, err := h.office().ResetLink(t.Context(), "example", "nameless@example.com"); err != nil {
			t.Fatal(err)
		}
		h.eventually("an outage", func() bool { return h.timeline("ann@example.com").MailServer != nil })
		tl := h.timeline("ann@example.com")
		words := strings.Fields(refusal.Message)
		if down := tl.MailServer; !strings.Contains(down.Reason, words[len(words)-1]) || strings.Contains(down.Reason, "@") || !down.Next.After(down.Since) {
			t.Errorf("%v: the mail server is %+v; want its words, and the next try", refusal, down)
		}
		h.eventually("Ann's mail waits", func() bool { return len(h.timeline("ann@example.com").Waiting) == 1 })
		h.eventually("an event", func() bool { return slices.Contains(h.kinds(), "waiting") })
		if got := h.kinds(); slices.Contains(got, "refused") {
			t.Errorf("%v: the history has %v; want no refused", refusal, got)
		}
		out, err := h.caddy("doorpost", "contacts", "timeline", "ann@example.com").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "It is tried again") || strings.Contains(string(out), "NEW-ADDRESS") {
			t.Errorf("%v: the timeline = %v\n%s\nwant when it is tried again, and nothing on a new address", refusal, err, out)
		}
		told := log.text(t)
		if n := strings.Count(told, "the mail server can't be used; all mail waits"); n != 1 || !strings.Contains(told, "what_to_do") {
			t.Errorf("%v: the log tells of the outage %d times; want once, with what to do", refusal, n)
		}

		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		caddymodule.Advance(t, 3*time.Minute)
		h.browser().send("/-/sign-in", form("email", "owner@example.com")) // makes the queue read its clock
		h.eventually("all four mails", func() bool { _, n := s.counts(); return n == 4 })
		h.eventually("the end of the outage", func() bool { return h.timeline("ann@example.com").MailServer == nil })
		for i := range 4 {
			if l := s.letter(t, i); strings.Contains(l.Get("To"), "ann@") {
				if a := h.browser().send("/-/link", form("t", secretOf(l.link), "email", "ann@example.com")); a.StatusCode != 303 {
					t.Errorf("%v: Ann's link, mailed after the repair = %d; want 303", refusal, a.StatusCode)
				}
			}
		}
	}
}

// A firm with its own `mail` block sends through that server: problems of the shared server don't
// affect it, and the reverse.
func TestAFirmSendsByItsOwnMailServer(t *testing.T) {
	s := newSink(t)
	h := openHouse(t, layout{admin: freeAddress(t), app: "mail smtp 127.0.0.1:1",
		firm: fmt.Sprintf("mail smtp %s {\n tls off\n rate 1000/s\n helo clients.example.com\n connections 1\n }", s.addr),
		more: "http://other.localhost:1234 {\n doorpost other {\n url http://other.localhost:1234\n staff owner@example.org\n brand {\n name Other\n from other@example.org\n }\n }\n respond hello\n}\n"})
	if _, err := h.office().ResetLink(t.Context(), "other", "owner@example.org"); err != nil {
		t.Fatal(err)
	}
	h.eventually("the other firm's mail waits for the server of all", func() bool {
		tl, err := h.office().Timeline(t.Context(), "other", admin.TimelineOf{Email: "owner@example.org"})
		return err == nil && tl.MailServer != nil
	})
	h.browser().send("/-/sign-in", form("email", "ann@example.com"))
	h.eventually("the firm's mail is at its own server", func() bool { _, n := s.counts(); return n == 1 })
	if down := h.timeline("ann@example.com").MailServer; down != nil {
		t.Errorf("the firm's mail server is %+v; want nothing wrong", down)
	}
}

// An unreachable mail server appears in the timeline and in the history, with the time of the next
// attempt, from the first failure on.
func TestWhyMailWaitsIsShownFromTheFirstFailureOn(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{admin: freeAddress(t), global: log.global, app: "mail smtp 127.0.0.1:1"})
	h.browser().send("/-/sign-in", form("email", "ann@example.com"))
	h.eventually("the reason", func() bool { return slices.Contains(h.kinds(), "waiting") })
	for _, e := range h.history() {
		if e.Kind == audit.Waiting && !strings.Contains(e.Reason, "connection refused") {
			t.Errorf("the reason is %q; want that the connection is refused", e.Reason)
		}
	}
	h.browser().send("/-/sign-in", form("email", "bob@example.com")) // no attempt is made for this mail
	h.eventually("Bob's mail waits", func() bool { return len(h.timeline("bob@example.com").Waiting) == 1 })
	for _, email := range []string{"ann@example.com", "bob@example.com"} {
		out, err := h.caddy("doorpost", "contacts", "timeline", email).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "connection refused") || !strings.Contains(string(out), "It is tried again at ") || !strings.Contains(string(out), "Check host and port of `mail smtp`") {
			t.Errorf("the timeline of %s = %v\n%s\nwant the reason, what to do and the next try", email, err, out)
		}
	}
	if out, err := h.caddy("doorpost", "mail", "list").CombinedOutput(); err != nil || strings.Count(string(out), "a•••@example.com")+strings.Count(string(out), "b•••@example.com") != 2 ||
		!strings.Contains(string(out), "connection refused") || !strings.Contains(string(out), "It is tried again at ") {
		t.Errorf("mail list = %v\n%s\nwant both mails, the reason and the next try", err, out)
	}
	if out, err := h.caddy("doorpost", "audit").CombinedOutput(); err != nil || !strings.Contains(string(out), "connection refused") {
		t.Errorf("audit = %v\n%s\nwant the reason", err, out)
	}
}

// A timeline considers later changes by staff: links that a change invalidated, and an address that
// belonged to no contact when it was used.
func TestTimelineKnowsOfChangesSince(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	h.browser().ask("ann@example.com", "/")
	h.browser().send("/-/sign-in", form("email", "new@example.com"))
	h.eventually("both requests are told of", func() bool { k := h.kinds(); return slices.Contains(k, "sent") && slices.Contains(k, "unknown") })
	if _, err := h.office().SetContact(t.Context(), "example", "ann@example.com", directory.Change{Email: new("annie@example.com")}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.office().AddContact(t.Context(), "example", directory.Change{Email: new("new@example.com")}); err != nil {
		t.Fatal(err)
	}
	for email, want := range map[string]string{
		"annie@example.com": "ended the links that were on their way. Let them ask for a new email, with annie@example.com.",
		"new@example.com":   "When they asked, that address wasn't a contact's yet, so no email was made. Let them ask again.",
	} {
		var out []byte
		h.eventually("the change is told of", func() bool {
			out, _ = h.caddy("doorpost", "contacts", "timeline", email).CombinedOutput()
			return strings.Contains(string(out), "operator")
		})
		if !strings.Contains(string(out), want) {
			t.Errorf("the timeline of %s =\n%s\nwant %q in it", email, out, want)
		}
	}
}

// A permanently refused mail is sent on retry, with a link that works; a test mail uses the firm's
// own settings, and shows the dialogue.
func TestARefusedSignInMailIsRetriedAndTheServerTested(t *testing.T) {
	s := newSink(t)
	s.refuse = &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	h := openHouse(t, layout{admin: freeAddress(t), app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t\thelo portal.example.com\n\t\t}", s.addr)})
	b := h.browser()
	b.send("/-/sign-in", form("email", "ann@example.com", "to", "/x"))
	failed := func() []admin.Mail {
		out, err := h.office().Mails(t.Context(), "example", admin.ListMail{Failed: true})
		if err != nil {
			t.Fatal(err)
		}
		return out.Mails
	}
	h.eventually("the refusal", func() bool { return len(failed()) == 1 })
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	d, err := h.office().TestMail(t.Context(), "example", "you@example.org")
	if err != nil || !d.Accepted || !slices.ContainsFunc(d.Lines, func(l outbox.Spoken) bool { return l.Text == "EHLO portal.example.com" }) {
		t.Errorf("mail test = %+v, %v; want it accepted, and the name in helo", d, err)
	}
	caddymodule.Advance(t, 2*time.Minute) // one mail per minute
	if _, err := h.office().RetryMail(t.Context(), "example", failed()[0].ID); err != nil {
		t.Fatal(err)
	}
	h.eventually("the mail", func() bool { _, n := s.counts(); return n == 2 })
	if a := b.open(s.letter(t, 1).link); a.StatusCode != 303 || a.Header.Get("Location") != "/x" {
		t.Errorf("GET link of a retried mail = %d to %q; want 303 to /x", a.StatusCode, a.Header.Get("Location"))
	}
	if left := failed(); len(left) != 0 {
		t.Errorf("mail list --failed has %+v; want nothing", left)
	}
}
