package bolt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// create makes an empty store where there is no file. It appears under its name only
// when it is whole: a crash on the way leaves none, and a file that is cut short is
// never mistaken for a new one.
func create(path string) error {
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	b, err := bolt.Open(tmp.Name(), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = errors.Join(b.Update(mark), b.Close())
	if err != nil {
		return err
	}
	if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return nil // another process was faster; its store is as good
	} else if err != nil {
		err = os.Rename(tmp.Name(), path) // a file system without links
	}
	return errors.Join(err, syncDir(path))
}

// mark makes an empty bbolt file a store of Doorpost.
func mark(tx *bolt.Tx) error {
	if _, err := tx.CreateBucket(expiryBucket); err != nil {
		return err
	}
	b, err := tx.CreateBucket(metaBucket)
	if err != nil {
		return err
	}
	return b.Put(schemaKey, fmt.Append(nil, schema))
}

// syncDir makes the names in path's folder durable, where the system does so.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// opened is a file that has been locked, checked and found to be a store.
type opened struct {
	bolt  *bolt.DB
	file  *os.File
	heads int // how many of its two heads are whole: 1 or 2
}

// openFile returns errLocked when the file is held for longer than wait, a *damage,
// ErrNewer, or what the system said. It changes nothing.
func openFile(path string, wait time.Duration) (o opened, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = damagedf("%v", p)
		}
		if err != nil && o.file != nil {
			abandon(o.file)
		}
	}()
	open := func(mapped int) {
		o.bolt, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout:         wait,
			FreelistType:    bolt.FreelistMapType,
			NoStatistics:    true,
			InitialMmapSize: mapped,
			// bbolt opens by this before it looks at anything: the place to check
			// what its own reading takes on trust.
			OpenFile: func(name string, _ int, _ os.FileMode) (*os.File, error) {
				if o.file, err = openLocked(name, wait); err != nil {
					return nil, err
				}
				o.heads, err = check(o.file, quickly)
				return o.file, err
			},
		})
	}
	if open(mapSize(path)); errors.Is(err, syscall.ENOMEM) { // such as a limit on address space
		open(0)
	}
	if err == nil {
		o.bolt.AllocSize = allocSize
	}
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return o, errLocked
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return o, damagedf("%v", err)
	case err != nil:
		return o, err
	}
	if err = o.bolt.View(markOf); err != nil {
		o.bolt.Close()
	}
	return o, err
}

const (
	// allocSize is by how much more than is needed the file grows at a time.
	allocSize = 1 << 20
	// leastMap is how much of the file is mapped at least, where addresses are plenty. It
	// costs no memory.
	leastMap = 16 << 30
	// leastMap32 is the same where they aren't.
	leastMap32 = 256 << 20
)

// mapSize returns how much to map of the file at path when it is opened. When it outgrows
// that, bbolt maps it anew, for which it waits until nobody reads, and everybody else waits
// for it: a backup of a large store, which reads for as long as a copy of the file takes,
// would keep everybody out. So the file is mapped far beyond its end.
func mapSize(path string) int {
	if runtime.GOOS == "windows" { // where the file becomes as long as the map
		return 0
	}
	var size int64
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	if strconv.IntSize < 64 {
		return int(min(max(leastMap32, 2*size), 1<<30))
	}
	return int(max(leastMap, 4*size))
}

// abandon closes a file that bbolt may have panicked on, or may have closed already.
func abandon(f *os.File) error {
	unlock(f)
	return f.Close()
}

// openLocked opens the file that has the name once the lock is ours: Restore may
// have put another in its place while we waited.
func openLocked(name string, wait time.Duration) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err = lock(f, wait); err == nil {
			var ours, named os.FileInfo
			if ours, err = f.Stat(); err == nil {
				named, err = os.Stat(name)
			}
			if err == nil && os.SameFile(ours, named) {
				return f, nil
			}
		}
		f.Close()
		if err != nil {
			return nil, err
		}
	}
}

// Move moves a store that isn't open to another path on the same file system, where none
// may be yet, and leaves there what an earlier release refuses to open; see Moved. ErrHeld: it
// is open.
func Move(from, to string) error {
	f, err := openLocked(from, time.Second)
	if errors.Is(err, errLocked) {
		return explain(from, err)
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Link(from, to); err != nil { // unlike Rename, it replaces nothing
		return err
	}
	return errors.Join(syncDir(to), leaveMoved(from))
}

// errLocked: somebody else has the file open.
var errLocked = errors.New("the file is locked")

// lock waits for the file to be free. Where tryLock can't tell, bbolt's own lock does.
func lock(f *os.File, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		if err := tryLock(f); !errors.Is(err, errLocked) || time.Now().After(end) {
			return err
		}
	}
}

// holder is the file beside the store that says who holds it. It is locked as long
// as it tells the truth, so one that a crash left behind misleads nobody.
type holder struct{ file *os.File }

func holderPath(path string) string { return path + ".pid" }

// hold says that this process holds the store. It is help for people: where it
// can't be written, the store works without.
func hold(path string) *holder {
	f, err := os.OpenFile(holderPath(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &holder{}
	}
	host, _ := os.Hostname()
	text := fmt.Sprintf("%d %s %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	err = lock(f, 200*time.Millisecond) // somebody may just be trying it, in heldBy
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		f.Close()
		return &holder{}
	}
	return &holder{file: f}
}

// release comes before the store's own lock is given back, or another process's
// file would go.
func (h *holder) release() {
	if h.file != nil {
		os.Remove(h.file.Name())
		h.file.Close()
	}
}

// heldBy names the process that holds the store at path, as far as it can be told.
func heldBy(path string) string {
	const somebody = "another process"
	f, err := os.OpenFile(holderPath(path), os.O_RDWR, 0)
	if err != nil {
		return somebody
	}
	defer f.Close()
	if !errors.Is(tryLock(f), errLocked) {
		return somebody
	}
	text, err := io.ReadAll(io.LimitReader(f, 512))
	fields := strings.Fields(string(text))
	if err != nil || len(fields) != 3 {
		return somebody
	}
	return fmt.Sprintf("process %s (on %s, since %s)", fields[0], fields[1], fields[2])
}

// Restore puts a copy that Backup made in the place of the store at path, and returns
// the name under which the replaced file is kept, "" if there was none. Whatever goes
// wrong, the store stays what it was: ErrHeld when it is open, ErrCorrupt and ErrNewer
// when r isn't a whole store that this program can use.
func Restore(path string, r io.Reader) (kept string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("restoring %s: %w", path, err)
	}
	present, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("restoring %s: %w", path, err)
	}
	defer present.Close()
	if err := lock(present, time.Second); err != nil {
		return "", explain(path, err)
	}
	info, err := present.Stat()
	if err != nil {
		return "", fmt.Errorf("restoring %s: %w", path, err)
	}
	defer hold(path).release()
	empty := info.Size() == 0
	if empty {
		defer func() {
			if err != nil {
				os.Remove(path) // ours, made for the lock
			}
		}()
	}
	tmp, err := receive(path, r)
	defer os.Remove(tmp)
	if err != nil {
		return "", fmt.Errorf("nothing was changed: %w", err)
	}
	if !empty {
		kept = path + ".before-restore-" + time.Now().UTC().Format("20060102T150405.000Z")
		if err := os.Link(path, kept); err != nil {
			return "", fmt.Errorf("nothing was changed, since the present store can't be kept as %s (%w): move it away and restore again", kept, err)
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return kept, fmt.Errorf("restoring %s: %w", path, err)
	}
	if err := syncDir(path); err != nil {
		return kept, fmt.Errorf("restoring %s: %w", path, err)
	}
	return kept, nil
}

// createOver makes the file name, mode 0600, in the place of one that a kill has left. The caller
// holds the store beside it.
func createOver(name string) (*os.File, error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// receive writes r to a durable file beside path and returns its name, also with an
// error. It is whole and of a format that this program knows when there is none.
func receive(path string, r io.Reader) (name string, err error) {
	tmp, err := createOver(path + ".restore-new")
	if err != nil {
		return "", err
	}
	defer tmp.Close()
	if _, err = io.Copy(tmp, r); err != nil {
		return tmp.Name(), fmt.Errorf("reading the backup: %w", err)
	}
	if err = tmp.Sync(); err != nil {
		return tmp.Name(), fmt.Errorf("writing the backup: %w", err)
	}
	if _, err = check(tmp, everything); err == nil {
		var o opened
		if o, err = openFile(tmp.Name(), 0); err == nil {
			err = o.bolt.Close()
		}
	}
	if hurt := new(damage); errors.As(err, &hurt) {
		err = fmt.Errorf("%w: the backup is not a whole store of Doorpost (%s)", ErrCorrupt, hurt.why)
	}
	return tmp.Name(), err
}
