package outbox

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Outage says that a mail server can't be used, and why.
type Outage struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"` // see Reason
	Next   time.Time `json:"next"`   // when it is tried again
}

// Outage returns what keeps all mail of this queue waiting; false: nothing does.
func (q *Queue) Outage() (Outage, bool) {
	if q.Server == nil {
		return Outage{}, false
	}
	return q.Server.Outage()
}

// Outage returns what keeps the server from being used; false: nothing does.
func (s *Server) Outage() (Outage, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.down
	return Outage{o.since, o.reason, o.until}, !o.since.IsZero()
}

// outage is the state of a mail server that can't be used: since when, and when one message is the
// next probe for all.
type outage struct {
	since  time.Time // zero: nothing is wrong
	fails  int
	until  time.Time
	probe  bool      // the one message is on its way
	reason string    // of the last failure
	policy string    // the codes of the refusal that it is, where it is one of ErrPolicy
	logged time.Time // when it was told last
}

// holds reports whether sending has to wait, and for how long (negative: for the probe).
func (o *outage) holds(now time.Time) (time.Duration, bool) {
	switch {
	case o.since.IsZero():
		return 0, false
	case waits(o.until, now):
		return o.until.Sub(now), true
	}
	return -1, o.probe
}

// note takes in how a try ended, and reports whether that ended the outage.
func (o *outage) note(err error, now time.Time) (over bool) {
	switch {
	case errors.Is(err, context.Canceled): // its queue is stopping; nothing was learnt
		return false
	case !errors.Is(err, ErrServer):
		over = !o.since.IsZero()
		*o = outage{}
		return over
	case o.since.IsZero():
		*o = outage{since: now, fails: 1, until: now.Add(backOff(serverSteps, 1)), probe: o.probe}
	case !waits(o.until, now): // else it set out before the first of them came back
		o.fails++
		o.until = now.Add(backOff(serverSteps, o.fails))
	}
	o.reason = Reason(err)
	return false
}

// tellEvery is how often the log is reminded of an outage that lasts.
const tellEvery = 10 * time.Minute

// worthTelling reports whether the log is to be told of the outage now: when it begins, when its
// reason is another one, and now and then.
func (o *outage) worthTelling(was string, now time.Time) bool {
	if o.since.IsZero() || o.reason == was && now.Sub(o.logged) < tellEvery {
		return false
	}
	o.logged = now
	return true
}

// repeat is the last refusal by policy.
type repeat struct {
	codes string // with the step; "": the server has taken a message since, or refused a recipient
	to    string
}

// evaluate returns what the error of a hand-over means, given what the server said about
// other messages. first: this message failed for the first time. One that was refused
// before, while others were taken, says nothing about the server. s.mu is held.
func (s *Server) evaluate(to string, first bool, err error) error {
	switch {
	case err == nil, errors.Is(err, ErrRefused):
		s.policy = repeat{}
		return err
	}
	said, ok := replyOf(err)
	if ok && said.throttles() && !first && s.down.since.IsZero() {
		return &replyError{ErrPolicy, said} // others were taken meanwhile
	}
	if !ok || !errors.Is(err, ErrPolicy) {
		return err
	}
	was, this := s.policy, repeat{said.policy(), to}
	s.policy = this
	if this.codes != s.down.policy && (!first || this.codes != was.codes || this.to == was.to) {
		return err // it may be about this recipient alone
	}
	return &replyError{ErrServer, said}
}

// noted takes in how a hand-over at a turn ended, and returns what its error means.
func (s *Server) noted(ctx context.Context, q *Queue, e entry, err error, t *turn) error {
	s.mu.Lock()
	now := s.now()
	err = s.evaluate(e.To, e.Last == "", err)
	said, isReply := replyOf(err)
	if isReply && said.subject() == aboutConnections && s.narrow.refused(t.others, now) {
		limit, told := s.narrow.max, s.narrow.told
		s.narrow.told = true
		s.mu.Unlock()
		if !told {
			q.Log.Info("the mail server takes fewer connections at a time than were opened", "connections", limit, "answer", said.String(), "for", narrowTime.String())
		}
		return errNarrow
	}
	if err == nil {
		s.narrow.inARow = 0
	}
	was := s.down.reason
	over := s.down.note(err, now)
	if errors.Is(err, ErrServer) && isReply && (said.step != stepConnect && said.step != stepMail) {
		s.down.policy = said.policy()
	}
	tell := s.down.worthTelling(was, now)
	down := s.down
	s.mu.Unlock()
	if over {
		q.Log.Info("the " + q.Channel.server() + " can be used again")
	}
	if tell {
		q.Log.Log(ctx, slog.LevelWarn, "the "+q.Channel.server()+" can't be used; all "+q.Channel.String()+" waits", "error", down.reason, "what_to_do", Advice(down.reason),
			"since", down.since, "next_try", down.until, "waiting", q.Len())
	}
	return err
}

// narrow is how many messages may be under way at a time, after a server refused
// connections because of their number. The zero value is no limit.
type narrow struct {
	max    int
	until  time.Time
	pause  time.Time // no connection before that
	inARow int       // refusals of the only connection
	told   bool
}

const (
	narrowTime  = 10 * time.Minute
	narrowPause = time.Second // a server may count a connection for a while after its end
	narrowTries = 5
)

// errNarrow: the message waits until another one is through.
var errNarrow = errors.New("outbox: the mail server takes fewer connections at a time")

// refused takes in that a connection was refused because of their number, and reports
// whether fewer of ours can help.
func (n *narrow) refused(others int, now time.Time) bool {
	active := now.Before(n.until)
	if others == 0 {
		if n.inARow++; !active || n.inARow > narrowTries {
			return false
		}
		n.pause = now.Add(narrowPause)
		return true
	}
	if !active {
		*n = narrow{max: others}
	}
	n.max, n.until = min(n.max, others), now.Add(narrowTime)
	return true
}

// holds reports whether sending has to wait, with that many messages under way, and for how
// long (negative: until one is through).
func (n *narrow) holds(sending int, now time.Time) (time.Duration, bool) {
	switch {
	case !now.Before(n.until):
		return 0, false
	case waits(n.pause, now):
		return n.pause.Sub(now), true
	}
	return -1, sending >= n.max
}
