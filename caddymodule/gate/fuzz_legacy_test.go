package gate

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
)

// withOldLinks gives a gate old links and three companies: acme, upgraded, which Ann belongs to;
// birch, upgraded; and dune, open.
func withOldLinks(t testing.TB, g *madeGate) *madeGate {
	t.Helper()
	rules, err := legacy.Compile(legacy.Config{Prefix: "/-", CompanyPaths: []string{"/files/{company}/*"}, Links: []legacy.Link{
		{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}, {Old: "/view?client={token}", New: "/overview/{company}"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, id := range []string{"acme", "birch", "dune"} {
		tokens := []string{id + "-secret-token", "other-" + id + "-secret"}
		if _, err := g.Directory.AddCompany(ctx, id, directory.CompanyChange{LegacyTokens: &tokens}); err != nil {
			t.Fatal(err)
		}
	}
	acme, birch := []string{"acme"}, []string{"birch"}
	if _, err := g.Directory.SetContact(ctx, "ann@example.com", directory.Change{Companies: &acme}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Directory.AddContact(ctx, "bea@example.com", directory.Change{Companies: &birch}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Directory.Upgrade(ctx, directory.Upgrade{Companies: []string{"acme", "birch"}}, nil); err != nil {
		t.Fatal(err)
	}
	again := *g
	again.Legacy = rules
	again.remake()
	return &again
}

var birchsLink = regexp.MustCompile(`(?i)/one-click/birch-secret-token([/?;\x00]|$)`)

var birchs = regexp.MustCompile(`(?i)^(/index)?/(portal|files|overview)/birch(/|$)`)

// For any input: in a request of a contact of acme, of a visitor of dune or of nobody, the portal
// receives no token of birch and no request for its pages, and no response header has a token of an
// upgraded company.
func FuzzOldLinks(f *testing.F) {
	h := openFuzzHouse(f)
	h.madeGate = withOldLinksOn(f, h)
	dune, err := h.Directory.StatusOf(context.Background(), "dune")
	if err != nil {
		f.Fatal(err)
	}
	visit := h.forward.sealVisit(h.forward.newVisit(dune, "dune-secret-token", nil))
	began, calls := time.Now(), 0
	h.Now = func() time.Time { calls++; return began.Add(time.Duration(calls) * minResponseTime * 2) } // so that nothing waits
	h.remake()
	for _, s := range []string{"/", "/one-click/birch-secret-token/x", "/one-click/dune-secret-token/x?a=1", "/view?client=birch-secret-token", "/view?client=dune-secret-token&client=birch-secret-token",
		"/x?client=birch-secret-token", "/view?Client%5b%5d=birch-secret-token", "/portal/birch/x", "/portal/acme/x?client=birch-secret-token", "/portal/acme/one-click/birch-secret-token/", "/files/BIRCH/../acme/x",
		"/public/x?client=birch-secret-token", "/public/one-click/birch-secret-token/", "/one-clic\u212a/birch-secret-token/", "/file\u017f/birch/x", "/index.php/files/birch/x", "/one-click%2fbirch-secret-token/", "/view;x?client=birch-secret-token",
		"/one-click/acme-secret-token/?client=birch-secret-token&z=acme-secret-token", "/one-click/acme-secret-token/?client=other-acme-secret", "/one-click/acme-secret-token/x/one-click/other-acme-secret/", "/x?client=acme-secret-token", "/index/one-click/dune-secret-token/",
		"/one-click/acme-secret-token", "/portal/birch", "/overview/acme?client=x", "http://evil.example/one-click/birch-secret-token/", "/?/one-click/birch-secret-token", "/?0/one-click/birch-secret-token", "/??/one-click/birch-secret-token", "/?/one-click/birch-secret-token?x=1", "/?u=https://portal.example/one-click/birch-secret-token/x", "/index.php?/one-click/birch-secret-token/x", "/login?next=/one-click/birch-secret-token/", "A:?/one-click/birch-secret-token", "A:?client=birch-secret-token",
		"/one-click/BIRCH-SECRET-TOKEN", "/x?client=Birch-Secret-Token", "/public/one-click/Birch-secret-token/", "/x?client=b%C3%ACrch-secret-token"} {
		for who := range 3 {
			f.Add("GET", s, "", byte(who))
		}
	}
	f.Add("POST", "/view?client=birch-secret-token", "a=b", byte(0))
	f.Add("HEAD", "/view?client=acme-secret-token", "", byte(1))
	f.Add("GET", "/portal/acme/", "/one-click/acme-secret-token/x?next=/one-click/acme-secret-token/", byte(0))
	f.Add("GET", "/one-CliCk/acme-secret-token?Client&birch-secret-token0", "", byte(0))
	f.Add("GET", "/one-CliCk/acme-secret-token/one-CliCk/other-acme-secret0", "", byte(0))
	f.Add("GET", "/one-CliCk/acme-secret-token?other-acme-secret", "0", byte(0))
	f.Fuzz(func(t *testing.T, method, target, location string, who byte) {
		cookie := []string{h.session, "__Host-portal-visit=" + visit, "a=b"}[who%3]
		r := h.read(method + " " + target + " HTTP/1.1\r\nHost: portal.example\r\nAccept: text/html\r\nCookie: " + cookie + "\r\nContent-Length: 0\r\n\r\n")
		if r == nil {
			return
		}
		r.TLS = &tls.ConnectionState{} // otherwise an old link redirects to TLS
		own := h.Legacy.Match(r.URL)
		w := httptest.NewRecorder()
		h.log.Reset()
		calls = 0
		h.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			all := r.URL.Path + "\x00" + r.RequestURI
			plain := all
			for range 3 {
				if birchsLink.MatchString(plain) {
					t.Fatalf("%q as %d: the portal sees %q", target, who%3, r.URL)
				}
				next, err := url.PathUnescape(plain)
				if err != nil {
					break
				}
				plain = next
			}
			if values, err := url.ParseQuery(r.URL.RawQuery); err == nil {
				for name, value := range values {
					if strings.EqualFold(name, "client") && slices.ContainsFunc(value, func(v string) bool { return strings.EqualFold(v, "birch-secret-token") }) {
						t.Fatalf("%q as %d: the portal sees %q", target, who%3, r.URL)
					}
				}
			}
			if (own.Token != "" || len(own.MisplacedTokens) > 0) && strings.Contains(r.RequestURI, "secret-token") {
				t.Fatalf("%q as %d: a log can have %s", target, who%3, r.RequestURI)
			}
			if birchs.MatchString(r.URL.Path) || who%3 == 1 && r.Header.Get("Remote-User") != "" || r.Header.Get("Portal-Company") == "birch" {
				t.Fatalf("%q as %d: the portal gets %q as %q", target, who%3, r.URL, r.Header.Get("Remote-User"))
			}
			if strings.HasPrefix(location, "/one-click/acme-secret-token") {
				w.Header().Set("Location", "/one-click/acme-secret-token/x")
			}
			fmt.Fprint(w, "portal")
		}))
		resp := w.Result()
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode >= 500 {
			t.Fatalf("%q = %d\n%s", target, resp.StatusCode, h.log)
		}
		for name, values := range resp.Header {
			for _, token := range []string{"acme-secret-token", "birch-secret-token", "other-acme-secret"} {
				// Text that the visitor put in places where no token is read may be repeated.
				isOne := strings.Count(target, token) == 1 && (own.Token == token || slices.Contains(own.MisplacedTokens, token))
				if strings.Contains(strings.Join(values, "\n"), token) && (isOne || !strings.Contains(target, token)) {
					t.Fatalf("%q as %d = %d, %s: %q", target, who%3, resp.StatusCode, name, values)
				}
			}
		}
		if bytes.Contains(h.log.Bytes(), []byte("secret-token")) {
			t.Fatalf("%q as %d: the log has %s", target, who%3, h.log)
		}
		if resp.StatusCode == 401 && method == "GET" && own.Kind == legacy.Old && bytes.Contains(body, []byte("secret-token")) {
			t.Fatalf("%q as %d: a page of ours has %s", target, who%3, body)
		}
	})
}

// withOldLinksOn is withOldLinks on a store that accepts changes for the setup.
func withOldLinksOn(t testing.TB, h *fuzzHouse) *madeGate {
	t.Helper()
	quiet := h.store.Store
	h.store.Store = quiet.(still).Store
	defer func() { h.store.Store = quiet }()
	return withOldLinks(t, h.madeGate)
}
