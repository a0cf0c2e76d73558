//go:build servers

package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// TestALostReplyIsRepeated: the server has made the change, and its reply is lost.
func TestALostReplyIsRepeated(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	s := openAt(t, p.url(), Options{})
	direct := openAt(t, server.url(), Options{})
	soon := time.Now().Add(time.Hour)
	for round := range 20 {
		id := fmt.Sprint(round)
		put(t, direct, id, "v")
		for _, c := range []struct {
			what string
			op   store.Op
			then string
		}{
			{"Remove", store.Remove(key(id), []byte("v")), "-"},
			{"Create", store.Create(key(id), []byte("a"), soon), "a"},
			{"Replace", store.Replace(key(id), []byte("a"), []byte("b"), soon), "b"},
			{"Remove", store.Remove(key(id), []byte("b")), "-"},
		} {
			lost := p.loseAnswers(1, applyScript.Hash())
			if err := s.Apply(t.Context(), c.op); err != nil || lost.Load() != 1 {
				t.Fatalf("%s = %v with %d answers lost; want nil", c.what, err, lost.Load())
			}
			holds(t, direct, id, c.then)
		}
		p.loseAnswers(0, "")
	}
	if s.isDown() {
		t.Error("the server counts as gone")
	}
	// Repetition ends: the change may have been made.
	put(t, direct, "k", "v")
	p.loseAnswers(2, applyScript.Hash())
	if err := s.Apply(t.Context(), store.Remove(key("k"), []byte("v"))); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Remove with all answers lost = %v; want ErrUnavailable", err)
	}
	p.loseAnswers(0, "")
	eventually(t, time.Second, "the server counts as there", func() bool { return !s.isDown() })
}

// measured calls the store n times and returns the longest and the median time. Every error
// except ErrUnavailable and ErrNotFound fails the test.
func measured(t *testing.T, s *Store, n int) (longest, median time.Duration) {
	t.Helper()
	times := make([]time.Duration, n)
	for i := range times {
		start := time.Now()
		var err error
		switch i % 4 {
		case 0:
			_, err = s.Get(t.Context(), key("k"))
		case 1:
			err = s.Apply(t.Context(), store.Put(key("other"), nil, time.Time{}))
		case 2:
			err = s.Apply(t.Context(), store.Remove(key("nothing"), nil))
		case 3:
			_, err = s.Scan(t.Context(), "firm", "bucket", "", "", 9)
		}
		times[i] = time.Since(start)
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
			t.Fatalf("%d: %v; want ErrUnavailable", i%4, err)
		}
	}
	slices.Sort(times)
	return times[n-1], times[n/2]
}

// quick is much less than dialing or waiting for the server, and more than a busy machine
// adds to a reply that needs neither.
const quick = 5 * time.Millisecond

func TestAnOutageIsNoticedAndEnds(t *testing.T) {
	server := startServer(t, "--appendfsync", "always")
	var j journal
	s := openAt(t, server.url(), Options{Log: j.logger(), Sweep: 50 * time.Millisecond})
	put(t, s, "k", "v")
	before := runtime.NumGoroutine()
	for range 3 {
		server.kill()
		longest, median := measured(t, s, 1000)
		t.Logf("gone: an error takes %v at most, %v in the middle", longest, median)
		if longest > 3*time.Second || median > quick {
			t.Errorf("an error takes %v at most, %v in the middle; want 3s, %v", longest, median, quick)
		}
		time.Sleep(time.Second)
		if now := runtime.NumGoroutine(); now > before+10 {
			t.Errorf("%d goroutines, before %d", now, before)
		}
		server.start()
		back := eventually(t, 5*time.Second, "it is back", func() bool {
			rec, err := s.Get(t.Context(), key("k"))
			return err == nil && string(rec.Value) == "v"
		})
		t.Logf("back after %v", back)
	}
	eventually(t, 5*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+2 })
	if log := j.String(); strings.Count(log, "does not reply; requests that need it") != 3 || strings.Count(log, "replies again") != 3 {
		t.Errorf("the log is %s; want three outages", log)
	}
}

func TestASlowServerOpensTheCircuit(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	s := openAt(t, p.url(), Options{})
	put(t, s, "k", "v")
	before := runtime.NumGoroutine()
	p.delay.Store(int64(3 * time.Second))
	var wg sync.WaitGroup
	start := time.Now()
	for range 200 { // all at once, before the outage is known
		wg.Go(func() {
			if _, err := s.Get(t.Context(), key("k")); !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Get = %v; want ErrUnavailable", err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > 2500*time.Millisecond { // a second, plus the delay of a busy machine; the server takes three
		t.Errorf("200 at once took %v; want a second", took)
	}
	longest, median := measured(t, s, 1000)
	t.Logf("slow: an error takes %v at most, %v in the middle", longest, median)
	if longest > time.Second || median > quick {
		t.Errorf("an error takes %v at most, %v in the middle; want 1s, %v", longest, median, quick)
	}
	p.delay.Store(0)
	back := eventually(t, 5*time.Second, "it is back", func() bool {
		rec, err := s.Get(t.Context(), key("k"))
		return err == nil && string(rec.Value) == "v"
	})
	t.Logf("back after %v", back)
	eventually(t, 10*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before+10 })
}

// TestSilentlyDroppedConnectionsAreReplaced: a firewall drops existing connections silently and accepts
// new ones.
func TestSilentlyDroppedConnectionsAreReplaced(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	s := openAt(t, p.url(), Options{})
	withUsers(t, s)
	p.delay.Store(int64(20 * time.Millisecond)) // fills the pool
	readers(t, s)
	p.delay.Store(0)
	p.stuck.Store(p.begun.Load())
	if p.begun.Load() < 20 {
		t.Fatalf("there are %d connections; the test shows nothing", p.begun.Load())
	}
	back := eventually(t, 5*time.Second, "it is back", func() bool {
		_, err := s.Get(t.Context(), key("user 1"))
		return err == nil
	})
	t.Logf("back after %v", back)
	if back > 4*time.Second {
		t.Errorf("back after %v; want as soon as it is noticed", back)
	}
}

func TestCloseEndsAllGoroutines(t *testing.T) {
	server := startServer(t)
	before := runtime.NumGoroutine()
	for range 50 {
		s, err := Open(t.Context(), Options{Address: Address{URL: server.url()}})
		must(t, err)
		var wg sync.WaitGroup
		wg.Go(func() { s.Subscribe(t.Context(), "firm", func(string) {}) })
		put(t, s, "k", "v")
		must(t, s.Close())
		wg.Wait()
	}
	eventually(t, 5*time.Second, "no goroutine is left", func() bool { return runtime.NumGoroutine() <= before })
	raw := server.raw()
	eventually(t, 5*time.Second, "no connection is left", func() bool {
		return strings.Count(raw.ClientList(t.Context()).Val(), "\n") == 1
	})
}

// readers starts a thousand reads at once, of a record each, and returns how many succeeded;
// the others must return ErrUnavailable.
func readers(t *testing.T, s *Store) int {
	t.Helper()
	var right atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			id := fmt.Sprint("user ", i)
			rec, err := s.Get(context.Background(), key(id))
			switch {
			case err == nil && string(rec.Value) == "of "+id && rec.Key == key(id):
				right.Add(1)
			case !errors.Is(err, store.ErrUnavailable):
				t.Errorf("Get(%s) = %q, %v", id, rec.Value, err)
			}
		})
	}
	wg.Wait()
	return int(right.Load())
}

func withUsers(t *testing.T, s *Store) {
	t.Helper()
	var ops []store.Op
	for i := range 1000 {
		id := fmt.Sprint("user ", i)
		ops = append(ops, store.Put(key(id), []byte("of "+id), time.Now().Add(time.Hour)))
	}
	must(t, s.Apply(t.Context(), ops...))
}

// TestLateHandshakeRepliesAreNotMistaken covers CVE-2025-29923: late replies to the handshake were
// taken for the reply to the first request.
func TestLateHandshakeRepliesAreNotMistaken(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	s := openAt(t, p.url(), Options{})
	withUsers(t, s)
	for range 3 {
		p.cut()
		p.delay.Store(int64(600 * time.Millisecond))
		readers(t, s)
		p.delay.Store(0)
		eventually(t, 5*time.Second, "all are right again", func() bool { return readers(t, s) == 1000 })
	}
}

// TestWrongRepliesAreDetected uses a proxy that sometimes returns a reply to another request.
func TestWrongRepliesAreDetected(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	var j journal
	s := openAt(t, p.url(), Options{Log: j.logger()})
	withUsers(t, s)

	var mu sync.Mutex
	var last []byte
	var mixed int
	swap := func(b []byte) []byte { // one too late: all later replies are shifted
		mu.Lock()
		defer mu.Unlock()
		was := last
		last = b
		if was == nil || rand.N(1000) > 0 {
			return b
		}
		mixed++
		return slices.Concat(was, b)
	}
	instead := func(b []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		was := last
		last = b
		if was == nil || rand.N(1000) > 0 {
			return b
		}
		mixed++
		return was
	}
	for _, f := range []func([]byte) []byte{swap, instead} {
		p.change.Store(&f)
		right := 0
		for range 20 {
			right += readers(t, s)
		}
		p.change.Store(nil)
		mu.Lock()
		t.Logf("%d mixed up, %d of 20000 right", mixed, right)
		if mixed < 3 || right < 5000 {
			t.Errorf("%d mixed up, %d of 20000 right; the test shows nothing", mixed, right)
		}
		last, mixed = nil, 0
		mu.Unlock()
		eventually(t, 5*time.Second, "all are right again", func() bool { return readers(t, s) == 1000 })
	}
	if !strings.Contains(j.String(), "reply to another request") {
		t.Errorf("the log is %.500s; want to be told", j.String())
	}
	// Only the nonce reveals that "no record" was the reply to another request.
	nothing := func(b []byte) []byte { return []byte("*2\r\n$5\r\nother\r\n$-1\r\n") }
	p.change.Store(&nothing)
	if _, err := s.Get(t.Context(), key("user 1")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Get = %v; want ErrUnavailable", err)
	}
	p.change.Store(nil)
	eventually(t, 5*time.Second, "all are right again", func() bool { return readers(t, s) == 1000 })
}

func TestABigApplyBlocksNobody(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	other := openAt(t, server.url(), Options{})
	put(t, s, "k", "v")
	const n = 100_000
	value := []byte(strings.Repeat("x", 200))
	ops := make([]store.Op, 0, n+1)
	for i := range n {
		k := store.Key{Firm: "firm", Bucket: []string{"contact", "email"}[i%2], ID: fmt.Sprintf("%08d", i)}
		ops = append(ops, store.Create(k, value, time.Time{}))
	}

	// Concurrent changes.
	stop := make(chan struct{})
	var longest time.Duration
	var failed, served int
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			start := time.Now()
			if _, err := other.Get(t.Context(), key("k")); err != nil {
				failed++
			} else {
				served++
			}
			longest = max(longest, time.Since(start))
		}
	})
	start := time.Now()
	if err := s.Apply(t.Context(), append(ops, store.Check(key("k"), []byte("w")))...); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("Apply = %v; want ErrConflict", err)
	}
	conflict := time.Since(start)
	if list, err := s.Scan(t.Context(), "firm", "contact", "", "", 1); len(list) != 0 || err != nil {
		t.Errorf("after the conflict: %v, %v; want nothing", ids(list), err)
	}
	start = time.Now()
	must(t, s.Apply(t.Context(), append(ops, store.Check(key("k"), []byte("v")))...))
	took := time.Since(start)
	close(stop)
	wg.Wait()
	t.Logf("%d ops: conflict %v, done %v; others were served %d times, refused %d times, and waited %v at most", n, conflict, took, served, failed, longest)
	for _, slow := range server.raw().SlowLogGet(t.Context(), 9).Val() {
		t.Logf("the server was busy for %v with %s", slow.Duration, slow.Args[0])
	}
	start = time.Now()
	list, err := s.Scan(t.Context(), "firm", "contact", "", "", n)
	for end := start.Add(time.Minute); errors.Is(err, store.ErrUnavailable) && time.Now().Before(end); { // the machine may be busy
		list, err = s.Scan(t.Context(), "firm", "contact", "", "", n)
	}
	if len(list) != n/2 || err != nil || !slices.IsSortedFunc(list, func(a, b store.Record) int { return strings.Compare(a.Key.ID, b.Key.ID) }) {
		t.Errorf("Scan = %d records, %v; want %d in order", len(list), err, n/2)
	}
	t.Logf("a Scan of %d took %v", len(list), time.Since(start))
	if took > time.Minute {
		t.Errorf("it took %v", took)
	}
	if served < 50 {
		t.Errorf("others were served %d times meanwhile; want that they hardly wait", served)
	}
	holds(t, other, "k", "v")
	if err := s.Apply(t.Context(), make([]store.Op, maxOps+1)...); err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Apply of too much = %v; want a refusal", err)
	}
}

func TestSubscribersGetMessages(t *testing.T) {
	server := startServer(t)
	a, b := openAt(t, server.url(), Options{}), openAt(t, server.url(), Options{})
	heard := make(chan string, 100)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, s := range []*Store{a, b} {
		wg.Go(func() { s.Subscribe(ctx, "firm", func(m string) { heard <- m }) })
	}
	next := func(within time.Duration) string {
		t.Helper()
		select {
		case m := <-heard:
			return m
		case <-time.After(within):
			t.Fatalf("nothing is heard for %v", within)
			return ""
		}
	}
	both := func(want string, within time.Duration) {
		t.Helper()
		for range 2 {
			if got := next(within); got != want {
				t.Fatalf("heard %q; want %q", got, want)
			}
		}
	}
	both("", time.Second)
	must(t, a.Publish(t.Context(), "other", "not for you"))
	start := time.Now()
	must(t, a.Publish(t.Context(), "firm", "revoked\x00\r\n"))
	both("revoked\x00\r\n", time.Second)
	t.Logf("heard after %v", time.Since(start))
	time.Sleep(3 * listenEvery) // silence doesn't end the subscription
	must(t, b.Publish(t.Context(), "firm", "again"))
	both("again", time.Second)

	server.kill()
	if err := a.Publish(t.Context(), "firm", "lost"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Publish = %v; want ErrUnavailable", err)
	}
	time.Sleep(time.Second)
	server.start()
	both("", 5*time.Second)
	eventually(t, 5*time.Second, "it is back", func() bool { return a.Publish(t.Context(), "firm", "back") == nil })
	both("back", time.Second)

	// A hanging server: the subscriber notices only silence.
	p := startProxy(t, server.address())
	c := openAt(t, p.url(), Options{})
	wg.Go(func() { c.Subscribe(ctx, "third", func(m string) { heard <- m }) })
	if got := next(time.Second); got != "" {
		t.Fatalf("heard %q; want the beginning", got)
	}
	p.delay.Store(int64(time.Hour))
	time.Sleep(3 * time.Second)
	p.delay.Store(0)
	if got := next(5 * time.Second); got != "" {
		t.Fatalf("heard %q; want the beginning", got)
	}
	cancel()
	wg.Wait()
	done := make(chan struct{})
	go func() { defer close(done); b.Subscribe(context.Background(), "firm", func(string) {}) }()
	time.Sleep(50 * time.Millisecond)
	must(t, b.Close())
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		t.Error("Subscribe goes on after Close")
	}
}
