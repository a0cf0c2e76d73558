package caddymodule_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// contactPage returns the path of a contact's page, and the contact's ID.
func contactPage(t *testing.T, staff *browser, search string) (path, id string) {
	t.Helper()
	path = regexp.MustCompile(`/-/staff/contact\?id=[^"]+`).FindString(staff.send("/-/staff/contacts", form("q", search)).body)
	_, id, found := strings.Cut(path, "id=")
	if !found {
		t.Fatalf("staff find no contact by %q", search)
	}
	return path, id
}

// save presses Save on the form that changes a contact, with these values in place of those that it shows.
func (b *browser) save(page answer, more ...string) answer {
	b.h.t.Helper()
	values := url.Values{}
	for _, m := range regexp.MustCompile(`<input (?:id="[a-z]+" )?(?:type="hidden" )?name="([a-z]+)"[^>]* value="([^"]*)"`).FindAllStringSubmatch(strings.SplitN(page.body, "<button>Save", 2)[0], -1) {
		if !values.Has(m[1]) && m[1] != "role" {
			values.Set(m[1], strings.NewReplacer("&#34;", `"`, "&#43;", "+", "&amp;", "&").Replace(m[2]))
		}
	}
	if m := regexp.MustCompile(`<option value="([^"]*)" selected`).FindStringSubmatch(page.body); m != nil {
		values.Set("locale", m[1])
	}
	for i := 0; i < len(more); i += 2 {
		values.Set(more[i], more[i+1])
	}
	return b.send("/-/staff/edit", values)
}

// Staff change everything of a contact, and remove them.
func TestStaffEditAContact(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	owner, bob := h.in("owner@example.com"), h.in("bob@example.com")
	path, id := contactPage(t, owner, "bob")
	edit := "/-/staff/edit?id=" + id
	has := func(page string, texts ...string) {
		t.Helper()
		a := owner.open(page)
		for _, text := range texts {
			if !strings.Contains(a.body, text) {
				t.Errorf("%s lacks %q:\n%s", page, text, a.body)
			}
		}
	}
	if a := owner.save(owner.open(edit), "first", "Robert", "last", "Ray", "phone", "+1 555 0100", "locale", "es"); a.StatusCode != http.StatusSeeOther || goes(a) != path+"&done=save" {
		t.Fatalf("saving = %d to %q\n%s", a.StatusCode, goes(a), a.body)
	}
	has(path+"&done=save", "Robert Ray", "The changes are saved.", "/portal/acme/\"")
	has(edit, `value="Robert"`, `value="Ray"`, `value="&#43;1 555 0100"`, `<option value="es" selected>`)
	if bob.open("/orders").StatusCode != 200 {
		t.Error("a change that takes nothing away signed bob out")
	}
	if a := owner.send("/-/staff/edit", form("id", id, "do", "add-company", "value", "Cedar Inc")); a.StatusCode != http.StatusSeeOther {
		t.Errorf("adding a company by name = %d\n%s", a.StatusCode, a.body)
	}
	has(edit, "Cedar Inc")
	if a := owner.send("/-/staff/edit", form("id", id, "do", "add-company", "value", "Nobody & Co")); a.StatusCode != 409 || !strings.Contains(a.body, `aria-invalid="true"`) || !strings.Contains(a.body, "Nobody &amp; Co") {
		t.Errorf("adding a company that there is not = %d; want the form again\n%s", a.StatusCode, a.body)
	}
	if a := owner.press(owner.open(edit), "/-/staff/edit", "of Cedar Inc"); a.StatusCode != http.StatusSeeOther || strings.Contains(owner.open(edit).body, "Cedar Inc") {
		t.Errorf("taking the company away = %d\n%s", a.StatusCode, a.body)
	}
	if a := owner.send("/-/staff/edit", form("id", id, "do", "add-email", "value", "robert@example.org")); a.StatusCode != http.StatusSeeOther {
		t.Errorf("adding an address = %d\n%s", a.StatusCode, a.body)
	}
	has(edit, "robert@example.org")
	if a := owner.send("/-/staff/edit", form("id", id, "do", "add-email", "value", "ann@example.com")); a.StatusCode != 409 || !strings.Contains(a.body, "belongs to another contact") {
		t.Errorf("adding another contact's address = %d; want it refused\n%s", a.StatusCode, a.body)
	}
	if a := owner.press(owner.open(edit), "/-/staff/edit", "Take away"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("taking the address away = %d\n%s", a.StatusCode, a.body)
	}
	h.eventually("bob is signed out", func() bool { return bob.open("/orders").StatusCode == 401 })
	for field, value := range map[string]string{"email": "no address", "locale": "?", "phone": strings.Repeat("1", 50)} {
		if a := owner.save(owner.open(edit), field, value); a.StatusCode != 409 || !strings.Contains(a.body, `aria-invalid="true"`) {
			t.Errorf("saving %s %q = %d; want the form again\n%s", field, value, a.StatusCode, a.body)
		}
	}
	if a := owner.save(owner.open(edit), "role", "staff"); a.StatusCode != http.StatusSeeOther {
		t.Errorf("making staff = %d\n%s", a.StatusCode, a.body)
	}
	has(edit, `value="staff" checked`)

	remove := owner.open("/-/staff/remove?id=" + id)
	if !strings.Contains(remove.body, "They aren’t signed in anywhere now.") {
		t.Errorf("the page that asks says\n%s", remove.body)
	}
	gone := owner.press(remove, "/-/staff/remove", "Remove this contact")
	if gone.StatusCode != http.StatusSeeOther || !strings.Contains(owner.open(goes(gone)).body, "The contact is removed.") {
		t.Fatalf("removing = %d to %q\n%s", gone.StatusCode, goes(gone), gone.body)
	}
	for _, page := range []string{path, edit, "/-/staff/remove?id=" + id} {
		if a := owner.open(page); a.StatusCode != 404 {
			t.Errorf("%s of who was removed = %d; want 404", page, a.StatusCode)
		}
	}
	h.eventually("the log has who did it", func() bool {
		out, _ := h.caddy("doorpost", "audit", "--json").CombinedOutput()
		return strings.Contains(string(out), `"staff":"`) && strings.Contains(string(out), "contacts/remove") && strings.Contains(string(out), `"fields":["first_name","last_name","locale","phone"]`)
	})
}

// Two of the staff who edit the same contact don't overwrite each other: the second sees what the first has changed,
// and decides.
func TestStaffSeeWhatOthersChangedMeanwhile(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	first := h.in("owner@example.com")
	path, id := contactPage(t, first, "bob")
	edit := "/-/staff/edit?id=" + id
	seen, ask := first.open(edit), first.open("/-/staff/remove?id="+id)
	if a := first.save(seen, "phone", "+1 555 0100", "first", "Robert"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("the first = %d\n%s", a.StatusCode, a.body)
	}
	second := first.save(seen, "phone", "+1 555 0199", "last", "Ray")
	for _, text := range []string{"Somebody else has changed this contact meanwhile", "is now “&#43;1 555 0100”", "You typed “&#43;1 555 0199”", "is now “Robert”", `value="&#43;1 555 0199"`, `value="Ray"`, `value="Robert"`} {
		if second.StatusCode != 409 || !strings.Contains(second.body, text) {
			t.Fatalf("the second = %d, without %q\n%s", second.StatusCode, text, second.body)
		}
	}
	if a := first.press(ask, "/-/staff/remove", "Remove this contact"); a.StatusCode != 409 || !strings.Contains(a.body, "so nobody was removed") {
		t.Errorf("removing who was changed meanwhile = %d; want to be asked again\n%s", a.StatusCode, a.body)
	}
	if a := first.save(second); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("the second, who has decided = %d\n%s", a.StatusCode, a.body)
	}
	for _, text := range []string{`value="&#43;1 555 0199"`, `value="Ray"`, `value="Robert"`} {
		if page := first.open(edit); !strings.Contains(page.body, text) {
			t.Errorf("the contact lacks %s:\n%s", text, page.body)
		}
	}
	if a := first.open(path); a.StatusCode != 200 {
		t.Errorf("the contact's page = %d", a.StatusCode)
	}
}

// Staff have a contact's lasting link mailed to them. It leads to the company's page, after a sign-in.
func TestStaffMailTheLastingLink(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	owner := h.in("owner@example.com")
	path, _ := contactPage(t, owner, "bob")
	before := len(h.letters("bob@example.com"))
	if a := owner.press(owner.open(path), "/-/staff/contact", "Email them this link"); goes(a) != path+"&done=mail-link" {
		t.Fatalf("mailing the link = %d to %q\n%s", a.StatusCode, goes(a), a.part())
	}
	if l := h.nextLetter("bob@example.com", before); !strings.Contains(l.text, "/portal/acme") || strings.Contains(l.text, "?t=") {
		t.Errorf("the email is\n%s\nwant the company's page, and no secret", l.text)
	}
	if state, err := h.office().AnnounceStatus(t.Context(), "example"); err == nil && state.Announcement != nil {
		t.Errorf("the email counts for an announcement: %+v", state)
	}
	if out, err := h.caddy("doorpost", "contacts", "link", "bob@example.com").CombinedOutput(); err != nil || !strings.Contains(string(out), "is on its way to bob@example.com") {
		t.Errorf("contacts link = %v\n%s", err, out)
	}
	h.nextLetter("bob@example.com", before+1)
	for email, want := range map[string]string{"nameless@example.com": "no_company", "eve@example.com": "disabled", "who@example.com": "unknown"} {
		if _, err := h.office().MailLink(t.Context(), "example", email); err == nil || admin.ErrorOf(err).Code != want {
			t.Errorf("MailLink(%s) = %v; want the code %s", email, err, want)
		}
	}
	var last error
	for range 10 {
		_, last = h.office().MailLink(t.Context(), "example", "bob@example.com")
	}
	if last == nil || admin.ErrorOf(last).Code != "limited" {
		t.Errorf("the tenth email within a minute: %v; want it refused as limited", last)
	}
}
