package gate

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// inBrowser is a browser in front of a gate whose url is https: the gate's cookies are sent only
// over TLS. secure means that the request comes with TLS, ends that TLS ends here.
type inBrowser struct {
	cookies map[string]string
}

func (b *inBrowser) open(g *madeGate, target string, secure, ends bool) (status int, to string) {
	r := httptest.NewRequest("GET", target, nil)
	r.Header.Set("Accept", "text/html")
	if secure && ends {
		r.TLS = &tls.ConnectionState{}
	} else {
		r.TLS = nil
	}
	if secure {
		for name, value := range b.cookies {
			r.AddCookie(&http.Cookie{Name: name, Value: value})
		}
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("portal")) }))
	for _, c := range w.Result().Cookies() {
		if secure { // browsers accept no such cookie without TLS
			b.cookies[c.Name] = c.Value
		}
	}
	return w.Code, w.Header().Get("Location")
}

// A visitor who opens a page without TLS is redirected to the same page with TLS, after another
// request has come with TLS, and for an old link even before that. There is no redirect loop if TLS
// ends in front of the gates, whichever of them a load balancer picks, and even if it ends here for
// other visitors.
func TestPagesWithoutTLS(t *testing.T) {
	for _, path := range []string{"/", "/dashboard.php?x=1", "/portal/acme/", "/one-click/dune-secret-token/x", "/one-click/acme-secret-token/x", "/-/companies"} {
		for _, place := range []struct {
			name       string
			ends, seen bool // TLS ends here: for this visitor; for an earlier one
			gates      int
		}{
			{"here", true, true, 1}, {"here, of which nothing is known", true, false, 1}, {"in front of us", false, false, 1}, {"in front of two", false, false, 2},
			{"in front of us, and here for others", false, true, 1}, {"in front of two, and here for others", false, true, 2},
		} {
			var gates []*madeGate
			for range place.gates {
				plain, _, _ := benchGate(t)
				gates = append(gates, withOldLinks(t, plain))
				gates[len(gates)-1].Tokens.Keys = gates[0].Tokens.Keys
				gates[len(gates)-1].remake()
				if place.seen {
					(&inBrowser{map[string]string{}}).open(gates[len(gates)-1], "https://portal.example/x", true, true)
				}
			}
			b := &inBrowser{map[string]string{}}
			target, secure := "http://portal.example"+path, false
			for hop := 0; ; hop++ {
				status, to := b.open(gates[hop%len(gates)], target, secure, place.ends)
				if hop == 0 && !place.seen && !strings.HasPrefix(path, "/one-click/") {
					if status != 401 {
						t.Errorf("TLS ends %s: %s without TLS = %d to %q; want the prompt", place.name, path, status, to)
					}
					break
				}
				if hop == 0 && (status != 302 || !strings.HasPrefix(to, "https://portal.example/-/go?x=")) {
					t.Errorf("TLS ends %s: %s without TLS = %d to %q; want its way with TLS", place.name, path, status, to)
				}
				if status != 302 {
					if strings.Contains(path, "one-click/acme") != strings.Contains(target, "/-/go?x=") || !strings.Contains(path, "one-click/acme") && target != "https://portal.example"+path {
						t.Errorf("TLS ends %s: %s leads to %s (%d)", place.name, path, target, status)
					}
					break
				}
				if hop == 6 {
					t.Errorf("TLS ends %s: %s leads in a circle, to %s", place.name, path, to)
					break
				}
				secure = true
				target = to
				if strings.HasPrefix(to, "/") {
					target = "https://portal.example" + to
				}
			}
		}
	}
	// Requests that don't open a page stay the same.
	plain, _, _ := benchGate(t)
	(&inBrowser{map[string]string{}}).open(plain, "https://portal.example/x", true, true)
	for name, headers := range map[string]http.Header{"a script": {"Accept": {"*/*"}, "Sec-Fetch-Mode": {"cors"}}, "a prefetch": {"Accept": {"text/html"}, "Purpose": {"prefetch"}}, "a proxy that says so": {"Accept": {"text/html"}, "X-Forwarded-Proto": {"https"}}} {
		r := httptest.NewRequest("GET", "http://portal.example/x", nil)
		r.Header = headers
		w := httptest.NewRecorder()
		plain.ServeHTTP(w, r, http.NotFoundHandler())
		if w.Code != 401 {
			t.Errorf("%s without TLS = %d; want 401", name, w.Code)
		}
	}
}

// A portal can't delete the gate's cookies: the others are deleted one by one.
func TestClearSiteData(t *testing.T) {
	g, cookie, _ := benchGate(t)
	for line, want := range map[string]struct{ rest, gone string }{
		`"cookies"`:                     {"", "sid theme"},
		`"cache", "cookies", "storage"`: {`"cache", "storage"`, "sid theme"},
		`"*"`:                           {`"cache", "storage"`, "sid theme"},
		`"cache"`:                       {`"cache"`, ""},
	} {
		for _, path := range []string{"/x", "/assets/x.css"} {
			r := httptest.NewRequest("GET", "https://portal.example"+path, nil)
			r.Header.Set("Cookie", "sid=1; __Host-portal="+cookie+"; theme=dark; __Host-portal-device=x")
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Clear-Site-Data", line)
				w.Header().Add("Set-Cookie", "sid=2")
			}))
			var gone []string
			for _, c := range w.Result().Cookies() {
				if c.MaxAge < 0 && c.Value == "" {
					gone = append(gone, c.Name)
				} else if c.Name != "sid" || c.Value != "2" {
					t.Errorf("%s: Set-Cookie: %s", line, c.Raw)
				}
			}
			if got := w.Header().Get("Clear-Site-Data"); got != want.rest || strings.Join(gone, " ") != want.gone {
				t.Errorf("%s becomes %s, and %q go; want %s and %s", line, got, gone, want.rest, want.gone)
			}
		}
	}
}

// None of several Referer lines contains an old link or a mailed link.
func TestEveryReferer(t *testing.T) {
	plain, cookie, _ := benchGate(t)
	g := withOldLinks(t, plain)
	for _, secret := range []string{"https://portal.example/one-click/dune-secret-token/x", "https://portal.example/-/link?t=secret-token"} {
		for _, lines := range [][]string{{secret}, {"https://portal.example/x", secret}, {secret, "https://portal.example/x"}} {
			r := httptest.NewRequest("GET", "https://portal.example/x", nil)
			r.TLS = &tls.ConnectionState{}
			r.Header["Referer"], r.Header["Cookie"] = lines, []string{"__Host-portal=" + cookie}
			if strings.Contains(secret, "one-click") && !Hides(g.Legacy, r.URL, r.Header) {
				t.Errorf("Hides says nothing of the Referer %q", lines)
			}
			if strings.Contains(secret, "one-click") && !Hides(g.Legacy, r.URL, http.Header{"Hx-Current-Url": lines}) {
				t.Errorf("Hides says nothing of the page %q", lines)
			}
			g.ServeHTTP(httptest.NewRecorder(), r, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if got := strings.Join(r.Header["Referer"], " "); strings.Contains(got, "secret") || got == "" {
					t.Errorf("of the Referer %q the portal gets %q; want the origin", lines, got)
				}
			}))
		}
	}
}
