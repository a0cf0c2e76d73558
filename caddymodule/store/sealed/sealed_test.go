package sealed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	oldSecret = "an older secret of at least 32 characters, soon retired"
	newSecret = "the secret of at least 32 characters that seals today"
)

type thing struct {
	Name string `json:"name"`
	N    int    `json:"n"`
}

// bucket is a sealed bucket on a real store, with the alarms that it raised.
type bucket struct {
	sealed.Bucket[thing]
	t      *testing.T
	now    time.Time
	alarms []store.Key
}

func keyring(t *testing.T, newest string, older ...string) *secret.Keyring {
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

func openBucket(t *testing.T) *bucket {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	b := &bucket{t: t, now: time.Now().Truncate(time.Millisecond)}
	b.Bucket = sealed.Bucket[thing]{Store: db, Keys: keyring(t, newSecret), Firm: "example", Name: "things", Format: 1,
		Now:         func() time.Time { return b.now },
		OnUntrusted: func(_ context.Context, k store.Key) { b.alarms = append(b.alarms, k) }}
	return b
}

func (b *bucket) apply(op store.Op, err error) error {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
	return b.Store.Apply(b.t.Context(), op)
}

func (b *bucket) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// raw returns the bytes of a record in the store.
func (b *bucket) raw(id string) []byte {
	b.t.Helper()
	rec, err := b.Store.Get(b.t.Context(), b.Key(id))
	b.must(err)
	return rec.Value
}

// want checks that Get returns the value, or the error.
func (b *bucket) want(what, id string, v thing, wanted error) sealed.Record[thing] {
	b.t.Helper()
	rec, err := b.Get(b.t.Context(), id)
	if rec.ID != id || rec.Value != v || !errors.Is(err, wanted) || (err == nil) != (wanted == nil) {
		b.t.Errorf("%s: Get(%q) = %+v, %v; want %+v, %v", what, id, rec, err, v, wanted)
	}
	return rec
}

func TestRecordsAreWrittenAndRead(t *testing.T) {
	b := openBucket(t)
	end := b.now.Add(time.Hour)
	one, two, three := thing{"one <&>", 1}, thing{"two", 2}, thing{"three", 3}
	none := b.want("before", "a", thing{}, store.ErrNotFound)
	b.must(b.apply(b.Write(none, one, end)))
	if err := b.apply(b.Create("a", two, end)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Create of one that is there = %v; want ErrConflict", err)
	}
	first := b.want("written", "a", one, nil)
	if !first.Expires.Equal(end) {
		t.Errorf("Expires = %v; want %v", first.Expires, end)
	}
	before := b.raw("a")
	b.must(b.apply(b.Write(first, one, end)))
	if bytes.Equal(before, b.raw("a")) {
		t.Error("the same value was written twice as the same bytes")
	}
	if err := b.apply(b.Write(first, two, end)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Write in place of what was overwritten = %v; want ErrConflict", err)
	}
	if err := b.Store.Apply(t.Context(), b.Check(first)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Check of what was overwritten = %v; want ErrConflict", err)
	}
	if err := b.Store.Apply(t.Context(), b.Remove(first)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Remove of what was overwritten = %v; want ErrConflict", err)
	}
	b.must(b.apply(b.Put("a", three, time.Time{})))
	last := b.want("put", "a", three, nil)
	if !last.Expires.IsZero() {
		t.Errorf("Expires = %v; want never", last.Expires)
	}
	b.must(b.Store.Apply(t.Context(), b.Check(last)))
	b.must(b.Store.Apply(t.Context(), b.Remove(last)))
	b.want("removed", "a", thing{}, store.ErrNotFound)
	b.must(b.apply(b.Put("a", one, time.Time{})))
	b.must(b.Store.Apply(t.Context(), b.Delete("a")))
	b.want("deleted", "a", thing{}, store.ErrNotFound)
	if len(b.alarms) > 0 {
		t.Errorf("alarms for %v; want none", b.alarms)
	}
}

// Nothing that is written without the secret is a trusted record.
func TestForgedRecordsAreUntrusted(t *testing.T) {
	b := openBucket(t)
	b.must(b.apply(b.Put("a", thing{"a", 1}, time.Time{})))
	b.must(b.apply(b.Put("b", thing{"b", 2}, time.Time{})))
	good := b.raw("a")
	elsewhere := func(change func(*sealed.Bucket[thing])) []byte {
		other := b.Bucket
		change(&other)
		op, err := other.Put("a", thing{"a", 1}, time.Time{})
		b.must(err)
		return op.Value
	}
	values := map[string][]byte{
		"empty":                       {},
		"the format alone":            {1},
		"the value, unsealed":         []byte("\x01" + `{"name":"a","n":1}`),
		"cut short":                   good[:len(good)-1],
		"with one byte more":          append(slices.Clone(good), 0),
		"of another ID":               b.raw("b"),
		"of another bucket":           elsewhere(func(o *sealed.Bucket[thing]) { o.Name = "other" }),
		"of another firm":             elsewhere(func(o *sealed.Bucket[thing]) { o.Firm = "other" }),
		"with another secret":         elsewhere(func(o *sealed.Bucket[thing]) { o.Keys = keyring(t, oldSecret) }),
		"as if of a later format":     append([]byte{2}, good[1:]...),
		"as if of an earlier release": append([]byte("1"), good[1:]...),
	}
	for i := range good {
		flipped := slices.Clone(good)
		flipped[i] ^= 0x40
		values[fmt.Sprintf("with byte %d flipped", i)] = flipped
	}
	for name, value := range values {
		b.alarms = nil
		b.must(b.Store.Apply(t.Context(), store.Put(b.Key("a"), value, time.Time{})))
		rec := b.want(name, "a", thing{}, sealed.ErrUntrusted)
		if !slices.Equal(b.alarms, []store.Key{b.Key("a")}) {
			t.Errorf("%s: alarms for %v; want one for a", name, b.alarms)
		}
		if found, err := b.Find(t.Context(), "a"); found.Value != (thing{}) || !found.Found() || err != nil {
			t.Errorf("%s: Find = %+v, %v; want the zero value of a record that is there", name, found, err)
		}
		stop := errors.New("stop")
		err := b.Swap(t.Context(), "a", func(was thing) (thing, time.Time, []store.Op, error) {
			if was != (thing{}) {
				t.Errorf("%s: Swap calls change with %+v; want nothing", name, was)
			}
			return was, time.Time{}, nil, stop
		})
		if err != stop {
			t.Errorf("%s: Swap = %v; want the error of change", name, err)
		}
		// A caller of Get can replace it.
		b.must(b.apply(b.Write(rec, thing{"again", 1}, time.Time{})))
		b.want(name+", written again", "a", thing{"again", 1}, nil)
	}
}

// A record that is restored after its expiry stays expired.
func TestARestoredRecordStaysExpired(t *testing.T) {
	b := openBucket(t)
	b.must(b.apply(b.Put("a", thing{"a", 1}, b.now.Add(time.Hour))))
	b.must(b.Store.Apply(t.Context(), store.Put(b.Key("a"), b.raw("a"), time.Time{})))
	b.now = b.now.Add(time.Hour - time.Millisecond)
	b.want("just before its end", "a", thing{"a", 1}, nil)
	b.now = b.now.Add(time.Millisecond)
	rec := b.want("at its end", "a", thing{}, store.ErrNotFound)
	for rec, err := range b.All(t.Context(), "", "") {
		t.Errorf("All yields %+v, %v; want nothing", rec, err)
	}
	b.must(b.Swap(t.Context(), "a", func(was thing) (thing, time.Time, []store.Op, error) {
		if was != (thing{}) {
			t.Errorf("Swap calls change with %+v; want nothing", was)
		}
		return thing{"new", 2}, time.Time{}, nil, nil
	}))
	if err := b.apply(b.Write(rec, thing{"late", 3}, time.Time{})); !errors.Is(err, store.ErrConflict) {
		t.Errorf("Write in place of what was overwritten = %v; want ErrConflict", err)
	}
	b.want("after Swap", "a", thing{"new", 2}, nil)
}

func TestARecordOfAnotherReleaseIsErrFormat(t *testing.T) {
	b := openBucket(t)
	later := b.Bucket
	later.Format = 2
	b.must(b.apply(later.Put("a", thing{"a", 1}, time.Time{})))
	b.want("of a later release", "a", thing{}, sealed.ErrFormat)
	if !errors.Is(sealed.ErrFormat, store.ErrUnavailable) || len(b.alarms) > 0 {
		t.Errorf("ErrFormat is no store.ErrUnavailable, or raises alarms: %v", b.alarms)
	}
}

// A bucket with an older layout writes records that an earlier release can read, and reads both
// layouts, so that two releases can use one store.
func TestABucketWithAnOlderLayoutReadsBothLayouts(t *testing.T) {
	today := openBucket(t)
	old := today.Bucket
	old.Layout = &sealed.Layout{Purpose: "things", Context: func(k store.Key) string { return k.Firm + "/" + k.ID }}
	ends := today.now.Add(time.Hour)
	today.must(today.apply(old.Put("a", thing{"a", 1}, ends)))
	plain, err := today.Keys.Open("things", "example/a", today.raw("a")[1:])
	if err != nil || string(plain) != `{"name":"a","n":1}` || today.raw("a")[0] != old.Format {
		t.Errorf("it wrote %q, %v; want the JSON, sealed for its place", plain, err)
	}
	today.must(today.apply(today.Put("b", thing{"b", 2}, ends)))
	later := today.Bucket
	later.Format = 2
	today.must(today.apply(later.Put("c", thing{"c", 3}, ends)))
	today.must(today.Store.Apply(t.Context(), store.Put(today.Key("copied"), today.raw("a"), ends), store.Put(today.Key("forged"), []byte("\x02?"), ends)))
	for id, want := range map[string]error{"a": nil, "b": nil, "c": sealed.ErrFormat, "copied": sealed.ErrUntrusted, "forged": sealed.ErrUntrusted} {
		rec, err := old.Get(t.Context(), id)
		if !errors.Is(err, want) || err == nil && (rec.Value.Name != id || !rec.Expires.Equal(ends)) {
			t.Errorf("Get(%q) = %+v, %v; want %v", id, rec, err, want)
		}
	}
	old.Keys = keyring(t, "another secret of at least 32 characters, newer than that", newSecret)
	if n, err := old.Reseal(t.Context()); n != 2 || err != nil {
		t.Errorf("Reseal = %d, %v; want 2", n, err)
	}
	old.Keys = keyring(t, "another secret of at least 32 characters, newer than that")
	if rec, err := old.Get(t.Context(), "a"); rec.Value != (thing{"a", 1}) || err != nil {
		t.Errorf("Get after Reseal = %+v, %v; want a", rec, err)
	}
}

// Find and Swap treat untrusted records as missing, and they can be overwritten.
func TestFindAndSwapReplaceForgedRecords(t *testing.T) {
	b := openBucket(t)
	b.must(b.Store.Apply(t.Context(), store.Put(b.Key("a"), []byte("?"), time.Time{})))
	rec, err := b.Find(t.Context(), "a")
	if rec.Value != (thing{}) || !rec.Found() || err != nil || len(b.alarms) != 1 {
		t.Errorf("Find = %+v, %v, with %d alarms; want a record without a value, and one alarm", rec, err, len(b.alarms))
	}
	b.must(b.Swap(t.Context(), "a", func(was thing) (thing, time.Time, []store.Op, error) {
		was.N++
		return was, time.Time{}, nil, nil
	}))
	b.want("after Swap", "a", thing{"", 1}, nil)
	if rec, err := b.Find(t.Context(), "none"); rec.Found() || err != nil {
		t.Errorf("Find of none = %+v, %v; want none", rec, err)
	}
	b.Store.Close()
	if _, err := b.Find(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Find in a closed store = %v; want ErrUnavailable", err)
	}
}

func TestEarlierOpensOldValues(t *testing.T) {
	b := openBucket(t)
	b.Earlier = func(k store.Key, value []byte) (thing, error) {
		plain, err := b.Keys.Open("earlier", k.ID, value[1:])
		return thing{string(plain), 0}, err
	}
	old := append([]byte("1"), b.Keys.Seal("earlier", "a", []byte("old"))...)
	for _, id := range []string{"a", "b"} {
		b.must(b.Store.Apply(t.Context(), store.Put(b.Key(id), old, time.Time{})))
	}
	rec := b.want("an earlier one", "a", thing{"old", 0}, nil)
	b.want("one that was copied", "b", thing{}, sealed.ErrUntrusted)
	b.must(b.apply(b.Write(rec, rec.Value, time.Time{})))
	if b.raw("a")[0] != b.Format {
		t.Error("it wasn't written in today's format")
	}
	b.want("written again", "a", thing{"old", 0}, nil)
}

func TestAllContinuesAfterAnUntrustedRecord(t *testing.T) {
	b := openBucket(t)
	var ops []store.Op
	for i := range 1100 {
		op, err := b.Put(fmt.Sprintf("x/%04d", i), thing{"x", i}, time.Time{})
		b.must(err)
		ops = append(ops, op)
	}
	b.must(b.Store.Apply(t.Context(), ops...))
	b.must(b.apply(b.Put("y", thing{"y", 0}, time.Time{})))
	b.must(b.Store.Apply(t.Context(), store.Put(b.Key("x/0007"), []byte("?"), time.Time{})))
	n := 0
	for rec, err := range b.All(t.Context(), "x/", "") {
		wrong := rec.ID == "x/0007"
		if wrong != errors.Is(err, sealed.ErrUntrusted) || !wrong && (err != nil || rec.Value.N != n) {
			t.Fatalf("record %d = %+v, %v", n, rec, err)
		}
		n++
	}
	if n != 1100 {
		t.Errorf("All yields %d records; want 1100", n)
	}
	for rec, err := range b.All(t.Context(), "x/", "x/1098") {
		if rec.ID != "x/1099" || err != nil {
			t.Errorf("All after x/1098 yields %+v, %v; want x/1099 alone", rec, err)
		}
	}
	b.Store.Close()
	n = 0
	for _, err := range b.All(t.Context(), "", "") {
		if n++; !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("All of a closed store yields %v; want ErrUnavailable", err)
		}
	}
	if n != 1 {
		t.Errorf("All of a closed store yields %d times; want once", n)
	}
}

func TestResealUsesTheNewestSecretForAllRecords(t *testing.T) {
	b := openBucket(t)
	newest := b.Keys
	b.Keys = keyring(t, oldSecret)
	end := b.now.Add(time.Hour)
	b.must(b.apply(b.Put("a", thing{"a", 1}, end)))
	b.must(b.apply(b.Put("b", thing{"b", 2}, time.Time{})))
	b.Keys = keyring(t, newSecret, oldSecret)
	b.must(b.apply(b.Put("c", thing{"c", 3}, time.Time{})))
	b.must(b.Store.Apply(t.Context(), store.Put(b.Key("d"), []byte("?"), time.Time{})))
	for _, wanted := range []int{2, 0} {
		if n, err := b.Reseal(t.Context()); n != wanted || err != nil {
			t.Errorf("Reseal = %d, %v; want %d", n, err, wanted)
		}
	}
	b.Keys = newest
	if rec := b.want("resealed", "a", thing{"a", 1}, nil); !rec.Expires.Equal(end) {
		t.Errorf("Expires = %v; want %v", rec.Expires, end)
	}
	b.want("resealed", "b", thing{"b", 2}, nil)
	b.want("not resealed", "c", thing{"c", 3}, nil)
}
