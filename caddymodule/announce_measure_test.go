//go:build measure

package caddymodule_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// The size of the announcement of TestSignInDuringAnAnnouncement. Run manually, for the figures in docs/announcements.md:
//
//	go test -tags measure ./caddymodule -run TestSignInDuringAnAnnouncement -contacts 40000 -v
var announcedTo = flag.Int("contacts", 2_000, "how many contacts TestSignInDuringAnAnnouncement announces to")

// Sign-in mail that is asked for while many announcements wait is at the mail server at once, and few of these wait in
// the outbox.
func TestSignInDuringAnAnnouncement(t *testing.T) {
	const asked = 100
	s := newSink(t)
	h := openHouse(t, layout{admin: freeAddress(t), contacts: manyContacts(*announcedTo),
		app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t\trate 100/s\n\t\t}", s.addr)})
	office := h.office()
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Second) { // the file is long
		plan, err := office.Announce(t.Context(), "example", admin.Announce{DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if plan.Plan.Contacts == *announcedTo {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d contacts are loaded", plan.Plan.Contacts)
		}
	}
	begun := time.Now()
	if _, err := office.Announce(t.Context(), "example", admin.Announce{}); err != nil {
		t.Fatal(err)
	}
	t.Logf("accepted within %v", time.Since(begun).Round(time.Millisecond))
	h.eventually("a full outbox", func() bool { n, err := caddymodule.WaitingAnnouncements(t, "example"); return err == nil && n > 200 })
	seen := 0
	arrived := func(to string) bool { // a sign-in mail, among those that came since the last call
		s.mu.Lock()
		defer s.mu.Unlock()
		from := seen
		seen = len(s.mails)
		return slices.ContainsFunc(s.mails[from:], func(mail []byte) bool {
			head, _, _ := strings.Cut(string(mail), "\r\n\r\n")
			return strings.Contains(head, "Subject: Your sign-in link") && strings.Contains(head, "<"+to+">")
		})
	}
	var times []time.Duration
	most := 0
	for i := range asked {
		to := contact(*announcedTo - 1 - i)
		at := time.Now()
		h.browser().send("/-/sign-in", form("email", to))
		h.eventually("the mail", func() bool { return arrived(to) })
		times = append(times, time.Since(at))
		n, err := caddymodule.WaitingAnnouncements(t, "example")
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	state, err := office.AnnounceStatus(t.Context(), "example")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(times)
	t.Logf("%d contacts: a sign-in mail was at the server within %v (median), %v (p99); %d announcements were sent meanwhile, and at most %d waited in the outbox",
		*announcedTo, times[asked/2].Round(time.Millisecond), times[asked*99/100].Round(time.Millisecond), state.Announcement.Sent, most)
	if times[asked/2] > time.Second || most > 600 || state.Announcement.Remaining == 0 {
		t.Error("that is too long, too many, or too few contacts for a measurement")
	}
}
