package bolt

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, now func() time.Time) store.Store {
		db, err := Open(filepath.Join(t.TempDir(), "doorpost.db"), Options{Clock: now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	})
}
