package session_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func TestS01_SignInMakesANewIDAndEndsTheOld(t *testing.T) {
	for _, whose := range []string{"ann", "bob"} { // the same contact again, and another
		w := newWorld(t)
		first := w.signIn("ann", nil)
		l := w.live(first)
		second := w.signIn(whose, l)
		if second == first {
			t.Fatal("the second sign-in has the cookie of the first")
		}
		for name, s := range map[string]*session.Sessions{"in memory": w.Sessions, "in the store": w.fresh()} {
			_, err := s.Lookup(t.Context(), first)
			want(t, "the old cookie, "+name, err, session.ErrNone)
			got, err := s.Lookup(t.Context(), second)
			if err != nil || got.Contact != whose || got.ID == l.ID || got.Handle == l.Handle {
				t.Errorf("the new cookie, %s = %+v, %v; want %s's under a new ID", name, got, err, whose)
			}
		}
		ctx, _ := w.Attach(t.Context(), l, "")
		want(t, "a request of the old session", context.Cause(ctx), session.ErrNone)
	}
}

func TestS02_ACookieIsWorthlessAfterSignOut(t *testing.T) {
	w := newWorld(t)
	cookie, other := w.signIn("ann", nil), w.signIn("ann", nil)
	l := w.live(cookie)
	w.live(other)
	w.must(w.End(t.Context(), l.Contact, l.ID))
	_, err := w.Lookup(t.Context(), cookie)
	want(t, "the next request", err, session.ErrNone)
	_, err = w.fresh().Lookup(t.Context(), cookie)
	want(t, "a request after a restart", err, session.ErrNone)
	want(t, "the other device", w.request(other), nil)
	if all, err := w.List(t.Context(), "ann", 0); err != nil || len(all) != 1 {
		t.Errorf("List = %d sessions, %v; want 1", len(all), err)
	}
	w.Seen(t.Context(), l) // by a request that began earlier
	w.clock.move(idle / 2)
	w.Seen(t.Context(), l)
	_, err = w.Lookup(t.Context(), cookie)
	want(t, "a request after a late write", err, session.ErrNone)
	w.must(w.End(t.Context(), l.Contact, l.ID)) // ending it twice has the effect of once
	w.must(w.End(t.Context(), "nobody", "not an ID"))
}

func TestS02_AllOrAllButOneEnd(t *testing.T) {
	w := newWorld(t)
	var cookies []string
	for range 5 {
		cookies = append(cookies, w.signIn("ann", nil))
	}
	bobs := w.signIn("bob", nil)
	here := w.live(cookies[2])
	for _, c := range cookies[:4] { // the last one isn't in memory
		w.live(c)
	}
	n, err := w.EndAll(t.Context(), "ann", here.ID)
	if n != 4 || err != nil {
		t.Errorf("EndAll but one = %d, %v; want 4", n, err)
	}
	for i, c := range cookies {
		ended := session.ErrNone
		if i == 2 {
			ended = nil
		}
		want(t, fmt.Sprintf("session %d of ann", i), w.request(c), ended)
	}
	n, err = w.EndAll(t.Context(), "ann", "")
	if n != 1 || err != nil {
		t.Errorf("EndAll = %d, %v; want 1", n, err)
	}
	want(t, "ann's last", w.request(cookies[2]), session.ErrNone)
	want(t, "bob's", w.request(bobs), nil)
	if n, err := w.EndAll(t.Context(), "ann", ""); n != 0 || err != nil {
		t.Errorf("EndAll of nobody's = %d, %v; want 0", n, err)
	}
}

const ms = time.Millisecond // resolution of the store's clock

func TestS03_BothLimitsAreEnforced(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []time.Duration // a request after each step except the last, after which the session is only looked up
		want  error
	}{
		{"just before the idle limit", []time.Duration{idle - ms}, nil},
		{"at the idle limit", []time.Duration{idle}, session.ErrNone},
		{"used in time", []time.Duration{idle - ms, idle - ms}, nil},
		{"used in time, then not", []time.Duration{idle - ms, idle}, session.ErrNone},
		{"just before the absolute limit", []time.Duration{idle - ms, idle - ms, idle - ms, idle - ms, 3 * ms}, nil},
		{"at the absolute limit", []time.Duration{idle - ms, idle - ms, idle - ms, idle - ms, 4 * ms}, session.ErrNone},
		{"years later", []time.Duration{10 * 365 * 24 * time.Hour}, session.ErrNone},
	} {
		w := newWorld(t)
		cookie := w.signIn("ann", nil)
		w.live(cookie)
		for _, d := range c.steps[:len(c.steps)-1] {
			w.clock.move(d)
			want(t, c.name+": on the way", w.request(cookie), nil)
		}
		w.clock.move(c.steps[len(c.steps)-1])
		stored := w.fresh()
		_, err := w.Lookup(t.Context(), cookie)
		want(t, c.name+", in memory", err, c.want)
		_, err = stored.Lookup(t.Context(), cookie)
		want(t, c.name+", in the store", err, c.want)
		if all, err := stored.List(t.Context(), "ann", 0); err != nil || (len(all) == 1) != (c.want == nil) {
			t.Errorf("%s: List = %d sessions, %v", c.name, len(all), err)
		}
	}
}

func TestS03_ExpiresAt(t *testing.T) {
	w := newWorld(t)
	begun := w.clock.now()
	l := w.live(w.signIn("ann", nil))
	for _, c := range []struct{ wait, want time.Duration }{
		{0, idle},
		{time.Second, idle + time.Second},
		{-time.Second, idle + time.Second}, // setting a clock back extends no session
		{idle - ms, 2*idle - ms},
		{idle - ms, 3*idle - 2*ms},
		{idle - ms, 4*idle - 3*ms},
		{idle - ms, most},
	} {
		w.clock.move(c.wait)
		w.Seen(t.Context(), l)
		if got := w.ExpiresAt(l); !got.Equal(begun.Add(c.want)) {
			t.Errorf("ExpiresAt = %v after the sign-in; want %v", got.Sub(begun), c.want)
		}
	}
}

func TestSeen_WritesOnceInATenthOfTheIdleLimit(t *testing.T) {
	w := newWorld(t)
	l := w.live(w.signIn("ann", nil))
	before := w.store.writes.Load()
	const tenth = idle / 10
	for range 1000 {
		w.clock.move(31 * tenth / 10_000)
		atOnce(4, func(int) { w.Seen(context.Background(), l) })
	}
	if n := w.store.writes.Load() - before; n != 3 {
		t.Errorf("4,000 requests in 3.1 tenths of the idle limit wrote %d times; want 3", n)
	}
	w.clock.move(idle - tenth - 1) // the store's time is at most a tenth old
	_, err := w.fresh().Lookup(t.Context(), w.signIn("bob", nil))
	w.must(err)
	all, err := w.fresh().List(t.Context(), "ann", 0)
	if err != nil || len(all) != 1 {
		t.Fatalf("List after a restart = %d, %v; want ann's session", len(all), err)
	}
}

func TestSeen_ASessionStaysValidIfTheStoreCannotWrite(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	w.live(cookie)
	w.clock.move(idle / 2)
	w.store.away.Store(true)
	reads := w.store.reads.Load()
	for range 100 {
		want(t, "a request while the store is away", w.request(cookie), nil)
	}
	if n := w.store.reads.Load() - reads; n != 1 {
		t.Errorf("100 requests asked a store that is away %d times; want 1", n)
	}
	w.clock.move(time.Minute)
	w.store.away.Store(false)
	before := w.store.writes.Load()
	want(t, "a request when it is back", w.request(cookie), nil)
	if n := w.store.writes.Load() - before; n != 1 {
		t.Errorf("a minute later %d writes; want 1", n)
	}
}

func TestSeen_RestoresNoEndedSession(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	l := w.live(cookie)
	other := w.fresh() // another process
	_, err := other.Lookup(t.Context(), cookie)
	w.must(err)

	w.clock.move(idle / 2)
	done := false
	w.store.afterGet = func(store.Key) { // ended between the read and the write of Seen
		if !done {
			done = true
			w.must(w.End(context.Background(), "ann", l.ID))
		}
	}
	w.Seen(t.Context(), l)
	if !done {
		t.Fatal("Seen didn't write")
	}
	_, err = w.fresh().Lookup(t.Context(), cookie)
	want(t, "the store's word", err, session.ErrNone)
	if all, err := w.List(t.Context(), "ann", 0); len(all) != 0 || err != nil {
		t.Errorf("List = %d, %v; want none", len(all), err)
	}
	// The other process notices it when it writes, at the latest.
	ol, err := other.Lookup(t.Context(), cookie)
	w.must(err)
	other.Seen(t.Context(), ol)
	_, err = other.Lookup(t.Context(), cookie)
	want(t, "the other process after its write", err, session.ErrNone)
}

func TestLookup_ASessionThatEndsDuringTheReadStaysEnded(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	l := w.live(cookie)
	s := w.fresh()
	done := false
	w.store.afterGet = func(store.Key) {
		if !done {
			done = true
			w.must(s.End(context.Background(), "ann", l.ID))
		}
	}
	_, err := s.Lookup(t.Context(), cookie)
	want(t, "Lookup while the session ends", err, session.ErrNone)
	_, err = s.Lookup(t.Context(), cookie)
	want(t, "Lookup after that", err, session.ErrNone)
}

func TestLookup_FailsOnceEndHasReturned(t *testing.T) {
	w := newWorld(t)
	for round := range 60 {
		cookie := w.signIn("ann", nil)
		id := w.live(cookie).ID
		w.Sessions = w.fresh() // memory is empty
		var ended atomic.Bool
		atOnce(6, func(i int) {
			if i == 0 {
				if err := w.End(context.Background(), "ann", id); err != nil {
					t.Error(err)
				}
				ended.Store(true)
				return
			}
			for n := 0; n < 3; {
				was := ended.Load()
				_, err := w.Lookup(context.Background(), cookie)
				if was && !errors.Is(err, session.ErrNone) {
					t.Errorf("round %d: Lookup after the end = %v; want ErrNone", round, err)
				}
				if was {
					n++
				}
			}
		})
	}
}

func TestK02_AnUnavailableStoreSignsNobodyOut(t *testing.T) {
	w := newWorld(t)
	known, unknown := w.signIn("ann", nil), w.signIn("ann", nil)
	l := w.live(known)
	w.store.away.Store(true)
	want(t, "a session in memory", w.request(known), nil)
	_, err := w.Lookup(t.Context(), unknown)
	want(t, "one that isn't", err, store.ErrUnavailable)
	_, err = w.Lookup(t.Context(), secret.Random())
	want(t, "a cookie of nobody", err, store.ErrUnavailable)
	_, err = w.Begin(t.Context(), session.Session{Contact: "ann"}, nil)
	want(t, "Begin", err, store.ErrUnavailable)
	_, err = w.List(t.Context(), "ann", 0)
	want(t, "List", err, store.ErrUnavailable)
	_, err = w.EndAll(t.Context(), "ann", "")
	want(t, "EndAll", err, store.ErrUnavailable)

	// An end whose outcome is unknown: memory no longer answers for the session.
	want(t, "End", w.End(t.Context(), "ann", l.ID), store.ErrUnavailable)
	_, err = w.Lookup(t.Context(), known)
	want(t, "Lookup after that", err, store.ErrUnavailable)
	w.store.away.Store(false)
	want(t, "when the store is back", w.request(known), nil)
}

// Without the secret, nobody can write a session, whichever record of the store they
// copy.
func TestK01_AForgedRecordSignsNobodyIn(t *testing.T) {
	w := newWorld(t)
	anns, bobs := w.signIn("ann", nil), w.signIn("bob", nil)
	a, b := w.live(anns), w.live(bobs)
	key := func(bucket, id string) store.Key { return store.Key{Firm: "example", Bucket: bucket, ID: id} }
	rec, err := w.Store.Get(t.Context(), key("sessions", b.ID))
	w.must(err)
	w.must(w.Store.Apply(t.Context(), store.Put(key("sessions", a.ID), rec.Value, rec.Expires)))
	_, err = w.fresh().Lookup(t.Context(), anns)
	want(t, "ann's cookie with bob's record", err, session.ErrNone)
	if n := w.alarms.Load(); n != 1 {
		t.Errorf("alarms: %d; want 1", n)
	}
	flipped := bytes.Clone(rec.Value)
	flipped[len(flipped)/2] ^= 1
	for name, value := range map[string]string{"a later version": "2" + string(rec.Value[1:]), "nothing": "", "garbage": "1{", "null": "1null", "a flipped bit": string(flipped),
		"a session in the clear": `1{"id":"` + b.ID + `","contact":"bob","method":"link","begun":"2026-03-02T10:00:00Z","seen":"2026-03-02T10:00:00Z"}`} {
		before := w.alarms.Load()
		w.must(w.Store.Apply(t.Context(), store.Put(key("sessions", b.ID), []byte(value), rec.Expires)))
		_, err = w.fresh().Lookup(t.Context(), bobs)
		want(t, "a record of "+name, err, session.ErrNone)
		if w.alarms.Load() != before+1 {
			t.Errorf("a record of %s raises no alarm", name)
		}
	}
	w.must(w.Store.Apply(t.Context(), store.Put(rec.Key, rec.Value, rec.Expires)))
	_, err = w.fresh().Lookup(t.Context(), bobs)
	want(t, "bob's own record", err, nil)

	// Nor does a forged roster; the next sign-in writes a new one.
	list, err := w.Store.Get(t.Context(), key("roster", "ann"))
	w.must(err)
	w.must(w.Store.Apply(t.Context(), store.Put(key("roster", "bob"), list.Value, list.Expires)))
	_, err = w.fresh().Lookup(t.Context(), bobs)
	want(t, "bob's record with ann's roster", err, session.ErrNone)
	again := w.signIn("bob", nil)
	_, err = w.fresh().Lookup(t.Context(), again)
	want(t, "bob's next session", err, nil)
	_, err = w.fresh().Lookup(t.Context(), bobs)
	want(t, "bob's session of before", err, session.ErrNone)
}

// Records of a session, or a roster, that are put back after its end sign nobody in.
func TestS02_RecordsPutBackAfterSignOutSignNobodyIn(t *testing.T) {
	for _, c := range []struct {
		name    string
		buckets []string
	}{{"its record", []string{"sessions"}}, {"the roster", []string{"roster"}}, {"what is left of another device", nil}} {
		w := newWorld(t)
		gone, stays := w.signIn("ann", nil), w.signIn("ann", nil)
		l := w.live(gone)
		var kept []store.Op
		for _, bucket := range c.buckets {
			recs, err := w.Store.Scan(t.Context(), "example", bucket, "", "", 10)
			w.must(err)
			for _, rec := range recs {
				kept = append(kept, store.Put(rec.Key, rec.Value, time.Time{}))
			}
		}
		w.must(w.End(t.Context(), "ann", l.ID))
		if kept != nil {
			w.must(w.Store.Apply(t.Context(), kept...))
		}
		_, err := w.fresh().Lookup(t.Context(), gone)
		want(t, "signed out, and then put back: "+c.name, err, session.ErrNone)
		_, err = w.fresh().Lookup(t.Context(), stays)
		want(t, "the other device, after "+c.name, err, nil)
	}
}

// A contact's new generation ends their sessions, in every process's memory and even if
// the store has lost or restored records; the spared session goes on.
func TestANewGenerationEndsAllSessionsExceptTheSpared(t *testing.T) {
	for _, lost := range []string{"nothing", "the roster", "the end"} {
		w := newWorld(t)
		begin := func() string { return w.begin(session.Session{Contact: "ann", Generation: 7}, nil) }
		here, there, spared := begin(), begin(), begin()
		other := w.fresh() // another process
		var lives []*session.Cached
		for _, cookie := range []string{there, spared} {
			l, err := other.Lookup(t.Context(), cookie)
			w.must(err)
			lives = append(lives, l)
			want(t, "at another process, before", other.Confirm(t.Context(), l, 7), nil)
		}
		hl, sl := w.live(here), w.live(spared)
		want(t, "here, before", w.Confirm(t.Context(), hl, 7), nil)
		stream, flight := w.Attach(t.Context(), sl, "")
		defer flight.Done()
		rosters, err := w.Store.Scan(t.Context(), "example", "roster", "", "", 10)
		w.must(err)
		records, err := w.Store.Scan(t.Context(), "example", "sessions", "", "", 10)
		w.must(err)
		except := sl.ID
		if lost == "the roster" {
			w.must(w.Store.Apply(t.Context(), store.Delete(rosters[0].Key)))
			except = ""
		}
		e, err := w.Ending(t.Context(), "ann", except, 8)
		w.must(err)
		if len(e.Ops) > 0 {
			err = w.Store.Apply(t.Context(), e.Ops...)
		}
		w.must(err)
		w.Ended(t.Context(), e, nil)
		if lost == "the end" {
			for _, rec := range append(rosters, records...) {
				w.must(w.Store.Apply(t.Context(), store.Put(rec.Key, rec.Value, rec.Expires)))
			}
			except = ""
		}
		want(t, lost+" lost: another process's session", other.Confirm(t.Context(), lives[0], 8), session.ErrNone)
		want(t, lost+" lost: ours", w.Confirm(t.Context(), hl, 8), session.ErrNone)
		var goesOn error
		if lost != "nothing" {
			goesOn = session.ErrNone
		}
		want(t, lost+" lost: the spared at another process", other.Confirm(t.Context(), lives[1], 8), goesOn)
		if lost == "nothing" {
			want(t, "the spared", w.Confirm(t.Context(), sl, 8), nil)
			want(t, "a request of the spared", context.Cause(stream), nil)
			l, err := w.fresh().Lookup(t.Context(), spared)
			if err != nil || l.Generation != 8 {
				t.Errorf("the spared, in the store = %+v, %v; want generation 8", l, err)
			}
			if all, err := w.List(t.Context(), "ann", 8); err != nil || len(all) != 1 {
				t.Errorf("List = %d, %v; want the spared", len(all), err)
			}
		}
		if all, err := w.List(t.Context(), "ann", 9); err != nil || len(all) != 0 {
			t.Errorf("List of yet another generation = %d, %v; want none", len(all), err)
		}
	}
}

func TestEndingReturnsErrConflictIfTheSparedSessionHasEnded(t *testing.T) {
	w := newWorld(t)
	l := w.live(w.signIn("ann", nil))
	w.signIn("ann", nil)
	w.must(w.End(t.Context(), "ann", l.ID))
	_, err := w.Ending(t.Context(), "ann", l.ID, 8)
	want(t, "Ending that spares one that has ended", err, store.ErrConflict)
}

// A clock that was years ahead must not begin sessions that last for years.
func TestK15_ASessionBegunByAWrongClockIsInvalid(t *testing.T) {
	for _, c := range []struct {
		ahead time.Duration
		want  error
	}{{time.Hour, nil}, {47 * time.Hour, nil}, {49 * time.Hour, session.ErrNone}, {8 * 365 * 24 * time.Hour, session.ErrNone}} {
		w := newWorld(t)
		w.clock.move(c.ahead)
		cookie := w.signIn("ann", nil)
		w.live(cookie)
		w.clock.move(-c.ahead)
		_, err := w.fresh().Lookup(t.Context(), cookie)
		want(t, "begun by a clock that was ahead by "+c.ahead.String(), err, c.want)
		_, err = w.Lookup(t.Context(), cookie)
		want(t, "the same in memory", err, c.want)
		if all, err := w.List(t.Context(), "ann", 0); err != nil || (len(all) == 1) != (c.want == nil) {
			t.Errorf("ahead by %v: List = %d, %v", c.ahead, len(all), err)
		}
	}
	// A last request can't be in the future either: unused sessions run out.
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	w.clock.move(idle / 2)
	want(t, "a request", w.request(cookie), nil)
	w.clock.move(idle - time.Hour)
	want(t, "a request by a clock that is ahead", w.request(cookie), nil)
	w.clock.move(-(idle - time.Hour))
	w.Sessions = w.fresh()
	want(t, "a request after the clock was set right", w.request(cookie), nil)
	w.clock.move(idle)
	_, err := w.fresh().Lookup(t.Context(), cookie)
	want(t, "idle since", err, session.ErrNone)
}

func TestS07_AnOlderSecretCanBeRemovedAfterReseal(t *testing.T) {
	w := newWorld(t)
	with := func(newest string, older ...string) *session.Sessions {
		s := w.fresh()
		s.Keys = keyring(t, newest, older...)
		return s
	}
	w.Sessions = with(oldSecret)
	cookie := w.signIn("ann", nil)
	_, err := with(newSecret).Lookup(t.Context(), cookie)
	want(t, "without the secret", err, session.ErrNone)
	both := with(newSecret, oldSecret)
	_, err = both.Lookup(t.Context(), cookie)
	want(t, "with both", err, nil)
	w.must(both.Reseal(t.Context()))
	_, err = with(newSecret).Lookup(t.Context(), cookie)
	want(t, "with the new one alone", err, nil)
}

func TestK15_ClockJumps(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	for _, jump := range []time.Duration{5 * time.Minute, -5 * time.Minute, time.Hour, -2 * time.Hour, -24 * time.Hour, 24 * time.Hour} {
		w.clock.move(jump)
		want(t, "in memory after "+jump.String(), w.request(cookie), nil)
		_, err := w.fresh().Lookup(t.Context(), cookie)
		want(t, "from the store after "+jump.String(), err, nil)
	}
}

func TestS16_TheOldestOfMoreThanAHundredEnds(t *testing.T) {
	w := newWorld(t)
	var cookies []string
	bobs := w.signIn("bob", nil)
	for range session.PerContact + 20 {
		w.clock.move(time.Millisecond)
		cookies = append(cookies, w.signIn("ann", nil))
		w.live(cookies[len(cookies)-1])
	}
	for i, c := range cookies {
		ended := session.ErrNone
		if i >= 20 {
			ended = nil
		}
		want(t, fmt.Sprintf("session %d", i), w.request(c), ended)
	}
	want(t, "bob's", w.request(bobs), nil)
	all, err := w.List(t.Context(), "ann", 0)
	if err != nil || len(all) != session.PerContact {
		t.Fatalf("List = %d, %v; want %d", len(all), err, session.PerContact)
	}
	for i := range all[1:] {
		if all[i].Begun.Before(all[i+1].Begun) {
			t.Fatalf("List isn't the latest first")
		}
	}
	// Signing in again with the same browser ends no session of other devices.
	w.signIn("ann", w.live(cookies[60]))
	want(t, "the oldest after a renewal", w.request(cookies[20]), nil)
}

func TestS16_ExpiredSessionsDontCount(t *testing.T) {
	w := newWorld(t)
	kept := w.signIn("ann", nil)
	for range session.PerContact - 1 {
		w.signIn("ann", nil)
	}
	w.clock.move(idle - ms)
	want(t, "the one in use", w.request(kept), nil)
	w.clock.move(2 * ms) // the others have run out
	for range session.PerContact - 1 {
		w.signIn("ann", nil)
	}
	want(t, "the one in use, the oldest", w.request(kept), nil)
	w.signIn("ann", nil)
	want(t, "the one in use, after a hundred newer", w.request(kept), session.ErrNone)
}

func TestMemory_IsBounded(t *testing.T) {
	w := newWorld(t)
	w.Limit = 10
	var cookies []string
	for range 50 {
		w.clock.move(time.Millisecond)
		cookies = append(cookies, w.signIn(fmt.Sprint("contact-", len(cookies)), nil))
	}
	busy := w.live(cookies[0])
	ctx, flight := w.Attach(t.Context(), busy, "")
	defer flight.Done()
	for range 3 {
		for _, c := range cookies[1:] {
			want(t, "a session in memory or not", w.request(c), nil)
		}
	}
	if w.live(cookies[0]) != busy {
		t.Error("the session with a request in flight was moved out of memory")
	}
	reads := w.store.reads.Load()
	for _, c := range cookies {
		w.live(c)
	}
	if n := w.store.reads.Load() - reads; n < 40 {
		t.Errorf("of 50 sessions %d were read again; want those that didn't fit into 10", n)
	}
	w.must(w.End(t.Context(), busy.Contact, busy.ID))
	want(t, "the request in flight", context.Cause(ctx), session.ErrNone)
}

func TestMemory_EvictsSessionsWhoseRequestsAreDone(t *testing.T) {
	w := newWorld(t)
	w.Limit = 1
	first := w.signIn("ann", nil)
	l := w.live(first)
	_, flight := w.Attach(t.Context(), l, "")
	var others []string
	for range 20 {
		others = append(others, w.signIn("bob", nil))
		w.live(others[len(others)-1])
	}
	if w.live(first) != l || session.Held(w.Sessions) > 2 {
		t.Fatalf("%d in memory, or not the one with a request in flight", session.Held(w.Sessions))
	}
	flight.Done()
	w.Sweep(t.Context(), good)
	for _, c := range others {
		w.live(c)
	}
	if n := session.Held(w.Sessions); n != 1 || w.live(first) == l {
		t.Errorf("%d in memory; want the last alone", n)
	}
}

func TestMemory_KeepsTheSessionInUse(t *testing.T) {
	w := newWorld(t)
	w.Limit = 1 << 10
	cookie := w.signIn("ann", nil)
	l := w.live(cookie)
	l.Value.Store("worked out")
	w.must(w.request(cookie))
	if got := w.live(cookie); got != l || got.Value.Load() != "worked out" {
		t.Error("the next request has another Live")
	}
}

func TestD12_UnknownCookiesUseNoMemory(t *testing.T) {
	w := newWorld(t)
	w.signIn("ann", nil)
	before, err := os.Stat(w.path)
	w.must(err)
	writes := w.store.writes.Load()
	for range 20_000 {
		if _, err := w.Lookup(t.Context(), secret.Random()); !errors.Is(err, session.ErrNone) {
			t.Fatalf("Lookup of a random cookie = %v; want ErrNone", err)
		}
	}
	after, err := os.Stat(w.path)
	w.must(err)
	if w.store.writes.Load() != writes || after.Size() != before.Size() {
		t.Errorf("random cookies made the store write")
	}
}

func TestTwoFirmsOnOneStore(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	l := w.live(cookie)
	other := w.fresh()
	other.Firm = "other"
	_, err := other.Lookup(t.Context(), cookie)
	want(t, "the cookie at another firm", err, session.ErrNone)
	if all, err := other.List(t.Context(), "ann", 0); len(all) != 0 || err != nil {
		t.Errorf("List at another firm = %d, %v; want none", len(all), err)
	}
	w.must(other.End(t.Context(), "ann", l.ID))
	if n, err := endAll(t.Context(), other, "ann", ""); n != 0 || err != nil {
		t.Errorf("EndAll at another firm = %d, %v; want none", n, err)
	}
	want(t, "ann's session", w.request(cookie), nil)
	_, err = w.fresh().Lookup(t.Context(), cookie)
	want(t, "ann's session in the store", err, nil)
	// One contact's ID may begin with another's.
	w.signIn("ann/x", nil)
	if n, err := w.EndAll(t.Context(), "an", ""); n != 0 || err != nil {
		t.Errorf("EndAll(an) = %d, %v; want none", n, err)
	}
}

func TestSessionsSurviveARestart(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	l := w.live(cookie)
	w.must(w.store.Close())
	w.open()
	got, err := w.fresh().Lookup(t.Context(), cookie)
	if err != nil || got.Session != l.Session {
		t.Errorf("after a restart %+v, %v; want %+v", got, err, l.Session)
	}
}

func TestT09_TheStoreHoldsNoCookie(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	w.clock.move(idle / 2)
	want(t, "a request", w.request(cookie), nil)
	id := w.live(cookie).ID
	renewed := w.signIn("ann", w.live(cookie))

	file, err := os.ReadFile(w.path)
	w.must(err)
	dump := bytes.Buffer{}
	for _, bucket := range []string{"sessions", "roster"} {
		all, err := w.Store.Scan(t.Context(), "example", bucket, "", "", 100)
		w.must(err)
		for _, rec := range all {
			dump.WriteString(rec.Key.ID)
			dump.Write(rec.Value)
		}
	}
	for _, c := range []string{cookie, renewed} {
		raw, err := base64.RawURLEncoding.DecodeString(c)
		w.must(err)
		for _, s := range []string{c, string(raw)} {
			if bytes.Contains(file, []byte(s)) || bytes.Contains(dump.Bytes(), []byte(s)) {
				t.Errorf("the store holds the cookie %q", s)
			}
		}
	}
	if newID := w.live(renewed).ID; !bytes.Contains(file, []byte(newID)) || !bytes.Contains(dump.Bytes(), []byte(newID)) {
		t.Error("the store doesn't hold the ID: the search itself is broken")
	}
	// IDs and handles in the store are not cookies.
	for _, s := range []string{id, w.live(renewed).ID, w.live(renewed).Handle} {
		_, err := w.Lookup(t.Context(), s)
		want(t, "Lookup of what the store holds", err, session.ErrNone)
	}
}

func TestBegin_InParallel(t *testing.T) {
	w := newWorld(t)
	cookies := make([]string, 64)
	atOnce(len(cookies), func(i int) {
		cookies[i] = w.begin(session.Session{Contact: "ann"}, nil)
	})
	for _, c := range cookies {
		want(t, "a session", w.request(c), nil)
	}
}

// TestConcurrentCallsLeaveEachSessionInOneState looks for data races, and for sessions in two states.
func TestConcurrentCallsLeaveEachSessionInOneState(t *testing.T) {
	w := newWorld(t)
	w.Limit = 20
	cookies := make([]string, 40)
	for i := range cookies {
		cookies[i] = w.signIn(fmt.Sprint("contact-", i%4), nil)
	}
	ctx, stop := context.WithCancel(t.Context())
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for ctx.Err() == nil {
			w.Sweep(ctx, good)
			time.Sleep(time.Millisecond)
		}
	}()
	atOnce(8, func(worker int) {
		rng := rand.New(rand.NewPCG(1, uint64(worker)))
		for range 300 {
			l, err := w.Lookup(context.Background(), cookies[rng.IntN(len(cookies))])
			if errors.Is(err, session.ErrNone) {
				continue
			} else if err != nil {
				t.Error(err)
				return
			}
			_, flight := w.Attach(context.Background(), l, "")
			w.clock.move(time.Hour)
			w.Seen(context.Background(), l)
			switch rng.IntN(40) {
			case 0:
				_ = w.End(context.Background(), l.Contact, l.ID)
			case 1:
				_, _ = w.List(context.Background(), l.Contact, 0)
			}
			flight.Done()
		}
	})
	stop()
	<-watching
	stored := w.fresh()
	for _, c := range cookies {
		_, inMemory := w.Lookup(t.Context(), c)
		_, inStore := stored.Lookup(t.Context(), c)
		if !errors.Is(inMemory, inStore) {
			t.Errorf("a session is %v in memory and %v in the store", inMemory, inStore)
		}
	}
}

func FuzzLookup(f *testing.F) {
	w := newWorld(f)
	cookie := w.signIn("ann", nil)
	id := w.live(cookie).ID
	for _, seed := range []string{"", "\x00", id, cookie[:42], cookie + "=", cookie + cookie, strings.Repeat("A", 43),
		strings.Repeat("\xff", 43), strings.Repeat("\x00", 43), cookie[:42] + "\n", strings.ToUpper(cookie)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if s == cookie {
			return
		}
		if l, err := w.Lookup(context.Background(), s); !errors.Is(err, session.ErrNone) || l != nil {
			t.Fatalf("Lookup(%q) = %v, %v; want ErrNone", s, l, err)
		}
		if s != id {
			_ = w.End(context.Background(), "bob", s) // some are not valid store keys
			want(t, "ann's session", w.request(cookie), nil)
		}
	})
}
