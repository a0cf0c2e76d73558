package session

import (
	"context"
	"errors"
	"time"
)

// flight is a request in flight.
type flight struct {
	cancel context.CancelCauseFunc
	at     int // its place among the session's; -1: it has landed
}

// Attach binds ctx to the session: it is cancelled, with the cause ErrNone, within a
// second of the session's end, as long as Watch runs. Call detach when the request is
// done.
func (s *Sessions) Attach(ctx context.Context, l *Live) (bound context.Context, detach func()) {
	bound, cancel := context.WithCancelCause(ctx)
	f := &flight{cancel: cancel}
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		cancel(ErrNone)
		return bound, func() {}
	}
	f.at = len(l.flights)
	l.flights = append(l.flights, f)
	tell := !l.watched
	l.watched = true
	l.mu.Unlock()
	if tell {
		s.memory.watch(l)
	}
	return bound, func() { l.land(f) }
}

// land takes f out of those in flight. Nobody but Watch looks for a session without
// any: most have their next request soon.
func (l *Live) land(f *flight) {
	l.mu.Lock()
	if f.at >= 0 {
		last := len(l.flights) - 1
		l.flights[f.at] = l.flights[last]
		l.flights[f.at].at = f.at
		l.flights[last] = nil
		l.flights = l.flights[:last]
		f.at = -1
	}
	l.mu.Unlock()
	f.cancel(context.Canceled)
}

// end cancels what is in flight, for good.
func (l *Live) end() {
	l.mu.Lock()
	all := l.flights
	l.over, l.flights = true, nil
	for _, f := range all {
		f.at = -1
	}
	l.mu.Unlock()
	for _, f := range all {
		f.cancel(ErrNone)
	}
}

func (m *memory) watch(l *Live) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.busy == nil {
		sh.busy = make(map[*Live]struct{})
	}
	sh.busy[l] = struct{}{}
}

// watched returns the sessions with requests in flight, and stops watching those of
// the shard that have none any more.
func (sh *shard) watched() (busy []*Live) {
	sh.mu.RLock()
	n := len(sh.busy)
	sh.mu.RUnlock()
	if n == 0 {
		return nil
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for l := range sh.busy {
		l.mu.Lock()
		if l.watched = len(l.flights) > 0; l.watched {
			busy = append(busy, l)
		} else {
			delete(sh.busy, l)
		}
		l.mu.Unlock()
	}
	return busy
}

// Watch looks twice a second at the sessions with requests in flight and ends these
// requests when the session's time is over, or when stillGood (the word of the
// package above: is the contact still one, and not disabled?) says no. It also lets go
// of what is over and still in memory. It returns when ctx is done.
func (s *Sessions) Watch(ctx context.Context, stillGood func(context.Context, *Live) bool) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for n := uint8(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range s.memory.shards {
			for _, l := range s.memory.shards[i].watched() {
				if !s.good(ctx, l) || !stillGood(ctx, l) {
					s.memory.letGo(l)
				}
			}
		}
		s.memory.sweep(&s.memory.shards[n], s.alive)
	}
}

// good reports whether l still is a session. One that was moved out of memory to make
// room hears neither of its end nor of later requests, so the store is asked; when
// that can't tell, what is in flight goes on.
func (s *Sessions) good(ctx context.Context, l *Live) bool {
	if s.memory.find(l.key) == l {
		return s.alive(l)
	}
	_, err := s.read(ctx, l.ID)
	return !errors.Is(err, ErrNone)
}
