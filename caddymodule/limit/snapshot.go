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
	limitsBucket = "limits" // by process: what networks owe, as it was when last written

	saveEvery = time.Second
	saveTime  = 2 * time.Second // for the last snapshot, when the firm stops
	saved     = 8192            // keys of a snapshot: the rare ones, and those that owe the most
	processes = 64              // whose snapshots are read
	headSize  = 1 + 8           // version, and when
	cellSize  = 8 + 4           // key, and how many milliseconds are owed
)

// Run takes over what was counted before a restart, and writes down what is counted
// every second, and once more when ctx ends: so a process that is killed forgets no
// more than that. It sees to it that memory is given back after a flood, too. Several may
// run at once, as around a reload.
func (n *Networks) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for failed := false; ; {
		err := n.Save(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			log.Error("what networks did isn't written down, and is forgotten if the process ends now", "error", err)
		}
		failed = err != nil
		if unread := n.unread.Swap(0); unread > 0 { // once, since they are read once
			log.Warn("what networks did before the start can't be read, so their limits begin again; what another release wrote stays as it is",
				"bucket", limitsBucket, "records", unread, "what_to_do", "nothing, where Doorpost was just upgraded or taken back: limits are forgotten within two hours anyway")
		}
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
			defer cancel()
			if err := n.Save(ctx); err != nil {
				log.Error("what networks did in the last second is forgotten", "error", err)
			}
			return
		case <-tick.C:
			n.cells.sweep(n.now())
			n.tokens.sweep(n.now())
		}
	}
}

// Save writes a snapshot, if anything changed since the last; the first one takes over
// what others left.
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
	ops := []store.Op{store.Put(n.place(n.id), n.snapshot(now), now.Add(longest))}
	for _, rec := range n.merged {
		ops = append(ops, store.Delete(rec.Key)) // a process that lives writes its own anew
	}
	if err := n.Store.Apply(ctx, ops...); err != nil {
		n.changed.Store(true)
		return err
	}
	n.merged = nil
	return nil
}

// load takes over the snapshots of other processes, once.
func (n *Networks) load(ctx context.Context) error {
	if n.id != "" {
		return nil
	}
	recs, err := n.Store.Scan(ctx, n.Firm, limitsBucket, "", "", processes)
	if err != nil {
		return err
	}
	now := n.now()
	for _, rec := range recs {
		if !n.merge(rec.Value, now) {
			n.unread.Add(1)
			if len(rec.Value) > 0 && rec.Value[0] != version {
				continue // another release may need it; it is forgotten by itself
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

func (n *Networks) place(id string) store.Key {
	return store.Key{Firm: n.Firm, Bucket: limitsBucket, ID: id}
}

// snapshot encodes the rare keys, and those that owe the most.
func (n *Networks) snapshot(now time.Time) []byte {
	type owing struct {
		key  uint64
		left time.Duration
	}
	var all []owing
	n.cells.each(now, func(key uint64, left time.Duration) { all = append(all, owing{key, left}) })
	if len(all) > saved {
		slices.SortFunc(all, func(a, b owing) int {
			switch rare := isRare(a.key); {
			case rare == isRare(b.key):
				return cmp.Compare(b.left, a.left)
			case rare: // a flood of networks doesn't put the counters of the firm out
				return -1
			}
			return 1
		})
		all = all[:saved]
	}
	value := make([]byte, 0, headSize+cellSize*len(all))
	value = binary.BigEndian.AppendUint64(append(value, version), uint64(now.UnixMilli()))
	for _, one := range all {
		value = binary.BigEndian.AppendUint64(value, one.key)
		value = binary.BigEndian.AppendUint32(value, uint32(min(one.left, longest)/time.Millisecond))
	}
	return value
}

// merge takes in a snapshot, and reports whether it can be read. By a clock that was set
// back since, no time has passed: nobody owes longer than they did.
func (n *Networks) merge(value []byte, now time.Time) bool {
	if len(value) < headSize || value[0] != version {
		return false
	}
	passed := max(0, now.Sub(time.UnixMilli(int64(binary.BigEndian.Uint64(value[1:])))))
	for rest := value[headSize:]; len(rest) >= cellSize; rest = rest[cellSize:] {
		left := time.Duration(binary.BigEndian.Uint32(rest[8:])) * time.Millisecond
		if left = min(left, longest) - passed; left > 0 {
			n.cells.owe(binary.BigEndian.Uint64(rest), left, now)
		}
	}
	return true
}
