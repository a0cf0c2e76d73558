//go:build servers

package redis

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redistest"
)

var long = flag.Bool("long", false, "also run the tests that take minutes")

// answerTime is how long what needs the store may wait, with what a busy machine adds to a second.
const answerTime = 3 * time.Second

// ownSentinels starts servers for one test.
func ownSentinels(t *testing.T, replicas int) *redistest.Sentinels {
	t.Helper()
	s, err := redistest.StartSentinels(t.TempDir(), replicas)
	if s != nil {
		t.Cleanup(s.Kill)
	}
	return ok[*redistest.Sentinels](t)(s, err)
}

// ownCluster starts a Cluster for one test.
func ownCluster(t *testing.T, masters int, replicas bool, args ...string) *redistest.Cluster {
	t.Helper()
	c, err := redistest.StartCluster(t.TempDir(), masters, replicas, nil, args...)
	t.Cleanup(c.Kill)
	return ok[*redistest.Cluster](t)(c, err)
}

// links are one-time links of a test: records that a confirmation removes, and creates a session for.
type links struct {
	t         *testing.T
	firm      string
	n         int
	confirmed []atomic.Int32 // acknowledged confirmations
	unsure    atomic.Int64   // confirmations without an answer
	slowest   atomic.Int64
}

func (l *links) key(bucket string, i int) store.Key {
	return store.Key{Firm: l.firm, Bucket: bucket, ID: fmt.Sprintf("%04d", i)}
}

func newLinks(t *testing.T, s *Store, firm string, n int) *links {
	t.Helper()
	l := &links{t: t, firm: firm, n: n, confirmed: make([]atomic.Int32, n)}
	var ops []store.Op
	for i := range n {
		if ops = append(ops, store.Create(l.key("link", i), []byte("link"), time.Now().Add(time.Hour))); len(ops) == 400 || i == n-1 {
			must(t, s.Apply(t.Context(), ops...))
			ops = nil
		}
	}
	return l
}

// confirm confirms a link once, and returns whether there was an answer.
func (l *links) confirm(s *Store, i int) bool {
	start := time.Now()
	err := s.Apply(context.Background(), store.Remove(l.key("link", i), []byte("link")), store.Create(l.key("session", i), []byte("of "+s.nonces), time.Now().Add(time.Hour)))
	for took := int64(time.Since(start)); ; {
		if was := l.slowest.Load(); took <= was || l.slowest.CompareAndSwap(was, took) {
			break
		}
	}
	switch {
	case err == nil:
		l.confirmed[i].Add(1)
	case errors.Is(err, store.ErrUnavailable):
		l.unsure.Add(1)
		return false
	case !errors.Is(err, store.ErrConflict):
		l.t.Errorf("confirmation %d = %v", i, err)
	}
	return true
}

// confirmAll confirms all links at several stores at once, again and again until there is an answer. It
// calls half after half of the links; pace is how long a worker waits before each of the others.
func (l *links) confirmAll(half func(), pace time.Duration, stores ...*Store) {
	var wg sync.WaitGroup
	var next atomic.Int64
	var once sync.Once
	for range 8 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= l.n {
					return
				}
				if i >= l.n/2 {
					once.Do(half)
					time.Sleep(pace)
				}
				var both sync.WaitGroup
				for _, s := range stores {
					both.Go(func() {
						for end := time.Now().Add(30 * time.Second); !l.confirm(s, i) && time.Now().Before(end); {
							time.Sleep(20 * time.Millisecond) // as a visitor who tries again
						}
					})
				}
				both.Wait()
			}
		})
	}
	wg.Wait()
}

// check checks that no link gave two sessions and, with kept, that no confirmed one was lost.
func (l *links) check(s *Store, kept bool) {
	l.t.Helper()
	if took := time.Duration(l.slowest.Load()); took > answerTime {
		l.t.Errorf("a confirmation took %v; want at most a second", took)
	}
	lost, twice := 0, 0
	for i := range l.n {
		_, linkErr := s.Get(l.t.Context(), l.key("link", i))
		_, sessionErr := s.Get(l.t.Context(), l.key("session", i))
		if (linkErr == nil) == (sessionErr == nil) {
			l.t.Errorf("link %d: %v, its session: %v; want one of them", i, linkErr, sessionErr)
		}
		switch n := l.confirmed[i].Load(); {
		case n > 1:
			twice++
		case n == 1 && sessionErr != nil:
			lost++
		}
	}
	l.t.Logf("%d confirmations had no answer, the longest took %v; %d confirmed ones were lost, %d were confirmed twice", l.unsure.Load(), time.Duration(l.slowest.Load()), lost, twice)
	if kept && lost+twice > 0 {
		l.t.Errorf("%d confirmed links were lost and %d confirmed twice; want none", lost, twice)
	}
}

// TestFailoverAmongConfirmations kills a master in the middle of a thousand confirmations, each tried
// by two gates at once. No link gives two sessions, and with replicas_ack no confirmed one is lost.
func TestFailoverAmongConfirmations(t *testing.T) {
	run := func(t *testing.T, a Address, acks int, pace time.Duration, kept bool, half func()) {
		a.ReplicasAck = acks
		s, other := openOn(t, a, Options{}), openOn(t, a, Options{})
		l := newLinks(t, s, "firm", 1000)
		l.confirmAll(half, pace, s, other)
		l.check(s, kept)
	}
	t.Run("Sentinel", func(t *testing.T) {
		servers := ownSentinels(t, 2) // one is left to acknowledge
		run(t, sentinelAddress(servers), 1, 0, true, servers.Servers[0].Kill)
	})
	t.Run("Cluster", func(t *testing.T) {
		servers := ownCluster(t, 3, true)
		slot := slotOf(firmPrefix("firm"))
		owner := servers.Owner(slot)
		var back sync.WaitGroup
		run(t, clusterAddress(servers), 1, 0, true, func() {
			owner.Kill()
			back.Go(func() { // as the only replica of the one that took its place
				if err := redistest.Eventually("another one takes its place", func() bool { return servers.Owner(slot) != owner }); err != nil {
					t.Error(err)
				} else if err := owner.Start(); err != nil {
					t.Error(err)
				}
			})
		})
		back.Wait()
	})
	if !*long {
		return
	}
	t.Run("Sentinel, without replicas_ack", func(t *testing.T) {
		servers := ownSentinels(t, 1)
		run(t, sentinelAddress(servers), 0, 0, false, servers.Servers[0].Kill)
	})
	t.Run("Cluster, without replicas_ack", func(t *testing.T) {
		servers := ownCluster(t, 3, true)
		run(t, clusterAddress(servers), 0, 0, false, servers.Owner(slotOf(firmPrefix("firm"))).Kill)
	})
	for acks := range 3 { // of two replicas
		t.Run(fmt.Sprintf("Sentinel, planned, replicas_ack %d", acks), func(t *testing.T) {
			servers := ownSentinels(t, 2)
			run(t, sentinelAddress(servers), acks, 50*time.Millisecond, acks == 2, func() {
				if _, err := servers.Sentinels[0].Say("SENTINEL", "FAILOVER", servers.Name); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestAnOldMasterWithStaleDataIsNotBelieved: a master hangs, another one takes its place, and the old one
// goes on with what it knew.
func TestAnOldMasterWithStaleDataIsNotBelieved(t *testing.T) {
	servers := ownSentinels(t, 1)
	old := servers.Servers[0]
	s := openOn(t, sentinelAddress(servers), Options{})
	put(t, s, "k", "old")
	must(t, redistest.Eventually("the replica has it", func() bool { return old.Raw().Wait(t.Context(), 1, time.Second).Val() == 1 }))
	cases := []struct {
		name       string
		goes, back func()
	}{
		{"it hung", old.Hang, old.Resume},
		{"it was killed", func() {
			must(t, servers.Settle())
			old = servers.Master()
			old.Kill()
		}, func() { must(t, old.Start()) }},
	}
	if !*long {
		cases = cases[:1]
	}
	for _, c := range cases {
		c.goes()
		took := eventually(t, 15*time.Second, "another one takes its place", func() bool {
			return s.Apply(t.Context(), store.Put(key("k"), []byte(c.name), time.Time{})) == nil
		})
		t.Logf("%s: another one took its place after %v", c.name, took)
		c.back()
		back := time.Now()
		for end := back.Add(30 * time.Second); ; {
			holds(t, s, "k", c.name)
			if t.Failed() || time.Now().After(end) {
				t.Fatal("the old one is believed, or is no replica after 30 s")
			}
			if !*long && time.Since(back) > 3*time.Second { // Sentinels take some ten to make it a replica
				return
			}
			if info := old.Raw().Info(t.Context(), "replication").Val(); strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up") {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		holds(t, s, "k", c.name)
	}
}

// TestSlotsMoveWhileRequestsRun: no change is lost or made twice, and every other error is
// ErrUnavailable.
func TestSlotsMoveWhileRequestsRun(t *testing.T) {
	servers := ok[*redistest.Cluster](t)(shared.cluster())
	must(t, servers.Empty())
	s, other := openOn(t, clusterAddress(servers), Options{}), openOn(t, clusterAddress(servers), Options{})
	l := newLinks(t, s, "moving", 2000)
	slot := slotOf(firmPrefix("moving"))
	home := servers.Owner(slot)
	var sure, unsure, read atomic.Int64
	counter := store.Key{Firm: "moving", Bucket: "counter", ID: "n"}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	count := func(s *Store) {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := store.Swap(context.Background(), s, counter, func(was []byte) ([]byte, time.Time, []store.Op, error) {
				n := 0
				_, _ = fmt.Sscan(string(was), &n)
				return []byte(fmt.Sprint(n + 1)), time.Time{}, nil, nil
			})
			switch {
			case err == nil:
				sure.Add(1)
			case errors.Is(err, store.ErrUnavailable):
				unsure.Add(1)
			default:
				t.Errorf("Swap = %v", err)
			}
			if recs, err := s.Scan(context.Background(), "moving", "link", "", "", 3); err == nil && len(recs) != 3 || err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Scan = %v, %v; want three or ErrUnavailable", ids(recs), err)
			} else if err == nil {
				read.Add(1)
			}
			if _, err := s.Get(context.Background(), l.key("link", 1999)); err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("Get = %v; want the link or ErrUnavailable", err)
			}
		}
	}
	for _, gate := range []*Store{s, other} {
		wg.Go(func() { count(gate) })
	}
	var confirmed atomic.Int64 // links tried so far
	for _, gate := range []*Store{s, other} {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if i := int(confirmed.Add(1)) - 1; i < 1990 {
					l.confirm(gate, i)
				}
			}
		})
	}
	for i, to := range []*redistest.Server{another(servers, home), home} {
		counted := sure.Load()
		eventually(t, 10*time.Second, "requests run", func() bool { return sure.Load() > counted+50 })
		start := time.Now()
		must(t, servers.Move(slot, to))
		t.Logf("moving took %v", time.Since(start))
		back := eventually(t, 10*time.Second, "it goes on", func() bool { return l.confirm(s, 1990+2*i) && l.confirm(other, 1991+2*i) })
		t.Logf("it went on after %v", back)
	}
	close(stop)
	wg.Wait()
	rec := ok[store.Record](t)(s.Get(t.Context(), counter))
	n := int64(0)
	_, _ = fmt.Sscan(string(rec.Value), &n)
	t.Logf("counted to %d: %d sure, %d unsure, %d lists read, %d links confirmed", n, sure.Load(), unsure.Load(), read.Load(), confirmed.Load())
	if n < sure.Load() || n > sure.Load()+unsure.Load() {
		t.Errorf("counted to %d; want at least %d, and at most %d more", n, sure.Load(), unsure.Load())
	}
	l.check(s, true)
}

// another returns another master.
func another(c *redistest.Cluster, than *redistest.Server) *redistest.Server {
	for _, s := range c.Masters {
		if s != than {
			return s
		}
	}
	return nil
}

// firmOn returns a firm whose keys are on the server.
func firmOn(t *testing.T, c *redistest.Cluster, on *redistest.Server) string {
	t.Helper()
	for i := range 1000 {
		if firm := fmt.Sprint("firm ", i); c.Owner(slotOf(firmPrefix(firm))) == on {
			return firm
		}
	}
	t.Fatal("no firm is there")
	return ""
}

// TestOneShardDown: firms of other shards go on, others get ErrUnavailable within a second, and the
// firm is back as soon as its shard.
func TestOneShardDown(t *testing.T) {
	servers := ownCluster(t, 3, false)
	var j journal
	s := openOn(t, clusterAddress(servers), Options{Log: j.logger(), Sweep: 50 * time.Millisecond})
	in := func(firm string) store.Key { return store.Key{Firm: firm, Bucket: "bucket", ID: "id"} }
	gone, there := firmOn(t, servers, servers.Masters[1]), firmOn(t, servers, servers.Masters[2])
	for _, firm := range []string{gone, there} {
		must(t, s.Apply(t.Context(), store.Put(in(firm), []byte("v"), time.Time{})))
	}
	cases := []struct {
		how        string
		goes, back func()
	}{
		{"it is killed", servers.Masters[1].Kill, func() { must(t, servers.Masters[1].Start()) }},
		{"it hangs", servers.Masters[1].Hang, servers.Masters[1].Resume},
	}
	if !*long {
		cases = cases[:1]
	}
	for _, c := range cases {
		c.goes()
		var longest time.Duration
		for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); { // longer than the node's timeout
			start := time.Now()
			if _, err := s.Get(t.Context(), in(gone)); !errors.Is(err, store.ErrUnavailable) {
				t.Fatalf("%s: Get of its firm = %v; want ErrUnavailable", c.how, err)
			}
			longest = max(longest, time.Since(start))
			if err := s.Apply(t.Context(), store.Put(in(there), []byte("v"), time.Time{})); err != nil {
				t.Fatalf("%s: Apply to another firm = %v; want nil", c.how, err)
			}
			time.Sleep(time.Millisecond)
		}
		if longest > answerTime {
			t.Errorf("%s: an error took %v", c.how, longest)
		}
		// A gate that starts now serves the other firms.
		another := openOn(t, clusterAddress(servers), Options{})
		must(t, another.Apply(t.Context(), store.Put(in(there), []byte("v"), time.Time{})))
		c.back()
		back := eventually(t, 10*time.Second, "it is back", func() bool { // the node itself waits for two seconds
			rec, err := s.Get(t.Context(), in(gone))
			return err == nil && string(rec.Value) == "v"
		})
		t.Logf("%s: an error took %v at most; back after %v", c.how, longest, back)
	}
	if log := j.String(); strings.Count(log, "does not reply; requests that need it") != len(cases) || strings.Count(log, "replies again") != len(cases) {
		t.Errorf("the log is %s; want %d outages", log, len(cases))
	}
}

// TestAllSentinelsGone: the server is used as long as it replies, and the log tells. A gate that starts
// meanwhile waits.
func TestAllSentinelsGone(t *testing.T) {
	servers := ownSentinels(t, 1)
	var j journal
	s := openOn(t, sentinelAddress(servers), Options{Log: j.logger()})
	for _, one := range servers.Sentinels {
		one.Kill()
	}
	eventually(t, 5*time.Second, "the log tells", func() bool { return strings.Contains(j.String(), "no Sentinel replies") })
	put(t, s, "k", "v")
	holds(t, s, "k", "v")
	start := time.Now()
	if _, err := Open(t.Context(), Options{Address: sentinelAddress(servers)}); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), "no Sentinel names the server mymaster") {
		t.Errorf("Open = %v; want ErrUnavailable that names the Sentinels", err)
	}
	if took := time.Since(start); took > 2*answerTime {
		t.Errorf("Open took %v", took)
	}
	late := openOn(t, sentinelAddress(servers), Options{Late: true})
	if _, err := late.Get(t.Context(), key("k")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Get = %v; want ErrUnavailable", err)
	}
	for _, one := range servers.Sentinels {
		must(t, one.Start())
	}
	back := eventually(t, 10*time.Second, "the late one is back", func() bool { _, err := late.Get(t.Context(), key("k")); return err == nil })
	t.Logf("back after %v", back)
	eventually(t, 5*time.Second, "the log tells", func() bool { return strings.Contains(j.String(), "a Sentinel replies again") })
}

// TestWrongSentinelSettingsAreNamed: Open says what to write.
func TestWrongSentinelSettingsAreNamed(t *testing.T) {
	servers := ok[*redistest.Sentinels](t)(shared.sentinels())
	nodes := ok[*redistest.Cluster](t)(shared.cluster())
	for name, c := range map[string]struct {
		at   Address
		want string
	}{
		"another name":           {Address{Sentinel: "other", Hosts: servers.Hosts()}, `knows no server named "other"`},
		"servers for Sentinels":  {Address{Sentinel: "mymaster", Hosts: servers.Servers[0].Address()}, "is no Sentinel"},
		"one server for Cluster": {Address{Cluster: true, Hosts: servers.Servers[0].Address()}, "this Redis server is no node of a Cluster"},
		"Cluster's node as one":  {Address{URL: nodes.Masters[0].URL()}, "store redis cluster"},
		"Sentinel as one":        {Address{URL: servers.Sentinels[0].URL()}, "store redis sentinel"},
	} {
		if _, err := Open(t.Context(), Options{Address: c.at, Late: true}); !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Open = %v; want ErrSettings that says %q", name, err, c.want)
		}
	}
}

// TestReplicasAck: without its replica a server makes the change, and Apply says that too few have it,
// within a second.
func TestReplicasAck(t *testing.T) {
	servers := ownSentinels(t, 1)
	a := sentinelAddress(servers)
	a.ReplicasAck = 1
	s := openOn(t, a, Options{})
	put(t, s, "k", "both")
	servers.Servers[1].Kill()
	for _, value := range []string{"one", "two"} {
		start := time.Now()
		err := s.Apply(t.Context(), store.Put(key("k"), []byte(value), time.Time{}))
		if took := time.Since(start); !errors.Is(err, ErrFewReplicas) || !errors.Is(err, store.ErrUnavailable) || took > answerTime {
			t.Errorf("Apply = %v after %v; want ErrFewReplicas, which is ErrUnavailable, within a second", err, took)
		}
		holds(t, s, "k", value)
	}
	if err := s.Apply(t.Context(), store.Create(key("k"), nil, time.Time{})); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Apply = %v; want ErrConflict", err)
	}
	must(t, servers.Servers[1].Start())
	back := eventually(t, 15*time.Second, "it works again", func() bool {
		return s.Apply(t.Context(), store.Put(key("k"), []byte("again"), time.Time{})) == nil
	})
	t.Logf("back after %v", back)
}

// TestErrorRepliesAreOutagesOfOneRequest: a server that is full, loading or read-only refuses at once, and
// other requests go on.
func TestErrorRepliesAreOutagesOfOneRequest(t *testing.T) {
	server := startServer(t)
	p := startProxy(t, server.address())
	s := openAt(t, p.url(), Options{})
	put(t, s, "k", "v")
	raw := server.raw()
	refuses := func(what, want string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), want) || s.isDown() {
			t.Errorf("%s: %v, down %v; want ErrUnavailable with %q, and not down", what, err, s.isDown(), want)
		}
	}
	write := func() error { return s.Apply(t.Context(), store.Put(key("k"), []byte("w"), time.Time{})) }

	must(t, raw.ConfigSet(t.Context(), "maxmemory", "1").Err())
	refuses("full", "OOM", write())
	holds(t, s, "k", "v")
	must(t, raw.ConfigSet(t.Context(), "maxmemory", "0").Err())

	must(t, raw.SlaveOf(t.Context(), "127.0.0.1", redistest.FreePort()).Err())
	refuses("read-only", "READONLY", write())
	must(t, raw.SlaveOf(t.Context(), "NO", "ONE").Err())

	loading := func([]byte) []byte { return []byte("-LOADING Redis is loading the dataset in memory\r\n") }
	p.change.Store(&loading)
	refuses("loading", "LOADING", write())
	p.change.Store(nil)
	must(t, write())
}

// TestMessagesInAClusterOutliveTheOwner: subscribers hear of the firm again when another node has taken
// over, and are told that they may have missed something.
func TestMessagesInAClusterOutliveTheOwner(t *testing.T) {
	servers := ownCluster(t, 3, true)
	a, b := openOn(t, clusterAddress(servers), Options{}), openOn(t, clusterAddress(servers), Options{})
	heard := make(chan string, 100)
	go b.Subscribe(t.Context(), "firm", func(m string) { heard <- m })
	wait := func(want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("heard %q; want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("nothing is heard; want %q", want)
		}
	}
	wait("")
	must(t, a.Publish(t.Context(), "firm", "one"))
	wait("one")
	slot := slotOf(firmPrefix("firm"))
	owner := servers.Owner(slot)
	owner.Kill()
	wait("") // the replica has taken over
	eventually(t, 10*time.Second, "the other gate follows", func() bool { return a.Publish(t.Context(), "firm", "two") == nil })
	wait("two")
	// A slot that moves away takes its subscribers with it.
	must(t, owner.Start())
	must(t, servers.Settle())
	now := servers.Owner(slot)
	for _, to := range servers.All() {
		if to != now && to != owner && strings.Contains(to.Raw().Info(t.Context(), "replication").Val(), "role:master") {
			must(t, servers.Move(slot, to))
			break
		}
	}
	eventually(t, 10*time.Second, "the other gate follows", func() bool { return a.Publish(t.Context(), "firm", "three") == nil })
	for {
		m := <-heard
		if m == "three" {
			break
		}
		if m != "" {
			t.Fatalf("heard %q; want %q", m, "three")
		}
	}
}

// TestALostReplyIsRepeatedOnAnyTopology: the server has made the change, and its reply is lost. With
// replicas_ack the repetition waits for replicas as well.
func TestALostReplyIsRepeatedOnAnyTopology(t *testing.T) {
	check := func(t *testing.T, at Address, p *proxy) {
		s := openOn(t, at, Options{})
		for round := range 10 {
			id := fmt.Sprint(round)
			for _, c := range []struct {
				op   store.Op
				then string
			}{
				{store.Create(key(id), []byte("a"), time.Time{}), "a"}, {store.Replace(key(id), []byte("a"), []byte("b"), time.Time{}), "b"}, {store.Remove(key(id), []byte("b")), "-"},
			} {
				lost := p.loseAnswers(1, applyScript.Hash())
				if err := s.Apply(t.Context(), c.op); err != nil || lost.Load() != 1 {
					t.Fatalf("Apply = %v with %d replies lost; want nil", err, lost.Load())
				}
				holds(t, s, id, c.then)
			}
		}
		if s.isDown() {
			t.Error("the server counts as gone")
		}
	}
	t.Run("Sentinel", func(t *testing.T) {
		l := startProxy(t, "")
		_, port, _ := strings.Cut(l.listener.Addr().String(), ":")
		servers, err := redistest.StartSentinelsBehind(t.TempDir(), "127.0.0.1:"+port, func(master string) { l.to.Store(&master) })
		if servers != nil {
			t.Cleanup(servers.Kill)
		}
		must(t, err)
		a := sentinelAddress(servers)
		a.ReplicasAck = 1
		check(t, a, l)
	})
	t.Run("Cluster", func(t *testing.T) {
		l := startProxy(t, "")
		_, port, _ := strings.Cut(l.listener.Addr().String(), ":")
		servers, err := redistest.StartCluster(t.TempDir(), 1, false, []string{port})
		t.Cleanup(servers.Kill)
		must(t, err)
		to := servers.Masters[0].Address()
		l.to.Store(&to)
		check(t, Address{Cluster: true, Hosts: servers.Hosts()}, l)
	})
}
