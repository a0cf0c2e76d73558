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
func (s *Sessions) news(ids ...string) ([]store.Op, error) {
	if s.Others == nil || len(ids) == 0 {
		return nil, nil
	}
	now := s.now()
	op, err := s.told().Put(newsID(now)+rand.Text(), ids, now.Add(newsLife))
	return []store.Op{op}, err
}

func (s *Sessions) told() *sealed.Bucket[[]string] {
	return &sealed.Bucket[[]string]{Store: s.Store, Keys: s.Keys, Firm: s.Firm, Name: endedBucket, Now: s.now, Format: format, Alarm: s.Alarm}
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
	for rec, err := range s.told().All(ctx, "", newsID(now.Add(-newsAgain))) {
		forged := errors.Is(err, sealed.ErrUntrusted)
		if err != nil && !forged {
			return err
		}
		if _, known := m.told.heard[rec.ID]; known {
			continue
		}
		if forged {
			m.rereadAll() // nobody knows what it should have said
		} else {
			m.forget(rec.Value...)
		}
		if m.told.heard == nil {
			m.told.heard = make(map[string]time.Time)
		}
		m.told.heard[rec.ID] = now
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
