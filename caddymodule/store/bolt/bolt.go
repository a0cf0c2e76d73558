// Package bolt keeps the store in one file for one process, on bbolt.
//
// Inside the file are a bucket per firm, in it a bucket per name, in it the records;
// and, for the sweeper, an index of what ends when. Each record carries a checksum
// over its key and value, so that a damaged file is told from a right answer.
//
// Applies that wait at the same time are committed together: a lone one waits for
// nobody, and a crowd shares the two fsyncs that a commit costs. Readers never wait
// for a commit.
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
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// The decisions that callers of Open and Restore make.
var (
	// ErrHeld: another process has the file open; the message says which one.
	ErrHeld = errors.New("the store is in use")
	// ErrCorrupt: the file is damaged, or was never a store of Doorpost. Nothing has
	// been changed; the message has the path and what to do.
	ErrCorrupt = errors.New("the store is damaged")
	// ErrNewer: a newer Doorpost wrote the file. Nothing has been changed.
	ErrNewer = errors.New("the store is from a newer Doorpost")
)

// Options are what Open may be told. The zero value is right for a server.
type Options struct {
	Clock func() time.Time // decides what has expired; time.Now when nil
	Log   *slog.Logger     // damage, a disk that can't be written, and when it can again; nobody when nil
	Wait  time.Duration    // for the process that holds the file to let go; 0: one second
	Sweep time.Duration    // between two looks for what has expired; 0: ten seconds
}

// DB is an open store. It implements store.Store and is safe for use by many goroutines.
type DB struct {
	bolt   *bolt.DB
	file   *os.File // the one that bolt writes to, and that carries the lock
	path   string
	holder *holder
	clock  func() time.Time
	log    *slog.Logger

	queue  queue
	failed bool // whether the last commit failed; the writer's own

	closed    atomic.Bool
	beginning sync.Mutex             // held while a read begins or ends
	damage    atomic.Pointer[damage] // once set, nothing is written any more
	dead      chan struct{}          // closed when bbolt itself is stuck, and nothing can be read either
	stop      chan struct{}          // closed by Close
	tasks     sync.WaitGroup         // the writer and the sweeper
}

var _ store.Store = (*DB)(nil)

// Open opens the store at path, and makes it (mode 0600), and its folder (0700), where
// there is none. It returns ErrHeld, ErrCorrupt or ErrNewer wrapped in what an operator
// needs to know. The caller owns the DB and has to Close it.
func Open(path string, o Options) (*DB, error) {
	if err := create(path); err != nil {
		return nil, fmt.Errorf("making the store %s: %w", path, err)
	}
	f, err := openFile(path, cmp.Or(o.Wait, time.Second))
	if err != nil {
		return nil, explain(path, err)
	}
	db := &DB{
		bolt:   f.bolt,
		file:   f.file,
		path:   path,
		holder: hold(path),
		clock:  o.Clock,
		log:    o.Log,
		queue:  newQueue(),
		dead:   make(chan struct{}),
		stop:   make(chan struct{}),
	}
	if db.clock == nil {
		db.clock = time.Now
	}
	if db.log == nil {
		db.log = slog.New(slog.DiscardHandler)
	}
	if err := f.file.Chmod(0o600); err != nil {
		db.log.Warn("others on this machine may read the store", "path", path, "error", err)
	}
	if f.heads < 2 {
		db.log.Warn("one of the two heads of the store is damaged; the other is used, and the last change may be missing", "path", path)
	}
	db.tasks.Go(db.write)
	db.tasks.Go(func() { db.sweep(cmp.Or(o.Sweep, 10*time.Second)) })
	return db, nil
}

// explain tells the operator what is wrong with the file at path, and what to do.
func explain(path string, err error) error {
	var hurt *damage
	switch {
	case errors.Is(err, errLocked):
		return fmt.Errorf("%w: %s is held by %s: stop it or give this one another path", ErrHeld, path, heldBy(path))
	case errors.As(err, &hurt):
		return fmt.Errorf("%w: %s (%s): bring back a backup with \"caddy doorpost restore FILE\", or move the file away, start, and say \"caddy doorpost store accept\" to begin with an empty store", ErrCorrupt, path, hurt.why)
	default:
		return fmt.Errorf("opening the store %s: %w", path, err)
	}
}

// Close finishes what has been accepted and lets go of the file. Later calls of any
// method return store.ErrUnavailable; a second Close does nothing.
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
	case <-db.dead: // the writer may hang in bbolt for good
	}
	db.holder.release()
	if db.damage.Load() != nil {
		// bbolt's Close might wait for ever for a lock that went down with a
		// panic. Its mapping stays until the process ends.
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

// find returns the caller's own copy of the record, or store.ErrNotFound.
func (db *DB) find(tx *bolt.Tx, k store.Key) (store.Record, error) {
	raw := lookup(tx, k)
	if raw == nil {
		return store.Record{}, store.ErrNotFound
	}
	value, expires, err := decode(k, raw)
	if err != nil {
		return store.Record{}, err
	}
	if over(expires, db.clock()) {
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
			if !over(expires, now) {
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

// unavailable says that what was asked for was not done, and why.
func unavailable(why error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, why) }

var errClosed = errors.New("the store has been closed")

// view runs fn in a read transaction. bbolt panics, or reads beyond what is mapped,
// where the file was damaged while it is open; here that becomes an error.
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
			err = db.hurt(p)
		}
		db.end(tx)
	}()
	return db.blame(fn(tx))
}

// end ends a read. It keeps out those who begin, since one of them may panic between the look at
// db.dead and the end.
func (db *DB) end(tx *bolt.Tx) {
	db.beginning.Lock()
	defer db.beginning.Unlock()
	select {
	case <-db.dead: // it would wait for a lock that nobody gives back
	default:
		_ = tx.Rollback() // can't fail: it has begun, and nobody else ends it
	}
}

// blame makes of a damaged record what operators and callers are told; other errors
// are what they were.
func (db *DB) blame(err error) error {
	if !errors.As(err, new(*damage)) || errors.Is(err, ErrCorrupt) {
		return err
	}
	db.log.Error("a record of the store is damaged", "path", db.path, "error", err)
	return unavailable(fmt.Errorf("%w: %s: %w", ErrCorrupt, db.path, err))
}

// begin starts a read. Should bbolt panic here, it keeps its locks for ever: whoever
// comes later is turned away before it waits for them.
func (db *DB) begin() (tx *bolt.Tx, err error) {
	db.beginning.Lock()
	defer db.beginning.Unlock()
	if db.closed.Load() {
		return nil, unavailable(errClosed)
	}
	select {
	case <-db.dead:
		return nil, db.damaged()
	default:
	}
	defer func() {
		if p := recover(); p != nil {
			err = db.hurt(p)
			close(db.dead)
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

// hurt notes that the file's structure is damaged: from now on nothing is written,
// so that the damage doesn't spread; what can be read is read on.
func (db *DB) hurt(p any) error {
	if db.damage.CompareAndSwap(nil, &damage{why: fmt.Sprint(p)}) {
		db.log.Error("the store is damaged; nothing is written to it any more", "path", db.path, "error", p, "stack", string(debug.Stack()))
	}
	return db.damaged()
}

// damaged is what callers get once hurt has been called.
func (db *DB) damaged() error { return unavailable(explain(db.path, db.damage.Load())) }

// Replaced returns an error while the path of the open store leads to no file, or to
// another one: the next start wouldn't see what is written now.
func (db *DB) Replaced() error {
	named, err := os.Stat(db.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the file of the store, %s, was moved away or deleted while it was open", db.path)
	case err != nil:
		return nil // nothing is known
	}
	if ours, err := db.file.Stat(); err == nil && !os.SameFile(ours, named) {
		return fmt.Errorf("another file was put in the place of the store %s while it was open", db.path)
	}
	return nil
}

// Backup writes a consistent copy of the store, checked, to w; Restore takes it back.
// It goes by way of a file beside the store: a slow w holds up nobody. The file has no name
// while it is written and read, where the system does so, and a kill leaves none behind.
func (db *DB) Backup(w io.Writer) error {
	tmp, err := os.CreateTemp(filepath.Dir(db.path), filepath.Base(db.path)+".backup-*")
	if err != nil {
		return fmt.Errorf("backing up %s: %w", db.path, err)
	}
	if os.Remove(tmp.Name()) != nil { // Windows removes no file that is open
		defer os.Remove(tmp.Name())
	}
	defer tmp.Close()
	err = db.view(context.Background(), func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(tmp)
		return err
	})
	if err == nil {
		_, err = check(tmp, everything)
	}
	if err == nil {
		_, err = tmp.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, err = io.Copy(w, tmp)
	}
	if err != nil {
		return fmt.Errorf("backing up %s: %w", db.path, err)
	}
	return nil
}

// Keep leaves a copy of the store beside it, whose name is the store's with the ending, and
// returns that name. A file that has the name already stays as it is: the ending then goes on
// with ".2", or the first number that is free.
func (db *DB) Keep(ending string) (name string, err error) {
	name = db.path + ending
	for n := 2; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			break
		} else if err != nil {
			return "", fmt.Errorf("keeping a copy of %s: %w", db.path, err)
		}
		name = fmt.Sprintf("%s%s.%d", db.path, ending, n)
	}
	tmp, err := createOver(db.path + ending + ".new")
	if err != nil {
		return "", fmt.Errorf("keeping a copy of %s: %w", db.path, err)
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
		return "", fmt.Errorf("keeping a copy of %s: %w", db.path, err)
	}
	return name, nil
}
