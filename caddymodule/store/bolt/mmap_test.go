package bolt

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// A backup reads as long as it takes to copy the file. Meanwhile the store grows far
// beyond its first mapping, and nobody waits.
func TestALongReadBlocksNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doorpost.db")
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	copying, copied, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.view(t.Context(), func(*bolt.Tx) error {
			close(copying)
			<-copied
			return nil
		})
	}()
	<-copying
	k := store.Key{Firm: "example", Bucket: "records", ID: "1"}
	wrote := make(chan error, 1)
	go func() {
		for range 8 {
			if err := db.Apply(t.Context(), store.Put(k, make([]byte, 8<<20), time.Time{})); err != nil {
				wrote <- err
				return
			}
		}
		_, err := db.Get(t.Context(), k)
		wrote <- err
	}()
	select {
	case err = <-wrote:
	case <-time.After(30 * time.Second):
		t.Error("a writer waits for the one who reads")
	}
	if err != nil {
		t.Error(err)
	}
	close(copied)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 128<<20 {
		t.Errorf("the file: %v, %v; want no more than what was written, and a little room", info.Size(), err)
	}
}
