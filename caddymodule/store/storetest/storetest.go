// Package storetest is the test suite for stores: the promises of package store as tests.
// Each engine runs it with its real server or file.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Run runs the suite. It calls open once in each test. open returns an empty store that
// uses the clock now and is closed at the latest when t ends. The clock begins at the
// present and moves by minutes, so that an engine's server may also delete expired
// records by itself.
func Run(t *testing.T, open func(t *testing.T, now func() time.Time) store.Store) {
	tests := []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"Verbs", testVerbs},
		{"AnExpiredRecordIsNone", testExpiredIsNone},
		{"ApplyIsAllOrNothing", testAllOrNothing},
		{"ApplyRefusesWhatNoEngineCanKeep", testRefused},
		{"ImpossibleKeysAreNotFound", testImpossibleKeys},
		{"Expiry", testExpiry},
		{"ExpiryMovesWithEachWrite", testExpiryMoves},
		{"BackwardClock", testBackwardClock},
		{"Values", testValues},
		{"IDs", testIDs},
		{"ValuesAreCopies", testCopies},
		{"Scan", testScan},
		{"FirmsAndBucketsAreApart", testApart},
		{"RemoveHasOneWinner", testRemoveRace},
		{"ReplaceHasOneWinner", testReplaceRace},
		{"CreateHasOneWinner", testCreateRace},
		{"CountingLosesNothing", testCounting},
		{"ReadersSeeWholeApplies", testWholeApplies},
		{"ManyOpsInOneApply", testManyOps},
		{"Context", testContext},
		{"Closed", testClosed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := &world{T: t, start: time.Now().Truncate(time.Millisecond)}
			w.Store = open(t, w.now)
			test.run(t, w)
		})
	}
}

// world is a store with a test clock.
type world struct {
	*testing.T
	store.Store
	start time.Time
	ahead atomic.Int64 // of start, in nanoseconds
}

func (w *world) now() time.Time { return w.start.Add(time.Duration(w.ahead.Load())) }

// at sets the clock to d after the start.
func (w *world) at(d time.Duration) { w.ahead.Store(int64(d)) }

func key(id string) store.Key { return store.Key{Firm: "firm", Bucket: "bucket", ID: id} }

// apply checks that Apply returns the error want.
func (w *world) apply(want error, ops ...store.Op) {
	w.Helper()
	if err := w.Apply(w.Context(), ops...); !errors.Is(err, want) || (want == nil) != (err == nil) {
		w.Fatalf("Apply(%s) = %v; want %v", describe(ops), err, want)
	}
}

// holds checks that Get and Scan return the value; "-": none.
func (w *world) holds(k store.Key, want string) {
	w.Helper()
	rec, err := w.Get(w.Context(), k)
	got := string(rec.Value)
	if errors.Is(err, store.ErrNotFound) {
		got = "-"
	} else if err != nil || rec.Key != k {
		w.Fatalf("Get(%q) = %+v, %v; want %q", k, rec, err, want)
	}
	if got != want {
		w.Errorf("Get(%q) = %q; want %q", k, got, want)
	}
	list, err := w.Scan(w.Context(), k.Firm, k.Bucket, k.ID, "", 1)
	got = "-"
	if len(list) == 1 && list[0].Key == k {
		got = string(list[0].Value)
	}
	if err != nil || got != want {
		w.Errorf("Scan for %q = %q, %v; want %q", k, got, err, want)
	}
}

func describe(ops []store.Op) string {
	verbs := []string{"none", "put", "create", "replace", "delete", "remove", "check"}
	var b strings.Builder
	for i, op := range ops {
		if i == 8 {
			fmt.Fprintf(&b, " … %d in all", len(ops))
			break
		}
		verb := fmt.Sprint(op.Verb)
		if int(op.Verb) < len(verbs) {
			verb = verbs[op.Verb]
		}
		fmt.Fprintf(&b, "%s %.40q=%.20q was %.20q;", verb, op.Key.ID, op.Value, op.Was)
	}
	return b.String()
}

func testVerbs(t *testing.T, w *world) {
	k, never := key("k"), time.Time{}
	steps := []struct {
		op   store.Op
		err  error
		then string
	}{
		{store.Delete(k), nil, "-"},
		{store.Replace(k, nil, []byte("a"), never), store.ErrConflict, "-"},
		{store.Remove(k, nil), store.ErrConflict, "-"},
		{store.Check(k, nil), store.ErrConflict, "-"},
		{store.Create(k, []byte("a"), never), nil, "a"},
		{store.Create(k, []byte("a"), never), store.ErrConflict, "a"},
		{store.Check(k, []byte("a")), nil, "a"},
		{store.Check(k, []byte("A")), store.ErrConflict, "a"},
		{store.Check(k, nil), store.ErrConflict, "a"},
		{store.Replace(k, []byte("b"), []byte("c"), never), store.ErrConflict, "a"},
		{store.Replace(k, []byte("a"), []byte("b"), never), nil, "b"},
		{store.Put(k, []byte("c"), never), nil, "c"},
		{store.Remove(k, []byte("b")), store.ErrConflict, "c"},
		{store.Remove(k, []byte("c")), nil, "-"},
		{store.Put(k, []byte("d"), never), nil, "d"},
		{store.Delete(k), nil, "-"},
		{store.Put(k, []byte("e"), never), nil, "e"},
	}
	for _, s := range steps {
		w.apply(s.err, s.op)
		w.holds(k, s.then)
	}
	w.apply(nil)
}

func testExpiredIsNone(t *testing.T, w *world) {
	soon := w.now().Add(time.Minute)
	for _, id := range []string{"create", "replace", "remove", "check"} {
		w.apply(nil, store.Put(key(id), []byte("old"), soon))
	}
	w.at(time.Minute)
	w.apply(nil, store.Create(key("create"), []byte("new"), time.Time{}))
	w.apply(store.ErrConflict, store.Replace(key("replace"), []byte("old"), []byte("new"), time.Time{}))
	w.apply(store.ErrConflict, store.Remove(key("remove"), []byte("old")))
	w.apply(store.ErrConflict, store.Check(key("check"), []byte("old")))
	w.holds(key("create"), "new")
	w.holds(key("replace"), "-")
}

func testAllOrNothing(t *testing.T, w *world) {
	w.apply(nil, store.Put(key("a"), []byte("1"), time.Time{}), store.Put(key("b"), []byte("1"), w.now().Add(time.Hour)))
	failing := []store.Op{
		store.Create(key("b"), []byte("x"), time.Time{}),
		store.Replace(key("b"), []byte("0"), []byte("x"), time.Time{}),
		store.Remove(key("b"), []byte("0")),
		store.Check(key("b"), []byte("0")),
		store.Check(key("none"), nil),
	}
	others := []store.Op{
		store.Put(key("a"), []byte("2"), time.Time{}),
		store.Delete(key("a")),
		store.Put(key("new"), []byte("2"), time.Time{}),
		store.Put(store.Key{Firm: "firm", Bucket: "another", ID: "new"}, []byte("2"), time.Time{}),
	}
	for _, bad := range failing {
		for _, other := range others {
			for _, ops := range [][]store.Op{{bad, other}, {other, bad}, {store.Check(key("a"), []byte("1")), other, bad}} {
				if other.Key == key("a") && len(ops) == 3 {
					continue // the same key twice
				}
				w.apply(store.ErrConflict, ops...)
				w.holds(key("a"), "1")
				w.holds(key("b"), "1")
				w.holds(others[2].Key, "-")
				w.holds(others[3].Key, "-")
			}
		}
	}

	w.apply(nil,
		store.Check(key("a"), []byte("1")),
		store.Replace(key("b"), []byte("1"), []byte("2"), time.Time{}),
		store.Create(others[3].Key, []byte("2"), time.Time{}),
		store.Delete(key("none")))
	w.holds(key("a"), "1")
	w.holds(key("b"), "2")
	w.holds(others[3].Key, "2")
}

func testRefused(t *testing.T, w *world) {
	good := store.Put(key("good"), []byte("v"), time.Time{})
	put := func(firm, bucket, id string) store.Op {
		return store.Put(store.Key{Firm: firm, Bucket: bucket, ID: id}, []byte("v"), time.Time{})
	}
	tests := []struct {
		name string
		bad  store.Op
	}{
		{"another firm", put("other", "bucket", "x")},
		{"the same key", store.Delete(key("good"))},
		{"the same key, only checked", store.Check(key("good"), nil)},
		{"no verb", store.Op{Record: store.Record{Key: key("x")}}},
		{"an unknown verb", store.Op{Record: store.Record{Key: key("x")}, Verb: store.VerbCheck + 1}},
		{"an empty ID", put("firm", "bucket", "")},
		{"an ID of 513 bytes", put("firm", "bucket", strings.Repeat("x", 513))},
		{"NUL in the bucket", put("firm", "buc\x00ket", "x")},
	}
	for _, test := range tests {
		for _, ops := range [][]store.Op{{good, test.bad}, {test.bad, good}} {
			err := w.Apply(t.Context(), ops...)
			// A mistake of the program: trying again doesn't help.
			if err == nil || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: Apply = %v; want an error that is none of the sentinels", test.name, err)
			}
			w.holds(key("good"), "-")
		}
	}
	if err := w.Apply(t.Context(), put("fi\x00rm", "bucket", "x")); err == nil {
		t.Error("NUL in the firm: Apply = nil; want an error")
	}
}

func testImpossibleKeys(t *testing.T, w *world) {
	w.apply(nil, store.Put(key("x"), []byte("v"), time.Time{}))
	for _, k := range []store.Key{
		key(""),
		key(strings.Repeat("x", 513)),
		key(strings.Repeat("x", 100_000)),
		{Firm: "firm", Bucket: "bucket\x00x", ID: "x"},
		{Firm: "firm\x00bucket", ID: "x"},
		{Firm: "firm", ID: "x"},
		{ID: "x"},
		{},
	} {
		if rec, err := w.Get(t.Context(), k); !errors.Is(err, store.ErrNotFound) || rec.Value != nil {
			t.Errorf("Get(%.40q) = %+v, %v; want ErrNotFound", fmt.Sprint(k), rec, err)
		}
	}
	w.holds(key("x"), "v")
}

func testExpiry(t *testing.T, w *world) {
	end := w.start.Add(10 * time.Minute)
	w.apply(nil,
		store.Put(key("ends"), []byte("v"), end),
		store.Put(key("ends later"), []byte("v"), end.Add(time.Millisecond)),
		store.Put(key("within the millisecond"), []byte("v"), end.Add(999*time.Microsecond)),
		store.Put(key("ended"), []byte("v"), w.start.Add(-time.Hour)),
		store.Put(key("ended in 1970"), []byte("v"), time.Unix(0, 0)),
		store.Put(key("ended before 1970"), []byte("v"), time.Unix(-1, 0)),
		store.Put(key("stays"), []byte("v"), time.Time{}))
	for id, want := range map[string]time.Time{
		"ends":                   end,
		"ends later":             end.Add(time.Millisecond),
		"within the millisecond": end,
		"stays":                  {},
	} {
		if rec, err := w.Get(t.Context(), key(id)); err != nil || !rec.Expires.Equal(want) || rec.Expires.IsZero() != want.IsZero() {
			t.Errorf("Get(%q).Expires = %v, %v; want %v", id, rec.Expires, err, want)
		}
	}
	list, err := w.Scan(t.Context(), "firm", "bucket", "ends", "", 1)
	if err != nil || len(list) != 1 || !list[0].Expires.Equal(end) {
		t.Errorf("Scan = %v, %v; want the end at %v", list, err, end)
	}

	w.at(10*time.Minute - time.Millisecond)
	for _, id := range []string{"ends", "ends later", "within the millisecond", "stays"} {
		w.holds(key(id), "v")
	}
	w.at(10 * time.Minute)
	w.holds(key("ends"), "-")
	w.holds(key("ends later"), "v")
	w.holds(key("within the millisecond"), "-")
	w.holds(key("ended"), "-")
	w.holds(key("ended in 1970"), "-")
	w.holds(key("ended before 1970"), "-")
	w.at(10*time.Minute + time.Millisecond)
	w.holds(key("ends later"), "-")
	w.holds(key("stays"), "v")
	w.sweep()
	w.holds(key("stays"), "v")
}

// sweep calls the engine's Sweep, if it has one.
func (w *world) sweep() {
	w.Helper()
	s, ok := w.Store.(interface {
		Sweep(context.Context) (int, error)
	})
	if !ok {
		return
	}
	if _, err := s.Sweep(w.Context()); err != nil {
		w.Fatalf("Sweep = %v", err)
	}
}

func testExpiryMoves(t *testing.T, w *world) {
	early, late := w.start.Add(10*time.Minute), w.start.Add(30*time.Minute)
	ids := []string{"put", "put to stay", "replaced", "recreated", "shortened"}
	for _, id := range ids[:4] {
		w.apply(nil, store.Put(key(id), []byte("1"), early))
	}
	w.apply(nil, store.Put(key("shortened"), []byte("1"), late))

	w.apply(nil, store.Put(key("put"), []byte("2"), late))
	w.apply(nil, store.Put(key("put to stay"), []byte("2"), time.Time{}))
	w.apply(nil, store.Replace(key("replaced"), []byte("1"), []byte("2"), late))
	w.apply(nil, store.Delete(key("recreated")))
	w.apply(nil, store.Create(key("recreated"), []byte("2"), late))
	w.apply(nil, store.Put(key("shortened"), []byte("2"), early))

	w.at(20 * time.Minute)
	w.sweep()
	for _, id := range ids[:4] {
		w.holds(key(id), "2")
	}
	w.holds(key("shortened"), "-")
	w.at(40 * time.Minute)
	w.sweep()
	for _, id := range []string{"put", "replaced", "recreated", "shortened"} {
		w.holds(key(id), "-")
	}
	w.holds(key("put to stay"), "2")
}

func testBackwardClock(t *testing.T, w *world) {
	end := w.start.Add(30 * time.Minute)
	w.apply(nil,
		store.Put(key("ends"), []byte("v"), end),
		store.Put(key("removed"), []byte("v"), end),
		store.Put(key("stays"), []byte("v"), time.Time{}))
	w.at(20 * time.Minute)
	w.apply(nil, store.Remove(key("removed"), []byte("v")))
	w.at(-time.Hour)
	w.holds(key("removed"), "-")
	w.holds(key("ends"), "v")
	w.apply(nil, store.Create(key("young"), []byte("v"), w.now().Add(10*time.Minute)))
	w.holds(key("young"), "v")

	if _, sweeps := w.Store.(interface {
		Sweep(context.Context) (int, error)
	}); sweeps {
		w.at(30 * time.Minute)
		w.sweep()
		w.at(0)
		w.holds(key("ends"), "-")
	}
	w.holds(key("removed"), "-")
	w.holds(key("stays"), "v")
}

func testValues(t *testing.T, w *world) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	values := map[string][]byte{
		"binary":   every,
		"zeros":    make([]byte, 100),
		"newlines": []byte("\r\n\r\n$-1\r\n"),
		"big":      bytes.Repeat(every, 1<<20/256),
		"empty":    {},
		"nil":      nil,
	}
	for id, v := range values {
		w.apply(nil, store.Put(key(id), v, w.now().Add(time.Hour)))
	}
	for id, v := range values {
		// A nil value means that there is no record, for Swap and others.
		if rec, err := w.Get(t.Context(), key(id)); err != nil || !bytes.Equal(rec.Value, v) || rec.Value == nil {
			t.Errorf("Get(%s) = %d bytes (nil: %t), %v; want %d bytes, not nil", id, len(rec.Value), rec.Value == nil, err, len(v))
		}
		w.apply(nil, store.Check(key(id), v))
		w.apply(store.ErrConflict, store.Create(key(id), v, time.Time{}))
	}
	list, err := w.Scan(t.Context(), "firm", "bucket", "", "", 100)
	if err != nil || len(list) != len(values) {
		t.Fatalf("Scan = %d records, %v; want %d", len(list), err, len(values))
	}
	for _, rec := range list {
		if !bytes.Equal(rec.Value, values[rec.Key.ID]) || rec.Value == nil {
			t.Errorf("Scan: %s has %d bytes (nil: %t); want %d", rec.Key.ID, len(rec.Value), rec.Value == nil, len(values[rec.Key.ID]))
		}
	}
	for id, v := range values {
		w.apply(nil, store.Remove(key(id), v))
	}
}

func testIDs(t *testing.T, w *world) {
	ids := []string{
		strings.Repeat("x", 512), strings.Repeat("x", 511), strings.Repeat("\xff", 512), strings.Repeat("\x00", 512),
		"\x00", "a", "a\x00", "a\x00b", "A", "ä", "{a}", "a:b", "a/b", "a b", "*", "\r\n", "\xff", "0",
	}
	for i, id := range ids {
		w.apply(nil, store.Create(key(id), fmt.Append(nil, i), w.now().Add(time.Hour)))
	}
	for i, id := range ids {
		w.holds(key(id), fmt.Sprint(i))
	}
	list, err := w.Scan(t.Context(), "firm", "bucket", "", "", 100)
	if want := slices.Sorted(slices.Values(ids)); err != nil || !slices.Equal(idsOf(list), want) {
		t.Errorf("Scan = %.200q, %v; want %.200q", idsOf(list), err, want)
	}
	w.at(2 * time.Hour)
	w.sweep()
	for _, id := range ids {
		w.holds(key(id), "-")
	}
}

func idsOf(list []store.Record) []string {
	ids := make([]string, len(list))
	for i, rec := range list {
		ids[i] = rec.Key.ID
	}
	return ids
}

func testCopies(t *testing.T, w *world) {
	long := strings.Repeat("long enough to lie where an engine keeps its own, ", 100)
	value := []byte(long)
	w.apply(nil, store.Put(key("a"), value, time.Time{}), store.Put(key("b"), value, time.Time{}))
	spoil := func(b []byte) {
		for i := range b[:cap(b)] {
			b[:cap(b)][i] = 'X'
		}
	}
	spoil(value)
	w.holds(key("a"), long)
	rec, err := w.Get(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	kept := string(rec.Value)
	w.apply(nil, store.Put(key("a"), []byte("other"), time.Time{}))
	if string(rec.Value) != kept {
		t.Errorf("what Get returned has become %.40q", rec.Value)
	}
	spoil(rec.Value)
	w.holds(key("a"), "other")
	list, err := w.Scan(t.Context(), "firm", "bucket", "", "", 10)
	if err != nil || len(list) != 2 {
		t.Fatalf("Scan = %v, %v", list, err)
	}
	spoil(list[0].Value)
	if string(list[1].Value) != long {
		t.Errorf("Scan's values share their bytes: %.40q", list[1].Value)
	}
	w.holds(key("a"), "other")
	w.holds(key("b"), long)
}

func testScan(t *testing.T, w *world) {
	ids := []string{"a", "a0", "a1", "a10", "a2", "b", "b\x00", "b\xff", "c", "\xff", "\xff\xff"}
	for _, id := range ids {
		w.apply(nil, store.Put(key(id), []byte("value of "+id), time.Time{}))
	}
	w.apply(nil, store.Put(key("a11"), nil, w.now().Add(-time.Minute))) // expired: it doesn't count for the limit
	tests := []struct {
		prefix, after string
		limit         int
		want          []string
	}{
		{"", "", 100, []string{"a", "a0", "a1", "a10", "a2", "b", "b\x00", "b\xff", "c", "\xff", "\xff\xff"}},
		{"", "", 3, []string{"a", "a0", "a1"}},
		{"", "a1", 3, []string{"a10", "a2", "b"}},
		{"", "a11", 1, []string{"a2"}},
		{"", "a15", 1, []string{"a2"}}, // after needn't exist
		{"", "\xff\xff", 9, nil},
		{"", "\xff\xff\xff", 9, nil},
		{"a", "", 100, []string{"a", "a0", "a1", "a10", "a2"}},
		{"a", "a1", 100, []string{"a10", "a2"}},
		{"a", "0", 100, []string{"a", "a0", "a1", "a10", "a2"}},
		{"a", "b", 100, nil},
		{"a1", "", 100, []string{"a1", "a10"}},
		{"a1", "a1", 100, []string{"a10"}},
		{"a1", "a10", 100, nil},
		{"b", "", 100, []string{"b", "b\x00", "b\xff"}},
		{"\xff", "", 100, []string{"\xff", "\xff\xff"}},
		{"d", "", 100, nil},
		{"", "", 0, nil},
		{"", "", -1, nil},
	}
	for _, test := range tests {
		list, err := w.Scan(t.Context(), "firm", "bucket", test.prefix, test.after, test.limit)
		if err != nil || !slices.Equal(idsOf(list), test.want) {
			t.Errorf("Scan(%q, %q, %d) = %q, %v; want %q", test.prefix, test.after, test.limit, idsOf(list), err, test.want)
		}
		for _, rec := range list {
			if string(rec.Value) != "value of "+rec.Key.ID || rec.Key != key(rec.Key.ID) {
				t.Errorf("Scan(%q, %q, %d): %+v", test.prefix, test.after, test.limit, rec)
			}
		}
	}
	if list, err := w.Scan(t.Context(), "firm", "nothing", "", "", 9); err != nil || len(list) != 0 {
		t.Errorf("Scan of an unknown bucket = %v, %v; want none", list, err)
	}

	var all []string
	for after := ""; ; {
		page, err := w.Scan(t.Context(), "firm", "bucket", "", after, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, idsOf(page)...), page[len(page)-1].Key.ID
	}
	if !slices.Equal(all, ids) {
		t.Errorf("by pages of two: %q; want %q", all, ids)
	}
}

func testApart(t *testing.T, w *world) {
	// Keys that would be equal if their parts were concatenated.
	places := []store.Key{
		{Firm: "a", Bucket: "b", ID: "x"}, {Firm: "a", Bucket: "b", ID: "bx"}, {Firm: "a", Bucket: "bb", ID: "x"},
		{Firm: "ab", Bucket: "b", ID: "x"}, {Firm: "", Bucket: "b", ID: "x"}, {Firm: "", Bucket: "ab", ID: "x"},
		{Firm: "a", Bucket: "b:", ID: "x"}, {Firm: "a:b", Bucket: "b", ID: "x"}, {Firm: "a/", Bucket: "b", ID: "x"},
		{Firm: "{a}", Bucket: "b", ID: "x"}, {Firm: "a", Bucket: "{b}", ID: "x"}, {Firm: "A", Bucket: "b", ID: "x"},
	}
	for i, k := range places {
		w.apply(nil, store.Create(k, fmt.Append(nil, i), w.now().Add(time.Hour)))
	}
	for i, k := range places {
		w.holds(k, fmt.Sprint(i))
	}
	in := map[[2]string][]string{}
	for _, k := range places {
		place := [2]string{k.Firm, k.Bucket}
		in[place] = append(in[place], k.ID)
	}
	for place, want := range in {
		list, err := w.Scan(t.Context(), place[0], place[1], "", "", 100)
		if err != nil || len(list) != len(want) {
			t.Errorf("Scan(%q) = %v, %v; want %q", place, list, err, want)
		}
	}
	w.apply(nil, store.Remove(places[0], []byte("0")))
	w.apply(nil, store.Delete(places[3]))
	w.holds(places[0], "-")
	w.holds(places[3], "-")
	for i, k := range places {
		if i != 0 && i != 3 {
			w.holds(k, fmt.Sprint(i))
		}
	}
}

// race runs n concurrent callers and returns how many succeeded; all others must return
// want.
func (w *world) race(n int, want error, call func(i int) error) int {
	w.Helper()
	var winners atomic.Int32
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			switch err := call(i); {
			case err == nil:
				winners.Add(1)
			case !errors.Is(err, want):
				w.Errorf("a loser got %v; want %v", err, want)
			}
		})
	}
	close(begin)
	wg.Wait()
	return int(winners.Load())
}

func testRemoveRace(t *testing.T, w *world) {
	for round := range 5 {
		k := key(fmt.Sprint(round))
		w.apply(nil, store.Put(k, []byte("v"), w.now().Add(time.Hour)))
		if n := w.race(100, store.ErrConflict, func(int) error {
			return w.Apply(t.Context(), store.Remove(k, []byte("v")))
		}); n != 1 {
			t.Errorf("%d of 100 removed the record; want 1", n)
		}
		w.holds(k, "-")
	}
}

func testReplaceRace(t *testing.T, w *world) {
	for round := range 5 {
		k := key(fmt.Sprint(round))
		w.apply(nil, store.Put(k, []byte("old"), time.Time{}))
		var winner atomic.Int32
		if n := w.race(100, store.ErrConflict, func(i int) error {
			own := store.Key{Firm: "firm", Bucket: "own", ID: fmt.Sprint(round, i)}
			err := w.Apply(t.Context(), store.Replace(k, []byte("old"), fmt.Append(nil, i), time.Time{}), store.Create(own, nil, time.Time{}))
			if err == nil {
				winner.Store(int32(i))
			}
			return err
		}); n != 1 {
			t.Errorf("%d of 100 replaced the record; want 1", n)
		}
		w.holds(k, fmt.Sprint(winner.Load()))
	}
	// The losers' other changes were not made.
	if list, err := w.Scan(t.Context(), "firm", "own", "", "", 1000); err != nil || len(list) != 5 {
		t.Errorf("Scan = %d records, %v; want the 5 winners' own", len(list), err)
	}
}

func testCreateRace(t *testing.T, w *world) {
	k := key("k")
	if n := w.race(100, store.ErrConflict, func(i int) error {
		return w.Apply(t.Context(), store.Create(k, fmt.Append(nil, i), time.Time{}))
	}); n != 1 {
		t.Errorf("%d of 100 created the record; want 1", n)
	}
	if n := w.race(100, store.ErrConflict, func(i int) error {
		rec, err := w.Get(t.Context(), k)
		if err != nil {
			return store.ErrConflict // another caller was first
		}
		return w.Apply(t.Context(), store.Remove(k, rec.Value))
	}); n != 1 {
		t.Errorf("%d of 100 removed the record; want 1", n)
	}
	w.holds(k, "-")
}

func testCounting(t *testing.T, w *world) {
	const callers, each = 8, 25
	w.apply(nil, store.Put(key("count"), nil, time.Time{}))
	count := func() error {
		rec, err := w.Get(t.Context(), key("count"))
		if err != nil {
			return err
		}
		return w.Apply(t.Context(), store.Replace(rec.Key, rec.Value, append(rec.Value, '.'), w.now().Add(time.Hour)))
	}
	w.race(callers, nil, func(int) error {
		for done := 0; done < each; {
			err := count()
			switch {
			case err == nil:
				done++
			case errors.Is(err, store.ErrConflict):
				time.Sleep(rand.N(time.Millisecond)) // otherwise they might conflict forever
			default:
				return err
			}
		}
		return nil
	})
	w.holds(key("count"), strings.Repeat(".", callers*each))
}

// testWholeApplies moves a sum between two records; a Scan of both never sees half a
// move.
func testWholeApplies(t *testing.T, w *world) {
	put := func(a int) error {
		return w.Apply(t.Context(),
			store.Put(key("left"), fmt.Append(nil, a), time.Time{}),
			store.Put(key("right"), fmt.Append(nil, 1000-a), time.Time{}))
	}
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				list, err := w.Scan(t.Context(), "firm", "bucket", "", "", 2)
				var left, right int
				if err == nil && len(list) == 2 {
					fmt.Sscan(string(list[0].Value), &left)
					fmt.Sscan(string(list[1].Value), &right)
				}
				if left+right != 1000 {
					t.Errorf("Scan = %v, %v; want two that make 1000", list, err)
					return
				}
			}
		})
	}
	for i := range 100 {
		if err := put(i * 10); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

func testManyOps(t *testing.T, w *world) {
	const n = 2000
	ops := make([]store.Op, 0, n)
	for i := range n {
		// Unordered, and in several buckets.
		k := store.Key{Firm: "firm", Bucket: fmt.Sprint("bucket", i%3), ID: fmt.Sprint(i * 7919 % n)}
		ops = append(ops, store.Create(k, fmt.Append(nil, i), w.now().Add(time.Duration(i+1)*time.Second)))
	}
	first := slices.Clone(ops[:3])
	w.apply(store.ErrConflict, append(slices.Clone(ops), store.Check(key("none"), nil))...)
	w.holds(first[0].Key, "-")
	w.apply(nil, ops...)
	for i := range first {
		if ops[i].Key != first[i].Key {
			t.Fatal("Apply has put the caller's Ops into another order")
		}
	}
	for i, op := range ops {
		if rec, err := w.Get(t.Context(), op.Key); err != nil || string(rec.Value) != fmt.Sprint(i) {
			t.Fatalf("Get(%v) = %q, %v; want %d", op.Key, rec.Value, err, i)
		}
	}
	w.at(n / 2 * time.Second)
	w.sweep()
	var left int
	for b := range 3 {
		list, err := w.Scan(t.Context(), "firm", fmt.Sprint("bucket", b), "", "", n)
		if err != nil {
			t.Fatal(err)
		}
		left += len(list)
	}
	if left != n/2 {
		t.Errorf("half the time later there are %d records; want %d", left, n/2)
	}
}

func testContext(t *testing.T, w *world) {
	w.apply(nil, store.Put(key("k"), []byte("v"), time.Time{}))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: cancelled, context.DeadlineExceeded: late} {
		_, err1 := w.Get(ctx, key("k"))
		err2 := w.Apply(ctx, store.Put(key("k"), []byte("w"), time.Time{}))
		_, err3 := w.Scan(ctx, "firm", "bucket", "", "", 1)
		for i, err := range []error{err1, err2, err3} {
			if !errors.Is(err, want) || !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s = %v; want one that is ErrUnavailable and %v", [...]string{"Get", "Apply", "Scan"}[i], err, want)
			}
		}
	}
	w.holds(key("k"), "v")

	// Contexts that end during a call: the result is true in any case.
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*50*time.Microsecond)
			defer cancel()
			k := key(fmt.Sprint("on the way ", i))
			err := w.Apply(ctx, store.Create(k, []byte("v"), time.Time{}))
			_, there := w.Get(t.Context(), k)
			switch {
			case err == nil && there == nil, errors.Is(err, context.DeadlineExceeded) && errors.Is(err, store.ErrUnavailable):
			default:
				t.Errorf("Apply = %v, then Get = %v", err, there)
			}
		})
	}
	wg.Wait()
}

func testClosed(t *testing.T, w *world) {
	w.apply(nil, store.Put(key("k"), []byte("v"), time.Time{}))
	// Concurrent callers get a result, too.
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for range 1000 {
				err := w.Apply(t.Context(), store.Put(key(fmt.Sprint(i)), []byte("v"), time.Time{}))
				if err == nil {
					_, err = w.Get(t.Context(), key(fmt.Sprint(i)))
				}
				if errors.Is(err, store.ErrUnavailable) {
					return
				}
				if err != nil {
					t.Errorf("while it closes: %v", err)
				}
			}
		})
	}
	time.Sleep(5 * time.Millisecond)
	if err := w.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	wg.Wait()
	if err := w.Close(); err != nil {
		t.Errorf("the second Close = %v", err)
	}
	_, err1 := w.Get(t.Context(), key("k"))
	err2 := w.Apply(t.Context(), store.Put(key("k"), []byte("w"), time.Time{}))
	_, err3 := w.Scan(t.Context(), "firm", "bucket", "", "", 1)
	for i, err := range []error{err1, err2, err3} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s of a closed store = %v; want ErrUnavailable", [...]string{"Get", "Apply", "Scan"}[i], err)
		}
	}
}
