package session

import (
	"context"
	"errors"
	"time"
)

// Flight is a request in flight. Call Land when it is done.
type Flight struct {
	live   *Live
	cancel context.CancelCauseFunc
	about  string
	at     int // its place among the session's; -1: it isn't among them
}

// Attach binds ctx to the session: it is cancelled, with the cause ErrNone, within a
// second of the session's end, as long as Look is called. about is what Live.Break knows
// the request by.
func (s *Sessions) Attach(ctx context.Context, l *Live, about string) (bound context.Context, f *Flight) {
	bound, cancel := context.WithCancelCause(ctx)
	f = &Flight{live: l, cancel: cancel, about: about, at: -1}
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		cancel(ErrNone)
		return bound, f
	}
	f.at = len(l.flights)
	l.flights = append(l.flights, f)
	tell := !l.watched
	l.watched = true
	l.mu.Unlock()
	if tell {
		s.memory().watch(l)
	}
	return bound, f
}

// Land takes f out of those in flight. Nobody but Look looks for a session without
// any: most have their next request soon.
func (f *Flight) Land() {
	l := f.live
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

// Break cancels, with the cause ErrNone, the session's requests in flight that are about
// something over. The session goes on.
func (l *Live) Break(over func(about string) bool) {
	l.mu.Lock()
	var broken []*Flight
	for _, f := range l.flights {
		if over(f.about) {
			broken = append(broken, f)
		}
	}
	l.mu.Unlock()
	for _, f := range broken {
		f.cancel(ErrNone)
	}
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

func (m *Memory) watch(l *Live) {
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

// LookEvery is how often to call Look, for requests to end within a second of their session.
const LookEvery = 500 * time.Millisecond

// Look looks at the sessions with requests in flight, of all Sessions that share the
// Memory, and ends these requests when the session's time is over by the limits of s, or
// when stillGood (the word of the package above: is the contact still one, and not
// disabled?) says no. It also lets go of what is over and still in memory. One caller at
// a time is enough.
func (s *Sessions) Look(ctx context.Context, stillGood func(context.Context, *Live) bool) {
	m := s.memory()
	for i := range m.shards {
		for _, l := range m.shards[i].watched() {
			if !s.good(ctx, l) || !stillGood(ctx, l) {
				m.letGo(l)
			}
		}
	}
	m.sweep(&m.shards[uint8(m.looked.Add(1)-1)], s.alive)
}

// good reports whether l still is a session. One that was moved out of memory to make
// room hears neither of its end nor of later requests, so the store is asked; when
// that can't tell, what is in flight goes on.
func (s *Sessions) good(ctx context.Context, l *Live) bool {
	if s.memory().find(l.key) == l {
		return s.alive(l) || !errors.Is(s.renew(ctx, l), ErrNone)
	}
	_, err := s.read(ctx, l.ID)
	return !errors.Is(err, ErrNone)
}
