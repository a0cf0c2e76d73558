//go:build unix

package cli

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A store that root restores belongs to whom the replaced one did, or, without one, to
// the folder's owner. Who isn't root can give nothing away and keeps what is theirs.
func TestKeepOwner(t *testing.T) {
	me := uint32(os.Geteuid())
	caddys := me
	if me == 0 {
		caddys = 1234
	}
	dir := t.TempDir()
	store, kept := filepath.Join(dir, "doorpost.db"), filepath.Join(dir, "kept")
	for _, name := range []string{store, kept} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range []struct{ kept, owned string }{{"", dir}, {kept, kept}} {
		if err := os.Chown(store, int(me), -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(one.owned, int(caddys), -1); err != nil {
			t.Fatal(err)
		}
		if err := keepOwner(store, one.kept); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(store)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != caddys {
			t.Errorf("keepOwner(kept %q): the store belongs to %d; want %d", one.kept, uid, caddys)
		}
		if err := os.Chown(one.owned, int(me), -1); err != nil {
			t.Fatal(err)
		}
	}
}
