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

// maxSweep limits how many records the sweeper deletes in one commit, so that others don't
// wait long.
const maxSweep = 1000

// Sweep deletes expired records and returns their number. The DB does so regularly by
// itself. Deleted records don't come back if the clock is set back.
func (db *DB) Sweep(ctx context.Context) (int, error) { return db.sweepUntil(ctx, db.clock()) }

func (db *DB) sweepUntil(ctx context.Context, now time.Time) (total int, err error) {
	for {
		var ended []expiredEntry
		find := func(tx *bolt.Tx) error {
			ended = expiredEntries(tx, now)
			return nil
		}
		// Read first: a commit costs fsyncs, and usually there is nothing to delete.
		if err := db.view(ctx, find); err != nil || len(ended) == 0 {
			return total, err
		}
		err := db.submit(ctx, &request{
			evaluate: find,
			apply:    func(tx *bolt.Tx) (bool, error) { return len(ended) > 0, deleteExpired(tx, ended) },
		})
		if err != nil {
			return total, err
		}
		total += len(ended)
	}
}

// expiredEntry is an entry of the index.
type expiredEntry struct {
	entry   []byte
	expires int64
	key     store.Key
	known   bool // the entry could be decoded
}

// expiredEntries returns the first entries of the index that have expired.
func expiredEntries(tx *bolt.Tx, now time.Time) (ended []expiredEntry) {
	c := tx.Bucket(expiryBucket).Cursor()
	for entry, _ := c.First(); entry != nil && len(ended) < maxSweep; entry, _ = c.Next() {
		e := expiredEntry{entry: append([]byte{}, entry...)}
		if e.expires, e.key, e.known = splitIndexKey(entry); e.known && !expired(e.expires, now) {
			break
		}
		ended = append(ended, e)
	}
	return ended
}

// deleteExpired deletes the entries and their records.
func deleteExpired(tx *bolt.Tx, ended []expiredEntry) error {
	index := tx.Bucket(expiryBucket)
	for _, e := range ended {
		raw := lookup(tx, e.key)
		// An entry that doesn't match its record was left by damage. The record has another
		// entry, or must not be deleted.
		if e.known && len(raw) >= headerLen && int64(binary.BigEndian.Uint64(raw[1:])) == e.expires {
			if err := dropRecord(tx, e.key, 0); err != nil {
				return err
			}
		}
		if err := index.Delete(e.entry); err != nil {
			return err
		}
	}
	// In a damaged tree, search may not find an entry. It would stay the first one forever,
	// and the sweeper would do nothing else.
	if first, _ := index.Cursor().First(); len(ended) > 0 && bytes.Equal(first, ended[0].entry) {
		return corruptf("an entry of the index can't be deleted")
	}
	return nil
}

// sweep deletes expired records regularly until the DB is closed.
func (db *DB) sweep(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	guard := clockGuard{wall: db.clock(), real: time.Now()}
	for {
		select {
		case <-db.stop:
			return
		case <-tick.C:
		}
		_, err := db.sweepUntil(context.Background(), guard.now(db.clock(), time.Now()))
		// Failed writes were logged by the writer, corruption was logged where it was
		// found.
		if err != nil && !errors.Is(err, store.ErrUnavailable) {
			db.log.Error("expired records not deleted", "path", db.path, "error", err)
		}
	}
}

// How far the clock may jump ahead before the sweeper distrusts it, and for how long it
// does.
const (
	maxClockJump   = 5 * time.Minute
	clockJumpDelay = time.Hour
)

// clockGuard keeps a clock that was set ahead by mistake from deleting sessions: reads use
// the clock at once, but the sweeper deletes by the new time only after it has been used
// for an hour.
type clockGuard struct {
	wall, real   time.Time // a time at which the clock was right, by both clocks
	suspectSince time.Time // since when the clock has been ahead, by the real one
}

// now returns the time up to which to sweep. wall is the clock's time; real has a monotonic
// reading.
func (b *clockGuard) now(wall, real time.Time) time.Time {
	expected := b.wall.Add(real.Sub(b.real))
	switch {
	case wall.Sub(expected) <= maxClockJump:
	case b.suspectSince.IsZero():
		b.suspectSince = real
		return expected
	case real.Sub(b.suspectSince) < clockJumpDelay:
		return expected
	}
	*b = clockGuard{wall: wall, real: real}
	return wall
}
