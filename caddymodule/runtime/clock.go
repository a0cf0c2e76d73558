package runtime

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Clock tells the time, and never goes back while the process lives, nor, with a store that
// this process alone has, from one start to the next: what has run out stays so when
// somebody sets the machine's clock back. It does go forward with the machine's clock,
// since a machine that slept must not think that no time has passed. Make it with newClock.
type Clock struct {
	start time.Time    // with Go's monotonic reading
	ahead atomic.Int64 // how far the machine's clock has jumped ahead since, in nanoseconds
}

func newClock() *Clock { return &Clock{start: time.Now()} }

// Now returns the time. It may be called from many goroutines.
func (c *Clock) Now() time.Time {
	now := time.Now()
	return c.at(now.Round(0), now.Sub(c.start))
}

// at returns the time when the machine's clock says wall, and passed has passed since
// the start, whatever the machine's clock was set to meanwhile.
func (c *Clock) at(wall time.Time, passed time.Duration) time.Time {
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

// NotBefore has the time be t at least.
func (c *Clock) NotBefore(t time.Time) {
	for {
		ahead := c.ahead.Load()
		late := t.Sub(c.start.Round(0).Add(time.Since(c.start) + time.Duration(ahead)))
		if late <= 0 || c.ahead.CompareAndSwap(ahead, ahead+int64(late)) {
			return
		}
	}
}

const (
	noteEvery = time.Minute
	// mostBehind is how far a clock that was set back while nothing ran is made up for.
	// One that is further behind was wrong before, and is believed now.
	mostBehind = 2 * time.Hour
)

// noted is where the time is noted now and then, so that what has run out stays so also
// when the clock is set back between two starts.
var noted = store.Key{Bucket: "doorpost", ID: "clock"}

// resume has the clock go on from where it was when the store was last open; after a
// kill from a minute before at most. It returns how far the machine's clock is behind.
func (c *Clock) resume(ctx context.Context, s store.Store) (behind time.Duration, err error) {
	rec, err := s.Get(ctx, noted)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	last, err := strconv.ParseInt(string(rec.Value), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading when the store was last open: %w", err)
	}
	behind = time.UnixMilli(last).Sub(c.Now())
	if behind > 0 && behind <= mostBehind {
		c.NotBefore(time.UnixMilli(last))
	}
	return behind, nil
}

// note notes the time.
func (c *Clock) note(ctx context.Context, s store.Store) error {
	return s.Apply(ctx, store.Put(noted, strconv.AppendInt(nil, c.Now().UnixMilli(), 10), time.Time{}))
}

// keepNoting notes the time every minute until ctx ends, and then once more.
func (c *Clock) keepNoting(ctx context.Context, s store.Store) {
	tick := time.NewTicker(noteEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_ = c.note(ctx, s) // a store that can't write says so itself; the next minute will do
		case <-ctx.Done():
			_ = c.note(context.WithoutCancel(ctx), s)
			return
		}
	}
}
