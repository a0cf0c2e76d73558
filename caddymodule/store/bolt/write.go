package bolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// maxGroup limits how many requests share a commit, and so its memory.
const maxGroup = 512

// request is a caller's change on its way through the writer.
type request struct {
	// evaluate checks conditions in the writer's transaction, and changes nothing. Its
	// error is returned to this caller only.
	evaluate func(*bolt.Tx) error
	// apply makes the change after evaluate, and reports whether it changed anything. Its
	// error undoes the whole group.
	apply func(*bolt.Tx) (changed bool, err error)

	taken  atomic.Bool // by the writer, or by a caller who gave up waiting
	answer error
	done   chan struct{} // closed when answer is set
}

// queue holds the requests that wait for the writer.
type queue struct {
	mu      *sync.Mutex
	some    *sync.Cond
	waiting []*request
	closed  bool
}

func newQueue() queue {
	mu := new(sync.Mutex)
	return queue{mu: mu, some: sync.NewCond(mu)}
}

// add returns false if the queue is closed.
func (q *queue) add(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.waiting = append(q.waiting, r)
	q.some.Signal()
	return true
}

// next waits for requests and removes them from the queue; it returns none when the queue
// is closed and empty.
func (q *queue) next() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 && !q.closed {
		q.some.Wait()
	}
	n := min(len(q.waiting), maxGroup)
	group := slices.Clone(q.waiting[:n])
	q.waiting = slices.Delete(q.waiting, 0, n)
	return group
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
}

// submit passes r to the writer and waits for the result. If ctx ends before the writer
// has begun, submit withdraws r. After that it waits for the result, since a caller who
// doesn't know whether a link was used can do nothing right.
func (db *DB) submit(ctx context.Context, r *request) error {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	r.done = make(chan struct{})
	if !db.queue.add(r) {
		return unavailable(errClosed)
	}
	select {
	case <-r.done:
		return r.answer
	case <-ctx.Done():
		if r.taken.CompareAndSwap(false, true) {
			return unavailable(context.Cause(ctx))
		}
	case <-db.stuck:
	}
	select {
	case <-r.done:
		return r.answer
	case <-db.stuck:
		return db.corruptErr()
	}
}

// write is the writer: it commits all waiting requests together.
func (db *DB) write() {
	debug.SetPanicOnFault(true)
	for {
		group := db.queue.next()
		if len(group) == 0 {
			return // closed
		}
		group = slices.DeleteFunc(group, func(r *request) bool { return !r.taken.CompareAndSwap(false, true) })
		if len(group) == 0 {
			continue
		}
		err := db.commit(group)
		if errors.Is(err, errUnchanged) {
			err = nil
		} else {
			db.report(err)
		}
		for _, r := range group {
			if err != nil {
				r.answer = err
			}
			close(r.done)
		}
	}
}

var errUnchanged = errors.New("nothing to commit")

// commit evaluates and applies the group in one transaction, and sets each request's
// answer. Any error except errUnchanged is everybody's.
func (db *DB) commit(group []*request) (err error) {
	if db.corruption.Load() != nil {
		return db.corruptErr()
	}
	defer func() {
		if p := recover(); p != nil {
			err = db.markCorrupt(p)
		}
	}()
	err = db.bolt.Update(func(tx *bolt.Tx) error {
		unchanged := true
		for _, r := range group {
			if r.answer = r.evaluate(tx); r.answer != nil {
				continue
			}
			changed, err := r.apply(tx)
			if err != nil {
				return err
			}
			unchanged = unchanged && !changed
		}
		if unchanged {
			return errUnchanged // saves the fsyncs
		}
		return nil
	})
	switch {
	case err == nil, errors.Is(err, errUnchanged):
		return err
	case errors.As(err, new(*corruption)):
		return db.markCorrupt(err)
	default:
		return unavailable(fmt.Errorf("write store %s: %w", db.path, err))
	}
}

// report logs when commits begin to fail, and when they work again.
func (db *DB) report(err error) {
	switch failed := err != nil; {
	case failed && !db.failed:
		db.log.Error("the store can't be written; what is in it can be read on", "path", db.path, "error", err)
		db.failed = true
	case !failed && db.failed:
		db.log.Info("the store can be written again", "path", db.path)
		db.failed = false
	}
}

// Apply implements store.Store. Concurrent Applies are committed together, in order; a
// conflict fails only its own caller.
func (db *DB) Apply(ctx context.Context, ops ...store.Op) error {
	changes := make([]change, len(ops))
	for i := range ops {
		changes[i].op = &ops[i]
	}
	// In key order: bbolt adds a hundred thousand records to one leaf before it splits
	// it, and adds them without moving others only at the leaf's end.
	slices.SortFunc(changes, func(a, b change) int {
		return cmp.Or(strings.Compare(a.op.Key.Bucket, b.op.Key.Bucket), strings.Compare(a.op.Key.ID, b.op.Key.ID))
	})
	if err := validate(changes); err != nil || len(ops) == 0 {
		return err
	}
	err := db.submit(ctx, &request{
		evaluate: func(tx *bolt.Tx) error { return db.evaluate(tx, changes) },
		apply:    func(tx *bolt.Tx) (bool, error) { return applyChanges(tx, changes) },
	})
	return db.wrapCorruption(err)
}

// change is an Op with the state of its record.
type change struct {
	op  *store.Op
	was int64 // its expiry, 0 if none
	had bool  // it exists, expired or not
}

// evaluate checks the condition of every Op.
func (db *DB) evaluate(tx *bolt.Tx, changes []change) error {
	now := db.clock()
	for i := range changes {
		c := &changes[i]
		raw := lookup(tx, c.op.Key)
		value, was, err := []byte(nil), int64(0), error(nil)
		if c.had = raw != nil; c.had {
			value, was, err = decode(c.op.Key, raw)
		}
		if err != nil && c.op.Verb != store.VerbPut && c.op.Verb != store.VerbDelete {
			return err // only unconditional Ops may overwrite a damaged record
		}
		c.was = was
		if !c.op.Allows(c.had && !expired(was, now), value) {
			return store.ErrConflict
		}
	}
	return nil
}

// applyChanges makes the changes.
func applyChanges(tx *bolt.Tx, changes []change) (changed bool, err error) {
	for _, c := range changes {
		switch c.op.Verb {
		case store.VerbPut, store.VerbCreate, store.VerbReplace:
			changed = true
			err = writeRecord(tx, c.op.Key, c.op.Value, toMilli(c.op.Expires), c.was)
		case store.VerbDelete, store.VerbRemove:
			changed = changed || c.had
			err = dropRecord(tx, c.op.Key, c.was)
		}
		if err != nil {
			return false, err
		}
	}
	if len(changes) >= bulk {
		fillPages(tx, changes)
	}
	return changed, nil
}

// bulk is the number of Ops from which an Apply counts as an import.
const bulk = 1000

// fillPages makes bbolt fill the pages of an import, which arrives in order, instead of
// leaving half of each free: that saves half of the file and half of the time.
func fillPages(tx *bolt.Tx, changes []change) {
	for i, c := range changes {
		if i > 0 && c.op.Key.Bucket == changes[i-1].op.Key.Bucket {
			continue
		}
		if b := bucketOf(tx, c.op.Key.Firm, c.op.Key.Bucket); b != nil {
			b.FillPercent = 0.9
		}
	}
}

// Limits of a key. bbolt's limit is 32 KiB for the whole key.
const (
	maxID   = 512
	maxName = 255
)

// validate rejects Ops that no engine accepts, before anything is changed. The changes
// are in key order.
func validate(changes []change) error {
	for i, c := range changes {
		switch k, first := c.op.Key, changes[0].op.Key; {
		case c.op.Verb == store.VerbNone || c.op.Verb > store.VerbCheck:
			return fmt.Errorf("store: an Op for %q of firm %q has no verb", k.Bucket, k.Firm)
		case k.Firm != first.Firm:
			return fmt.Errorf("store: one Apply for the firms %q and %q", first.Firm, k.Firm)
		case i > 0 && k == changes[i-1].op.Key:
			return fmt.Errorf("store: one Apply changes a record in %q of firm %q twice", k.Bucket, k.Firm)
		case k.ID == "" || len(k.ID) > maxID:
			return fmt.Errorf("store: an ID has 1 to %d bytes, not %d", maxID, len(k.ID))
		case k.Bucket == "" || len(k.Bucket) > maxName || len(k.Firm) > maxName:
			return fmt.Errorf("store: the name of a bucket has 1 to %d bytes, that of a firm up to %[1]d", maxName)
		case strings.ContainsRune(k.Firm, 0) || strings.ContainsRune(k.Bucket, 0):
			return fmt.Errorf("store: %q of firm %q: names hold no NUL", k.Bucket, k.Firm)
		}
	}
	return nil
}
