package limit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// clock stands still until it is moved.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.at.Store(noon.UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) move(d time.Duration) { c.at.Add(int64(d)) }

func newNetworks(t testing.TB) (*Networks, *clock) {
	t.Helper()
	c := newClock()
	return &Networks{Firm: "example", Store: openStore(t), Keys: keyring(t), Now: c.now}, c
}

// taken counts how many of count events are allowed, from the addresses that ip returns.
func taken(n *Networks, c Class, count int, ip func(i int) string) (got int) {
	for i := range count {
		a, _ := netip.ParseAddr(ip(i))
		if n.Allow(c, a) {
			got++
		}
	}
	return got
}

func one(ip string) func(int) string { return func(int) string { return ip } }

func TestNetworks_BurstAndSustainedRate(t *testing.T) {
	for _, c := range []struct {
		name  string
		class Class
		ip    func(i int) string
		burst int // of 5,000 at once
		hour  int // one each second of the hour after that
	}{
		{"asks of one address", MailRequest, one("192.0.2.1"), 150, 150},
		{"asks of one address, as IPv6 maps it", MailRequest, one("::ffff:192.0.2.1"), 150, 150},
		{"asks of a /24", MailRequest, func(i int) string { return fmt.Sprintf("192.0.2.%d", i%256) }, 300, 300},
		{"asks of a /64", MailRequest, func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }, 150, 150},
		{"asks of a /56", MailRequest, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%256) }, 200, 200},
		{"asks of a /48", MailRequest, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%65536) }, 300, 300},
		{"asks from nowhere", MailRequest, one(""), 150, 150},
		{"failures of one address", Failure, one("192.0.2.1"), 150, 80},
		{"failures of a /24", Failure, func(i int) string { return fmt.Sprintf("192.0.2.%d", i%256) }, 200, 400},
		{"failures of a /64", Failure, func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }, 150, 80},
		{"failures of a /56", Failure, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%256) }, 170, 240},
		{"failures of a /48", Failure, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%65536) }, 250, 800},
		{"codes of one address", Guess, one("192.0.2.1"), 150, 80},
		{"passwords of one address", Password, one("192.0.2.1"), 15, 20},
		{"passwords of a /24", Password, func(i int) string { return fmt.Sprintf("192.0.2.%d", i%256) }, 75, 100},
		{"passwords of a /64", Password, func(i int) string { return fmt.Sprintf("2001:db8::%x", i) }, 15, 20},
		{"passwords of a /56", Password, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%256) }, 45, 60},
		{"passwords of a /48", Password, func(i int) string { return fmt.Sprintf("2001:db8:0:%x::1", i%65536) }, 150, 200},
	} {
		n, clock := newNetworks(t)
		if got := taken(n, c.class, 5000, c.ip); got != c.burst {
			t.Errorf("%s: %d at once; want %d", c.name, got, c.burst)
		}
		got := 0
		for i := range 3600 {
			clock.move(time.Second)
			got += taken(n, c.class, 3, func(j int) string { return c.ip(5000 + 3*i + j) })
		}
		if got < c.hour-1 || got > c.hour+1 {
			t.Errorf("%s: %d in the hour after that; want %d", c.name, got, c.hour)
		}
	}
}

func TestNetworks_EachKeepsAFewWhileTheFirmIsOverItsLimit(t *testing.T) {
	for _, c := range []struct {
		name   string
		class  Class
		minute int
	}{{"passwords", Password, 40}, {"codes", Guess, 100}} {
		n, clock := newNetworks(t)
		in := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}) }
		count := func(times int, ip func(i int) netip.Addr) (got int) {
			for i := range times {
				if _, ok := n.AllowFirm(c.class, ip(i)); ok {
					got++
				}
			}
			return got
		}
		flood := func(int) netip.Addr { return in(0) }
		if got := count(5000, flood); got != 203 {
			t.Errorf("%s: %d at once; want 200, and 3 of the network", c.name, got)
		}
		clock.move(time.Minute)
		if got := count(5000, flood); got < c.minute-1 || got > c.minute+1 {
			t.Errorf("%s: %d in a minute after that; want %d", c.name, got, c.minute)
		}
		if got := count(3000, func(i int) netip.Addr { return in(1 + i%100) }); got != 300 {
			t.Errorf("%s: %d of a hundred further networks; want 3 of each", c.name, got)
		}
		refund, ok := n.AllowFirm(c.class, in(200))
		if !ok {
			t.Errorf("%s: none for a new network", c.name)
		}
		refund()
		if got := count(10, func(int) netip.Addr { return in(200) }); got != 3 {
			t.Errorf("%s: %d after one was given back; want 3", c.name, got)
		}
		clock.move(time.Hour)
		count(5000, flood)
		if got := count(10, func(int) netip.Addr { return in(200) }); got != 3 {
			t.Errorf("%s: %d an hour later; want 3", c.name, got)
		}
	}
}

func TestNetworks_NeighboursAreNotLimited(t *testing.T) {
	n, _ := newNetworks(t)
	taken(n, MailRequest, 5000, one("192.0.2.1"))
	taken(n, MailRequest, 5000, one("2001:db8::1"))
	for ip, want := range map[string]bool{"192.0.2.1": false, "192.0.2.2": true, "192.0.3.1": true, "2001:db8::2": false, "2001:db8:0:1::1": true, "2001:db8:1::1": true, "": true} {
		if got := taken(n, MailRequest, 1, one(ip)) == 1; got != want {
			t.Errorf("Take from %q = %t; want %t", ip, got, want)
		}
	}
	if got := taken(n, Failure, 1, one("192.0.2.1")); got != 1 {
		t.Error("who asked too often has no failures left")
	}
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.200")
	if n.Pseudonym(a) != n.Pseudonym(b) || n.Pseudonym(a) == n.Pseudonym(netip.MustParseAddr("192.0.3.1")) || n.Pseudonym(a) == "" {
		t.Error("a /24 has one name, and no other has it")
	}
	if n.Pseudonym(netip.MustParseAddr("2001:db8:0:1::1")) != n.Pseudonym(netip.MustParseAddr("2001:db8:0:ffff::1")) {
		t.Error("a /48 has one name")
	}
	for i := range 7 {
		if got := n.AllowKnown("device"); got != (i < 6) {
			t.Errorf("ask %d of a device = %t", i+1, got)
		}
	}
	if n.AllowKnown("") {
		t.Error("no device may ask")
	}
}

func TestNetworks_AnOfficeOfSixtyBehindOneAddress(t *testing.T) {
	for _, ip := range []string{"192.0.2.1", "2001:db8::1"} {
		n, clock := newNetworks(t)
		a := netip.MustParseAddr(ip)
		// The worst order: all request mails, all mistype, and only then sign in.
		for i := range 60 {
			if got := taken(n, MailRequest, 2, one(ip)); got != 2 {
				t.Errorf("%s: person %d could ask %d times; want 2", ip, i+1, got)
			}
			clock.move(3 * time.Second)
		}
		for i := range 60 {
			if got := taken(n, Guess, 2, one(ip)); got != 2 {
				t.Errorf("%s: person %d could mistype %d times; want 2", ip, i+1, got)
			}
			clock.move(3 * time.Second)
		}
		for i := range 60 {
			if !n.Allow(Guess, a) {
				t.Errorf("%s: person %d didn't get in", ip, i+1)
			}
			n.Refund(Guess, a)
			clock.move(3 * time.Second)
		}
	}
}

func TestD10_ConcurrentFailuresAreAllCounted(t *testing.T) {
	n, _ := newNetworks(t)
	var got atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { got.Add(int64(taken(n, Guess, 20, one("192.0.2.1")))) })
	}
	all.Wait()
	if got.Load() > 150 || got.Load() < 140 { // a concurrent refund may come late
		t.Errorf("%d of a thousand at once are granted; want 150", got.Load())
	}
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestD12_MemoryIsBoundedAndNewKeysAreLimitedWhenFull(t *testing.T) {
	n, clock := newNetworks(t)
	before := heap()
	const flood = 1_500_000
	granted := 0
	for i := range flood {
		if n.counters.allow(uint64(i)*0x9e3779b97f4a7c15&^reservedBit, rate{150, 24 * time.Second}, clock.now()) {
			granted++
		}
	}
	used := int64(heap()) - int64(before)
	t.Logf("%d cells of %d asked for take %d KiB", granted, flood, used>>10)
	if granted > MaxBuckets || granted < MaxBuckets*9/10 {
		t.Errorf("%d cells; want all of %d", granted, MaxBuckets)
	}
	if used > 16<<20 {
		t.Errorf("%d bytes for %d cells; want at most 16 MiB", used, granted)
	}
	if got := taken(n, MailRequest, 100, func(i int) string { return fmt.Sprintf("10.0.%d.1", i) }); got != 0 {
		t.Errorf("%d new networks got in while all cells are in use; want none", got)
	}
	// Later it works again.
	clock.move(25 * time.Second)
	if got := taken(n, MailRequest, 100, func(i int) string { return fmt.Sprintf("10.0.%d.1", i) }); got != 100 {
		t.Errorf("%d of 100 new networks got in after the flood; want all", got)
	}
	n.counters.sweep(clock.now())
	if used := int64(heap()) - int64(before); used > 1<<20 {
		t.Errorf("%d bytes are left after the flood; want next to none", used)
	}
	runtime.KeepAlive(n)
}

// again returns another process on the same store.
func again(n *Networks) *Networks {
	return &Networks{Firm: n.Firm, Store: n.Store, Keys: n.Keys, Now: n.Now}
}

func TestNetworks_ARestartKeepsTheCounts(t *testing.T) {
	n, clock := newNetworks(t)
	save := func(n *Networks) {
		t.Helper()
		if err := n.Save(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	records := func() []store.Record {
		t.Helper()
		recs, err := n.Store.Scan(t.Context(), "example", limitsBucket, "", "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return recs
	}
	save(n)
	if got := len(records()); got != 0 {
		t.Errorf("%d snapshots of nothing; want none", got)
	}
	taken(n, MailRequest, 200, one("192.0.2.1"))
	save(n)
	save(n)
	next := again(n)
	save(next)
	if got := taken(next, MailRequest, 10, one("192.0.2.1")); got != 0 {
		t.Errorf("%d granted after a restart; want none", got)
	}
	if got := taken(next, MailRequest, 10, one("198.51.100.1")); got != 10 {
		t.Errorf("%d granted to another network after a restart; want all", got)
	}
	save(next)
	if got := len(records()); got != 1 {
		t.Errorf("%d snapshots after a restart; want one", got)
	}
	clock.move(24 * time.Minute) // sixty more
	next = again(n)
	save(next)
	if got := taken(next, MailRequest, 100, one("192.0.2.1")); got != 60 {
		t.Errorf("%d granted 24 minutes later; want 60", got)
	}

	// A clock that is set back extends no limit.
	taken(next, MailRequest, 200, one("192.0.2.1"))
	save(next)
	damaged := string(records()[0].Value[:17])
	clock.move(-1000 * time.Hour)
	back := again(n)
	save(back)
	clock.move(time.Hour)
	if got := taken(back, MailRequest, 150, one("192.0.2.1")); got != 150 {
		t.Errorf("%d granted an hour later, by a clock that was set back; want all", got)
	}

	// Unreadable snapshots stay in the store.
	for _, bad := range []string{"", "1", "2aaaaaaaaaaaaaaaaaaaaaaaaaaa", "1\xff\xff\xff\xff\xff\xff\xff\xffxxxxxxxxxxxx", damaged} {
		if err := n.Store.Apply(t.Context(), store.Put(store.Key{Firm: "example", Bucket: limitsBucket, ID: "x" + bad}, append([]byte{}, bad...), clock.now().Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	odd := again(n)
	save(odd)
	if got := taken(odd, MailRequest, 10, one("203.0.113.1")); got != 10 {
		t.Errorf("%d granted with damaged snapshots; want all", got)
	}
}

// Snapshots of another release are reported and stay, damaged ones are reported.
func TestNetworks_UnreadableSnapshotsAreLogged(t *testing.T) {
	n, clock := newNetworks(t)
	put := func(id string, value []byte) store.Key {
		k := store.Key{Firm: "example", Bucket: limitsBucket, ID: id}
		if err := n.Store.Apply(t.Context(), store.Put(k, value, clock.now().Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
		return k
	}
	other, damaged := put("other", []byte("2 by another release")), put("damaged", []byte{version})
	var log bytes.Buffer
	ctx, stop := context.WithCancel(t.Context())
	stop() // Run loads the snapshots, and saves once more
	taken(n, MailRequest, 1, one("192.0.2.1"))
	for range 2 {
		n.Run(ctx, slog.New(slog.NewTextHandler(&log, nil)))
	}
	if rec, err := n.Store.Get(t.Context(), other); err != nil || string(rec.Value) != "2 by another release" {
		t.Errorf("another release's snapshot is %q, %v; want it as it was", rec.Value, err)
	}
	if _, err := n.Store.Get(t.Context(), damaged); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a damaged snapshot: %v; want it taken away", err)
	}
	if got := log.String(); strings.Count(got, "limits unreadable") != 1 || !strings.Contains(got, "bucket=limits records=2") {
		t.Errorf("the log says\n%s\nwant once that two can't be read", got)
	}
}

// A flood from more networks than a snapshot holds must not reset the firm's counters at the
// next start.
func TestNetworks_AFloodKeepsTheFirmsCountersInTheSnapshot(t *testing.T) {
	n, clock := newNetworks(t)
	left := func(n *Networks) (granted int) {
		for range 10_000 {
			if !n.allowAll([]bucket{{n.key("guess") | reservedBit, firmGuesses}}) {
				break
			}
			granted++
		}
		return granted
	}
	if left(n) == 0 {
		t.Fatal("the firm's counter grants nothing")
	}
	for i := range 2 * snapshotKeys { // each drains later
		n.counters.raise(uint64(i)*0x9e3779b97f4a7c15&^reservedBit, maxDrain, clock.now())
	}
	next := again(n)
	next.merge(n.snapshot(clock.now()), clock.now())
	if got := left(next); got != 0 {
		t.Errorf("after a restart the firm's counter grants %d; want none", got)
	}
}

func TestNetworks_ASnapshotIsBounded(t *testing.T) {
	n, clock := newNetworks(t)
	for i := range 50_000 {
		n.counters.allow(uint64(i)*0x9e3779b97f4a7c15&^reservedBit, rate{150, 24 * time.Second}, clock.now())
	}
	taken(n, MailRequest, 200, one("192.0.2.1"))
	value := n.snapshot(clock.now())
	if len(value) != headerSize+snapshotKeys*entrySize {
		t.Errorf("a snapshot of 50,000 has %d bytes; want %d", len(value), headerSize+snapshotKeys*entrySize)
	}
	next := again(n)
	next.merge(value, clock.now())
	if got := taken(next, MailRequest, 10, one("192.0.2.1")); got != 0 {
		t.Errorf("the network that owes the most isn't in it: %d granted", got)
	}
}

// away is a store that can't write.
type away struct {
	store.Store
	is atomic.Bool
}

func (a *away) Apply(ctx context.Context, ops ...store.Op) error {
	if a.is.Load() {
		return store.ErrUnavailable
	}
	return a.Store.Apply(ctx, ops...)
}

func TestNetworks_RunSavesAtTheEnd(t *testing.T) {
	n, _ := newNetworks(t)
	a := &away{Store: n.Store}
	n.Store = a
	a.is.Store(true)
	taken(n, MailRequest, 200, one("192.0.2.1"))
	if err := n.Save(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Save without a store = %v; want its error", err)
	}
	if got := taken(n, MailRequest, 10, one("192.0.2.1")); got != 0 {
		t.Errorf("%d granted while the store is away; want none", got)
	}
	a.is.Store(false)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n.Run(ctx, slog.New(slog.DiscardHandler))
	next := again(n)
	if err := next.Save(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := taken(next, MailRequest, 10, one("192.0.2.1")); got != 0 {
		t.Errorf("%d granted after a restart; want none", got)
	}
}

func BenchmarkTake(b *testing.B) {
	n, _ := newNetworks(b)
	n.Now = time.Now
	ip := netip.MustParseAddr("2001:db8::1")
	b.ReportAllocs()
	for b.Loop() {
		n.Allow(Guess, ip)
		n.Refund(Guess, ip)
	}
}
