package caddymodule_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// untilLoaded advances the clock until a changed file is loaded and ok returns true.
func (h *house) untilLoaded(what string, ok func() bool) {
	h.t.Helper()
	h.eventually(what, func() bool {
		caddymodule.LookAtFiles(h.t)
		if ok() {
			return true
		}
		caddymodule.Advance(h.t, time.Second)
		return false
	})
}

func (h *house) contact(email string) (c directory.Contact, ok bool) {
	h.t.Helper()
	c, err := caddymodule.BookOf(h.t, "example").ByEmail(h.t.Context(), address.Address(email))
	return c, err == nil
}

func (h *house) files() []admin.FileStatus {
	h.t.Helper()
	list, err := h.office().Files(h.t.Context(), "example")
	if err != nil {
		h.t.Fatal(err)
	}
	return list.Files
}

// sameConfig is `caddy reload` with the current Caddyfile.
func (h *house) sameConfig() {
	h.t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(h.config), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.Post("http://"+h.admin+"/load", "application/json", bytes.NewReader(config))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		h.t.Fatalf("POST /load = %d %s", resp.StatusCode, body)
	}
}

// After contacts.csv was edited, Caddy finds nothing to do in a reload. The file is loaded
// all the same: contacts whom it disables are signed out, and contacts whom it adds can
// sign in.
func TestEditedFileIsLoadedThoughReloadDoesNothing(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	h.sameConfig() // it now knows that the file was loaded without an endpoint
	b := h.in("ann@example.com")
	h.write("contacts.csv", strings.Replace(someContacts, `"acme; birch",,`, `"acme; birch",,yes`, 1)+"new@example.com,,New,One,acme,,\n")
	h.sameConfig()
	h.eventually("Ann is out", func() bool { return b.open("/x").StatusCode == http.StatusUnauthorized })
	h.in("new@example.com")
	if files := h.files(); len(files) != 2 || files[1].State != admin.FileLoaded || files[1].Load == nil || files[1].Load.Added != 1 || files[1].Load.Changed != 1 {
		t.Errorf("files = %+v; want contacts.csv loaded, 1 added and 1 changed", files)
	}
}

// A file with an invalid line changes nothing while the gate runs, and commands and log
// report it; once corrected, it is loaded.
func TestBadFileChangesNothingWhileRunning(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{admin: freeAddress(t), global: log.global})
	h.write("contacts.csv", someContacts+"fay@example.com,,Fay,Day,nowhere,,\nsecret-name@@example.com,,,,,,\n")
	h.untilLoaded("the file is refused", func() bool { return h.files()[1].State == admin.FileRefused })
	if _, ok := h.contact("fay@example.com"); ok {
		t.Error("a line of a bad file was loaded")
	}
	h.in("ann@example.com")
	refused := h.files()[1]
	if len(refused.Rows) != 2 || refused.Rows[0].Line != 7 || refused.Rows[0].Column != "companies" {
		t.Errorf("the bad lines = %+v; want lines 7 and 8", refused.Rows)
	}
	for _, c := range []struct{ args, want string }{
		{"files", "contacts.csv: not loaded\n  line 7, companies: \"nowhere\" is no company"},
		{"files", "What to do: correct it"},
		{"contacts list fay", "contacts.csv isn't loaded. To see why: caddy doorpost files"},
	} {
		if out, _ := h.caddy(append([]string{"doorpost"}, strings.Fields(c.args)...)...).CombinedOutput(); !strings.Contains(string(out), c.want) {
			t.Errorf("%s says\n%s\nwant %q", c.args, out, c.want)
		}
	}
	if out, err := h.caddy("doorpost", "doctor").CombinedOutput(); err == nil || !strings.Contains(string(out), "WRONG  file (example): "+h.path("contacts.csv")+" isn't loaded") {
		t.Errorf("doctor says, %v\n%s\nwant the file", err, out)
	}
	told := 0
	for line := range strings.Lines(log.text(t)) {
		if !strings.Contains(line, "a file was not loaded") {
			continue
		}
		told++
		if !strings.Contains(line, `"line":7,"column":"companies"`) || !strings.Contains(line, "contacts.csv") || !strings.Contains(line, `"level":"error"`) {
			t.Errorf("the log says %s", line)
		}
	}
	if told != 1 || strings.Contains(log.text(t), "secret-name") || strings.Contains(log.text(t), "fay@") {
		t.Errorf("the log tells of it %d times, or with an address; want once, without", told)
	}
	h.write("companies.csv", someCompanies+"nowhere,,\n")
	h.write("contacts.csv", someContacts+"fay@example.com,,Fay,Day,nowhere,,\n")
	h.untilLoaded("the file is loaded", func() bool { _, ok := h.contact("fay@example.com"); return ok })
	if state := h.files()[1].State; state != admin.FileLoaded {
		t.Errorf("contacts.csv is %s; want loaded", state)
	}
}

// A file that names a missing company is loaded once the company exists.
func TestRefusedFileIsLoadedOnceItsCompanyIsThere(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	h.write("contacts.csv", someContacts+"fay@example.com,,Fay,Day,cedar,,\n")
	h.untilLoaded("the file is refused", func() bool { return h.files()[1].State == admin.FileRefused })
	if _, err := h.office().AddCompany(t.Context(), "example", "cedar", directory.CompanyChange{}); err != nil {
		t.Fatal(err)
	}
	h.untilLoaded("the file is loaded", func() bool { _, ok := h.contact("fay@example.com"); return ok })
}

// An invalid file fails a start and a reload, with file and line; the running configuration
// stays.
func TestBadFileFailsValidateReloadAndStart(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.in("ann@example.com")
	for _, c := range []struct{ file, text, want string }{
		{"contacts.csv", "email\nnot-an-address\n", "contacts.csv:2: email: not an email address: it has no @; correct the file"},
		{"contacts.csv", "", "contacts.csv:1: the file is empty"},
		{"companies.csv", "id\nacme\nacme\n", "companies.csv:3: id: acme is in line 2 too"},
	} {
		h.write("contacts.csv", someContacts)
		h.write("companies.csv", someCompanies)
		h.write(c.file, c.text)
		h.config += "\n" // another text, the same configuration
		err := h.load()
		if err == nil || !strings.Contains(err.Error(), h.path(c.want[:strings.Index(c.want, ":")])+c.want[strings.Index(c.want, ":"):]) {
			t.Errorf("a reload with %s %q = %v; want %q", c.file, c.text, err, c.want)
		}
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(h.config), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			t.Fatal(err)
		}
		var parsed caddy.Config
		if err := json.Unmarshal(config, &parsed); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&parsed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("validate with %s %q = %v; want %q", c.file, c.text, err, c.want)
		}
		if a := b.open("/x"); a.StatusCode != http.StatusOK {
			t.Errorf("after it, a signed-in page = %d; want 200", a.StatusCode)
		}
	}
}

// A directory that was never loaded isn't used without its file: if a line is invalid, the
// start fails. A later start uses the contacts that it has.
func TestFirstStartFailsWithAFileThatDoesNotFit(t *testing.T) {
	h := openHouse(t, layout{firm: "home /portal/{company}"})
	h.write("contacts.csv", someContacts+"fay@example.com,,Fay,Day,cedar,,\n")
	firm := "doorpost example {"
	h.config = strings.Replace(h.config, firm, "doorpost another {", 1)
	if err := h.load(); err == nil || !strings.Contains(err.Error(), `contacts.csv:7: companies: "cedar" is no company`) {
		t.Errorf("a start with an empty directory = %v; want it refused, with file and line", err)
	}
	h.config = strings.Replace(h.config, "doorpost another {", firm, 1)
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.settled()
	h.in("ann@example.com")
}

// Changes by staff survive when an unrelated line is added, and reports mention them.
func TestChangesByStaffSurviveALoad(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	phone := "1"
	if _, err := h.office().SetContact(t.Context(), "example", "ann@example.com", directory.Change{FirstName: &phone}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.office().DisableContact(t.Context(), "example", "bob@example.com"); err != nil {
		t.Fatal(err)
	}
	h.write("contacts.csv", someContacts+"fay@example.com,,Fay,Day,,,\n")
	h.untilLoaded("the file is loaded", func() bool { _, ok := h.contact("fay@example.com"); return ok })
	if ann, _ := h.contact("ann@example.com"); ann.FirstName != "1" {
		t.Errorf("Ann's first name is %q; want what it was set to by hand", ann.FirstName)
	}
	if bob, _ := h.contact("bob@example.com"); !bob.Disabled {
		t.Error("Bob can sign in again")
	}
	out, err := h.caddy("doorpost", "files").CombinedOutput()
	for _, want := range []string{"2 left alone", "line 2      ann@example.com: first_name changed by hand since", "line 3      bob@example.com: disabled by hand"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("files says, %v\n%s\nwant %q", err, out, want)
		}
	}
	out, err = h.caddy("doorpost", "contacts", "timeline", "ann@example.com").CombinedOutput()
	if want := "The file of contacts differs in line 2: first_name changed by hand since"; err != nil || !strings.Contains(string(out), want) {
		t.Errorf("timeline says, %v\n%s\nwant %q", err, out, want)
	}
	h.write("contacts.csv", strings.Replace(someContacts, "Ann,Baker", "Ann,Butcher", 1))
	h.untilLoaded("the changed line is loaded", func() bool { ann, _ := h.contact("ann@example.com"); return ann.LastName == "Butcher" })
	if ann, _ := h.contact("ann@example.com"); ann.FirstName != "Ann" {
		t.Errorf("after her line changed, Ann's first name is %q; want that of the file", ann.FirstName)
	}
	if out, err = h.caddy("doorpost", "contacts", "timeline", "ann@example.com").CombinedOutput(); err != nil || !strings.Contains(string(out), "a file of the Caddyfile changed the contact [first_name last_name]") {
		t.Errorf("timeline says, %v\n%s\nwant what the file changed", err, out)
	}
}

// If a process is killed between loading a file and ending the sessions of contacts whom it
// disabled, the next start ends them.
func TestSessionsEndAfterAKilledLoad(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.in("ann@example.com")
	h.write("contacts.csv", strings.Replace(someContacts, "ann.b@example.org", "", 1))
	// As if the process was killed right after LoadFile.
	if _, err := caddymodule.BookOf(t, "example").LoadFile(t.Context(), h.path("contacts.csv"), directory.Contacts, nil); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.settled()
	if a := b.open("/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("who lost an address before the kill = %d; want 401", a.StatusCode)
	}
}

// A changed logo, template or secret isn't used before a reload, and the log says so.
func TestChangedSettingFilesAreLogged(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{admin: freeAddress(t), global: log.global})
	h.write("support", "help@example.com\n")
	h.write("own/mails/sign-in.txt", "Subject: Sign in\n\n{{.Link}} {{.Code}}\n")
	h.change(`support "help@example.com, +1 555 0100"`, "support {file."+h.path("support")+"}")
	h.change("companies "+h.path("companies.csv"), "companies "+h.path("companies.csv")+"\n\t\ttemplates "+h.path("own"))
	h.write("support", "call us\n")
	h.write("own/mails/sign-in.txt", "Subject: Your link\n\n{{.Link}} {{.Code}}\n")
	h.untilLoaded("both are told", func() bool {
		return strings.Count(log.text(t), "a file of the configuration has changed") == 2
	})
	stale := map[string]bool{}
	for _, f := range h.files() {
		if f.State == admin.FileStale {
			stale[f.Kind] = true
		}
	}
	if !stale["brand support"] || !stale["templates"] {
		t.Errorf("files names as changed %v; want brand support and templates", stale)
	}
}
