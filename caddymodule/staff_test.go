package caddymodule_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

var staffPages = []string{"/-/staff/", "/-/staff/contacts", "/-/staff/companies", "/-/staff/add", "/-/staff/company?id=acme", "/-/staff/emails", "/-/staff/devices", "/-/staff/log", "/-/staff/announce"}

// field returns the value of a hidden field of the form with a given button.
func staffForm(t *testing.T, page, button string) map[string]string {
	t.Helper()
	for _, form := range strings.Split(page, "<form ")[1:] {
		form, _, _ = strings.Cut(form, "</form>")
		if !strings.Contains(form, button) {
			continue
		}
		fields := map[string]string{}
		for _, m := range regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)">`).FindAllStringSubmatch(form, -1) {
			fields[m[1]] = m[2]
		}
		return fields
	}
	t.Fatalf("the page has no button %q:\n%s", button, page)
	return nil
}

func (b *browser) press(page answer, path, button string, more ...string) answer {
	b.h.t.Helper()
	values := form(more...)
	for name, value := range staffForm(b.h.t, page.body, button) {
		values.Set(name, value)
	}
	return b.send(path, values)
}

// A client calls: they get no email. From the staff's start page it takes one search to see why,
// and one press to help.
func TestStaffHelpAClient(t *testing.T) {
	h, _ := openFastHouse(t, layout{admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	// Bob types an address of his that the directory doesn't have.
	h.browser().send("/-/sign-in", form("email", "bob@example.net"))
	h.eventually("the address is among those that are nobody's", func() bool { return strings.Contains(owner.open("/-/staff/").body, "bob@example.net") })
	home := owner.open("/-/staff/")
	look := owner.press(home, "/-/staff/look", "Whose is it?")
	if look.StatusCode != 200 || !strings.Contains(look.body, "is no contact’s address") && !strings.Contains(look.body, "is no contact&#39;s address") {
		t.Fatalf("Whose is it? = %d\n%s", look.StatusCode, look.body)
	}
	done := owner.press(look, "/-/staff/contact", "Add this address to the contact")
	to := goes(done)
	if done.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, "/-/staff/contact?id=") || strings.Contains(to, "bob") {
		t.Fatalf("adding the address = %d to %q; want the contact's page, without the address in its URL\n%s", done.StatusCode, to, done.body)
	}
	if page := owner.open(to); !strings.Contains(page.body, "bob@example.net") || !strings.Contains(page.body, "They can sign in with that address now") {
		t.Errorf("the contact's page says\n%s", page.body)
	}
	caddymodule.Advance(t, 61*time.Second) // within a minute of the last mail no mail is made
	h.browser().send("/-/sign-in", form("email", "bob@example.net"))
	h.eventually("a mail to the new address", func() bool { return len(h.letters("bob@example.net")) > 0 })

	// Search, disable, enable, sign out.
	caddymodule.Advance(t, 61*time.Second)
	bob := h.in("bob@example.com")
	found := owner.send("/-/staff/contacts", form("q", "bob"))
	link := regexp.MustCompile(`/-/staff/contact\?id=[^"]+`).FindString(found.body)
	if found.StatusCode != 200 || link == "" || strings.Contains(found.body, "ann@example.com") {
		t.Fatalf("the search for bob = %d\n%s", found.StatusCode, found.body)
	}
	h.eventually("the page says that bob is in", func() bool { return strings.Contains(owner.open(link).body, "signed in by link") })
	page := owner.open(link)
	if a := owner.press(page, "/-/staff/contact", "Disable this contact"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("disabling = %d\n%s", a.StatusCode, a.body)
	}
	h.eventually("bob is out", func() bool { return bob.open("/orders").StatusCode == 401 })
	if a := owner.press(owner.open(link), "/-/staff/contact", "Let them in again"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("enabling = %d\n%s", a.StatusCode, a.body)
	}
	caddymodule.Advance(t, 61*time.Second)
	bob = h.in("bob@example.com")
	if a := owner.press(owner.open(link), "/-/staff/contact", "Sign them out everywhere"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("signing out = %d\n%s", a.StatusCode, a.body)
	}
	h.eventually("bob is signed out", func() bool { return bob.open("/orders").StatusCode == 401 })
	before := len(h.letters("bob@example.com"))
	if a := owner.press(owner.open(link), "/-/staff/contact", "Email them a link to set a password"); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("a link to set a password = %d\n%s", a.StatusCode, a.body)
	}
	h.eventually("a mail with a link to set a password", func() bool { return len(h.letters("bob@example.com")) > before })
	if a := owner.send("/-/staff/look", form("email", "no address")); a.StatusCode != 400 {
		t.Errorf("what is no address = %d; want 400", a.StatusCode)
	}
	// A new contact.
	for _, wrong := range [][]string{{"email", "no address"}, {"email", "bob@example.com"}, {"email", "cleo@example.com", "company", "Nobody & Co"}} {
		if a := owner.send("/-/staff/add", form(wrong...)); a.StatusCode != 409 || !strings.Contains(a.body, `aria-invalid="true"`) {
			t.Errorf("adding %v = %d; want the form again, with what is wrong\n%s", wrong, a.StatusCode, a.body)
		}
	}
	added := owner.send("/-/staff/add", form("email", "cleo@example.com", "first", "Cleo", "last", "Dahl", "company", "Cedar Inc"))
	if page := owner.open(goes(added)); added.StatusCode != http.StatusSeeOther || !strings.Contains(page.body, "Cleo Dahl") || !strings.Contains(page.body, "Cedar Inc") {
		t.Errorf("adding Cleo = %d\n%s", added.StatusCode, page.body)
	}
	if cleo := h.in("cleo@example.com"); cleo.open("/orders").StatusCode != 200 {
		t.Error("Cleo doesn't get in")
	}
	// The history says who did it.
	h.eventually("the history has it", func() bool {
		out, _ := h.caddy("doorpost", "audit", "--json").CombinedOutput()
		return strings.Contains(string(out), `"by":"staff"`) && strings.Contains(string(out), `"staff":"`) && strings.Contains(string(out), "contacts/disable")
	})
}

// Staff upgrade a company, after they have seen who will be asked to sign in, and undo it.
func TestStaffUpgrade(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	owner := h.in("owner@example.com")
	if a := h.browser().open("/one-click/birch-secret-token/x"); a.StatusCode != 200 {
		t.Fatalf("an open company's old link = %d; want 200", a.StatusCode)
	}
	list := owner.open("/-/staff/companies")
	ask := owner.press(list, "/-/staff/company", "Birch")
	if ask.StatusCode != 200 || !strings.Contains(ask.body, "ann@example.com") {
		t.Fatalf("Upgrade … = %d; want who will be asked\n%s", ask.StatusCode, ask.body)
	}
	if a := h.browser().open("/one-click/birch-secret-token/x"); a.StatusCode != 200 {
		t.Errorf("before it is confirmed, the old link = %d; want 200", a.StatusCode)
	}
	done := owner.press(ask, "/-/staff/company", "Upgrade</button>")
	if done.StatusCode != http.StatusSeeOther || !strings.Contains(owner.open(goes(done)).body, "Its old links ask who is there from now on.") {
		t.Fatalf("Upgrade = %d to %q\n%s", done.StatusCode, goes(done), done.body)
	}
	h.eventually("the old link asks", func() bool { return h.browser().open("/one-click/birch-secret-token/x").StatusCode == 302 })
	h.eventually("the home page counts it", func() bool { return strings.Contains(owner.open("/-/staff/").body, "<strong>1 of 2</strong>") })
	undo := owner.press(owner.open("/-/staff/companies?q=birch"), "/-/staff/company", "Let the old links open again")
	if undo.StatusCode != http.StatusSeeOther {
		t.Fatalf("undo = %d\n%s", undo.StatusCode, undo.body)
	}
	h.eventually("the old link opens", func() bool { return h.browser().open("/one-click/birch-secret-token/x").StatusCode == 200 })
}

// Only staff can use the staff pages: others can't tell that they exist, or change anything.
func TestStaffPagesAreForStaff(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	owner, ann := h.in("owner@example.com"), h.in("ann@example.com")
	link := regexp.MustCompile(`/-/staff/contact\?id=[^"]+`).FindString(owner.send("/-/staff/contacts", form("q", "bob")).body)
	_, id, _ := strings.Cut(link, "id=")
	for _, path := range append(staffPages, link, "/-/staff/edit?id="+id, "/-/staff/remove?id="+id, "/-/staff/code?id="+id) {
		if a := owner.open(path); a.StatusCode != 200 {
			t.Errorf("%s for staff = %d; want 200", path, a.StatusCode)
		}
		if a := ann.open(path); a.StatusCode != 404 || strings.Contains(a.body, "bob") {
			t.Errorf("%s for a client = %d; want 404", path, a.StatusCode)
		}
		if a := h.browser().open(path); a.StatusCode != 401 || strings.Contains(a.body, "bob@") {
			t.Errorf("%s for nobody = %d; want the prompt", path, a.StatusCode)
		}
	}
	posts := map[string][]string{
		"/-/staff/add": {"email", "eve@example.com"}, "/-/staff/contacts": {"q", "bob"}, "/-/staff/look": {"email", "bob@example.com"}, "/-/staff/company": {"id", "birch", "do", "upgrade"}, "/-/staff/companies": {"name", "Elm"}, "/-/staff/contact": {"id", id, "do", "disable"},
		"/-/staff/edit": {"id", id, "do", "add-email", "value", "eve@example.com"}, "/-/staff/remove": {"id", id, "version", "v"}, "/-/staff/code": {"id", id, "request", "r"},
	}
	for path, fields := range posts {
		if a := ann.send(path, form(fields...)); a.StatusCode != 404 {
			t.Errorf("POST %s by a client = %d; want 404", path, a.StatusCode)
		}
		if a := h.browser().send(path, form(fields...)); a.StatusCode != 401 {
			t.Errorf("POST %s by nobody = %d; want the prompt", path, a.StatusCode)
		}
		cross := owner.request("POST", path, strings.NewReader(form(fields...).Encode()), "Content-Type", "application/x-www-form-urlencoded", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
		if a := owner.do(cross); a.StatusCode != 403 {
			t.Errorf("POST %s from another site = %d; want 403", path, a.StatusCode)
		}
	}
	if a := owner.send("/-/staff/contact", form("id", id, "do", "nothing")); a.StatusCode != 400 {
		t.Errorf("a button that there is not = %d; want 400", a.StatusCode)
	}
	if a := owner.open("/-/staff/contact?id=nobody"); a.StatusCode != 404 {
		t.Errorf("a contact that there is not = %d; want 404", a.StatusCode)
	}
	if a := h.in("bob@example.com").open("/orders"); a.StatusCode != 200 {
		t.Errorf("bob = %d; want that nobody kept him out", a.StatusCode)
	}
}

// Staff who signed in long ago may look, but must sign in again to change something.
func TestStaffChangesAskForANewSignIn(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	owner := h.in("owner@example.com")
	link := regexp.MustCompile(`/-/staff/contact\?id=[^"]+`).FindString(owner.send("/-/staff/contacts", form("q", "bob")).body)
	page := owner.open(link)
	for range 12 { // a day's work: an unused session ends
		caddymodule.Advance(t, 61*time.Minute)
		owner.open("/-/staff/")
	}
	if a := owner.open(link); a.StatusCode != 200 {
		t.Errorf("after 12 hours, a look = %d; want 200", a.StatusCode)
	}
	if a := owner.press(page, "/-/staff/contact", "Disable this contact"); a.StatusCode != 403 || !strings.Contains(a.body, "sign in again") || !strings.Contains(a.body, "/-/sign-out") {
		t.Errorf("after 12 hours, a change = %d; want to be asked to sign in again\n%s", a.StatusCode, a.body)
	}
}

// Staff of one firm see nothing of another firm, and their session doesn't sign them in there.
func TestStaffOfOneFirmSeeNothingOfAnother(t *testing.T) {
	h, firms := twoFirms(t)
	first, second := firms[0], firms[1]
	owner := h.in("staff-a@example.com")
	if body := owner.send("/-/staff/contacts", form("q", "only-")).body; !strings.Contains(body, "only-a@example.com") || strings.Contains(body, "only-b@example.com") {
		t.Errorf("the contacts of the first firm are\n%s", body)
	}
	if body := owner.send("/-/staff/look", form("email", "only-b@example.com")).body; !strings.Contains(body, "Nobody’s address") {
		t.Errorf("an address of the second firm is known to the first:\n%s", body)
	}
	for _, name := range []string{"/staff/", "/staff/contacts", "/staff/companies", "/staff/add"} {
		if a := second.raw(t, h, "GET", second.prefix+name, nil, "portal="+owner.cookie("portal")); a.StatusCode != 401 {
			t.Errorf("%s of the second firm with a session of the first = %d; want the prompt", name, a.StatusCode)
		}
		if a := first.raw(t, h, "GET", first.prefix+name, nil, "portal="+first.session); a.StatusCode != 404 {
			t.Errorf("%s for a client = %d; want 404", name, a.StatusCode)
		}
	}
}
