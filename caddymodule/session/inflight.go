package session

import (
	"context"
	"errors"
	"time"
)

// InFlight is a request in flight. Call Done when it ends.
type InFlight struct {
	session *Cached
	cancel  context.CancelCauseFunc
	label   string
	index   int // index in session.inFlight; -1: not in it
}

// Attach returns a context that is canceled with the cause ErrNone within a second of the
// session's end, provided that Sweep is called every SweepInterval. label identifies the request
// to Cached.CancelRequests.
func (s *Sessions) Attach(ctx context.Context, l *Cached, label string) (bound context.Context, f *InFlight) {
	bound, cancel := context.WithCancelCause(ctx)
	f = &InFlight{session: l, cancel: cancel, label: label, index: -1}
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		cancel(ErrNone)
		return bound, f
	}
	f.index = len(l.inFlight)
	l.inFlight = append(l.inFlight, f)
	watch := !l.watched
	l.watched = true
	l.mu.Unlock()
	if watch {
		s.memory().watch(l)
	}
	return bound, f
}

// Done removes f from the session's requests in flight. The session stays in its shard's inFlight
// until the next Sweep: most have another request soon.
func (f *InFlight) Done() {
	l := f.session
	l.mu.Lock()
	if f.index >= 0 {
		last := len(l.inFlight) - 1
		l.inFlight[f.index] = l.inFlight[last]
		l.inFlight[f.index].index = f.index
		l.inFlight[last] = nil
		l.inFlight = l.inFlight[:last]
		f.index = -1
	}
	l.mu.Unlock()
	f.cancel(context.Canceled)
}

// CancelRequests cancels, with the cause ErrNone, the requests in flight whose label matches. The
// session goes on.
func (l *Cached) CancelRequests(match func(label string) bool) {
	l.mu.Lock()
	var broken []*InFlight
	for _, f := range l.inFlight {
		if match(f.label) {
			broken = append(broken, f)
		}
	}
	l.mu.Unlock()
	for _, f := range broken {
		f.cancel(ErrNone)
	}
}

// end cancels the requests in flight, and all later ones.
func (l *Cached) end() {
	l.mu.Lock()
	all := l.inFlight
	l.ended, l.inFlight = true, nil
	for _, f := range all {
		f.index = -1
	}
	l.mu.Unlock()
	for _, f := range all {
		f.cancel(ErrNone)
	}
}

func (m *Memory) watch(l *Cached) {
	sh := m.shard(l.key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.inFlight == nil {
		sh.inFlight = make(map[*Cached]struct{})
	}
	sh.inFlight[l] = struct{}{}
}

// watched returns the sessions with requests in flight. It removes those without from the shard's
// inFlight.
func (sh *shard) watched() (busy []*Cached) {
	sh.mu.RLock()
	n := len(sh.inFlight)
	sh.mu.RUnlock()
	if n == 0 {
		return nil
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for l := range sh.inFlight {
		l.mu.Lock()
		if l.watched = len(l.inFlight) > 0; l.watched {
			busy = append(busy, l)
		} else {
			delete(sh.inFlight, l)
		}
		l.mu.Unlock()
	}
	return busy
}

// SweepInterval is how often to call Sweep, so that requests end within a second of their
// session.
const SweepInterval = 500 * time.Millisecond

// Sweep cancels the requests in flight of sessions that have exceeded the limits of s or for
// which stillAllowed returns false (the caller checks there whether the contact still exists and
// is not disabled). It covers all Sessions that share the Memory. It also removes sessions from
// memory that have run out. One caller at a time is enough.
func (s *Sessions) Sweep(ctx context.Context, stillAllowed func(context.Context, *Cached) bool) {
	m := s.memory()
	for i := range m.shards {
		for _, l := range m.shards[i].watched() {
			if !s.stillValid(ctx, l) || !stillAllowed(ctx, l) {
				m.expire(l)
			}
		}
	}
	m.sweep(&m.shards[uint8(m.nextSweep.Add(1)-1)], s.valid)
}

// stillValid reports whether l is still a session. A Live that was evicted from memory gets
// neither revocations nor later requests, so stillValid reads the store for it; if that fails,
// requests in flight go on.
func (s *Sessions) stillValid(ctx context.Context, l *Cached) bool {
	if s.memory().find(l.key) == l {
		return s.valid(l) || !errors.Is(s.refresh(ctx, l), ErrNone)
	}
	_, err := s.read(ctx, l.ID)
	return !errors.Is(err, ErrNone)
}
