package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// A change that takes an address, a company or the permission to sign in from a contact is one
// transaction: even if the process is killed right after it, and nobody deletes the sessions and
// links, they have ended.
func TestLosingAccessIsOneTransaction(t *testing.T) {
	const contacts = "email,other_emails,companies,disabled\n" +
		"file-address@example.com,other@example.org,acme,\nfile-disabled@example.com,,acme,\nfile-company@example.com,,acme;birch,\n"
	const imported = "email,other_emails,companies,disabled\n" +
		"import-address@example.com,,acme,\nimport-disabled@example.com,,acme,true\nimport-company@example.com,,acme,\n"
	h := openHouse(t, layout{firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), contacts: contacts +
		"import-address@example.com,another@example.org,acme,\nimport-disabled@example.com,,acme,\nimport-company@example.com,,acme;birch,\n" +
		"set@example.com,,acme,\ndisable@example.com,,acme,\nback@example.com,,acme,\nremove@example.com,,acme,\nremove-company@example.com,,acme;cedar,\nstays@example.com,,acme,\n"})
	h.command("upgrade", "acme")
	book := caddymodule.BookOf(t, "example")
	all, err := book.Contacts(t.Context(), "", "", 100)
	if err != nil || len(all) != 12 {
		t.Fatalf("Contacts = %d, %v; want 12", len(all), err)
	}
	type both struct{ in, link *browser }
	people := map[string]both{}
	links := map[string]string{}
	companies := map[string]string{"file-company@example.com": "birch", "import-company@example.com": "birch", "remove-company@example.com": "cedar"}
	page := func(email string) string {
		if company := companies[email]; company != "" {
			return "/files/" + company + "/x"
		}
		return "/files/acme/x"
	}
	for _, c := range all {
		email := string(c.Email())
		p := both{h.in(email), h.browser()}
		people[email], links[email] = p, p.link.ask(email, "/").link
		if a := p.in.open(page(email)); a.StatusCode != http.StatusOK {
			t.Fatalf("%s before = %d; want 200", email, a.StatusCode)
		}
	}

	// For each change, its transaction without the steps that follow it.
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	plan, err := book.Planner(strings.NewReader(imported), directory.Contacts, directory.ImportOptions{})
	must(nil, err)
	p, err := plan(t.Context())
	must(nil, err)
	must(nil, book.Apply(t.Context(), p, nil))
	main, no := "new@example.com", false
	must(book.SetContact(t.Context(), "set@example.com", directory.Change{Email: &main}))
	must(book.Disable(t.Context(), "disable@example.com"))
	must(book.Disable(t.Context(), "back@example.com"))
	must(book.SetContact(t.Context(), "back@example.com", directory.Change{Disabled: &no}))
	must(book.RemoveContact(t.Context(), "remove@example.com"))
	must(book.RemoveCompany(t.Context(), "cedar"))
	h.write("contacts.csv", "email,other_emails,companies,disabled\n"+
		"file-address@example.com,,acme,\nfile-disabled@example.com,,acme,true\nfile-company@example.com,,acme,\n")
	must(book.LoadFile(t.Context(), h.path("contacts.csv"), directory.Contacts, nil))
	must(store.Clear(t.Context(), caddymodule.OpenStore(t), "example", "ending"))

	check := func(when string) {
		t.Helper()
		for email, p := range people {
			want, signed := http.StatusUnauthorized, ""
			switch {
			case email == "stays@example.com":
				want = http.StatusOK
			case companies[email] != "":
				want, signed = http.StatusNotFound, "/files/acme/x"
			}
			if a := p.in.open(page(email)); a.StatusCode != want {
				t.Errorf("%s, %s = %d; want %d", when, email, a.StatusCode, want)
			}
			if signed != "" {
				if a := p.in.open(signed); a.StatusCode != http.StatusOK {
					t.Errorf("%s, %s at the company that stayed = %d; want 200", when, email, a.StatusCode)
				}
			}
		}
	}
	check("at once")
	for email, p := range people {
		if p.link.open(links[email]); (p.link.me() != nil) != (email == "stays@example.com" || companies[email] != "") {
			t.Errorf("the link that was on its way to %s signed in: %t", email, p.link.me() != nil)
		}
	}
	must(nil, caddy.Stop())
	h.start()
	h.settled()
	check("after a restart")
}

// Disabled contacts whom only the Caddyfile allows lose access when its line is removed: their
// sessions don't come back with the line, nor when they are enabled.
func TestSessionsOfFormerStaffDoNotComeBack(t *testing.T) {
	const line, without = "staff eve@example.com", "staff owner@example.com"
	for name, back := range map[string]func(*house){
		"the line is back": func(h *house) { h.change(without, line) },
		"enabled":          func(h *house) { h.command("contacts", "enable", "eve@example.com") },
	} {
		t.Run(name, func(t *testing.T) {
			h := openHouse(t, layout{admin: freeAddress(t), firm: line})
			told, quiet, asked := h.in("eve@example.com"), h.in("eve@example.com"), h.browser()
			link := asked.ask("eve@example.com", "/").link
			h.change(line, line+" owner@example.com") // any other reload
			h.settled()
			if a := told.open("/x"); a.StatusCode != http.StatusOK {
				t.Errorf("with the line = %d; want 200", a.StatusCode)
			}
			h.change(line+" owner@example.com", without)
			h.settled()
			if a := told.open("/x"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("without the line = %d; want 401", a.StatusCode)
			}
			back(h)
			h.settled()
			if a := quiet.open("/x"); a.StatusCode != http.StatusUnauthorized { // nothing told it to forget its session
				t.Errorf("an earlier session = %d; want 401", a.StatusCode)
			}
			if asked.open(link); asked.me() != nil {
				t.Error("an earlier link signed in")
			}
			h.in("eve@example.com") // and a new session works
		})
	}
}
