package directory

import (
	"fmt"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// planned plans an import of the text.
func planned(t *testing.T, b *Directory, kind Kind, text string, options ImportOptions) (Plan, error) {
	t.Helper()
	plan, err := b.Planner(strings.NewReader(text), kind, options)
	if err != nil {
		return Plan{}, err
	}
	return plan(t.Context())
}

// Files as exported by accounting programs and address books.
func TestExportsOfOtherProgramsAreRead(t *testing.T) {
	for _, c := range []struct {
		name, file string
		options    ImportOptions
		want       []string
	}{
		{"QuickBooks Online", "Name,Company name,Street Address,City,Phone,Email,Open balance\n\"Lee, Ann\",Acme Ltd,1 Main St,Dover,+1 555 0100,ann@example.com,10.00\n",
			ImportOptions{IgnoreColumns: true}, []string{"[ann@example.com] Ann Lee [acme] client"}},
		{"Xero", "*ContactName,AccountNumber,EmailAddress,FirstName,LastName,POCity,MobileNumber\nAcme Ltd,7,ann@example.com,Ann,Lee,Dover,+1 555 0100\n",
			ImportOptions{IgnoreColumns: true}, []string{"[ann@example.com] Ann Lee [acme] client"}},
		{"Google Contacts", "First Name,Middle Name,Last Name,E-mail 1 - Value,Phone 1 - Value,Organization Name\nAnn,,Lee,ann@example.com,+1 555 0100,Acme Ltd\n",
			ImportOptions{IgnoreColumns: true}, []string{"[ann@example.com] Ann Lee [acme] client"}},
		{"two phone numbers", "Email,Phone,Mobile\nann@example.com,1,2\n", ImportOptions{IgnoreColumns: true}, []string{"[ann@example.com]  [] client"}},
		{"columns by request", "Client,Contact mail,Who\nAcme Ltd,ann@example.com,Ann Lee\n",
			ImportOptions{Columns: map[string]string{"client": "companies", "Contact mail": "email", "WHO": "name"}}, []string{"[ann@example.com] Ann Lee [acme] client"}},
		{"one name", "Name,Email\nAnn Mary Lee,ann@example.com\nCher,cher@example.com\n", ImportOptions{},
			[]string{"[ann@example.com] Ann Mary Lee [] client", "[cher@example.com] Cher [] client"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(t)
			name := "Acme Ltd"
			must(b.AddCompany(t.Context(), "acme", CompanyChange{Name: &name}))
			p, err := planned(t, b, Contacts, c.file, c.options)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Apply(t.Context(), p, nil); err != nil {
				t.Fatal(err)
			}
			wantDirectory(t, b, c.want...)
		})
	}
	b := newBook(t)
	if _, err := planned(t, b, Contacts, "email\na@b.de\n", ImportOptions{Columns: map[string]string{"x": "nickname"}}); err == nil || !strings.Contains(err.Error(), `"x" is to be taken as "nickname", which is none of email`) {
		t.Errorf("an unknown column of ours = %v", err)
	}
	_, err := planned(t, b, Contacts, "email\na@b.de\n", ImportOptions{Columns: map[string]string{"x": "phone"}})
	wantRows(t, err, `1 "" there is no column "x" to be taken as phone`)
}

// On request the good rows are imported and the bad ones are listed.
func TestBadRowsAreSkippedOnRequest(t *testing.T) {
	b := newBook(t)
	must(b.AddCompany(t.Context(), "acme", CompanyChange{}))
	must(b.AddContact(t.Context(), "zoe@example.com", Change{}))
	file := "email,other_emails,companies\nann@example.com,,acme\n,,acme\nbob@example.com,,nowhere\ncid@example.com,zoe@example.com,\ndan@example.com,,\n"
	if _, err := planned(t, b, Contacts, file, ImportOptions{}); err == nil {
		t.Error("without the request: no error")
	}
	p, err := planned(t, b, Contacts, file, ImportOptions{SkipBadRows: true})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, r := range p.Skipped {
		lines = append(lines, fmt.Sprint(r.Line, " ", r.Column))
	}
	if got := strings.Join(lines, "; "); got != "3 email; 4 companies; 5 " || p.SkippedCount != 3 || len(p.Added) != 2 {
		t.Errorf("skipped %s (%d), %d added; want lines 3 to 5, and 2 added", got, p.SkippedCount, len(p.Added))
	}
	_, err = planned(t, b, Contacts, "email\nann@example.com\n\"bob@example.com\n", ImportOptions{SkipBadRows: true})
	if err == nil {
		t.Error("a file that can't be read to its end is taken in part")
	}
	p, err = planned(t, b, Companies, "id,legacy_tokens\none,x\ntwo,x\nBad!,\n", ImportOptions{SkipBadRows: true})
	if err != nil || len(p.Added) != 1 || p.SkippedCount != 2 {
		t.Errorf("companies: %d added, %d skipped, %v; want 1 and 2", len(p.Added), p.SkippedCount, err)
	}
}

// An unknown company name with a small difference gets a suggestion.
func TestUnknownCompanySuggestsTheRightOne(t *testing.T) {
	b := newBook(t)
	for id, name := range map[string]string{"harbor": "Harbor Bakery LLC", "acme": "Acme", "globex": "Globex Corporation", "kestrel-cycles": "Kestrel Cycles"} {
		must(b.AddCompany(t.Context(), id, CompanyChange{Name: &name}))
	}
	for written, want := range map[string]string{
		"Harbor Bakery":        `"Harbor Bakery" is no company; did you mean "Harbor Bakery LLC" (harbor)? Else add it first`,
		"HARBOR BAKERY, L.L.C": `did you mean "Harbor Bakery LLC" (harbor)?`,
		"Harbour Bakery LLC":   `did you mean "Harbor Bakery LLC" (harbor)?`,
		"acme, globex":         `"acme, globex" is no company; several are separated by a semicolon: acme; globex`,
		"kestrel cycle":        `did you mean "Kestrel Cycles" (kestrel-cycles)?`,
		"Nobody & Sons":        `"Nobody & Sons" is no company; add it first`,
	} {
		_, err := b.AddContact(t.Context(), "ann@example.com", Change{Companies: &[]string{written}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("companies %q = %v; want %q", written, err, want)
		}
	}
	if _, err := b.Upgrade(t.Context(), Upgrade{Companies: []string{"Globex Corp"}}, nil); err == nil || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("upgrade of Globex Corp = %v; want a suggestion", err)
	}
}

// A row with a likely typing mistake is imported with a warning.
func TestLikelySlipsAreNamed(t *testing.T) {
	for a, want := range map[address.Address]string{
		"ann@example.con": "example.com", "ann@gmial.com": "gmail.com", "ann@hotmial.com": "hotmail.com", "ann@gmail.con": "gmail.com", "ann@gmail.cmo": "gmail.com",
		"ann@example.com": "", "ann@gmail.com": "", "ann@example.co": "", "ann@mail.com": "", "ann@yahoo.co.uk": "", "ann@outlook.de": "",
	} {
		if got := LikelyDomain(a); got != want {
			t.Errorf("LikelyDomain(%s) = %q; want %q", a, got, want)
		}
	}
	b := newBook(t)
	p, err := planned(t, b, Contacts, "email,last_name\nann@example.con,Lee\nbob@example.com,M\x9fller\ncid@example.com,Lef\xe8vre\n", ImportOptions{})
	if err != nil || len(p.Warnings) != 2 || p.Warnings[0].Line != 2 || p.Warnings[1].Line != 3 ||
		!strings.Contains(p.Warnings[1].Reason, `"MŸller" looks like text from an old Mac, where it is "Müller"`) {
		t.Errorf("warnings = %+v, %v; want of line 2, and that line 3 is Müller", p.Warnings, err)
	}
}

// An exported file is imported again without differences.
func TestExportImportsAgain(t *testing.T) {
	b := newBook(t)
	must(b.AddCompany(t.Context(), "acme", CompanyChange{}))
	must(importCSV(t, b, "email,other_emails,first_name,last_name,phone,companies,role,locale,disabled\n"+
		"ann@example.com,a2@example.com;a3@example.com,\"Ann, \"\"A\"\"\",O’Hara,+1,acme,client,en-GB,\nbob@example.com,,=1+1,,,,staff,,yes\n"))
	var file strings.Builder
	if err := WriteContacts(&file, everyoneOf(t, b)); err != nil {
		t.Fatal(err)
	}
	if p, err := planned(t, b, Contacts, file.String(), ImportOptions{}); err != nil || p.Unchanged != 2 {
		t.Errorf("the same directory: %+v, %v; want 2 unchanged\n%s", p, err, file.String())
	}
	configured := &Directory{Firm: b.Firm, Store: b.Store, Keys: b.Keys, Staff: []address.Address{"ann@example.com"}}
	var again strings.Builder
	if err := WriteContacts(&again, everyoneOf(t, configured)); err != nil || again.String() != file.String() {
		t.Errorf("with Ann as the Caddyfile's staff: %v\n%s\nwant\n%s", err, again.String(), file.String())
	}
	fresh := newBook(t)
	must(fresh.AddCompany(t.Context(), "acme", CompanyChange{}))
	must(importCSV(t, fresh, file.String()))
	for i, c := range everyoneOf(t, fresh) {
		was := everyoneOf(t, b)[i]
		c.ID, was.ID = "", ""
		if fmt.Sprint(c) != fmt.Sprint(was) {
			t.Errorf("imported again: %+v; want %+v", c, was)
		}
	}
}

// Addresses and companies can be added and removed one at a time.
func TestListsAreChangedOneAtATime(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	for _, id := range []string{"acme", "birch"} {
		must(b.AddCompany(ctx, id, CompanyChange{}))
	}
	must(importCSV(t, b, "email,other_emails,companies\nann@example.com,a2@example.com,acme\n"))
	for _, c := range []struct {
		change Change
		want   string // the contact afterwards, or the error
	}{
		{Change{AddEmails: []string{"A3@example.com"}, AddCompanies: []string{"birch"}}, "[ann@example.com a2@example.com a3@example.com] [acme birch]"},
		{Change{RemoveEmails: []string{"a2@example.com"}}, "[ann@example.com a3@example.com] [acme birch]"},
		{Change{RemoveCompanies: []string{"acme"}, AddEmails: []string{"a3@example.com"}}, "[ann@example.com a3@example.com] [birch]"},
		{Change{RemoveEmails: []string{"ann@example.com"}}, "other_emails: ann@example.com is the main address"},
		{Change{RemoveEmails: []string{"x@example.com"}}, "other_emails: x@example.com is none of the contact's addresses"},
		{Change{RemoveCompanies: []string{"acme"}}, "companies: the contact doesn't belong to acme"},
		{Change{AddEmails: []string{"b@example.com"}, OtherEmails: &[]string{}}, "other_emails: either the whole list"},
		{Change{AddCompanies: []string{"acme"}, Companies: &[]string{}}, "companies: either the whole list"},
		{Change{AddCompanies: []string{"nowhere"}}, `companies: "nowhere" is no company`},
	} {
		after, err := b.SetContact(ctx, "ann@example.com", c.change)
		got := fmt.Sprint(after.Emails, " ", after.Companies)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%+v = %s; want %s", c.change, got, c.want)
		}
	}
}

// A removed company is restored with its old links, contacts, and state.
func TestRemovedCompanyIsRestored(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	name, tokens := "Acme Ltd", []string{"tok-1", "tok%2"}
	must(b.AddCompany(ctx, "acme", CompanyChange{Name: &name, LegacyTokens: &tokens}))
	must(b.AddCompany(ctx, "birch", CompanyChange{}))
	must(importCSV(t, b, "email,companies\nann@example.com,acme;birch\nbob@example.com,acme\ncid@example.com,birch\n"))
	must(b.Upgrade(ctx, Upgrade{Companies: []string{"acme"}}, nil))
	before := must(b.Company(ctx, "acme"))
	if _, err := b.RemoveCompany(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	must(b.RemoveContact(ctx, "bob@example.com"))
	after, n, err := b.RestoreCompany(ctx, "acme")
	if err != nil || n != 1 || !after.Upgraded || after.Name != before.Name || fmt.Sprint(after.LegacyTokens) != fmt.Sprint(before.LegacyTokens) || after.Generation == before.Generation {
		t.Errorf("RestoreCompany = %+v, %d, %v; want it as it was, upgraded, with 1 contact", after, n, err)
	}
	wantDirectory(t, b, "[ann@example.com]  [acme birch] client", "[cid@example.com]  [birch] client")
	if s, err := b.StatusByToken(ctx, "tok-1"); err != nil || !s.Upgraded {
		t.Errorf("its old link = %+v, %v; want that it asks for sign-in", s, err)
	}
	if _, _, err := b.RestoreCompany(ctx, "acme"); err == nil {
		t.Error("it is restored twice")
	}
	if _, _, err := b.RestoreCompany(ctx, "nowhere"); err != ErrUnknown {
		t.Errorf("one that never was = %v; want ErrUnknown", err)
	}
	if _, err := b.RemoveCompany(ctx, "acme"); err != nil {
		t.Fatal(err)
	}
	if added := must(b.AddCompany(ctx, "acme", CompanyChange{})); len(added.LegacyTokens) > 0 {
		t.Errorf("added anew it has %v; want no old links", added.LegacyTokens)
	}
}
