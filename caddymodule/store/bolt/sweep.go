package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// maxSweep bounds how many records one commit of the sweeper deletes, so that
// nobody who waits beside it waits long.
const maxSweep = 1000

// Sweep deletes what has expired by now and returns how much that was. A goroutine
// of the DB does so all the time; what it has deleted doesn't come back when the
// clock is set back.
func (db *DB) Sweep(ctx context.Context) (int, error) { return db.sweepUntil(ctx, db.clock()) }

func (db *DB) sweepUntil(ctx context.Context, now time.Time) (total int, err error) {
	for {
		var ended []ending
		find := func(tx *bolt.Tx) error {
			ended = endedBy(tx, now)
			return nil
		}
		// A look first: a commit costs fsyncs, and mostly there is nothing to do.
		if err := db.view(ctx, find); err != nil || len(ended) == 0 {
			return total, err
		}
		err := db.submit(ctx, &request{
			judge: find,
			carry: func(tx *bolt.Tx) (bool, error) { return len(ended) > 0, deleteEnded(tx, ended) },
		})
		if err != nil {
			return total, err
		}
		total += len(ended)
	}
}

// ending is an entry of the index.
type ending struct {
	entry   []byte
	expires int64
	key     store.Key
	known   bool // whether the entry could be read
}

// endedBy returns the first entries of the index whose time is over.
func endedBy(tx *bolt.Tx, now time.Time) (ended []ending) {
	c := tx.Bucket(expiryBucket).Cursor()
	for entry, _ := c.First(); entry != nil && len(ended) < maxSweep; entry, _ = c.Next() {
		e := ending{entry: append([]byte{}, entry...)}
		if e.expires, e.key, e.known = splitIndexKey(entry); e.known && !over(e.expires, now) {
			break
		}
		ended = append(ended, e)
	}
	return ended
}

// deleteEnded deletes the entries, and the records that they speak of.
func deleteEnded(tx *bolt.Tx, ended []ending) error {
	index := tx.Bucket(expiryBucket)
	for _, e := range ended {
		raw := lookup(tx, e.key)
		// An entry that doesn't fit its record was left behind by damage. The
		// record has another one, or is nobody's to delete.
		if e.known && len(raw) >= headerLen && int64(binary.BigEndian.Uint64(raw[1:])) == e.expires {
			if err := dropRecord(tx, e.key, 0); err != nil {
				return err
			}
		}
		if err := index.Delete(e.entry); err != nil {
			return err
		}
	}
	// In a damaged tree an entry may lie where no search finds it. It would come
	// first for ever, and the sweeper would do nothing else.
	if first, _ := index.Cursor().First(); len(ended) > 0 && bytes.Equal(first, ended[0].entry) {
		return damagedf("an entry of the index can't be deleted")
	}
	return nil
}

// sweep is the sweeper: it looks every so often until the DB is closed.
func (db *DB) sweep(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	belief := belief{wall: db.clock(), real: time.Now()}
	for {
		select {
		case <-db.stop:
			return
		case <-tick.C:
		}
		_, err := db.sweepUntil(context.Background(), belief.now(db.clock(), time.Now()))
		// The writer has logged a full disk, and damage has been logged where it was found.
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			db.log.Error("sweeping the store", "path", db.path, "error", err)
		}
	}
}

// How far the clock may run ahead of the time that has passed before the sweeper
// doubts it, and for how long it does.
const (
	jumpAllowed = 5 * time.Minute
	jumpStands  = time.Hour
)

// belief keeps a clock that was set forward by mistake from costing everybody their
// session for good: reads go by the clock at once, but what it says has ended is
// deleted only after the new time has stood for an hour.
type belief struct {
	wall, real time.Time // a moment at which the clock was right, by both clocks
	doubts     time.Time // since when it isn't, by the real one
}

// now returns the time up to which to sweep. wall is what the clock says, real has a
// monotonic reading.
func (b *belief) now(wall, real time.Time) time.Time {
	expected := b.wall.Add(real.Sub(b.real))
	switch {
	case wall.Sub(expected) <= jumpAllowed:
	case b.doubts.IsZero():
		b.doubts = real
		return expected
	case real.Sub(b.doubts) < jumpStands:
		return expected
	}
	*b = belief{wall: wall, real: real}
	return wall
}
