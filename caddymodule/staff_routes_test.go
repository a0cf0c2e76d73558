package caddymodule_test

import (
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// staffRoute is a page of staff in the gate's route table.
type staffRoute struct {
	name      string
	get, post bool
}

// search is set for routes whose POST changes nothing.
func (r staffRoute) search() bool {
	return r.name == "/staff/contacts" || r.name == "/staff/look" || r.name == "/staff/log" || r.name == "/staff/log.csv"
}

// staffRoutes reads the route table in the source, so that a new page of staff can't be forgotten.
func staffRoutes(t *testing.T) (all []staffRoute) {
	t.Helper()
	source, err := os.ReadFile("gate/gate.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`"(/staff[^"]*)":\s*\{([^}]*)\}`).FindAllStringSubmatch(string(source), -1) {
		all = append(all, staffRoute{m[1], strings.Contains(m[2], "get:"), strings.Contains(m[2], "post:")})
	}
	if len(all) < 15 {
		t.Fatalf("the route table has %d pages of staff; is it written in another way now?", len(all))
	}
	return all
}

// Nothing of one firm is on the staff pages of another, on any route: not for its staff, its clients or visitors.
func TestStaffRoutesAreForTheFirmsOwnStaff(t *testing.T) {
	h, firms := twoFirms(t)
	first, second := firms[0], firms[1]
	owner := h.in("staff-a@example.com")
	session := "portal=" + owner.cookie("portal")
	only := regexp.MustCompile(`only-[ab]@|both@`)
	try := func(what string, at *firmSite, route staffRoute, cookies string, want int) {
		t.Helper()
		for _, method := range []string{"GET", "POST"} {
			if method == "GET" && !route.get || method == "POST" && !route.post {
				continue
			}
			a := at.raw(t, h, method, at.prefix+route.name, url.Values{"do": {"look"}, "q": {"only"}}, cookies)
			if a.StatusCode != want || only.MatchString(a.body) {
				t.Errorf("%s: %s %s = %d; want %d, and nobody's address", what, method, route.name, a.StatusCode, want)
			}
		}
	}
	for _, route := range staffRoutes(t) {
		try("staff of another firm", second, route, session, 401)
		try("staff of another firm, who are a client here", second, route, session+"; portal="+second.session, 404)
		try("a client", first, route, "portal="+first.session, 404)
		try("nobody", first, route, "", 401)
		if route.get {
			if a := first.raw(t, h, "GET", first.prefix+route.name, nil, session); a.StatusCode == 401 || a.StatusCode == 403 || a.StatusCode >= 500 || strings.Contains(a.body, "only-b@") {
				t.Errorf("the firm's own staff: GET %s = %d", route.name, a.StatusCode)
			}
		}
		if route.post {
			cross := owner.request("POST", first.prefix+route.name, strings.NewReader("do=look"), "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
			if a := owner.do(cross); a.StatusCode != 403 {
				t.Errorf("POST %s from another site = %d; want 403", route.name, a.StatusCode)
			}
		}
	}
	// Staff who aren't any more lose the pages at once, and get them back.
	role := func(r directory.Role) {
		t.Helper()
		if _, err := h.office().SetContact(t.Context(), "example", "staff-a@example.com", directory.Change{Role: &r}); err != nil {
			t.Fatal(err)
		}
	}
	role(directory.Client)
	for _, route := range staffRoutes(t) {
		try("staff who are a client by now", first, route, session, 404)
	}
	role(directory.Staff)
	if a := first.raw(t, h, "GET", first.prefix+"/staff/", nil, session); a.StatusCode != 200 {
		t.Errorf("staff again = %d; want 200", a.StatusCode)
	}
	h.operator("contacts/disable", "staff-a@example.com")
	for _, route := range staffRoutes(t) {
		try("staff who are disabled by now", first, route, session, 401)
	}
}

// Whoever signed in more than 12 hours ago changes nothing, on any route.
func TestStaffRoutesThatChangeAskForANewSignIn(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	for range 12 { // a day's work: an unused session ends
		caddymodule.Advance(t, 61*time.Minute)
		owner.open("/-/staff/add")
	}
	for _, route := range staffRoutes(t) {
		if !route.post {
			continue
		}
		a := owner.send("/-"+route.name, form("do", "look"))
		if asks := strings.Contains(a.body, "Please sign in again"); route.search() && (a.StatusCode == http.StatusForbidden || asks) || !route.search() && (a.StatusCode != http.StatusForbidden || !asks) {
			t.Errorf("POST %s after 12 hours = %d; does it change something? %t", route.name, a.StatusCode, !route.search())
		}
	}
	if a := owner.sendFile("/-/staff/report", "x.pdf", "x", "company", "acme"); a.StatusCode != http.StatusForbidden {
		t.Errorf("an upload after 12 hours = %d; want 403", a.StatusCode)
	}
}
