package caddymodule_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// The passwords of an earlier portal are imported from the Caddyfile's file, the firm invites
// contacts without one, and a password ends with the contact, or with one of their addresses.
func TestPasswords_OfTheFirm(t *testing.T) {
	const old = "rasmuslerdorf"
	hash := bcryptHash(t, old, bcrypt.MinCost)
	contacts := "email,other_emails,first_name,password_hash\nann@example.com,ann.b@example.org,Ann," + hash + "\nbob@example.com,,Bob,\n"
	h := openGuessHouse(t, layout{contacts: contacts, admin: freeAddress(t)})
	office, ctx := h.office(), t.Context()
	in := func(email, plain string, want bool) {
		t.Helper()
		if a := h.browser().manually(email, plain); (a.StatusCode == 303) != want {
			t.Fatalf("signing in as %s = %d; want in: %t\n%s", email, a.StatusCode, want, a.body)
		}
	}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	imports := func(csv string) (kept string) {
		t.Helper()
		out, err := office.Import(ctx, "example", directory.Contacts, strings.NewReader(csv), admin.ImportOptions{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range out.Kept.First {
			kept += k.Reason
		}
		return kept
	}

	in("ann@example.com", old, true)
	in("ann@example.com", annsPassword, false)
	if kept := imports(strings.Replace(contacts, hash, bcryptHash(t, wrongOne, bcrypt.MinCost), 1)); kept != directory.PasswordOwn {
		t.Errorf("a hash for who has used theirs is kept out for %q; want %q", kept, directory.PasswordOwn)
	}
	in("ann@example.com", old, true)

	// The firm invites Bob.
	before := len(h.letters("bob@example.com"))
	must(office.ResetLink(ctx, "example", "bob@example.com"))
	l := h.nextLetter("bob@example.com", before)
	m := setPattern.FindStringSubmatch(l.text)
	if m == nil || !strings.Contains(l.text, "Example Bookkeeping invites you") || !strings.Contains(l.text, "24 hours") || strings.Contains(l.text, "You asked") {
		t.Fatalf("the invitation is\n%s", l.text)
	}
	caddymodule.Advance(t, 23*time.Hour)
	if a := h.browser().send("/-/password/set", url.Values{"t": {m[1]}, "password": {annsPassword}}); a.StatusCode != 303 {
		t.Fatalf("POST /-/password/set, a day later = %d; want 303\n%s", a.StatusCode, a.body)
	}
	in("bob@example.com", annsPassword, true)
	must(office.DisableContact(ctx, "example", "bob@example.com"))
	in("bob@example.com", annsPassword, false)
	must(office.EnableContact(ctx, "example", "bob@example.com"))
	in("bob@example.com", annsPassword, true)

	// A new contact with Bob's address gets nothing of Bob's, and a file doesn't give it back.
	bob := h.idOf("bob@example.com")
	left := func() (buckets []string) {
		for _, bucket := range []string{"password", "password-guesses", "signed-in"} {
			if _, err := caddymodule.OpenStore(t).Get(ctx, store.Key{Firm: "example", Bucket: bucket, ID: bob}); err == nil {
				buckets = append(buckets, bucket)
			}
		}
		return buckets
	}
	h.browser().manually("bob@example.com", wrongOne)
	if got := left(); len(got) != 3 {
		t.Errorf("of Bob there is %q; want all three", got)
	}
	must(office.RemoveContact(ctx, "example", "bob@example.com"))
	if got := left(); len(got) > 0 {
		t.Errorf("of who was removed there is still %q", got)
	}
	email := "bob@example.com"
	must(office.AddContact(ctx, "example", directory.Change{Email: &email}))
	in("bob@example.com", annsPassword, false)

	// Adding an address changes nothing; removing one does, manually and by a file.
	more := []string{"ann.b@example.org", "ann@example.net"}
	must(office.SetContact(ctx, "example", "ann@example.com", directory.Change{OtherEmails: &more}))
	in("ann@example.net", old, true)
	next := "ann.lee@example.com"
	must(office.SetContact(ctx, "example", "ann@example.com", directory.Change{Email: &next}))
	in("ann.lee@example.com", old, false)
	if kept := imports("email,password_hash\nann.lee@example.com," + hash + "\n"); kept != directory.PasswordOwn {
		t.Errorf("a hash for who has lost theirs is kept out for %q; want %q", kept, directory.PasswordOwn)
	}
	in("ann.lee@example.com", old, false)
	h.holds("ann.lee@example.com", annsPassword)
	in("ann.lee@example.com", annsPassword, true)
	imports("email,other_emails\nann.lee@example.com,ann@example.net\n")
	in("ann.lee@example.com", annsPassword, false)

	for _, e := range h.history() {
		if strings.Contains(strings.Join(append(e.Fields, e.Reason, e.What), " "), "$2") {
			t.Errorf("an event has a hash: %+v", e)
		}
	}
}
