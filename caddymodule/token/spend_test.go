package token_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

var (
	laptop = token.BrowserOf("the cookie of the laptop")
	phone  = token.BrowserOf("the cookie of the phone")
	tablet = token.BrowserOf("the cookie of the tablet")
)

// atOnce runs n calls that start together and returns their errors.
func atOnce(n int, call func(i int) error) []error {
	errs := make([]error, n)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { <-begin; errs[i] = call(i) })
	}
	close(begin)
	all.Wait()
	return errs
}

// oneWinner checks that one call succeeded and that all others failed with lost.
func oneWinner(t *testing.T, errs []error, lost error) {
	t.Helper()
	winners := 0
	for _, err := range errs {
		switch {
		case err == nil:
			winners++
		case !errors.Is(err, lost):
			t.Errorf("a loser was told %v; want %v", err, lost)
		}
	}
	if winners != 1 {
		t.Errorf("%d of %d got in; want 1", winners, len(errs))
	}
}

func TestT03_ParallelUsesOfALinkSignInOnce(t *testing.T) {
	for name, at := range map[string]string{"in the asking browser": laptop, "in another": phone, "in one without a cookie": ""} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			issued := w.mail(laptop, "ann@example.com", "ann")
			errs := atOnce(100, func(i int) error { return w.spend(fmt.Sprint(i), issued.Token, at) })
			oneWinner(t, errs, token.ErrInactive)
			if n := w.sessions(); n != 1 {
				t.Errorf("%d sessions; want 1", n)
			}
			want(t, "Spend once more", w.spend("again", issued.Token, at), token.ErrInactive)
		})
	}
}

func TestT03_ParallelUsesOfACodeSignInOnce(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	errs := atOnce(100, func(i int) error { return w.guess(fmt.Sprint(i), laptop, issued.Code) })
	oneWinner(t, errs, token.ErrWrongCode)
	if n := w.sessions(); n != 1 {
		t.Errorf("%d sessions; want 1", n)
	}
}

func TestT03_ParallelUsesOfLinkAndCodeSignInOnce(t *testing.T) {
	w := newWorld(t)
	for round := range 20 {
		issued := w.mail(laptop, "ann@example.com", "ann")
		var in atomic.Int32
		atOnce(8, func(i int) error {
			try := func() error { return w.spend(fmt.Sprint(round, i), issued.Token, laptop) }
			if i%2 == 1 {
				try = func() error { return w.guess(fmt.Sprint(round, i), laptop, issued.Code) }
			}
			if try() == nil {
				in.Add(1)
			}
			return nil
		})
		if in.Load() != 1 {
			t.Fatalf("round %d: %d got in; want 1", round, in.Load())
		}
	}
}

func TestK08_ALinkWorksOnceAcrossTwoNodes(t *testing.T) {
	w := newWorld(t)
	other := w.as(func(*token.Tokens) {}) // shares nothing but the store
	const rounds = 1000
	var ops []store.Op
	links := make([]token.Issued, rounds)
	for i := range links {
		var err error
		ask := token.MailRequest{ID: fmt.Sprint(i), Address: "ann@example.com", Browser: fmt.Sprint("browser-", i), At: w.clock.now()}
		links[i], err = w.Issue(context.Background(), ask, token.Recipient{Contact: fmt.Sprintf("contact-%d", i), Address: ask.Address})
		w.must(err)
		ops = append(ops, links[i].Ops...)
	}
	w.must(w.Store.Apply(context.Background(), ops...))
	ops = nil
	for _, link := range links {
		handed, err := w.HandOver(context.Background(), link.ID, w.clock.now(), true)
		w.must(err)
		ops = append(ops, handed...)
	}
	w.must(w.Store.Apply(context.Background(), ops...))

	var lanes sync.WaitGroup
	for lane := range 20 { // in parallel, so that they share commits
		lanes.Go(func() {
			for i := lane; i < rounds; i += 20 {
				errs := atOnce(2, func(n int) error {
					return []*world{w, other}[n].spend(fmt.Sprint(i, n), links[i].Token, phone)
				})
				if (errs[0] == nil) == (errs[1] == nil) {
					t.Errorf("round %d: %v and %v; want one winner", i, errs[0], errs[1])
				}
			}
		})
	}
	lanes.Wait()
	if n := w.sessions(); n != rounds {
		t.Errorf("%d sessions; want %d", n, rounds)
	}
}

func TestT05_InvalidTokensAreUnknown(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	for name, s := range map[string]string{
		"nothing":           "",
		"NUL":               "\x00",
		"null":              "null",
		"26 NULs":           strings.Repeat("\x00", 26),
		"26 spaces":         strings.Repeat(" ", 26),
		"43 NULs":           strings.Repeat("\x00", 43),
		"one byte less":     issued.Token[:25],
		"one byte more":     issued.Token + "A",
		"another case":      strings.ToUpper(issued.Token),
		"one bit off":       issued.Token[:25] + map[bool]string{true: "b", false: "a"}[issued.Token[25] == 'a'],
		"its own stored ID": issued.ID,
		"its code":          issued.Code,
		"a mebibyte":        strings.Repeat("A", 1<<20),
		"a random one":      secret.Random(),
	} {
		link, err := w.Peek(t.Context(), s)
		if !errors.Is(err, token.ErrUnknown) || link != (token.Link{}) {
			t.Errorf("Peek(%s) = %+v, %v; want nothing, ErrUnknown", name, link, err)
		}
		want(t, "Spend("+name+")", w.spend("s", s, laptop), token.ErrUnknown)
		_, err = w.Try(t.Context(), s)
		want(t, "Try("+name+")", err, token.ErrUnknown)
	}
	// Input of the wrong shape costs no read.
	seen := &watched{Store: w.db}
	asking := w.as(func(o *token.Tokens) { o.Store = seen })
	for _, s := range []string{"", issued.Token + "A", strings.Repeat("A", 1<<20)} {
		_, _ = asking.Peek(t.Context(), s)
		_, _ = asking.Guess(t.Context(), laptop, s, false)
		_, _ = asking.Guess(t.Context(), "", "abcd-efgh", false)
	}
	if len(seen.calls) > 0 {
		t.Errorf("what is no token, code or browser asked the store for %q", seen.calls)
	}
	link, err := w.Peek(t.Context(), issued.Token)
	if err != nil || link.Contact != "ann" || link.Address != "ann@example.com" || link.To != "/orders/7" || link.Browser != laptop {
		t.Errorf("Peek(the token) = %+v, %v; want ann's link", link, err)
	}
}

func TestT15_ASignInEndsTheBrowsersLinksAndCodes(t *testing.T) {
	type mailed struct{ a, a2, b token.Issued } // requested by laptop, laptop, tablet
	for _, c := range []struct {
		name         string
		enter        func(w *world, m mailed) error
		links, codes string // active ones; all others have ended
	}{
		{"a link in the browser that asked", func(w *world, m mailed) error { return w.spend("s", m.a.Token, laptop) }, "b", "b"},
		{"the newest link in the browser that asked", func(w *world, m mailed) error { return w.spend("s", m.a2.Token, laptop) }, "b", "b"},
		{"a code", func(w *world, m mailed) error { return w.guess("s", laptop, m.a.Code) }, "b", "b"},
		{"a link in another browser", func(w *world, m mailed) error { return w.spend("s", m.a.Token, phone) }, "b", "a a2 b"},
		{"a link in a browser without a cookie", func(w *world, m mailed) error { return w.spend("s", m.a.Token, "") }, "b", "a a2 b"},
		{"a link in the browser that asked for another", func(w *world, m mailed) error { return w.spend("s", m.b.Token, laptop) }, "", "b"},
		{"the last of three in yet another browser", func(w *world, m mailed) error { return w.spend("s", m.b.Token, phone) }, "a a2", "a a2 b"},
		{"two of them one after the other", func(w *world, m mailed) error {
			err := w.spend("s", m.b.Token, phone)
			return errors.Join(err, w.guess("s2", tablet, m.b.Code))
		}, "a a2", "a a2"},
		{"each in its own browser", func(w *world, m mailed) error {
			return errors.Join(w.spend("s", m.a2.Token, laptop), w.spend("s2", m.b.Token, tablet))
		}, "", ""},
		{"something that needs neither, in the browser that asked", func(w *world, m mailed) error {
			ops, err := w.EndOf(context.Background(), "ann", laptop)
			return errors.Join(err, w.Store.Apply(context.Background(), ops...))
		}, "b", "b"},
		{"something that needs neither, in another browser", func(w *world, m mailed) error {
			for _, browser := range []string{phone, ""} {
				if ops, err := w.EndOf(context.Background(), "ann", browser); len(ops) > 0 || err != nil {
					return fmt.Errorf("%d Ops, %v; want none", len(ops), err)
				}
			}
			return nil
		}, "a a2 b", "a a2 b"},
		{"everything of the contact is revoked", func(w *world, m mailed) error {
			op, err := w.RevokeAll("ann")
			return errors.Join(err, w.Store.Apply(context.Background(), op))
		}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			m := mailed{a: w.mail(laptop, "ann@example.com", "ann"), a2: w.mail(laptop, "ann@example.com", "ann"), b: w.mail(tablet, "ann@example.com", "ann")}
			w.must(c.enter(w, m))
			for name, issued := range map[string]token.Issued{"a": m.a, "a2": m.a2, "b": m.b} {
				is := func(among string, over error) error {
					if slices.Contains(strings.Fields(among), name) {
						return nil
					}
					return over
				}
				browser := map[string]string{"a": laptop, "a2": laptop, "b": tablet}[name]
				_, err := w.Spend(t.Context(), issued.Token, phone)
				want(t, "link "+name, err, is(c.links, token.ErrInactive))
				_, err = w.Guess(t.Context(), browser, issued.Code, false) // never applied
				want(t, "code "+name, err, is(c.codes, token.ErrWrongCode))
			}
		})
	}
}

// Several people who share one mailbox request mails and sign in at the same time, each in
// their own browser: all of them sign in, each once.
func TestT15_PeopleWhoShareAMailboxDontEndEachOthersLinks(t *testing.T) {
	w := newWorld(t)
	browsers := []string{laptop, phone, tablet}
	for round := range 10 {
		var mails []token.Issued
		for _, b := range browsers {
			mails = append(mails, w.mail(b, "info@example.com", "office"))
		}
		var in [3]atomic.Int32
		atOnce(12, func(i int) error {
			who := i % 3
			try := func() error { return w.spend(fmt.Sprint(round, i), mails[who].Token, browsers[who]) }
			if i >= 6 {
				try = func() error { return w.guess(fmt.Sprint(round, i), browsers[who], mails[who].Code) }
			}
			if try() == nil {
				in[who].Add(1)
			}
			return nil
		})
		for who := range in {
			if n := in[who].Load(); n != 1 {
				t.Fatalf("round %d: %s got in %d times; want once", round, browsers[who], n)
			}
		}
		w.clock.move(time.Hour) // guesses at the codes of one contact are limited
	}
}

func TestEntered(t *testing.T) {
	w := newWorld(t)
	check := func(when string, is token.Entered) {
		t.Helper()
		got, err := w.Entered(t.Context(), laptop)
		if is == (token.Entered{}) {
			want(t, when+": Entered", err, token.ErrUnknown)
		}
		if got != is {
			t.Errorf("%s: Entered = %+v; want %+v", when, got, is)
		}
	}
	none := token.Entered{}
	check("at first", none)
	issued := w.mail(laptop, "ann@example.com", "ann")
	check("while the browser waits", none)
	w.must(w.spend("s", issued.Token, phone))
	check("after the link was used elsewhere", none)
	w.must(w.guess("s2", laptop, issued.Code))
	check("after the code", token.Entered{Contact: "ann", To: "/orders/7", ByCode: true})
	issued = w.mail(laptop, "bob@example.com", "bob")
	check("once it has asked for something else", none)
	w.must(w.spend("s3", issued.Token, laptop))
	check("after the link", token.Entered{Contact: "bob", To: "/orders/7"})
}

func TestT15_ACodeWhoseLinkWasUsedExpires(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	w.must(w.spend("s", issued.Token, phone))
	w.clock.move(life)
	want(t, "the code after its life", w.guess("s2", laptop, issued.Code), token.ErrWrongCode)
}

func TestT15_ASignInElsewhereFreesTheLinksSlot(t *testing.T) {
	w := newWorld(t)
	for range token.MaxActive {
		w.mail(laptop, "ann@example.com", "ann")
	}
	last := w.ask(tablet, "ann@example.com")
	if _, err := w.Issue(t.Context(), last, token.Recipient{Contact: "ann", Address: last.Address}); !errors.Is(err, token.ErrTooMany) {
		t.Fatalf("a fourth link: %v; want ErrTooMany", err)
	}
	if _, err := w.Issue(t.Context(), last, token.Recipient{Contact: "bob", Address: last.Address}); err != nil {
		t.Fatalf("somebody else's first link: %v", err)
	}
	one, err := w.Peek(t.Context(), w.mail(phone, "bob@example.com", "bob").Token)
	w.must(err)
	if one.Contact != "bob" {
		t.Fatalf("bob's link is %s's", one.Contact)
	}
	w.clock.move(life - 1)
	if _, err := w.Issue(t.Context(), last, token.Recipient{Contact: "ann", Address: last.Address}); !errors.Is(err, token.ErrTooMany) {
		t.Fatalf("a fourth link at the end of the others' life: %v; want ErrTooMany", err)
	}
	w.clock.move(1)
	last.At = w.clock.now()
	fourth := w.issue(last, "ann")
	w.handOver(fourth, true)
	w.must(w.spend("s", fourth.Token, phone))
	for range token.MaxActive {
		w.mail(laptop, "ann@example.com", "ann")
	}
}

func TestT15_ParallelIssueRespectsMaxLive(t *testing.T) {
	w := newWorld(t)
	var made atomic.Int32
	for _, err := range atOnce(12, func(i int) error {
		ask := token.MailRequest{ID: fmt.Sprint(i), Address: "ann@example.com", Browser: token.BrowserOf(fmt.Sprint(i)), At: w.clock.now()}
		for {
			issued, err := w.Issue(context.Background(), ask, token.Recipient{Contact: "ann", Address: ask.Address})
			if err != nil {
				return err
			}
			if err = w.Store.Apply(context.Background(), issued.Ops...); err == nil {
				made.Add(1)
			}
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}) {
		if err != nil && !errors.Is(err, token.ErrTooMany) {
			t.Error(err)
		}
	}
	if made.Load() != token.MaxActive {
		t.Errorf("%d links were made; want %d", made.Load(), token.MaxActive)
	}
}

func TestT18_RevokeAllStopsConcurrentIssueAndSpend(t *testing.T) {
	w := newWorld(t)
	first := w.mail(laptop, "ann@example.com", "ann")
	byLink, err := w.Spend(t.Context(), first.Token, phone)
	w.must(err)
	byCode, err := w.Guess(t.Context(), laptop, first.Code, false)
	w.must(err)
	ask := w.ask(tablet, "ann@example.com")
	issued, err := w.Issue(t.Context(), ask, token.Recipient{Contact: "ann", Address: ask.Address})
	w.must(err)

	op, err := w.RevokeAll("ann")
	w.must(err)
	w.must(w.Store.Apply(t.Context(), op))

	want(t, "a link's grant from before", w.Store.Apply(t.Context(), byLink.Ops...), store.ErrConflict)
	want(t, "a code's grant from before", w.Store.Apply(t.Context(), byCode.Ops...), store.ErrConflict)
	want(t, "a link made before", w.Store.Apply(t.Context(), issued.Ops...), store.ErrConflict)

	// Nor if nothing was active before.
	first2, err := w.Issue(t.Context(), ask, token.Recipient{Contact: "bob", Address: ask.Address})
	w.must(err)
	op, err = w.RevokeAll("bob")
	w.must(err)
	w.must(w.Store.Apply(t.Context(), op))
	want(t, "a first link made before", w.Store.Apply(t.Context(), first2.Ops...), store.ErrConflict)
}

func TestT17_TwoFirmsOnOneStore(t *testing.T) {
	w := newWorld(t)
	other := w.as(func(o *token.Tokens) { o.Firm = "other" })
	issued := w.mail(laptop, "ann@example.com", "ann")

	_, err := other.Peek(t.Context(), issued.Token)
	want(t, "the link at another firm", err, token.ErrUnknown)
	want(t, "the code at another firm", other.guess("s", laptop, issued.Code), token.ErrWrongCode)
	_, err = other.LastRequest(t.Context(), laptop)
	want(t, "Asked at another firm", err, token.ErrUnknown)
	_, err = other.HandOver(t.Context(), issued.ID, w.clock.now(), false)
	want(t, "HandOver at another firm", err, token.ErrUnknown)

	op, err := other.RevokeAll("ann")
	w.must(err)
	w.must(w.Store.Apply(t.Context(), op))
	for range token.MaxActive {
		other.mail(laptop, "ann@example.com", "ann")
	}
	w.must(w.spend("s", issued.Token, laptop))

	// Not even if somebody moves the records: they work at no other key.
	for _, bucket := range []string{"flow", "link", "live"} {
		all, err := w.db.Scan(t.Context(), "example", bucket, "", "", 100)
		w.must(err)
		if len(all) == 0 {
			t.Fatalf("no %s records", bucket)
		}
		for _, rec := range all {
			w.must(w.db.Apply(t.Context(), store.Put(store.Key{Firm: "third", Bucket: bucket, ID: rec.Key.ID}, rec.Value, rec.Expires)))
		}
	}
	third := w.as(func(o *token.Tokens) { o.Firm = "third" })
	_, err = third.LastRequest(t.Context(), phone)
	want(t, "Asked without a record", err, token.ErrUnknown)
	if _, err = third.HandOver(t.Context(), issued.ID, w.clock.now(), false); err == nil || errors.Is(err, token.ErrInactive) {
		t.Errorf("a link moved to another firm: %v; want that it doesn't open", err)
	}
}

func TestTry_AllowsFiveComparisonsInParallel(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	compared := 0
	for _, err := range atOnce(100, func(int) error { _, err := w.Try(context.Background(), issued.Token); return err }) {
		if err == nil {
			compared++
		} else {
			want(t, "Try", err, token.ErrInactive)
		}
	}
	if compared != token.MaxGuesses {
		t.Errorf("%d addresses were compared; want %d", compared, token.MaxGuesses)
	}
	link, err := w.Try(t.Context(), issued.Token)
	if !errors.Is(err, token.ErrInactive) || link.Address != "ann@example.com" {
		t.Errorf("Try after that = %+v, %v; want the link and ErrOver, to send a new one", link, err)
	}
	want(t, "the code after that", w.guess("s", laptop, issued.Code), nil)

	issued = w.mail(laptop, "ann@example.com", "ann")
	for range token.MaxGuesses {
		_, err := w.Try(t.Context(), issued.Token)
		w.must(err)
	}
	want(t, "the fifth address, right, elsewhere", w.spend("s2", issued.Token, phone), nil)

	issued = w.mail(laptop, "ann@example.com", "ann")
	for range 2 * token.MaxGuesses { // a scanner that fills in forms
		_, _ = w.Try(t.Context(), issued.Token)
	}
	want(t, "the link in the browser that asked", w.spend("s3", issued.Token, laptop), nil)
	_, err = w.Try(t.Context(), issued.Token)
	want(t, "Try of a used link", err, token.ErrInactive)
}

func TestSpend_WritesNothingByItself(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	seen := &watched{Store: w.db}
	looking := w.as(func(o *token.Tokens) { o.Store = seen })
	for range 3 {
		_, err := looking.Peek(t.Context(), issued.Token)
		w.must(err)
		_, err = looking.Spend(t.Context(), issued.Token, laptop)
		w.must(err)
	}
	for _, call := range seen.calls {
		if !strings.HasPrefix(call, "get ") {
			t.Errorf("a look at a link did %q; want reads only", call)
		}
	}
	w.must(w.spend("s", issued.Token, laptop))
}

func TestSpend_RemovesTheRequestsOfTheBrowser(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	w.ask(tablet, "bob@example.com")
	w.must(w.spend("s", issued.Token, laptop))
	_, err := w.LastRequest(t.Context(), laptop)
	want(t, "Asked after the sign-in", err, token.ErrUnknown)
	if a, err := w.LastRequest(t.Context(), tablet); err != nil || a.Address != "bob@example.com" {
		t.Errorf("Asked in another browser = %v, %v; want bob's", a.Address, err)
	}
	// Requests of other contacts in the same browser stay.
	issued = w.mail(laptop, "ann@example.com", "ann")
	bobs := w.mail(laptop, "bob@example.com", "bob")
	w.must(w.guess("s2", laptop, issued.Code))
	want(t, "another contact's code in that browser", w.guess("s3", laptop, bobs.Code), nil)
}
