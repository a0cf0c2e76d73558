package token

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func TestT17_ALinkForAnotherPurposeIsNoSignInLink(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys, err := secret.New([]byte("a secret of at least 32 characters for this test"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := &Tokens{Firm: "example", Store: db, Keys: keys, Life: time.Minute}
	for purpose, want := range map[string]error{signIn: nil, "set-password": ErrUnknown, "": ErrUnknown} {
		s := secret.Random()
		link := Link{ID: keys.MAC(linkPurpose, "example", s), Contact: "ann" + purpose, Address: "ann@example.com", Asked: time.Now(), Purpose: purpose}
		linkOp, err := tokens.linkOp(link)
		if err != nil {
			t.Fatal(err)
		}
		liveOp, err := tokens.liveOp(link.Contact, nil, live{Links: []liveLink{{ID: link.ID, Asked: link.Asked}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Apply(t.Context(), linkOp, liveOp); err != nil {
			t.Fatal(err)
		}
		if got, err := tokens.Peek(t.Context(), s); !errors.Is(err, want) || want != nil && got != (Link{}) {
			t.Errorf("Peek of a link to %q = %+v, %v; want %v", purpose, got, err, want)
		}
		if _, err := tokens.Spend(t.Context(), s, ""); !errors.Is(err, want) {
			t.Errorf("Spend of a link to %q = %v; want %v", purpose, err, want)
		}
	}
}
