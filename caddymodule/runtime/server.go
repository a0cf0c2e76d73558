package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Server is the running part of one configuration: its keys, its firms, and the work beside
// requests. Set the exported fields in one literal, then Start it once. A reload starts the Server
// of the new configuration before it stops the old one; both use the same Engine.
type Server struct {
	Settings config.Resolved
	Named    map[string]*config.Firm // by id
	Files    []config.NamedFile      // of the global settings
	Engine   *Engine
	Log      *slog.Logger // samples repeated lines
	Events   *slog.Logger // doesn't; for audit, which samples by itself
	ClientIP func(*http.Request) netip.Addr

	Running     func() *Server   // the one whose configuration runs now; nil: none yet
	OpenEngines func() []*Engine // of all configurations in this process

	mail  *MailOut         // of all firms without one of their own
	firms map[string]*Firm // read-only once Start has returned

	keys       *secret.Keyring // of this configuration
	sealing    atomic.Bool     // with keys; see takeOver
	takingOver sync.Mutex      // held by takeOver

	settingFiles *SettingFiles      // of the global settings
	stopWork     context.CancelFunc // ends the work beside requests; nil: Start hasn't succeeded
	work         sync.WaitGroup
}

// Start finds or makes the secret, opens every firm, and starts the work beside requests. After an
// error no firm is open; Stop and the Engine's end close the rest.
func (s *Server) Start() error {
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	inUse, late, err := s.openKeys(ctx)
	if err != nil {
		return err
	}
	if s.mail, err = OpenMail(s.Settings.Mail, s.Engine.Keep, s.Engine.Clock.Now, Tokens{Store: s.Engine.Store, Keys: inUse}); err != nil {
		return err
	}
	texts, err := OpenTexts(s.Settings.Text, s.Engine.Keep, s.Engine.Clock.Now)
	if err != nil {
		return err
	}
	firms, err := s.openFirms(ctx, Shared{Engine: s.Engine, Keys: inUse, Mail: s.mail, Texts: texts, Sent: s.sentLog(ctx), ReportsDir: s.Settings.ReportsDir(), Counters: s.Counters(), ClientIP: s.ClientIP,
		Permits: s.permits()})
	if err != nil {
		return err
	}
	s.warnUnnamed(ctx)
	if err := s.recordRestore(ctx, firms); err != nil && !late {
		s.Log.Error("whether a backup was restored can't be told", "error", err)
	}
	texts.Apply()
	s.mail.Apply() // not earlier: if this configuration fails, the running one goes on
	for _, f := range firms {
		if f.Config.Mail != nil {
			f.Mail.Apply()
		}
	}
	s.firms = firms
	s.startWork()
	s.Engine.LogTo(s.Log)
	return nil
}

// Stop ends the work beside requests and waits for it. Firms still serve requests as long as the
// Engine is open. It may be called after a failed Start.
func (s *Server) Stop() error {
	if s.stopWork != nil {
		s.stopWork()
		s.work.Wait()
	}
	stopAll(s.firms)
	if s.mail != nil {
		return s.mail.Close()
	}
	return nil
}

// Firms returns the open firms by id. They are read-only.
func (s *Server) Firms() map[string]*Firm { return s.firms }

// Counters returns what the metrics are made of; the counters outlive reloads.
func (s *Server) Counters() *audit.Counters {
	return s.Engine.Keep("counters", func() any { return audit.NewCounters() }).(*audit.Counters)
}

// sentLog opens the list of sent mails; nil if other processes may have the store open.
func (s *Server) sentLog(ctx context.Context) *outbox.SentLog {
	if s.Engine.Others != nil {
		return nil
	}
	l, err := s.Engine.KeepIf("sent log", func() (any, error) {
		return outbox.OpenSentLog(ctx, s.Settings.Store.Path+".sent", s.Engine.Store)
	})
	if err != nil {
		s.Log.Warn("mails that were sent right before a crash may be sent twice", "error", err)
		return nil
	}
	return l.(*outbox.SentLog)
}

func (s *Server) secrets() *Secrets {
	return &Secrets{Resolved: s.Settings, Firms: slices.Sorted(maps.Keys(s.Named)), Log: s.Log}
}

// keptKeys names the keyring that seals all records of an engine. It holds the secrets of the
// configuration that runs: a configuration that is being loaded may fail, and the running one must
// be able to open all records that it wrote.
const keptKeys = "keys"

// openKeys finds the keys of this configuration. It returns the keyring in use, and adds these keys
// to it: a firm that this configuration adds may need one of its secrets. late: the store is a server
// that can't be reached yet, so the keys weren't checked.
func (s *Server) openKeys(ctx context.Context) (inUse *secret.Keyring, late bool, err error) {
	s.keys, err = s.secrets().Open(ctx, s.Engine.Store, !s.Engine.Has(keptKeys))
	if late = errors.Is(err, store.ErrUnavailable) && s.mayComeLate(); late {
		s.keys, err = secret.New(s.Settings.Secrets[0], s.Settings.Secrets[1:]...)
	}
	if err != nil {
		return nil, late, err
	}
	inUse = s.Engine.Keep(keptKeys, func() any { return s.keys.Copy() }).(*secret.Keyring)
	if running := s.Running(); running != nil && running.Engine == s.Engine {
		_ = running.takeOver(ctx) // now, since later it would remove from inUse the keys added below
	}
	inUse.Adopt(inUse.With(s.keys))
	return inUse, late, nil
}

// mayComeLate reports whether the store is a server that couldn't be reached when the first
// configuration started.
func (s *Server) mayComeLate() bool {
	return s.Engine.Others != nil && !s.Engine.Others.Ready() && len(s.Settings.Secrets) > 0
}

// openFirms opens all firms, or none.
func (s *Server) openFirms(ctx context.Context, shared Shared) (map[string]*Firm, error) {
	firms := make(map[string]*Firm, len(s.Named))
	for _, id := range slices.Sorted(maps.Keys(s.Named)) {
		shared.Log, shared.Events = s.Log.With("firm", id), s.Events.With("firm", id)
		f, err := s.openFirm(ctx, id, shared)
		if err != nil {
			stopAll(firms)
			return nil, err
		}
		firms[id] = f
	}
	return firms, nil
}

// openFirm opens a firm. It fails if the keys of this configuration can't open all its records.
func (s *Server) openFirm(ctx context.Context, id string, shared Shared) (*Firm, error) {
	guarded, err := s.anchorOf(ctx, id, shared.Keys)
	if err == nil {
		err = (&directory.Directory{Firm: id, Store: guarded}).CheckKeys(ctx, s.keys)
	}
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	f, err := Open(id, *s.Named[id], guarded, shared)
	if err != nil {
		return nil, fmt.Errorf("firm %s: %w", id, err)
	}
	return f, nil
}

func stopAll(firms map[string]*Firm) {
	var wg sync.WaitGroup
	for _, f := range firms {
		wg.Go(f.Stop)
	}
	wg.Wait()
}

// startWork starts the work beside requests that belongs to no single firm.
func (s *Server) startWork() {
	s.settingFiles = SettingFilesOf(s.Files)
	ctx, cancel := context.WithCancel(context.Background())
	s.stopWork = cancel
	s.work.Go(func() { s.watchFiles(ctx) })
	s.work.Go(func() { s.reseal(ctx) })
}

// checkFilesEvery is how often the files that the configuration names are checked for changes.
const checkFilesEvery = time.Second

func (s *Server) watchFiles(ctx context.Context) {
	tick := time.NewTicker(checkFilesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.CheckFiles(ctx)
	}
}

// CheckFiles loads the contacts and companies files that have changed, and warns of other files
// that have.
func (s *Server) CheckFiles(ctx context.Context) {
	now := s.Engine.Clock.Now()
	for _, f := range s.firms {
		f.LookAtFiles(ctx, now)
	}
	s.settingFiles.Look(now, s.Log)
}
