package session_test

import (
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
)

// Whoever sits down at a shared computer tomorrow isn't the one of today, even where the
// browser was never closed.
func TestSharedComputersForgetOvernight(t *testing.T) {
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
	if got, most := w.ExpiresAt(l).Sub(l.Begun), session.SharedMax; got != most {
		t.Errorf("a shared computer's session ends after %v; want %v", got, most)
	}
	w.clock.move(session.SharedMax - time.Minute)
	want(t, "shared, before", w.request(shared), nil)
	w.clock.move(time.Minute)
	want(t, "shared, after, in memory", w.request(shared), session.ErrNone)
	_, err := w.fresh().Lookup(t.Context(), shared)
	want(t, "shared, after, in the store", err, session.ErrNone)
	want(t, "one's own", w.request(own), nil)
}
