package outbox

import (
	"context"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"golang.org/x/time/rate"
)

// The steps between tries of one message: soon at first, since somebody is waiting, then
// as long as greylisting wants, at most ten minutes.
var messageSteps = []time.Duration{5 * time.Second, 30 * time.Second, time.Minute,
	2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute}

// The steps between tries of a server that can't be used. One message tries for all, so
// this can be more often: what waits is on its way soon after the server is back.
var serverSteps = []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second,
	40 * time.Second, 80 * time.Second, 2 * time.Minute}

// farthest is longer than any step with its jitter. What is due later than that was
// written before the clock was set back, and is due now.
const farthest = 15 * time.Minute

// backOff returns how long to wait after that many failures, between 80 and 100 % of
// the step, so that many messages that failed together don't come back together.
func backOff(steps []time.Duration, failures int) time.Duration {
	step := steps[min(max(failures, 1), len(steps))-1]
	return step - time.Duration(rand.Int64N(int64(step)/5+1))
}

// Pace makes the limiter for Queue.Pace: never more than n hand-overs in any such time,
// but at least one, and a tenth of them at once.
func Pace(n int, per time.Duration) *rate.Limiter {
	n = max(n, 1)
	burst := max(n/10, 1)
	// What flows in within that time comes on top of the burst that began it.
	return rate.NewLimiter(rate.Limit(float64(n-burst+1)/per.Seconds()), burst)
}

// SetPace has a limiter go on with the limit of another one. What was handed over before counts.
func SetPace(l, to *rate.Limiter) {
	l.SetBurst(to.Burst())
	l.SetLimit(to.Limit())
}

// step is what to do with an entry that is ready to be sent.
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
	if q.Process != nil && !q.Process.holds(e.Owner) {
		e.Owner = "" // who had it in hand has stopped, or is dead
	}
	return e.next(now, q.name)
}

func waits(until, now time.Time) bool { return until.After(now) && until.Sub(now) <= farthest }

// item is what a queue remembers of an entry between two looks at it.
type item struct {
	due   time.Time
	fails int  // in a row, of what isn't counted in the store
	tries int  // hand-overs that failed
	sent  bool // the server has it; only the store doesn't know yet
	// common: a reserved ID puts it before no others, see Prepared.
	common bool
}

// lane holds the entries that wait for the same kind of worker.
type lane struct {
	items map[string]item
	bell  chan struct{} // rung when there may be something to do
}

func newLane() *lane {
	return &lane{items: map[string]item{}, bell: make(chan struct{}, 1)}
}

func (l *lane) ring() {
	select {
	case l.bell <- struct{}{}:
	default: // it is ringing already
	}
}

// first returns the entry to do now, in the order of IDs (see NewID), or else the time
// when the next one is due; zero: there is none. With fewest, entries that were tried less
// often come before. It looks at every entry: at most Queue.Max, and each costs a write to
// the disk anyway.
func (l *lane) first(now time.Time, fewest bool) (id string, due time.Time) {
	tries := 0
	for candidate, it := range l.items {
		switch {
		case waits(it.due, now):
			if due.IsZero() || it.due.Before(due) {
				due = it.due
			}
		case id == "", fewest && it.tries < tries, (!fewest || it.tries == tries) && before(candidate, it, id, l.items[id]):
			id, tries = candidate, it.tries
		}
	}
	return id, due
}

// several returns up to n entries to do now, in the order of IDs, or else the time when the
// next one is due; zero: there is none.
func (l *lane) several(now time.Time, n int) (ids []string, due time.Time) {
	for candidate, it := range l.items {
		if waits(it.due, now) {
			if due.IsZero() || it.due.Before(due) {
				due = it.due
			}
			continue
		}
		if len(ids) == n {
			if before(ids[n-1], l.items[ids[n-1]], candidate, it) {
				continue
			}
			ids = ids[:n-1]
		}
		at := sort.Search(len(ids), func(i int) bool { return before(candidate, it, ids[i], l.items[ids[i]]) })
		ids = slices.Insert(ids, at, candidate)
	}
	return ids, due
}

// sleep waits until the bell rings, wait is over (negative: for the bell only), or ctx
// is done, for which it returns false.
func (l *lane) sleep(ctx context.Context, wait time.Duration) bool {
	var alarm <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-l.bell:
	case <-alarm:
	}
	return true
}
