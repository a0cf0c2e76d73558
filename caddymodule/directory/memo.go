package directory

import "sync"

// memo holds what was read from the book, each as of one Version, and no more than its
// size: what has to go for something new is any of it. The zero value is empty and ready;
// it mustn't be copied.
type memo[K comparable, V any] struct {
	mu   sync.RWMutex
	held map[K]remembered[V]
}

type remembered[V any] struct {
	version uint64
	value   V
}

// get returns what was put as of the version.
func (m *memo[K, V]) get(k K, version uint64) (v V, ok bool) {
	m.mu.RLock()
	r, ok := m.held[k]
	m.mu.RUnlock()
	if !ok || r.version != version {
		return v, false
	}
	return r.value, true
}

func (m *memo[K, V]) put(k K, version uint64, v V, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held == nil {
		m.held = make(map[K]remembered[V])
	}
	if _, there := m.held[k]; !there && len(m.held) >= size {
		for any := range m.held { // Go begins a walk over a map at random
			delete(m.held, any)
			break
		}
	}
	m.held[k] = remembered[V]{version, v}
}
