package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	legacyusage "github.com/doorpost-auth/doorpost/caddymodule/usage" // usage is what a misused command says
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// deps is what a firm needs of the app.
type deps struct {
	store    *anchor.Store
	others   *redis.Store // the same, where other processes may have it open; else nil
	keys     *secret.Keyring
	now      func() time.Time
	mail     *mailOut
	sent     *outbox.SentLog   // nil where other processes may have the store open
	permits  *password.Permits // of the process, which all firms share, over reloads
	log      *slog.Logger      // repeated lines are sampled
	events   *slog.Logger      // for audit, which samples by itself
	counters *audit.Counters   // of all firms

	// keep returns what this firm keeps in memory under the name, over reloads;
	// fresh makes it the first time.
	keep func(name string, fresh func() any) any
}

// firm is a firm that is open: its gate, and what goes on beside requests.
type firm struct {
	id           string
	cfg          config.Firm
	log          *slog.Logger
	anchor       *anchor.Store
	book         *directory.Book
	sessions     *session.Sessions
	tokens       *token.Tokens
	queue        *outbox.Queue
	mail         *mailOut            // that of all firms, or its own
	passwords    *password.Passwords // also where the firm has switched them off
	networks     *limit.Networks
	devices      *limit.Devices
	mails        *limit.Mails
	lastContacts *action.LastContacts
	sites        *site.Sites
	signer       *assertion.Signer
	usage        *legacyusage.Counter
	audit        *audit.Log
	gate         *gate.Gate
	stranger     sync.Once // around the log line on a name that isn't url's
	proxies      proxies
	watch        *watch

	loading      sync.Mutex     // held while files are looked at and loaded
	files        []*csvFile     // guarded by loading, but for their status
	settings     []*settingFile // guarded by loading, but for what mu guards
	pendingSince time.Time      // when access that has to end was looked for; guarded by loading
	mu           sync.Mutex

	stop    context.CancelFunc
	running sync.WaitGroup
}

// look reads what a firm's pages and letters are made of: picture and templates.
func look(cfg config.Firm) (*web.Pages, *brand.Letters, *brand.Logo, error) {
	logo, err := cfg.Brand.ReadLogo()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("brand.%w", err)
	}
	sender, err := cfg.Brand.Sender()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("brand.%w", err)
	}
	colours := cfg.Brand.Look()
	chrome := web.Chrome{
		Name: cfg.Brand.Name, Support: cfg.Brand.Support, Prefix: cfg.Prefix, MailFrom: sender.Address,
		Passwords:   !cfg.Passwords.Off,
		LightAccent: colours.LightAccent, LightOnAccent: colours.LightOnAccent,
		DarkAccent: colours.DarkAccent, DarkOnAccent: colours.DarkOnAccent,
	}
	if logo != nil {
		chrome.LogoURL = cfg.Prefix + "/logo"
	}
	pages, err := web.NewPages(chrome, cfg.Templates)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("templates: %w", err)
	}
	letters, err := brand.NewLetters(cfg.Brand, cfg.Templates)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("templates: %w", err)
	}
	return pages, letters, logo, nil
}

// openFirm makes the firm ready to serve, with whatever goes on beside requests.
func openFirm(id string, cfg config.Firm, d deps) (*firm, error) {
	origin, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, err
	}
	var further []*url.URL
	for _, site := range cfg.Sites.Further {
		u, err := url.Parse(site)
		if err != nil {
			return nil, err
		}
		further = append(further, u)
	}
	pages, letters, logo, err := look(cfg)
	if err != nil {
		return nil, err
	}
	f := &firm{id: id, cfg: cfg, log: d.log, anchor: d.store, files: csvFiles(cfg), settings: settingFiles(cfg.NamedFiles())}
	changes := d.keep("changes", func() any { return new(atomic.Uint64) }).(*atomic.Uint64)
	serial := changes.Add(1) // who is staff may have changed with the config
	others := d.keep("others", func() any { return othersOf(id, d.others) }).(*store.Others)
	f.book = &directory.Book{Firm: id, Store: d.store, Keys: d.keys, Now: d.now, Changes: changes, Others: others,
		Memory: d.keep("tokens", func() any { return new(directory.TokenMemory) }).(*directory.TokenMemory),
		Anchor: d.store, Upgraded: cfg.Upgraded.Closed()}
	for _, s := range cfg.Staff {
		a, err := address.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("staff: %w", err)
		}
		f.book.Staff = append(f.book.Staff, a)
	}
	idle, most := time.Duration(cfg.Session.Idle), time.Duration(cfg.Session.Max)
	// Sessions in memory outlive a reload, and so do the requests that end with them.
	memory := d.keep("sessions", func() any { return new(session.Memory) }).(*session.Memory)
	f.watch = d.keep("watch", func() any { return newWatch(id, d.others, others) }).(*watch)
	// Events of requests that outlive this config are kept, too.
	trail := d.keep("audit", func() any { return audit.NewTrail(id, d.store, d.now, d.counters) }).(*audit.Trail)
	f.audit = &audit.Log{Logger: d.events, Keys: d.keys, Trail: trail}
	alarm := newAlarm(d.log, f.audit)
	f.book.Alarm = alarm.raise
	f.sessions = &session.Sessions{Firm: id, Store: d.store, Keys: d.keys, Idle: idle, Max: most, Now: d.now, Memory: memory, Others: others, Alarm: alarm.raise}
	f.tokens = &token.Tokens{Firm: id, Store: d.store, Keys: d.keys, Life: time.Duration(cfg.LinkLifetime), Now: d.now, Alarm: alarm.raise,
		Ring: d.keep("ring", func() any { return token.NewRing() }).(*token.Ring)}
	f.networks = d.keep("networks", func() any {
		return &limit.Networks{Firm: id, Store: d.store, Keys: d.keys, Now: d.now}
	}).(*limit.Networks)
	f.usage = d.keep("usage", func() any {
		return &legacyusage.Counter{Firm: id, Store: d.store, Keys: d.keys, Now: d.now}
	}).(*legacyusage.Counter)
	if f.mail = d.mail; cfg.Mail != nil {
		if f.mail, err = openMail(*cfg.Mail, d.keep, d.now); err != nil {
			return nil, err
		}
	}
	f.queue = &outbox.Queue{Firm: id, Store: d.store, Keys: d.keys, Sender: f.mail.sender, Server: f.mail.server, Log: d.log, Now: d.now}
	if others == nil {
		f.queue.Process = d.keep("process", func() any { return &outbox.Process{Sent: d.sent} }).(*outbox.Process)
	}
	f.signer = &assertion.Signer{Firm: id, Origin: cfg.URL, Store: d.store, Keys: d.keys, Now: d.now}
	settings := gate.Settings{
		Firm: id, Serial: serial, Sites: &site.Sites{URL: origin, Further: further, Names: cfg.Sites.Names}, Prefix: cfg.Prefix,
		Legacy: cfg.Rules, Identity: cfg.Identity, ClearStorage: slices.Contains(cfg.ClearSiteData, "storage"), NoNewDevice: cfg.NewDeviceMail.Off,
		Pages: pages,
	}
	for _, cookie := range cfg.PortalSession {
		settings.PortalSession = append(settings.PortalSession, upstream.CookieRule(cookie))
	}
	for _, rule := range cfg.Public {
		settings.Public = append(settings.Public, gate.Public(rule))
	}
	if logo != nil {
		settings.Logo = &gate.Logo{Type: logo.Type, Data: logo.Data}
	}
	if f.mail.settings.Via == "folder" {
		settings.MailFolder = f.mail.settings.Path
	}
	f.devices = &limit.Devices{Firm: id, Store: d.store, Keys: d.keys, Now: d.now, Alarm: alarm.raise}
	f.mails = &limit.Mails{Firm: id, Store: d.store, Keys: d.keys, Now: d.now, Alarm: alarm.raise}
	f.lastContacts = &action.LastContacts{Firm: id, Store: d.store, Keys: d.keys, Now: d.now, Alarm: alarm.raise}
	f.passwords = &password.Passwords{Firm: id, Name: cfg.Brand.Name, Store: d.store, Keys: d.keys,
		Permits: d.permits, MinLength: cfg.Passwords.MinLength, Now: d.now, Alarm: alarm.raise}
	f.book.Passwords = action.Passwords(f.passwords, cfg.Passwords.Off)
	records := gate.Records{
		Book: f.book, Sessions: f.sessions, Tokens: f.tokens, Networks: f.networks, Devices: f.devices, Mails: f.mails, LastContacts: f.lastContacts,
		Queue: f.queue, Assertion: f.signer, Usage: f.usage, Audit: f.audit, Anchor: d.store, Log: d.log, ClientIP: clientIP, Now: d.now,
	}
	if !cfg.Passwords.Off {
		records.Passwords = f.passwords
	}
	f.gate = gate.New(settings, records)
	f.sites = settings.Sites
	jobs := &action.MailJobs{Book: f.book, Tokens: f.tokens, Devices: f.devices, Mails: f.mails, Networks: f.networks, Letters: letters, Audit: f.audit,
		Sites: settings.Sites, Prefix: cfg.Prefix, NoPasswords: cfg.Passwords.Off, Now: d.now}
	f.queue.Prepare, f.queue.Attempt, f.queue.Sent, f.queue.Failed = jobs.Prepare, jobs.Attempt, jobs.Sent, jobs.Failed
	signer, err := cfg.Brand.Signer()
	if err != nil {
		return nil, err
	}
	if signer != nil {
		f.queue.Sign = signer.Sign
	}
	f.queue.Ended, f.queue.Waiting = jobs.Ended, jobs.Waiting
	return f, f.start()
}

const (
	// loadWait is how long a start or reload waits for the CSV files, so that the contacts of
	// a small firm are there from the first request on; a large file goes on beside it.
	loadWait = 200 * time.Millisecond
	// firstLoadWait is the same for files that were never loaded: whether they can be, a
	// start has to know.
	firstLoadWait = 30 * time.Second
)

func (f *firm) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	again := f.anchor.Trusted()
	err := f.prepare(ctx)
	if err != nil && !errors.Is(err, store.ErrUnavailable) { // else goOn tries again
		cancel()
		return err
	}
	if err == nil {
		if err := f.startLoading(ctx); err != nil {
			cancel()
			f.running.Wait()
			return err
		}
	}
	f.running.Go(func() { f.goOn(ctx, err == nil, again) })
	f.watch.add(f.gate)
	f.queue.Start()
	f.running.Go(func() { f.networks.Run(ctx, f.log) })
	f.running.Go(func() { f.usage.Run(ctx, f.log) })
	return nil
}

// startLoading begins to load the files, and waits until they are loaded or a while has
// passed. An error is a file that was refused the first time.
func (f *firm) startLoading(ctx context.Context) error {
	good, loaded := make(chan struct{}), make(chan error, 1)
	f.running.Go(func() { loaded <- f.load(ctx, sync.OnceFunc(func() { close(good) })) })
	planned := good
	never := time.NewTimer(firstLoadWait)
	defer never.Stop()
	wait := (<-chan time.Time)(nil)
	if f.loadedBefore(ctx) {
		wait, planned = time.After(loadWait), nil
	}
	for {
		select {
		case err := <-loaded:
			return err
		case <-planned:
			wait, planned = time.After(loadWait), nil
		case <-wait:
			f.log.Info("loading contacts and companies goes on beside the requests")
			return nil
		case <-never.C:
			return nil
		}
	}
}

// loadedBefore reports whether each file's kind was loaded at least once.
func (f *firm) loadedBefore(ctx context.Context) bool {
	for _, file := range f.files {
		if _, err := f.book.LastLoad(ctx, file.kind); err != nil {
			return false
		}
	}
	return true
}

// load brings the book up to the files of the Caddyfile.
func (f *firm) load(ctx context.Context, planned func()) error {
	f.endPending(ctx)
	err := f.loadAll(ctx, planned)
	if err == nil {
		for _, w := range f.whatCannotWork(ctx) {
			f.log.Warn(w.what, "what_to_do", w.do)
		}
		if found, err := f.book.GuessableTokens(ctx); err == nil && found.Tokens > 0 {
			f.log.Warn("tokens of open companies can be guessed", "tokens", found.Tokens, "companies", len(found.Companies), "what_to_do", "see which companies: caddy doorpost doctor; upgrade them first")
		}
	}
	return err
}

// cannotWork is something about the directory that can't work, and what to do.
type cannotWork struct{ what, do string }

// whatCannotWork is what only the directory shows.
func (f *firm) whatCannotWork(ctx context.Context) (all []cannotWork) {
	if any, err := f.book.AnybodyMaySignIn(ctx); err == nil && !any {
		all = append(all, cannotWork{"nobody can sign in: there is no contact",
			`add "staff owner@example.com" or "contacts /etc/doorpost/contacts.csv" to the Caddyfile, or run: caddy doorpost --firm ` + f.id + ` contacts add EMAIL`})
	}
	if any, err := f.book.HasTokens(ctx); err == nil && any && !f.cfg.Rules.HasLinks() {
		all = append(all, cannotWork{"companies have tokens of old links, but the Caddyfile has no legacy_link, so that old links aren't known as such",
			"write " + config.Example("legacy_link") + ", with the form of your old links and the new one"})
	}
	return all
}

// Stop ends what goes on beside requests and waits for it. Requests may still come.
func (f *firm) Stop() {
	f.stop()
	f.queue.Stop()
	if f.cfg.Mail != nil {
		if err := f.mail.close(); err != nil {
			f.log.Warn("can't close the connections to the mail server", "error", err)
		}
	}
	f.running.Wait()
	f.watch.remove(f.gate)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f.audit.Trail.Flush(ctx)
}

// ServeHTTP serves one request; next is the portal. It returns the portal's errors
// alone: what goes wrong at the gate is answered there, since Caddy logs a returned
// error with the URL, which may be a sign-in link.
// hidden says that no log may keep its URL or Referer.
func (f *firm) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, hidden bool) error {
	if !strings.EqualFold(r.Host, f.sites.URL.Host) && !f.sites.Knows(r.Host) {
		f.strangeName(r)
	}
	if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, f.cfg.Prefix+"/") {
		f.proxies.look(r, f.log)
	}
	var err error
	asked := *r.URL
	f.gate.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		old := *r.URL != asked
		if old {
			r = asIfAsked(r)
		}
		setPlaceholders(r, gate.PassedOf(r.Context()))
		if hidden && r.RequestURI == asked.RequestURI() && (f.cfg.Rules.Secret(&asked) || f.gate.HoldsToken(&asked)) { // its query has a way back with a token
			line := r.RequestURI
			r.RequestURI = "/" // for logs alone
			defer func() { r.RequestURI = line }()
		}
		switch err = next.ServeHTTP(w, r); {
		case errors.Is(err, legacy.ErrForm):
			f.gate.Refuse(w, r, http.StatusBadRequest)
			err = nil
		case err != nil && (old || hidden):
			f.unanswered(w, r, err)
			err = nil
		}
	}))
	return err
}

// asIfAsked has a request look as if its URL had been asked for: PHP is told of that one.
func asIfAsked(r *http.Request) *http.Request {
	asked, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		return r
	}
	asked.URL = new(*r.URL)
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, asked))
}

// unanswered answers for a portal that doesn't, where Caddy would log the URL: there is a
// company's token in it.
func (f *firm) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && he.StatusCode >= 400 {
		status = he.StatusCode
	}
	if status < http.StatusInternalServerError { // such as a file that isn't there: an answer
		f.gate.Refuse(w, r, status)
		return
	}
	f.log.Error("the portal doesn't answer an old link", "status", status, "error", scrubbed(err, r.URL), "method", audit.Cut(r.Method))
	f.gate.Refuse(w, r, status)
}

// scrubbed is the text of an error without what a URL has in it.
func scrubbed(err error, u *url.URL) string {
	text := err.Error()
	for _, part := range []string{u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery} {
		if len(part) > 1 {
			text = strings.ReplaceAll(text, part, "…")
		}
	}
	return text
}

// strangeName tells once that the site is reached by a name that isn't that of its url:
// mails lead to the url, so a typo there would go unseen until nobody can get in.
func (f *firm) strangeName(r *http.Request) {
	f.stranger.Do(func() {
		f.log.Warn("people come by another name than that of url, to which mails lead; if it is the portal's, write it as url",
			"name", audit.Cut(r.Host), "url", f.cfg.URL)
	})
}

// setPlaceholders offers who is signed in to the rest of the Caddyfile, as Caddy's own
// authentication does. user.id is what access logs show, so it is opaque.
func setPlaceholders(r *http.Request, p gate.Passed) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(p.Placeholder)
}

// clientIP is the visitor's address as Caddy sees it: the peer, or, behind proxies that
// the server trusts, what they say.
func clientIP(r *http.Request) netip.Addr {
	s, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}
