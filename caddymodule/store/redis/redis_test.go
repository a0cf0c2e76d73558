//go:build servers

package redis

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/storetest"
)

func TestStore(t *testing.T) {
	s := startServer(t, "--appendonly", "no")
	n := 0
	storetest.Run(t, func(t *testing.T, now func() time.Time) store.Store {
		n++
		return openAt(t, dbURL(s, n), Options{Clock: now, Sweep: time.Hour})
	})
}

func TestUnixSocketAndDatabase(t *testing.T) {
	s := startServer(t)
	a := openAt(t, "unix://"+s.socket()+"?db=7", Options{})
	put(t, a, "k", "v")
	holds(t, openAt(t, dbURL(s, 7), Options{}), "k", "v")
	holds(t, openAt(t, dbURL(s, 8), Options{}), "k", "-")
}

// TestEveryKeyHasATTLAndItsFirmsSlot checks all keys on the server after all operations.
func TestEveryKeyHasATTLAndItsFirmsSlot(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	firms := []string{"", "firm", "a{b}c", "{}", "%", "a:b"}
	soon := time.Now().Add(time.Hour)
	for _, firm := range firms {
		k := func(id string) store.Key { return store.Key{Firm: firm, Bucket: "bucket", ID: id} }
		must(t, s.Apply(t.Context(),
			store.Put(k("stays"), []byte("v"), time.Time{}), store.Put(k("ends"), []byte("v"), soon),
			store.Put(k("far"), []byte("v"), time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)),
			store.Create(k("removed"), []byte("v"), soon)))
		must(t, s.Apply(t.Context(), store.Put(k("ends"), []byte("w"), time.Time{}), store.Remove(k("removed"), []byte("v"))))
		must(t, s.Apply(t.Context(), store.Put(k("ends"), []byte("w"), soon)))
	}
	raw := server.raw()
	keys, err := raw.Keys(t.Context(), "*").Result()
	must(t, err)
	slots := map[string]int{}
	for _, k := range keys {
		life, err := raw.Do(t.Context(), "PTTL", k).Int64()
		if err != nil || life <= 0 {
			t.Errorf("PTTL(%q) = %d, %v; want a life", k, life, err)
		}
		// Cluster specification: the text between the first brace and the first closing
		// brace after it, unless it is empty.
		_, rest, _ := strings.Cut(k, "{")
		tag, _, _ := strings.Cut(rest, "}")
		if tag == "" || !strings.HasPrefix(k, keyPrefix+"{"+tag+"}:") {
			t.Errorf("the key %q has no hash tag", k)
		}
		slots[tag]++
	}
	if len(slots) != len(firms) {
		t.Errorf("the keys have the tags %v; want one for each of %q", slots, firms)
	}
	for tag, n := range slots {
		// 3 records, the index, both expiry indexes, and replies to 3 Applies; Open's own
		// are in the firm without a name.
		if want := 9; n != want && tag != "%" {
			t.Errorf("%q has %d keys; want %d", tag, n, want)
		}
	}
	// Each record is in one of the two expiry indexes.
	for set, want := range map[string]string{expiryKey("firm"): "bucket\x00ends bucket\x00far", firmPrefix("firm") + "s": "bucket\x00stays"} {
		if got := strings.Join(raw.ZRange(t.Context(), set, 0, -1).Val(), " "); got != want {
			t.Errorf("%q has %q; want %q", set, got, want)
		}
	}
	const hour = 3600
	for _, c := range []struct {
		id    string
		hours int64
	}{
		{"ends", 25}, {"stays", 10 * 365 * 24}, {"far", int64(time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).Unix()-time.Now().Unix())/hour + 24},
	} {
		ms, err := raw.Do(t.Context(), "PTTL", recordKey(key(c.id))).Int64()
		if hours := ms / 1000 / hour; err != nil || hours < c.hours-1 || hours > c.hours {
			t.Errorf("%s lives %d hours, %v; want %d", c.id, hours, err, c.hours)
		}
	}
}

func TestSweepDeletesAllKeysOfExpiredRecords(t *testing.T) {
	server := startServer(t)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	s := openAt(t, server.url(), Options{Clock: now, Sweep: time.Hour})
	const n = 1200 // more than one run of the script
	var ops []store.Op
	for i := range n {
		ops = append(ops, store.Put(key(fmt.Sprint(i)), nil, now().Add(90*time.Second))) // more than the minute by which the clocks may differ
	}
	must(t, s.Apply(t.Context(), append(ops, store.Put(key("stays"), nil, time.Time{}), store.Put(key("later"), nil, now().Add(time.Hour)))...))
	if swept, err := s.Sweep(t.Context()); swept != 0 || err != nil {
		t.Errorf("Sweep = %d, %v; want 0", swept, err)
	}
	ahead.Store(int64(2 * time.Minute))
	// The sweeper distrusts a clock ahead of the server's.
	if swept, err := s.sweepAll(t.Context(), true); swept != 0 || err != nil {
		t.Errorf("the sweeper has deleted %d, %v; want 0", swept, err)
	}
	if swept, err := s.Sweep(t.Context()); swept != n || err != nil {
		t.Errorf("Sweep = %d, %v; want %d", swept, err, n)
	}
	raw := server.raw()
	for k, want := range map[string]int64{indexKey("firm", "bucket"): 2, expiryKey("firm"): 1, firmPrefix("firm") + "s": 1} {
		if got, err := raw.ZCard(t.Context(), k).Result(); got != want || err != nil {
			t.Errorf("%q has %d entries, %v; want %d", k, got, err, want)
		}
	}
	ahead.Store(int64(2 * time.Hour))
	_, err := s.Sweep(t.Context())
	must(t, err)
	must(t, s.Apply(t.Context(), store.Delete(key("stays"))))
	keys, err := raw.Keys(t.Context(), firmPrefix("firm")+"*").Result()
	must(t, err)
	for _, k := range keys {
		if !strings.HasPrefix(k, firmPrefix("firm")+"n:") {
			t.Errorf("%q was left behind", k)
		}
	}
}

func TestSweeperRuns(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{Sweep: 20 * time.Millisecond})
	must(t, s.Apply(t.Context(), store.Put(key("k"), nil, time.Now().Add(50*time.Millisecond))))
	raw := server.raw()
	eventually(t, 5*time.Second, "the record is swept", func() bool {
		return raw.Exists(t.Context(), recordKey(key("k")), indexKey("firm", "bucket"), expiryKey("firm")).Val() == 0
	})
}

// TestTTLsOfRecordsWithoutExpiryAreRenewed ages a record without expiry by two years.
func TestTTLsOfRecordsWithoutExpiryAreRenewed(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	must(t, s.Apply(t.Context(), store.Put(key("k"), []byte("v"), time.Time{})))
	raw := server.raw()
	old := forever - 2*365*24*time.Hour
	all := []string{recordKey(key("k")), indexKey("firm", "bucket"), firmPrefix("firm") + "s"}
	for _, k := range all {
		must(t, raw.PExpire(t.Context(), k, old).Err())
	}
	must(t, raw.Do(t.Context(), "ZADD", all[2], time.Now().Add(old).UnixMilli(), "bucket\x00k").Err())
	_, err := s.Sweep(t.Context())
	must(t, err)
	for _, k := range all {
		if life := raw.PTTL(t.Context(), k).Val(); life < forever-time.Minute {
			t.Errorf("%q lives %v; want ten years", k, life)
		}
	}
	if at := raw.ZScore(t.Context(), all[2], "bucket\x00k").Val(); int64(at) < time.Now().Add(forever-time.Minute).UnixMilli() {
		t.Errorf("the record counts as renewed until %v", time.UnixMilli(int64(at)))
	}
	holds(t, s, "k", "v")
}

func TestTwoStoresOneRecord(t *testing.T) {
	server := startServer(t)
	a, b := openAt(t, server.url(), Options{}), openAt(t, server.url(), Options{})
	for round := range 1000 {
		id := fmt.Sprint(round)
		put(t, a, id, "v")
		var winners atomic.Int32
		var wg sync.WaitGroup
		for _, s := range []*Store{a, b} {
			wg.Go(func() {
				switch err := s.Apply(t.Context(), store.Remove(key(id), []byte("v"))); {
				case err == nil:
					winners.Add(1)
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("Remove = %v; want nil or ErrConflict", err)
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Fatalf("round %d has %d winners", round, winners.Load())
		}
	}
}

// keepTTL keeps the TTL when a test changes a value.
var keepTTL = redis.SetArgs{KeepTTL: true}

func TestRecordsOfANewerReleaseStay(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	put(t, s, "k", "v")
	raw := server.raw()
	was, err := raw.Get(t.Context(), recordKey(key("k"))).Result()
	must(t, err)
	must(t, raw.SetArgs(t.Context(), recordKey(key("k")), "\x02"+was[1:], keepTTL).Err())
	_, err1 := s.Get(t.Context(), key("k"))
	_, err2 := s.Scan(t.Context(), "firm", "bucket", "", "", 9)
	err3 := s.Apply(t.Context(), store.Check(key("k"), []byte("v")))
	err4 := s.Apply(t.Context(), store.Create(key("k"), []byte("v"), time.Time{}))
	for i, err := range []error{err1, err2, err3, err4} {
		if !errors.Is(err, ErrNewer) || !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%d: %v; want ErrNewer, ErrUnavailable", i, err)
		}
	}
	if s.isDown() {
		t.Error("the server counts as gone")
	}
	must(t, raw.SetArgs(t.Context(), recordKey(key("k")), was, keepTTL).Err())
	holds(t, s, "k", "v")
}

// TestARecordUnderAnotherKeyIsRejected stores one record under the key of another.
func TestARecordUnderAnotherKeyIsRejected(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	put(t, s, "ann", "ann's")
	put(t, s, "bob", "bob's")
	raw := server.raw()
	must(t, raw.Copy(t.Context(), recordKey(key("ann")), recordKey(key("bob")), 0, true).Err())
	_, err1 := s.Get(t.Context(), key("bob"))
	_, err2 := s.Scan(t.Context(), "firm", "bucket", "bob", "", 9)
	err3 := s.Apply(t.Context(), store.Replace(key("bob"), []byte("ann's"), nil, time.Time{}))
	for i, err := range []error{err1, err2, err3} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%d: %v; want ErrUnavailable", i, err)
		}
	}
	holds(t, s, "ann", "ann's")
	put(t, s, "bob", "mended")
	holds(t, s, "bob", "mended")
}

// TestAFullServerChangesNothing: a script either runs completely or isn't started.
func TestAFullServerChangesNothing(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	put(t, s, "k", "v")
	raw := server.raw()
	must(t, raw.ConfigSet(t.Context(), "maxmemory", "1").Err())
	err := s.Apply(t.Context(), store.Delete(key("k")), store.Put(key("new"), []byte("v"), time.Time{}))
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Apply = %v; want ErrUnavailable", err)
	}
	holds(t, s, "k", "v")
	must(t, raw.ConfigSet(t.Context(), "maxmemory", "0").Err())
	holds(t, s, "new", "-")
	put(t, s, "k", "w")
}

func TestOpenExplainsErrors(t *testing.T) {
	server := startServer(t)
	raw := server.raw()
	for _, args := range [][]any{
		{"ACL", "SETUSER", "default", ">pass word"},
		{"ACL", "SETUSER", "doorpost", "on", ">x", "~doorpost:*", "&doorpost:*", "+@read", "+@write", "+@scripting", "+@pubsub", "+@connection", "+info", "+time"},
		{"ACL", "SETUSER", "reader", "on", ">x", "~*", "+@read", "+@scripting", "+@connection"},
		{"ACL", "SETUSER", "nozrem", "on", ">x", "~*", "&*", "+@all", "-zrem"},
	} {
		must(t, raw.Do(t.Context(), args...).Err())
	}
	for _, c := range []struct{ user, password, want string }{
		{"", "pass word", ""},
		{"doorpost", "x", ""},
		{"", "", "check username and password"},
		{"", "wrong-secret", "check username and password"},
		{"doorpost", "wrong-secret", "check username and password"},
		{"reader", "x", "give the user: ~doorpost:*"},
		{"nozrem", "x", "give the user: ~doorpost:*"},
	} {
		s, err := Open(t.Context(), Options{Address: Address{URL: server.url(), Username: c.user, Password: c.password}})
		if err == nil {
			s.Close()
		}
		switch {
		case c.want == "" && err != nil:
			t.Errorf("Open as %q = %v", c.user, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, store.ErrUnavailable)):
			t.Errorf("Open as %q, %q = %v; want ErrUnavailable that says %q", c.user, c.password, err, c.want)
		case err != nil && strings.Contains(err.Error(), "wrong-secret"):
			t.Errorf("the error shows the password: %v", err)
		}
	}
	var j journal
	openAt(t, server.url(), Options{Address: Address{Password: "pass word"}, Log: j.logger()})
	if got := j.String(); got != "" {
		t.Errorf("the log of a good server is %s", got)
	}
	bad := startServer(t, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru")
	openAt(t, bad.url(), Options{Log: j.logger(), Clock: time.Now})
	if got := j.String(); !strings.Contains(got, "noeviction") || !strings.Contains(got, "appendonly") {
		t.Errorf("the log of a forgetful server is %s; want both warnings", got)
	}
	bad.kill()
	start := time.Now()
	if _, err := Open(t.Context(), Options{Address: Address{URL: bad.url()}}); !errors.Is(err, store.ErrUnavailable) || time.Since(start) > 4*time.Second {
		t.Errorf("Open of no server = %v after %v; want ErrUnavailable in 4 s", err, time.Since(start))
	}
}
