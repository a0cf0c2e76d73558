package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const header = "email,other_emails,first_name,last_name,phone,companies,role,locale,disabled\n"

// summary returns a plan as one line.
func summary(p Plan) string {
	s := ""
	for _, e := range p.Added {
		s += fmt.Sprintf("+%d %s; ", e.Line, e.Item)
	}
	for _, e := range p.Changed {
		s += fmt.Sprintf("~%d %s %v", e.Line, e.Item, e.Fields)
		if len(e.Emptied) > 0 {
			s += fmt.Sprintf(" without %v", e.Emptied)
		}
		s += "; "
	}
	for _, k := range p.Kept {
		s += fmt.Sprintf("!%d %s %s; ", k.Line, k.Item, k.Reason)
	}
	return s + fmt.Sprintf("=%d", p.Unchanged)
}

func TestImport(t *testing.T) {
	ann := "[ann@b.de] Ann Baker [acme] client"
	bob := "[bob@b.de bob@c.de] Bob [] client"
	for name, c := range map[string]struct {
		in   string
		plan string
		book []string
	}{
		"nothing new":      {header + "ann@b.de,,Ann,Baker,,acme,client,,\nBOB@b.de,bob@c.de,Bob,,,,,,\n", "=2", []string{ann, bob}},
		"no rows":          {header, "=0", []string{ann, bob}},
		"a new one":        {header + "cyd@b.de,,Cyd,,,Acme Ltd;birch,staff,,true\n", "+2 cyd@b.de; =0", []string{ann, bob, "[cyd@b.de] Cyd [acme birch] staff disabled"}},
		"a row replaces":   {header + "ann@b.de,,Anna,,+1,birch,,,\n", "~2 ann@b.de [first_name last_name phone companies] without [last_name]; =0", []string{"[ann@b.de] Anna [birch] client", bob}},
		"empty cells":      {header + "ann@b.de,,Ann,,,,,,\nbob@b.de,,Bob,,,,,,\n", "~2 ann@b.de [last_name companies] without [last_name companies]; ~3 bob@b.de [other_emails] without [other_emails]; =0", []string{"[ann@b.de] Ann [] client", "[bob@b.de] Bob [] client"}},
		"no column":        {"email,last_name\nann@b.de,Carver\nbob@b.de,\n", "~2 ann@b.de [last_name]; =1", []string{"[ann@b.de] Ann Carver [acme] client", bob}},
		"promoted":         {"email\nbob@c.de\n", "~2 bob@c.de [email other_emails]; =0", []string{ann, "[bob@c.de bob@b.de] Bob [] client"}},
		"replaced by it":   {"email,other_emails\nbob@c.de,\n", "~2 bob@c.de [email other_emails] without [other_emails]; =0", []string{ann, "[bob@c.de] Bob [] client"}},
		"passed on":        {"email,other_emails\nann@b.de,bob@c.de\nbob@b.de,\n", "~2 ann@b.de [other_emails]; ~3 bob@b.de [other_emails] without [other_emails]; =0", []string{"[ann@b.de bob@c.de] Ann Baker [acme] client", "[bob@b.de] Bob [] client"}},
		"passed to anew":   {"email,other_emails\nbob@c.de,\nbob@b.de,\n", "+2 bob@c.de; ~3 bob@b.de [other_emails] without [other_emails]; =0", []string{ann, "[bob@b.de] Bob [] client", "[bob@c.de]  [] client"}},
		"ids before names": {"email,companies\nann@b.de,Birch\n", "~2 ann@b.de [companies]; =0", []string{"[ann@b.de] Ann Baker [birch] client", bob}},
		"disabled":         {"email,disabled\nann@b.de,true\nbob@b.de,false\n", "~2 ann@b.de [disabled]; =1", []string{ann + " disabled", bob}},
	} {
		t.Run(name, func(t *testing.T) {
			b, ctx := newBook(t), t.Context()
			must(b.AddCompany(ctx, "acme", CompanyChange{Name: ptr("Acme Ltd")}))
			must(b.AddCompany(ctx, "birch", CompanyChange{}))
			must(b.AddCompany(ctx, "other", CompanyChange{Name: ptr("birch")}))
			must(b.AddContact(ctx, "ann@b.de", Change{FirstName: ptr("Ann"), LastName: ptr("Baker"), Companies: &[]string{"acme"}}))
			must(b.AddContact(ctx, "bob@b.de", Change{FirstName: ptr("Bob"), OtherEmails: &[]string{"bob@c.de"}}))
			p, err := importCSV(t, b, c.in)
			if got := summary(p); got != c.plan || err != nil {
				t.Errorf("plan %s, %v; want %s", got, err, c.plan)
			}
			wantDirectory(t, b, c.book...)
			all := must(b.Contacts(ctx, "", "", 10))
			for _, contact := range all {
				for _, a := range contact.Emails {
					if got, err := b.ByEmail(ctx, a); got.ID != contact.ID || err != nil {
						t.Errorf("ByEmail(%s) = %s, %v; want %s", a, got.ID, err, contact.ID)
					}
				}
			}
			if n := len(must(b.Store.Scan(ctx, b.Firm, bucketEmail, "", "", 100))); n != strings.Count(strings.Join(c.book, ""), "@") {
				t.Errorf("%d addresses lead to contacts", n)
			}
			if again, err := importCSV(t, b, c.in); err != nil || len(again.Added)+len(again.Changed) > 0 {
				t.Errorf("once more: %s, %v; want nothing", summary(again), err)
			}
		})
	}
}

// someEra matches the Era and AddedAs of a company in fmt's format.
var someEra = regexp.MustCompile(` \d{9,} \d{9,}}`)

func TestImportCompanies(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	for _, step := range []struct{ in, plan, book string }{
		{"id,name,legacy_tokens\nacme,Acme,one;two\nbirch,,\n", "+2 acme; +3 birch; =0", "[{acme Acme [one two] false era} {birch birch [] true era}]"},
		{"id\nacme\nbirch\n", "=2", "[{acme Acme [one two] false era} {birch birch [] true era}]"},
		{"id,name\nacme,\n", "~2 acme [name] without [name]; =0", "[{acme acme [one two] false era} {birch birch [] true era}]"},
		// A token may pass from one company to another.
		{"id,legacy_tokens\nbirch,two\nacme,one\n", "~2 birch [legacy_tokens]; ~3 acme [legacy_tokens]; =0", "[{acme acme [one] false era} {birch birch [two] true era}]"},
		{"id,legacy_tokens\nbirch,\n", "~2 birch [legacy_tokens] without [legacy_tokens]; =0", "[{acme acme [one] false era} {birch birch [] true era}]"},
	} {
		p, err := importCompanies(t, b, step.in)
		if got := someEra.ReplaceAllString(fmt.Sprint(must(b.Companies(ctx, "", "", 10))), " era}"); summary(p) != step.plan || got != step.book || err != nil {
			t.Errorf("%q: %s, %s, %v; want %s, %s", step.in, summary(p), got, err, step.plan, step.book)
		}
	}
}

func TestImportRefuses(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	must(b.AddCompany(ctx, "one", CompanyChange{Name: ptr("Same"), LegacyTokens: &[]string{"tok1"}}))
	must(b.AddCompany(ctx, "two", CompanyChange{Name: ptr("same ")}))
	must(b.AddContact(ctx, "ann@b.de", Change{OtherEmails: &[]string{"ann@c.de"}}))
	must(b.AddContact(ctx, "bob@b.de", Change{OtherEmails: &[]string{"bob@c.de", "bob@d.de"}}))
	before, version := everyone(t, b), b.Version()
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"unknown company":   {"email,companies\nnew@b.de,one\nann@b.de,one;nobody\n", []string{`3 "companies" "nobody" is no company`}},
		"ambiguous company": {"email,companies\nann@b.de,SAME\n", []string{`2 "companies" "SAME" is the name of one and two; write the id`}},
		"another's address": {"email,other_emails\nnew@b.de,ann@c.de\n", []string{`2 "" ann@c.de belongs to another contact, ann@b.de`}},
		"by two others":     {"email\nbob@d.de\nbob@c.de\n", []string{`3 "email" bob@c.de is the same contact as in line 2`}},
		"another's main":    {"email,other_emails\nbob@b.de,ann@b.de\n", []string{`2 "" ann@b.de belongs to another contact`}},
		"one contact twice": {"email\nann@b.de\nann@c.de\n", []string{`3 "" ann@c.de belongs to another contact, ann@b.de`}},
		"all are listed":    {"email,companies\nann@b.de,x\nbob@b.de,y\nnew@b.de,one\n", []string{`2 "companies" "x"`, `3 "companies" "y"`}},
	} {
		_, err := importCSV(t, b, c.in)
		t.Run(name, func(t *testing.T) { wantRows(t, err, c.want...) })
	}
	_, err := importCompanies(t, b, "id,legacy_tokens\nnew,tok9\nthree,tok1\nfour,tok8\nfive,tok8\n")
	wantRows(t, err, `3 "legacy_tokens" one and three have one in common`, `5 "legacy_tokens" five and four have one in common`)
	wantDirectory(t, b, before...)
	if all := must(b.Companies(ctx, "", "", 10)); len(all) != 2 || b.Version() != version {
		t.Errorf("%d companies, Version from %d to %d; want no change", len(all), version, b.Version())
	}
}

// A contact that was removed or disabled manually stays so, whatever a file says, until a manual
// change undoes it.
func TestManualRemovalsHoldAgainstFiles(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	companies := "id,name\nacme,Acme\nbirch,Birch Ltd\n"
	contacts := header +
		"ann@b.de,ann@c.de,Ann,,,acme,,,\n" +
		"bob@b.de,bob@c.de,Bob,,,acme;Birch Ltd,,,\n" +
		"cyd@b.de,,Cyd,,,,,,false\n" +
		"dan@b.de,,Dan,,,,,,true\n"
	must(importCompanies(t, b, companies))
	must(importCSV(t, b, contacts))

	must(b.RemoveContact(ctx, "ann@c.de"))
	must(b.SetContact(ctx, "bob@b.de", Change{Email: ptr("bob@new.de")}))
	must(b.Disable(ctx, "cyd@b.de"))
	must(b.RemoveCompany(ctx, "birch"))
	book := []string{"[bob@new.de bob@c.de] Bob [acme] client", "[cyd@b.de] Cyd [] client disabled", "[dan@b.de] Dan [] client disabled"}
	wantDirectory(t, b, book...)

	for _, in := range []struct{ csv, plan string }{
		{contacts, "!2 ann@b.de removed by hand; !3 bob@b.de removed by hand; !4 cyd@b.de disabled by hand; =2"},
		{"email\nann@c.de\ncyd@b.de\n", "!2 ann@c.de removed by hand; !3 cyd@b.de disabled by hand; =1"},
		{"email,other_emails,companies\nbob@new.de,bob@b.de;bob@c.de,birch ltd;acme\n", "!2 birch ltd removed by hand; !2 bob@b.de removed by hand; =1"},
		{"email,disabled\ncyd@b.de,true\n", "=1"},
	} {
		p, err := importCSV(t, b, in.csv)
		if got := summary(p); got != in.plan || err != nil {
			t.Errorf("plan %s, %v; want %s", got, err, in.plan)
		}
		wantDirectory(t, b, book...)
	}
	if p, err := importCompanies(t, b, companies); summary(p) != "!3 birch removed by hand; =1" || err != nil {
		t.Errorf("plan %s, %v", summary(p), err)
	}

	// The other fields of a disabled contact follow the file.
	p, err := importCSV(t, b, "email,last_name,disabled\ncyd@b.de,Dale,no\n")
	if summary(p) != "~2 cyd@b.de [last_name]; !2 cyd@b.de disabled by hand; =0" || err != nil {
		t.Errorf("plan %s, %v", summary(p), err)
	}
	// The file may enable a contact that it disabled, and may disable a contact that was enabled
	// manually.
	must(importCSV(t, b, "email,disabled\ndan@b.de,false\n"))
	must(b.Enable(ctx, "cyd@b.de"))
	wantDirectory(t, b, "[bob@new.de bob@c.de] Bob [acme] client", "[cyd@b.de] Cyd Dale [] client", "[dan@b.de] Dan [] client")

	// A manual change brings them back; then the file counts again.
	must(b.AddCompany(ctx, "birch", CompanyChange{}))
	if p, err := importCompanies(t, b, companies); summary(p) != "~3 birch [name]; =1" || err != nil {
		t.Errorf("plan %s, %v", summary(p), err)
	}
	must(b.AddContact(ctx, "ann@b.de", Change{}))
	must(b.SetContact(ctx, "bob@new.de", Change{OtherEmails: &[]string{"bob@b.de", "bob@c.de"}}))
	p, err = importCSV(t, b, "email,other_emails,first_name,companies\nann@b.de,ann@c.de,Ann,birch\nbob@b.de,bob@c.de,Bob,acme\n")
	if want := "~2 ann@b.de [first_name companies]; ~3 bob@b.de [email other_emails]; !2 ann@c.de removed by hand; =0"; summary(p) != want || err != nil {
		t.Errorf("plan %s, %v; want %s", summary(p), err, want)
	}
}

func TestPlanChangesNothingAndIsJSON(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	rows, err := ReadContacts(strings.NewReader("email\nann@b.de\n"))
	if err != nil {
		t.Fatal(err)
	}
	p := must(b.PlanContacts(ctx, rows))
	wantDirectory(t, b)
	out, err := json.Marshal(p)
	if want := `{"kind":"contacts","added":[{"line":2,"item":"ann@b.de"}],"changed":[],"unchanged":0,"kept":[]}`; string(out) != want || err != nil {
		t.Errorf("JSON %s, %v; want %s", out, err, want)
	}
}

// A plan is valid only while the directory stays the same.
func TestApplyConflicts(t *testing.T) {
	for name, change := range map[string]func(*Directory, context.Context) error{
		"added":   func(b *Directory, ctx context.Context) error { return second(b.AddContact(ctx, "new@b.de", Change{})) },
		"removed": func(b *Directory, ctx context.Context) error { return second(b.RemoveContact(ctx, "ann@b.de")) },
		"company": func(b *Directory, ctx context.Context) error { return second(b.RemoveCompany(ctx, "acme")) },
	} {
		b, ctx := newBook(t), t.Context()
		must(b.AddCompany(ctx, "acme", CompanyChange{}))
		must(b.AddContact(ctx, "ann@b.de", Change{}))
		rows, err := ReadContacts(strings.NewReader("email,companies\nann@b.de,acme\nnew@b.de,acme\n"))
		if err != nil {
			t.Fatal(err)
		}
		p := must(b.PlanContacts(ctx, rows))
		if err := change(b, ctx); err != nil {
			t.Fatal(err)
		}
		before := everyone(t, b)
		if err := b.Apply(ctx, p, nil); !errors.Is(err, ErrConflict) {
			t.Errorf("%s: Apply: %v; want ErrConflict", name, err)
		}
		wantDirectory(t, b, before...)
	}
	// This includes a plan for an empty directory, and a plan that was already applied.
	b, ctx := newBook(t), t.Context()
	p := must(b.PlanContacts(ctx, must(ReadContacts(strings.NewReader("email\nann@b.de\n")))))
	if err := b.Apply(ctx, p, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.Apply(ctx, p, nil); !errors.Is(err, ErrConflict) {
		t.Errorf("Apply once more: %v; want ErrConflict", err)
	}
}

func TestLoadFile(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	path := filepath.Join(t.TempDir(), "contacts.csv")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func(want string) {
		t.Helper()
		var last [2]int
		r, err := b.LoadFile(ctx, path, Contacts, func(done, total int) { last = [2]int{done, total} })
		if got := fmt.Sprintf("%v %d %d %d %v", r.Skipped, r.Added, r.Changed, r.Unchanged, r.Kept); got != want || err != nil {
			t.Errorf("LoadFile = %s, %v; want %s", got, err, want)
		}
		if n := r.Added + r.Changed; last != [2]int{n, n} {
			t.Errorf("progress ended at %v; want %d", last, n)
		}
	}
	write("email\nann@b.de\nbob@b.de\n")
	load("false 2 0 0 []")
	load("true 0 0 0 []")
	must(b.RemoveContact(ctx, "ann@b.de"))
	load("true 0 0 0 []")
	write("email,first_name\nann@b.de,\nbob@b.de,Bob\n")
	load("false 0 1 0 [{2 ann@b.de removed by hand []}]")
	wantDirectory(t, b, "[bob@b.de] Bob [] client")
	write("email,first_name\nbob@b.de,Bob\n\n")
	load("false 0 0 1 []")
	load("true 0 0 0 []")

	// A file that can't be loaded is tried again.
	write("email,companies\nbob@b.de,acme\n")
	for range 2 {
		_, err := b.LoadFile(ctx, path, Contacts, nil)
		wantRows(t, err, `2 "companies" "acme" is no company`)
		if !strings.Contains(err.Error(), path) {
			t.Errorf("%v; want the path in it", err)
		}
	}
	must(b.AddCompany(ctx, "acme", CompanyChange{}))
	load("false 0 1 0 []")
	wantDirectory(t, b, "[bob@b.de] Bob [acme] client")

	if _, err := b.LoadFile(ctx, path+"x", Contacts, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v; want ErrNotExist", err)
	}
	if _, err := b.LoadFile(ctx, path, "x", nil); err == nil {
		t.Error("a kind that there isn't: no error")
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	write("email\nnew@b.de\n")
	if _, err := b.LoadFile(canceled, path, Contacts, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// busyStore makes another change between plan and apply.
type busyStore struct {
	store.Store
	times  int
	change func()
}

func (s *busyStore) Apply(ctx context.Context, ops ...store.Op) error {
	if s.times > 0 {
		s.times--
		s.change()
	}
	return s.Store.Apply(ctx, ops...)
}

func TestLoadFilePlansAgain(t *testing.T) {
	b, ctx := newBook(t), t.Context()
	path := filepath.Join(t.TempDir(), "contacts.csv")
	if err := os.WriteFile(path, []byte("email\nann@b.de\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, quiet := 0, b.Store
	other := &Directory{Firm: b.Firm, Store: quiet, Keys: b.Keys}
	b.Store = &busyStore{quiet, 3, func() { n++; must(other.AddContact(ctx, address.Address(fmt.Sprintf("n%d@b.de", n)), Change{})) }}
	if r, err := b.LoadFile(ctx, path, Contacts, nil); r.Added != 1 || err != nil {
		t.Errorf("LoadFile = %+v, %v; want 1 added", r, err)
	}
	if all := everyone(t, other); len(all) != 4 {
		t.Errorf("the book: %v; want 4", all)
	}
}

func TestSampleFiles(t *testing.T) {
	b, ctx := newBook(t, "owner@example.com"), t.Context()
	if err := b.EnsureStaff(ctx); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []Kind{Companies, Contacts} {
		r, err := b.LoadFile(ctx, filepath.Join("..", "..", "testdata", string(kind)+".csv"), kind, nil)
		if err != nil || r.Added+r.Changed != 12 || len(r.Kept) > 0 {
			t.Errorf("%s: %+v, %v", kind, r, err)
		}
	}
	ann, err := b.ByEmail(ctx, "ann@example.com")
	if err != nil || ann.Name() != "Ann Baker" || ann.Role != Client || len(ann.Companies) != 2 || ann.Disabled {
		t.Errorf("ann: %+v, %v", ann, err)
	}
	if owner, err := b.ByEmail(ctx, "owner@example.com"); err != nil || owner.Role != Staff || owner.Name() == "" {
		t.Errorf("owner: %+v, %v", owner, err)
	}
}

func importBig(t testing.TB, b *Directory, n int) (Plan, []int) {
	t.Helper()
	var companies strings.Builder
	companies.WriteString("id,name\n")
	for i := range 100 {
		fmt.Fprintf(&companies, "c%d,Company %d\n", i, i)
	}
	must(importCompanies(t, b, companies.String()))
	rows := must(ReadContacts(bigFile(n)))
	p := must(b.PlanContacts(t.Context(), rows))
	var steps []int
	if err := b.Apply(t.Context(), p, func(done, total int) { steps = append(steps, done) }); err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(steps) || len(p.Added) != 0 && steps[len(steps)-1] != n {
		t.Errorf("progress: %v", steps)
	}
	return p, steps
}

// Each row is one contact with two addresses.
func BenchmarkImport100k(b *testing.B) {
	for name, changed := range map[string]bool{"new": false, "unchanged": true} {
		b.Run(name, func(b *testing.B) {
			peak := uint64(0)
			for b.Loop() {
				b.StopTimer()
				book := newBook(b)
				if changed {
					importBig(b, book, 100_000)
				}
				runtime.GC()
				b.StartTimer()
				importBig(b, book, 100_000)
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapSys)
			}
			b.ReportMetric(math.Round(float64(peak)/(1<<20)), "MiB-heap")
		})
	}
}

func BenchmarkByEmail(b *testing.B) {
	book := newBook(b)
	importBig(b, book, 10_000)
	for b.Loop() {
		if _, err := book.ByEmail(b.Context(), "other5000@example.org"); err != nil {
			b.Fatal(err)
		}
	}
}

// The operator sees all bad rows of a file at once: the unreadable ones and those that conflict
// with the directory.
func TestPlannerListsEveryBadRow(t *testing.T) {
	b := newBook(t)
	plan, err := b.Planner(strings.NewReader("email,companies\ngood@example.com,\nbad@@x,\nbob@example.com,nowhere\nalso bad,\n"), Contacts, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = plan(t.Context())
	wantRows(t, err, `3 "email" `, `4 "companies" `, `5 "email" `)
}
