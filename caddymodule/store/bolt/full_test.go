//go:build linux || darwin

package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func init() { roles["full"] = playFull }

// TestDiskFull runs in its own process, with a limit on the size of files: first the file
// can't grow, then, page by page, less and less of it can be written, down to the first
// byte.
func TestDiskFull(t *testing.T) {
	var said bytes.Buffer
	full := play(t, "full", newPath(t))
	full.Stderr = &said
	if err := full.Run(); err != nil {
		t.Errorf("%v\n%s", err, &said)
	}
	t.Logf("%s", bytes.TrimSpace(said.Bytes()))
}

// room limits the size of files; the returned function lifts the limit.
func room(bytes uint64) (lift func() error, err error) {
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		return nil, err
	}
	// The signal would end the process; if it is ignored, writes fail instead.
	signal.Ignore(syscall.SIGXFSZ)
	lift = func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was) }
	return lift, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: was.Max})
}

func playFull(args []string) error {
	path := args[0]
	var log bytes.Buffer
	db, err := Open(path, Options{Log: logTo(&log), Sweep: time.Hour})
	if err != nil {
		return err
	}
	f := &filler{db: db, there: map[string]string{}}
	for i := range 100 {
		if err := f.put(fmt.Sprintf("base %03d", i)); err != nil {
			return err
		}
	}
	size := func() uint64 {
		info, err := os.Stat(path)
		if err != nil {
			panic(err)
		}
		return uint64(info.Size())
	}
	// No room to grow, and then less and less within the file.
	step := uint64(4*os.Getpagesize() + 512)
	failed, rounds := 0, 0
	for limit := size(); ; limit -= min(limit, step) {
		rounds++
		n, err := f.under(limit)
		if err != nil {
			return fmt.Errorf("with room for %d bytes: %w", limit, err)
		}
		failed += n
		if limit == 0 {
			break
		}
	}
	if failed < 3 {
		return fmt.Errorf("%d Applies failed for want of room; want more, to show anything", failed)
	}
	says := log.String()
	if a, b := strings.Count(says, "can't be written"), strings.Count(says, "can be written again"); a == 0 || a != b || a > rounds {
		return fmt.Errorf("the log says %d times that it can't be written, and %d times that it can again, in %d rounds:\n%s", a, b, rounds, says)
	}
	fmt.Fprintf(os.Stderr, "%d Applies failed and %d went through in a file of %d bytes\n", failed, len(f.there), size())
	if _, err := check(db.file, noLimit); err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	if f.db, err = Open(path, Options{}); err != nil {
		return err
	}
	if err := f.allThere(); err != nil {
		return fmt.Errorf("opened again: %w", err)
	}
	return errors.Join(f.db.bolt.View(indexed), f.db.Close())
}

// filler writes to a store until it fails, and records what was acknowledged.
type filler struct {
	db    *DB
	there map[string]string
	next  int
}

func (f *filler) put(id string) error {
	value := strings.Repeat(id, 300)
	err := f.db.Apply(context.Background(), store.Put(key(id), []byte(value), time.Now().Add(time.Hour)))
	if err == nil {
		f.there[id] = value
	}
	return err
}

// under writes with a limited file size, and checks that everything works after lifting
// the limit. It returns how many Applies failed.
func (f *filler) under(limit uint64) (failed int, err error) {
	lift, err := room(limit)
	if err != nil {
		return 0, err
	}
	ctx := context.Background()
	for range 4 {
		// An Apply that writes nothing succeeds on a full disk.
		if err := f.db.Apply(ctx, store.Create(key("base 001"), nil, time.Time{})); !errors.Is(err, store.ErrConflict) {
			return failed, errors.Join(lift(), fmt.Errorf("Apply with a conflict = %w", err))
		}
		f.next++
		id := fmt.Sprintf("new %04d", f.next)
		if err := f.put(id); errors.Is(err, store.ErrUnavailable) {
			failed++
			if _, err := f.db.Get(ctx, key(id)); err != store.ErrNotFound {
				return failed, errors.Join(lift(), fmt.Errorf("the Apply failed; its record: %v", err))
			}
		} else if err != nil {
			return failed, errors.Join(lift(), err)
		}
	}
	if limit == 0 {
		err := f.db.Apply(ctx, store.Delete(key("base 000")))
		if !errors.Is(err, store.ErrUnavailable) {
			return failed, errors.Join(lift(), fmt.Errorf("Delete = %v; want ErrUnavailable", err))
		}
	}
	whileFull := f.allThere()
	if err := errors.Join(lift(), whileFull); err != nil {
		return failed, err
	}
	f.next++
	if err := f.put(fmt.Sprintf("after %04d", f.next)); err != nil {
		return failed, fmt.Errorf("with room again, Apply = %w", err)
	}
	return failed, f.allThere()
}

// allThere reads everything that was acknowledged.
func (f *filler) allThere() error {
	for id, value := range f.there {
		if rec, err := f.db.Get(context.Background(), key(id)); err != nil || string(rec.Value) != value {
			return fmt.Errorf("Get(%s) = %d bytes, %v; want %d", id, len(rec.Value), err, len(value))
		}
	}
	list, err := f.db.Scan(context.Background(), "firm", "bucket", "", "", 1e6)
	if err != nil || len(list) != len(f.there) {
		return fmt.Errorf("Scan = %d records, %v; want %d", len(list), err, len(f.there))
	}
	return nil
}
