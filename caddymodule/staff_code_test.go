package caddymodule_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

var spokenCode = regexp.MustCompile(`<p class="code spoken" role="status">([0-9a-z]{4}-[0-9a-z]{4})</p>`)

// makeCode has staff make a code for the first browser that waits.
func makeCode(t *testing.T, staff *browser, id string) string {
	t.Helper()
	a := staff.press(staff.open("/-/staff/code?id="+id), "/-/staff/code", "Make a code for this browser")
	found := spokenCode.FindStringSubmatch(a.body)
	if a.StatusCode != http.StatusOK || found == nil {
		t.Fatalf("making a code = %d\n%s", a.StatusCode, a.body)
	}
	return found[1]
}

// A client without email gets in by a code that staff read out, in the browser that they sit at and in no other.
func TestStaffReadACodeOverThePhone(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	_, id := contactPage(t, owner, "bob")
	page := "/-/staff/code?id=" + id
	if a := owner.open(page); a.StatusCode != 200 || !strings.Contains(a.body, "None yet.") {
		t.Fatalf("with nobody who waits, the page = %d\n%s", a.StatusCode, a.body)
	}
	if a := owner.send("/-/staff/code", form("id", id, "request", "nobody")); a.StatusCode != 409 || spokenCode.MatchString(a.body) {
		t.Errorf("a code for a browser that doesn't wait = %d\n%s", a.StatusCode, a.body)
	}

	bob, stranger := h.browser(), h.browser()
	bob.send("/-/sign-in", form("email", "bob@example.com", "to", "/orders/7"))
	waiting := owner.open(page)
	caddymodule.Advance(t, time.Second)
	stranger.send("/-/sign-in", form("email", "bob@example.com"))
	if n := strings.Count(owner.open(page).body, "Make a code for this browser"); n != 2 {
		t.Errorf("%d browsers wait; want 2", n)
	}
	a := owner.press(waiting, "/-/staff/code", "Make a code for this browser")
	code := spokenCode.FindStringSubmatch(a.body)
	if a.StatusCode != 200 || code == nil {
		t.Fatalf("making the code = %d\n%s", a.StatusCode, a.body)
	}
	if again := owner.open(page); strings.Contains(again.body, code[1]) {
		t.Error("the code is shown again")
	}
	for who, b := range map[string]*browser{"another browser that asked": stranger, "one that hasn't asked": h.browser()} {
		if a := b.send("/-/code", form("code", code[1])); goes(a) == "/orders/7" || b.cookie("portal") != "" {
			t.Errorf("the code in %s = %d to %q; want it refused", who, a.StatusCode, goes(a))
		}
	}
	in := bob.send("/-/code", form("code", strings.ToUpper(strings.ReplaceAll(code[1], "-", " "))))
	if goes(in) != "/orders/7" || bob.open("/orders/7").StatusCode != 200 {
		t.Fatalf("the code in its browser = %d to %q\n%s", in.StatusCode, goes(in), in.body)
	}
	if other := h.in("ann@example.com"); other.open(page).StatusCode != 404 || other.send("/-/staff/code", form("id", id, "request", "r")).StatusCode != 404 {
		t.Error("a client reaches the page")
	}
	h.eventually("Bob is told by email", func() bool { return len(h.notifications("bob@example.com")) == 1 })
	h.eventually("the log says who made the code, and never the code", func() bool {
		out, _ := h.caddy("doorpost", "audit", "--json").CombinedOutput()
		if strings.Contains(string(out), code[1]) {
			t.Fatalf("the log has the code:\n%s", out)
		}
		return strings.Contains(string(out), `"what":"contacts/phone-code"`) && strings.Contains(string(out), `"staff":"`) && strings.Contains(string(out), `"method":"phone-code"`)
	})
}

// What a code over the phone can't be made for, and how often one can.
func TestStaffCodesHaveLimits(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	_, id := contactPage(t, owner, "bob")
	h.browser().send("/-/sign-in", form("email", "bob@example.com"))
	codes := map[string]bool{}
	for range 5 {
		codes[makeCode(t, owner, id)] = true
	}
	if a := owner.press(owner.open("/-/staff/code?id="+id), "/-/staff/code", "Make a code for this browser"); a.StatusCode != 409 || !strings.Contains(a.body, "so many codes") || len(codes) != 5 {
		t.Errorf("the sixth code of an hour = %d; want it refused\n%s", a.StatusCode, a.body)
	}

	h.caddy("doorpost", "contacts", "set", "ann@example.com", "--role", "staff").Run()
	_, ann := contactPage(t, owner, "ann")
	h.browser().send("/-/sign-in", form("email", "ann@example.com"))
	if a := owner.open("/-/staff/code?id=" + ann); a.StatusCode != 409 || !strings.Contains(a.body, "is staff") || strings.Contains(a.body, "Make a code") {
		t.Errorf("a code for another member of staff = %d; want it refused\n%s", a.StatusCode, a.body)
	}
	waiting, _ := h.caddy("doorpost", "contacts", "phone-code", "bob@example.com", "--list", "--json").Output()
	request := regexp.MustCompile(`"request":"([^"]+)"`).FindSubmatch(waiting)
	if request == nil {
		t.Fatalf("contacts phone-code --list says %s", waiting)
	}
	for range 12 { // a day's work: an unused session ends
		caddymodule.Advance(t, 61*time.Minute)
		owner.open("/-/staff/")
	}
	if a := owner.send("/-/staff/code", form("id", id, "request", string(request[1]))); a.StatusCode != 403 || !strings.Contains(a.body, "sign in again") {
		t.Errorf("a code 12 hours after the sign-in = %d; want to be asked to sign in again\n%s", a.StatusCode, a.body)
	}
	h.browser().send("/-/sign-in", form("email", "bob@example.com"))
	if out, err := h.caddy("doorpost", "contacts", "phone-code", "bob@example.com").CombinedOutput(); err != nil || !regexp.MustCompile(`\n  [0-9a-z]{4}-[0-9a-z]{4}\n`).Match(out) {
		t.Errorf("contacts phone-code says %s (%v)", out, err)
	}
}
