package session

import (
	"crypto/sha256"
	"encoding/base64"
	"sync"
	"sync/atomic"
)

const (
	cookieLength = 43 // 256 bits in base64url
	defaultLimit = 1_000_000
	samples      = 8 // sessions that are compared when one has to go
)

// key is the SHA-256 of a cookie.
type key [sha256.Size]byte

func keyOf(cookie string) key {
	var b [cookieLength]byte // on the stack
	return sha256.Sum256(b[:copy(b[:], cookie)])
}

func (k key) String() string { return base64.RawURLEncoding.EncodeToString(k[:]) }

// parseKey is the reverse of String.
func parseKey(id string) (k key, ok bool) {
	n, err := base64.RawURLEncoding.Decode(k[:], []byte(id[:min(len(id), base64.RawURLEncoding.EncodedLen(len(k)))]))
	return k, err == nil && n == len(k)
}

// Memory is what the Sessions of a firm hold between requests. Sessions that follow
// one another on one store, as at a reload, share it, so that what one of them ends is
// over for the requests of all. The zero value is empty and ready; it mustn't be copied.
type Memory struct {
	shards [256]shard
	held   atomic.Int64
	hand   atomic.Uint32 // the shard to make room in next
	looked atomic.Uint32 // the shard to sweep next

	told news // by other processes
}

// shard is a part of the memory, padded so that no two share a cache line.
type shard struct {
	mu   sync.RWMutex
	live map[key]*Live
	busy map[*Live]struct{} // those with requests in flight; see Look
	ends uint64             // counts what ended here; see hold
	_    [64 - 48]byte
}

func (m *Memory) shard(k key) *shard { return &m.shards[k[0]] }

// find returns the session, or nil when it isn't held.
func (m *Memory) find(k key) *Live {
	sh := m.shard(k)
	sh.mu.RLock()
	l := sh.live[k]
	sh.mu.RUnlock()
	return l
}

// endings counts the sessions that have ended in k's part of the memory.
func (m *Memory) endings(k key) uint64 {
	sh := m.shard(k)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.ends
}

// hold puts l into memory, or returns the one that is there already. It refuses when
// something ended in l's part since endings was before: what was read from the store
// and ended on the way must not come back to life here.
func (m *Memory) hold(l *Live, before uint64, limit int) (*Live, bool) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	if sh.ends != before {
		sh.mu.Unlock()
		return nil, false
	}
	if there := sh.live[l.key]; there != nil {
		sh.mu.Unlock()
		return there, true
	}
	if sh.live == nil {
		sh.live = make(map[key]*Live)
	}
	sh.live[l.key] = l
	held := m.held.Add(1)
	sh.mu.Unlock()
	if limit == 0 {
		limit = defaultLimit
	}
	if held > int64(limit) {
		m.makeRoom()
	}
	return l, true
}

// makeRoom drops one session: of a few that it comes across, the one that has been
// quiet for longest. One with requests in flight stays, so that they hear of its end.
func (m *Memory) makeRoom() {
	for range m.shards {
		sh := &m.shards[uint8(m.hand.Add(1))]
		if m.dropFrom(sh) {
			return
		}
	}
}

func (m *Memory) dropFrom(sh *shard) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var oldest *Live
	n := 0
	for _, l := range sh.live { // from anywhere: Go begins a walk over a map at random
		if _, busy := sh.busy[l]; !busy && (oldest == nil || l.seen.Load() < oldest.seen.Load()) {
			oldest = l
		}
		if n++; n == samples && oldest != nil {
			break
		}
	}
	if oldest == nil {
		return false
	}
	m.drop(sh, oldest)
	return true
}

// drop takes l out of memory without ending it. The shard's lock is held.
func (m *Memory) drop(sh *shard, l *Live) {
	if sh.live[l.key] == l {
		delete(sh.live, l.key)
		m.held.Add(-1)
	}
}

// forget ends sessions in memory, after the store has done so.
func (m *Memory) forget(ids ...string) {
	for _, id := range ids {
		k, ok := parseKey(id)
		if !ok {
			continue
		}
		sh := m.shard(k)
		sh.mu.Lock()
		sh.ends++
		l := sh.live[k]
		if l != nil {
			m.drop(sh, l)
		}
		sh.mu.Unlock()
		if l != nil {
			l.end()
		}
	}
}

// reread takes a session out of memory, so that the next request asks the store.
func (m *Memory) reread(id string) {
	if k, ok := parseKey(id); ok {
		sh := m.shard(k)
		sh.mu.Lock()
		sh.ends++
		if l := sh.live[k]; l != nil {
			m.drop(sh, l)
		}
		sh.mu.Unlock()
	}
}

// rereadAll takes every session out of memory. What is in flight goes on: Look asks the
// store about it.
func (m *Memory) rereadAll() {
	for i := range m.shards {
		sh := &m.shards[i]
		sh.mu.Lock()
		sh.ends++
		m.held.Add(-int64(len(sh.live)))
		clear(sh.live)
		sh.mu.Unlock()
	}
}

// letGo takes l itself out of memory, and cancels what is in flight.
func (m *Memory) letGo(l *Live) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	m.drop(sh, l)
	sh.mu.Unlock()
	l.end()
}

// sweep takes those out of one shard's memory that are over and of no use to anyone.
func (m *Memory) sweep(sh *shard, alive func(*Live) bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, l := range sh.live {
		if _, busy := sh.busy[l]; !busy && !alive(l) {
			m.drop(sh, l)
		}
	}
}
