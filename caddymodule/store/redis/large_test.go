//go:build servers

package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// many returns Ops for n records of one bucket, numbered from from.
func many(n, from int, op func(k store.Key) store.Op) []store.Op {
	ops := make([]store.Op, 0, n)
	for i := range n {
		ops = append(ops, op(key(fmt.Sprintf("%06d", from+i))))
	}
	return ops
}

func puts(value string) func(store.Key) store.Op {
	return func(k store.Key) store.Op { return store.Put(k, []byte(value), time.Time{}) }
}

// laidAside stages the first pieces of a large Apply, as if the process had then ended; with
// commit, as if it had ended right after the commit.
func laidAside(t *testing.T, s *Store, commit bool, ops []store.Op) {
	t.Helper()
	number, now := s.nonce(), s.clock().UnixMilli()
	var rest []*store.Op
	for i := range ops {
		rest = append(rest, &ops[i])
	}
	for first := true; len(rest) > 0; first = false {
		var piece []*store.Op
		piece, rest = cutPiece(rest)
		must(t, s.stage(t.Context(), "firm", number, now, first, piece))
	}
	if commit {
		must(t, s.commit(t.Context(), "firm", number, len(ops), "\x00bucket\x00"))
	}
}

// All operations use staged changes exactly from the commit on.
func TestALargeApplyCommitsAtomically(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{Sweep: time.Hour})
	const n = 1200
	soon := time.Now().Add(time.Hour)
	must(t, s.Apply(t.Context(), store.Put(key("before"), []byte("old"), time.Time{}), store.Put(key("gone"), []byte("old"), soon), store.Put(key("checked"), []byte("same"), soon)))
	ops := append(many(n, 0, puts("new")),
		store.Replace(key("before"), []byte("old"), []byte("new"), soon), store.Remove(key("gone"), []byte("old")),
		store.Check(key("checked"), []byte("same")), store.Create(key("made"), []byte("new"), soon))
	laidAside(t, s, false, ops)
	for id, want := range map[string]string{"before": "old", "gone": "old", "checked": "same", "made": "-", "000000": "-"} {
		holds(t, s, id, want)
	}
	if list, err := s.Scan(t.Context(), "firm", "bucket", "", "", 2*n); len(list) != 3 || err != nil {
		t.Errorf("Scan before = %d records, %v; want 3", len(list), err)
	}
	server.raw().Del(t.Context(), firmPrefix("firm")+"t") // ends the wait for a dead process
	laidAside(t, s, true, ops)
	text, _, _ := strings.Cut(server.raw().Get(t.Context(), firmPrefix("firm")+"t").Val(), "\x00")
	for _, k := range []string{"t", "p:" + text[1:]} { // committed changes mustn't expire before they are applied
		if life := server.raw().PTTL(t.Context(), firmPrefix("firm")+k).Val(); life < forever/2 {
			t.Errorf("%q lives for %v; want %v", k, life, forever)
		}
	}
	for id, want := range map[string]string{"before": "new", "gone": "-", "checked": "same", "made": "new", "000000": "new"} {
		holds(t, s, id, want)
	}
	must(t, s.Apply(t.Context(), store.Remove(key("000001"), []byte("new"))))
	for id, was := range map[string]string{"000001": "new", "gone": "old"} {
		if err := s.Apply(t.Context(), store.Remove(key(id), []byte(was))); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Remove of %s, which was removed = %v; want ErrConflict", id, err)
		}
	}
	must(t, s.Apply(t.Context(), store.Replace(key("000002"), []byte("new"), []byte("newer"), soon),
		store.Remove(key("000003"), []byte("new")), store.Create(key("gone"), []byte("again"), soon), store.Delete(key("000004"))))
	if err := s.Apply(t.Context(), store.Replace(key("before"), []byte("old"), []byte("x"), soon)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Replace of the old value = %v; want ErrConflict", err)
	}
	want := map[string]string{"000001": "-", "000002": "newer", "000003": "-", "000004": "-", "gone": "again", "made": "new", "before": "new"}
	for id, value := range want {
		holds(t, s, id, value)
	}
	list, err := s.Scan(t.Context(), "firm", "bucket", "", "", 2*n)
	if len(list) != n-3+4 || err != nil || !slices.IsSorted(ids(list)) {
		t.Errorf("Scan = %d records, %v; want %d in order", len(list), err, n+1)
	}
	for id, value := range want {
		holds(t, s, id, value)
	}
	for _, k := range server.raw().Keys(t.Context(), firmPrefix("firm")+"*").Val() {
		if life := server.raw().PTTL(t.Context(), k).Val(); life <= 0 {
			t.Errorf("%q has no life", k)
		}
		if strings.HasPrefix(k, firmPrefix("firm")+"t") {
			t.Errorf("%q is left", k)
		}
	}
}

// An Apply that changes a staged record wins, and the large Apply fails as a whole; other
// changes don't matter.
func TestALargeApplyFailsAfterAConflictingChange(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{Sweep: time.Hour})
	const n = 1200
	for _, c := range []struct {
		name    string
		between func() error
		want    error
	}{
		{"nothing", func() error { return nil }, nil},
		{"another record", func() error { return s.Apply(t.Context(), store.Put(key("other"), []byte("v"), time.Time{})) }, nil},
		{"a read and a check", func() error {
			_, err := s.Get(t.Context(), key("000001"))
			return errors.Join(err, s.Apply(t.Context(), store.Check(key("000001"), []byte("old"))))
		}, nil},
		{"a Put", func() error { return s.Apply(t.Context(), store.Put(key("000001"), []byte("mine"), time.Time{})) }, store.ErrConflict},
		{"a Remove", func() error { return s.Apply(t.Context(), store.Remove(key("000001"), []byte("old"))) }, store.ErrConflict},
		{"a Delete", func() error { return s.Apply(t.Context(), store.Delete(key("000002"))) }, store.ErrConflict},
		{"a change of what is only checked", func() error { return s.Apply(t.Context(), store.Put(key("checked"), []byte("mine"), time.Time{})) }, store.ErrConflict},
	} {
		must(t, s.Apply(t.Context(), append(many(n, 0, puts("old")), store.Put(key("checked"), []byte("old"), time.Time{}))...))
		number, now := s.nonce(), s.clock().UnixMilli()
		ops := append(many(n, 0, func(k store.Key) store.Op { return store.Replace(k, []byte("old"), []byte("new"), time.Time{}) }), store.Check(key("checked"), []byte("old")))
		var order []*store.Op
		for i := range ops {
			order = append(order, &ops[i])
		}
		slices.Reverse(order) // so that the changed records were staged
		half, rest := order[:pieceOps], order[pieceOps:]
		must(t, s.applyStaged(t.Context(), "firm"))
		must(t, s.stage(t.Context(), "firm", number, now, true, half))
		must(t, s.stage(t.Context(), "firm", number, now, false, rest[:pieceOps]))
		must(t, s.stage(t.Context(), "firm", number, now, false, rest[pieceOps:]))
		must(t, c.between())
		if err := s.commit(t.Context(), "firm", number, len(ops), "\x00bucket\x00"); !errors.Is(err, c.want) {
			t.Errorf("%s: the large Apply = %v; want %v", c.name, err, c.want)
		}
		value := "new"
		if c.want != nil {
			value = "old"
		}
		holds(t, s, "000500", value)
		holds(t, s, "001199", value)
	}
	if left := server.raw().Keys(t.Context(), firmPrefix("firm")+"p:*").Val(); len(left) > 1 {
		t.Errorf("%q are left; want those of the last one that was true at most", left)
	}
}

// If the process ends before the commit, nothing has happened, and others don't wait long; if
// it ends after, others apply the changes.
func TestALargeApplyOfADeadProcess(t *testing.T) {
	server := startServer(t)
	dead := openAt(t, server.url(), Options{Sweep: time.Hour})
	laidAside(t, dead, false, many(1200, 0, puts("never")))
	must(t, dead.Close())
	raw := server.raw()
	if life := raw.PTTL(t.Context(), firmPrefix("firm")+"t").Val(); life <= 0 || life > stageTimeout {
		t.Errorf("others wait for %v; want %v at most", life, stageTimeout)
	}
	s := openAt(t, server.url(), Options{Sweep: time.Hour})
	soon, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Apply(soon, many(600, 0, puts("too soon"))...); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("another one, before the pause is over = %v; want that it waits", err)
	}
	raw.PExpire(t.Context(), firmPrefix("firm")+"t", 200*time.Millisecond)
	must(t, s.Apply(t.Context(), many(600, 0, puts("first"))...)) // waits until that has expired
	holds(t, s, "000000", "first")
	holds(t, s, "001199", "-")
	for _, k := range raw.Keys(t.Context(), firmPrefix("firm")+"p:*").Val() {
		if life := raw.PTTL(t.Context(), k).Val(); life == -1 { // -2: it has expired
			t.Error("staged changes never expire")
		}
	}

	dead = openAt(t, server.url(), Options{Sweep: time.Hour})
	must(t, s.applyStaged(t.Context(), "firm"))
	laidAside(t, dead, true, many(1200, 0, puts("second")))
	must(t, dead.Close())
	sweeper := openAt(t, server.url(), Options{Sweep: 10 * time.Millisecond})
	holds(t, sweeper, "000007", "second") // so that it sweeps the firm
	eventually(t, 30*time.Second, "others carry it over", func() bool { return raw.Exists(t.Context(), firmPrefix("firm")+"t").Val() == 0 })
	if got, err := raw.ZCard(t.Context(), indexKey("firm", "bucket")).Result(); got != 1200 || err != nil {
		t.Errorf("the index has %d records, %v; want 1200", got, err)
	}
	holds(t, s, "001199", "second")
}

// Readers see all of a large Apply or nothing, and among concurrent changes of one record,
// those that succeed had true conditions.
func TestConcurrentLargeAppliesAreAtomic(t *testing.T) {
	server := startServer(t)
	s := openAt(t, server.url(), Options{})
	other := openAt(t, server.url(), Options{})
	const n, rounds = 800, 6
	must(t, s.Apply(t.Context(), many(n, 0, puts("0000"))...))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	all.Go(func() { // later reads never return older values
		last := "0000"
		for ctx.Err() == nil {
			rec, err := other.Get(t.Context(), key(fmt.Sprintf("%06d", rand.N(n))))
			if errors.Is(err, store.ErrUnavailable) {
				continue
			}
			got := string(rec.Value)
			if err != nil || got < last {
				t.Errorf("Get = %q, %v after %q", got, err, last)
				return
			}
			last = got
		}
	})
	var made [2]int
	for who, in := range []*Store{s, other} {
		all.Go(func() {
			defer stop()
			for i := 0; i < rounds; {
				rec, err := in.Get(t.Context(), key("000000"))
				if err == nil {
					var was int
					fmt.Sscan(string(rec.Value), &was)
					next := fmt.Appendf(nil, "%04d", was+1)
					err = in.Apply(t.Context(), many(n, 0, func(k store.Key) store.Op { return store.Replace(k, rec.Value, next, time.Time{}) })...)
				}
				switch {
				case err == nil:
					made[who]++
					i++
				case errors.Is(err, store.ErrUnavailable):
					t.Logf("a busy machine: %v", err) // it may have been made
					return
				case !errors.Is(err, store.ErrConflict):
					t.Errorf("Apply = %v", err)
					return
				}
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	all.Wait()
	list, err := s.Scan(t.Context(), "firm", "bucket", "", "", n+1)
	if err != nil || len(list) != n {
		t.Fatalf("Scan = %d records, %v; want %d", len(list), err, n)
	}
	for _, rec := range list {
		if string(rec.Value) != string(list[0].Value) {
			t.Fatalf("%s has %q, the first %q; want the same", rec.Key.ID, rec.Value, list[0].Value)
		}
	}
	if want := fmt.Sprintf("%04d", made[0]+made[1]); string(list[0].Value) < want {
		t.Errorf("counted %s; want %s: %v succeeded", list[0].Value, want, made)
	}
	t.Logf("%v succeeded, the last value is %s", made, list[0].Value)
}
