package directory

import "sync"

// versionedCache caches values that were read from the directory, each valid for one Version. If it
// is full, a new value evicts an arbitrary one. The zero value is ready to use; it must not be
// copied.
type versionedCache[K comparable, V any] struct {
	mu     sync.RWMutex
	values map[K]cachedValue[V]
}

type cachedValue[V any] struct {
	version uint64
	value   V
}

// get returns the value that was put for the same version.
func (m *versionedCache[K, V]) get(k K, version uint64) (v V, ok bool) {
	m.mu.RLock()
	r, ok := m.values[k]
	m.mu.RUnlock()
	if !ok || r.version != version {
		return v, false
	}
	return r.value, true
}

func (m *versionedCache[K, V]) put(k K, version uint64, v V, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.values == nil {
		m.values = make(map[K]cachedValue[V])
	}
	if _, there := m.values[k]; !there && len(m.values) >= size {
		for any := range m.values { // map iteration begins at a random entry
			delete(m.values, any)
			break
		}
	}
	m.values[k] = cachedValue[V]{version, v}
}
