package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func keyring(t testing.TB, secrets ...string) *secret.Keyring {
	t.Helper()
	var all [][]byte
	for _, s := range secrets {
		all = append(all, []byte(s+"-0123456789abcdefghijklmnopqrstuvwxyz"))
	}
	k, err := secret.New(all[0], all[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newBook(t testing.TB, staff ...address.Address) *Directory {
	t.Helper()
	db := must(bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{}))
	t.Cleanup(func() { db.Close() })
	return &Directory{Firm: "example", Store: db, Keys: keyring(t, "first"), Staff: staff}
}

func ptr[T any](v T) *T { return &v }

// must is for setup steps that must not fail.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// importCSV plans and applies an import of contacts from text.
func importCSV(t testing.TB, b *Directory, text string) (Plan, error) {
	t.Helper()
	rows, err := ReadContacts(strings.NewReader(text))
	if err != nil {
		return Plan{}, err
	}
	p, err := b.PlanContacts(t.Context(), rows)
	if err != nil {
		return p, err
	}
	return p, b.Apply(t.Context(), p, nil)
}

func importCompanies(t testing.TB, b *Directory, text string) (Plan, error) {
	t.Helper()
	rows, err := ReadCompanies(strings.NewReader(text))
	if err != nil {
		return Plan{}, err
	}
	p, err := b.PlanCompanies(t.Context(), rows)
	if err != nil {
		return p, err
	}
	return p, b.Apply(t.Context(), p, nil)
}

// everyone returns the directory as lines of text, in order.
func everyone(t testing.TB, b *Directory) []string {
	t.Helper()
	all, err := b.Contacts(t.Context(), "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	out := []string{}
	for _, c := range all {
		s := fmt.Sprint(c.Emails, " ", c.Name(), " ", c.Companies, " ", c.Role)
		if c.Disabled {
			s += " disabled"
		}
		out = append(out, s)
	}
	return out
}

func wantDirectory(t testing.TB, b *Directory, want ...string) {
	t.Helper()
	if got := everyone(t, b); !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("the book is\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestManualChanges(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddCompany(ctx, "acme", CompanyChange{Name: ptr("Acme Ltd")}))
	must(b.AddCompany(ctx, "birch", CompanyChange{}))

	ann, err := b.AddContact(ctx, "ann@example.com", Change{OtherEmails: &[]string{"Ann@Example.org", "ann@example.com"}, FirstName: ptr(" Ann "), LastName: ptr("Baker"), Companies: &[]string{"birch", "ACME ltd"}, Locale: ptr("en_gb")})
	if err != nil || ann.ID == "" || ann.Name() != "Ann Baker" || ann.Locale != "en-GB" || ann.Role != Client {
		t.Fatalf("AddContact = %+v, %v", ann, err)
	}
	for _, a := range ann.Emails {
		if got, err := b.ByEmail(ctx, a); err != nil || got.ID != ann.ID {
			t.Errorf("ByEmail(%s) = %q, %v; want %q", a, got.ID, err, ann.ID)
		}
	}
	if got, err := b.ByID(ctx, ann.ID); err != nil || got.Email() != "ann@example.com" || !slices.Equal(got.Companies, []string{"acme", "birch"}) {
		t.Errorf("ByID = %+v, %v", got, err)
	}
	if _, err := b.ByEmail(ctx, "ann+tag@example.com"); !errors.Is(err, ErrUnknown) {
		t.Errorf("ByEmail with a tag: %v; want ErrUnknown", err)
	}

	must(b.SetContact(ctx, "ann@example.org", Change{Email: ptr("ann@new.test"), Phone: ptr("+1 555 0100")}))
	wantDirectory(t, b, "[ann@new.test ann@example.org] Ann Baker [acme birch] client")
	if _, err := b.ByEmail(ctx, "ann@example.com"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the old main address: %v; want ErrUnknown", err)
	}
	must(b.SetContact(ctx, "ann@new.test", Change{Email: ptr("ann@example.org"), OtherEmails: &[]string{"ann@new.test"}, Companies: &[]string{}, LastName: ptr("")}))
	wantDirectory(t, b, "[ann@example.org ann@new.test] Ann [] client")
	if c, _ := b.ByID(ctx, ann.ID); c.Phone != "+1 555 0100" {
		t.Errorf("the phone became %q", c.Phone)
	}

	must(b.Disable(ctx, "ann@new.test"))
	wantDirectory(t, b, "[ann@example.org ann@new.test] Ann [] client disabled")
	must(b.Enable(ctx, "ann@new.test"))
	wantDirectory(t, b, "[ann@example.org ann@new.test] Ann [] client")

	gone, err := b.RemoveContact(ctx, "ann@new.test")
	if err != nil || gone.ID != ann.ID {
		t.Fatalf("RemoveContact = %+v, %v", gone, err)
	}
	wantDirectory(t, b)
	for _, a := range gone.Emails {
		if _, err := b.ByEmail(ctx, a); !errors.Is(err, ErrUnknown) {
			t.Errorf("ByEmail(%s) after removal: %v; want ErrUnknown", a, err)
		}
	}
	if c := must(b.AddContact(ctx, "ann@example.org", Change{})); c.ID == ann.ID {
		t.Error("who was added again has the old id")
	}
}

func TestManualChangesRefuse(t *testing.T) {
	b, ctx := newBook(t, "owner@example.com"), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	must(b.AddCompany(ctx, "acme", CompanyChange{Name: ptr("Same"), LegacyTokens: &[]string{"t0ken"}}))
	must(b.AddCompany(ctx, "birch", CompanyChange{Name: ptr("same")}))
	must(b.AddContact(ctx, "ann@example.com", Change{}))
	must(b.AddContact(ctx, "bob@example.com", Change{OtherEmails: &[]string{"bob@example.org"}}))
	before, version := everyone(t, b), b.Version()

	add := func(email address.Address, c Change) func() error {
		return func() error { _, err := b.AddContact(ctx, email, c); return err }
	}
	set := func(email address.Address, c Change) func() error {
		return func() error { _, err := b.SetContact(ctx, email, c); return err }
	}
	setCompany := func(id string, c CompanyChange) func() error {
		return func() error { _, err := b.SetCompany(ctx, id, c); return err }
	}
	addCompany := func(id string, c CompanyChange) func() error {
		return func() error { _, err := b.AddCompany(ctx, id, c); return err }
	}
	for name, c := range map[string]struct {
		do    func() error
		field string // "" means no FieldError
		is    error
	}{
		"add a known address":      {add("ann@example.com", Change{}), "email", ErrTaken},
		"add another's other one":  {add("bob@example.org", Change{}), "email", ErrTaken},
		"other email taken":        {add("new@example.com", Change{OtherEmails: &[]string{"bob@example.org"}}), "other_emails", ErrTaken},
		"set email taken":          {set("ann@example.com", Change{Email: ptr("bob@example.org")}), "email", ErrTaken},
		"set other email taken":    {set("ann@example.com", Change{OtherEmails: &[]string{"bob@example.com"}}), "other_emails", ErrTaken},
		"set unknown":              {set("eve@example.com", Change{}), "", ErrUnknown},
		"disable unknown":          {func() error { return second(b.Disable(ctx, "eve@example.com")) }, "", ErrUnknown},
		"remove unknown":           {func() error { return second(b.RemoveContact(ctx, "eve@example.com")) }, "", ErrUnknown},
		"bad email":                {set("ann@example.com", Change{Email: ptr("x")}), "email", nil},
		"two emails":               {add("new@example.com", Change{Email: ptr("other@example.com")}), "email", nil},
		"bad other email":          {set("ann@example.com", Change{OtherEmails: &[]string{"Ann <a@b.de>"}}), "other_emails", nil},
		"header line in a name":    {set("ann@example.com", Change{FirstName: ptr("Ann\r\nX-Auth-User: admin")}), "first_name", nil},
		"NUL in a name":            {set("ann@example.com", Change{LastName: ptr("A\x00")}), "last_name", nil},
		"direction override":       {set("ann@example.com", Change{LastName: ptr("A\u202eb")}), "last_name", nil},
		"line separator":           {set("ann@example.com", Change{LastName: ptr("A\u2028b")}), "last_name", nil},
		"not UTF-8":                {set("ann@example.com", Change{LastName: ptr("M\xfcller")}), "last_name", nil},
		"long name":                {set("ann@example.com", Change{LastName: ptr(strings.Repeat("ü", 101))}), "last_name", nil},
		"long phone":               {set("ann@example.com", Change{Phone: ptr(strings.Repeat("1", 41))}), "phone", nil},
		"bad locale":               {set("ann@example.com", Change{Locale: ptr("english")}), "locale", nil},
		"bad role":                 {set("ann@example.com", Change{Role: ptr(Role("admin"))}), "role", nil},
		"unknown company":          {set("ann@example.com", Change{Companies: &[]string{"nobody"}}), "companies", ErrUnknown},
		"ambiguous company":        {set("ann@example.com", Change{Companies: &[]string{"Same"}}), "companies", ErrUnknown},
		"21 other emails":          {set("ann@example.com", Change{OtherEmails: ptr(numbered(21, "a%d@example.com"))}), "other_emails", nil},
		"251 companies":            {set("ann@example.com", Change{Companies: ptr(numbered(251, "c%d"))}), "companies", nil},
		"remove the staff":         {func() error { return second(b.RemoveContact(ctx, "owner@example.com")) }, "email", ErrStaff},
		"disable the staff":        {func() error { return second(b.Disable(ctx, "owner@example.com")) }, "disabled", ErrStaff},
		"staff to client":          {set("owner@example.com", Change{Role: ptr(Client)}), "role", ErrStaff},
		"the staff's address away": {set("owner@example.com", Change{Email: ptr("o@example.com")}), "email", ErrStaff},
		"company there":            {addCompany("acme", CompanyChange{}), "id", ErrTaken},
		"company id":               {addCompany("Acme", CompanyChange{}), "id", nil},
		"company unknown":          {setCompany("nobody", CompanyChange{}), "", ErrUnknown},
		"remove company unknown":   {func() error { return second(b.RemoveCompany(ctx, "nobody")) }, "", ErrUnknown},
		"company name":             {setCompany("acme", CompanyChange{Name: ptr("a\nb")}), "name", nil},
		"token taken":              {setCompany("birch", CompanyChange{LegacyTokens: &[]string{"x", "t0ken"}}), "legacy_tokens", ErrTaken},
		"token with a space":       {setCompany("birch", CompanyChange{LegacyTokens: &[]string{"t0 ken"}}), "legacy_tokens", nil},
	} {
		err := c.do()
		field, fieldErr := "", (*FieldError)(nil)
		if errors.As(err, &fieldErr) {
			field = fieldErr.Field
		}
		if err == nil || field != c.field || !errors.Is(err, c.is) && c.is != nil || c.is == nil && errors.Unwrap(fieldErr) != nil {
			t.Errorf("%s: %v; want field %q, %v", name, err, c.field, c.is)
		}
		if err != nil && strings.Contains(err.Error(), "t0ken") {
			t.Errorf("%s: the error repeats the token: %v", name, err)
		}
	}
	wantDirectory(t, b, before...)
	if v := b.Version(); v != version {
		t.Errorf("Version moved from %d to %d without a change", version, v)
	}
}

func second[T any](_ T, err error) error { return err }

func numbered(n int, format string) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(format, i))
	}
	return out
}

func TestCompanies(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	acme, err := b.AddCompany(ctx, "acme", CompanyChange{LegacyTokens: &[]string{"one", "two", "one"}})
	if err != nil || acme.Name != "acme" || !slices.Equal(acme.LegacyTokens, []string{"one", "two"}) {
		t.Fatalf("AddCompany = %+v, %v", acme, err)
	}
	must(b.AddCompany(ctx, "birch", CompanyChange{Name: ptr("Birch & Söhne")}))
	must(b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("Acme"), LegacyTokens: &[]string{"two", "one"}}))
	if c, err := b.Company(ctx, "acme"); err != nil || c.Name != "Acme" || len(c.LegacyTokens) != 2 {
		t.Errorf("Company = %+v, %v", c, err)
	}
	for _, id := range []string{"", "nobody", "Acme", "a/b", strings.Repeat("a", 600)} {
		if _, err := b.Company(ctx, id); !errors.Is(err, ErrUnknown) {
			t.Errorf("Company(%.10q): %v; want ErrUnknown", id, err)
		}
	}
	out, err := json.Marshal(acme)
	if want := `{"id":"acme","name":"acme","legacy_links":2,"state":"open"}`; string(out) != want || err != nil {
		t.Errorf("JSON %s, %v; want %s", out, err, want)
	}
	for _, c := range []struct {
		text, after string
		limit       int
		want        string
	}{{"", "", 9, "[acme birch]"}, {"", "", 1, "[acme]"}, {"", "acme", 9, "[birch]"}, {"söhne BIR", "", 9, "[birch]"}, {"two", "", 9, "[]"}} {
		found, err := b.Companies(ctx, c.text, c.after, c.limit)
		ids := []string{}
		for _, f := range found {
			ids = append(ids, f.ID)
		}
		if fmt.Sprint(ids) != c.want || err != nil {
			t.Errorf("Companies(%q, %q, %d) = %v, %v; want %s", c.text, c.after, c.limit, ids, err, c.want)
		}
	}

	must(b.AddContact(ctx, "ann@example.com", Change{Companies: &[]string{"acme", "birch"}}))
	must(b.AddContact(ctx, "bob@example.com", Change{Companies: &[]string{"acme"}}))
	must(b.AddContact(ctx, "cyd@example.com", Change{Companies: &[]string{"birch"}}))
	if n, err := b.RemoveCompany(ctx, "acme"); n != 2 || err != nil {
		t.Errorf("RemoveCompany = %d, %v; want 2", n, err)
	}
	wantDirectory(t, b, "[ann@example.com]  [birch] client", "[bob@example.com]  [] client", "[cyd@example.com]  [birch] client")
	if _, err := b.Company(ctx, "acme"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the removed company: %v; want ErrUnknown", err)
	}
}

func TestCompanyID(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "0": true, "acme-1_2.b": true, strings.Repeat("a", 63): true,
		"": false, "-a": false, ".a": false, "_a": false, "A": false, "a b": false, "a/b": false, "ä": false, strings.Repeat("a", 64): false,
	} {
		if got := IsCompanyID(id); got != want {
			t.Errorf("IsCompanyID(%q) = %v; want %v", id, got, want)
		}
	}
}

func TestContactsList(t *testing.T) {
	b, ctx, now := newBook(t), t.Context(), time.Now()
	b.Now = func() time.Time { return now } // a clock that doesn't advance, as on machines with a coarse one
	must(b.AddCompany(ctx, "c1", CompanyChange{Name: ptr("Müller Bakery")}))
	var text strings.Builder
	text.WriteString("email,other_emails,first_name,companies\n")
	for i := range 2500 {
		fmt.Fprintf(&text, "u%04d@example.com,,Ann,\n", i)
	}
	text.WriteString("zoe@example.org,z@example.net,Zoë,c1\n")
	must(importCSV(t, b, text.String()))

	after, n := "", 0
	for {
		page, err := b.Contacts(ctx, "", after, 700)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page {
			want := address.Address(fmt.Sprintf("u%04d@example.com", n))
			if n++; n <= 2500 && c.Email() != want {
				t.Fatalf("contact %d is %s; want %s, as in the file", n, c.Email(), want)
			}
		}
		if len(page) < 700 {
			break
		}
		after = page[len(page)-1].ID
	}
	if n != 2501 {
		t.Errorf("listed %d; want 2501", n)
	}
	for text, want := range map[string]int{"ZOË": 1, "z@example.net": 1, "müller": 1, "c1 zo": 1, "zoe ann": 0, "u000": 10, "nobody": 0} {
		found, err := b.Contacts(ctx, text, "", 100)
		if len(found) != want || err != nil {
			t.Errorf("Contacts(%q): %d, %v; want %d", text, len(found), err, want)
		}
	}
}

func TestContactJSON(t *testing.T) {
	for _, c := range []struct {
		in   Contact
		want string
	}{
		{Contact{ID: "x", Emails: []address.Address{"a@b.de"}, Role: Client}, `{"id":"x","email":"a@b.de","other_emails":[],"first_name":"","last_name":"","phone":"","companies":[],"role":"client","locale":"","disabled":false,"texts":"on","version":"dk7o6Tq6ku2kVK7W"}`},
		{Contact{ID: "x", Emails: []address.Address{"a@b.de", "c@d.de"}, FirstName: "A", LastName: "B", Phone: "1", Companies: []string{"c"}, Role: Staff, Locale: "en", Disabled: true}, `{"id":"x","email":"a@b.de","other_emails":["c@d.de"],"first_name":"A","last_name":"B","phone":"1","companies":["c"],"role":"staff","locale":"en","disabled":true,"texts":"on","version":"BUYsnIAR8lyRIOir"}`},
	} {
		out, err := json.Marshal(c.in)
		if string(out) != c.want || err != nil {
			t.Errorf("JSON\n%s, %v; want\n%s", out, err, c.want)
		}
		var back Contact
		if err := json.Unmarshal(out, &back); err != nil || back.Email() != c.in.Email() || len(back.Emails) != len(c.in.Emails) || back.Disabled != c.in.Disabled {
			t.Errorf("read back %+v, %v", back, err)
		}
	}
}

// The Caddyfile's staff list takes precedence.
func TestCaddyfileStaffTakesPrecedence(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddContact(ctx, "ann@example.com", Change{FirstName: ptr("Ann")}))
	must(b.Disable(ctx, "ann@example.com"))
	must(b.AddContact(ctx, "owner@example.com", Change{}))
	must(b.RemoveContact(ctx, "owner@example.com"))
	must(b.AddContact(ctx, "bob@example.com", Change{Role: ptr(Staff)}))

	b.Staff = []address.Address{"owner@example.com", "ann@example.com"}
	for range 2 {
		if err := b.EnsureStaff(ctx); err != nil {
			t.Fatal(err)
		}
	}
	wantDirectory(t, b, "[ann@example.com] Ann [] staff", "[bob@example.com]  [] staff", "[owner@example.com]  [] staff")
	c, err := b.ByEmail(ctx, "ann@example.com")
	if err != nil || c.Role != Staff || c.Disabled {
		t.Errorf("ByEmail = %+v, %v; want staff, not disabled", c, err)
	}
	if c, err := b.ByID(ctx, c.ID); err != nil || c.Role != Staff || c.Disabled {
		t.Errorf("ByID = %+v, %v; want staff, not disabled", c, err)
	}
	// A file can't take away the address or the role.
	_, err = importCSV(t, b, "email,role,disabled\nann@example.com,client,true\n")
	if c, _ := b.ByEmail(ctx, "ann@example.com"); err != nil || c.Role != Staff || c.Disabled {
		t.Errorf("after an import: %+v, %v", c, err)
	}
	must(b.SetContact(ctx, "ann@example.com", Change{OtherEmails: &[]string{"a@example.com"}}))
	b.Staff = []address.Address{"a@example.com"}
	_, err = importCSV(t, b, "email,other_emails\nann@example.com,\n")
	wantRows(t, err, `2 "other_emails" lacks a@example.com, which the Caddyfile names under staff`)

	// No longer in the Caddyfile: the stored role counts.
	b.Staff = nil
	wantDirectory(t, b, "[ann@example.com a@example.com] Ann [] client disabled", "[bob@example.com]  [] staff", "[owner@example.com]  [] client")
}

func TestVersionMoves(t *testing.T) {
	b, ctx := newBook(t, "owner@example.com"), t.Context()
	file := filepath.Join(t.TempDir(), "contacts.csv")
	if err := os.WriteFile(file, []byte("email\nfile@example.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name  string
		do    func() error
		moves bool
	}{
		{"EnsureStaff", func() error { return b.EnsureStaff(ctx) }, true},
		{"EnsureStaff again", func() error { return b.EnsureStaff(ctx) }, false},
		{"AddCompany", func() error { return second(b.AddCompany(ctx, "acme", CompanyChange{})) }, true},
		{"AddContact", func() error { return second(b.AddContact(ctx, "ann@example.com", Change{})) }, true},
		{"SetContact", func() error { return second(b.SetContact(ctx, "ann@example.com", Change{FirstName: ptr("A")})) }, true},
		{"SetContact to the same", func() error { return second(b.SetContact(ctx, "ann@example.com", Change{FirstName: ptr("A")})) }, false},
		{"Disable", func() error { return second(b.Disable(ctx, "ann@example.com")) }, true},
		{"Enable", func() error { return second(b.Enable(ctx, "ann@example.com")) }, true},
		{"SetCompany", func() error { return second(b.SetCompany(ctx, "acme", CompanyChange{Name: ptr("A")})) }, true},
		{"RemoveCompany", func() error { return second(b.RemoveCompany(ctx, "acme")) }, true},
		{"RemoveContact", func() error { return second(b.RemoveContact(ctx, "ann@example.com")) }, true},
		{"LoadFile", func() error { return second(b.LoadFile(ctx, file, Contacts, nil)) }, true},
		{"LoadFile again", func() error { return second(b.LoadFile(ctx, file, Contacts, nil)) }, false},
		{"reads", func() error { return second(b.ByEmail(ctx, "file@example.com")) }, false},
	} {
		was := b.Version()
		if err := step.do(); err != nil || b.Version() != was != step.moves {
			t.Errorf("%s: %v; Version from %d to %d", step.name, err, was, b.Version())
		}
	}
}

// Two Books of a firm, as during a reload, see each other's changes.
func TestVersionIsShared(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	b.Changes = new(atomic.Uint64)
	other := &Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys, Changes: b.Changes}
	was := other.Version()
	must(b.AddContact(ctx, "ann@example.com", Change{}))
	if other.Version() == was {
		t.Errorf("Version stays at %d in the other Book", was)
	}
}

// Two processes see each other's changes after Sync, and notify each other of changes.
func TestSync(t *testing.T) {
	here, ctx, told := newBook(t), t.Context(), 0
	here.Peers = &store.Peers{Notify: func(context.Context) { told++ }}
	there := &Directory{Firm: here.Firm, Store: here.Store, Keys: here.Keys, Peers: new(store.Peers)}
	for name, change := range map[string]func() error{
		"by hand":   func() error { _, err := here.AddContact(ctx, "ann@example.com", Change{}); return err },
		"by a file": func() error { _, err := importCSV(t, here, "email\nbob@example.com\n"); return err },
	} {
		if err := there.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		was, before := there.Version(), told
		if err := there.Sync(ctx); err != nil || there.Version() != was {
			t.Errorf("%s: CatchUp = %v, and Version moves without a change", name, err)
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if told == before {
			t.Errorf("%s: the others weren't told", name)
		}
		if err := there.Sync(ctx); err != nil || there.Version() == was {
			t.Errorf("%s: CatchUp = %v; Version stays at %d", name, err, was)
		}
	}
	there.Peers.SetStale(true)
	if there.Version() == there.Version() {
		t.Error("Version stands still while there is doubt")
	}
}

// A caller that caches a contact by Version must see every acknowledged change.
func TestVersionChangesBeforeAChangeIsAcknowledged(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddContact(ctx, "ann@example.com", Change{FirstName: ptr("0")}))
	var done sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		done.Go(func() {
			var version uint64
			var cached Contact
			for {
				select {
				case <-stop:
					return
				default:
				}
				if v := b.Version(); v != version || cached.ID == "" {
					c, err := b.ByEmail(ctx, "ann@example.com")
					if err != nil {
						t.Error(err)
						return
					}
					version, cached = v, c
				} else if c, _ := b.ByEmail(ctx, "ann@example.com"); c.FirstName != cached.FirstName && b.Version() == version {
					// The change may not be acknowledged yet; it will change Version shortly.
					for deadline := time.Now().Add(10 * time.Second); b.Version() == version; {
						if time.Now().After(deadline) {
							t.Errorf("Version %d stood still while %q became %q", version, cached.FirstName, c.FirstName)
							return
						}
					}
				}
			}
		})
	}
	for i := range 100 {
		must(b.SetContact(ctx, "ann@example.com", Change{FirstName: ptr(fmt.Sprint(i + 1))}))
	}
	close(stop)
	done.Wait()
}

// If many contacts claim one address at once, exactly one gets it.
func TestOneAddressOneContact(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	var done sync.WaitGroup
	results := make(chan error, 8)
	for i := range 8 {
		done.Go(func() {
			_, err := b.AddContact(ctx, address.Address(fmt.Sprintf("u%d@example.com", i)), Change{OtherEmails: &[]string{"shared@example.com"}})
			results <- err
		})
	}
	done.Wait()
	close(results)
	won := 0
	for err := range results {
		if err == nil {
			won++
		} else if !errors.Is(err, ErrTaken) {
			t.Errorf("%v; want ErrTaken", err)
		}
	}
	if won != 1 || len(everyone(t, b)) != 1 {
		t.Errorf("%d got the address, %d are in the book; want 1", won, len(everyone(t, b)))
	}
}

// Two firms in one store don't see each other.
func TestFirmsAreSeparate(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	other := &Directory{Firm: "other", Store: b.Store, Keys: b.Keys}
	ann := must(b.AddContact(ctx, "ann@example.com", Change{}))
	if _, err := other.ByEmail(ctx, "ann@example.com"); !errors.Is(err, ErrUnknown) {
		t.Errorf("ByEmail in the other firm: %v; want ErrUnknown", err)
	}
	if _, err := other.ByID(ctx, ann.ID); !errors.Is(err, ErrUnknown) {
		t.Errorf("ByID in the other firm: %v; want ErrUnknown", err)
	}
	wantDirectory(t, other)
	must(other.AddContact(ctx, "ann@example.com", Change{FirstName: ptr("Another")}))
	wantDirectory(t, b, "[ann@example.com]  [] client")
}

// A copy of the store reveals no names and gives no access to old links.
func TestNothingReadableInTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doorpost.db")
	db := must(bolt.Open(path, bolt.Options{}))
	b, ctx := &Directory{Firm: "example", Store: db, Keys: keyring(t, "first")}, t.Context()
	must(b.AddCompany(ctx, "acme", CompanyChange{Name: ptr("Secretive Holdings"), LegacyTokens: &[]string{"hb7Qm2xVt9Kp4Rz"}}))
	must(b.AddContact(ctx, "ann@example.com", Change{FirstName: ptr("Annabella"), Phone: ptr("+15550100")}))
	must(b.RemoveContact(ctx, "ann@example.com"))
	must(b.AddContact(ctx, "bob@example.com", Change{FirstName: ptr("Roberto")}))
	db.Close()
	raw := must(os.ReadFile(path))
	for _, s := range []string{"ann@example", "bob@example", "Annabella", "Roberto", "5550100", "Secretive", "hb7Qm2"} {
		if strings.Contains(string(raw), s) {
			t.Errorf("%q is in the file", s)
		}
	}
}

func TestSecretCanBeReplaced(t *testing.T) {
	b, ctx := newBook(t, "owner@example.com"), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	must(importCompanies(t, b, "id,name,legacy_tokens\nacme,Acme,tok\ngone,Gone,\n"))
	must(importCSV(t, b, "email,other_emails,companies\nann@example.com,ann@example.org,acme\nbob@example.com,,\n"))
	must(b.RemoveContact(ctx, "bob@example.com"))
	must(b.RemoveCompany(ctx, "gone"))
	with := func(secrets ...string) *Directory {
		return &Directory{Firm: b.Firm, Store: b.Store, Keys: keyring(t, secrets...), Staff: b.Staff}
	}
	same := []string{"[owner@example.com]  [] staff", "[ann@example.com ann@example.org]  [acme] client"}

	// Another secret is an error, not an empty directory that a file would fill again.
	wrong := with("second")
	if err := wrong.EnsureStaff(ctx); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("EnsureStaff with a wrong secret: %v; want ErrSealed", err)
	}
	if err := wrong.Reseal(ctx); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("Reseal with a wrong secret: %v; want ErrSealed", err)
	}
	if _, err := wrong.Contacts(ctx, "", "", 10); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("Contacts with a wrong secret: %v; want ErrSealed", err)
	}
	wantDirectory(t, b, same...)

	// The old secret after the new one.
	both := with("second", "first")
	if err := both.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	wantDirectory(t, both, same...)
	if _, err := both.AddContact(ctx, "ann@example.org", Change{}); !errors.Is(err, ErrTaken) {
		t.Errorf("an address that is kept under the old secret: %v; want ErrTaken", err)
	}
	must(both.SetContact(ctx, "ann@example.org", Change{OtherEmails: &[]string{}}))
	must(both.SetContact(ctx, "ann@example.com", Change{OtherEmails: &[]string{"ann@example.org"}}))
	for range 2 {
		if err := both.Reseal(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.ByEmail(ctx, "ann@example.com"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the old secret finds ann: %v; want ErrUnknown", err)
	}

	// Only the new secret.
	alone := with("second")
	if err := alone.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	wantDirectory(t, alone, same...)
	for _, a := range []address.Address{"ann@example.com", "ann@example.org", "owner@example.com"} {
		if _, err := alone.ByEmail(ctx, a); err != nil {
			t.Errorf("ByEmail(%s): %v", a, err)
		}
	}
	if c, err := alone.Company(ctx, "acme"); err != nil || !slices.Equal(c.LegacyTokens, []string{"tok"}) {
		t.Errorf("Company = %+v, %v", c, err)
	}
	p, err := importCSV(t, alone, "email,companies\nbob@example.com,\nann@example.com,Gone;acme\n")
	if err != nil || len(p.Kept) != 2 || p.Unchanged != 1 {
		t.Errorf("import: %+v, %v; want bob and Gone to stay removed", p, err)
	}
}

// Records of a newer Doorpost are an error.
func TestNewerFormatIsAnError(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	ann := must(b.AddContact(ctx, "ann@example.com", Change{}))
	newer := must(b.Store.Get(ctx, b.key(bucketContact, ann.ID))).Value
	newer[0]++
	if err := b.Store.Apply(ctx, store.Put(b.key(bucketContact, ann.ID), newer, time.Time{})); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ByEmail(ctx, "ann@example.com"); err == nil || !strings.Contains(err.Error(), "a newer one may have written it") {
		t.Errorf("ByEmail: %v; want an error that says what may have happened", err)
	}
	if _, err := b.Contacts(ctx, "", "", 10); err == nil {
		t.Error("Contacts: no error")
	}
}

// A sealed record opens only under its own key.
func TestRecordsOpenOnlyUnderTheirKey(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	ann := must(b.AddContact(ctx, "ann@example.com", Change{}))
	bob := must(b.AddContact(ctx, "bob@example.com", Change{Role: ptr(Staff)}))
	rec := must(b.Store.Get(ctx, b.key(bucketContact, bob.ID)))
	if err := b.Store.Apply(ctx, store.Put(b.key(bucketContact, ann.ID), rec.Value, time.Time{})); err != nil {
		t.Fatal(err)
	}
	if c, err := b.ByID(ctx, ann.ID); !errors.Is(err, secret.ErrSealed) {
		t.Errorf("ByID = %+v, %v; want ErrSealed", c, err)
	}
}

// An index entry for an address that the contact doesn't have is ignored.
func TestStaleIndexEntryIsIgnored(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	ann := must(b.AddContact(ctx, "ann@example.com", Change{}))
	k := b.key(bucketEmail, b.emailMACs("eve@example.com")[0])
	if err := b.Store.Apply(ctx, store.Put(k, append([]byte{format}, ann.ID...), time.Time{})); err != nil {
		t.Fatal(err)
	}
	if c, err := b.ByEmail(ctx, "eve@example.com"); !errors.Is(err, ErrUnknown) {
		t.Errorf("ByEmail = %+v, %v; want ErrUnknown", c, err)
	}
}

func TestEachFieldCanBeSet(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddCompany(ctx, "acme", CompanyChange{}))
	must(b.AddContact(ctx, "ann@example.com", Change{}))
	const empty = `"email":"ann@example.com","other_emails":[],"first_name":"","last_name":"","phone":"","companies":[],"role":"client","locale":"","disabled":false`
	for _, c := range []struct{ change, undo, is, was string }{
		{`{"email":"a@example.com"}`, `{"email":"ann@example.com"}`, `"email":"a@example.com"`, `"email":"ann@example.com"`},
		{`{"other_emails":["x@example.com"]}`, `{"other_emails":[]}`, `"other_emails":["x@example.com"]`, `"other_emails":[]`},
		{`{"first_name":"Ann"}`, `{"first_name":""}`, `"first_name":"Ann"`, `"first_name":""`},
		{`{"last_name":"Baker"}`, `{"last_name":""}`, `"last_name":"Baker"`, `"last_name":""`},
		{`{"phone":"1"}`, `{"phone":""}`, `"phone":"1"`, `"phone":""`},
		{`{"companies":["acme"]}`, `{"companies":[]}`, `"companies":["acme"]`, `"companies":[]`},
		{`{"role":"staff"}`, `{"role":"client"}`, `"role":"staff"`, `"role":"client"`},
		{`{"locale":"fr"}`, `{"locale":""}`, `"locale":"fr"`, `"locale":""`},
		{`{"disabled":true}`, `{"disabled":false}`, `"disabled":true`, `"disabled":false`},
	} {
		email := address.Address("ann@example.com")
		for _, step := range []struct{ change, want string }{{c.change, strings.Replace(empty, c.was, c.is, 1)}, {c.undo, empty}} {
			var change Change
			if err := json.Unmarshal([]byte(step.change), &change); err != nil {
				t.Fatal(err)
			}
			set, err := b.SetContact(ctx, email, change)
			got := must(json.Marshal(must(b.ByID(ctx, set.ID))))
			if !strings.Contains(string(got), step.want) || err != nil {
				t.Errorf("%s: %s, %v; want %s", step.change, got, err, step.want)
			}
			email = set.Email()
		}
	}
}

func TestUnavailableStoreIsAnError(t *testing.T) {
	b := newBook(t)
	must(b.AddContact(t.Context(), "ann@example.com", Change{}))
	b.Store.Close()
	if _, err := b.ByEmail(context.Background(), "ann@example.com"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("ByEmail: %v; want ErrUnavailable", err)
	}
	if _, err := b.AddContact(context.Background(), "bob@example.com", Change{}); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("AddContact: %v; want ErrUnavailable", err)
	}
}

// A change that is based on a state of a contact or company is made in that state alone.
func TestChangesAreRefusedInAnotherState(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	acme := must(b.AddCompany(ctx, "acme", CompanyChange{Name: ptr("Acme Ltd")}))
	seen := must(b.AddContact(ctx, "ann@example.com", Change{FirstName: ptr("Ann")}))
	phoned := must(b.SetContact(ctx, "ann@example.com", Change{Version: seen.Version(), Phone: ptr("+1 555 0100")}))
	renamed := must(b.SetCompany(ctx, "acme", CompanyChange{Version: b.VersionOf(acme), Name: ptr("Acme Inc")}))
	for what, err := range map[string]error{
		"set":         second(b.SetContact(ctx, "ann@example.com", Change{Version: seen.Version(), Phone: ptr("+1 555 0199")})),
		"set nothing": second(b.SetContact(ctx, "ann@example.com", Change{Version: seen.Version()})),
		"remove":      second(b.RemoveContactAt(ctx, "ann@example.com", seen.Version())),
		"add":         second(b.AddContact(ctx, "bob@example.com", Change{Version: seen.Version()})),
		"company":     second(b.SetCompany(ctx, "acme", CompanyChange{Version: b.VersionOf(acme), Name: ptr("Acme")})),
		"add company": second(b.AddCompany(ctx, "birch", CompanyChange{Version: b.VersionOf(acme)})),
	} {
		if !errors.Is(err, ErrChanged) {
			t.Errorf("%s, based on a state that is over: %v; want ErrChanged", what, err)
		}
	}
	if got := must(b.ByID(ctx, seen.ID)); got.Phone != "+1 555 0100" || got.Version() != phoned.Version() {
		t.Errorf("the contact is %+v; want what the first change made", got)
	}
	if back := must(b.SetContact(ctx, "ann@example.com", Change{Version: phoned.Version(), Phone: ptr("")})); back.Version() != seen.Version() {
		t.Errorf("the same state again has the version %s; want %s", back.Version(), seen.Version())
	}
	must(b.SetCompany(ctx, "acme", CompanyChange{Version: b.VersionOf(renamed), LegacyTokens: &[]string{"secret-token-1"}}))
	if err := second(b.SetCompany(ctx, "acme", CompanyChange{Version: b.VersionOf(renamed), Name: ptr("Acme")})); !errors.Is(err, ErrChanged) {
		t.Errorf("with another token: %v; want ErrChanged", err)
	}
}
