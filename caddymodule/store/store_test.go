package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func key(id string) store.Key { return store.Key{Firm: "firm", Bucket: "bucket", ID: id} }

func TestAllows(t *testing.T) {
	a, b := []byte("a"), []byte("b")
	k := key("k")
	tests := []struct {
		name                string
		op                  store.Op
		none, same, another bool
	}{
		{"Put", store.Put(k, b, time.Time{}), true, true, true},
		{"Create", store.Create(k, b, time.Time{}), true, false, false},
		{"Replace", store.Replace(k, a, b, time.Time{}), false, true, false},
		{"Delete", store.Delete(k), true, true, true},
		{"Remove", store.Remove(k, a), false, true, false},
		{"Check", store.Check(k, a), false, true, false},
		{"the zero value", store.Op{}, false, false, false},
		{"an unknown verb", store.Op{Verb: store.VerbCheck + 1}, false, false, false},
	}
	for _, test := range tests {
		got := [3]bool{test.op.Allows(false, nil), test.op.Allows(true, a), test.op.Allows(true, b)}
		if want := [3]bool{test.none, test.same, test.another}; got != want {
			t.Errorf("%s allows (no record, a, b) = %v; want %v", test.name, got, want)
		}
	}
	// A missing record is not an empty one.
	for _, op := range []store.Op{store.Replace(k, nil, b, time.Time{}), store.Remove(k, nil), store.Check(k, nil)} {
		if op.Allows(false, nil) || !op.Allows(true, []byte{}) {
			t.Errorf("verb %d: no record passes for an empty one, or an empty one for none", op.Verb)
		}
	}
}

func open(t *testing.T) store.Store {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func want(t *testing.T, s store.Store, id, value string) {
	t.Helper()
	rec, err := s.Get(t.Context(), key(id))
	got := string(rec.Value)
	if errors.Is(err, store.ErrNotFound) {
		got = "-"
	} else if err != nil {
		t.Fatal(err)
	}
	if got != value {
		t.Errorf("%s = %q; want %q", id, got, value)
	}
}

func TestSwap(t *testing.T) {
	s := open(t)
	end := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	refused := errors.New("refused")
	steps := []struct {
		name  string
		was   string // given to change; "-": nil
		value []byte
		more  []store.Op
		err   error
		then  string
	}{
		{"nothing of nothing", "-", nil, nil, nil, "-"},
		{"create", "-", []byte("1"), nil, nil, "1"},
		{"replace", "1", []byte("2"), nil, nil, "2"},
		{"refuse", "2", []byte("3"), nil, refused, "2"},
		{"empty, which isn't nothing", "2", []byte{}, nil, nil, ""},
		{"replace what is empty", "", []byte("3"), nil, nil, "3"},
		{"with more", "3", []byte("4"), []store.Op{store.Put(key("more"), []byte("m"), time.Time{})}, nil, "4"},
		{"with more that can't be", "4", []byte("5"), []store.Op{store.Create(key("more"), nil, time.Time{})}, store.ErrConflict, "4"},
		{"delete, with more", "4", nil, []store.Op{store.Delete(key("more"))}, nil, "-"},
		{"nothing, with more", "-", nil, []store.Op{store.Put(key("more"), []byte("n"), time.Time{})}, nil, "-"},
	}
	for _, step := range steps {
		err := store.Swap(t.Context(), s, key("k"), func(was []byte) ([]byte, time.Time, []store.Op, error) {
			got := string(was)
			if was == nil {
				got = "-"
			}
			if got != step.was {
				t.Errorf("%s: change is given %q; want %q", step.name, got, step.was)
			}
			if step.err == refused {
				return step.value, end, step.more, refused
			}
			return step.value, end, step.more, nil
		})
		if !errors.Is(err, step.err) || (step.err == nil) != (err == nil) {
			t.Errorf("%s: Swap = %v; want %v", step.name, err, step.err)
		}
		want(t, s, "k", step.then)
	}
	want(t, s, "more", "n")

	if err := store.Swap(t.Context(), s, key("ends"), func([]byte) ([]byte, time.Time, []store.Op, error) {
		return []byte("v"), end, nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	if rec, err := s.Get(t.Context(), key("ends")); err != nil || !rec.Expires.Equal(end) {
		t.Errorf("Swap's record ends at %v, %v; want %v", rec.Expires, err, end)
	}
}

// After a concurrent change, change is called again with the current value.
func TestSwapRetriesAfterAConflict(t *testing.T) {
	s := open(t)
	for _, before := range []string{"", "old"} {
		k, rounds := key("k "+before), 0
		if before != "" {
			if err := s.Apply(t.Context(), store.Put(k, []byte(before), time.Time{})); err != nil {
				t.Fatal(err)
			}
		}
		err := store.Swap(t.Context(), s, k, func(was []byte) ([]byte, time.Time, []store.Op, error) {
			rounds++
			if rounds < 4 {
				faster := store.Put(k, fmt.Append(nil, rounds), time.Time{})
				if err := s.Apply(t.Context(), faster); err != nil {
					t.Fatal(err)
				}
			}
			return append(was, " swapped"...), time.Time{}, nil, nil
		})
		if err != nil || rounds != 4 {
			t.Errorf("Swap = %v in %d rounds; want 4", err, rounds)
		}
		want(t, s, k.ID, "3 swapped")
	}
}

func TestSwapReturnsTheStoresError(t *testing.T) {
	s := open(t)
	s.Close()
	err := store.Swap(t.Context(), s, key("k"), func([]byte) ([]byte, time.Time, []store.Op, error) {
		t.Error("change is asked about a record that couldn't be read")
		return nil, time.Time{}, nil, nil
	})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Swap = %v; want ErrUnavailable", err)
	}
}
