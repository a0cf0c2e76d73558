package gate

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// counting counts the operations on a store.
type counting struct {
	store.Store
	calls atomic.Int64
}

func (c *counting) Get(ctx context.Context, k store.Key) (store.Record, error) {
	c.calls.Add(1)
	return c.Store.Get(ctx, k)
}

func (c *counting) Apply(ctx context.Context, ops ...store.Op) error {
	c.calls.Add(1)
	return c.Store.Apply(ctx, ops...)
}

func (c *counting) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	c.calls.Add(1)
	return c.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// benchGate is a gate on a real store with one contact, who is signed in.
func benchGate(b testing.TB) (g *madeGate, cookie string, db *counting) {
	b.Helper()
	file, err := bolt.Open(filepath.Join(b.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	db = &counting{Store: file}
	g = makeGate(b, db, slog.New(slog.DiscardHandler), "/assets/*")
	ctx := context.Background()
	first, last, companies := "Ann", "Baker", []string{}
	c, err := g.Directory.AddContact(ctx, "ann@example.com", directory.Change{FirstName: &first, LastName: &last, Companies: &companies})
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
	return g, begun.Cookie, db
}

// blank accepts a response and keeps nothing.
type blank struct{ header http.Header }

func (w *blank) Header() http.Header         { return w.header }
func (w *blank) Write(b []byte) (int, error) { return len(b), nil }
func (w *blank) WriteHeader(int)             {}

// The store is unavailable as often as a network is; a portal's daily requests don't use it.
func TestAnOrdinaryRequestAsksNoStore(t *testing.T) {
	g, cookie, db := benchGate(t)
	portal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for i, c := range []struct {
		method, path, cookie string
		status               int
	}{
		{"GET", "/first", cookie, 200}, // reads session, contact and keys
		{"GET", "/orders/7", cookie, 200},
		{"POST", "/orders/7", cookie, 200},
		{"GET", "/-/me", cookie, 200},
		{"GET", "/assets/portal.css", cookie, 200},
		{"GET", "/assets/portal.css", "", 200},
		{"GET", "/orders/7", "", 401},
		{"GET", "/orders/7", "not-a-cookie", 401},
		{"GET", "/-/sign-in", "", 200},
	} {
		r := httptest.NewRequest(c.method, "https://portal.example"+c.path, nil)
		r.Header = http.Header{"Cookie": {"__Host-portal=" + c.cookie}, "Sec-Fetch-Site": {"same-origin"}}
		before, w := db.calls.Load(), httptest.NewRecorder()
		g.ServeHTTP(w, r, portal)
		if n := db.calls.Load() - before; n != 0 && i > 0 || w.Code != c.status || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s %s with cookie %.5q = %d after %d calls of the store, Set-Cookie %q; want %d after none, and no cookie",
				c.method, c.path, c.cookie, w.Code, n, w.Header().Get("Set-Cookie"), c.status)
		}
	}
}

// BenchmarkGate measures the gate's part of a request, without Caddy and the network.
func BenchmarkGate(b *testing.B) {
	g, cookie, _ := benchGate(b)
	portal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, c := range []struct{ name, path, cookie string }{
		{"plain", "", "__Host-portal=" + cookie + "; sid=0123456789abcdef"}, // only the portal: the baseline
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

// BenchmarkOldLinks measures the gate's part of a request by kind, with 100,000 companies of three
// tokens each in the directory, all cached.
func BenchmarkOldLinks(b *testing.B) {
	plain, cookie, _ := benchGate(b)
	ctx := context.Background()
	var file strings.Builder
	file.WriteString("id,legacy_tokens\n")
	for i := range 100_000 {
		fmt.Fprintf(&file, "c%d,first-secret-%d;second-secret-%d;third-secret-%d\n", i, i, i, i)
	}
	planner, err := plain.Directory.Planner(strings.NewReader(file.String()), directory.Companies, directory.ImportOptions{})
	var plan directory.Plan
	if err == nil {
		plan, err = planner(ctx)
	}
	if err == nil {
		err = plain.Directory.Apply(ctx, plan, nil)
	}
	if err != nil {
		b.Fatal(err)
	}
	companies := []string{"c77777"}
	if _, err := plain.Directory.SetContact(ctx, "ann@example.com", directory.Change{Companies: &companies}); err != nil {
		b.Fatal(err)
	}
	if _, err := plain.Directory.Upgrade(ctx, directory.Upgrade{Companies: companies}, nil); err != nil {
		b.Fatal(err)
	}
	rules, err := legacy.Compile(legacy.Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*"}, Links: []legacy.Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}, {Old: "/view?client={token}", New: "/overview/{company}"}}})
	if err != nil {
		b.Fatal(err)
	}
	ruled := *plain
	ruled.Legacy = rules
	ruled.remake()
	standing, err := ruled.Directory.StatusOf(ctx, "c77777")
	if err != nil {
		b.Fatal(err)
	}
	ann := upstream.Owner{Contact: contactOf(b, &ruled), Reach: directory.FingerprintOf("client\x00c77777"), Company: "c77777", Generation: standing.Generation, Token: directory.FingerprintOf("first-secret-77777")}
	seal := strings.TrimSuffix(first(ruled.forward.bound.Seal(ctx, "sid=0123456789abcdef; HttpOnly", "portal.example", ann)), "; HttpOnly")
	portal := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	for _, c := range []struct {
		name, path, more string
		g                *Gate
	}{
		{"none, no rules", "/orders/7", "", plain.Gate},
		{"none", "/orders/7?page=2", "", ruled.Gate},
		{"none, from a page", "/orders/7?page=2", "", ruled.Gate},
		{"none, a free cookie", "/orders/7", "; theme=dark", ruled.Gate},
		{"none, a bound cookie", "/orders/7", "; " + seal, ruled.Gate},
		{"old link", "/one-click/second-secret-77777/x", "", ruled.Gate},
		{"new link", "/portal/c77777/x", "", ruled.Gate},
		{"company path", "/files/c77777/x", "", ruled.Gate},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "https://portal.example"+c.path, nil)
			r.Header = http.Header{"Accept": {"text/html,*/*;q=0.8"}, "User-Agent": {"Mozilla/5.0"}, "Sec-Fetch-Mode": {"navigate"},
				"Sec-Fetch-Dest": {"document"}, "Cookie": {"__Host-portal=" + cookie + c.more}}
			if strings.HasSuffix(c.name, "from a page") {
				r.Header.Set("Referer", "https://portal.example/orders?page=2")
			}
			b.ReportAllocs()
			for b.Loop() {
				again, u := *r, *r.URL
				again.URL, again.Header = &u, r.Header.Clone()
				c.g.ServeHTTP(&blank{make(http.Header, 8)}, &again, portal)
			}
		})
	}
}

// BenchmarkHides measures the cost per request of keeping secrets out of the access log.
func BenchmarkHides(b *testing.B) {
	rules, err := legacy.Compile(legacy.Config{Prefix: "/-", Links: []legacy.Link{{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}}})
	if err != nil {
		b.Fatal(err)
	}
	r := httptest.NewRequest("POST", "https://portal.example/orders/7?page=2", nil)
	r.Header = http.Header{"Accept": {"text/html,application/xhtml+xml,image/avif,*/*;q=0.8"}, "Accept-Language": {"en-GB,en;q=0.5"}, "Accept-Encoding": {"gzip, br"},
		"User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36"},
		"Origin":     {"https://portal.example"}, "Content-Type": {"application/x-www-form-urlencoded"}, "Sec-Ch-Ua": {`"Chromium";v="124"`},
		"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Cookie": {"__Host-portal=0123456789abcdef; theme=/dark/"}}
	b.ReportAllocs()
	for b.Loop() {
		if Hides(rules, r.URL, r.Header) {
			b.Fatal("an ordinary request is hidden")
		}
	}
}

func contactOf(b *testing.B, g *madeGate) string {
	c, err := g.Directory.ByEmail(b.Context(), "ann@example.com")
	if err != nil {
		b.Fatal(err)
	}
	return c.ID
}
