package outbox

import (
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"
)

// The steps between tries of one message: soon at first, since somebody is waiting, then
// as long as greylisting wants, at most ten minutes.
var messageSteps = []time.Duration{5 * time.Second, 30 * time.Second, time.Minute,
	2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute}

// The steps between tries of a message that is refused because of us: it goes out soon after that
// is repaired.
var policySteps = []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second,
	40 * time.Second, 80 * time.Second, 2 * time.Minute}

// The steps between tries of a server that can't be used. One message tries for all, so
// this can be more often: what waits is on its way soon after the server is back.
var serverSteps = []time.Duration{5 * time.Second, 10 * time.Second, 30 * time.Second}

// The steps between tries to delete a mail that was sent. Another machine may take it for its own
// once its lease is over, so they are short.
var finishSteps = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second}

// farthest is longer than any delay with its jitter. An entry that is due later than that was written
// before the clock was set back, and is due now.
const farthest = 15 * time.Minute

// backOff returns how long to wait after that many failures, between 80 and 100 % of
// the step, so that many messages that failed together don't come back together.
func backOff(steps []time.Duration, failures int) time.Duration {
	step := steps[min(max(failures, 1), len(steps))-1]
	return step - time.Duration(rand.Int64N(int64(step)/5+1))
}

// Pace makes the limiter for a Server: never more than n hand-overs in any such time,
// but at least one, and a tenth of them at once.
func Pace(n int, per time.Duration) *rate.Limiter {
	n = max(n, 1)
	burst := max(n/10, 1)
	// Tokens that arrive within that time are added to the initial burst.
	return rate.NewLimiter(rate.Limit(float64(n-burst+1)/per.Seconds()), burst)
}

// step is the next action for an entry that is ready to be sent.
type step int

const (
	stepWait step = iota // not now: not before the time that comes with it
	stepSend
	stepDrop // its time is over
)

// next decides about an entry at a given time, for the queue with the name owner.
func (e entry) next(now time.Time, owner string) (step, time.Time) {
	switch {
	case !now.Before(e.NotAfter):
		return stepDrop, time.Time{}
	case e.Owner != "" && e.Owner != owner && waits(e.Until, now):
		return stepWait, e.Until
	case waits(e.Due, now):
		return stepWait, e.Due
	}
	return stepSend, time.Time{}
}

// next decides about an entry at a given time.
func (q *Queue) next(e entry, now time.Time) (step, time.Time) {
	if q.Process != nil {
		e.Owner = "" // see Process.hands
	}
	return e.next(now, q.name)
}

func waits(until, now time.Time) bool { return until.After(now) && until.Sub(now) <= farthest }
