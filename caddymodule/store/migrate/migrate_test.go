package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func open(t *testing.T, path string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func keyring(t *testing.T) *secret.Keyring {
	t.Helper()
	keys, err := secret.New([]byte("correct horse battery staple, and more of it"))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// guard opens the firm's store as a machine does whose anchors are in dir.
func guard(t *testing.T, db store.Store, dir string) *anchor.Store {
	t.Helper()
	s, err := anchor.Open(t.Context(), anchor.Options{Firm: "firm", Store: db, DSN: "the store", Dir: dir, Keys: keyring(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// change makes a change through the machine's anchor.
func change(t *testing.T, db store.Store, dir, id string) {
	t.Helper()
	s := guard(t, db, dir)
	if err := s.Apply(t.Context(), store.Put(store.Key{Firm: "firm", Bucket: "directory", ID: id}, []byte(id), time.Time{})); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

func lost(t *testing.T, db store.Store, dir string) anchor.Reason {
	t.Helper()
	s := guard(t, db, dir)
	defer s.Close()
	var loss *anchor.Loss
	if errors.As(s.Err(), &loss) {
		return loss.Reason
	}
	return ""
}

// filled returns a store with records of two firms and of none.
func filled(t *testing.T, path, anchors string, n int) *bolt.DB {
	t.Helper()
	db := open(t, path)
	soon := time.Now().Add(time.Hour)
	for _, firm := range []string{"", "firm", "other"} {
		var ops []store.Op
		for i := range n {
			ops = append(ops, store.Put(store.Key{Firm: firm, Bucket: fmt.Sprint("bucket ", i%3), ID: fmt.Sprintf("%06d", i)}, []byte(firm+fmt.Sprint(i)), []time.Time{{}, soon}[i%2]))
		}
		if err := db.Apply(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	change(t, db, anchors, "first")
	return db
}

// A machine that knew the old store trusts the new one, and no more the old one, whatever is written to
// that.
func TestAMovedStoreIsTrustedAndTheOldOneIsNot(t *testing.T) {
	dir := t.TempDir()
	anchors, others := filepath.Join(dir, "anchors"), filepath.Join(dir, "anchors of another machine")
	from, to := filled(t, filepath.Join(dir, "from.db"), anchors, 2000), open(t, filepath.Join(dir, "to.db"))
	change(t, from, others, "there")
	r, err := Run(t.Context(), Options{From: from, To: to, Source: "from", Keys: keyring(t)})
	if err != nil || r.Records != 3*2000+3 || len(r.Firms) != 2 || r.Resumed { // two changes and the beat
		t.Fatalf("Run = %+v, %v; want %d records", r, err, 3*2000+3)
	}
	rec, err := to.Get(t.Context(), store.Key{Firm: "other", Bucket: "bucket 1", ID: "000001"})
	if err != nil || string(rec.Value) != "other1" || time.Until(rec.Expires) < 50*time.Minute {
		t.Errorf("a record is %q until %v, %v", rec.Value, rec.Expires, err)
	}
	for _, dir := range []string{anchors, others} {
		if why := lost(t, to, dir); why != "" {
			t.Errorf("the new store isn't trusted: %s", why)
		}
	}
	for i := range 3 {
		change(t, from, filepath.Join(dir, "a machine that never saw either"), fmt.Sprint(i))
	}
	if why := lost(t, from, anchors); why != anchor.Other {
		t.Errorf("the old store after the move: %q; want %q", why, anchor.Other)
	}
	if why := lost(t, to, anchors); why != "" {
		t.Errorf("the new store isn't trusted: %s", why)
	}
	// And back.
	back := open(t, filepath.Join(dir, "back.db"))
	if _, err := Run(t.Context(), Options{From: to, To: back, Source: "to", Keys: keyring(t)}); err != nil {
		t.Fatal(err)
	}
	if why := lost(t, back, anchors); why != "" {
		t.Errorf("the store that was moved back isn't trusted: %s", why)
	}
}

// A copy that is older than what the machine has seen stays untrusted when it is moved.
func TestMovingAnOldCopyMakesItNoNewer(t *testing.T) {
	dir := t.TempDir()
	anchors := filepath.Join(dir, "anchors")
	from := filled(t, filepath.Join(dir, "from.db"), anchors, 10)
	file, err := os.Create(filepath.Join(dir, "copy.db"))
	if err == nil {
		err = errors.Join(from.Backup(file), file.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	change(t, from, anchors, "later")
	to := open(t, filepath.Join(dir, "to.db"))
	if _, err := Run(t.Context(), Options{From: open(t, file.Name()), To: to, Source: "copy", Keys: keyring(t)}); err != nil {
		t.Fatal(err)
	}
	if why := lost(t, to, anchors); why != anchor.Older {
		t.Errorf("the moved copy: %q; want %q", why, anchor.Older)
	}
}

// interrupted fails after some batches.
type interrupted struct {
	Store
	applies int
}

var errInterrupted = errors.New("interrupted")

func (s *interrupted) Apply(ctx context.Context, ops ...store.Op) error {
	if s.applies--; s.applies < 0 {
		return errInterrupted
	}
	return s.Store.Apply(ctx, ops...)
}

// Wherever a move is interrupted, no machine trusts the part, and the next one completes it; also when the
// source was used in between.
func TestAnInterruptedMoveGoesOn(t *testing.T) {
	dir := t.TempDir()
	anchors := filepath.Join(dir, "anchors")
	from := filled(t, filepath.Join(dir, "from.db"), anchors, 4000)
	another := open(t, filepath.Join(dir, "another.db"))
	for _, applies := range []int{1, 2, 5, 15, 25, 29} {
		for _, used := range []bool{false, true} {
			name := fmt.Sprintf("%d-%v", applies, used)
			to := open(t, filepath.Join(dir, name+".db"))
			_, err := Run(t.Context(), Options{From: from, To: &interrupted{to, applies}, Source: "from", Keys: keyring(t)})
			if !errors.Is(err, errInterrupted) {
				t.Fatalf("%s: Run = %v; want to be interrupted", name, err)
			}
			if applies > 1 {
				for _, dir := range []string{anchors, filepath.Join(dir, "new-"+name)} {
					if why := lost(t, to, dir); why == "" {
						t.Errorf("%s: a part of a copy is trusted", name)
					}
				}
			}
			if _, err := Run(t.Context(), Options{From: another, To: to, Source: "another", Keys: keyring(t)}); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("%s: Run from another source = %v; want ErrNotEmpty", name, err)
			}
			if used {
				change(t, from, anchors, "since "+name)
			}
			r, err := Run(t.Context(), Options{From: from, To: to, Source: "from", Keys: keyring(t)})
			if err != nil || r.Resumed == used {
				t.Errorf("%s: Run = %+v, %v; want that it was resumed, unless the source was used", name, r, err)
			}
			s := guard(t, to, filepath.Join(dir, "later-"+name))
			if s.Err() != nil {
				t.Errorf("%s: the new store isn't trusted: %v", name, s.Err())
			}
			s.Close()
			if _, err := Run(t.Context(), Options{From: from, To: to, Source: "from", Keys: keyring(t)}); !errors.Is(err, ErrNotEmpty) {
				t.Errorf("%s: Run into a whole store = %v; want ErrNotEmpty", name, err)
			}
			to.Close()
		}
	}
}

// busy changes the source while it is copied.
type busy struct {
	Store
	change func()
}

func (s *busy) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if bucket == "bucket 2" && firm == "other" && s.change != nil {
		s.change()
		s.change = nil
	}
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// A server that writes to the source meanwhile is noticed, and nothing trusts the copy.
func TestARunningServerIsNoticed(t *testing.T) {
	dir := t.TempDir()
	anchors := filepath.Join(dir, "anchors")
	from, to := filled(t, filepath.Join(dir, "from.db"), anchors, 10), open(t, filepath.Join(dir, "to.db"))
	_, err := Run(t.Context(), Options{From: &busy{from, func() { change(t, from, anchors, "meanwhile") }}, To: to, Source: "from", Keys: keyring(t)})
	if !errors.Is(err, ErrChanged) && !errors.Is(err, ErrDifferent) {
		t.Errorf("Run = %v; want ErrChanged or ErrDifferent", err)
	}
	if why := lost(t, to, anchors); why == "" {
		t.Error("the copy is trusted")
	}
	if _, err := Run(t.Context(), Options{From: from, To: to, Source: "from", Keys: keyring(t)}); err != nil {
		t.Errorf("Run again = %v", err)
	}
	if why := lost(t, to, anchors); why != "" {
		t.Errorf("the new store isn't trusted: %s", why)
	}
}
