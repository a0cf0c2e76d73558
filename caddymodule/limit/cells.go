package limit

import (
	"maps"
	"sync"
	"time"
)

const (
	shards = 64
	// Cells is how many networks and the like are counted at a time, for one firm; each
	// costs at most 40 bytes. When all are in use, what has no cell yet is over its limit.
	Cells    = 1 << 18
	perShard = Cells / shards
	// spare is how many more places of a shard are for keys that not everybody can make.
	spare = perShard / 8
)

// rate is how often something may happen: burst times at once, then once in every every.
type rate struct {
	burst int
	every time.Duration
}

// window is how long a cell takes to be empty again at most.
func (r rate) window() time.Duration { return time.Duration(r.burst) * r.every }

// cells count by the generic cell rate algorithm: of each key, they keep the moment when
// what has happened is paid off. A key that has paid needs no cell. Many goroutines may
// use them; the zero value is ready.
type cells struct{ shards [shards]shard }

type shard struct {
	mu    sync.Mutex
	paid  map[uint64]int64 // by key: in nanoseconds since 1970
	swept int64            // when there was last no room
}

func (c *cells) shard(key uint64) *shard { return &c.shards[key%shards] }

// rareBit marks a key that not everybody can make: it has room where all cells are in use, and
// its place in a snapshot before all others.
const rareBit = 1 << 63

func isRare(key uint64) bool { return key&rareBit != 0 }

// mostBeside is how many cells of a shard may be in use for the key to get one.
func mostBeside(key uint64) int {
	if isRare(key) {
		return perShard + spare
	}
	return perShard
}

// take counts one more, unless that is over the rate or there is no room.
func (c *cells) take(key uint64, r rate, now time.Time) bool {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	paid, found := s.paid[key]
	if !found && !s.room(at, mostBeside(key)) {
		return false
	}
	paid = max(paid, at)
	if paid-at > int64(r.window()-r.every) {
		return false
	}
	s.paid[key] = paid + int64(r.every)
	return true
}

// again reports whether the key was noted in the last while, and notes it. Without room for it,
// it wasn't.
func (c *cells) again(key uint64, while time.Duration, now time.Time) bool {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	until, found := s.paid[key]
	if found && until > at && until <= at+int64(while) {
		return true
	}
	if found || s.room(at, perShard) {
		s.paid[key] = at + int64(while)
	}
	return false
}

// giveBack undoes a take.
func (c *cells) giveBack(key uint64, r rate) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if paid, found := s.paid[key]; found {
		s.paid[key] = paid - int64(r.every)
	}
}

// room reports whether one more key has a place among so many. It looks for those that have paid
// at most once a second: a flood shouldn't make each request dear. s.mu is held.
func (s *shard) room(at int64, most int) bool {
	if s.paid == nil {
		s.paid = make(map[uint64]int64)
	}
	if len(s.paid) < most {
		return true
	}
	if passed := at - s.swept; passed >= 0 && passed < int64(time.Second) {
		return false
	}
	s.swept = at
	s.sweep(at)
	return len(s.paid) < most
}

// sweep takes out what has paid. s.mu is held.
func (s *shard) sweep(at int64) {
	before := len(s.paid)
	maps.DeleteFunc(s.paid, func(_ uint64, paid int64) bool { return paid <= at })
	if len(s.paid) < before/4 {
		small := make(map[uint64]int64, len(s.paid)) // a map never shrinks by itself
		maps.Copy(small, s.paid)
		s.paid = small
	}
}

// sweep takes out all that has paid.
func (c *cells) sweep(now time.Time) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		s.sweep(now.UnixNano())
		s.mu.Unlock()
	}
}

// owe makes a key owe at least so long from now on, if there is room for it.
func (c *cells) owe(key uint64, left time.Duration, now time.Time) {
	s, at := c.shard(key), now.UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	paid, found := s.paid[key]
	if found || s.room(at, mostBeside(key)) {
		s.paid[key] = max(paid, at+int64(left))
	}
}

// each calls f with every key that still owes, and for how long.
func (c *cells) each(now time.Time, f func(key uint64, left time.Duration)) {
	at := now.UnixNano()
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, paid := range s.paid {
			if paid > at {
				f(key, time.Duration(paid-at))
			}
		}
		s.mu.Unlock()
	}
}
