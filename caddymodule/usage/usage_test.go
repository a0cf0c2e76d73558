package usage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// world is a store and a clock.
type world struct {
	t     *testing.T
	db    *bolt.DB
	keys  *secret.Keyring
	clock atomic.Int64 // nanoseconds
}

var morning = time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)

func (w *world) now() time.Time       { return time.Unix(0, w.clock.Load()).UTC() }
func (w *world) set(t time.Time)      { w.clock.Store(t.UnixNano()) }
func (w *world) pass(d time.Duration) { w.clock.Add(int64(d)) }
func (w *world) counter() *Counter {
	return &Counter{Firm: "example", Store: w.db, Keys: w.keys, Now: w.now}
}
func days(n int) time.Duration    { return time.Duration(n) * 24 * time.Hour }
func browser(n int) Use           { return Use{Browser: fmt.Sprint("browser ", n)} }
func quiet() *slog.Logger         { return slog.New(slog.DiscardHandler) }
func (w *world) flush(c *Counter) { w.t.Helper(); w.no(c.Flush(w.t.Context())) }
func (w *world) no(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t}
	w.set(morning)
	var err error
	w.db, err = bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{Clock: w.now})
	w.no(err)
	t.Cleanup(func() { w.db.Close() })
	w.keys, err = secret.New([]byte(secret.Random()))
	w.no(err)
	return w
}

func (w *world) usage(c *Counter, company string) Usage {
	w.t.Helper()
	u, err := c.Company(w.t.Context(), company)
	w.no(err)
	return u
}

// away is a store that can fail, or run a function before a write.
type away struct {
	store.Store
	err    error
	before func()
	after  int // successful writes before err; 0: fail at once
	writes int
}

func (a *away) Apply(ctx context.Context, ops ...store.Op) error {
	if a.err != nil && a.after == 0 {
		return a.err
	}
	a.after = max(0, a.after-1)
	if before := a.before; before != nil {
		a.before = nil
		before()
	}
	a.writes++
	return a.Store.Apply(ctx, ops...)
}

func TestCounts(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	c.Note("acme", browser(1))
	c.Note("acme", Use{Browser: "browser 1", Upgraded: true})
	w.pass(time.Hour)
	c.Note("acme", Use{Upgraded: true})
	w.flush(c)
	w.pass(days(2))
	c.Note("acme", browser(2))
	w.pass(time.Minute)
	c.Note("acme", Use{Browser: "browser 3", Upgraded: true, SignIn: true})
	c.Note("birch", Use{})
	c.Note("", Use{})
	c.Note(strings.Repeat("a", 513), Use{})
	sum := Sum{Hits: 4, Upgraded: 2, NotBrowsers: 1, SignIns: 1, Browsers: 2}
	want := Usage{First: morning, Last: morning.Add(49 * time.Hour), Recent: sum, Ever: sum}
	if got := w.usage(c, "acme"); got != want {
		t.Errorf("acme = %+v; want %+v", got, want)
	}
	// Another process, or this one after a restart, returns the same.
	if got := w.usage(w.counter(), "acme"); got != want {
		t.Errorf("acme, elsewhere = %+v; want %+v", got, want)
	}
	if got := w.usage(c, "cedar"); got != (Usage{}) {
		t.Errorf("a company that was never used = %+v; want nothing", got)
	}
	other := &Counter{Firm: "other", Store: w.db, Keys: w.keys, Now: w.now}
	if got := w.usage(other, "acme"); got != (Usage{}) {
		t.Errorf("the same company of another firm = %+v; want nothing", got)
	}
}

// A nil Counter counts nothing, and returns nothing.
func TestANilCounterCountsNothing(t *testing.T) {
	var c *Counter
	c.Note("acme", Use{})
	u, err := c.Company(t.Context(), "acme")
	if u != (Usage{}) || err != nil || c.Browser(netip.Addr{}, "x") != "" {
		t.Errorf("got %+v, %v", u, err)
	}
	if err := c.All(t.Context(), func(string, Usage) bool { t.Error("there is one"); return true }); err != nil {
		t.Error(err)
	}
}

func TestOldDaysAreDropped(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	c.Note("acme", browser(1))
	c.Note("acme", Use{Browser: "browser 1", SignIn: true})
	w.pass(days(1))
	c.Note("acme", browser(2))
	for _, step := range []struct {
		day                     int
		hits, browsers, signIns int
	}{{1, 2, 2, 1}, {89, 2, 2, 1}, {90, 1, 1, 0}, {91, 0, 0, 0}, {400, 0, 0, 0}} {
		w.set(morning.Add(days(step.day)))
		u := w.usage(c, "acme")
		if got := u.Recent; got.Hits != step.hits || got.Browsers != step.browsers || got.SignIns != step.signIns {
			t.Errorf("recent on day %d = %+v; want %+v", step.day, got, step)
		}
		if u.Ever.Hits != 2 || u.Ever.Browsers != 2 || u.Ever.SignIns != 1 || u.First != morning || u.Last != morning.Add(days(1)) {
			t.Errorf("ever on day %d = %+v; want all of it", step.day, u)
		}
	}
	// It was first written on day 1, and expires 400 days later.
	w.set(morning.Add(days(401) + time.Minute))
	if u := w.usage(c, "acme"); u != (Usage{}) {
		t.Errorf("after 400 days without a use: %+v; want nothing", u)
	}
}

func TestAUseExtendsTheRecord(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	for range 3 {
		c.Note("acme", browser(1))
		w.flush(c)
		w.pass(days(399))
	}
	if u := w.usage(c, "acme"); u.Ever.Hits != 3 || u.Ever.Browsers != 1 {
		t.Errorf("a use every 399 days: %+v; want 3 hits", u)
	}
}

func TestClockSetBack(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	c.Note("acme", browser(1))
	w.flush(c)
	w.pass(days(20)) // the clock was wrong
	c.Note("acme", browser(2))
	w.flush(c)
	w.set(morning.Add(-days(3)))
	c.Note("acme", browser(3))
	u := w.usage(c, "acme")
	if u.Recent.Hits != 3 || u.Recent.Browsers != 3 || u.Ever.Hits != 3 {
		t.Errorf("set back: %+v; want 3 of each", u)
	}
	if u.Last != w.now() || u.First.After(u.Last) {
		t.Errorf("used from %v to %v; want until now, %v", u.First, u.Last, w.now())
	}
	// Uses ahead of the clock count as of that day, and expire with it.
	w.pass(days(89))
	if got := w.usage(c, "acme").Recent.Hits; got != 3 {
		t.Errorf("89 days later: %d hits; want 3", got)
	}
	w.pass(days(1))
	if got := w.usage(c, "acme").Recent; got.Hits != 0 || got.Browsers != 0 {
		t.Errorf("90 days later: %+v; want none", got)
	}
}

func TestManyBrowsers(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	check := func(when string, recent, ever int, recentMore, everMore bool) {
		t.Helper()
		u := w.usage(c, "acme")
		if u.Recent.Browsers != recent || u.Recent.MoreBrowsers != recentMore || u.Ever.Browsers != ever || u.Ever.MoreBrowsers != everMore {
			t.Errorf("%s: recent %d %v, ever %d %v; want %d %v, %d %v", when, u.Recent.Browsers, u.Recent.MoreBrowsers,
				u.Ever.Browsers, u.Ever.MoreBrowsers, recent, recentMore, ever, everMore)
		}
	}
	for i := range MaxBrowsers {
		c.Note("acme", browser(i))
	}
	check("as many as are told apart", 200, 200, false, false)
	for i := range MaxBrowsers {
		c.Note("acme", browser(i))
	}
	check("the same again", 200, 200, false, false)
	w.pass(days(1))
	c.Note("acme", browser(1000))
	check("one more", 200, 200, true, true)
	w.set(morning.Add(days(90)))
	check("when the first have fallen away", 1, 200, false, true)
	c.Note("acme", browser(1001))
	check("when there is place again", 2, 200, false, true)
}

// Browsers that a process dropped before its first write are known, too, and expire although the
// clock was ahead.
func TestManyBrowsersAtOnce(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	w.pass(days(20)) // the clock was wrong
	for i := range MaxBrowsers + 1 {
		c.Note("acme", browser(i))
	}
	w.flush(c)
	w.set(morning)
	c.Note("acme", Use{})
	for _, step := range []struct {
		day  int
		want bool
	}{{0, true}, {89, true}, {90, false}} {
		w.set(morning.Add(days(step.day)))
		if got := w.usage(c, "acme"); got.Recent.MoreBrowsers != step.want || !got.Ever.MoreBrowsers {
			t.Errorf("on day %d: recent %+v, ever %+v; want more browsers %v, and ever", step.day, got.Recent, got.Ever, step.want)
		}
	}
}

// Records are small, whatever happens.
func TestRecordSize(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	for d := range 120 {
		for b := range 20 {
			for _, u := range []Use{{Upgraded: true}, browser(d*20 + b), {SignIn: true}} {
				c.Note("acme", u)
			}
		}
		c.mu.Lock()
		r := c.pending["acme"]
		last := &r.days[len(r.days)-1].counts
		*last = counts{last.hits + 1e6, last.upgraded + 1e6, last.notBrowsers + 1e6, last.signIns + 1e6}
		c.mu.Unlock()
		if d%10 == 0 {
			w.flush(c)
		}
		w.pass(days(1))
	}
	w.flush(c)
	rec, err := w.db.Get(t.Context(), c.key("acme"))
	w.no(err)
	if len(rec.Value) > 4096 || len(rec.Value) < 3000 {
		t.Errorf("the record has %d bytes; want 3000 to 4096", len(rec.Value))
	}
}

// Counters of two processes, and two Runs of each, lose nothing and count nothing twice.
func TestCountersAddUp(t *testing.T) {
	w := newWorld(t)
	const each, companies = 300, 5
	var notes, runs sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for i, c := range []*Counter{w.counter(), w.counter()} {
		for range 2 {
			runs.Go(func() { c.Run(ctx, quiet()) })
			notes.Go(func() {
				for n := range each {
					u := browser(i)
					u.SignIn = n%3 == 0
					c.Note(fmt.Sprint("company-", n%companies), u)
					if n%10 == 0 {
						w.flush(c)
					}
				}
			})
		}
	}
	notes.Wait()
	stop()
	runs.Wait()
	var sum Sum
	w.no(w.counter().All(t.Context(), func(_ string, u Usage) bool {
		if u.Recent != u.Ever || u.Ever.Browsers != 2 {
			t.Errorf("%+v; want 2 browsers, all of it recent", u)
		}
		sum.Hits, sum.SignIns = sum.Hits+u.Ever.Hits, sum.SignIns+u.Ever.SignIns
		return true
	}))
	if sum.Hits != 4*each*2/3 || sum.SignIns != 4*each/3 {
		t.Errorf("%+v; want %d hits and %d sign-ins", sum, 4*each*2/3, 4*each/3)
	}
}

// Another process writes between our read and our write.
func TestFlushRetriesAfterAConflict(t *testing.T) {
	w := newWorld(t)
	other := w.counter()
	db := &away{Store: w.db}
	c := w.counter()
	c.Store = db
	for _, company := range []string{"acme", "birch"} {
		c.Note(company, browser(1))
	}
	other.Note("birch", browser(2))
	db.before = func() { w.flush(other) }
	w.flush(c)
	for company, want := range map[string]int{"acme": 1, "birch": 2} {
		if u := w.usage(c, company); u.Ever.Hits != want || u.Ever.Browsers != want {
			t.Errorf("%s = %+v; want %d", company, u, want)
		}
	}
}

func TestPendingCountsWaitWhileTheStoreIsUnavailable(t *testing.T) {
	w := newWorld(t)
	db := &away{Store: w.db, err: store.ErrUnavailable}
	c := w.counter()
	c.Store = db
	c.Note("acme", browser(1))
	for range 3 {
		if err := c.Flush(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("Flush = %v; want %v", err, store.ErrUnavailable)
		}
		c.Note("acme", browser(2))
	}
	if _, err := c.Company(t.Context(), "acme"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Company = %v; want %v, as it doesn't know all", err, store.ErrUnavailable)
	}
	db.err = nil
	if u := w.usage(c, "acme"); u.Ever.Hits != 4 || u.Ever.Browsers != 2 {
		t.Errorf("once the store is back: %+v; want 4 hits by 2 browsers", u)
	}
	w.flush(c)
	if db.writes != 1 {
		t.Errorf("%d writes; want 1, and none where nothing was counted", db.writes)
	}
}

// After an interrupted round, written counts aren't written again.
func TestAnInterruptedFlushCountsNothingTwice(t *testing.T) {
	w := newWorld(t)
	const n = batch + 10
	for _, test := range []struct {
		what  string
		after int
		clash bool // another process writes the first company, so that each is written by itself
	}{{"between two batches", 1, false}, {"between two companies", 3, true}} {
		db := &away{Store: w.db, err: store.ErrUnavailable, after: test.after}
		c := &Counter{Firm: "firm of " + test.what, Store: db, Keys: w.keys, Now: w.now}
		for i := range n {
			c.Note(fmt.Sprintf("company-%05d", i), Use{})
		}
		want := 0
		if test.clash {
			other := &Counter{Firm: c.Firm, Store: w.db, Keys: w.keys, Now: w.now}
			other.Note("company-00000", Use{})
			db.before, want = func() { w.flush(other) }, 1
		}
		if err := c.Flush(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("%s: Flush = %v; want %v", test.what, err, store.ErrUnavailable)
		}
		db.err = nil
		sum := 0
		w.no(c.All(t.Context(), func(_ string, u Usage) bool { sum += u.Ever.Hits; return true }))
		if sum != n+want {
			t.Errorf("%s: %d hits; want %d", test.what, sum, n+want)
		}
	}
}

// Company waits for a concurrent write.
func TestCompanyWaitsForAConcurrentWrite(t *testing.T) {
	w := newWorld(t)
	db := &away{Store: w.db}
	c := w.counter()
	c.Store = db
	c.Note("acme", Use{})
	writing, asked := make(chan struct{}), make(chan Usage, 1)
	db.before = func() {
		close(writing)
		time.Sleep(50 * time.Millisecond) // a slow disk
	}
	go func() {
		<-writing
		u, err := c.Company(context.Background(), "acme")
		if err != nil {
			t.Error(err)
		}
		asked <- u
	}()
	w.flush(c)
	if u := <-asked; u.Ever.Hits != 1 {
		t.Errorf("asked during a write: %+v; want what is being written", u)
	}
}

// Pending counts are limited, and dropped ones are logged.
func TestPendingCountsAreLimited(t *testing.T) {
	w := newWorld(t)
	db := &away{Store: w.db, err: store.ErrUnavailable}
	c := w.counter()
	c.Store = db
	for n := range 20_000 {
		c.Note("acme", browser(n))
	}
	if len(c.pending) != 1 || len(c.pending["acme"].browsers) != MaxBrowsers || c.browsers != MaxBrowsers {
		t.Errorf("a flood of one company: %d entries with %d browsers, %d held; want 1 with %d", len(c.pending), len(c.pending["acme"].browsers), c.browsers, MaxBrowsers)
	}
	for n := range maxPending {
		c.Note(fmt.Sprint("company-", n), Use{})
	}
	c.browsers = maxBrowsers
	c.Note("company-1", browser(1))
	if got := c.pending["company-1"]; got.ever.hits != 2 || len(got.browsers) != 0 {
		t.Errorf("where too many browsers wait: %+v; want 2 hits, no browser", got)
	}
	c.browsers = MaxBrowsers
	if len(c.pending) != maxPending || c.lost != 1 {
		t.Fatalf("%d wait, %d are lost; want %d and 1", len(c.pending), c.lost, maxPending)
	}
	// The limits hold when a write fails.
	if err := c.Flush(t.Context()); err == nil {
		t.Fatal("the store is not away")
	}
	if len(c.pending) != maxPending || c.browsers != MaxBrowsers || c.pending["acme"].ever.hits != 20_000 {
		t.Errorf("after a failed write %d wait with %d browsers; want the same as before", len(c.pending), c.browsers)
	}
}

// memory is a store for tests with synctest, which can't wait for files.
type memory struct {
	store.Store
	mu     sync.Mutex
	values map[string][]byte
	away   bool
	writes int
}

func (m *memory) Get(_ context.Context, k store.Key) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.values[k.ID]; ok {
		return store.Record{Key: k, Value: bytes.Clone(v)}, nil
	}
	return store.Record{}, store.ErrNotFound
}

func (m *memory) Apply(_ context.Context, ops ...store.Op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away {
		return store.ErrUnavailable
	}
	for _, op := range ops {
		m.values[op.Key.ID] = op.Value
	}
	m.writes++
	return nil
}

func (m *memory) set(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.away = away
}

// A record of another release stays, a damaged one starts again, others are counted as usual, even
// if another process writes at the same time; and each unreadable one is logged once.
func TestUnreadableUsageRecordsAreLogged(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	other, damaged := []byte("\x02 by another release"), []byte{version, 0xff}
	w.no(w.db.Apply(t.Context(), store.Put(c.key("other"), other, time.Time{}), store.Put(c.key("damaged"), damaged, time.Time{})))
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for n := range 3 {
		if n == 2 { // another process writes first: each company by itself
			c.Store = &away{Store: w.db, before: func() {
				second := w.counter()
				second.Note("damaged", browser(1))
				w.flush(second)
			}}
		}
		for _, company := range []string{"acme", "damaged", "other"} {
			c.Note(company, browser(1))
		}
		w.flush(c)
		c.logProblems(logger)
	}
	if rec, err := w.db.Get(t.Context(), c.key("other")); err != nil || !bytes.Equal(rec.Value, other) {
		t.Errorf("another release's record is %q, %v; want it as it was", rec.Value, err)
	}
	for company, want := range map[string]int{"acme": 3, "damaged": 4, "other": 0} {
		if u := w.usage(c, company); u.Ever.Hits != want {
			t.Errorf("%s: %d hits; want %d", company, u.Ever.Hits, want)
		}
	}
	c.logProblems(logger)
	if got := log.String(); strings.Count(got, "unreadable") != 1 || !strings.Contains(got, "bucket=usage records=2 what_to_do=") {
		t.Errorf("the log says\n%s\nwant once that two records can't be read", got)
	}
	reader := w.counter() // that writes nothing
	w.no(reader.All(t.Context(), func(string, Usage) bool { return true }))
	if reader.logProblems(logger); !strings.Contains(log.String(), "records=1") {
		t.Errorf("the log of a reader says\n%s\nwant that one can't be read", &log)
	}
}

// An unreadable start of counting is logged in the same way, and starts again if it is damaged.
func TestAnUnreadableStartOfCountingIsLogged(t *testing.T) {
	for name, other := range map[string]bool{"\x02 by another release": true, "\x01 cut": false, "": false} {
		w := newWorld(t)
		c := w.counter()
		k := store.Key{Firm: "example", Bucket: bucketSince, ID: "since"}
		w.no(w.db.Apply(t.Context(), store.Put(k, []byte(name), time.Time{})))
		begun := w.now().UTC().Truncate(time.Second)
		for range 2 {
			if got, err := c.Since(t.Context()); err != nil || !got.Equal(w.now().Truncate(time.Second)) && !got.Equal(begun) {
				t.Errorf("%q: Since = %v, %v; want %v", name, got, err, begun)
			}
		}
		var log bytes.Buffer
		c.logProblems(slog.New(slog.NewTextHandler(&log, nil)))
		if strings.Count(log.String(), "unreadable") != 1 || !strings.Contains(log.String(), "records=1") {
			t.Errorf("%q: the log says %q; want once that one record can't be read", name, &log)
		}
		rec, err := w.db.Get(t.Context(), k)
		if w.no(err); (string(rec.Value) == name) != other {
			t.Errorf("%q: the record is %q; want it as it was: %t", name, rec.Value, other)
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := secret.New([]byte(secret.Random()))
		if err != nil {
			t.Fatal(err)
		}
		m := &memory{values: map[string][]byte{}}
		c := &Counter{Firm: "example", Store: m, Keys: keys}
		var log bytes.Buffer
		ctx, stop := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		logger := slog.New(slog.NewTextHandler(&log, nil))
		for range 2 {
			runs.Go(func() { c.Run(ctx, logger) })
			synctest.Wait() // this store doesn't report the first one's success to the second
		}
		wait := func(d time.Duration, writes int, what string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if m.writes != writes {
				t.Errorf("%s: %d writes; want %d", what, m.writes, writes)
			}
		}
		wait(time.Hour, 1, "nothing was counted, but that there is counting")
		m.writes = 0
		c.Note("acme", Use{})
		c.Note("acme", Use{})
		c.Note("birch", Use{})
		wait(writeEvery, 1, "a few seconds later")
		wait(time.Hour, 1, "nothing more was counted")
		m.set(true)
		c.Note("acme", Use{})
		wait(time.Minute, 1, "the store is away")
		m.set(false)
		wait(writeEvery, 2, "it is back")
		c.Note("acme", Use{})
		stop()
		runs.Wait()
		if m.writes != 3 {
			t.Errorf("at the end: %d writes; want 3", m.writes)
		}
		if u := must(c.Company(t.Context(), "acme")); u.Ever.Hits != 4 {
			t.Errorf("acme = %+v; want 4 hits", u)
		}
		if got := strings.Count(log.String(), "not saved yet"); got < 1 || got > 2 {
			t.Errorf("the log tells of it %d times; want once for each Run:\n%s", got, &log)
		}
	})
}

// Dropped uses are logged, and uses after the last Run are written by Close.
func TestDroppedUsesAreLoggedAndCloseWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{values: map[string][]byte{}}
		c := &Counter{Firm: "example", Store: m, lost: 7}
		var log bytes.Buffer
		ctx, stop := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		runs.Go(func() { c.Run(ctx, slog.New(slog.NewTextHandler(&log, nil))) })
		time.Sleep(time.Minute)
		stop()
		runs.Wait()
		m.writes = 0
		if strings.Count(log.String(), "uses=7") != 1 {
			t.Errorf("the log says %q; want uses=7, once", &log)
		}
		c.Note("acme", Use{})
		if err := c.Close(); err != nil || m.writes != 1 {
			t.Errorf("Close = %v after %d writes; want one write", err, m.writes)
		}
	})
}

func TestSince(t *testing.T) {
	w := newWorld(t)
	for _, step := range []struct{ now, want time.Duration }{
		{0, 0}, {days(5), 0}, {days(400), 0}, {days(500), days(100)}, {-days(1), -days(1)},
	} {
		w.set(morning.Add(step.now))
		got, err := w.counter().Since(t.Context())
		w.no(err)
		if got != morning.Add(step.want) {
			t.Errorf("at %v: since %v; want %v", w.now(), got, morning.Add(step.want))
		}
	}
	var none *Counter
	if got, err := none.Since(t.Context()); !got.IsZero() || err != nil {
		t.Errorf("of no Counter: %v, %v; want never", got, err)
	}
	w.no(w.db.Close())
	if _, err := w.counter().Since(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("of no store: %v; want %v", err, store.ErrUnavailable)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestAll(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	const n = 2*pageSize + 3
	for i := range n {
		c.Note(fmt.Sprintf("company-%05d", i), browser(i))
	}
	w.flush(c)
	k := c.key("company-00001")
	w.no(w.db.Apply(t.Context(), store.Put(k, []byte{version, 0xff}, time.Time{})))
	var ids []string
	collect := func(company string, u Usage) bool {
		if u.Ever.Hits != 1 {
			t.Errorf("%s = %+v; want one hit", company, u)
		}
		ids = append(ids, company)
		return true
	}
	w.no(c.All(t.Context(), collect))
	if len(ids) != n-1 || ids[0] != "company-00000" || ids[1] != "company-00002" || ids[n-2] != fmt.Sprintf("company-%05d", n-1) {
		t.Errorf("All gives %d, from %v; want all but the one that can't be read, in order", len(ids), ids[:min(3, len(ids))])
	}
	ids = nil
	w.no(c.From(t.Context(), "company-01000", collect))
	if want := []string{"company-01001", "company-01002"}; !reflect.DeepEqual(ids, want) {
		t.Errorf("From = %v; want %v", ids, want)
	}
	calls := 0
	w.no(c.All(t.Context(), func(string, Usage) bool { calls++; return calls < 3 }))
	if calls != 3 {
		t.Errorf("All went on: %d calls; want 3", calls)
	}
	// A use restarts the damaged record.
	c.Note("company-00001", browser(1))
	if u := w.usage(c, "company-00001"); u.Ever.Hits != 1 {
		t.Errorf("begun again: %+v; want one hit", u)
	}
}

func TestBrowser(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	const safari, firefox = "Mozilla/5.0 Safari", "Mozilla/5.0 Firefox"
	name := func(c *Counter, ip, agent string) string { return c.Browser(netip.MustParseAddr(ip), agent) }
	one := name(c, "203.0.113.9", safari)
	if len(one) != 16 || strings.Contains(one, "203") {
		t.Errorf("Browser = %q; want 16 characters that say nothing", one)
	}
	for _, other := range []struct {
		what string
		got  string
		want bool
	}{
		{"the same", name(w.counter(), "203.0.113.9", safari), true},
		{"the same address as IPv6", name(c, "::ffff:203.0.113.9", safari), true},
		{"a neighbour", name(c, "203.0.113.10", safari), false},
		{"another browser", name(c, "203.0.113.9", firefox), false},
		{"another firm", name(&Counter{Firm: "other", Keys: w.keys}, "203.0.113.9", safari), false},
		{"nowhere", c.Browser(netip.Addr{}, safari), false},
	} {
		if (other.got == one) != other.want {
			t.Errorf("%s: the same is %v; want %v", other.what, other.got == one, other.want)
		}
	}
	if name(c, "2001:db8:1:2::1", safari) != name(c, "2001:db8:1:2:ffff::9%eth0", safari) {
		t.Error("two addresses of a /64 are two browsers")
	}
	if name(c, "2001:db8:1:2::1", safari) == name(c, "2001:db8:1:3::1", safari) {
		t.Error("two networks of IPv6 are one browser")
	}
	if browserID("acme", one) == browserID("birch", one) {
		t.Error("a browser has the same number in the records of two companies")
	}
}

// Decoding an encoded record returns the same record; other input returns an error, without a
// panic.
func FuzzDecode(f *testing.F) {
	r := record{}
	for n := range 300 {
		at := morning.Add(time.Duration(n) * 7 * time.Hour)
		r.addUse(Use{Browser: "x", SignIn: n%5 == 0}, uint64(n%250)+1, at)
	}
	for _, b := range [][]byte{nil, {}, {version}, {2, 1, 2}, (&record{}).encode(), r.encode(), r.encode()[:100]} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			if !reflect.DeepEqual(r, record{}) {
				t.Errorf("decode fails with %+v; want nothing", r)
			}
			return
		}
		again, err := decode(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("decode(encode(%+v)) = %+v, %v", r, again, err)
		}
		r.trim(morning)
		if u := r.usage(morning); u.Recent.Hits < 0 || u.Ever.Hits < 0 || u.Recent.Browsers > MaxBrowsers || len(r.days) > Days+1 {
			t.Errorf("it says %+v on %d days", u, len(r.days))
		}
		if _, err := decode(r.encode()); err != nil {
			t.Errorf("decode of what was trimmed: %v", err)
		}
	})
}

func BenchmarkNote(b *testing.B) {
	c := &Counter{}
	for n := range MaxBrowsers {
		c.Note("acme", browser(n))
	}
	u := browser(1)
	for b.Loop() {
		c.Note("acme", u)
	}
}
