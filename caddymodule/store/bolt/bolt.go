// Package bolt implements the store in one file for one process, using bbolt.
//
// The file has a bucket for each firm, in it a bucket for each name, and in it the records. An
// index of expiries serves the sweeper. Each record has a checksum of its key and value, so that
// a damaged file doesn't give a wrong answer.
//
// Concurrent Applies are committed together: a single one doesn't wait, and many share the two
// fsyncs of a commit. Readers never wait for a commit.
package bolt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Errors that callers of Open and Restore handle.
var (
	// ErrHeld: another process has the file open; the message says which one.
	ErrHeld = errors.New("the store is in use")
	// ErrCorrupt: the file is damaged, or never was a store of Doorpost. Nothing was changed;
	// the message has the path and what to do.
	ErrCorrupt = errors.New("the store is damaged")
	// ErrNewer: a newer Doorpost wrote the file. Nothing was changed.
	ErrNewer = errors.New("the store is from a newer Doorpost")
)

// Options of Open. The zero value is right for a server.
type Options struct {
	Clock func() time.Time // decides what has expired; nil: time.Now
	Log   *slog.Logger     // corruption, failed writes, and when writing works again; nil: no log
	Wait  time.Duration    // how long to wait for a process that has the file open; 0: one second
	Sweep time.Duration    // how often to delete expired records; 0: ten seconds
}

// DB is an open store. It implements store.Store and is safe for concurrent use.
type DB struct {
	bolt    *bolt.DB
	file    *os.File // used by bbolt; it carries the lock
	path    string
	pidFile *pidFile
	clock   func() time.Time
	log     *slog.Logger

	queue  queue
	failed bool // the last commit failed; used only by the writer

	closed     atomic.Bool
	beginning  sync.Mutex                 // held while a read transaction begins or ends
	corruption atomic.Pointer[corruption] // once set, nothing is written any more
	stuck      chan struct{}              // closed when bbolt hangs, so that nothing can be read either
	stop       chan struct{}              // closed by Close
	tasks      sync.WaitGroup             // the writer and the sweeper
}

var _ store.Store = (*DB)(nil)

// Open opens the store at path. If it doesn't exist, Open creates it (mode 0600) and its folder
// (0700). It wraps ErrHeld, ErrCorrupt and ErrNewer in an explanation for operators. The caller
// must Close the DB.
func Open(path string, o Options) (*DB, error) {
	if err := create(path); err != nil {
		return nil, fmt.Errorf("create store %s: %w", path, err)
	}
	f, err := openFile(path, cmp.Or(o.Wait, time.Second))
	if err != nil {
		return nil, describe(path, err)
	}
	db := &DB{
		bolt:    f.bolt,
		file:    f.file,
		path:    path,
		pidFile: writePIDFile(path),
		clock:   o.Clock,
		log:     o.Log,
		queue:   newQueue(),
		stuck:   make(chan struct{}),
		stop:    make(chan struct{}),
	}
	if db.clock == nil {
		db.clock = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if err := f.file.Chmod(0o600); err != nil {
		db.log.Warn("store may be readable by other users of this machine", "path", path, "error", err)
	}
	if f.metas < 2 {
		db.log.Warn("one of the two meta pages of the store is damaged; the other is used, and the last change may be missing", "path", path)
	}
	db.tasks.Go(db.write)
	db.tasks.Go(func() { db.sweep(cmp.Or(o.Sweep, 10*time.Second)) })
	return db, nil
}

// describe tells operators what is wrong with the file at path, and what to do.
func describe(path string, err error) error {
	var corrupt *corruption
	switch {
	case errors.Is(err, errLocked):
		return fmt.Errorf("%w: %s is held by %s: stop it or give this one another path", ErrHeld, path, lockedBy(path))
	case errors.As(err, &corrupt):
		return fmt.Errorf("%w: %s (%s): bring back a backup with \"caddy doorpost restore FILE\", or move the file away, start, and say \"caddy doorpost store accept\" to begin with an empty store", ErrCorrupt, path, corrupt.why)
	default:
		return fmt.Errorf("open store %s: %w", path, err)
	}
}

// Close completes accepted changes and closes the file. Later calls of any method return
// store.ErrUnavailable; a second Close does nothing.
func (db *DB) Close() error {
	if db.closed.Swap(true) {
		return nil
	}
	close(db.stop)
	db.queue.close()
	done := make(chan struct{})
	go func() { db.tasks.Wait(); close(done) }()
	select {
	case <-done:
	case <-db.stuck: // the writer may hang in bbolt
	}
	db.pidFile.release()
	if db.corruption.Load() != nil {
		// bbolt's Close might wait forever for a lock that was held during a panic. Its mapping
		// stays until the process ends.
		return abandon(db.file)
	}
	return db.bolt.Close()
}

// Get implements store.Store.
func (db *DB) Get(ctx context.Context, k store.Key) (rec store.Record, err error) {
	err = db.view(ctx, func(tx *bolt.Tx) error {
		rec, err = db.find(tx, k)
		return err
	})
	if err != nil {
		return store.Record{}, err
	}
	return rec, nil
}

// find returns a copy of the record, or store.ErrNotFound.
func (db *DB) find(tx *bolt.Tx, k store.Key) (store.Record, error) {
	raw := lookup(tx, k)
	if raw == nil {
		return store.Record{}, store.ErrNotFound
	}
	value, expires, err := decode(k, raw)
	if err != nil {
		return store.Record{}, err
	}
	if expired(expires, db.clock()) {
		return store.Record{}, store.ErrNotFound
	}
	return store.Record{Key: k, Value: append([]byte{}, value...), Expires: fromMilli(expires)}, nil
}

// Scan implements store.Store.
func (db *DB) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	var found []store.Record
	err := db.view(ctx, func(tx *bolt.Tx) error {
		b := bucketOf(tx, firm, bucket)
		if b == nil {
			return nil
		}
		c, now := b.Cursor(), db.clock()
		id, raw := c.Seek([]byte(max(prefix, after)))
		if id != nil && string(id) == after {
			id, raw = c.Next()
		}
		for ; len(found) < limit && id != nil && bytes.HasPrefix(id, []byte(prefix)); id, raw = c.Next() {
			if err := ctx.Err(); err != nil {
				return unavailable(err)
			}
			k := store.Key{Firm: firm, Bucket: bucket, ID: string(id)}
			value, expires, err := decode(k, raw)
			if err != nil {
				return err
			}
			if !expired(expires, now) {
				found = append(found, store.Record{Key: k, Value: append([]byte{}, value...), Expires: fromMilli(expires)})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// Buckets returns a Key without ID for each bucket of each firm.
func (db *DB) Buckets(ctx context.Context) (list []store.Key, err error) {
	err = db.view(ctx, func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			firm, ok := strings.CutPrefix(string(name), firmPrefix)
			if !ok {
				return nil
			}
			return b.ForEachBucket(func(bucket []byte) error {
				list = append(list, store.Key{Firm: firm, Bucket: string(bucket)})
				return nil
			})
		})
	})
	return list, err
}

// unavailable returns an error for a call that wasn't carried out.
func unavailable(why error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, why) }

var errClosed = errors.New("the store has been closed")

// view runs fn in a read transaction. If the file was damaged while open, bbolt panics or reads
// beyond its mapping; view turns that into an error.
func (db *DB) view(ctx context.Context, fn func(*bolt.Tx) error) (err error) {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := db.begin()
	if err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			err = db.markCorrupt(p)
		}
		db.end(tx)
	}()
	return db.wrapCorruption(fn(tx))
}

// end ends a read transaction. It excludes begin, which may panic between the check of db.stuck
// and Rollback.
func (db *DB) end(tx *bolt.Tx) {
	db.beginning.Lock()
	defer db.beginning.Unlock()
	select {
	case <-db.stuck: // Rollback would wait for a lock that is never released
	default:
		_ = tx.Rollback() // can't fail: the transaction has begun, and only end ends it
	}
}

// wrapCorruption logs the corruption of a record, and turns it into the error for callers. Other
// errors stay the same.
func (db *DB) wrapCorruption(err error) error {
	if !errors.As(err, new(*corruption)) || errors.Is(err, ErrCorrupt) {
		return err
	}
	db.log.Error("a record of the store is damaged", "path", db.path, "error", err)
	return unavailable(fmt.Errorf("%w: %s: %w", ErrCorrupt, db.path, err))
}

// begin starts a read transaction. If bbolt panics here, it keeps its locks, so later calls
// return an error instead of waiting for them.
func (db *DB) begin() (tx *bolt.Tx, err error) {
	db.beginning.Lock()
	defer db.beginning.Unlock()
	if db.closed.Load() {
		return nil, unavailable(errClosed)
	}
	select {
	case <-db.stuck:
		return nil, db.corruptErr()
	default:
	}
	defer func() {
		if p := recover(); p != nil {
			err = db.markCorrupt(p)
			close(db.stuck)
		}
	}()
	tx, err = db.bolt.Begin(false)
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = errClosed
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return tx, nil
}

// markCorrupt records that the file's structure is damaged. From now on nothing is written, so
// that the damage doesn't spread; reading goes on.
func (db *DB) markCorrupt(p any) error {
	if db.corruption.CompareAndSwap(nil, &corruption{why: fmt.Sprint(p)}) {
		db.log.Error("the store is damaged; nothing is written to it any more", "path", db.path, "error", p, "stack", string(debug.Stack()))
	}
	return db.corruptErr()
}

// corruptErr returns the error of calls after markCorrupt.
func (db *DB) corruptErr() error { return unavailable(describe(db.path, db.corruption.Load())) }

// Replaced returns an error if the path of the open store leads to no file or to another one, so
// that the next start would not find what is written now.
func (db *DB) Replaced() error {
	named, err := os.Stat(db.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the file of the store, %s, was moved away or deleted while it was open", db.path)
	case err != nil:
		return nil // unknown
	}
	if ours, err := db.file.Stat(); err == nil && !os.SameFile(ours, named) {
		return fmt.Errorf("another file was put in the place of the store %s while it was open", db.path)
	}
	return nil
}

// Backup writes a consistent, checked copy of the store to w; Restore accepts it. It first
// copies to a temporary file beside the store, so that a slow w blocks nobody. If the system
// allows, that file has no name, so that a kill leaves none behind.
func (db *DB) Backup(w io.Writer) error {
	tmp, err := os.CreateTemp(filepath.Dir(db.path), filepath.Base(db.path)+".backup-*")
	if err != nil {
		return fmt.Errorf("back up %s: %w", db.path, err)
	}
	if os.Remove(tmp.Name()) != nil { // Windows can't remove an open file
		defer os.Remove(tmp.Name())
	}
	defer tmp.Close()
	err = db.view(context.Background(), func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(tmp)
		return err
	})
	if err == nil {
		_, err = check(tmp, noLimit)
	}
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = io.Copy(w, tmp)
	}
	if err != nil {
		return fmt.Errorf("back up %s: %w", db.path, err)
	}
	return nil
}

// SaveCopy saves a copy of the store beside it, under the store's name with the ending, and
// returns that name. It doesn't replace an existing file: the ending then continues with ".2",
// or the first free number.
func (db *DB) SaveCopy(ending string) (name string, err error) {
	name = db.path + ending
	for n := 2; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", fmt.Errorf("save a copy of %s: %w", db.path, err)
		}
		name = fmt.Sprintf("%s%s.%d", db.path, ending, n)
	}
	tmp, err := createOver(db.path + ending + ".new")
	if err != nil {
		return "", fmt.Errorf("save a copy of %s: %w", db.path, err)
	}
	defer os.Remove(tmp.Name())
	err = db.Backup(tmp)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err == nil {
		err = syncDir(name)
	}
	if err != nil {
		return "", fmt.Errorf("save a copy of %s: %w", db.path, err)
	}
	return name, nil
}
