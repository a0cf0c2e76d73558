package session_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func good(context.Context, *session.Cached) bool { return true }

// watch sweeps, as a gate does, until the test ends.
func (w *world) watch(stillGood func(context.Context, *session.Cached) bool) {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(session.SweepInterval); ctx.Err() == nil; {
			select {
			case <-tick.C:
				w.Sweep(ctx, stillGood)
			case <-ctx.Done():
			}
		}
	}()
	w.t.Cleanup(func() { stop(); <-done })
}

// endsWithin waits for a stream's context to be canceled.
func endsWithin(t *testing.T, what string, ctx context.Context, d time.Duration) {
	t.Helper()
	limit := time.Now().Add(d)
	for ctx.Err() == nil {
		if !time.Now().Before(limit) {
			t.Errorf("%s goes on %v after its session", what, d)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	want(t, "the cause that "+what+" ended", context.Cause(ctx), session.ErrNone)
}

func TestS15_StreamsEndWithinASecond(t *testing.T) {
	w := newWorld(t)
	cookies := map[string]string{}
	streams := map[string]context.Context{}
	for _, name := range []string{"signed out", "revoked", "ran out", "disabled", "ended elsewhere", "goes on"} {
		cookies[name] = w.signIn(name, nil)
		streams[name], _ = w.Attach(t.Context(), w.live(cookies[name]), "")
	}
	// Sessions without this session in memory learn of its end from the store.
	outside := w.fresh()
	outsider, err := outside.Lookup(t.Context(), cookies["ended elsewhere"])
	w.must(err)
	streams["ended elsewhere"], _ = w.Attach(t.Context(), outsider, "")

	var disabled atomic.Value
	disabled.Store("nobody")
	w.watch(func(_ context.Context, l *session.Cached) bool { return l.Contact != disabled.Load() })

	out := w.live(cookies["signed out"])
	w.must(w.End(t.Context(), out.Contact, out.ID))
	endsWithin(t, "a stream that was signed out", streams["signed out"], 0)
	_, err = w.EndAll(t.Context(), "revoked", "")
	w.must(err)
	endsWithin(t, "a stream that was revoked", streams["revoked"], 0)

	disabled.Store("disabled")
	w.must(w.End(t.Context(), "ended elsewhere", outsider.ID))
	endsWithin(t, "a stream of a disabled contact", streams["disabled"], time.Second)
	endsWithin(t, "a stream that is out of memory", streams["ended elsewhere"], time.Second)

	w.clock.move(idle - ms)
	w.must(w.request(cookies["goes on"]))
	w.clock.move(ms)
	endsWithin(t, "a stream that ran out", streams["ran out"], time.Second)
	if err := streams["goes on"].Err(); err != nil {
		t.Errorf("the stream of a good session: %v", err)
	}
	// The disabled contact is enabled again; none of their sessions has ended.
	disabled.Store("nobody")
	w.clock.move(-time.Hour)
	again, flight := w.Attach(t.Context(), w.live(cookies["disabled"]), "")
	defer flight.Done()
	want(t, "a stream of the contact who is enabled again", again.Err(), nil)
}

func TestS15_AnUnavailableStoreEndsNoStream(t *testing.T) {
	w := newWorld(t)
	cookie := w.signIn("ann", nil)
	inMemory, _ := w.Attach(t.Context(), w.live(cookie), "")
	l, err := w.fresh().Lookup(t.Context(), cookie)
	w.must(err)
	outside, _ := w.Attach(t.Context(), l, "")
	looked := make(chan struct{}, 100)
	w.watch(func(context.Context, *session.Cached) bool { looked <- struct{}{}; return true })
	w.store.away.Store(true)
	for range 4 {
		<-looked
	}
	if inMemory.Err() != nil || outside.Err() != nil {
		t.Errorf("streams while the store is away: %v and %v; want both to go on", inMemory.Err(), outside.Err())
	}
}

func TestAttach(t *testing.T) {
	w := newWorld(t)
	l := w.live(w.signIn("ann", nil))
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	ctx, flight := w.Attach(parent, l, "")
	other, flightOther := w.Attach(t.Context(), l, "")
	third, flightThird := w.Attach(t.Context(), l, "")
	if ctx.Value(key{}) != "value" || ctx.Err() != nil {
		t.Errorf("the bound context: value %v, error %v; want its parent's", ctx.Value(key{}), ctx.Err())
	}
	cancel()
	want(t, "after its parent", ctx.Err(), context.Canceled)
	flight.Done()
	flight.Done()
	flightThird.Done()
	want(t, "a request that is done", third.Err(), context.Canceled)
	want(t, "another one", other.Err(), nil)
	w.must(w.End(t.Context(), l.Contact, l.ID))
	want(t, "another one after the end", context.Cause(other), session.ErrNone)
	flightOther.Done()
	late, flightLate := w.Attach(t.Context(), l, "")
	want(t, "a request that comes too late", context.Cause(late), session.ErrNone)
	flightLate.Done()
}

func TestAttach_ManyRequestsEndAtOnce(t *testing.T) {
	w := newWorld(t)
	l := w.live(w.signIn("ann", nil))
	var cancelled, landed atomic.Int32
	w.watch(good)
	atOnce(100, func(i int) {
		if i == 50 {
			if err := w.End(context.Background(), l.Contact, l.ID); err != nil {
				t.Error(err)
			}
			return
		}
		for range 20 {
			ctx, flight := w.Attach(context.Background(), l, "")
			if i%2 == 0 {
				flight.Done()
				landed.Add(1)
				continue
			}
			defer flight.Done()
			<-ctx.Done()
			cancelled.Add(1)
		}
	})
	if cancelled.Load() != 50*20 || landed.Load() != 49*20 {
		t.Errorf("%d cancelled, %d landed; want 1000 and 980", cancelled.Load(), landed.Load())
	}
}

func TestSweep_RemovesEndedSessions(t *testing.T) {
	// Any of the 256 shards may hold the session, and each Sweep covers one: so the
	// memory has a session in every shard, and the sweep starts at the first.
	w := newWorld(t)
	var ops []store.Op
	var cookies []string
	for i := range 3000 {
		b, err := w.Begin(t.Context(), session.Session{Contact: fmt.Sprint("contact-", i)}, nil)
		w.must(err)
		ops, cookies = append(ops, b.Ops...), append(cookies, b.Cookie)
	}
	w.must(w.Store.Apply(t.Context(), ops...))
	for _, c := range cookies {
		w.live(c)
	}
	if n := session.Held(w.Sessions); n != 3000 {
		t.Fatalf("%d in memory; want 3000", n)
	}
	w.clock.move(idle)
	for range 256 {
		w.Sweep(t.Context(), good)
	}
	if n := session.Held(w.Sessions); n != 0 {
		t.Errorf("%d sessions that are over are in memory still", n)
	}
}

// At a reload with other limits, new Sessions follow old ones on the same store while
// requests of the old ones are in flight.
func TestSharedMemory(t *testing.T) {
	w := newWorld(t)
	shared := new(session.Memory)
	before := &session.Sessions{Firm: "example", Store: w.store, Keys: w.Keys, Idle: idle, Max: most, Now: w.clock.now, Memory: shared}
	after := &session.Sessions{Firm: "example", Store: w.store, Keys: w.Keys, Idle: time.Hour, Max: 3 * time.Hour, Now: w.clock.now, Memory: shared}
	stream := func(contact string) (*session.Cached, context.Context) {
		l, err := before.Lookup(t.Context(), w.signIn(contact, nil))
		w.must(err)
		ctx, _ := before.Attach(t.Context(), l, "")
		return l, ctx
	}
	out, signedOut := stream("ann")
	_, ranOut := stream("bob")
	w.must(after.End(t.Context(), "ann", out.ID))
	endsWithin(t, "a stream from before, signed out after", signedOut, 0)
	w.clock.move(time.Hour - ms)
	after.Sweep(t.Context(), good)
	want(t, "a stream from before, within the idle limit", ranOut.Err(), nil)
	w.clock.move(ms)
	after.Sweep(t.Context(), good)
	endsWithin(t, "a stream from before, whose session ran out by the limits of now", ranOut, 0)
}
