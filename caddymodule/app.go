package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
)

func init() { caddy.RegisterModule(new(App)) }

// App has the settings of the global option `doorpost`, and the store and the firms that they
// open.
type App struct {
	config.Server

	log      *slog.Logger          // repeated lines are sampled
	events   *slog.Logger          // the same, unsampled, for what audit records
	emitter  *emitter              // passes that on to Caddy's events; nil: nobody listens
	resolved config.Resolved       // the settings, from Provision on
	ready    chan struct{}         // closed once Start has opened every firm
	registry prometheus.Registerer // of this config; what it counts is kept in engine

	mu    sync.Mutex              // guards named and warned until Start, which follows all Provisions
	named map[string]*config.Firm // by firm: its definition, filled in; nil: named, not defined

	warned map[string]bool // what was told of the sites: a site with several addresses has several handlers

	server *runtime.Server  // from Start on; its store is open until Cleanup, and as long as a request is inside
	share  *share           // of its store
	firms  map[string]*firm // those of server; read-only once ready is closed
}

// CaddyModule names the app to Caddy.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "doorpost", New: func() caddy.Module { return new(App) }}
}

// Provision fills in the placeholders and judges every setting and every file that
// is named. It opens no store, makes no file and sends nothing, so that `caddy
// validate` is good beside a running server.
func (a *App) Provision(ctx caddy.Context) error {
	a.events = ctx.Slogger()
	a.log = slog.New(audit.NewSampler(a.events.Handler(), time.Now))
	if a.emitter = newEmitter(ctx, a.events.Handler(), a.log, func() bool { return runningApp() == a }); a.emitter != nil {
		a.events = slog.New(a.emitter)
	}
	a.ready, a.registry = make(chan struct{}), ctx.GetMetricsRegistry()
	a.named, a.firms = make(map[string]*config.Firm), make(map[string]*firm)
	var err error
	a.resolved, err = a.Server.Resolve(a.log)
	return err
}

// name is called by each handler in its Provision. def is nil where a site block
// only names a firm. One definition may come more than once, as a site block with
// several addresses gives it to several servers; a different one is an error.
func (a *App) name(id string, def *config.Firm) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.named[id]
	if def == nil || was != nil && was.Equal(*def) {
		def = was
	} else if was != nil {
		return fmt.Errorf(`firm %s is defined twice; define it in one site block and write "doorpost %s" alone in the others`, id, id)
	}
	a.named[id] = def
	return nil
}

// warnOnce warns of something about a firm, unless it has been told.
func (a *App) warnOnce(firm, msg string, args ...any) {
	a.mu.Lock()
	key := fmt.Sprint(firm, msg, args)
	told := a.warned[key]
	if a.warned == nil {
		a.warned = map[string]bool{}
	}
	a.warned[key] = true
	a.mu.Unlock()
	if !told {
		a.log.Warn(msg, append([]any{"firm", firm}, args...)...)
	}
}

// undefined returns the error of a firm that no site block defines.
func undefined(id string) error {
	return fmt.Errorf(`firm %s is named, but no site block defines it; write "doorpost %s { url …, brand … }" in one of them`, id, id)
}

// Start opens the store, finds or makes the secret, and opens every firm. After an error, Cleanup
// closes everything that was opened.
func (a *App) Start() error {
	for id, def := range a.named {
		if def == nil {
			return undefined(id)
		}
	}
	if err := runtime.MoveFiles(&a.resolved, isOpen, a.log); err != nil {
		return err
	}
	engine, share, err := openEngine(a.resolved.Store, a.log, firstStart())
	if err != nil {
		return err
	}
	a.share = share
	a.server = &runtime.Server{Settings: a.resolved, Named: a.named, Files: a.NamedFiles(), Engine: engine, Log: a.log, Events: a.events, ClientIP: clientIP,
		Running: runningServer, OpenEngines: openEngines}
	if a.emitter != nil {
		a.emitter.start()
	}
	// The registry is this config's own; the counters go on over reloads.
	if err := a.registry.Register(a.server.Counters()); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	if err := a.server.Start(); err != nil {
		return err
	}
	if err := a.registry.Register(runtime.Metrics{Server: a.server}); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	for id, f := range a.server.Firms() {
		a.firms[id] = &firm{Firm: f}
	}
	close(a.ready)
	if engine.First() {
		a.server.Welcome(os.Stderr)
	}
	return nil
}

// firstStart reports whether no configuration is running yet: then a store that can't be
// reached is waited for. A reload that can't reach its store is refused.
func firstStart() bool { return caddy.ActiveContext().Context == nil }

// runningApp returns the App of the configuration that runs; nil: it has none.
func runningApp() *App {
	v, err := caddy.ActiveContext().AppIfConfigured("doorpost")
	if err != nil {
		return nil
	}
	a, _ := v.(*App)
	return a
}

// runningServer returns the Server of the configuration that runs; nil: it has none.
func runningServer() *runtime.Server {
	if a := runningApp(); a != nil {
		return a.server
	}
	return nil
}

// Stop ends what the firms do on their own. Requests that are inside go on, and new
// ones of this config are still served until Cleanup: Caddy stops apps in any order.
func (a *App) Stop() error {
	if a.server == nil {
		return nil
	}
	err := a.server.Stop()
	if a.emitter != nil {
		a.emitter.end()
	}
	return err
}

// Cleanup lets go of the store, which closes when no newer config and no request
// that outlived this one needs it. It comes also after a Provision or Start that
// failed half-way.
func (a *App) Cleanup() error {
	if a.share == nil {
		return nil
	}
	return a.share.leave()
}

var (
	errStarting = errors.New("not started yet")
	errStopped  = errors.New("this configuration has been replaced")
	errNoFirm   = errors.New("no such firm")
)

// startWait is how long a request waits for Start: Caddy starts apps in any order,
// and with a quarter of the starts its servers are there first.
const startWait = 5 * time.Second

// enter returns the firm, which stays open until leave is called. It waits a while
// for Start; after Cleanup it is the firm of the config that runs now. The errors are
// errStarting, errStopped, errNoFirm, or that of ctx.
func (a *App) enter(ctx context.Context, id string) (f *firm, leave func(), err error) {
	select {
	case <-a.ready:
	default:
		late := time.NewTimer(startWait)
		defer late.Stop()
		select {
		case <-a.ready:
		case <-late.C:
			return nil, nil, errStarting
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	if !a.share.enter() {
		return a.enterNewest(ctx, id)
	}
	leave = func() {
		if err := a.share.leave(); err != nil {
			a.log.Error("closing the store", "error", err)
		}
	}
	if f = a.firms[id]; f == nil {
		leave()
		return nil, nil, errNoFirm
	}
	return f, leave, nil
}

// enterNewest is for a request that Caddy lets in by a server of this config after its
// Cleanup, as happens to a few at a reload: the config that runs now serves it.
func (a *App) enterNewest(ctx context.Context, id string) (*firm, func(), error) {
	newest := runningApp()
	if newest == nil || newest == a {
		return nil, nil, errStopped
	}
	return newest.enter(ctx, id)
}

// Interface guards.
var (
	_ caddy.App                   = (*App)(nil)
	_ caddy.Provisioner           = (*App)(nil)
	_ caddy.CleanerUpper          = (*App)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
