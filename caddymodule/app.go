package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func init() { caddy.RegisterModule(new(App)) }

// App is what all firms of one Caddy share: the settings of the global option `doorpost`, and
// what they make.
type App struct {
	config.Server

	log      *slog.Logger          // repeated lines are sampled
	events   *slog.Logger          // the same, unsampled
	resolved config.Resolved       // the settings, from Provision on
	ready    chan struct{}         // closed once Start has opened every firm
	registry prometheus.Registerer // of this config; what it counts is kept in engine

	mu    sync.Mutex              // guards named and warned until Start, which follows all Provisions
	named map[string]*config.Firm // by firm: its definition, filled in; nil: named, not defined

	warned map[string]bool // what was told of the sites: a site with several addresses has several handlers

	engine *runtime.Engine  // from Start to Cleanup, and as long as a request is inside
	share  *share           // of engine
	firms  map[string]*firm // read-only once ready is closed
	mail   *runtime.MailOut // of all firms without one of their own

	keys    *secret.Keyring // of this configuration
	sealing atomic.Bool     // they seal; see takeOver

	takingOver sync.Mutex // held while they begin to

	settingFiles *runtime.SettingFiles // of the app's own settings
	stopWatching context.CancelFunc    // of the files; nil: they aren't watched
	watching     sync.WaitGroup
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
	a.ready, a.registry = make(chan struct{}), ctx.GetMetricsRegistry()
	a.named = make(map[string]*config.Firm)
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

// Start opens the store, finds or makes the secret, and opens every firm. Whatever
// it opened before an error is closed by the time Cleanup returns.
func (a *App) Start() (err error) {
	for id, def := range a.named {
		if def == nil {
			return undefined(id)
		}
	}
	if err := a.moveFiles(); err != nil {
		return err
	}
	if a.engine, a.share, err = openEngine(a.resolved.Place, a.log, firstStart()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	inUse, late, err := a.openKeys(ctx)
	if err != nil {
		return err
	}
	if a.mail, err = runtime.OpenMail(a.resolved.Mail, a.engine.Keep, a.engine.Clock.Now); err != nil {
		return err
	}
	// The registry is this config's own; the counters go on over reloads.
	counters := a.engine.Keep("counters", func() any { return audit.NewCounters() }).(*audit.Counters)
	if err := a.registry.Register(counters); err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	firms, err := a.openFirms(ctx, runtime.Shared{Engine: a.engine, Keys: inUse, Mail: a.mail, Sent: a.sentLog(ctx),
		Permits: a.engine.Keep("permits", func() any { return password.NewPermits() }).(*password.Permits), Counters: counters, ClientIP: clientIP})
	if err != nil {
		return err
	}
	a.tellUnnamed(ctx)
	if err := a.tellRestore(ctx, firms); err != nil && !late {
		a.log.Error("whether a backup was restored can't be told", "error", err)
	}
	a.mail.Apply() // not before: this config may fail, and the other one go on
	for _, f := range firms {
		if f.Config.Mail != nil {
			f.Mail.Apply()
		}
	}
	a.firms = firms
	a.startWatching()
	a.engine.LogTo(a.log)
	close(a.ready)
	if a.engine.First() {
		a.welcome(os.Stderr)
	}
	return nil
}

// sentLog opens the list of mails that were sent, where this process alone has the store.
func (a *App) sentLog(ctx context.Context) *outbox.SentLog {
	if a.engine.Others != nil {
		return nil
	}
	l, err := a.engine.KeepIf("sent log", func() (any, error) {
		return outbox.OpenSentLog(ctx, a.resolved.Place.Path+".sent", a.engine.Store)
	})
	if err != nil {
		a.log.Warn("mails that were sent right before a crash may be sent twice", "error", err)
		return nil
	}
	return l.(*outbox.SentLog)
}

// secrets are those of this configuration.
func (a *App) secrets() *runtime.Secrets {
	return &runtime.Secrets{Resolved: a.resolved, Firms: slices.Sorted(maps.Keys(a.named)), Log: a.log}
}

// keptKeys names the keyring that everything of an engine seals with. It holds the secrets
// of the configuration that runs: one that is being loaded may fail, and what runs must be
// able to open whatever it wrote.
const keptKeys = "keys"

// openKeys finds the keys of this configuration, and returns the keyring in use, which has them too from
// now on: a firm that comes with this configuration may need one of its secrets. late: the store is a
// server that isn't there yet, so they weren't checked.
func (a *App) openKeys(ctx context.Context) (inUse *secret.Keyring, late bool, err error) {
	a.keys, err = a.secrets().Open(ctx, a.engine.Store, !a.engine.Has(keptKeys))
	if late = errors.Is(err, store.ErrUnavailable) && a.mayComeLate(); late {
		a.keys, err = secret.New(a.resolved.Secrets[0], a.resolved.Secrets[1:]...)
	}
	if err != nil {
		return nil, late, err
	}
	inUse = a.engine.Keep(keptKeys, func() any { return a.keys.Copy() }).(*secret.Keyring)
	if running := runningApp(); running != nil && running.engine == a.engine {
		_ = running.takeOver(ctx) // not later, when it would take from inUse what comes now
	}
	inUse.Adopt(inUse.With(a.keys))
	return inUse, late, nil
}

// openFirms opens all firms, or none.
func (a *App) openFirms(ctx context.Context, s runtime.Shared) (map[string]*firm, error) {
	firms := make(map[string]*firm, len(a.named))
	for _, id := range slices.Sorted(maps.Keys(a.named)) {
		s.Log, s.Events = a.log.With("firm", id), a.events.With("firm", id)
		f, err := a.openFirm(ctx, id, s)
		if err != nil {
			stopAll(firms)
			return nil, err
		}
		firms[id] = f
	}
	return firms, nil
}

// openFirm opens a firm. The keys of this configuration have to open whatever its records need.
func (a *App) openFirm(ctx context.Context, id string, s runtime.Shared) (*firm, error) {
	guarded, err := a.anchorOf(ctx, id, a.keys, s.Keys)
	if err == nil {
		err = (&directory.Book{Firm: id, Store: guarded}).CheckKeys(ctx, a.keys)
	}
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	f, err := runtime.Open(id, *a.named[id], guarded, s)
	if err != nil {
		return nil, fmt.Errorf("firm %s: %w", id, err)
	}
	return &firm{Firm: f}, nil
}

// startWatching begins to look at the files that the configuration names.
func (a *App) startWatching() {
	a.settingFiles = runtime.SettingFilesOf(a.NamedFiles())
	ctx, cancel := context.WithCancel(context.Background())
	a.stopWatching = cancel
	a.watching.Go(func() { a.watchFiles(ctx) })
	a.watching.Go(func() { a.reseal(ctx) })
}

// lookAtFilesEvery is how often the files are looked at.
const lookAtFilesEvery = time.Second

// watchFiles looks at the files that the configuration names until ctx ends.
func (a *App) watchFiles(ctx context.Context) {
	tick := time.NewTicker(lookAtFilesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		a.lookAtFiles(ctx)
	}
}

func (a *App) lookAtFiles(ctx context.Context) {
	now := a.engine.Clock.Now()
	for _, f := range a.firms {
		f.LookAtFiles(ctx, now)
	}
	a.settingFiles.Look(now, a.log)
}

// firstStart reports whether no configuration is running yet: then a store that can't be
// reached is waited for, since there is nothing better to go on with. A reload is refused.
func firstStart() bool { return caddy.ActiveContext().Context == nil }

// mayComeLate reports whether the store is a server that wasn't there yet when the first
// configuration was started.
func (a *App) mayComeLate() bool {
	return a.engine.Others != nil && !a.engine.Others.Met() && len(a.resolved.Secrets) > 0
}

// Stop ends what the firms do on their own. Requests that are inside go on, and new
// ones of this config are still served until Cleanup: Caddy stops apps in any order.
func (a *App) Stop() error {
	if a.stopWatching != nil {
		a.stopWatching()
		a.watching.Wait()
	}
	stopAll(a.firms)
	if a.mail != nil {
		return a.mail.Close()
	}
	return nil
}

func stopAll(firms map[string]*firm) {
	var wg sync.WaitGroup
	for _, f := range firms {
		wg.Go(f.Stop)
	}
	wg.Wait()
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
