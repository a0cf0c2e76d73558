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
func (c *clock) Now() time.Time { return c.at(time.Now()) }

func (c *clock) at(wall time.Time) time.Time {
	ahead := c.ahead.Load()
	steady := c.start.Round(0).Add(wall.Sub(c.start) + time.Duration(ahead))
	wall = wall.Round(0)
	for late := wall.Sub(steady); late > 0; late = wall.Sub(steady) {
		if c.ahead.CompareAndSwap(ahead, ahead+int64(late)) {
			return wall
		}
		next := c.ahead.Load()
		steady = steady.Add(time.Duration(next - ahead))
		ahead = next
	}
	return steady
}
