package token_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

const (
	oldSecret = "an older secret of at least 32 characters, long retired"
	newSecret = "the secret of at least 32 characters that closes today"
	life      = 10 * time.Minute
)

// clock stands still until it is moved.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) now() time.Time { return *c.at.Load() }

func (c *clock) move(d time.Duration) {
	t := c.now().Add(d)
	c.at.Store(&t)
}

func newClock() *clock {
	c := new(clock)
	t := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	c.at.Store(&t)
	return c
}

// world is one firm's Tokens on a real store.
type world struct {
	*token.Tokens
	t     testing.TB
	clock *clock
	path  string
	db    *bolt.DB
	asks  atomic.Int64
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: newClock(), path: filepath.Join(t.TempDir(), "doorpost.db")}
	db, err := bolt.Open(w.path, bolt.Options{Clock: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w.db = db
	w.Tokens = &token.Tokens{Firm: "example", Store: db, Keys: keyring(t, newSecret), Life: life, Now: w.clock.now}
	return w
}

// as returns the same world with changed Tokens.
func (w *world) as(change func(*token.Tokens)) *world {
	tokens := *w.Tokens
	change(&tokens)
	return &world{t: w.t, clock: w.clock, path: w.path, db: w.db, Tokens: &tokens}
}

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

// ask makes a browser request a mail to an address.
func (w *world) ask(browser string, a address.Address) token.MailRequest {
	w.t.Helper()
	ask := token.MailRequest{ID: fmt.Sprintf("ask-%d", w.asks.Add(1)), Address: a, To: "/orders/7", Browser: browser, At: w.clock.now()}
	w.must(w.Request(context.Background(), ask))
	return ask
}

// issue makes and applies link and code for a request.
func (w *world) issue(ask token.MailRequest, contact string) token.Issued {
	w.t.Helper()
	issued, err := w.Issue(context.Background(), ask, token.Recipient{Contact: contact, Address: ask.Address})
	w.must(err)
	w.must(w.Store.Apply(context.Background(), issued.Ops...))
	return issued
}

// handOver records that the mail server has accepted the mail, or (accepted: false) an
// attempt.
func (w *world) handOver(issued token.Issued, accepted bool) {
	w.t.Helper()
	ops, err := w.HandOver(context.Background(), issued.ID, w.clock.now(), accepted)
	w.must(err)
	w.must(w.Store.Apply(context.Background(), ops...))
}

// mail requests, issues and hands over a mail.
func (w *world) mail(browser string, a address.Address, contact string) token.Issued {
	w.t.Helper()
	issued := w.issue(w.ask(browser, a), contact)
	w.handOver(issued, false)
	w.handOver(issued, true)
	return issued
}

// enter applies the grant of try together with a session's record, and retries on
// conflicts, as the gate does.
func (w *world) enter(session string, try func() (token.AuthResult, error)) (token.AuthResult, error) {
	for {
		g, err := try()
		if err != nil {
			return g, err
		}
		in := store.Create(store.Key{Firm: w.Firm, Bucket: "in", ID: session}, []byte(g.Contact), time.Time{})
		if err = w.Store.Apply(context.Background(), append(g.Ops, in)...); !errors.Is(err, store.ErrConflict) {
			return g, err
		}
	}
}

func (w *world) spend(session, secret, browser string) error {
	_, err := w.enter(session, func() (token.AuthResult, error) { return w.Spend(context.Background(), secret, browser) })
	return err
}

func (w *world) guess(session, browser, code string) error {
	_, err := w.enter(session, func() (token.AuthResult, error) { return w.Guess(context.Background(), browser, code, false) })
	return err
}

// sessions counts the sign-ins.
func (w *world) sessions() int {
	w.t.Helper()
	all, err := w.db.Scan(context.Background(), w.Firm, "in", "", "", 1_000_000)
	w.must(err)
	return len(all)
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

// watched is a store that logs its calls and can fail.
type watched struct {
	store.Store
	calls []string
	away  func(call int) bool // nil: never
}

func (s *watched) call(verb, bucket string) error {
	s.calls = append(s.calls, verb+" "+bucket)
	if s.away != nil && s.away(len(s.calls)-1) {
		return fmt.Errorf("pulled the plug: %w", store.ErrUnavailable)
	}
	return nil
}

func (s *watched) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if err := s.call("get", k.Bucket); err != nil {
		return store.Record{}, err
	}
	return s.Store.Get(ctx, k)
}

func (s *watched) Apply(ctx context.Context, ops ...store.Op) error {
	what := ""
	for _, op := range ops {
		what += fmt.Sprint(op.Verb, op.Key.Bucket, " ")
	}
	if err := s.call("apply", what); err != nil {
		return err
	}
	return s.Store.Apply(ctx, ops...)
}

func (s *watched) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if err := s.call("scan", bucket); err != nil {
		return nil, err
	}
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}
