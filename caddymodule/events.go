package caddymodule

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
)

const (
	// maxEvents is how many events wait for handlers of Caddy's events.
	maxEvents = 1000
	// lastEvents is how long those may take that wait when a configuration ends.
	lastEvents = 3 * time.Second
)

// emitter passes audit's events on to Caddy's events app, whose handlers may be slow: they run one after the other, in a
// goroutine of their own. It is a slog.Handler around that of the log, for the logger of audit's events: what is written
// there is what happened, without the bulk of a flood.
type emitter struct {
	slog.Handler
	attrs []slog.Attr // of the logger
	*emitting
}

// emitting is what an emitter and those derived from it share.
type emitting struct {
	active  func() bool // the configuration is the one that runs
	started atomic.Bool // it was, at some time
	should  func(name string) bool
	emit    func(name string, data map[string]any)
	log     *slog.Logger
	queue   chan happened
	ending  chan struct{} // closed when the configuration ends
	done    sync.WaitGroup
}

type happened struct {
	name string
	data map[string]any
}

// newEmitter returns an emitter for the events app of the configuration; nil if it has none.
func newEmitter(ctx caddy.Context, log slog.Handler, sampled *slog.Logger, active func() bool) *emitter {
	found, err := ctx.AppIfConfigured("events")
	app, ok := found.(*caddyevents.App)
	if err != nil || !ok {
		return nil // it isn't configured, so nobody listens
	}
	return &emitter{Handler: log, emitting: &emitting{active: active, should: app.ShouldEmit, log: sampled, queue: make(chan happened, maxEvents), ending: make(chan struct{}),
		emit: func(name string, data map[string]any) { app.Emit(ctx, name, data) }}}
}

// start begins to pass events on.
func (e *emitting) start() {
	e.done.Go(func() {
		if !e.untilActive() {
			return
		}
		for {
			select {
			case h := <-e.queue:
				e.emit(h.name, h.data)
			case <-e.ending:
				e.passRest()
				return
			}
		}
	})
}

// untilActive waits until all apps of the configuration have started, the events app too: only then it knows its
// handlers. It returns false if the configuration ends before.
func (e *emitting) untilActive() bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !e.active() {
		select {
		case <-tick.C:
		case <-e.ending:
			return false
		}
	}
	e.started.Store(true)
	return true
}

// passRest passes on what waits, for a while.
func (e *emitting) passRest() {
	for deadline := time.Now().Add(lastEvents); time.Now().Before(deadline); {
		select {
		case h := <-e.queue:
			e.emit(h.name, h.data)
		default:
			return
		}
	}
}

// end passes on what waits, and waits for that, but not for a handler that hangs: Caddy cancels its context next.
func (e *emitting) end() {
	close(e.ending)
	ended := make(chan struct{})
	go func() { e.done.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * lastEvents):
	}
}

// Enabled implements slog.Handler. Events are passed on whatever the log's level is.
func (e *emitter) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (e *emitter) Handle(ctx context.Context, r slog.Record) error {
	e.pass(r)
	if !e.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return e.Handler.Handle(ctx, r)
}

// pass queues a line of audit for Caddy's events.
func (e *emitter) pass(r slog.Record) {
	kind := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "event" {
			kind = a.Value.String()
		}
		return kind == ""
	})
	name := "doorpost_" + strings.ReplaceAll(kind, "-", "_")
	if kind == "" || e.started.Load() && !e.should(name) {
		return
	}
	data := map[string]any{"time": r.Time.UTC().Format(time.RFC3339Nano), "text": r.Message}
	for _, a := range e.attrs {
		data[a.Key] = a.Value.Any()
	}
	r.Attrs(func(a slog.Attr) bool {
		data[a.Key] = a.Value.Any()
		return true
	})
	select {
	case e.queue <- happened{name, data}:
	default:
		e.log.Error("an event wasn't passed on to Caddy's events: too many wait for its handlers", "event", kind,
			"what_to_do", "make the handlers of the events quicker, or subscribe to fewer kinds")
	}
}

// WithAttrs implements slog.Handler.
func (e *emitter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &emitter{e.Handler.WithAttrs(attrs), append(e.attrs[:len(e.attrs):len(e.attrs)], attrs...), e.emitting}
}

// WithGroup implements slog.Handler.
func (e *emitter) WithGroup(name string) slog.Handler {
	return &emitter{e.Handler.WithGroup(name), e.attrs, e.emitting}
}
