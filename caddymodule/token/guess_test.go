package token_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

func TestT11_ACodeFailsAfterFiveGuesses(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	for range token.MaxGuesses {
		want(t, "a wrong code", w.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
	}
	want(t, "the right code after five wrong ones", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
	want(t, "the link of the burnt code", w.spend("s", issued.Token, phone), nil)

	issued = w.mail(laptop, "ann@example.com", "ann")
	for range token.MaxGuesses - 1 {
		want(t, "a wrong code", w.guess("s2", laptop, "0000-0000"), token.ErrWrongCode)
	}
	want(t, "the right code at the fifth try", w.guess("s2", laptop, issued.Code), nil)
}

func TestT11_InputOfTheWrongShapeIsNotCounted(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	seen := &watched{Store: w.db}
	watching := w.as(func(o *token.Tokens) { o.Store = seen })
	// The error depends only on the input: it is the same in a browser that never requested a mail,
	// and in one without guesses left.
	none := func(when string) {
		for _, browser := range []string{laptop, phone, ""} {
			for typed, has := range map[string]int{"": 0, "abc": 3, "abcd-efghj": 9, "abcd-efgu": 8, strings.Repeat("a", 1000): 9} {
				want(t, fmt.Sprintf("%.20q in browser %q %s", typed, browser, when), watching.guess("s", browser, typed), token.ShapeError{Has: has})
			}
		}
	}
	none("at first")
	for range token.MaxGuesses - 1 {
		want(t, "a wrong code", w.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
	}
	none("after four tries")
	want(t, "the right code at the fifth try", w.guess("s", laptop, issued.Code), nil)
	none("after the code was used")
	if len(seen.calls) != 0 {
		t.Errorf("what is no code asked the store for %q; want nothing", seen.calls)
	}
}

func TestT11_ParallelGuessesAreCounted(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	seen := &watched{Store: w.db}
	for _, err := range atOnce(100, func(i int) error {
		return w.guess("s", laptop, fmt.Sprintf("0000-00%02d", i))
	}) {
		want(t, "a wrong code", err, token.ErrWrongCode)
	}
	want(t, "the right code after that", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
	// A new request in the same browser has guesses of its own.
	again := w.mail(laptop, "ann@example.com", "ann")
	want(t, "the burnt code again", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
	want(t, "the code of a new mail", w.guess("s", laptop, again.Code), nil)

	// Further guesses at codes without guesses left cost no write.
	w.mail(laptop, "ann@example.com", "ann")
	for range token.MaxGuesses {
		want(t, "a wrong code", w.guess("s2", laptop, "0000-0000"), token.ErrWrongCode)
	}
	watching := w.as(func(o *token.Tokens) { o.Store = seen })
	want(t, "a guess at a burnt code", watching.guess("s2", laptop, "0000-0000"), token.ErrWrongCode)
	if !slices.Equal(seen.calls, []string{"get flow"}) {
		t.Errorf("a guess at a burnt code asked the store for %q; want one read", seen.calls)
	}
}

func TestT11_OnlyFiveParallelGuessesAreCompared(t *testing.T) {
	// 95 or more wrong guesses start first and the right one last: it mostly comes too late, and at
	// most one succeeds.
	w := newWorld(t)
	late := 0
	for round := range 10 {
		issued := w.mail(laptop, "ann@example.com", "ann")
		errs := atOnce(100, func(i int) error {
			if i < 95 {
				return w.guess(fmt.Sprint(round, i), laptop, "0000-0000")
			}
			return w.guess(fmt.Sprint(round, i), laptop, issued.Code)
		})
		in := len(slices.DeleteFunc(errs, func(err error) bool { return errors.Is(err, token.ErrWrongCode) }))
		if in > 1 {
			t.Errorf("round %d: %d got in or failed", round, in)
		}
		if in == 0 {
			late++
			w.must(w.spend(fmt.Sprint(round), issued.Token, phone))
		}
	}
	if late == 0 {
		t.Error("five of a hundred guesses were right, all in ten rounds were judged; want few")
	}
}

func TestGuess_OnlyInTheBrowserThatRequestedTheMail(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	w.mail(phone, "bob@example.com", "bob")
	for _, browser := range []string{"", phone, tablet, "laptop", "\x00"} {
		want(t, fmt.Sprintf("Guess in browser %q", browser), w.guess("s", browser, issued.Code), token.ErrWrongCode)
	}
	g, err := w.enter("s", func() (token.AuthResult, error) {
		return w.Guess(t.Context(), laptop, strings.ToUpper(issued.Code), false)
	})
	if err != nil || g.Contact != "ann" || g.Address != "ann@example.com" || g.To != "/orders/7" || g.Method != "code" {
		t.Errorf("Guess in the browser that asked = %+v, %v; want ann's grant", g, err)
	}
}

func TestN01_AGuessForAnUnknownAddressDoesTheSameWork(t *testing.T) {
	calls := func(known bool) []string {
		w := newWorld(t)
		if known {
			w.mail(laptop, "ann@example.com", "ann")
		} else {
			w.ask(laptop, "nobody@example.com")
		}
		seen := &watched{Store: w.db}
		guessing := w.as(func(o *token.Tokens) { o.Store = seen })
		for range token.MaxGuesses + 2 {
			_, err := guessing.Guess(context.Background(), laptop, "0000-0000", false)
			want(t, "a wrong code", err, token.ErrWrongCode)
		}
		_, err := guessing.Guess(context.Background(), laptop, "abcd", false)
		want(t, "no code at all", err, token.ShapeError{Has: 4})
		return seen.calls
	}
	known, unknown := calls(true), calls(false)
	if !slices.Equal(known, unknown) {
		t.Errorf("guesses asked the store for\n%q where the address is known, and for\n%q where it isn't", known, unknown)
	}
	if len(known) != 4*token.MaxGuesses+2 {
		t.Errorf("%d guesses cost %d calls; want two reads, a write and a read each, and a read when burnt", token.MaxGuesses, len(known))
	}
}

// crossed is a store that runs a function right before the first write.
type crossed struct {
	store.Store
	first  func()
	writes int
}

func (s *crossed) Apply(ctx context.Context, ops ...store.Op) error {
	if s.writes++; s.writes == 1 {
		s.first()
	}
	return s.Store.Apply(ctx, ops...)
}

// N02 (timing): guesses from many browsers at an address slow down a browser's guesses no more if a
// mail was made for that browser than if none was. The slower one would have to write again, often
// under a flood.
func TestN02_GuessesInOtherBrowsersCauseNoExtraWrites(t *testing.T) {
	for _, known := range []bool{true, false} {
		for _, other := range []address.Address{"ann@example.com", "bob@example.com"} {
			w := newWorld(t)
			if known {
				w.mail(laptop, "ann@example.com", "ann")
			} else {
				w.ask(laptop, "ann@example.com")
			}
			w.ask(phone, other)
			db := &crossed{Store: w.db, first: func() { want(t, "a wrong code", w.guess("s", phone, "0000-0000"), token.ErrWrongCode) }}
			err := w.as(func(o *token.Tokens) { o.Store = db }).guess("s", laptop, "0000-0000")
			want(t, "a wrong code", err, token.ErrWrongCode)
			if db.writes != 1 {
				t.Errorf("while another browser guesses at %s, a guess at ann@example.com (known: %t) is written %d times; want once", other, known, db.writes)
			}
		}
	}
}

func TestAsk_StoresTheLastFiveRequests(t *testing.T) {
	w := newWorld(t)
	_, err := w.LastRequest(t.Context(), laptop)
	want(t, "Asked at first", err, token.ErrUnknown)
	_, err = w.LastRequest(t.Context(), "")
	want(t, "Asked of no browser", err, token.ErrUnknown)
	var asks []token.MailRequest
	for range 6 {
		asks = append(asks, w.ask(laptop, "ann@example.com"))
	}
	got, err := w.LastRequest(t.Context(), laptop)
	if err != nil || got.ID != asks[5].ID {
		t.Errorf("Asked = %s, %v; want the last, %s", got.ID, err, asks[5].ID)
	}
	forgotten := w.issue(asks[0], "ann")
	w.handOver(forgotten, true)
	want(t, "the code of the sixth from the last", w.guess("s", laptop, forgotten.Code), token.ErrWrongCode)
	want(t, "its link", w.spend("s", forgotten.Token, laptop), nil)
	fifth := w.issue(asks[1], "ann")
	w.handOver(fifth, true)
	want(t, "the code of the fifth from the last", w.guess("s2", laptop, fifth.Code), nil)
}

func TestAsk_StoresAllFields(t *testing.T) {
	w := newWorld(t)
	ask := token.MailRequest{ID: "1", Address: "ann@example.com", Hidden: true, Link: "the old link", To: "/a?b=c", Shared: true,
		Browser: laptop, Agent: "Safari on iPhone", At: w.clock.now()}
	w.must(w.Request(t.Context(), ask))
	if got, err := w.LastRequest(t.Context(), laptop); err != nil || got != ask {
		t.Errorf("Asked = %+v, %v; want %+v", got, err, ask)
	}
	issued := w.issue(ask, "ann")
	w.handOver(issued, true)
	if got, err := w.LastRequest(t.Context(), laptop); err != nil || got != ask {
		t.Errorf("Asked after Issue = %+v, %v; want %+v", got, err, ask)
	}
	g, err := w.Spend(t.Context(), issued.Token, laptop)
	if err != nil || !g.Shared || g.To != "/a?b=c" || g.Method != "link" {
		t.Errorf("Spend = %+v, %v; want shared, to /a?b=c, by link", g, err)
	}
}
