package session

import (
	"context"
	"errors"
	"time"
)

// Attach binds ctx to the session: it is cancelled within a second of the session's
// end. Call detach when the request is done. It takes no lock that the requests of
// other sessions need for long: one of 64, for the session's first request in flight.
func (s *Sessions) Attach(ctx context.Context, l *Live) (bound context.Context, detach func()) {
	bound, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		cancel()
		return bound, cancel
	}
	if l.cause == nil {
		l.cause = make(map[*context.CancelFunc]struct{}, 1)
	}
	l.cause[&cancel] = struct{}{}
	if len(l.cause) == 1 {
		s.mark(l, true)
	}
	l.mu.Unlock()
	return bound, func() {
		l.mu.Lock()
		if _, ok := l.cause[&cancel]; ok {
			delete(l.cause, &cancel)
			if len(l.cause) == 0 {
				s.mark(l, false)
			}
		}
		l.mu.Unlock()
		cancel()
	}
}

func (s *Sessions) mark(l *Live, busy bool) {
	shard := &s.busy[l.ID[0]&63]
	shard.Lock()
	defer shard.Unlock()
	if !busy {
		delete(shard.live, l)
		return
	}
	if shard.live == nil {
		shard.live = make(map[*Live]struct{})
	}
	shard.live[l] = struct{}{}
}

// end cancels what is in flight, for good.
func (l *Live) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	for cancel := range l.cause {
		(*cancel)()
	}
}

// Watch looks twice a second at the sessions with requests in flight and ends these
// requests when the session's time is over, or when stillGood (the word of the
// package above: is the contact still one, and not disabled?) says no. It returns
// when ctx is done.
func (s *Sessions) Watch(ctx context.Context, stillGood func(context.Context, *Live) bool) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for i := range s.busy {
				s.watchShard(ctx, i, stillGood)
			}
		}
	}
}

func (s *Sessions) watchShard(ctx context.Context, i int, stillGood func(context.Context, *Live) bool) {
	shard := &s.busy[i]
	shard.Lock()
	live := make([]*Live, 0, len(shard.live))
	for l := range shard.live {
		live = append(live, l)
	}
	shard.Unlock()
	for _, l := range live {
		if !s.alive(l) || !s.known(ctx, l) || !stillGood(ctx, l) {
			s.forget(l.ID)
			l.end()
		}
	}
}

// known reports whether l still is a session. One that was moved out of memory to
// make room doesn't hear of its end, so it is looked up in the store; when the store
// can't tell, what is in flight goes on.
func (s *Sessions) known(ctx context.Context, l *Live) bool {
	if v, ok := s.cache.Load(l.ID); ok && v.(*Live) == l {
		return true
	}
	_, err := s.read(ctx, l.ID)
	return !errors.Is(err, ErrNone)
}
