//go:build unix

package cli

import (
	"cmp"
	"os"
	"path/filepath"
	"syscall"
)

// keepOwner gives a restored store to whom the replaced file (or, where there was none,
// the folder) belongs to: root restores, and another user's Caddy has to open it.
func keepOwner(store, kept string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(cmp.Or(kept, filepath.Dir(store)))
	if err != nil {
		return err
	}
	if was, ok := info.Sys().(*syscall.Stat_t); ok {
		return os.Chown(store, int(was.Uid), int(was.Gid))
	}
	return nil
}
