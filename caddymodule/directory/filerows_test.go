package directory

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// A manual change holds until the row itself changes, whatever else changes in the file.
func TestManualChangeHoldsUntilItsRowChanges(t *testing.T) {
	phone := func(s string) Change { return Change{Phone: &s} }
	const head = "email,phone,companies,disabled\n"
	for _, c := range []struct {
		name   string
		byHand func(*Directory) error
		other  string // the directory after another row was added
		kept   string // the kept items that the load reports
		row    string // Ann's row, changed
		after  string // the directory after the row was changed
	}{
		{"phone", func(b *Directory) error { _, err := b.SetContact(t.Context(), "ann@b.de", phone("1")); return err },
			"phone 1 acme client", "[{2 ann@b.de changed by hand [phone]}]", "ann@b.de,3,acme,", "phone 3 acme client"},
		{"phone, and another cell of the row", func(b *Directory) error { _, err := b.SetContact(t.Context(), "ann@b.de", phone("1")); return err },
			"phone 1 acme client", "[{2 ann@b.de changed by hand [phone]}]", "ann@b.de,2,birch,", "phone 2 birch client"},
		{"disabled", func(b *Directory) error { _, err := b.Disable(t.Context(), "ann@b.de"); return err },
			"phone 2 acme client disabled", "[{2 ann@b.de disabled by hand []}]", "ann@b.de,3,acme,", "phone 3 acme client disabled"},
		{"disabled, and the row says no", func(b *Directory) error { _, err := b.Disable(t.Context(), "ann@b.de"); return err },
			"phone 2 acme client disabled", "[{2 ann@b.de disabled by hand []}]", "ann@b.de,2,acme,no", "phone 2 acme client"},
		{"removed", func(b *Directory) error { _, err := b.RemoveContact(t.Context(), "ann@b.de"); return err },
			"none", "[{2 ann@b.de removed by hand []}]", "ann@b.de,3,acme,", "phone 3 acme client"},
		{"removed and added", func(b *Directory) error {
			_, err := b.RemoveContact(t.Context(), "ann@b.de")
			return errors.Join(err, second(b.AddContact(t.Context(), "ann@b.de", phone("9"))))
		}, "phone 9  client", "[{2 ann@b.de changed by hand [phone companies]}]", "ann@b.de,3,acme,", "phone 3 acme client"},
		{"address changed", func(b *Directory) error {
			email := "ann.lee@b.de"
			_, err := b.SetContact(t.Context(), "ann@b.de", Change{Email: &email})
			return err
		}, "none", "[{2 ann@b.de removed by hand []}]", "ann@b.de,3,acme,", "phone 3 acme client"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, path := newBook(t), filepath.Join(t.TempDir(), "contacts.csv")
			for _, id := range []string{"acme", "birch"} {
				must(b.AddCompany(t.Context(), id, CompanyChange{}))
			}
			load := func(rows string) Report {
				t.Helper()
				if err := os.WriteFile(path, []byte(head+rows), 0o600); err != nil {
					t.Fatal(err)
				}
				return must(b.LoadFile(t.Context(), path, Contacts, nil))
			}
			ann := func() string {
				a, err := b.ByEmail(t.Context(), "ann@b.de")
				if errors.Is(err, ErrUnknown) {
					return "none"
				}
				s := fmt.Sprintf("phone %s %s %s", a.Phone, join(a.Companies), a.Role)
				if a.Disabled {
					s += " disabled"
				}
				return s
			}
			load("ann@b.de,2,acme,\n")
			if err := c.byHand(b); err != nil {
				t.Fatal(err)
			}
			r := load("ann@b.de,2,acme,\nbob@b.de,,,\n")
			if got := fmt.Sprint(r.Kept); ann() != c.other || got != c.kept || r.Added != 1 {
				t.Errorf("after another row: %s, %s, %d added; want %s, %s, 1", ann(), got, r.Added, c.other, c.kept)
			}
			last := must(b.LastLoad(t.Context(), Contacts))
			if got := fmt.Sprint(last.Kept); got != c.kept || last.At.IsZero() {
				t.Errorf("LastLoad = %+v; want %s", last, c.kept)
			}
			load(c.row + "\nbob@b.de,,,\n")
			if ann() != c.after {
				t.Errorf("after the row: %s; want %s", ann(), c.after)
			}
		})
	}
}

func join(all []string) (s string) {
	for _, one := range all {
		s += one
	}
	return s
}

// The same for companies: a token that was revoked manually isn't restored.
func TestManualChangeOfCompanyHoldsUntilItsRowChanges(t *testing.T) {
	b, path := newBook(t), filepath.Join(t.TempDir(), "companies.csv")
	load := func(text string) Report {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return must(b.LoadFile(t.Context(), path, Companies, nil))
	}
	load("id,name,legacy_tokens\nacme,Acme,tok-1\nbirch,Birch,\n")
	must(b.SetCompany(t.Context(), "acme", CompanyChange{LegacyTokens: &[]string{}}))
	if _, err := b.RemoveCompany(t.Context(), "birch"); err != nil {
		t.Fatal(err)
	}
	r := load("id,name,legacy_tokens\nacme,Acme,tok-1\nbirch,Birch,\ncedar,,\n")
	if got := fmt.Sprint(r.Kept); got != "[{2 acme changed by hand [legacy_tokens]} {3 birch removed by hand []}]" || r.Added != 1 {
		t.Errorf("kept = %s, %d added", got, r.Added)
	}
	if _, err := b.StatusByToken(t.Context(), "tok-1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the token that was revoked by hand leads somewhere again: %v", err)
	}
	r = load("id,name,legacy_tokens\nacme,Acme,tok-1;tok-2\nbirch,Birch & Sons,\ncedar,,\n")
	if len(r.Kept) != 0 || r.Changed != 1 || r.Added != 1 {
		t.Errorf("after the rows changed: %+v; want 1 changed, 1 added", r)
	}
}

// A row that was missing from the file and returns counts as new.
func TestRowThatComesBackIsLoaded(t *testing.T) {
	b, path := newBook(t), filepath.Join(t.TempDir(), "contacts.csv")
	var r Report
	for _, text := range []string{"email,phone\nann@b.de,1\nbob@b.de,1\n", "email,phone\nbob@b.de,1\n", "email,phone\nann@b.de,1\nbob@b.de,1\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r = must(b.LoadFile(t.Context(), path, Contacts, nil))
		two := "2"
		must(b.SetContact(t.Context(), "ann@b.de", Change{Phone: &two}))
	}
	if r.Changed != 1 || len(r.Kept) != 0 {
		t.Errorf("the last load: %+v; want 1 changed", r)
	}
}

// A directory loaded by a release that stored no rows takes the current file as its last load, and
// changes nothing.
func TestRowsAreRememberedAfterAnUpdate(t *testing.T) {
	b, path := newBook(t), filepath.Join(t.TempDir(), "contacts.csv")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("email,phone\nann@b.de,1\n")
	must(b.LoadFile(t.Context(), path, Contacts, nil))
	forget := []store.Op{store.Delete(b.key(bucketLoad, "contacts/report"))}
	for i := range rowShards {
		forget = append(forget, store.Delete(b.key(bucketFileRows, shardID(Contacts, i))))
	}
	if err := b.Store.Apply(t.Context(), forget...); err != nil {
		t.Fatal(err)
	}
	two := "2"
	must(b.SetContact(t.Context(), "ann@b.de", Change{Phone: &two}))
	if r := must(b.LoadFile(t.Context(), path, Contacts, nil)); r.Added+r.Changed != 0 {
		t.Errorf("the same file: %+v; want no change", r)
	}
	write("email,phone\nann@b.de,1\nbob@b.de,1\n")
	if r := must(b.LoadFile(t.Context(), path, Contacts, nil)); r.Changed != 0 || r.Added != 1 || len(r.Kept) != 1 {
		t.Errorf("with another row: %+v; want 1 added, 1 kept", r)
	}
}

// The stored rows survive a change of the secret.
func TestRowsAreRememberedUnderANewSecret(t *testing.T) {
	b, path := newBook(t), filepath.Join(t.TempDir(), "contacts.csv")
	old, fresh := []byte(secret.Random()), []byte(secret.Random())
	b.Keys = must(secret.New(old))
	if err := os.WriteFile(path, []byte("email,phone\nann@b.de,1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureStaff(t.Context()); err != nil {
		t.Fatal(err)
	}
	must(b.LoadFile(t.Context(), path, Contacts, nil))
	two := "2"
	must(b.SetContact(t.Context(), "ann@b.de", Change{Phone: &two}))
	b.Keys = must(secret.New(fresh, old))
	if err := b.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.Keys = must(secret.New(fresh))
	if r := must(b.LoadFile(t.Context(), path, Contacts, nil)); r.Added+r.Changed != 0 || len(r.Kept) != 1 {
		t.Errorf("under the new secret: %+v; want 1 kept", r)
	}
}

// A change that takes access away records it in the same Apply, until RevocationsDone.
func TestAccessEndsEvenIfTheProcessIsKilled(t *testing.T) {
	b, path := newBook(t), filepath.Join(t.TempDir(), "contacts.csv")
	must(importCSV(t, b, "email,other_emails,disabled\nann@b.de,,\nbob@b.de,b2@b.de,\ncid@b.de,,\ndan@b.de,,\n"))
	ids := map[string]string{}
	for _, c := range everyoneOf(t, b) {
		ids[string(c.Email())] = c.ID
	}
	if err := os.WriteFile(path, []byte("email,other_emails,disabled\nann@b.de,,yes\nbob@b.de,,\ncid@b.de,new@b.de,\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(b.LoadFile(t.Context(), path, Contacts, nil))
	must(b.RemoveContact(t.Context(), "dan@b.de"))
	want := []string{ids["ann@b.de"], ids["bob@b.de"], ids["dan@b.de"]}
	got := must(b.PendingRevocations(t.Context()))
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("AccessEnding = %v; want %v", got, want)
	}
	if err := b.RevocationsDone(t.Context(), got...); err != nil {
		t.Fatal(err)
	}
	if got := must(b.PendingRevocations(t.Context())); len(got) != 0 {
		t.Errorf("AccessEnding after EndedAccess = %v; want none", got)
	}
}

func everyoneOf(t *testing.T, b *Directory) []Contact {
	t.Helper()
	return must(b.Contacts(t.Context(), "", "", 100))
}

// Stored rows of another length are of another release. They are an error, rather than being
// treated as no known rows.
func TestRememberedRowsOfAnotherLengthAreAnError(t *testing.T) {
	b := newBook(t)
	id := shardID(Contacts, 0)
	if err := b.Store.Apply(t.Context(), store.Put(b.key(bucketFileRows, id), b.seal(bucketFileRows, id, fileRowsRecord{make([]byte, 40)}), time.Time{})); err != nil {
		t.Fatal(err)
	}
	if rows, err := b.fileRows(t.Context(), Contacts); err == nil {
		t.Errorf("fileRows = %v; want an error that names the format", rows)
	}
}

// A row that says nothing of texts has the digest that it had before there were texts: else each row with another
// value than by hand would count as changed after an update.
func TestDigestOfARowWithoutTexts(t *testing.T) {
	row := ContactRow{Email: "ann@example.com", edit: edit{email: "ann@example.com", first: "Ann", phone: "+44 20 7946 0958", companies: []string{"acme"}}}
	e := row.edit
	text, err := json.Marshal([]any{e.email, e.others, e.first, e.last, e.phone, e.locale, e.companies, e.role, e.disabled, e.hash})
	if err != nil {
		t.Fatal(err)
	}
	_, plain := row.digests()
	if want := digest(string(text)); plain != want {
		t.Errorf("digest without texts = %d; want %d", plain, want)
	}
	row.edit.texts = textsOff
	if _, off := row.digests(); off == plain {
		t.Error("a row that turns texts off has the digest of one that says nothing of them")
	}
}

// An empty cell, or a row without the column, turns no texts on again.
func TestNoRowTurnsTextsOnUnasked(t *testing.T) {
	before := storedContact{Contact: Contact{Emails: []address.Address{"ann@example.com"}, NoTexts: true}}
	for text, want := range map[string]bool{"": true, "off": true, "on": false} {
		var d edit
		if err := d.set(fTexts, text); err != nil {
			t.Fatal(err)
		}
		if after := before.edited(d, false); after.NoTexts != want {
			t.Errorf("with the cell %q: NoTexts = %v; want %v", text, after.NoTexts, want)
		}
	}
}
