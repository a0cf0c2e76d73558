package caddymodule

import (
	"sync/atomic"
	"time"
)

// clock tells the time, and never goes back while the process lives: what has run out
// stays so when somebody sets the machine's clock back. It does go forward with the
// machine's clock, since a machine that slept must not think that no time has passed.
// Make it with newClock.
type clock struct {
	start time.Time    // with Go's monotonic reading
	ahead atomic.Int64 // how far the machine's clock has jumped ahead since, in nanoseconds
}

func newClock() *clock { return &clock{start: time.Now()} }

// Now returns the time. It may be called from many goroutines.
func (c *clock) Now() time.Time {
	now := time.Now()
	return c.at(now.Round(0), now.Sub(c.start))
}

// at returns the time when the machine's clock says wall, and passed has passed since
// the start, whatever the machine's clock was set to meanwhile.
func (c *clock) at(wall time.Time, passed time.Duration) time.Time {
	steady := c.start.Round(0).Add(passed)
	for {
		ahead := c.ahead.Load()
		now := steady.Add(time.Duration(ahead))
		late := wall.Sub(now)
		if late <= 0 {
			return now
		}
		if c.ahead.CompareAndSwap(ahead, ahead+int64(late)) {
			return wall
		}
	}
}
