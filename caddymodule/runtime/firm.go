package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Shared has the values that all firms of a process or of a configuration share.
type Shared struct {
	Engine *Engine
	Keys   *secret.Keyring
	Mail   *MailOut // of firms without one of their own
	Texts  *TextOut
	Sent   *outbox.SentLog // nil where other processes may have the store open

	ReportsDir string // of firms whose settings name no folder for reports; "": there is none

	Permits  *password.Semaphore // of the process
	Counters *audit.Counters
	ClientIP func(*http.Request) netip.Addr // the visitor's address; invalid where it isn't known
	Log      *slog.Logger                   // repeated lines are sampled
	Events   *slog.Logger                   // for audit, which samples by itself
}

// Firm is an open firm: its gate, and the work beside requests.
type Firm struct {
	ID     string
	Config config.Firm
	Sites  *site.Sites
	Gate   *gate.Gate
	Mail   *MailOut // that of all firms, or its own
	gate.Records

	letters *brand.Messages

	watch        *watch
	loading      sync.Mutex // held while files are looked at and loaded
	files        []*csvFile // guarded by loading, but for their status
	settings     *SettingFiles
	pendingSince time.Time // when access that has to end was looked for; guarded by loading

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Look reads the logo and the templates of a firm's pages and messages.
func Look(cfg config.Firm) (*web.Pages, *brand.Messages, *brand.Logo, error) {
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
	letters, err := brand.NewMessages(cfg.Brand, cfg.Templates)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("templates: %w", err)
	}
	return pages, letters, logo, nil
}

// Open opens a firm and starts its work beside requests. guarded is its part of the store.
func Open(id string, cfg config.Firm, guarded *anchor.Store, s Shared) (*Firm, error) {
	pages, letters, logo, err := Look(cfg)
	if err != nil {
		return nil, err
	}
	settings, err := settingsOf(id, cfg)
	if err != nil {
		return nil, err
	}
	settings.Pages = pages
	if logo != nil {
		settings.Logo = &gate.Logo{Type: logo.Type, Data: logo.Data}
	}
	if cfg.Mail != nil {
		keep := func(name string, fresh func() any) any { return kept(s.Engine, id, name, fresh) }
		if s.Mail, err = OpenMail(*cfg.Mail, keep, s.Engine.Clock.Now, Tokens{Name: id, Store: s.Engine.Store, Keys: s.Keys}); err != nil {
			return nil, err
		}
	}
	if s.Mail.settings.Transport == "folder" {
		settings.MailFolder = s.Mail.settings.Path
	}
	changes := kept(s.Engine, id, "changes", func() *atomic.Uint64 { return new(atomic.Uint64) })
	settings.Serial = changes.Add(1) // who is staff may have changed with the config
	others := kept(s.Engine, id, "others", func() *store.Peers { return othersOf(id, s.Engine.Others) })
	records, err := recordsOf(id, cfg, guarded, s, changes, others)
	if err != nil {
		return nil, err
	}
	letters.Log, records.Notices.Messages = s.Log, letters
	f := &Firm{ID: id, Config: cfg, Sites: settings.Sites, Gate: gate.New(settings, records), Mail: s.Mail, Records: records, letters: letters,
		files: csvFiles(cfg), settings: SettingFilesOf(cfg.NamedFiles()),
		watch: kept(s.Engine, id, "watch", func() *watch { return newWatch(id, s.Engine.Others, others) })}
	jobs := &action.MailJobs{Directory: f.Directory, Tokens: f.Tokens, Devices: f.Devices, Mails: f.Mails, Networks: f.Networks, Messages: letters, Audit: f.Audit,
		Sites: f.Sites, Legacy: cfg.Rules, Prefix: cfg.Prefix, NoPasswords: cfg.Passwords.Off, Now: f.Now, Announcements: f.Announcements}
	f.Queue.Prepare, f.Queue.Attempt, f.Queue.Sent, f.Queue.Failed = jobs.Prepare, jobs.Attempt, jobs.Sent, jobs.Failed
	f.Queue.Ended, f.Queue.Waiting = jobs.Ended, jobs.Waiting
	texts := &action.TextJobs{MailJobs: jobs, Region: cfg.PhoneRegion}
	f.Notices.Texts.Prepare, f.Notices.Texts.Ended, f.Notices.Texts.Waiting = texts.Prepare, texts.Ended, texts.Waiting
	signer, err := cfg.Brand.Signer()
	if err != nil {
		return nil, err
	}
	if signer != nil {
		f.Queue.Sign = signer.Sign
	}
	return f, f.start()
}

// kept returns what the engine keeps of a firm under the name, over reloads; fresh makes it the first time.
func kept[T any](e *Engine, firm, name string, fresh func() T) T {
	return e.Keep(firm+"\x00"+name, func() any { return fresh() }).(T)
}

// settingsOf returns what a firm's configuration tells its gate.
func settingsOf(id string, cfg config.Firm) (gate.Settings, error) {
	origin, err := url.Parse(cfg.URL)
	if err != nil {
		return gate.Settings{}, err
	}
	s := gate.Settings{
		Firm: id, Sites: &site.Sites{URL: origin, Names: cfg.Sites.Names}, Prefix: cfg.Prefix, Legacy: cfg.Rules, Identity: cfg.Identity,
		ClearStorage: slices.Contains(cfg.ClearSiteData, "storage"), NoNewDevice: cfg.NewDeviceMail.Off, NoPasswords: cfg.Passwords.Off,
	}
	for _, further := range cfg.Sites.Further {
		u, err := url.Parse(further)
		if err != nil {
			return s, err
		}
		s.Sites.Further = append(s.Sites.Further, u)
	}
	for _, cookie := range cfg.PortalSession {
		s.PortalSession = append(s.PortalSession, upstream.CookieRule(cookie))
	}
	for _, rule := range cfg.Public {
		s.Public = append(s.Public, gate.Public(rule))
	}
	return s, nil
}

// recordsOf returns the packages' types that read and write a firm's records. Their memory outlives
// reloads, as do the requests that use it.
func recordsOf(id string, cfg config.Firm, db *anchor.Store, s Shared, changes *atomic.Uint64, others *store.Peers) (gate.Records, error) {
	e, keys, now := s.Engine, s.Keys, s.Engine.Clock.Now
	events := &audit.Log{Logger: s.Events, Keys: keys, EventLog: kept(e, id, "audit", func() *audit.EventLog { return audit.NewEventLog(id, db, now, s.Counters) })}
	alarm := newAlarm(s.Log, events).raise
	r := gate.Records{
		Directory: &directory.Directory{Firm: id, Store: db, Keys: keys, Now: now, Changes: changes, Peers: others, Anchor: db, Upgraded: cfg.Upgraded.Closed(), OnUntrusted: alarm,
			TokenCache: kept(e, id, "tokens", func() *directory.TokenCache { return new(directory.TokenCache) }),
			Search:     kept(e, id, "search", func() *directory.Search { return new(directory.Search) })},
		Sessions: &session.Sessions{Firm: id, Store: db, Keys: keys, Now: now, Idle: time.Duration(cfg.Session.Idle), Max: time.Duration(cfg.Session.Max), Peers: others, OnUntrusted: alarm,
			Memory: kept(e, id, "sessions", func() *session.Memory { return new(session.Memory) })},
		Tokens: &token.Tokens{Firm: id, Store: db, Keys: keys, Now: now, Life: time.Duration(cfg.LinkLifetime), OnUntrusted: alarm,
			Ring: kept(e, id, "ring", func() *token.Ring { return token.NewRing() })},
		Passwords: &password.Passwords{Firm: id, Store: db, Keys: keys, Now: now, Name: cfg.Brand.Name, Semaphore: s.Permits, MinLength: cfg.Passwords.MinLength, OnUntrusted: alarm},
		Networks:  kept(e, id, "networks", func() *limit.Networks { return &limit.Networks{Firm: id, Store: db, Keys: keys, Now: now} }),
		Devices:   &limit.Devices{Firm: id, Store: db, Keys: keys, Now: now, OnUntrusted: alarm},
		Mails:     &limit.Mails{Firm: id, Store: db, Keys: keys, Now: now, OnUntrusted: alarm},

		Unread: kept(e, id, "unread", func() *notice.Unread { return &notice.Unread{Firm: id, Store: db, Keys: keys, Now: now} }),

		LastContacts: &action.LastContacts{Firm: id, Store: db, Keys: keys, Now: now, OnUntrusted: alarm},

		Queue:     &outbox.Queue{Firm: id, Store: db, Keys: keys, Now: now, Sender: s.Mail.sender, Server: s.Mail.server, Log: s.Log},
		Assertion: &assertion.Signer{Firm: id, Store: db, Keys: keys, Now: now, Origin: cfg.URL},
		Usage:     kept(e, id, "usage", func() *usage.Counter { return &usage.Counter{Firm: id, Store: db, Keys: keys, Now: now} }),
		Reports: &reports.Reports{Firm: id, Store: db, Keys: keys, Now: now, OnUntrusted: alarm, Dir: cmp.Or(cfg.Reports, s.ReportsDir),
			URL: cfg.URL + cfg.Prefix + "/reports/"},
		Audit: events, Anchor: db, Log: s.Log, ClientIP: s.ClientIP, Now: now,
	}
	texts := s.Texts.use(&outbox.Queue{Firm: id, Channel: outbox.Text, Store: db, Keys: keys, Now: now, Log: s.Log})
	if others == nil {
		r.Queue.Process = kept(e, id, "process", func() *outbox.Process { return &outbox.Process{Sent: s.Sent} })
		texts.Process = kept(e, id, "process of texts", func() *outbox.Process { return &outbox.Process{Sent: s.Sent} })
	}
	r.ServiceTokens = kept(e, id, "service-tokens", func() *servicetoken.Tokens { return &servicetoken.Tokens{Firm: id, Store: db, Keys: keys, Now: now} })
	r.Announcements = &action.Announcements{Firm: id, Store: db, Keys: keys, Directory: r.Directory, Queue: r.Queue, Audit: events, Now: now, OnUntrusted: alarm}
	r.Notices = &action.Notices{Firm: id, Store: db, Keys: keys, Directory: r.Directory, Queue: r.Queue, Texts: texts, Region: cfg.PhoneRegion, Unread: r.Unread, Audit: events, Now: now, OnUntrusted: alarm}
	for _, staff := range cfg.Staff {
		a, err := address.Parse(staff)
		if err != nil {
			return r, fmt.Errorf("staff: %w", err)
		}
		r.Directory.Staff = append(r.Directory.Staff, a)
	}
	r.Directory.Passwords = action.Passwords(r.Passwords, cfg.Passwords.Off)
	return r, nil
}

const (
	// loadWait is how long a start or reload waits for the CSV files, so that the contacts of
	// a small firm are there from the first request on; a large file goes on beside it.
	loadWait = 200 * time.Millisecond
	// firstLoadWait is the same for files that were never loaded: whether they can be, a
	// start has to know.
	firstLoadWait = 30 * time.Second
)

func (f *Firm) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	again := f.Anchor.Trusted()
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
	f.watch.add(f.Gate)
	f.Queue.Start()
	if f.Notices.Texts.Sender != nil {
		f.Notices.Texts.Start()
	}
	f.running.Go(func() { f.Gate.Run(ctx) })
	f.running.Go(func() { f.Networks.Run(ctx, f.Log) })
	f.running.Go(func() { f.Usage.Run(ctx, f.Log) })
	f.running.Go(func() { f.Unread.Run(ctx, f.Log) })
	f.running.Go(func() { f.Reports.Run(ctx, f.Log) })
	f.running.Go(func() { f.ServiceTokens.Run(ctx, f.Log) })
	return nil
}

// startLoading begins to load the files, and waits until they are loaded or a while has
// passed. An error is a file that was refused the first time.
func (f *Firm) startLoading(ctx context.Context) error {
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
			f.Log.Info("loading contacts and companies goes on beside the requests")
			return nil
		case <-never.C:
			return nil
		}
	}
}

// loadedBefore reports whether each file's kind was loaded at least once.
func (f *Firm) loadedBefore(ctx context.Context) bool {
	for _, file := range f.files {
		if _, err := f.Directory.LastLoad(ctx, file.kind); err != nil {
			return false
		}
	}
	return true
}

// load brings the directory up to date with the files of the Caddyfile.
func (f *Firm) load(ctx context.Context, planned func()) error {
	f.endPending(ctx)
	err := f.loadAll(ctx, planned)
	if err == nil {
		for _, w := range f.CannotWork(ctx) {
			f.Log.Warn(w.What, "what_to_do", w.Do)
		}
		if found, err := f.Directory.GuessableTokens(ctx); err == nil && found.Tokens > 0 {
			f.Log.Warn("tokens of open companies can be guessed", "tokens", found.Tokens, "companies", len(found.Companies), "what_to_do", "see which companies: caddy doorpost doctor; upgrade them first")
		}
	}
	return err
}

// Problem is a state of the directory that can't work, with its remedy.
type Problem struct{ What, Do string }

// CannotWork returns the problems of the directory, which validate can't see.
func (f *Firm) CannotWork(ctx context.Context) (all []Problem) {
	if any, err := f.Directory.AnybodyMaySignIn(ctx); err == nil && !any {
		all = append(all, Problem{"nobody can sign in: there is no contact",
			`add "staff owner@example.com" or "contacts /etc/doorpost/contacts.csv" to the Caddyfile, or run: caddy doorpost --firm ` + f.ID + ` contacts add EMAIL`})
	}
	if any, err := f.Directory.HasTokens(ctx); err == nil && any && !f.Config.Rules.HasLinks() {
		all = append(all, Problem{"companies have tokens of old links, but the Caddyfile has no legacy_link, so that old links aren't known as such",
			"write " + config.Example("legacy_link") + ", with the form of your old links and the new one"})
	}
	return all
}

// Stop ends what goes on beside requests and waits for it. Requests may still come.
func (f *Firm) Stop() {
	f.stop()
	var queues sync.WaitGroup
	queues.Go(f.Queue.Stop)
	queues.Go(f.Notices.Texts.Stop)
	queues.Wait()
	if f.Config.Mail != nil {
		if err := f.Mail.Close(); err != nil {
			f.Log.Warn("can't close the connections to the mail server", "error", err)
		}
	}
	f.running.Wait()
	f.watch.remove(f.Gate)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	f.Audit.EventLog.Flush(ctx)
}

// goOn does what has to be done once the store is there and trusted, unless begun says that
// it was done, and again whenever another store is trusted in its place, of which again
// tells. It goes on until ctx ends.
func (f *Firm) goOn(ctx context.Context, begun bool, again <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ; ; begun = false {
		if !begun {
			again = f.Anchor.Trusted()
			for err := f.prepare(ctx); err != nil; err = f.prepare(ctx) {
				if !errors.Is(err, store.ErrUnavailable) {
					f.Log.Error("the firm can't be opened in the store; it is tried again", "error", err)
				}
				select {
				case <-ctx.Done():
					return
				case <-again:
					again = f.Anchor.Trusted()
				case <-tick.C:
				}
			}
			_ = f.load(ctx, nil) // which tells of files that are refused
		}
		select {
		case <-ctx.Done():
			return
		case <-again:
		}
		f.Sessions.EvictAll()
		f.Directory.Invalidate()
	}
}

// prepare brings the firm's records into the state that the other packages expect. It may be called
// any number of times.
func (f *Firm) prepare(ctx context.Context) error {
	if r, yes := f.Anchor.Restored(); yes {
		done, err := f.Admin().AcceptStore(ctx, admin.AcceptStore{Reopen: r.Reopen})
		if err != nil {
			return fmt.Errorf("taking over the copy that was put back: %w", err)
		}
		f.Log.Warn("a copy of the store was put back, and is used from now on", "all_upgraded", done.AllUpgraded, "upgraded", done.Upgraded, "sessions_ended", done.SessionsEnded)
	}
	for _, ensure := range []func(context.Context) error{f.Directory.EnsureStaff, f.Directory.EnsureTokens, f.Directory.EnsureUpgrades} {
		if err := ensure(ctx); err != nil {
			return err
		}
	}
	if !f.Config.Rules.HasLinks() {
		return nil
	}
	return f.Directory.LoadTokens(ctx) // before the first request, whose URL may be one that no log is to have
}

// Reseal seals everything of the firm with the newest secret. The error is store.ErrConflict where it has to be
// tried again, or the store's.
func (f *Firm) Reseal(ctx context.Context) error {
	return f.Anchor.Reseal(ctx, func(ctx context.Context) error {
		for _, reseal := range []func(context.Context) error{f.Directory.Reseal, f.Passwords.Reseal, f.Sessions.Reseal, f.Tokens.Reseal, f.Assertion.Reseal,
			f.Mails.Reseal, f.Devices.Reseal, f.LastContacts.Reseal, f.Unread.Reseal, f.Notices.Reseal, f.Announcements.Reseal, f.ServiceTokens.Reseal, f.Queue.Reseal, f.Notices.Texts.Reseal, f.Reports.Reseal, f.Audit.Reseal} {
			if err := reseal(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// Admin is the firm as commands change it.
func (f *Firm) Admin() admin.Firm {
	return admin.Firm{Directory: f.Directory, Sessions: f.Sessions, Tokens: f.Tokens, Queue: f.Queue, Messages: f.letters, Audit: f.Audit, Usage: f.Usage, Reports: f.Reports, Anchor: f.Anchor, Notices: f.Notices, Announcements: f.Announcements, ServiceTokens: f.ServiceTokens,
		Portal: &action.Portal{Sites: f.Sites, Legacy: f.Config.Rules, Prefix: f.Config.Prefix},
		Files:  f.FileStatus(), NoPasswords: f.Config.Passwords.Off, NoOldLinks: !f.Config.Rules.HasLinks()}
}
