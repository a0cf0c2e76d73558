package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// neighbours returns the Sessions of two processes on one store.
func neighbours(t *testing.T) (w *world, here, there *session.Sessions, told *int) {
	w = newWorld(t)
	told = new(int)
	here, there = w.fresh(), w.fresh()
	here.Peers = &store.Peers{Notify: func(context.Context) { *told++ }}
	there.Peers = &store.Peers{Notify: func(context.Context) { *told++ }}
	w.Sessions = here
	return w, here, there, told
}

func TestASessionEndedByAnotherProcessEndsHere(t *testing.T) {
	w, here, there, told := neighbours(t)
	for name, end := range map[string]func(l *session.Cached){
		"signed out":     func(l *session.Cached) { w.must(here.End(t.Context(), l.Contact, l.ID)) },
		"revoked":        func(l *session.Cached) { _, err := endAll(t.Context(), here, l.Contact, ""); w.must(err) },
		"another person": func(l *session.Cached) { w.signIn("bob", l) },
	} {
		cookie := w.signIn("ann", nil)
		l, err := there.Lookup(t.Context(), cookie)
		w.must(err)
		flying, flight := there.Attach(t.Context(), l, "")
		*told = 0
		end(w.live(cookie))
		if *told != 1 {
			t.Errorf("%s: the others were told %d times; want once", name, *told)
		}
		_, err = there.Lookup(t.Context(), cookie)
		want(t, name+", before there is news", err, nil)
		w.must(there.Sync(t.Context()))
		_, err = there.Lookup(t.Context(), cookie)
		want(t, name+", after it", err, session.ErrNone)
		if !errors.Is(context.Cause(flying), session.ErrNone) {
			t.Errorf("%s: a request in flight goes on", name)
		}
		flight.Done()
	}
	cookie := w.signIn("ann", nil)
	l, err := there.Lookup(t.Context(), cookie)
	w.must(err)
	for range 3 { // a revocation is applied only once
		w.must(there.Sync(t.Context()))
		again, err := there.Lookup(t.Context(), cookie)
		w.must(err)
		if again != l {
			t.Error("CatchUp without news has a session read again")
		}
	}
}

// Clocks may differ by a minute. The other process must not miss a revocation.
func TestRevocationsOfAProcessWithASlowClockArrive(t *testing.T) {
	w, here, there, _ := neighbours(t)
	cookie := w.signIn("ann", nil)
	_, err := there.Lookup(t.Context(), cookie)
	w.must(err)
	there.Now = func() time.Time { return w.clock.now().Add(time.Minute) }
	w.must(there.Sync(t.Context()))
	l := w.live(cookie)
	w.must(here.End(t.Context(), l.Contact, l.ID))
	w.must(there.Sync(t.Context()))
	_, err = there.Lookup(t.Context(), cookie)
	want(t, "after the news", err, session.ErrNone)
}

// While connection to the other processes is in doubt, sessions are read from the store,
// not memory.
func TestSessionsAreReadFromTheStoreWhenNotificationsAreInDoubt(t *testing.T) {
	w, here, there, _ := neighbours(t)
	cookie := w.signIn("ann", nil)
	_, err := there.Lookup(t.Context(), cookie)
	w.must(err)
	l := w.live(cookie)
	there.Peers.SetStale(true)
	_, err = there.Lookup(t.Context(), cookie)
	want(t, "in doubt, while it goes on", err, nil)
	w.store.away.Store(true)
	_, err = there.Lookup(t.Context(), cookie)
	want(t, "in doubt, while the store is away", err, store.ErrUnavailable)
	_, err = here.Lookup(t.Context(), cookie)
	want(t, "without doubt, while the store is away", err, nil)
	w.store.away.Store(false)
	w.must(here.End(t.Context(), l.Contact, l.ID))
	_, err = there.Lookup(t.Context(), cookie)
	want(t, "in doubt, when it is over", err, session.ErrNone)
}

// A visitor who works through another process all day isn't idle here.
func TestRequestsOfAnotherProcessKeepASessionAlive(t *testing.T) {
	w, here, there, _ := neighbours(t)
	cookie := w.signIn("ann", nil)
	_, err := there.Lookup(t.Context(), cookie)
	w.must(err)
	for range 12 {
		w.clock.move(idle / 10)
		w.must(w.request(cookie)) // here
	}
	l, err := there.Lookup(t.Context(), cookie)
	want(t, "the session", err, nil)
	there.Seen(t.Context(), l)
	w.clock.move(idle + time.Second)
	_, err = there.Lookup(t.Context(), cookie)
	want(t, "the session, idle everywhere", err, session.ErrNone)
	_, err = here.Lookup(t.Context(), cookie)
	want(t, "the session, idle everywhere", err, session.ErrNone)
}
