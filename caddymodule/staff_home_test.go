package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// The home page of a firm without clients leads through the first day.
func TestStaffFirstDay(t *testing.T) {
	h, _ := openFastHouse(t, layout{contacts: "email,role\nowner@example.com,staff\n"})
	owner := h.in("owner@example.com")
	var home answer
	h.eventually("the first day", func() bool {
		home = owner.open("/-/staff/")
		return strings.Contains(home.body, "Your first day")
	})
	for _, path := range []string{"/-/staff/add", "/-/staff/emails", "/-/staff/companies", "/-/staff/announce"} {
		if !strings.Contains(home.part(), `href="`+path) || owner.open(path).StatusCode != 200 {
			t.Errorf("the first day doesn't lead to %s\n%s", path, home.part())
		}
	}
	if strings.Contains(home.part(), "Needs attention") {
		t.Errorf("an empty firm needs attention\n%s", home.part())
	}
}

// The home page counts who signed in, how old links are used, and what needs attention.
func TestStaffHomeCounts(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies + "oak,Oak & Co,oak-secret-token\n"})
	owner := h.in("owner@example.com")
	h.in("bob@example.com")
	h.browser().open("/one-click/birch-secret-token/x")
	var home answer
	has := func(want string) func() bool {
		return func() bool { home = owner.open("/-/staff/"); return strings.Contains(home.part(), want) }
	}
	h.eventually("one client signed in", has("<strong>1 of 3</strong> clients have signed in; 2 never did"))
	h.eventually("the use of an old link", has("<svg"))
	h.eventually("companies without a contact", has(`<a href="/-/staff/company?id=oak">Oak &amp; Co</a>`))
	h.eventually("the sent emails", has("2 were sent"))
	owner.send("/-/staff/add", form("email", "oak@example.com", "company", "Oak & Co"))
	caddymodule.Advance(t, time.Minute) // the numbers are counted anew
	h.eventually("the company has one", func() bool { return !has("Oak &amp; Co")() })
	h.eventually("and the contact counts", has("<strong>1 of 4</strong>"))
}

// Staff see who would get an announcement, send it, and see how far it is.
func TestStaffAnnounce(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	before := len(h.letters("bob@example.com"))
	page := owner.open("/-/staff/announce?company=acme")
	plan := owner.press(page, "/-/staff/announce", "See who would get it")
	if plan.StatusCode != 200 || !strings.Contains(plan.part(), "bob@example.com") || len(h.letters("bob@example.com")) != before {
		t.Fatalf("who would get it = %d\n%s", plan.StatusCode, plan.part())
	}
	for range 2 { // two presses, one announcement
		if a := owner.press(plan, "/-/staff/announce", "Send "); a.StatusCode != http.StatusSeeOther || goes(a) != "/-/staff/announce" {
			t.Fatalf("sending = %d\n%s", a.StatusCode, a.part())
		}
	}
	h.eventually("it is sent", func() bool { return strings.Contains(owner.open("/-/staff/announce").part(), "2 of 2 sent") })
	if n := len(h.letters("bob@example.com")); n != before+1 {
		t.Errorf("%d emails to bob; want one", n-before)
	}
	if again := owner.press(page, "/-/staff/announce", "See who would get it"); !strings.Contains(again.part(), "Nobody.") || !strings.Contains(again.part(), "were told before") {
		t.Errorf("who would get it again\n%s", again.part())
	}
	if a := owner.send("/-/staff/announce", form("do", "resume")); a.StatusCode != 409 {
		t.Errorf("going on with what isn't stopped = %d\n%s", a.StatusCode, a.part())
	}
	if a := owner.open("/-/staff/announce?company=elm"); a.StatusCode != 404 {
		t.Errorf("for a company that there is not = %d", a.StatusCode)
	}
	if log := owner.send("/-/staff/log", form("topic", "changes")); !strings.Contains(log.part(), "Olive Owner") {
		t.Errorf("the log says\n%s", log.part())
	}
}
