package outbox

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// DefaultConnections is how many messages a mail server gets at a time.
const DefaultConnections = 4

// Server is one mail server, shared by the queues of all firms that use it: its rate, its
// connections and its state. It gives turns to messages one after another: from the highest lane
// with a waiting message, and within it to the queues in turn. It is safe for concurrent use.
type Server struct {
	now func() time.Time

	mu          sync.Mutex
	connections int
	pace        *rate.Limiter
	waiting     [lanes][]*turn
	unsettled   [lanes]int // turns after which their queue may ask for the next one at once
	asked       uint64     // turns, ever
	sending     int        // turns that were given
	unpaid      int        // of these, the ones that haven't taken their token of pace
	alarm       *time.Timer
	down        outage
	narrow      narrow // how many turns there may be at a time
	policy      repeat // the last refusal by policy

	last lastStep
}

// turn is the right to hand one message over.
type turn struct {
	lane   int
	number uint64
	given  chan struct{} // closed when it is
	probe  bool          // this message tries for all whether the server can be used again
	paid   bool          // its token of pace is taken
	over   bool
	asks   bool // its queue hasn't said yet whether it asks for another one; see settle
	others int  // turns that were given when it took its token
}

// NewServer returns a Server that gets that many messages at a time (at least one), at that pace
// (nil: 60 a minute). now (nil: time.Now) decides about outages; timers run by the real clock.
func NewServer(connections int, pace *rate.Limiter, now func() time.Time) *Server {
	if pace == nil {
		pace = Pace(60, time.Minute)
	}
	if now == nil {
		now = time.Now
	}
	return &Server{now: now, connections: max(connections, 1), pace: pace, last: newLastStep()}
}

// Set changes the rate and the number of connections. Earlier hand-overs count. A server that
// couldn't be used is tried at once, since the settings may have changed.
func (s *Server) Set(connections int, pace *rate.Limiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.connections = max(connections, 1)
	s.pace.SetBurst(pace.Burst())
	s.pace.SetLimit(pace.Limit())
	s.down.until = time.Time{}
	s.give()
}

// Tokens returns how many messages its pace lets through at once now.
func (s *Server) Tokens() float64 { return s.pace.Tokens() }

// Wake has the server look at the clock, which may have been set.
func (s *Server) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.give()
}

// wait waits for a turn for a message of the lane. giveBack and settle are to be called after it.
// last is the turn that the caller had before in this lane, if any, and settles it.
func (s *Server) wait(ctx context.Context, lane int, last *turn) (*turn, error) {
	s.mu.Lock()
	s.asked++
	t := &turn{lane: lane, number: s.asked, given: make(chan struct{})}
	s.waiting[lane] = append(s.waiting[lane], t)
	s.settled(last)
	s.give()
	s.mu.Unlock()
	select {
	case <-t.given:
		return t, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	at := slices.Index(s.waiting[lane], t)
	if at >= 0 {
		s.waiting[lane] = slices.Delete(s.waiting[lane], at, at+1)
	}
	s.mu.Unlock()
	if at < 0 {
		s.giveBack(t)
		s.settle(t)
	}
	return nil, ctx.Err()
}

// settle says that the one who had the turn asks for no other one now. Until then no lower lane
// gets a turn: a message of this lane may be about to ask.
func (s *Server) settle(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled(t)
	s.give()
}

func (s *Server) settled(t *turn) {
	if t != nil && t.asks {
		t.asks = false
		s.unsettled[t.lane]--
	}
}

// giveBack ends a turn; a second time it does nothing.
func (s *Server) giveBack(t *turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	s.sending--
	if !t.paid {
		s.unpaid--
	}
	if t.probe {
		s.down.probe = false
	}
	s.give()
}

// give gives turns as long as the server may have more. s.mu is held.
func (s *Server) give() {
	for s.sending < s.connections {
		lane, wait := s.next()
		if wait > 0 {
			if s.alarm == nil {
				s.alarm = time.AfterFunc(wait, s.Wake)
			} else {
				s.alarm.Reset(wait)
			}
		}
		if lane < 0 {
			return
		}
		t := s.waiting[lane][0]
		s.waiting[lane] = s.waiting[lane][1:]
		s.sending++
		s.unpaid++
		t.asks = true
		s.unsettled[lane]++
		if !s.down.since.IsZero() {
			t.probe, s.down.probe = true, true
		}
		close(t.given)
	}
}

// next returns the lane whose turn it is; or -1, and how long it is until there may be one
// (negative: until something happens). s.mu is held.
func (s *Server) next() (lane int, wait time.Duration) {
	lane = -1
	for l, all := range s.waiting {
		if lane < 0 && len(all) == 0 && s.unsettled[l] > 0 {
			break
		}
		switch {
		case len(all) == 0:
		case lane < 0, !s.down.since.IsZero() && all[0].number < s.waiting[lane][0].number:
			lane = l // while it is down not always the same message tries, which may be at fault itself
		}
	}
	if lane < 0 {
		return -1, -1
	}
	now := s.now()
	if wait, held := s.down.holds(now); held {
		return -1, wait
	}
	if wait, held := s.narrow.holds(s.sending, now); held {
		return -1, wait
	}
	if wait := s.untilToken(lane); wait > 0 {
		return -1, wait
	}
	return lane, 0
}

// untilToken returns how long it takes until the pace lets a message of that lane through, behind
// those that have their turn already. Lower lanes leave a part of the burst to the ones before
// them. It goes by the real clock: a limit is a promise to a server that has its own. s.mu is held.
func (s *Server) untilToken(lane int) time.Duration {
	if s.pace.Limit() == rate.Inf {
		return 0
	}
	missing := 1 + float64(s.pace.Burst()*lane/4+s.unpaid) - s.pace.Tokens()
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing/float64(s.pace.Limit())*float64(time.Second)) + time.Millisecond
}

// pay takes the token of pace that the turn stands for, and reports whether there was one: the
// pace may have been set since.
func (s *Server) pay(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !t.paid && s.pace.Allow() {
		t.paid, t.others = true, s.sending-1
		s.unpaid--
	}
	return t.paid
}

// lastStep lets one message at a time be between the last step of its hand-over and the note
// that it is sent, so that a crash repeats one message and not one a connection. A server that
// is slow in this step sets the pace of each connection, not that of all together.
type lastStep struct {
	turn chan struct{}
	slow atomic.Int32 // how many in a row took it longer than slowStep
}

const (
	slowStep     = 50 * time.Millisecond
	slowInARow   = 8
	lastPatience = time.Second
)

func newLastStep() lastStep { return lastStep{turn: make(chan struct{}, 1)} }

// begin waits for the turn, and returns what ends it.
func (l *lastStep) begin(ctx context.Context) (end func()) {
	if l.slow.Load() >= slowInARow {
		return func() {}
	}
	patience := time.NewTimer(lastPatience)
	defer patience.Stop()
	select {
	case l.turn <- struct{}{}:
		return sync.OnceFunc(func() { <-l.turn })
	case <-patience.C:
	case <-ctx.Done():
	}
	return func() {}
}

// took takes in how long the server took for the step.
func (l *lastStep) took(d time.Duration) {
	if d <= slowStep {
		l.slow.Store(0)
	} else {
		l.slow.Add(1)
	}
}
