package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	ended     = "session-ended"  // bucket: time "-" random → IDs of sessions that ended then
	newsLife  = 10 * time.Minute // how long that is kept
	newsAgain = 2 * time.Minute  // how far back is looked again: clocks differ
)

// news remembers what has been heard of other processes.
type news struct {
	mu    sync.Mutex
	heard map[string]time.Time // ID of the record → when it was read
}

// news returns the Op by which other processes hear that the sessions have ended; it goes
// with the Ops that end them.
func (s *Sessions) news(ids ...string) []store.Op {
	if s.Others == nil || len(ids) == 0 {
		return nil
	}
	now := s.now()
	k := store.Key{Firm: s.Firm, Bucket: ended, ID: newsID(now) + rand.Text()}
	return []store.Op{store.Put(k, append([]byte{version}, strings.Join(ids, " ")...), now.Add(newsLife))}
}

// newsID is what the IDs of news from then on begin with, or come behind.
func newsID(at time.Time) string { return fmt.Sprintf("%013d-", max(0, at.UnixMilli())) }

// CatchUp ends here what other processes have ended, with its requests in flight. One
// caller at a time is enough.
func (s *Sessions) CatchUp(ctx context.Context) error {
	m := s.memory()
	m.told.mu.Lock()
	defer m.told.mu.Unlock()
	if s.Others.Doubtful() {
		m.rereadAll() // there may be news that is gone by now
	}
	now := s.now()
	for after := newsID(now.Add(-newsAgain)); ; {
		const page = 500
		recs, err := s.Store.Scan(ctx, s.Firm, ended, "", after, page)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			after = rec.Key.ID
			if _, known := m.told.heard[after]; known {
				continue
			}
			if len(rec.Value) == 0 || rec.Value[0] != version {
				return foreign(ended)
			}
			m.forget(strings.Split(string(rec.Value[1:]), " ")...)
			if m.told.heard == nil {
				m.told.heard = make(map[string]time.Time)
			}
			m.told.heard[after] = now
		}
		if len(recs) < page {
			break
		}
	}
	for id, at := range m.told.heard {
		if now.Sub(at) > newsLife {
			delete(m.told.heard, id)
		}
	}
	return nil
}

// renew asks the store whether l goes on, and since when nobody was seen: another process
// may know better. It returns ErrNone, after l has ended here too, or the store's error.
func (s *Sessions) renew(ctx context.Context, l *Live) error {
	if s.Others == nil {
		s.memory().letGo(l)
		return ErrNone
	}
	as, err := s.read(ctx, l.ID)
	if errors.Is(err, ErrNone) {
		s.memory().forget(l.ID)
		return ErrNone
	} else if err != nil {
		return err
	}
	if seen, was := as.Seen.UnixNano(), l.seen.Load(); seen > was {
		l.seen.CompareAndSwap(was, seen)
	}
	if !s.alive(l) {
		s.memory().letGo(l)
		return ErrNone
	}
	return nil
}
