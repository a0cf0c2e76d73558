package password

import (
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"weak"
)

// memory bounds what hashes take of it, ended ones included.
type memory struct {
	hashes int // at a time

	mu      sync.Mutex
	running uint64  // bytes that hashes use now
	spent   []spent // what ended hashes used, as long as it may be in use
}

// spent is memory of a hash that ended. The mark became garbage after that memory did:
// once it is gone, the memory is free to be used again.
type spent struct {
	mark  weak.Pointer[mark]
	bytes uint64
}

// mark is of a size that isn't allocated together with others.
type mark [64]byte

// compute calls hash, which uses so much memory. The library takes new memory for each
// hash and leaves the old to the garbage collector, which lets garbage grow to the size
// of all that lives, or more. So before new memory would come on top of the garbage of
// as many hashes as there are at a time, the garbage is collected: it costs a fraction of
// a hash, and only while one hash follows the other. Where much lives, as a million
// sessions do, it costs more, and an eighth of that is let be.
func (m *memory) compute(bytes uint64, hash func()) {
	m.mu.Lock()
	if limit := max(bytes*uint64(m.hashes), living()/8); bytes > 0 && m.running+m.garbage()+bytes > limit && len(m.spent) > 0 {
		runtime.GC()
	}
	m.running += bytes
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running -= bytes
		if bytes > 0 {
			m.spent = append(m.spent, spent{weak.Make(new(mark)), bytes})
		}
	}()
	hash()
}

// living returns how much the last collection left.
func living() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// garbage returns how much of what was spent isn't free yet. m.mu is held.
func (m *memory) garbage() (bytes uint64) {
	m.spent = slices.DeleteFunc(m.spent, func(s spent) bool { return s.mark.Value() == nil })
	for _, s := range m.spent {
		bytes += s.bytes
	}
	return bytes
}
