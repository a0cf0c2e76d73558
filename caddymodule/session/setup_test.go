package session_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

const (
	idle = 45 * 24 * time.Hour
	most = 180 * 24 * time.Hour
)

// clock is a time that stands still until it is moved.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) now() time.Time { return *c.at.Load() }

func (c *clock) move(d time.Duration) {
	t := c.now().Add(d)
	c.at.Store(&t)
}

// world is one firm's Sessions on a real store that can be watched.
type world struct {
	*session.Sessions
	t     testing.TB
	clock *clock
	path  string
	store *watched
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: new(clock), path: filepath.Join(t.TempDir(), "doorpost.db")}
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	w.clock.at.Store(&now)
	w.store = &watched{}
	w.open()
	t.Cleanup(func() { w.store.Store.Close() })
	w.Sessions = w.fresh()
	return w
}

func (w *world) open() {
	w.t.Helper()
	db, err := bolt.Open(w.path, bolt.Options{Clock: w.clock.now})
	w.must(err)
	w.store.Store = db
}

// fresh returns Sessions that remember nothing, as after a restart.
func (w *world) fresh() *session.Sessions {
	return &session.Sessions{Firm: "example", Store: w.store, Idle: idle, Max: most, Now: w.clock.now}
}

// signIn begins a session and returns its cookie.
func (w *world) signIn(contact string, replaces *session.Live) string {
	w.t.Helper()
	b, err := w.Begin(context.Background(), session.Session{Contact: contact, Method: "link", Agent: "Safari on iPhone"}, replaces)
	w.must(err)
	w.must(w.Store.Apply(context.Background(), b.Ops...))
	w.Began(context.Background(), b)
	return b.Cookie
}

// live looks a session up that has to be there.
func (w *world) live(cookie string) *session.Live {
	w.t.Helper()
	l, err := w.Lookup(context.Background(), cookie)
	w.must(err)
	return l
}

// request is one request of a signed-in browser.
func (w *world) request(cookie string) error {
	l, err := w.Lookup(context.Background(), cookie)
	if err == nil {
		w.Seen(context.Background(), l)
	}
	return err
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// want fails the test unless err is the one that is wanted (nil: none).
func want(t testing.TB, what string, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Errorf("%s = %v; want %v", what, err, wanted)
	}
}

// watched is a store that counts, can be away, and lets something happen in between.
type watched struct {
	store.Store
	reads, writes atomic.Int64
	away          atomic.Bool
	afterGet      func(store.Key) // nil: nothing
}

func (s *watched) Get(ctx context.Context, k store.Key) (store.Record, error) {
	s.reads.Add(1)
	if s.away.Load() {
		return store.Record{}, fmt.Errorf("pulled the plug: %w", store.ErrUnavailable)
	}
	rec, err := s.Store.Get(ctx, k)
	if s.afterGet != nil {
		s.afterGet(k)
	}
	return rec, err
}

func (s *watched) Apply(ctx context.Context, ops ...store.Op) error {
	s.writes.Add(1)
	if s.away.Load() {
		return fmt.Errorf("pulled the plug: %w", store.ErrUnavailable)
	}
	return s.Store.Apply(ctx, ops...)
}

func (s *watched) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if s.away.Load() {
		return nil, fmt.Errorf("pulled the plug: %w", store.ErrUnavailable)
	}
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// atOnce runs n calls that begin together.
func atOnce(n int, call func(i int)) {
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { <-begin; call(i) })
	}
	close(begin)
	all.Wait()
}
