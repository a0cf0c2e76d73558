package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// perRecipient counts the mails that the server took.
func (s *sink) perRecipient() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := map[string]int{}
	for _, to := range s.rcpts {
		n[to]++
	}
	return n
}

// An announcement reaches each contact once, though Caddy reloads and restarts meanwhile, and the command is
// repeated. Its link brings them to their pages.
func TestAnnouncementReachesEachContactOnce(t *testing.T) {
	const contacts = 90
	s := newSink(t)
	h := openHouse(t, layout{admin: freeAddress(t), contacts: manyContacts(contacts) + "owner@example.com,,\n", firm: "home /portal/{company}\nstaff owner@example.com",
		app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t\trate 60/s\n\t\t}", s.addr)})
	office := h.office()
	plan, err := office.Announce(t.Context(), "example", admin.Announce{DryRun: true})
	if err != nil || plan.Plan.Contacts != contacts || plan.Plan.Skipped["staff"] != 1 || len(s.perRecipient()) != 0 {
		t.Fatalf("the dry run = %+v, %v; want %d contacts, and no mail", plan.Plan, err, contacts)
	}
	announce := func() admin.Announced {
		t.Helper()
		out, err := office.Announce(t.Context(), "example", admin.Announce{})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := announce(); !out.Begun {
		t.Errorf("announce = %+v; want one that begins", out)
	}
	some := func(n int) func() bool { return func() bool { return len(s.perRecipient()) >= n } }
	h.eventually("some mails", some(10))
	h.start() // reloads
	if out := announce(); out.Begun {
		t.Errorf("announce once more = %+v; want the one that is running", out)
	}
	h.eventually("more mails", some(30))
	h.stop()
	h.start()
	h.settled()
	var state admin.AnnouncementStatus
	h.eventually("the end", func() bool {
		if state, err = office.AnnounceStatus(t.Context(), "example"); err != nil {
			t.Fatal(err)
		}
		return state.Announcement.State == "done"
	})
	if a := state.Announcement; a.Sent != contacts || a.Remaining != 0 || a.Skipped["staff"] != 1 {
		t.Errorf("the state at the end is %+v", a)
	}
	got := s.perRecipient()
	for to, n := range got {
		if n != 1 {
			t.Errorf("%s got %d mails", to, n)
		}
	}
	if out := announce(); len(got) != contacts || out.Begun || out.Announcement.ID != "" {
		t.Errorf("%d contacts got a mail, and then announce = %+v; want %d, and nobody left", len(got), out, contacts)
	}
	l := s.letter(t, 0)
	if !strings.Contains(l.text, "\n"+h.url+"/portal/acme\r\n") || !strings.Contains(strings.Join(strings.Fields(l.text), " "), "the same pages of Acme Ltd as before") || !strings.Contains(l.text, "Hello Name") {
		t.Errorf("the mail is\n%s", l.text)
	}
	b := h.browser()
	if a := b.open("/portal/acme"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the mail's link = %d; want the prompt", a.StatusCode)
	}
}

// A process that sends an announcement is killed. After the next start the announcement goes on by itself: nobody
// is left out, and at most the mails that were on their way go out twice.
func TestAnnouncementGoesOnAfterAKill(t *testing.T) {
	if *onStore != "bolt" {
		t.Skip("the mails of a killed process wait for its leases; TestTwoGatesShareAnAnnouncement waits for these")
	}
	const contacts = 60
	mails := newSink(t)
	s := newServer(t, fmt.Sprintf("mail smtp %s {\n tls off\n rate 60/s\n connections 2\n }", mails.addr), "")
	office := s.announces(contacts)
	s.start()
	if _, err := office.Announce(t.Context(), "example", admin.Announce{}); err != nil {
		t.Fatal(err)
	}
	for n := 10; n <= 30; n += 10 {
		s.eventually("some mails", func() bool { return len(mails.perRecipient()) >= n })
		s.kill()
		s.start()
	}
	s.eventually("the end", func() bool {
		state, err := office.AnnounceStatus(t.Context(), "example")
		return err == nil && state.Announcement.State == "done"
	})
	s.kill()
	twice := 0
	for _, n := range mails.perRecipient() {
		twice += n - 1
	}
	if got := len(mails.perRecipient()); got != contacts || twice > 3*2 {
		t.Errorf("%d contacts got a mail, %d of them twice; want %d, and at most one for each connection and kill", got, twice, contacts)
	}
}

// announces gives the server so many contacts of a company, and an admin endpoint.
func (s *server) announces(contacts int) *admin.Client {
	s.t.Helper()
	s.house.admin = freeAddress(s.t)
	s.write("contacts.csv", manyContacts(contacts))
	s.write("companies.csv", someCompanies)
	s.config = strings.Replace(s.config, "admin off", "admin "+s.house.admin, 1)
	s.config = strings.Replace(s.config, " public /open", " companies "+s.path("companies.csv")+"\n public /open", 1)
	s.write("Caddyfile", s.config)
	return &admin.Client{Base: "http://" + s.house.admin, HTTP: &http.Client{Timeout: time.Minute}}
}
