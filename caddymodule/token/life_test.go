package token_test

import (
	"errors"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

func TestT14_LifeBeginsAtTheHandOver(t *testing.T) {
	type step func(w *world, issued token.Issued)
	wait := func(d time.Duration) step { return func(w *world, _ token.Issued) { w.clock.move(d) } }
	try := func(w *world, issued token.Issued) { w.handOver(issued, false) }
	taken := func(w *world, issued token.Issued) { w.handOver(issued, true) }
	giveUp := func(w *world, issued token.Issued) {
		ops, err := w.GiveUp(w.t.Context(), issued.ID)
		w.must(err)
		w.must(w.Store.Apply(w.t.Context(), ops...))
	}
	const sending = 2 * time.Minute
	for _, c := range []struct {
		name  string
		steps []step
		left  time.Duration // from then on
	}{
		{"taken at once", []step{try, taken}, life},
		{"taken by a slow server", []step{try, wait(time.Minute), taken}, life},
		{"taken after most of an hour", []step{wait(59 * time.Minute), try, taken}, life},
		{"tried, and we died before the answer", []step{try}, sending + life},
		{"tried twice", []step{try, wait(5 * time.Minute), try, wait(time.Second), taken}, life},
		{"taken twice, since we died after the first", []step{try, taken, wait(time.Minute), try, taken}, life},
		{"taken, then given up for some reason", []step{try, taken, wait(time.Minute), giveUp}, life - time.Minute},
		{"tried and given up", []step{try, wait(time.Minute), giveUp}, sending + life - time.Minute},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			issued := w.issue(w.ask(laptop, "ann@example.com"), "ann")
			for _, do := range c.steps {
				do(w, issued)
			}
			w.clock.move(c.left - time.Second)
			_, err := w.Peek(t.Context(), issued.Token)
			want(t, "Peek a second before the end", err, nil)
			_, err = w.Guess(t.Context(), laptop, issued.Code, false)
			want(t, "Guess a second before the end", err, nil)
			w.clock.move(time.Second)
			link, err := w.Peek(t.Context(), issued.Token)
			if !errors.Is(err, token.ErrInactive) || link.Address != "ann@example.com" {
				t.Errorf("Peek at the end = %v, %v; want the way back and ErrOver", link.Address, err)
			}
			want(t, "Spend at the end", w.spend("s", issued.Token, laptop), token.ErrInactive)
			_, err = w.Try(t.Context(), issued.Token)
			want(t, "Try at the end", err, token.ErrInactive)
			want(t, "Guess at the end", w.guess("s", laptop, issued.Code), token.ErrWrongCode)
		})
	}
}

func TestT14_TheLongestLifeFitsTheRecords(t *testing.T) {
	w := newWorld(t)
	w = w.as(func(o *token.Tokens) { o.Life = token.MaxLife })
	issued := w.issue(w.ask(laptop, "ann@example.com"), "ann")
	w.clock.move(token.MaxMailDelay)
	w.handOver(issued, false)
	w.clock.move(time.Minute)
	w.handOver(issued, true)
	w.clock.move(token.MaxLife - time.Second)
	_, err := w.Peek(t.Context(), issued.Token)
	want(t, "Peek", err, nil)
	want(t, "Guess", w.guess("s", laptop, issued.Code), nil)
}

func TestT14_SettingAClockBackReactivatesNoLink(t *testing.T) {
	w := newWorld(t)
	used := w.mail(laptop, "ann@example.com", "ann")
	w.must(w.spend("s", used.Token, phone))
	expired := w.mail(tablet, "bob@example.com", "bob")
	w.clock.move(life)
	for _, back := range []time.Duration{0, -time.Hour, -24 * time.Hour} {
		w.clock.move(back)
		for name, issued := range map[string]token.Issued{"used": used, "expired": expired} {
			_, err := w.Peek(t.Context(), issued.Token)
			want(t, name+" link after "+back.String(), err, token.ErrInactive)
		}
		want(t, "expired code after "+back.String(), w.guess("s2", tablet, expired.Code), token.ErrWrongCode)
	}
	w.clock.move(24 * time.Hour)
	late := w.issue(w.ask(laptop, "di@example.com"), "di")
	w.clock.move(40 * time.Minute)
	w.handOver(late, true)
	w.clock.move(life)
	w.clock.move(-30 * time.Minute) // to before the hand-over, but after the request
	_, err := w.Peek(t.Context(), late.Token)
	want(t, "a link that was mailed late, after -30m", err, token.ErrInactive)

	// The clocks of two machines may differ a little without locking anybody out.
	issued := w.mail(phone, "cy@example.com", "cy")
	w.clock.move(-90 * time.Second)
	_, err = w.Peek(t.Context(), issued.Token)
	want(t, "a link from a clock that is 90 s ahead", err, nil)
}

func TestWayBack_AnExpiredLinkIsKnownForThirtyDays(t *testing.T) {
	w := newWorld(t)
	issued := w.mail(laptop, "ann@example.com", "ann")
	w.clock.move(token.LinkRetention - time.Second)
	link, err := w.Peek(t.Context(), issued.Token)
	if !errors.Is(err, token.ErrInactive) || link.Address != "ann@example.com" || link.To != "/orders/7" {
		t.Errorf("Peek after almost 30 days = %+v, %v; want the way back, ErrOver", link, err)
	}
	w.clock.move(time.Second)
	link, err = w.Peek(t.Context(), issued.Token)
	if !errors.Is(err, token.ErrUnknown) || link != (token.Link{}) {
		t.Errorf("Peek after 30 days = %+v, %v; want nothing, ErrUnknown", link, err)
	}
}

// Before a hand-over nobody can have the link: a link whose hand-over was lost from the
// store must not last longer than any other.
func TestT14_NoLinkIsActiveBeforeItsHandOver(t *testing.T) {
	w := newWorld(t)
	dead := func(what string, issued token.Issued) {
		t.Helper()
		_, err := w.Peek(t.Context(), issued.Token)
		want(t, "Peek "+what, err, token.ErrInactive)
		want(t, "Spend "+what, w.spend("s", issued.Token, laptop), token.ErrInactive)
		want(t, "Guess "+what, w.guess("s", laptop, issued.Code), token.ErrWrongCode)
	}
	issued := w.issue(w.ask(laptop, "ann@example.com"), "ann")
	dead("before the hand-over", issued)
	w.handOver(issued, false)
	_, err := w.Peek(t.Context(), issued.Token)
	want(t, "Peek after it", err, nil)
	k := store.Key{Firm: "example", Bucket: "handed-over", ID: issued.ID}
	early, err := w.Store.Get(t.Context(), k)
	w.must(err)
	w.must(w.Store.Apply(t.Context(), store.Delete(k)))
	dead("when the hand-over was lost", issued)
	other := w.mail(phone, "ann@example.com", "ann")
	late, err := w.Store.Get(t.Context(), store.Key{Firm: "example", Bucket: "handed-over", ID: other.ID})
	w.must(err)
	w.must(w.Store.Apply(t.Context(), store.Put(k, late.Value, late.Expires)))
	dead("with the hand-over of another mail", issued)
	for _, forged := range []string{"", "1a99999999999999", "1t99999999999999", string(early.Value[:len(early.Value)-1])} {
		w.must(w.Store.Apply(t.Context(), store.Put(k, []byte(forged), time.Time{})))
		dead("with a forged hand-over", issued)
	}
	w.must(w.Store.Apply(t.Context(), store.Put(k, early.Value, early.Expires)))
	_, err = w.Peek(t.Context(), issued.Token)
	want(t, "Peek with its own hand-over", err, nil)
}

func TestHandOver_FailsOnceTheLinkHasEnded(t *testing.T) {
	w := newWorld(t)
	_, err := w.HandOver(t.Context(), "none", w.clock.now(), false)
	want(t, "HandOver of no link", err, token.ErrUnknown)

	issued := w.issue(w.ask(laptop, "ann@example.com"), "ann")
	_, err = w.HandOver(t.Context(), issued.ID, w.clock.now().Add(token.MaxMailDelay), false)
	want(t, "HandOver at the end of Patience", err, nil)
	_, err = w.HandOver(t.Context(), issued.ID, w.clock.now().Add(token.MaxMailDelay+1), false)
	want(t, "HandOver after Patience", err, token.ErrInactive)
	_, err = w.HandOver(t.Context(), issued.ID, w.clock.now().Add(token.MaxMailDelay+time.Minute), true)
	want(t, "the late answer of a server", err, nil)

	w.handOver(issued, true)
	w.must(w.spend("s", issued.Token, phone)) // its code is still active, but the mail is no longer useful
	_, err = w.HandOver(t.Context(), issued.ID, w.clock.now(), false)
	want(t, "HandOver of a link that was used elsewhere", err, token.ErrInactive)
	here := w.issue(w.ask(laptop, "ann@example.com"), "ann")
	w.handOver(here, true)
	w.must(w.spend("s2", here.Token, laptop))
	_, err = w.HandOver(t.Context(), here.ID, w.clock.now(), false)
	want(t, "HandOver of a link that was used", err, token.ErrInactive)
	_, err = w.HandOver(t.Context(), issued.ID, w.clock.now(), true)
	want(t, "the answer of a server after the link was used", err, nil)
}

func TestHandOver_AWaitingMailKeepsItsLink(t *testing.T) {
	// With a short life, a link may expire before the next attempt at its mail; a new
	// request meanwhile must not end the waiting mail's link.
	w := newWorld(t)
	w = w.as(func(o *token.Tokens) { o.Life = time.Minute })
	waiting := w.issue(w.ask(laptop, "ann@example.com"), "ann")
	w.handOver(waiting, false)
	w.clock.move(20 * time.Minute)
	w.issue(w.ask(phone, "ann@example.com"), "ann")
	w.handOver(waiting, false)
	w.handOver(waiting, true)
	want(t, "the link that was mailed late", w.spend("s", waiting.Token, laptop), nil)
}

func TestGiveUp_FreesTheSlotOfAnUndeliveredLink(t *testing.T) {
	w := newWorld(t)
	var all []token.Issued
	for range token.MaxActive {
		issued := w.issue(w.ask(laptop, "ann@example.com"), "ann")
		w.handOver(issued, false)
		all = append(all, issued)
	}
	w.clock.move(30 * time.Minute) // every attempt has failed
	ask := w.ask(laptop, "ann@example.com")
	if _, err := w.Issue(t.Context(), ask, token.Recipient{Contact: "ann", Address: ask.Address}); !errors.Is(err, token.ErrTooMany) {
		t.Fatalf("Issue while three mails wait = %v; want ErrTooMany", err)
	}
	ops, err := w.GiveUp(t.Context(), all[0].ID)
	w.must(err)
	w.must(w.Store.Apply(t.Context(), ops...))
	w.issue(ask, "ann")
	for _, id := range []string{"none", ""} {
		if ops, err := w.GiveUp(t.Context(), id); len(ops) > 0 || err != nil {
			t.Errorf("GiveUp(%q) = %d Ops, %v; want none", id, len(ops), err)
		}
	}
}
