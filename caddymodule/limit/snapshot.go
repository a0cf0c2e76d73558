package limit

import (
	"cmp"
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	limitsBucket = "limits" // by process: the last snapshot

	saveEvery    = time.Second
	saveTimeout  = 2 * time.Second // for the last snapshot, when the firm stops
	snapshotKeys = 8192            // maximum number of keys: reserved ones first, then those that drain last
	maxSnapshots = 64              // maximum number of snapshots that are loaded
	headerSize   = 1 + 8           // version, time
	entrySize    = 8 + 4           // key, milliseconds until drained
)

// Run loads the counts from before a restart and saves them every second, and once more
// when ctx ends, so that a killed process loses at most one second of counts. It also
// frees memory after a flood. Several may run at once, as during a reload.
func (n *Networks) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := n.Save(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			log.Error("network limits not saved; they are lost if the process ends now", "error", err)
		}
		failed = err != nil
		if unread := n.unread.Swap(0); unread > 0 { // once, since snapshots are loaded once
			log.Warn("saved network limits unreadable, so their counts start at zero; records of another release stay",
				"bucket", limitsBucket, "records", unread, "what_to_do", "nothing, if Doorpost was just upgraded or rolled back: the counts expire within two hours anyway")
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTimeout)
			defer cancel()
			if err := n.Save(ctx); err != nil {
				log.Error("network limits not saved; counts of the last second are lost", "error", err)
			}
			return
		case <-tick.C:
			n.counters.sweep(n.now())
			n.wrongTokens.sweep(n.now())
		}
	}
}

// Save writes a snapshot if anything has changed since the last. The first call loads the
// snapshots of other processes.
func (n *Networks) Save(ctx context.Context) error {
	n.saving.Lock()
	defer n.saving.Unlock()
	if err := n.load(ctx); err != nil {
		return err
	}
	if !n.changed.Swap(false) {
		return nil
	}
	now := n.now()
	ops := []store.Op{store.Put(n.snapshotKey(n.id), n.snapshot(now), now.Add(maxDrain))}
	for _, rec := range n.merged {
		ops = append(ops, store.Delete(rec.Key)) // a live process writes its own again
	}
	if err := n.Store.Apply(ctx, ops...); err != nil {
		n.changed.Store(true)
		return err
	}
	n.merged = nil
	return nil
}

// load loads the snapshots of other processes, once.
func (n *Networks) load(ctx context.Context) error {
	if n.id != "" {
		return nil
	}
	recs, err := n.Store.Scan(ctx, n.Firm, limitsBucket, "", "", maxSnapshots)
	if err != nil {
		return err
	}
	now := n.now()
	for _, rec := range recs {
		if !n.merge(rec.Value, now) {
			n.unread.Add(1)
			if len(rec.Value) > 0 && rec.Value[0] != version {
				continue // another release may need it; it expires
			}
		}
		n.merged = append(n.merged, rec)
	}
	n.id = secret.Random()
	if len(recs) > 0 {
		n.changed.Store(true)
	}
	return nil
}

func (n *Networks) snapshotKey(id string) store.Key {
	return store.Key{Firm: n.Firm, Bucket: limitsBucket, ID: id}
}

// snapshot encodes the reserved keys and those that drain last.
func (n *Networks) snapshot(now time.Time) []byte {
	type entry struct {
		key  uint64
		left time.Duration
	}
	var all []entry
	n.counters.each(now, func(key uint64, left time.Duration) { all = append(all, entry{key, left}) })
	if len(all) > snapshotKeys {
		slices.SortFunc(all, func(a, b entry) int {
			switch rare := isReserved(a.key); {
			case rare == isReserved(b.key):
				return cmp.Compare(b.left, a.left)
			case rare: // a flood of networks must not push out the firm's counters
				return -1
			}
			return 1
		})
		all = all[:snapshotKeys]
	}
	value := make([]byte, 0, headerSize+entrySize*len(all))
	value = binary.BigEndian.AppendUint64(append(value, version), uint64(now.UnixMilli()))
	for _, one := range all {
		value = binary.BigEndian.AppendUint64(value, one.key)
		value = binary.BigEndian.AppendUint32(value, uint32(min(one.left, maxDrain)/time.Millisecond))
	}
	return value
}

// merge loads a snapshot, and reports whether it can be read. If the clock was set back
// since, it counts no time as passed, so that no limit lasts longer.
func (n *Networks) merge(value []byte, now time.Time) bool {
	if len(value) < headerSize || value[0] != version {
		return false
	}
	passed := max(0, now.Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(value[1:])))))
	for rest := value[headerSize:]; len(rest) >= entrySize; rest = rest[entrySize:] {
		left := time.Duration(binary.BigEndian.Uint32(rest[8:])) * time.Millisecond
		if left = min(left, maxDrain) - passed; left > 0 {
			n.counters.raise(binary.BigEndian.Uint64(rest), left, now)
		}
	}
	return true
}
