package gate

import (
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// madeGate is a gate with its dependencies.
type madeGate struct {
	*Gate
	Settings
	Records
}

// makeGate makes the gate of https://portal.example on a store, without passwords and old links.
func makeGate(t testing.TB, db store.Store, log *slog.Logger, open string) *madeGate {
	t.Helper()
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := web.NewPages(web.Chrome{Name: "Example Bookkeeping", Prefix: "/-", Support: "help@example.com"}, "")
	if err != nil {
		t.Fatal(err)
	}
	origin := &url.URL{Scheme: "https", Host: "portal.example"}
	const firm = "example"
	m := &madeGate{
		Settings: Settings{Firm: firm, Sites: &site.Sites{URL: origin}, Prefix: "/-", Public: []Public{{Paths: []string{open}}}, Pages: pages},
		Records: Records{
			Directory:    &directory.Directory{Firm: firm, Store: db, Keys: keys},
			Sessions:     &session.Sessions{Firm: firm, Store: db, Keys: keys, Idle: 45 * 24 * time.Hour, Max: 180 * 24 * time.Hour},
			Tokens:       &token.Tokens{Firm: firm, Store: db, Keys: keys, Life: 10 * time.Minute},
			Networks:     &limit.Networks{Firm: firm, Store: db, Keys: keys, Now: time.Now},
			Devices:      &limit.Devices{Firm: firm, Store: db, Keys: keys, Now: time.Now},
			Mails:        &limit.Mails{Firm: firm, Store: db, Keys: keys},
			Reports:      &reports.Reports{Firm: firm, Store: db, Keys: keys},
			LastContacts: &action.LastContacts{Firm: firm, Store: db, Keys: keys},
			Queue:        &outbox.Queue{Firm: firm, Store: db, Keys: keys, Log: log},
			Assertion:    &assertion.Signer{Firm: firm, Origin: origin.String(), Store: db, Keys: keys},
			Audit:        &audit.Log{Logger: log}, Log: log,
			ClientIP: func(*http.Request) netip.Addr { return netip.Addr{} }, Now: time.Now,
		},
	}
	m.remake()
	return m
}

// remake makes the gate again from the current Settings and Records. Its cached data is lost.
func (m *madeGate) remake() { m.Gate = New(m.Settings, m.Records) }

// another returns another gate on the same store, like that of another process.
func (m *madeGate) another() *madeGate {
	other := *m
	other.remake()
	return &other
}
