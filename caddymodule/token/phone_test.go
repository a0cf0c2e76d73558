package token_test

import (
	"context"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// phone makes a code to read out for the browser that waits, which must be the only one.
func (w *world) phone(a address.Address, contact string) token.Issued {
	w.t.Helper()
	all, err := w.WaitingFor(context.Background(), []address.Address{a})
	w.must(err)
	if len(all) != 1 {
		w.t.Fatalf("%d browsers wait for %s; want 1", len(all), a)
	}
	issued, err := w.IssueByPhone(context.Background(), all[0], false, token.Recipient{Contact: contact, Address: a})
	w.must(err)
	w.must(w.Store.Apply(context.Background(), issued.Ops...))
	return issued
}

// A code over the phone signs in the browser that it was made for, once, and no other.
func TestPhoneCodeWorksOnceInItsBrowser(t *testing.T) {
	w := newWorld(t)
	w.ask("hers", "ann@example.com") // no mail was made yet
	code := w.phone("ann@example.com", "ann").Code
	w.ask("another", "ann@example.com")
	w.mail("third", "ann@example.com", "ann")
	for _, browser := range []string{"another", "third", "none", ""} {
		want(t, "the code in the browser "+browser, w.guess(browser, browser, code), token.ErrWrongCode)
	}
	g, err := w.enter("in", func() (token.AuthResult, error) { return w.Guess(t.Context(), "hers", code, false) })
	if err != nil || g.Contact != "ann" || g.Method != token.ByPhone || g.To != "/orders/7" {
		t.Errorf("the code in its browser = %+v, %v", g, err)
	}
	want(t, "the code once more", w.guess("again", "hers", code), token.ErrWrongCode)
	if in, err := w.Entered(t.Context(), "hers"); err != nil || in.Contact != "ann" || !in.ByCode {
		t.Errorf("Entered = %+v, %v", in, err)
	}
	if n := w.sessions(); n != 1 {
		t.Errorf("%d sessions; want 1", n)
	}
}

// Beside the mailed code both work; a sign-in by either ends the other, and each has its own five tries.
func TestPhoneCodeStandsBesideTheMailedOne(t *testing.T) {
	w := newWorld(t)
	mailed := w.mail("hers", "ann@example.com", "ann")
	for range token.MaxGuesses {
		want(t, "a wrong code", w.guess("x", "hers", "0000-0000"), token.ErrWrongCode)
	}
	code := w.phone("ann@example.com", "ann").Code
	want(t, "the mailed code after five tries", w.guess("x", "hers", mailed.Code), token.ErrWrongCode)
	w.must(w.guess("in", "hers", code))
	want(t, "the link in the mail, in the browser that is in", w.spend("y", mailed.Token, "hers"), token.ErrInactive)

	w.mail("hers", "bob@example.com", "bob")
	code = w.phone("bob@example.com", "bob").Code
	for range token.MaxGuesses {
		want(t, "a wrong code", w.guess("x", "hers", "0000-0000"), token.ErrWrongCode)
	}
	want(t, "the code over the phone after five tries", w.guess("x", "hers", code), token.ErrWrongCode)
}

// What ends a code over the phone: its time, a newer one, and whatever ends the contact's links.
func TestPhoneCodeEnds(t *testing.T) {
	for what, end := range map[string]func(w *world){
		"after ten minutes": func(w *world) { w.clock.move(token.PhoneLife) },
		"with a newer one":  func(w *world) { w.phone("ann@example.com", "ann") },
		"with a newer one in another browser": func(w *world) {
			w.clock.move(token.PhoneWindow / 2)
			w.ask("another", "ann@example.org")
			w.phone("ann@example.org", "ann")
		},
		"with all access": func(w *world) {
			op, err := w.RevokeAll("ann")
			w.must(err)
			w.must(w.Store.Apply(context.Background(), op))
		},
	} {
		w := newWorld(t).as(func(t *token.Tokens) { t.Life = time.Hour })
		w.ask("hers", "ann@example.com")
		code := w.phone("ann@example.com", "ann").Code
		end(w)
		want(t, what, w.guess("x", "hers", code), token.ErrWrongCode)
	}
	w := newWorld(t).as(func(t *token.Tokens) { t.Life = time.Minute })
	w.ask("hers", "ann@example.com")
	code := w.phone("ann@example.com", "ann").Code
	w.clock.move(token.PhoneLife - time.Second)
	w.must(w.guess("in", "hers", code))
}

// Only a browser whose page waits for a sign-in mail gets a code, for half an hour after it asked.
func TestPhoneCodeIsForBrowsersThatWait(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	addresses := []address.Address{"ann@example.com", "ann@example.org"}
	w.ask("late", "ann@example.com")
	w.clock.move(token.PhoneWindow)
	first := w.ask("first", "ann@example.com")
	w.ask("elsewhere", "bob@example.com")
	w.ask("moved on", "ann@example.com")
	w.ask("moved on", "bob@example.com")
	w.must(w.Request(ctx, token.MailRequest{ID: "p", Address: "ann@example.com", To: "/", Browser: "password", Purpose: token.SetPassword, At: w.clock.now()}))
	w.clock.move(time.Second)
	w.ask("second", "ann@example.org")
	all, err := w.WaitingFor(ctx, addresses)
	w.must(err)
	var browsers []string
	for _, b := range all {
		browsers = append(browsers, b.Request.Browser)
	}
	if len(all) != 2 || browsers[0] != "second" || browsers[1] != "first" || all[1].Request.ID != first.ID {
		t.Fatalf("these browsers wait: %q; want second, first", browsers)
	}
	w.ask("first", "bob@example.com") // meanwhile
	_, err = w.IssueByPhone(ctx, all[1], false, token.Recipient{Contact: "ann", Address: "ann@example.com"})
	want(t, "a code for a browser that has moved on", err, token.ErrUnknown)

	// Two who make a code at the same time: one of them has to do it again.
	one, err := w.IssueByPhone(ctx, all[0], false, token.Recipient{Contact: "ann", Address: "ann@example.org"})
	w.must(err)
	two, err := w.IssueByPhone(ctx, all[0], false, token.Recipient{Contact: "ann", Address: "ann@example.org"})
	w.must(err)
	w.must(w.Store.Apply(ctx, one.Ops...))
	want(t, "the other of two", w.Store.Apply(ctx, two.Ops...), store.ErrConflict)
	w.must(w.guess("in", "second", one.Code))
}

// A network over its limit, whose guesses fail, has no better ones by phone.
func TestPhoneCodeKeepsTheLimitsOfNetworks(t *testing.T) {
	w := newWorld(t)
	w.ask("hers", "ann@example.com")
	code := w.phone("ann@example.com", "ann").Code
	_, err := w.Guess(t.Context(), "hers", code, true)
	want(t, "the right code from a network over its limit", err, token.ErrWrongCode)
	w.must(w.guess("in", "hers", code))
}

// A contact has one such code: a newer one, for another browser, ends the earlier one.
func TestPhoneCodeEndsTheEarlierOne(t *testing.T) {
	w := newWorld(t)
	w.ask("hers", "ann@example.com")
	first := w.phone("ann@example.com", "ann").Code
	w.ask("another", "ann@example.com")
	all, err := w.WaitingFor(t.Context(), []address.Address{"ann@example.com"})
	w.must(err)
	issued, err := w.IssueByPhone(t.Context(), all[0], false, token.Recipient{Contact: "ann", Address: "ann@example.com"})
	w.must(err)
	w.must(w.Store.Apply(t.Context(), issued.Ops...))
	want(t, "the earlier code", w.guess("in", "hers", first), token.ErrWrongCode)
}
