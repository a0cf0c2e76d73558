package token

import (
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func TestT17_OnlySignInLinksSignIn(t *testing.T) {
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
	for purpose, want := range map[string]error{SignIn: nil, "set-password": ErrUnknown, "": ErrUnknown} {
		s := secret.Random()
		link := Link{ID: keys.MAC(linkPurpose, "example", s), Contact: "ann" + purpose, Address: "ann@example.com", RequestedAt: time.Now(), Purpose: purpose}
		linkOp, err := tokens.links().Create(link.ID, link, link.RequestedAt.Add(LinkRetention))
		if err != nil {
			t.Fatal(err)
		}
		liveOp, err := tokens.active().Put(link.Contact, activeLinks{Links: []activeLink{{ID: link.ID, RequestedAt: link.RequestedAt}}}, time.Now().Add(recordLife))
		if err != nil {
			t.Fatal(err)
		}
		handedOp, err := tokens.putHandover(link, handover{state: delivered, at: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Apply(t.Context(), linkOp, liveOp, handedOp); err != nil {
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

// A link signs in or sets a password, never both; each ends all of the contact's links.
func TestT17_ALinkHasOnePurpose(t *testing.T) {
	for _, of := range []string{SignIn, SetPassword} {
		w := openPurposes(t)
		signIn, set := w.mail(t, MailRequest{ID: "a", Purpose: SignIn}), w.mail(t, MailRequest{ID: "b", Purpose: SetPassword})
		if signIn.Code == "" || set.Code != "" {
			t.Errorf("codes %q and %q; want one to sign in and none to set a password", signIn.Code, set.Code)
		}
		if _, err := w.Peek(t.Context(), set.Token); !errors.Is(err, ErrUnknown) {
			t.Errorf("Peek of a set-password link = %v; want ErrUnknown", err)
		}
		if _, err := w.Try(t.Context(), set.Token); !errors.Is(err, ErrUnknown) {
			t.Errorf("Try of a set-password link = %v; want ErrUnknown", err)
		}
		if _, err := w.Spend(t.Context(), set.Token, "browser"); !errors.Is(err, ErrUnknown) {
			t.Errorf("Spend of a set-password link = %v; want ErrUnknown", err)
		}
		if _, err := w.PeekPassword(t.Context(), signIn.Token); !errors.Is(err, ErrUnknown) {
			t.Errorf("PeekPassword of a sign-in link = %v; want ErrUnknown", err)
		}
		if _, _, err := w.SpendPassword(t.Context(), signIn.Token); !errors.Is(err, ErrUnknown) {
			t.Errorf("SpendPassword of a sign-in link = %v; want ErrUnknown", err)
		}
		var ops []store.Op
		if of == SignIn {
			grant, err := w.Spend(t.Context(), signIn.Token, "elsewhere")
			if err != nil {
				t.Fatal(err)
			}
			ops = grant.Ops
		} else {
			link, spent, err := w.SpendPassword(t.Context(), set.Token)
			if err != nil || link.Contact != "ann" || link.Address != "ann@example.com" {
				t.Fatalf("SpendPassword = %+v, %v; want ann's", link, err)
			}
			ops = spent
		}
		if err := w.Store.Apply(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
		if err := w.Store.Apply(t.Context(), ops...); !errors.Is(err, store.ErrConflict) {
			t.Errorf("a link to %s, spent twice = %v; want ErrConflict", of, err)
		}
		if _, err := w.Peek(t.Context(), signIn.Token); !errors.Is(err, ErrInactive) {
			t.Errorf("sign-in link after a link to %s = %v; want ErrOver", of, err)
		}
		if link, err := w.PeekPassword(t.Context(), set.Token); !errors.Is(err, ErrInactive) || link.Address == "" {
			t.Errorf("set-password link after a link to %s = %+v, %v; want ErrOver, and whose it was", of, link, err)
		}
		if _, err := w.Guess(t.Context(), "browser", signIn.Code, false); of == SetPassword && !errors.Is(err, ErrWrongCode) {
			t.Errorf("code after the password was set = %v; want ErrCode", err)
		}
	}
}

// A password link that the contact requested lasts as long as any other link, one sent by
// staff lasts a day, whichever mails follow.
func TestLifeOfPasswordLinks(t *testing.T) {
	for _, c := range []struct {
		staff bool
		life  time.Duration
	}{{false, 10 * time.Minute}, {true, StaffLife}} {
		w := openPurposes(t)
		set := w.mail(t, MailRequest{ID: "a", Purpose: SetPassword, Staff: c.staff})
		w.pass(c.life - time.Minute)
		w.mail(t, MailRequest{ID: "b"})
		if _, err := w.PeekPassword(t.Context(), set.Token); err != nil {
			t.Errorf("staff %v: a minute before its end = %v; want nil", c.staff, err)
		}
		w.pass(time.Minute)
		if _, err := w.PeekPassword(t.Context(), set.Token); !errors.Is(err, ErrInactive) {
			t.Errorf("staff %v: at its end = %v; want ErrOver", c.staff, err)
		}
	}
}

// purposes are Tokens with a test clock.
type purposes struct {
	*Tokens
	at atomic.Pointer[time.Time]
}

func (w *purposes) now() time.Time { return *w.at.Load() }

func (w *purposes) pass(d time.Duration) { w.at.Store(new(w.now().Add(d))) }

func openPurposes(t *testing.T) *purposes {
	t.Helper()
	w := new(purposes)
	w.at.Store(new(time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)))
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{Clock: w.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte("a secret of at least 32 characters for this test"))
	if err != nil {
		t.Fatal(err)
	}
	w.Tokens = &Tokens{Firm: "example", Store: db, Keys: keys, Life: 10 * time.Minute, Now: w.now}
	return w
}

// mail requests a mail for ann, issues the link and hands it over.
func (w *purposes) mail(t *testing.T, ask MailRequest) Issued {
	t.Helper()
	ask.Address, ask.At = "ann@example.com", w.now()
	if !ask.Staff {
		ask.Browser = "browser"
		if err := w.Request(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
	}
	issued, err := w.Issue(t.Context(), ask, Recipient{Contact: "ann", Address: "ann@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Apply(t.Context(), issued.Ops...); err != nil {
		t.Fatal(err)
	}
	ops, err := w.HandOver(t.Context(), issued.ID, w.now(), true)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Store.Apply(t.Context(), ops...); err != nil {
		t.Fatal(err)
	}
	return issued
}
