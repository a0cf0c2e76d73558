package password

import (
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"weak"
)

// memory limits the memory used by hashes, including garbage of finished ones.
type memory struct {
	hashes int // maximum number of concurrent hashes

	mu      sync.Mutex
	running uint64        // bytes used by hashes now
	freed   []freedMemory // memory of finished hashes that may not be collected yet
}

// freedMemory is the memory of a finished hash. The mark becomes garbage after that memory:
// once the mark is collected, the memory can be reused.
type freedMemory struct {
	mark  weak.Pointer[mark]
	bytes uint64
}

// mark has a size that the allocator doesn't combine with other objects.
type mark [64]byte

// compute calls hash, which uses the given bytes of memory. The argon2 library allocates new
// memory for each hash and leaves it to the garbage collector, which lets garbage grow to
// the size of the live heap or more. So compute runs the collector before running hashes and
// garbage together exceed what the maximum number of concurrent hashes takes. A collection
// costs a fraction of a hash and is needed only when hashes follow each other closely. It
// costs more if the live heap is large, as with a million sessions, so an eighth of that
// heap is allowed as garbage.
func (m *memory) compute(bytes uint64, hash func()) {
	m.mu.Lock()
	if limit := max(bytes*uint64(m.hashes), liveHeap()/8); bytes > 0 && m.running+m.garbage()+bytes > limit && len(m.freed) > 0 {
		runtime.GC()
	}
	m.running += bytes
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running -= bytes
		if bytes > 0 {
			m.freed = append(m.freed, freedMemory{weak.Make(new(mark)), bytes})
		}
	}()
	hash()
}

// liveHeap returns the bytes that the last collection left.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// garbage returns the bytes of finished hashes that are not collected yet. The caller holds
// m.mu.
func (m *memory) garbage() (bytes uint64) {
	m.freed = slices.DeleteFunc(m.freed, func(s freedMemory) bool { return s.mark.Value() == nil })
	for _, s := range m.freed {
		bytes += s.bytes
	}
	return bytes
}
