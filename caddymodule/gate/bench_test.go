package gate

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// benchGate is a gate on a real store with one contact, who is signed in.
func benchGate(b *testing.B) (g *Gate, cookie string) {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := NewPages(Chrome{Name: "Example Bookkeeping", Prefix: "/-", Support: "help@example.com"}, "")
	if err != nil {
		b.Fatal(err)
	}
	origin := &url.URL{Scheme: "https", Host: "portal.example"}
	quiet := slog.New(slog.DiscardHandler)
	g = New(Gate{
		Firm: "example", URL: origin, Prefix: "/-", Public: []Public{{Paths: []string{"/assets/*"}}},
		Book:      &directory.Book{Firm: "example", Store: db, Keys: keys},
		Sessions:  &session.Sessions{Firm: "example", Store: db, Idle: 45 * 24 * time.Hour, Max: 180 * 24 * time.Hour},
		Tokens:    &token.Tokens{Firm: "example", Store: db, Keys: keys, Life: 10 * time.Minute},
		Assertion: &assertion.Signer{Firm: "example", Origin: origin.String(), Store: db, Keys: keys},
		Audit:     &audit.Log{Logger: quiet}, Log: quiet, Pages: pages,
		ClientIP: func(*http.Request) netip.Addr { return netip.Addr{} }, Now: time.Now,
	})
	ctx := context.Background()
	first, last, companies := "Ann", "Baker", []string{}
	c, err := g.Book.AddContact(ctx, "ann@example.com", directory.Change{FirstName: &first, LastName: &last, Companies: &companies})
	if err != nil {
		b.Fatal(err)
	}
	begun, err := g.Sessions.Begin(ctx, session.Session{Contact: c.ID, Method: "link"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	if err := db.Apply(ctx, begun.Ops...); err != nil {
		b.Fatal(err)
	}
	return g, begun.Cookie
}

// blank takes an answer and keeps nothing.
type blank struct{ header http.Header }

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) Write(b []byte) (int, error) { return len(b), nil }
func (w *blank) WriteHeader(int)             {}

// BenchmarkGate is our whole part of a request, without Caddy and the network.
func BenchmarkGate(b *testing.B) {
	g, cookie := benchGate(b)
	portal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, c := range []struct{ name, path, cookie string }{
		{"plain", "", "__Host-portal=" + cookie + "; sid=0123456789abcdef"}, // the portal alone: what the others stand on
		{"signed in", "/orders/7", "__Host-portal=" + cookie + "; sid=0123456789abcdef"},
		{"open", "/assets/portal.css", ""},
		{"prompt", "/orders/7", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "https://portal.example"+c.path, nil)
			r.Header = http.Header{"Accept": {"text/html,*/*;q=0.8"}, "Accept-Language": {"en"}, "Accept-Encoding": {"gzip"},
				"User-Agent": {"Mozilla/5.0"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}}
			if c.cookie != "" {
				r.Header["Cookie"] = []string{c.cookie}
			}
			b.ReportAllocs()
			for b.Loop() {
				again := *r
				again.Header = make(http.Header, 16)
				for k, v := range r.Header {
					again.Header[k] = v
				}
				if c.path == "" {
					portal.ServeHTTP(&blank{make(http.Header, 8)}, &again)
					continue
				}
				g.ServeHTTP(&blank{make(http.Header, 8)}, &again, portal)
			}
		})
	}
}
