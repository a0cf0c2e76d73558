package directory

import (
	"errors"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Every change that takes an address or the permission to sign in from a contact gives them a new
// generation in the same step; other changes don't.
func TestLosingAccessChangesTheGeneration(t *testing.T) {
	b := newBook(t)
	c, err := b.AddContact(t.Context(), "ann@example.com", Change{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{c.Generation: true}
	yes, no, phone, other, role, main, others := true, false, "+15550100", "+15550101", Staff, "ann@example.org", []string{"ann@example.com", "other@example.com"}
	fewer := []string{"ann@example.com"}
	for _, step := range []struct {
		name   string
		change Change
		ends   bool
	}{
		{"a phone number", Change{Phone: &phone}, false},
		{"a role", Change{Role: &role}, false},
		{"another main address, the one before stays", Change{Email: &main, OtherEmails: &others}, false},
		{"an address less", Change{OtherEmails: &fewer}, true},
		{"disabled", Change{Disabled: &yes}, true},
		{"a phone number, while disabled", Change{Phone: &other}, false},
		{"enabled", Change{Disabled: &no}, false},
	} {
		before := c.Generation
		if c, err = b.SetContact(t.Context(), "ann@example.com", step.change); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if (c.Generation != before) != step.ends || step.ends && seen[c.Generation] {
			t.Errorf("%s: generation %d, before %d; want another one that never was: %t", step.name, c.Generation, before, step.ends)
		}
		seen[c.Generation] = true
		if kept, err := b.ByID(t.Context(), c.ID); err != nil || kept.Generation != c.Generation {
			t.Errorf("%s: the store has generation %d, %v; want %d", step.name, kept.Generation, err, c.Generation)
		}
	}
}

func TestRenewGivesANewGeneration(t *testing.T) {
	b := newBook(t)
	c, err := b.AddContact(t.Context(), "ann@example.com", Change{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Renew(t.Context(), "nobody"); !errors.Is(err, ErrUnknown) {
		t.Errorf("Renew of nobody = %v; want ErrUnknown", err)
	}
	renewal, err := b.Renew(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	late, err := b.Renew(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	version := b.Version()
	if got, err := b.ByID(t.Context(), c.ID); err != nil || got.Generation != c.Generation {
		t.Errorf("before its Ops are applied: generation %d, %v; want %d", got.Generation, err, c.Generation)
	}
	if err = b.Store.Apply(t.Context(), renewal.Ops...); err != nil {
		t.Fatal(err)
	}
	b.Renewed(t.Context(), nil)
	got, err := b.ByID(t.Context(), c.ID)
	if err != nil || got.Generation != renewal.Generation || got.Generation == c.Generation || b.Version() == version {
		t.Errorf("afterwards: generation %d, %v; want %d, and another Version", got.Generation, err, renewal.Generation)
	}
	if err = b.Store.Apply(t.Context(), late.Ops...); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Ops from before another change = %v; want ErrConflict", err)
	}
}

// The index of old links isn't sealed, so an entry counts only if the company has that token;
// otherwise the token gives no access. Everywhere else, the companies decide who owns a token.
func TestIndexOfOldLinksGivesNoAccessByItself(t *testing.T) {
	b := newBook(t)
	if _, err := importCompanies(t, b, "id,legacy_tokens\nacme,Token-Of-Acme\nbirch,token-of-birch\n"); err != nil {
		t.Fatal(err)
	}
	recs, err := b.Store.Scan(t.Context(), b.Firm, bucketLegacy, "", "", 10)
	if err != nil || len(recs) != 2 {
		t.Fatalf("Scan = %d records, %v; want 2", len(recs), err)
	}
	for _, rec := range recs {
		value := append([]byte{format}, "birch"...)
		if err := b.Store.Apply(t.Context(), store.Put(rec.Key, value, time.Time{})); err != nil {
			t.Fatal(err)
		}
	}
	for token, own := range map[string]bool{"Token-Of-Acme": false, "token-of-birch": true} {
		for range 2 { // from the store, then from memory
			s, err := b.StatusByToken(t.Context(), token)
			if own && (err != nil || s.Company != "birch") || !own && !errors.Is(err, ErrUnknown) {
				t.Errorf("StandingByToken(%s) = %+v, %v; want birch's: %t", token, s, err, own)
			}
		}
	}
	if got := ownersOf(t, b, "Token-Of-Acme", "token-of-birch"); got != "Token-Of-Acme:acme token-of-birch:birch" {
		t.Errorf("the owners are %q; want acme and birch", got)
	}
}
