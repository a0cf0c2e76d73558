package caddymodule_test

import (
	"encoding/csv"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// Staff see an email that the mail server refused, in plain words and in its own, have it tried again, and send a test.
func TestStaffEmails(t *testing.T) {
	s := newSink(t)
	h := openHouse(t, layout{app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t}", s.addr)})
	owner := h.browser()
	owner.send("/-/sign-in", form("email", "owner@example.com"))
	h.eventually("the owner's email", func() bool { _, n := s.counts(); return n == 1 })
	owner.open(s.letter(t, 0).link)
	if page := owner.open("/-/staff/emails"); page.StatusCode != 200 || !strings.Contains(page.body, "the mail server took every email") {
		t.Fatalf("the emails = %d\n%s", page.StatusCode, page.part())
	}
	refuse := func(why error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refuse = why
	}
	refuse(&smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such <mailbox>"})
	h.browser().send("/-/sign-in", form("email", "bob@example.com"))
	var page answer
	h.eventually("the refused email is listed", func() bool {
		page = owner.open("/-/staff/emails")
		return strings.Contains(page.body, "Try again")
	})
	if !strings.Contains(page.body, "no such &lt;mailbox&gt;") || !strings.Contains(page.body, "No email reaches this address.") || strings.Contains(page.body, "bob@example.com") {
		t.Errorf("the page says\n%s", page.part())
	}
	test := owner.press(page, "/-/staff/emails", "Send a test email", "email", "owner@example.com")
	if test.StatusCode != 200 || !strings.Contains(test.body, "didn’t take the test email") || !strings.Contains(test.body, "RCPT TO:") {
		t.Errorf("a test that is refused = %d\n%s", test.StatusCode, test.part())
	}
	refuse(nil)
	caddymodule.Advance(t, 2*time.Minute)
	test = owner.press(page, "/-/staff/emails", "Send a test email", "email", "owner@example.com")
	if !strings.Contains(test.body, "is on its way") {
		t.Errorf("a test = %d\n%s", test.StatusCode, test.part())
	}
	if a := owner.press(page, "/-/staff/emails", "Send a test email", "email", "owner"); a.StatusCode != 409 {
		t.Errorf("a test to what is no address = %d", a.StatusCode)
	}
	if a := owner.press(page, "/-/staff/emails", "Try again"); goes(a) != "/-/staff/emails?done=retry" {
		t.Errorf("trying again = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	h.eventually("the email, and the test", func() bool { _, n := s.counts(); return n == 3 })
	if a := owner.press(page, "/-/staff/emails", "Try again"); a.StatusCode != 409 {
		t.Errorf("trying again what was sent = %d; want the page with what is wrong", a.StatusCode)
	}
}

// Staff see every email that clients get, in each language, and have one sent to themselves.
func TestStaffPreviewEmails(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	owner := h.in("owner@example.com")
	page := owner.open("/-/staff/preview?kind=sign-in&language=es")
	if page.StatusCode != 200 || !strings.Contains(page.part(), `<option value="es" selected>`) || !strings.Contains(page.part(), `src="/-/staff/preview/frame?kind=sign-in&amp;language=es&amp;variant=0" sandbox`) {
		t.Fatalf("the preview = %d\n%s", page.StatusCode, page.part())
	}
	for _, m := range regexp.MustCompile(`<option value="([a-z-]+)"`).FindAllStringSubmatch(page.part(), -1) {
		if m[1] == "en" || m[1] == "es" || m[1] == "fr" {
			continue
		}
		frame := owner.open("/-/staff/preview/frame?kind=" + m[1])
		if frame.StatusCode != 200 || !strings.Contains(frame.Header.Get("Content-Security-Policy"), "sandbox") || len(frame.body) < 500 {
			t.Errorf("the email %s = %d, %d bytes", m[1], frame.StatusCode, len(frame.body))
		}
	}
	before := len(h.letters("owner@example.com"))
	if a := owner.press(page, "/-/staff/emails", "Send it to me"); goes(a) != "/-/staff/emails?done=preview" {
		t.Errorf("sending it = %d\n%s", a.StatusCode, a.part())
	}
	h.nextLetter("owner@example.com", before)
	if a := owner.open("/-/staff/preview?kind=nothing"); a.StatusCode != 404 {
		t.Errorf("an email that there is not = %d; want 404", a.StatusCode)
	}
}

// Staff see the pages as a contact does, in the contact's language, without being signed in as them.
func TestStaffViewAs(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies, contacts: "email,first_name,companies,role,locale\nowner@example.com,Olive,,staff,\nann@example.com,Ann,acme; birch,,es\n"})
	owner := h.in("owner@example.com")
	_, id, _ := strings.Cut(owner.send("/-/staff/contacts", form("q", "ann")).part(), "contact?id=")
	id, _, _ = strings.Cut(id, `"`)
	before := len(h.letters("ann@example.com"))
	page := owner.open("/-/staff/view?id=" + id + "&page=companies")
	if page.StatusCode != 200 || !strings.Contains(page.part(), `src="/-/staff/view/frame?id=`+id+`&amp;page=companies" sandbox`) {
		t.Fatalf("the view = %d\n%s", page.StatusCode, page.part())
	}
	companies, prompt := owner.open("/-/staff/view/frame?id="+id+"&page=companies"), owner.open("/-/staff/view/frame?id="+id)
	if companies.StatusCode != 200 || !strings.Contains(companies.part(), "Acme Ltd") || !strings.Contains(companies.part(), "Birch &amp; Sons") || !strings.Contains(companies.part(), "ann@example.com") {
		t.Errorf("the companies = %d\n%s", companies.StatusCode, companies.part())
	}
	if !strings.Contains(prompt.body, `lang="es"`) || !strings.Contains(prompt.part(), `value="ann@example.com"`) {
		t.Errorf("the prompt = %d\n%s", prompt.StatusCode, prompt.part())
	}
	for _, a := range []answer{companies, prompt} {
		_, body, _ := strings.Cut(a.body, "<body>")
		policy := a.Header.Get("Content-Security-Policy")
		if regexp.MustCompile(`<script|\b(href|action|formaction|autofocus)\b`).MatchString(body) || !strings.HasSuffix(policy, "; sandbox") || !strings.Contains(policy, "frame-ancestors 'self'") || len(a.Cookies()) > 0 {
			t.Errorf("the frame can do something: %s, %v\n%s", policy, a.Cookies(), body)
		}
	}
	if list := owner.send("/-/staff/devices", form("q", "ann")); !strings.Contains(list.part(), "Nobody who matches") || len(h.letters("ann@example.com")) != before {
		t.Errorf("ann is signed in, or got an email\n%s", list.part())
	}
	if a := owner.open("/-/staff/view/frame?id=nobody"); a.StatusCode != 404 {
		t.Errorf("of nobody = %d; want 404", a.StatusCode)
	}
}

// Staff see who is signed in where, sign out one browser, and all of a contact.
func TestStaffDevices(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner, bob := h.in("owner@example.com"), h.in("bob@example.com")
	caddymodule.Advance(t, 61*time.Second)
	again := h.in("bob@example.com")
	page := owner.open("/-/staff/devices")
	if page.StatusCode != 200 || strings.Count(page.body, "Safari on iPhone</strong>") != 3 || !strings.Contains(page.body, "(this one)") {
		t.Fatalf("the devices = %d\n%s", page.StatusCode, page.part())
	}
	if a := owner.send("/-/staff/devices", form("q", "bob")); strings.Contains(a.body, "owner@example.com") || strings.Count(a.body, "Safari on iPhone</strong>") != 2 {
		t.Errorf("bob's devices =\n%s", a.part())
	}
	if a := owner.press(page, "/-/staff/devices", "> Bob Cole in"); goes(a) != "/-/staff/devices?done=out" { // the later sign-in is first
		t.Fatalf("signing out one = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	h.eventually("the one browser is signed out", func() bool { return again.open("/orders").StatusCode == 401 })
	if a := bob.open("/orders"); a.StatusCode != 200 {
		t.Errorf("the other browser = %d; want 200", a.StatusCode)
	}
	if a := owner.press(page, "/-/staff/devices", "> Bob Cole in"); a.StatusCode != 409 {
		t.Errorf("signing out once more = %d; want 409", a.StatusCode)
	}
	found := owner.send("/-/staff/devices", form("q", "bob", "do", "all", "id", staffForm(t, page.body, "Sign out everywhere")["id"]))
	if found.StatusCode != 200 || !strings.Contains(found.body, "They are signed out.") || !strings.Contains(found.body, "Nobody who matches") {
		t.Errorf("signing out everywhere = %d\n%s", found.StatusCode, found.part())
	}
	h.eventually("bob is signed out", func() bool { return bob.open("/orders").StatusCode == 401 })
}

// The log tells in plain words what happened and who did it, finds it by contact, company and topic, and downloads as a
// table in which nothing is a formula.
func TestStaffLog(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	h.in("bob@example.com")
	owner.press(owner.open("/-/staff/company?id=acme"), "/-/staff/company", "Change the name", "name", "Acme Limited")
	added := owner.send("/-/staff/add", form("email", "gus@example.com", "first", "=HYPERLINK(1)", "company", "acme"))
	if added.StatusCode != http.StatusSeeOther {
		t.Fatalf("adding = %d\n%s", added.StatusCode, added.part())
	}
	all := owner.open("/-/staff/log")
	for _, want := range []string{">Bob Cole</a>", "signed in by link in Safari on iPhone", "changed the company acme", "Olive Owner added the contact", "127.0.0.1"} {
		if !strings.Contains(all.body, want) {
			t.Errorf("the log has no %q\n%s", want, all.part())
		}
	}
	if strings.Index(all.body, "added the contact") > strings.Index(all.body, "signed in by link") {
		t.Error("the latest isn't on top")
	}
	if a := owner.send("/-/staff/log", form("who", "bob@example.com", "topic", "sign-ins")); !strings.Contains(a.body, "signed in by link") || strings.Contains(a.body, "added the contact") || strings.Contains(a.part(), "asked for") {
		t.Errorf("bob's sign-ins are\n%s", a.part())
	}
	if a := owner.open("/-/staff/log?company=acme"); !strings.Contains(a.body, "changed the company acme") || strings.Contains(a.body, "signed in by link") {
		t.Errorf("what is about Acme is\n%s", a.part())
	}
	if a := owner.send("/-/staff/log", form("who", "nobody@example.com")); a.StatusCode != 400 || !strings.Contains(a.body, "No contact has this address") {
		t.Errorf("an address that is no contact's = %d\n%s", a.StatusCode, a.part())
	}
	file := owner.send("/-/staff/log.csv", form("topic", "changes"))
	if kind := file.Header.Get("Content-Type"); file.StatusCode != 200 || kind != "text/csv; charset=utf-8" || !strings.HasPrefix(file.Header.Get("Content-Disposition"), "attachment") {
		t.Fatalf("the table = %d, %s", file.StatusCode, kind)
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(file.body, "\ufeff"))).ReadAll()
	if err != nil || len(rows) < 3 {
		t.Fatalf("the table has %d rows, %v\n%s", len(rows), err, file.part())
	}
	seen := false
	for _, row := range rows {
		for _, cell := range row {
			seen = seen || cell == "'=HYPERLINK(1)"
			if strings.HasPrefix(cell, "=") {
				t.Errorf("the table has the formula %q", cell)
			}
		}
	}
	if !seen {
		t.Errorf("the table has no name that looks like a formula\n%s", file.part())
	}
}
