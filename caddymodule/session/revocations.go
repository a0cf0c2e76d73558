package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	revocationLife    = 10 * time.Minute // how long a revocation is stored
	revocationOverlap = 2 * time.Minute  // how far back Sync reads again, since clocks differ
)

// revocations remembers which revocations of other processes have been applied here.
type revocations struct {
	mu   sync.Mutex
	seen map[string]time.Time // record ID → when it was read
}

// announce returns the Op that tells other processes that the sessions have ended. Apply it
// in the transaction that ends them.
func (s *Sessions) announce(ids ...string) ([]store.Op, error) {
	if s.Peers == nil || len(ids) == 0 {
		return nil, nil
	}
	now := s.now()
	op, err := s.revocations().Put(revocationID(now)+rand.Text(), ids, now.Add(revocationLife))
	return []store.Op{op}, err
}

func (s *Sessions) revocations() *sealed.Bucket[[]string] {
	return &sealed.Bucket[[]string]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: revocationBucket, Now: s.now, Format: format, OnUntrusted: s.OnUntrusted}
}

// revocationID returns the start of the IDs of revocations made at the time. Later ones sort
// after it.
func revocationID(at time.Time) string { return fmt.Sprintf("%013d-", max(0, at.UnixMilli())) }

// Sync ends sessions in memory that other processes have ended, and cancels their requests in
// flight. One caller at a time is enough.
func (s *Sessions) Sync(ctx context.Context) error {
	m := s.memory()
	m.revocations.mu.Lock()
	defer m.revocations.mu.Unlock()
	if s.Peers.Stale() {
		m.evictAll() // revocations may have expired unread
	}
	now := s.now()
	for rec, err := range s.revocations().All(ctx, "", revocationID(now.Add(-revocationOverlap))) {
		forged := errors.Is(err, sealed.ErrUntrusted)
		if err != nil && !forged {
			return err
		}
		if _, known := m.revocations.seen[rec.ID]; known {
			continue
		}
		if forged {
			m.evictAll() // its session IDs are unknown
		} else {
			m.revoke(rec.Value...)
		}
		if m.revocations.seen == nil {
			m.revocations.seen = make(map[string]time.Time)
		}
		m.revocations.seen[rec.ID] = now
	}
	for id, at := range m.revocations.seen {
		if now.Sub(at) > revocationLife {
			delete(m.revocations.seen, id)
		}
	}
	return nil
}

// refresh reads from the store whether l is still valid and when its last request was, since
// another process may have served it. It returns ErrNone, after l has ended here too, or the
// store's error.
func (s *Sessions) refresh(ctx context.Context, l *Cached) error {
	if s.Peers == nil {
		s.memory().expire(l)
		return ErrNone
	}
	as, err := s.read(ctx, l.ID)
	if errors.Is(err, ErrNone) {
		s.memory().revoke(l.ID)
		return ErrNone
	} else if err != nil {
		return err
	}
	if seen, was := as.Seen.UnixNano(), l.seen.Load(); seen > was {
		l.seen.CompareAndSwap(was, seen)
	}
	if !s.valid(l) {
		s.memory().expire(l)
		return ErrNone
	}
	return nil
}
