package runtime

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// watch ends requests when their session does. Requests outlive their config, so it
// looks as long as the store is open: by the newest config that runs, or, when the firm
// is in none any more, by the last one that had it.
type watch struct {
	mu    sync.Mutex
	gates []*gate.Gate // of the configs that run, the newest last: two at a reload
	last  *gate.Gate   // of the last one that ran, where none does

	stop    context.CancelFunc
	running sync.WaitGroup
}

// newWatch returns a watch that looks until it is closed. server is the store of the
// firm where other processes may have it open, and others what is known of these; nil
// where there are none.
func newWatch(firm string, server *redis.Store, others *store.Peers) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{stop: cancel}
	w.running.Go(func() { w.run(ctx) })
	if others != nil {
		told := make(chan struct{}, 1)
		w.running.Go(func() {
			server.Subscribe(ctx, firm, func(string) {
				select {
				case told <- struct{}{}:
				default: // it will look anyway
				}
			})
		})
		w.running.Go(func() { w.keepUp(ctx, told, others) })
	}
	return w
}

func (w *watch) run(ctx context.Context) {
	tick := time.NewTicker(session.SweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if g := w.newest(); g != nil {
			g.EndRequests(ctx)
		}
	}
}

func (w *watch) newest() *gate.Gate {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.gates) == 0 {
		return w.last
	}
	return w.gates[len(w.gates)-1]
}

func (w *watch) add(g *gate.Gate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gates, w.last = append(w.gates, g), nil
}

func (w *watch) remove(g *gate.Gate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gates = slices.DeleteFunc(w.gates, func(other *gate.Gate) bool { return other == g })
	if len(w.gates) == 0 {
		w.last = g
	}
}

// Close ends the looking and waits for it.
func (w *watch) Close() error {
	w.stop()
	w.running.Wait()
	return nil
}

const (
	// keepUpEvery is how often to read changes of other processes, whose messages may be lost.
	keepUpEvery = 2 * time.Second
	// doubtAfter is how long memory is trusted after the last successful read. A session that
	// another process has ended is over here within this time and one read.
	doubtAfter = 4 * time.Second
)

// keepUp updates memory with the changes of other processes. While these can't be read, it marks
// memory as stale.
func (w *watch) keepUp(ctx context.Context, told <-chan struct{}, others *store.Peers) {
	doubt := time.AfterFunc(doubtAfter, func() { others.SetStale(true) })
	defer doubt.Stop()
	tick := time.NewTicker(keepUpEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-told:
		case <-tick.C:
		}
		g := w.newest()
		if g == nil {
			continue
		}
		began := time.Now()
		if g.Sync(ctx) != nil {
			continue // that the server is gone has been logged
		}
		if left := doubtAfter - time.Since(began); left > 0 {
			others.SetStale(false)
			doubt.Reset(left)
		}
	}
}

// othersOf returns the other processes that have the store open; nil if there can be none.
func othersOf(firm string, server *redis.Store) *store.Peers {
	if server == nil {
		return nil
	}
	// The other processes see a change within a second or, if this message is lost, with their
	// next read.
	return &store.Peers{Notify: func(ctx context.Context) { _ = server.Publish(context.WithoutCancel(ctx), firm, "look") }}
}
