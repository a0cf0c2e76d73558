package token_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// places counts the records of a bucket.
func (w *world) places(bucket string) (n int) {
	w.t.Helper()
	all, err := w.db.Scan(context.Background(), w.Firm, bucket, "", "", 1_000_000)
	w.must(err)
	return len(all)
}

// flood requests mails for n unknown addresses, each from a new browser.
func (w *world) flood(n int) {
	w.t.Helper()
	var next atomic.Int64
	for _, err := range atOnce(64, func(int) error {
		for {
			i := next.Add(1)
			if i > int64(n) {
				return nil
			}
			id := fmt.Sprint("flood-", w.asks.Add(1))
			ask := token.MailRequest{ID: id, Address: "who@example.com", To: "/", Browser: id, At: w.clock.now()}
			if err := w.Request(context.Background(), ask); err != nil {
				return err
			}
		}
	}) {
		w.must(err)
	}
}

func TestD12_FlowsWithoutAMailAreBounded(t *testing.T) {
	const places = 4096
	w := newWorld(t)
	w = w.as(func(o *token.Tokens) { o.Ring = token.NewRing() })
	mailed := w.mail(laptop, "ann@example.com", "ann")
	late := w.ask(tablet, "bob@example.com") // the flood comes before the worker
	w.ask(phone, "who@example.com")
	w.flood(places - 2)
	if got, err := w.LastRequest(t.Context(), phone); err != nil || got.Address != "who@example.com" {
		t.Errorf("Asked after %d others = %v, %v; want what was asked for", places-2, got.Address, err)
	}
	w.flood(places / 2)
	if n := w.places("flow"); n > places+1 {
		t.Errorf("%d flows; want no more than %d, and one with a mail", n, places)
	}
	if n := w.places("ring"); n > places {
		t.Errorf("%d places; want %d at most", n, places)
	}
	_, err := w.LastRequest(t.Context(), phone)
	want(t, "Asked after the whole ring", err, token.ErrUnknown)
	_, err = w.LastRequest(t.Context(), laptop)
	want(t, "Asked by who got a mail, after the whole ring", err, token.ErrUnknown)
	want(t, "the code of who got a mail", w.guess("s", laptop, mailed.Code), nil)
	issued := w.issue(late, "bob")
	w.handOver(issued, true)
	want(t, "the code of who asked before the flood", w.guess("s2", tablet, issued.Code), nil)

	// All records expire.
	w.clock.move(25 * time.Hour)
	if n := w.places("flow") + w.places("ring"); n != 0 {
		t.Errorf("%d records a day later; want none", n)
	}
}

func TestD12_RepeatedRequestsOfABrowserKeepItsSlot(t *testing.T) {
	w := newWorld(t)
	w = w.as(func(o *token.Tokens) { o.Ring = new(token.Ring) })
	for range 60 {
		w.ask(laptop, "who@example.com")
		w.ask(phone, "ann@example.com")
		w.clock.move(time.Hour)
	}
	if got, err := w.LastRequest(t.Context(), laptop); err != nil || got.Address != "who@example.com" {
		t.Errorf("Asked = %v, %v; want what was asked for", got.Address, err)
	}
	if n := w.places("ring"); n > 4 {
		t.Errorf("%d places for two browsers over two days; want a few", n)
	}
	w.clock.move(24 * time.Hour)
	_, err := w.LastRequest(t.Context(), laptop)
	want(t, "Asked a day later", err, token.ErrUnknown)
}

func TestT11_FortyGuessesAnHourInAllBrowsers(t *testing.T) {
	w := newWorld(t)
	guesses := func(n int) {
		t.Helper()
		for i := range n {
			browser := fmt.Sprintf("browser-%s-%d", w.clock.now(), i)
			// At either of their addresses.
			a := address.Address(fmt.Sprintf("ann%d@example.com", i%2))
			issued := w.mail(browser, a, "ann")
			for range token.MaxGuesses {
				want(t, "a wrong code", w.guess("s", browser, "0000-0000"), token.ErrWrongCode)
			}
			ops, err := w.Refused(context.Background(), issued.ID) // make room for the next link
			w.must(err)
			w.must(w.Store.Apply(context.Background(), ops...))
		}
	}
	guesses(token.GuessesPerHour/token.MaxGuesses - 1)
	issued := w.mail(laptop, "ann0@example.com", "ann")
	for range token.MaxGuesses {
		want(t, "a wrong code", w.guess("s", tablet, "0000-0000"), token.ErrWrongCode)
	}
	for i := range 20 { // 35 so far, so five of these are compared
		browser := fmt.Sprint("more-", i)
		w.ask(browser, "ann0@example.com")
	}
	for range token.MaxGuesses - 1 {
		want(t, "a wrong code", w.guess("s", laptop, "0000-0000"), token.ErrWrongCode)
	}
	want(t, "the fortieth, right", w.guess("s", laptop, issued.Code), nil)

	issued = w.mail(laptop, "ann0@example.com", "ann")
	other := w.mail(phone, "bob@example.com", "bob")
	want(t, "the forty-first, right", w.guess("s2", laptop, issued.Code), token.ErrWrongCode)
	want(t, "another contact's", w.guess("s2", phone, other.Code), nil)
	want(t, "the link", w.spend("s3", issued.Token, phone), nil)

	w.clock.move(time.Hour)
	issued = w.mail(laptop, "ann1@example.com", "ann")
	want(t, "an hour later", w.guess("s4", laptop, issued.Code), nil)
	issued = w.mail(laptop, "ann1@example.com", "ann")
	w.clock.move(-2 * time.Minute)
	want(t, "by another machine's clock", w.guess("s5", laptop, issued.Code), nil)
}

func TestD10_ParallelGuessesInManyBrowsersAreLimited(t *testing.T) {
	w := newWorld(t)
	judged := func() int {
		rec, err := w.db.Get(t.Context(), store.Key{Firm: w.Firm, Bucket: "tries", ID: "ann"})
		w.must(err)
		return len(rec.Value)
	}
	// The requests may be old; only the time of the guess counts.
	var browsers []string
	for i := range 20 {
		browser := fmt.Sprint("browser-", i)
		issued := w.mail(browser, "ann@example.com", "ann")
		ops, err := w.Refused(context.Background(), issued.ID)
		w.must(err)
		w.must(w.Store.Apply(context.Background(), ops...))
		browsers = append(browsers, browser)
	}
	for _, err := range atOnce(100, func(i int) error { return w.guess("s", browsers[i%20], "0000-0000") }) {
		if !errors.Is(err, token.ErrWrongCode) {
			t.Errorf("a wrong code = %v; want ErrCode", err)
		}
	}
	full := judged()
	issued := w.mail(laptop, "ann@example.com", "ann")
	want(t, "the right code after a hundred guesses", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
	if n := judged(); n != full {
		t.Errorf("the record of the guesses grew from %d to %d bytes; want no more than forty guesses in it", full, n)
	}
}

func TestT11_ARightCodeFailsOverTheLimit(t *testing.T) {
	w := newWorld(t)
	limited := func(browser, code string) error {
		_, err := w.enter("in "+browser, func() (token.AuthResult, error) { return w.Guess(context.Background(), browser, code, true) })
		return err
	}
	issued := w.mail(laptop, "ann@example.com", "ann")
	want(t, "the right code, limited", limited(laptop, issued.Code), token.ErrWrongCode)
	want(t, "the right code", w.guess("s", laptop, issued.Code), nil)

	issued = w.mail(laptop, "ann@example.com", "ann")
	for range token.MaxGuesses {
		want(t, "the right code, limited", limited(laptop, issued.Code), token.ErrWrongCode)
	}
	err := limited(laptop, issued.Code)
	want(t, "once more", err, token.ErrWrongCode)
	want(t, "once more", err, token.ErrNoGuessesLeft)
	want(t, "the right code after five limited ones", w.guess("s", laptop, issued.Code), token.ErrWrongCode)

	ask := token.MailRequest{ID: "known", Address: "ann@example.com", Browser: phone, Device: "device", Known: true, At: w.clock.now()}
	w.must(w.Request(t.Context(), ask))
	issued = w.issue(ask, "ann")
	w.handOver(issued, true)
	want(t, "the right code on a known device, limited", limited(phone, issued.Code), nil)
}

func TestT15_KnownDevicesHaveReservedSlots(t *testing.T) {
	w := newWorld(t)
	known := func(device string) token.MailRequest {
		ask := token.MailRequest{ID: fmt.Sprint("known-", w.asks.Add(1)), Address: "ann@example.com", Browser: laptop, Device: device, Known: true, At: w.clock.now()}
		w.must(w.Request(t.Context(), ask))
		return ask
	}
	for range token.MaxActive {
		w.handOver(w.issue(w.ask(phone, "ann@example.com"), "ann"), true)
	}
	unknown := token.MailRequest{ID: "u", Address: "ann@example.com", Browser: laptop, Device: "tells tales", At: w.clock.now()}
	_, err := w.Issue(t.Context(), unknown, token.Recipient{Contact: "ann", Address: unknown.Address})
	want(t, "a fourth from nowhere", err, token.ErrTooMany)
	for range token.MaxActive {
		w.handOver(w.issue(known("one"), "ann"), true)
	}
	_, err = w.Issue(t.Context(), known("one"), token.Recipient{Contact: "ann", Address: "ann@example.com"})
	want(t, "a fourth of one device", err, token.ErrTooMany)
	w.issue(known("two"), "ann")
}
