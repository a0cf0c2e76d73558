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

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

const (
	idle = 45 * 24 * time.Hour
	most = 180 * 24 * time.Hour
)

// clock stands still until it is moved.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) now() time.Time { return *c.at.Load() }

func (c *clock) move(d time.Duration) {
	t := c.now().Add(d)
	c.at.Store(&t)
}

// world is one firm's Sessions on a real, instrumented store.
type world struct {
	*session.Sessions
	t     testing.TB
	keys  *secret.Keyring
	clock *clock
	path  string
	store *watched

	alarms atomic.Int64 // number of untrusted records
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, keys: keyring(t, newSecret), clock: new(clock), path: filepath.Join(t.TempDir(), "doorpost.db")}
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

// fresh returns Sessions with empty memory, as after a restart.
func (w *world) fresh() *session.Sessions {
	return &session.Sessions{Firm: "example", Store: w.store, Keys: w.keys, Idle: idle, Max: most, Now: w.clock.now,
		OnUntrusted: func(_ context.Context, k store.Key) { w.alarms.Add(1) }}
}

const (
	oldSecret = "an older secret of at least 32 characters, soon retired"
	newSecret = "the secret of at least 32 characters that seals today"
)

func keyring(t testing.TB, newest string, older ...string) *secret.Keyring {
	t.Helper()
	var rest [][]byte
	for _, s := range older {
		rest = append(rest, []byte(s))
	}
	k, err := secret.New([]byte(newest), rest...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// signIn begins a session and returns its cookie.
func (w *world) signIn(contact string, replaces *session.Cached) string {
	w.t.Helper()
	return w.begin(session.Session{Contact: contact, Method: "link", Agent: "Safari on iPhone"}, replaces)
}

func (w *world) begin(as session.Session, replaces *session.Cached) string {
	w.t.Helper()
	for {
		b, err := w.Begin(context.Background(), as, replaces)
		w.must(err)
		if err = w.Store.Apply(context.Background(), b.Ops...); errors.Is(err, store.ErrConflict) {
			continue // another session of the contact began or ended first
		}
		w.must(err)
		w.Began(context.Background(), b)
		return b.Cookie
	}
}

// EndAll ends every session of a contact except one. The generation stays the same: a
// session that is missing from the roster has ended even so.
func (w *world) EndAll(ctx context.Context, contact, except string) (int, error) {
	return endAll(ctx, w.Sessions, contact, except)
}

func endAll(ctx context.Context, s *session.Sessions, contact, except string) (int, error) {
	e, err := s.Ending(ctx, contact, except, 0)
	if err != nil {
		return 0, err
	}
	if err = s.Store.Apply(ctx, e.Ops...); len(e.Ops) == 0 {
		err = nil
	}
	s.Ended(ctx, e, err)
	return e.Count, err
}

// live looks up a session that must exist.
func (w *world) live(cookie string) *session.Cached {
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

// want fails the test unless errors.Is(err, wanted).
func want(t testing.TB, what string, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Errorf("%s = %v; want %v", what, err, wanted)
	}
}

// watched is a store that counts calls, can fail, and can run a function after a read.
type watched struct {
	store.Store
	reads, writes atomic.Int64
	away          atomic.Bool
	afterGet      func(store.Key) // nil: nothing
}

func (s *watched) Get(ctx context.Context, k store.Key) (store.Record, error) {
	s.reads.Add(1)
	if s.away.Load() {
		return store.Record{}, fmt.Errorf("injected failure: %w", store.ErrUnavailable)
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
		return fmt.Errorf("injected failure: %w", store.ErrUnavailable)
	}
	return s.Store.Apply(ctx, ops...)
}

func (s *watched) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if s.away.Load() {
		return nil, fmt.Errorf("injected failure: %w", store.ErrUnavailable)
	}
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// atOnce runs n calls that start together.
func atOnce(n int, call func(i int)) {
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { <-begin; call(i) })
	}
	close(begin)
	all.Wait()
}
