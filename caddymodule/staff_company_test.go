package caddymodule_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// sendFile sends a form with a file, as a browser does.
func (b *browser) sendFile(path, name, content string, fields ...string) answer {
	b.h.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for i := 0; i < len(fields); i += 2 {
		if err := form.WriteField(fields[i], fields[i+1]); err != nil {
			b.h.t.Fatal(err)
		}
	}
	file, err := form.CreateFormFile("file", name)
	if err == nil {
		_, err = file.Write([]byte(content))
	}
	if err == nil {
		err = form.Close()
	}
	if err != nil {
		b.h.t.Fatal(err)
	}
	return b.do(b.request("POST", path, &body, "Content-Type", form.FormDataContentType(), "Origin", b.h.url, "Sec-Fetch-Site", "same-origin"))
}

// Staff add a company and change its name; what somebody else changed meanwhile isn't overwritten.
func TestStaffNameACompany(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	added := owner.send("/-/staff/companies", form("name", "Harbor Bakery & Co."))
	if to := goes(added); added.StatusCode != http.StatusSeeOther || to != "/-/staff/company?id=harbor-bakery-co&done=add" {
		t.Fatalf("adding = %d to %q\n%s", added.StatusCode, to, added.part())
	}
	if again := owner.send("/-/staff/companies", form("name", "Harbor Bakery Co")); !strings.Contains(goes(again), "id=harbor-bakery-co-2&") {
		t.Errorf("another one with such a name = %d to %q", again.StatusCode, goes(again))
	}
	if wrong := owner.send("/-/staff/companies", form("name", "Elm", "id", "acme")); wrong.StatusCode != 409 || !strings.Contains(wrong.body, "cme is there already") {
		t.Errorf("an id that is taken = %d\n%s", wrong.StatusCode, wrong.part())
	}
	page := owner.open("/-/staff/company?id=acme")
	if page.StatusCode != 200 || !strings.Contains(page.body, "<h1>Acme Ltd</h1>") {
		t.Fatalf("the company's page = %d\n%s", page.StatusCode, page.part())
	}
	if a := owner.press(page, "/-/staff/company", "Change the name", "name", "Acme Limited"); goes(a) != "/-/staff/company?id=acme&done=rename" {
		t.Errorf("renaming = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	late := owner.press(page, "/-/staff/company", "Change the name", "name", "Acme PLC")
	if late.StatusCode != 409 || !strings.Contains(late.body, "Somebody else has changed this company") || !strings.Contains(late.body, `value="Acme PLC"`) || !strings.Contains(late.body, "<h1>Acme Limited</h1>") {
		t.Errorf("renaming from an old page = %d; want both names\n%s", late.StatusCode, late.part())
	}
	if a := owner.press(late, "/-/staff/company", "Change the name", "name", "Acme PLC"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("renaming after a look = %d\n%s", a.StatusCode, a.part())
	}
	if a := owner.open("/-/staff/company?id=oak"); a.StatusCode != 404 {
		t.Errorf("a company that there is not = %d; want 404", a.StatusCode)
	}
}

// Staff tell a company's contacts that something waits. The same form, sent twice, tells nobody twice.
func TestStaffNotifyACompany(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	page := owner.open("/-/staff/company?id=acme")
	before := len(h.letters("bob@example.com"))
	for range 2 {
		if a := owner.press(page, "/-/staff/company", "Send the email", "count", "3", "note", "Please look by Friday."); goes(a) != "/-/staff/company?id=acme&done=notify" {
			t.Fatalf("telling = %d to %q\n%s", a.StatusCode, goes(a), a.part())
		}
	}
	if l := h.nextLetter("bob@example.com", before); !strings.Contains(l.text, "3 new questions") || !strings.Contains(l.text, "Please look by Friday.") {
		t.Errorf("the email is\n%s", l.text)
	}
	page = owner.open("/-/staff/company?id=acme")
	if n := len(h.letters("bob@example.com")); n != before+1 || !strings.Contains(page.body, "hasn’t opened the page since") {
		t.Errorf("%d emails; want one, and the page says that it wasn't looked after\n%s", n-before, page.part())
	}
	if a := owner.press(page, "/-/staff/company", "Send the email", "note", strings.Repeat("x", 501)); a.StatusCode != 409 {
		t.Errorf("a sentence that is too long = %d\n%s", a.StatusCode, a.part())
	}
}

// Staff publish a report for a company's contacts, who download it, and remove it.
func TestStaffPublishAReport(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks + "\n\t\treports " + filepath.Join(t.TempDir(), "reports"), companies: oldCompanies})
	owner, bob := h.in("owner@example.com"), h.in("bob@example.com")
	before := len(h.letters("bob@example.com"))
	done := owner.sendFile("/-/staff/report", "july.pdf", "all of July", "company", "acme", "title", "July statement", "notify", "true")
	if goes(done) != "/-/staff/company?id=acme&done=publish-told" {
		t.Fatalf("publishing = %d to %q\n%s", done.StatusCode, goes(done), done.part())
	}
	h.nextLetter("bob@example.com", before)
	page := owner.open(goes(done))
	_, url, _ := strings.Cut(page.body, `<li><a href="/-/reports/`) // of the menu
	_, url, _ = strings.Cut(url, `<li><a href="/-/reports/`)
	url, _, _ = strings.Cut(url, `"`)
	if a := bob.open("/-/reports/" + url); a.StatusCode != 200 || a.body != "all of July" {
		t.Errorf("bob's download = %d %q", a.StatusCode, a.part())
	}
	if a := owner.sendFile("/-/staff/report", "", "", "company", "acme"); a.StatusCode != 409 || !strings.Contains(a.body, "<h1>Acme Ltd</h1>") {
		t.Errorf("a form without a file = %d; want the company's page\n%s", a.StatusCode, a.part())
	}
	if a := owner.sendFile("/-/staff/report", "x.pdf", "x", "company", "oak"); a.StatusCode != 404 {
		t.Errorf("for a company that there is not = %d; want 404", a.StatusCode)
	}
	for what, b := range map[string]*browser{"a client": bob, "nobody": h.browser()} {
		if a := b.sendFile("/-/staff/report", "x.pdf", "x", "company", "acme"); a.StatusCode != 404 && a.StatusCode != 401 {
			t.Errorf("publishing by %s = %d", what, a.StatusCode)
		}
	}
	if a := owner.press(page, "/-/staff/company", "Remove it for good"); goes(a) != "/-/staff/company?id=acme&done=remove-report" {
		t.Fatalf("removing = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	if a := bob.open("/-/reports/" + url); a.StatusCode != 404 {
		t.Errorf("bob's download of what was removed = %d; want 404", a.StatusCode)
	}
}

// part returns what is in the main part of a page, for messages.
func (a answer) part() string {
	_, part, _ := strings.Cut(a.body, "<main>")
	part, _, _ = strings.Cut(part, "</main>")
	return part
}
