package limit

import (
	"maps"
	"sync"
	"time"
)

const (
	shards = 64
	// MaxBuckets is the maximum number of keys, such as networks, counted at a time for one firm.
	// Each costs at most 40 bytes. When all buckets are in use, keys without one count as over
	// their limit.
	MaxBuckets = 1 << 18
	perShard   = MaxBuckets / shards
	// reservedPerShard is the number of additional buckets of a shard for keys that not every
	// client can create.
	reservedPerShard = perShard / 8
)

// rate allows burst events at once, then one in every.
type rate struct {
	burst int
	every time.Duration
}

// window returns how long a full bucket takes to drain.
func (r rate) window() time.Duration { return time.Duration(r.burst) * r.every }

// gcra counts by the generic cell rate algorithm: it stores the theoretical arrival time (TAT) of
// each key. A key whose TAT has passed needs no bucket. It is safe for concurrent use; the zero
// value is ready to use.
type gcra struct{ shards [shards]shard }

type shard struct {
	mu    sync.Mutex
	tat   map[uint64]int64 // by key, in nanoseconds since 1970
	swept int64            // last sweep because the shard was full
}

func (c *gcra) shard(key uint64) *shard { return &c.shards[key%shards] }

// reservedBit marks keys that not every client can create: they may use the reserved buckets, and
// come first in a snapshot.
const reservedBit = 1 << 63

func isReserved(key uint64) bool { return key&reservedBit != 0 }

// capacity returns how many buckets of a shard the key may fill up to.
func capacity(key uint64) int {
	if isReserved(key) {
		return perShard + reservedPerShard
	}
	return perShard
}

// allow counts one more event, unless it is over the rate or all buckets are in use.
func (c *gcra) allow(key uint64, r rate, now time.Time) bool {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	tat, found := s.tat[key]
	if !found && !s.hasRoom(at, capacity(key)) {
		return false
	}
	tat = max(tat, at)
	if tat-at > int64(r.window()-r.every) {
		return false
	}
	s.tat[key] = tat + int64(r.every)
	return true
}

// seenRecently reports whether it was called for the key within the last while. If all buckets are
// in use, it returns false.
func (c *gcra) seenRecently(key uint64, while time.Duration, now time.Time) bool {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	until, found := s.tat[key]
	if found && until > at && until <= at+int64(while) {
		return true
	}
	if found || s.hasRoom(at, perShard) {
		s.tat[key] = at + int64(while)
	}
	return false
}

// refund undoes an allow.
func (c *gcra) refund(key uint64, r rate) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if tat, found := s.tat[key]; found {
		s.tat[key] = tat - int64(r.every)
	}
}

// hasRoom reports whether the shard has fewer than most buckets. It sweeps at most once a second,
// so that a flood doesn't make every request expensive. The caller holds s.mu.
func (s *shard) hasRoom(at int64, most int) bool {
	if s.tat == nil {
		s.tat = make(map[uint64]int64)
	}
	if len(s.tat) < most {
		return true
	}
	if passed := at - s.swept; passed >= 0 && passed < int64(time.Second) {
		return false
	}
	s.swept = at
	s.sweep(at)
	return len(s.tat) < most
}

// sweep removes drained buckets. The caller holds s.mu.
func (s *shard) sweep(at int64) {
	before := len(s.tat)
	maps.DeleteFunc(s.tat, func(_ uint64, tat int64) bool { return tat <= at })
	if len(s.tat) < before/4 {
		small := make(map[uint64]int64, len(s.tat)) // maps never shrink
		maps.Copy(small, s.tat)
		s.tat = small
	}
}

// sweep removes all drained buckets.
func (c *gcra) sweep(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.sweep(now.UnixNano())
		s.mu.Unlock()
	}
}

// raise sets the TAT of a key to at least left from now, if it has a bucket or gets one.
func (c *gcra) raise(key uint64, left time.Duration, now time.Time) {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	tat, found := s.tat[key]
	if found || s.hasRoom(at, capacity(key)) {
		s.tat[key] = max(tat, at+int64(left))
	}
}

// each calls f for every bucket that isn't drained, with the time until it is.
func (c *gcra) each(now time.Time, f func(key uint64, left time.Duration)) {
	at := now.UnixNano()
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, tat := range s.tat {
			if tat > at {
				f(key, time.Duration(tat-at))
			}
		}
		s.mu.Unlock()
	}
}
