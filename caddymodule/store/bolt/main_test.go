package bolt

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

var (
	seed  = flag.Uint64("seed", 1, "seed of the tests that try random moments and places")
	kills = flag.Int("kills", 20, "how often TestKill kills")
	flips = flag.Int("flips", 300, "in how many places TestFlippedBits damages the file")
)

// Some tests need a process of their own, to kill it or to fill its disk. They run the
// test binary again with a role.
const roleVariable = "DOORPOST_BOLT_TEST_ROLE"

var roles = map[string]func(args []string) error{
	"writer": playWriter,
	"holder": playHolder,
}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		if err := roles[role](os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play prepares a process with a role.
func play(t *testing.T, role string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	return cmd
}

// openAt opens the store at path and closes it when the test ends.
func openAt(t *testing.T, path string, o Options) *DB {
	t.Helper()
	db, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "doorpost.db") }

func key(id string) store.Key { return store.Key{Firm: "firm", Bucket: "bucket", ID: id} }

func put(t *testing.T, db *DB, id, value string, expires time.Time) {
	t.Helper()
	if err := db.Apply(t.Context(), store.Put(key(id), []byte(value), expires)); err != nil {
		t.Fatalf("Apply(put %s) = %v", id, err)
	}
}

// want checks that each ID has the value; "-": no value.
func want(t *testing.T, db *DB, value string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		rec, err := db.Get(context.Background(), key(id))
		switch {
		case value == "-" && err == store.ErrNotFound:
		case err != nil || string(rec.Value) != value:
			t.Errorf("Get(%s) = %q, %v; want %q", id, rec.Value, err, value)
		}
	}
}

// sound checks the file with our check and bbolt's.
func sound(t *testing.T, db *DB) {
	t.Helper()
	if _, err := check(db.file, noLimit); err != nil {
		t.Errorf("check: %v", err)
	}
	err := db.bolt.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt's check: %v", err)
		}
		return indexed(tx)
	})
	if err != nil {
		t.Error(err)
	}
}

// indexed compares the index with the records, both ways.
func indexed(tx *bolt.Tx) error {
	entries := map[string]bool{}
	index := tx.Bucket(expiryBucket)
	if err := index.ForEach(func(k, _ []byte) error { entries[string(k)] = true; return nil }); err != nil {
		return err
	}
	err := tx.ForEach(func(firm []byte, b *bolt.Bucket) error {
		name, ok := strings.CutPrefix(string(firm), firmPrefix)
		if !ok {
			return nil
		}
		return b.ForEachBucket(func(bucket []byte) error {
			return b.Bucket(bucket).ForEach(func(id, raw []byte) error {
				expires := int64(binary.BigEndian.Uint64(raw[1:]))
				entry := indexKey(expires, store.Key{Firm: name, Bucket: string(bucket), ID: string(id)})
				if expires != 0 && !entries[string(entry)] {
					return fmt.Errorf("%q is not in the index", entry)
				}
				delete(entries, string(entry))
				return nil
			})
		})
	})
	if err == nil && len(entries) > 0 {
		return fmt.Errorf("%d entries of the index are of no record", len(entries))
	}
	return err
}

// clock is a clock for tests.
type clock struct{ nanos atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.nanos.Store(time.Now().Truncate(time.Millisecond).UnixNano())
	return c
}

func (c *clock) now() time.Time { return time.Unix(0, c.nanos.Load()) }

func (c *clock) pass(d time.Duration) { c.nanos.Add(int64(d)) }
