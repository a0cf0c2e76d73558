package session

import (
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"sync/atomic"
)

const (
	cookieLength    = 43 // 256 bits in base64url
	defaultLimit    = 1_000_000
	evictionSamples = 8 // sessions compared when one is evicted
)

// key is the SHA-256 of a cookie.
type key [sha256.Size]byte

func keyOf(cookie string) key {
	var b [cookieLength]byte // on the stack
	return sha256.Sum256(b[:copy(b[:], cookie)])
}

func (k key) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// parseKey is the inverse of String.
func parseKey(id string) (k key, ok bool) {
	n, err := base64.RawURLEncoding.Decode(k[:], []byte(id[:min(len(id), base64.RawURLEncoding.EncodedLen(len(k)))]))
	return k, err == nil && n == len(k)
}

// Memory caches the sessions of a firm between requests. Sessions that use one store one
// after another, as at a reload, share a Memory, so that a session ended by one is ended
// for all. The zero value is empty and ready to use. A Memory must not be copied.
type Memory struct {
	shards       [256]shard
	count        atomic.Int64
	nextEviction atomic.Uint32 // shard to evict from next
	nextSweep    atomic.Uint32 // shard to sweep next

	revocations revocations // those of other processes
}

// shard is a part of the memory, padded so that no two shards share a cache line.
type shard struct {
	mu       sync.RWMutex
	sessions map[key]*Cached
	inFlight map[*Cached]struct{} // sessions with requests in flight; see Sweep
	revoked  uint64               // number of sessions revoked here; see add
	_        [64 - 48]byte
}

// Len returns the number of sessions in memory.
func (m *Memory) Len() int { return int(m.count.Load()) }

func (m *Memory) shard(k key) *shard { return &m.shards[k[0]] }

// find returns the session, or nil if it isn't in memory.
func (m *Memory) find(k key) *Cached {
	sh := m.shard(k)
	sh.mu.RLock()
	l := sh.sessions[k]
	sh.mu.RUnlock()
	return l
}

// revokedCount returns how many sessions have been revoked in k's shard.
func (m *Memory) revokedCount(k key) uint64 {
	sh := m.shard(k)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.revoked
}

// add puts l into memory and returns it, or returns the Live that is there already. It
// returns false if a session of l's shard was revoked since revokedCount was before: then
// l may have been read from the store before it ended.
func (m *Memory) add(l *Cached, before uint64, limit int) (*Cached, bool) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	if sh.revoked != before {
		sh.mu.Unlock()
		return nil, false
	}
	if cached := sh.sessions[l.key]; cached != nil {
		sh.mu.Unlock()
		return cached, true
	}
	if sh.sessions == nil {
		sh.sessions = make(map[key]*Cached)
	}
	sh.sessions[l.key] = l
	count := m.count.Add(1)
	sh.mu.Unlock()
	if limit == 0 {
		limit = defaultLimit
	}
	if count > int64(limit) {
		m.evictOne()
	}
	return l, true
}

// evictOne removes one session: of a few samples, the one without requests for longest.
// Sessions with requests in flight stay, so that these are canceled when the session
// ends.
func (m *Memory) evictOne() {
	for range m.shards {
		sh := &m.shards[uint8(m.nextEviction.Add(1))]
		if m.evictFrom(sh) {
			return
		}
	}
}

func (m *Memory) evictFrom(sh *shard) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var oldest *Cached
	n := 0
	for _, l := range sh.sessions { // at random: Go starts iterating over a map anywhere
		if _, busy := sh.inFlight[l]; !busy && (oldest == nil || l.seen.Load() < oldest.seen.Load()) {
			oldest = l
		}
		if n++; n == evictionSamples && oldest != nil {
			break
		}
	}
	if oldest == nil {
		return false
	}
	m.drop(sh, oldest)
	return true
}

// drop removes l from memory without ending it. The caller holds the shard's lock.
func (m *Memory) drop(sh *shard, l *Cached) {
	if sh.sessions[l.key] == l {
		delete(sh.sessions, l.key)
		m.count.Add(-1)
	}
}

// revoke ends sessions in memory after they have ended in the store.
func (m *Memory) revoke(ids ...string) {
	for _, id := range ids {
		k, ok := parseKey(id)
		if !ok {
			continue
		}
		sh := m.shard(k)
		sh.mu.Lock()
		sh.revoked++
		l := sh.sessions[k]
		if l != nil {
			m.drop(sh, l)
		}
		sh.mu.Unlock()
		if l != nil {
			l.end()
		}
	}
}

// evict removes a session from memory, so that its next request reads the store.
func (m *Memory) evict(id string) {
	if k, ok := parseKey(id); ok {
		sh := m.shard(k)
		sh.mu.Lock()
		sh.revoked++
		if l := sh.sessions[k]; l != nil {
			m.drop(sh, l)
		}
		sh.mu.Unlock()
	}
}

// evictAll removes every session from memory. Requests in flight continue until Sweep
// finds that their session has ended in the store.
func (m *Memory) evictAll() {
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		sh.revoked++
		m.count.Add(-int64(len(sh.sessions)))
		clear(sh.sessions)
		sh.mu.Unlock()
	}
}

// expire removes l from memory and cancels its requests in flight.
func (m *Memory) expire(l *Cached) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	m.drop(sh, l)
	sh.mu.Unlock()
	l.end()
}

// sweep removes sessions from one shard that have run out and have no requests in flight.
func (m *Memory) sweep(sh *shard, valid func(*Cached) bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, l := range sh.sessions {
		if _, busy := sh.inFlight[l]; !busy && !valid(l) {
			m.drop(sh, l)
		}
	}
}
