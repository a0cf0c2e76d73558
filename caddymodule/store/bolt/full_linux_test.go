package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func init() { roles["tmpfs"] = playTmpfs }

// TestTmpfsFull fills a real file system of one megabyte, mounted in a private namespace.
// On a system without user namespaces it is skipped, with a log line; TestDiskFull
// doesn't need them.
func TestTmpfsFull(t *testing.T) {
	dir := t.TempDir()
	child := play(t, "tmpfs", dir)
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	err := child.Run()
	switch {
	case errors.Is(err, syscall.EPERM), err != nil && child.ProcessState.ExitCode() == noMount:
		t.Logf("no file system can be mounted here (%v)", err)
	case err != nil:
		t.Error(err)
	}
}

const noMount = 77

func playTmpfs(args []string) error {
	dir := args[0]
	if err := errors.Join(
		syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""),
		syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m")); err != nil {
		os.Exit(noMount)
	}
	db, err := Open(filepath.Join(dir, "doorpost.db"), Options{Sweep: time.Hour})
	if err != nil {
		return err
	}
	f := &filler{db: db, there: map[string]string{}}
	rubbish := filepath.Join(dir, "rubbish")
	for round := range 3 {
		for i := range 20 {
			if err := f.put(fmt.Sprintf("round %d %03d", round, i)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(rubbish, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("filling the disk: %v; want that it is full", err)
		}
		failed := 0
		for i := range 100 {
			err := f.put(fmt.Sprintf("full %d %03d", round, i))
			if err != nil && !errors.Is(err, store.ErrUnavailable) {
				return err
			}
			if errors.Is(err, syscall.ENOSPC) {
				failed++
			}
		}
		if failed == 0 {
			return errors.New("the disk is full, and 100 Applies went through")
		}
		if err := f.allThere(); err != nil {
			return err
		}
		if err := os.Remove(rubbish); err != nil {
			return err
		}
		for id := range f.there {
			if err := db.Apply(context.Background(), store.Delete(key(id))); err != nil {
				return fmt.Errorf("with room again, Delete = %w", err)
			}
			delete(f.there, id)
		}
	}
	if _, err := check(db.file, noLimit); err != nil {
		return err
	}
	return errors.Join(f.allThere(), db.bolt.View(indexed), db.Close())
}
