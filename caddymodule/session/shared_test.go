package session_test

import (
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
)

// Tomorrow's user of a shared computer is another person than today's, even if the browser was
// never closed.
func TestSessionsOnSharedComputersEndOvernight(t *testing.T) {
	w := newWorld(t)
	w.Idle, w.Max = 45*24*time.Hour, 180*24*time.Hour
	begin := func(shared bool) string {
		b, err := w.Begin(t.Context(), session.Session{Contact: "ann", Method: "link", Shared: shared}, nil)
		w.must(err)
		w.must(w.Store.Apply(t.Context(), b.Ops...))
		w.Began(t.Context(), b)
		return b.Cookie
	}
	shared, own := begin(true), begin(false)
	l := w.live(shared)
	if got, idle := w.ExpiresAt(l).Sub(l.Begun), session.SharedIdle; got != idle {
		t.Errorf("a shared computer's session ends after %v; want %v", got, idle)
	}
	for range int(session.SharedMax/(session.SharedIdle-time.Minute)) - 1 { // the computer is used all day
		w.clock.move(session.SharedIdle - time.Minute)
		want(t, "shared, before", w.request(shared), nil)
	}
	if _, err := w.fresh().Lookup(t.Context(), shared); err != nil {
		t.Errorf("shared, before, in the store: %v; want it to go on", err)
	}
	w.clock.move(l.Begun.Add(session.SharedMax).Sub(w.clock.now()))
	want(t, "shared, after, in memory", w.request(shared), session.ErrNone)
	_, err := w.fresh().Lookup(t.Context(), shared)
	want(t, "shared, after, in the store", err, session.ErrNone)
	want(t, "one's own", w.request(own), nil)
}

// Browsers restore cookies that were to end with them, so the server ends unused sessions.
func TestUnusedSessionsOnSharedComputersEnd(t *testing.T) {
	w := newWorld(t)
	w.Idle, w.Max = 45*24*time.Hour, 180*24*time.Hour
	for _, idle := range []time.Duration{session.SharedIdle, 10 * time.Minute} {
		w.Idle = max(idle, w.Idle)
		if idle < session.SharedIdle {
			w.Idle = idle // never longer than on other computers
		}
		b, err := w.Begin(t.Context(), session.Session{Contact: "ann", Method: "link", Shared: true}, nil)
		w.must(err)
		w.must(w.Store.Apply(t.Context(), b.Ops...))
		w.Began(t.Context(), b)
		w.clock.move(idle - time.Second)
		want(t, "used just in time", w.request(b.Cookie), nil)
		w.clock.move(idle)
		want(t, "left alone, in memory", w.request(b.Cookie), session.ErrNone)
		_, err = w.fresh().Lookup(t.Context(), b.Cookie)
		want(t, "left alone, in the store", err, session.ErrNone)
	}
}
