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

// create creates an empty store if the file doesn't exist. The file gets its name only when it is
// complete, so that a crash leaves none, and a truncated file is never taken for a new one.
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
	err = errors.Join(b.Update(writeSchema), b.Close())
	if err != nil {
		return err
	}
	if err = os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return nil // another process was faster
	} else if err != nil {
		err = os.Rename(tmp.Name(), path) // a file system without hard links
	}
	return errors.Join(err, syncDir(path))
}

// writeSchema turns an empty bbolt file into a store of Doorpost.
func writeSchema(tx *bolt.Tx) error {
	if _, err := tx.CreateBucket(expiryBucket); err != nil {
		return err
	}
	b, err := tx.CreateBucket(metaBucket)
	if err != nil {
		return err
	}
	return b.Put(schemaKey, fmt.Append(nil, schema))
}

// syncDir makes the names in path's folder durable, if the system supports it.
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

// opened is a store that was locked and checked.
type opened struct {
	bolt  *bolt.DB
	file  *os.File
	metas int // number of valid meta pages: 1 or 2
}

// openFile returns errLocked if the file stays locked for longer than wait, a *corruption,
// ErrNewer, or the system's error. It changes nothing.
func openFile(path string, wait time.Duration) (o opened, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = corruptf("%v", p)
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
			// bbolt calls this before it reads anything, so check here what it would trust.
			OpenFile: func(name string, _ int, _ os.FileMode) (*os.File, error) {
				if o.file, err = openLocked(name, wait); err != nil {
					return nil, err
				}
				o.metas, err = check(o.file, quickBudget)
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
		return o, corruptf("%v", err)
	case err != nil:
		return o, err
	}
	if err = o.bolt.View(checkSchema); err != nil {
		o.bolt.Close()
	}
	return o, err
}

const (
	// allocSize is how much the file grows at a time.
	allocSize = 1 << 20
	// minMapSize is the minimum size of the mapping where address space is plentiful. It costs no
	// memory.
	minMapSize = 16 << 30
	// minMapSize32 is the same for 32-bit systems.
	minMapSize32 = 256 << 20
)

// mapSize returns how much to map of the file at path. When the file outgrows its mapping, bbolt
// waits for all readers, while everybody else waits for it. A backup of a large store reads as
// long as it takes to copy the file, and would block everybody. So the file is mapped far beyond
// its end.
func mapSize(path string) int {
	if runtime.GOOS == "windows" { // there the file becomes as long as the mapping
		return 0
	}
	var size int64
	if info, err := os.Stat(path); err == nil {
		size = info.Size()
	}
	if strconv.IntSize < 64 {
		return int(min(max(minMapSize32, 2*size), 1<<30))
	}
	return int(max(minMapSize, 4*size))
}

// abandon closes a file in which bbolt may have panicked, or which it may have closed already.
func abandon(f *os.File) error {
	unlock(f)
	return f.Close()
}

// openLocked opens and locks the file with the name. It opens it again if Restore has replaced it
// meanwhile.
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

// Move moves a store that isn't open to another path on the same file system, which must not
// exist, and leaves a file that earlier releases refuse to open; see Moved. ErrHeld: the store is
// open.
func Move(from, to string) error {
	f, err := openLocked(from, time.Second)
	if errors.Is(err, errLocked) {
		return describe(from, err)
	} else if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Link(from, to); err != nil { // unlike Rename, it replaces nothing
		return err
	}
	return errors.Join(syncDir(to), writeMovedMarker(from))
}

// errLocked: another process has the file open.
var errLocked = errors.New("the file is locked")

// lock waits until the file is free. On systems without tryLock, only bbolt locks the file.
func lock(f *os.File, wait time.Duration) error {
	for end := time.Now().Add(wait); ; time.Sleep(20 * time.Millisecond) {
		if err := tryLock(f); !errors.Is(err, errLocked) || time.Now().After(end) {
			return err
		}
	}
}

// pidFile is the file beside the store that names the process using it. It is locked while that
// process runs, so that a file left by a crash misleads nobody.
type pidFile struct{ file *os.File }

func pidPath(path string) string { return path + ".pid" }

// writePIDFile records that this process has the store open. It only helps operators: if the file
// can't be written, the store works without it.
func writePIDFile(path string) *pidFile {
	f, err := os.OpenFile(pidPath(path), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return &pidFile{}
	}
	host, _ := os.Hostname()
	text := fmt.Sprintf("%d %s %s\n", os.Getpid(), host, time.Now().UTC().Format(time.RFC3339))
	err = lock(f, 200*time.Millisecond) // lockedBy may just be trying it
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(text), 0)
	}
	if err != nil {
		f.Close()
		return &pidFile{}
	}
	return &pidFile{file: f}
}

// release removes the file. Call it before the store's own lock is released, since otherwise it
// might remove the file of another process.
func (h *pidFile) release() {
	if h.file != nil {
		os.Remove(h.file.Name())
		h.file.Close()
	}
}

// lockedBy describes the process that has the store at path open, if it is known.
func lockedBy(path string) string {
	const somebody = "another process"
	f, err := os.OpenFile(pidPath(path), os.O_RDWR, 0)
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

// Restore replaces the store at path by a copy made by Backup. It returns the new name of the
// replaced file, "" if there was none. On any error the store stays as it was: ErrHeld if it is
// open, ErrCorrupt and ErrNewer if r isn't a complete store that this program can use.
func Restore(path string, r io.Reader) (kept string, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", fmt.Errorf("restore %s: %w", path, err)
	}
	present, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", fmt.Errorf("restore %s: %w", path, err)
	}
	defer present.Close()
	if err := lock(present, time.Second); err != nil {
		return "", describe(path, err)
	}
	info, err := present.Stat()
	if err != nil {
		return "", fmt.Errorf("restore %s: %w", path, err)
	}
	defer writePIDFile(path).release()
	empty := info.Size() == 0
	if empty {
		defer func() {
			if err != nil {
				os.Remove(path) // created for the lock
			}
		}()
	}
	tmp, err := receiveBackup(path, r)
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
		return kept, fmt.Errorf("restore %s: %w", path, err)
	}
	if err := syncDir(path); err != nil {
		return kept, fmt.Errorf("restore %s: %w", path, err)
	}
	return kept, nil
}

// createOver creates the file name, mode 0600, and replaces one that a kill has left. The caller
// holds the lock of the store beside it.
func createOver(name string) (*os.File, error) {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// receiveBackup writes r to a durable file beside path and returns its name, even with an error.
// Without an error, the file is complete and has a format that this program knows.
func receiveBackup(path string, r io.Reader) (name string, err error) {
	tmp, err := createOver(path + ".restore-new")
	if err != nil {
		return "", err
	}
	defer tmp.Close()
	if _, err = io.Copy(tmp, r); err != nil {
		return tmp.Name(), fmt.Errorf("read backup: %w", err)
	}
	if err = tmp.Sync(); err != nil {
		return tmp.Name(), fmt.Errorf("write backup: %w", err)
	}
	if _, err = check(tmp, noLimit); err == nil {
		var o opened
		if o, err = openFile(tmp.Name(), 0); err == nil {
			err = o.bolt.Close()
		}
	}
	if corrupt := new(corruption); errors.As(err, &corrupt) {
		err = fmt.Errorf("%w: the backup is not a whole store of Doorpost (%s)", ErrCorrupt, corrupt.why)
	}
	return tmp.Name(), err
}
