package password

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

const (
	oldSecret = "an older secret of at least 32 characters, long retired"
	newSecret = "the secret of at least 32 characters that closes today"

	good  = "a kettle sings at noon"
	other = "seven grey geese walk home"
)

// cheap is a Cost for tests that don't measure time or memory.
var cheap = Cost{Memory: 64, Time: 1, Threads: 1}

// clock stands still until it is moved.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) now() time.Time { return *c.at.Load() }

func (c *clock) move(d time.Duration) {
	t := c.now().Add(d)
	c.at.Store(&t)
}

// world is one firm's Passwords on a real store.
type world struct {
	*Passwords
	t     testing.TB
	clock *clock
	path  string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: new(clock), path: filepath.Join(t.TempDir(), "doorpost.db")}
	start := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	w.clock.at.Store(&start)
	db, err := bolt.Open(w.path, bolt.Options{Clock: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	w.Passwords = &Passwords{
		Firm: "example", Name: "Example Bookkeeping", Store: db, Keys: keyring(t, newSecret),
		Semaphore: NewSemaphore(), Cost: cheap, Now: w.clock.now,
	}
	return w
}

// as returns the same world with changed Passwords.
func (w *world) as(change func(*Passwords)) *world {
	other := *w.Passwords
	change(&other)
	return &world{t: w.t, clock: w.clock, path: w.path, Passwords: &other}
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

func (w *world) must(ops []store.Op, err error) {
	w.t.Helper()
	if err == nil && len(ops) > 0 {
		err = w.Store.Apply(context.Background(), ops...)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) set(contact, password string) {
	w.t.Helper()
	w.must(w.Set(context.Background(), contact, password, ContactInfo{}))
}

// try checks a password, and applies the Ops.
func (w *world) try(a Attempt) error {
	w.t.Helper()
	if a.Address == "" {
		a.Address = address.Address(a.Contact + "@example.com")
	}
	m, err := w.Check(context.Background(), a)
	if err == nil {
		err = w.Store.Apply(context.Background(), m.Ops...)
	} else if len(m.Ops) > 0 {
		w.t.Errorf("Check(%s) = %d Ops with %v", a.Contact, len(m.Ops), err)
	}
	return err
}

// is checks that trying the password gives the error want.
func (w *world) is(contact, password string, want error) {
	w.t.Helper()
	w.isOn("", contact, password, want)
}

func (w *world) isOn(device, contact, password string, want error) {
	w.t.Helper()
	err := w.try(Attempt{Contact: contact, Device: device, Password: password})
	// A plain ErrWrong doesn't match ErrNone or ErrThrottled.
	if err != want && (errors.Is(err, ErrWrong) || want == nil || !errors.Is(err, want)) {
		w.t.Errorf("Check(%s, %.80q) = %v; want %v", contact, password, err, want)
	}
}

// records counts the records of a bucket.
func (w *world) records(bucket string) int {
	w.t.Helper()
	recs, err := w.Store.Scan(context.Background(), w.Firm, bucket, "", "", 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(recs)
}
