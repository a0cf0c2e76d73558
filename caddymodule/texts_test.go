package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// textService is a service that takes text messages.
type textService struct {
	*httptest.Server
	mu     sync.Mutex
	status int // to answer with; 0: 200
	took   []textMessage
	asked  int
}

type textMessage struct{ ID, To, Text string }

func newTextService(t *testing.T) *textService {
	s := &textService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		var m textMessage
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Header.Get("Authorization") != "Bearer of-the-service" {
			t.Errorf("the service got %v (%v)", r.Header, err)
		}
		if s.status != 0 {
			w.WriteHeader(s.status)
			io.WriteString(w, `{"message": "no credit for `+m.To+`"}`)
			return
		}
		s.took = append(s.took, m)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *textService) texts() []textMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.took)
}

func (s *textService) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func openHouseWithTexts(t *testing.T) (*house, *textService) {
	s := newTextService(t)
	h := openHouse(t, layout{admin: freeAddress(t), texts: s.URL + "/send", firm: "home /portal/{company}\n phone_region GB",
		contacts: "email,first_name,companies,phone,role\nann@example.com,Ann,acme,07700 900123,\nbob@example.com,Bob,acme,+44 7700 900456,\ncid@example.com,,acme,ask at reception,\ndan@example.com,,acme,,\nowner@example.com,,,,staff\n"})
	return h, s
}

// A notice goes out by text to those who have a number, in the form that services take, and by mail to all.
func TestNoticeByText(t *testing.T) {
	h, s := openHouseWithTexts(t)
	out, err := h.office().SetContact(t.Context(), "example", "bob@example.com", directory.Change{Texts: new("off")})
	if err != nil || !out.Contact.NoTexts || out.Contact.Phone != "+447700900456" {
		t.Fatalf("SetContact = %+v, %v; want texts off, and the number in the form of E.164", out.Contact, err)
	}
	notice := admin.Notify{Company: "acme", Text: action.TextToo, Data: admin.NoticeData{"count": "2"}, Key: "march"}
	for range 2 { // by its key once
		sent, err := h.office().Notify(t.Context(), "example", notice)
		if err != nil {
			t.Fatal(err)
		}
		skipped := map[string]string{}
		for _, one := range sent.Skipped {
			skipped[string(one.Email)] = one.By + " " + one.Code
		}
		if want := map[string]string{"bob@example.com": "text texts_off", "cid@example.com": "text no_number", "dan@example.com": "text no_number"}; len(sent.Queued) != 4 || fmt.Sprint(skipped) != fmt.Sprint(want) {
			t.Errorf("Notify = %d told, without text %v; want 4 and %v", len(sent.Queued), skipped, want)
		}
	}
	h.eventually("a text", func() bool { return len(s.texts()) > 0 })
	h.eventually("the text's progress", func() bool {
		tl := h.timeline("ann@example.com")
		return slices.ContainsFunc(tl.Events, func(e admin.Event) bool { return e.Kind == "sent" && e.Method == "text" })
	})
	want := textMessage{To: "+447700900123", Text: "Example Bookkeeping: Hello Ann. There are 2 new questions for you about Acme Ltd. " + h.url + "/portal/acme"}
	if got := s.texts(); len(got) != 1 || got[0].To != want.To || got[0].Text != want.Text {
		t.Errorf("the service took %+v; want one, %+v", got, want)
	}
	// Bob wants them again.
	if _, err := h.office().SetContact(t.Context(), "example", "bob@example.com", directory.Change{Texts: new("on")}); err != nil {
		t.Fatal(err)
	}
	sent, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", Text: action.TextOnly, To: []string{"bob@example.com", "dan@example.com"}})
	if err != nil || len(sent.Queued) != 1 || sent.Queued[0].Request != "" || sent.Queued[0].Text.To != "+44…56" || len(sent.Skipped) != 1 {
		t.Fatalf("Notify by text only = %+v, %v; want Bob told and Dan skipped", sent, err)
	}
	h.eventually("Bob's text", func() bool { return len(s.texts()) == 2 })
	cmd, err := h.caddy("doorpost", "notify", "acme", "--to", "ann@example.com", "--text").CombinedOutput()
	if err != nil || !strings.Contains(string(cmd), "A text about acme is on its way to 1 contact: ann@example.com (+44…23)") {
		t.Errorf("notify --text = %v\n%s", err, cmd)
	}
	for _, line := range []string{"07700", "7700900123"} {
		if strings.Contains(string(cmd), line) {
			t.Errorf("the output shows the number: %s", cmd)
		}
	}
}

// Staff send texts beside the emails of a notice, and set who wants none.
func TestStaffSendTexts(t *testing.T) {
	h, s := openHouseWithTexts(t)
	owner := h.in("owner@example.com")
	company := owner.open("/-/staff/company?id=acme")
	if a := owner.press(company, "/-/staff/company", "Send the email", "text", "too"); goes(a) != "/-/staff/company?id=acme&done=notify" {
		t.Fatalf("telling = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	h.eventually("the texts", func() bool { return len(s.texts()) == 2 })
	_, id := contactPage(t, owner, "ann")
	edit := owner.open("/-/staff/edit?id=" + id)
	if a := owner.save(edit, "texts", "off", "locale", ""); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("saving = %d\n%s", a.StatusCode, a.part())
	}
	if page := owner.open("/-/staff/edit?id=" + id); !strings.Contains(page.body, `<option value="off" selected>`) {
		t.Errorf("the form doesn't say that Ann wants no texts:\n%s", page.part())
	}
	sent, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", Text: action.TextToo, To: []string{"ann@example.com"}})
	if err != nil || len(sent.Queued) != 1 || sent.Queued[0].Text != nil || len(sent.Skipped) != 1 || sent.Skipped[0].Code != action.SkippedTextsOff {
		t.Errorf("Notify = %+v, %v; want Ann told by email alone", sent, err)
	}
}

// While the service takes no texts they wait, one tries for all, operators read why, and mails go out. A
// reload and a restart of the store lose none and send none twice.
func TestTextsWaitForTheirService(t *testing.T) {
	h, s := openHouseWithTexts(t)
	s.answer(http.StatusPaymentRequired)
	notify := func() {
		t.Helper()
		if _, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", Text: action.TextToo}); err != nil {
			t.Fatal(err)
		}
	}
	notify()
	list := func(failed bool) admin.MailList {
		t.Helper()
		out, err := h.office().Mails(t.Context(), "example", admin.ListMail{Texts: true, Failed: failed})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	h.eventually("an outage", func() bool { return list(false).MailServer != nil })
	waiting := list(false)
	if len(waiting.Mails) != 2 || !strings.HasPrefix(waiting.MailServer.Reason, "text service: 402 no credit for …") {
		t.Errorf("the texts that wait are %+v; want two, and the service's words without the number", waiting)
	}
	h.eventually("the mails", func() bool {
		out, err := h.office().Mails(t.Context(), "example", admin.ListMail{})
		return err == nil && len(out.Mails) == 0 && out.MailServer == nil
	})
	doctor, _ := h.caddy("doorpost", "doctor").CombinedOutput()
	if !strings.Contains(string(doctor), "the text webhook can't be used since") || !strings.Contains(string(doctor), "wants to be paid") {
		t.Errorf("doctor =\n%s\nwant the outage, and what to do", doctor)
	}
	h.start() // a reload
	s.answer(0)
	caddymodule.Advance(t, time.Minute)
	notify() // makes the queue read its clock
	h.eventually("all texts", func() bool { return len(s.texts()) >= 4 })
	h.eventually("the end of the outage", func() bool { return list(false).MailServer == nil && len(list(false).Mails) == 0 })
	ids := map[string]bool{}
	for _, m := range s.texts() {
		ids[m.ID] = true
	}
	if n := len(s.texts()); n != 4 || len(ids) != 4 {
		t.Errorf("the service took %d texts with %d ids; want 4", n, len(ids))
	}

	// One that is refused for good is listed, and can be tried again.
	s.answer(http.StatusBadRequest)
	if _, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", Text: action.TextOnly, To: []string{"ann@example.com"}}); err != nil {
		t.Fatal(err)
	}
	h.eventually("a refused text", func() bool { return len(list(true).Mails) == 1 })
	s.answer(0)
	if _, err := h.office().RetryMail(t.Context(), "example", list(true).Mails[0].ID); err != nil {
		t.Fatal(err)
	}
	h.eventually("the text, tried again", func() bool { return len(s.texts()) == 5 })
}

// Where nothing sends texts, a notice by text is refused, and nobody is told.
func TestNoTextWithoutAService(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	_, err := h.office().Notify(t.Context(), "example", admin.Notify{Company: "acme", Text: action.TextToo})
	if err == nil || !strings.Contains(admin.ErrorOf(err).Remedy, "text webhook") {
		t.Errorf("Notify = %v; want an error that names text webhook", err)
	}
	if n := len(h.letters("ann@example.com")); n != 0 {
		t.Errorf("%d mails; want none", n)
	}
}
