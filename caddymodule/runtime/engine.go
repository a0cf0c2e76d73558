// Package runtime runs a configuration. Server (server.go) is the running part of one configuration;
// the Engine outlives reloads, with the store, its clock and the firms' memory (engine.go, clock.go).
// keys.go has the secrets, trust.go and reseal.go guard the store and seal it again after a secret has
// changed. Each Firm (firm.go) has its gate and the work beside requests, such as loading changed files
// (files.go) and ending requests whose session has ended (watch.go).
package runtime

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/migrate"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// openStore opens the store. others is nil where no other process can have it open.
func openStore(p config.Location, clock *Clock, log *slog.Logger, late bool) (s store.Store, others *redis.Store, err error) {
	if p.Path != "" {
		s, err = bolt.Open(p.Path, bolt.Options{Clock: clock.Now, Log: log})
		return s, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	others, err = redis.Open(ctx, redis.Options{Address: p.Redis, Clock: clock.Now, Log: log, Late: late})
	return others, others, err
}

// Backup writes a copy of the store: bolt's file, also of a store on Redis. Of records on Redis that
// change meanwhile, the copy has some value that they had.
func (e *Engine) Backup(ctx context.Context, w io.Writer) (err error) {
	if s, ok := e.Store.(interface{ Backup(io.Writer) error }); ok {
		return s.Backup(w)
	}
	if err := os.MkdirAll(config.DataDir(), 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(config.DataDir(), "backup-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := bolt.Open(filepath.Join(dir, config.StoreFile), bolt.Options{Clock: e.Clock.Now})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := migrate.Copy(ctx, e.Others, db); err != nil {
		return err
	}
	return db.Backup(w)
}

// openTime is how long a start waits for the store.
const openTime = 10 * time.Second

// Engine has the store and the firms' memory. It outlives reloads.
type Engine struct {
	Store  store.Store
	Others *redis.Store // the same store, where other processes may have it open; else nil
	Clock  *Clock       // the one that the store judges by
	log    *newestLog

	greeted atomic.Bool // see First
	stop    context.CancelFunc
	running sync.WaitGroup // what goes on as long as the store is open

	mu   sync.Mutex
	kept map[string]any
}

// Destruct closes the store, when the last share of it is gone, and before it whatever
// was kept and has to be closed.
func (e *Engine) Destruct() error {
	for _, v := range e.kept {
		if c, ok := v.(io.Closer); ok {
			if err := c.Close(); err != nil {
				e.log.to.Load().Error("closing what was kept", "error", err)
			}
		}
	}
	e.stop()
	e.running.Wait()
	return e.Store.Close()
}

// First reports whether this is the first config that the engine serves, rather than
// one that a reload brought.
func (e *Engine) First() bool { return !e.greeted.Swap(true) }

// Keep returns what is kept under the name, which fresh makes the first time. It
// stays until the store closes, over every reload; fresh mustn't call Keep.
func (e *Engine) Keep(name string, fresh func() any) any {
	e.mu.Lock()
	defer e.mu.Unlock()
	v, ok := e.kept[name]
	if !ok {
		v = fresh()
		e.kept[name] = v
	}
	return v
}

// Has reports whether something is kept under the name.
func (e *Engine) Has(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.kept[name]
	return ok
}

// KeepIf is Keep where fresh may fail: then nothing is kept.
func (e *Engine) KeepIf(name string, fresh func() (any, error)) (v any, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if v, ok := e.kept[name]; ok {
		return v, nil
	}
	v, err = fresh()
	if err == nil {
		e.kept[name] = v
	}
	return v, err
}

// Anchors returns those that are kept.
func (e *Engine) Anchors() (all []*anchor.Store) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, v := range e.kept {
		if s, ok := v.(*anchor.Store); ok {
			all = append(all, s)
		}
	}
	return all
}

// newestLog is a slog.Handler that writes to the log of the newest config that
// started: that of the config which opened the engine ends with it.
type newestLog struct{ to atomic.Pointer[slog.Logger] }

func (l *newestLog) handler() slog.Handler { return l.to.Load().Handler() }

// Enabled implements slog.Handler.
func (l *newestLog) Enabled(ctx context.Context, level slog.Level) bool {
	return l.handler().Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *newestLog) Handle(ctx context.Context, r slog.Record) error {
	return l.handler().Handle(ctx, r)
}

// WithAttrs implements slog.Handler; what it returns stays with the log of now.
func (l *newestLog) WithAttrs(attrs []slog.Attr) slog.Handler { return l.handler().WithAttrs(attrs) }

// WithGroup implements slog.Handler; what it returns stays with the log of now.
func (l *newestLog) WithGroup(name string) slog.Handler { return l.handler().WithGroup(name) }

// OpenEngine opens the store. With late, a server that can't be reached yet is no error.
func OpenEngine(p config.Location, log *slog.Logger, late bool) (*Engine, error) {
	newest := new(newestLog)
	newest.to.Store(log)
	clock := newClock()
	s, others, err := openStore(p, clock, slog.New(newest), late)
	if err != nil {
		return nil, err
	}
	e := &Engine{Store: s, Others: others, Clock: clock, log: newest, kept: make(map[string]any)}
	return e, e.begin()
}

// LogTo has what the engine does be logged there from now on.
func (e *Engine) LogTo(log *slog.Logger) { e.log.to.Store(log) }

// begin begins what goes on as long as the store is open. After an error the store is closed.
func (e *Engine) begin() error {
	ctx, stop := context.WithCancel(context.Background())
	e.stop = stop
	if e.Others != nil { // of many clocks, one that is wrong mustn't set all others
		return nil
	}
	behind, err := e.Clock.resume(ctx, e.Store)
	if err != nil {
		stop()
		return errors.Join(err, e.Store.Close())
	}
	if behind > time.Minute {
		slog.New(e.log).Warn("this machine's clock says an earlier time than when the store was last open; set it right (NTP)",
			"behind", behind.Round(time.Second).String(), "made_up_for", behind <= mostBehind)
	}
	e.running.Go(func() { e.Clock.keepNoting(ctx, e.Store) })
	return nil
}
