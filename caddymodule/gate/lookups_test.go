package gate

import (
	"cmp"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// A request takes few bytes to send. The look-ups for its URL and headers are bounded while nobody
// is signed in, and parts that aren't looked up don't reach the portal: for real tokens as for
// invented ones.
func TestRequestsWithoutSessionCostAtMostThreeStoreCalls(t *testing.T) {
	g, _, db := benchGate(t)
	g = withOldLinks(t, g)
	g.ClientIP = func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.7") }
	g.remake()
	params := func(n int, first string) string {
		all := []string{"client=" + first}
		for i := range n - 1 {
			all = append(all, fmt.Sprintf("client%%5b%d%%5d=Invented-%d", i, i))
		}
		return strings.Join(all, "&")
	}
	routes := func(n int, first string) string {
		all := []string{"a=/one-click/" + first}
		for i := range n - 1 {
			all = append(all, fmt.Sprintf("a=/one-click/Invented-%d&b=/files/f%d.html", i, i))
		}
		return strings.Join(all, "&")
	}
	forged := "__Host-portal=" + secret.Random()
	for _, c := range []struct{ path, cookie string }{
		{"/assets/x?" + params(1, "TOKEN"), ""},
		{"/assets/x?" + params(1, "TOKEN"), forged},
		{"/assets/x?" + params(2, "TOKEN"), ""},
		{"/assets/x?" + params(31, "TOKEN"), ""},
		{"/assets/x?" + routes(15, "TOKEN"), ""},
		{"/x?" + params(31, "TOKEN"), ""},
		{"/x?" + routes(15, "TOKEN"), ""},
		{"/x" + strings.Repeat("/one-click/Invented", 20) + "/one-click/TOKEN/", ""},
		{"/one-click/TOKEN/x?" + params(31, "Invented"), forged},
		{"/portal/birch/x?" + params(31, "TOKEN"), forged},
		{"/view?" + params(31, "TOKEN"), ""},
		{"/assets/x", strings.ReplaceAll(params(31, "TOKEN"), "&", "; ")},
		{"/assets/x?client=TOKEN", strings.ReplaceAll(params(31, "TOKEN"), "&", "; ")},
		{"/assets/x", forged + "; client=TOKEN"},
		{"/assets/x", strings.Repeat(forged+"; ", 9)},
		{"/assets/x?client=TOKEN", strings.Repeat(forged+"; ", 9)},
	} {
		answers := map[string]string{}
		for _, token := range []string{"birch-secret-token", "Birch-Secret-Token", "birch-absent-token", "Birch-Absent-Token"} {
			path, cookie := strings.ReplaceAll(c.path, "TOKEN", token), strings.ReplaceAll(c.cookie, "TOKEN", token)
			got := ""
			ask := func() (calls int64) {
				r := httptest.NewRequest(http.MethodGet, "https://portal.example"+path, nil)
				r.Header.Set("Accept", "text/html")
				if cookie != "" {
					r.Header.Set("Cookie", cookie)
				}
				w := httptest.NewRecorder()
				before := db.calls.Load()
				g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if seen := r.URL.String() + strings.Join(r.Header["Cookie"], ""); strings.Contains(strings.ToLower(seen), "birch-secret-token") {
						t.Errorf("%s, %s: the portal gets %s", path, cookie, seen)
					}
					fmt.Fprint(w, "portal")
				}))
				calls = db.calls.Load() - before
				got = fmt.Sprint(w.Code, len(cmp.Or(w.Header().Get("Location"))), w.Body.String() == "portal")
				return calls
			}
			ask() // found records are cached, missing ones aren't
			if calls := ask(); calls > 3 {
				t.Errorf("%s, cookie %.20s: %d store calls; want at most 3", path, cookie, calls)
			}
			answers[token] = got
		}
		for token, a := range answers {
			if a != answers["birch-absent-token"] {
				t.Errorf("%s, cookie %.20s: with %s the answer is %s; with an invented token %s", c.path, c.cookie, token, a, answers["birch-absent-token"])
			}
		}
	}
}

// The response to a request without a session reveals whether a token in it is real. A client that
// finds many tokens of others gets no more such responses, for real tokens and others; pages
// without tokens work, and so do those with a token of the visitor's own company.
func TestNobodyFindsOutManyTokensWithoutASession(t *testing.T) {
	g, _, db := benchGate(t)
	g = withOldLinks(t, g)
	g.ClientIP = func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.7") }
	g.remake()
	dune, err := g.Directory.StatusOf(t.Context(), "dune")
	if err != nil {
		t.Fatal(err)
	}
	visit := "__Host-portal-visit=" + g.forward.sealVisit(g.forward.newVisit(dune, "dune-secret-token", nil))
	passed := func(path, cookie string) (yes bool) {
		r := httptest.NewRequest(http.MethodGet, "https://portal.example"+path, nil)
		r.Header.Set("Accept", "text/html")
		r.Header.Set("Cookie", cookie)
		g.ServeHTTP(httptest.NewRecorder(), r, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { yes = true }))
		return yes
	}
	const own = "/x?client[]=one&client[]=two&client[]=dune-secret-token&client[]=Three"
	if before := db.calls.Load(); !passed(own, visit) || db.calls.Load()-before > 3 {
		t.Fatalf("%s isn't passed on in a visit, or costs %d store calls", own, db.calls.Load()-before)
	}
	for range 1000 {
		if !passed("/assets/one-click/invented/", "") || !passed("/x?client[]=invented", visit) {
			t.Fatal("pages that have no token in them aren't passed on any more")
		}
	}
	n := 0
	for ; n < 500 && passed("/assets/one-click/invented/", ""); n++ {
		if passed("/assets/one-click/birch-secret-token/", "") {
			t.Fatal("a token of birch's reaches the portal")
		}
	}
	if n == 500 || passed("/x?client[]=invented", visit) || passed("/assets/x?client=invented", "") {
		t.Errorf("after %d real tokens the same network finds out more", n)
	}
	for path, cookie := range map[string]string{"/x": visit, "/x?client=dune-secret-token": visit, "/assets/x?a=1": ""} {
		if !passed(path, cookie) {
			t.Errorf("past the limit %s isn't passed on", path)
		}
	}
}

// A company whose record can't be read belongs to nobody, and its token reaches the portal from
// nobody; everything else works.
func TestTokensOfADamagedCompanyReachThePortalNowhere(t *testing.T) {
	g, cookie, db := benchGate(t)
	g = withOldLinks(t, g)
	if err := db.Apply(t.Context(), store.Put(store.Key{Firm: g.Firm, Bucket: "company", ID: "birch"}, []byte("\x01damaged"), time.Time{})); err != nil {
		t.Fatal(err)
	}
	g.Directory = &directory.Directory{Firm: g.Firm, Store: g.Directory.Store, Keys: g.Directory.Keys}
	g.remake()
	for _, signedIn := range []string{"", "__Host-portal=" + cookie} {
		for _, path := range []string{"/assets/x?k=birch-secret-token", "/assets/x?client=birch-secret-token", "/x?next=%2Fopen%2Fbirch-secret-token"} {
			got := ""
			r := httptest.NewRequest(http.MethodPost, "https://portal.example"+path, strings.NewReader("k=birch-secret-token"))
			r.Header = http.Header{"Cookie": {signedIn + "; k=birch-secret-token"}, "X-Key": {"birch-secret-token"}, "Sec-Fetch-Site": {"same-origin"}}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = fmt.Sprint(r.URL, r.Header, string(body))
			}))
			if passes := signedIn != "" || strings.HasPrefix(path, "/assets"); (w.Code == 200) != passes || strings.Contains(got, "birch-secret") {
				t.Errorf("%s, signed in %t = %d, and the portal gets %s; want it without the token", path, signedIn != "", w.Code, got)
			}
		}
	}
}

// A guessable token reaches a public page from anybody while its company is open, as its old link
// does; the token of an upgraded company reaches none, however short it is.
func TestATokenThatCanBeGuessedReachesAPublicPageOnlyWhileItsCompanyIsOpen(t *testing.T) {
	g, _, _ := benchGate(t)
	g = withOldLinks(t, g)
	const token = "Zp3Lw8nYc5"
	companies := []string{"elm"}
	if _, err := g.Directory.AddCompany(t.Context(), "elm", directory.CompanyChange{LegacyTokens: &[]string{token}}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Directory.SetContact(t.Context(), "ann@example.com", directory.Change{Companies: &companies}); err != nil {
		t.Fatal(err)
	}
	requests := map[string]func() *http.Request{
		"a parameter": func() *http.Request {
			return httptest.NewRequest(http.MethodGet, "https://portal.example/assets/x?k="+token, nil)
		},
		"a header": func() *http.Request {
			r := httptest.NewRequest(http.MethodGet, "https://portal.example/assets/x", nil)
			r.Header.Set("X-Key", token)
			return r
		},
		"a cookie": func() *http.Request {
			r := httptest.NewRequest(http.MethodGet, "https://portal.example/assets/x", nil)
			r.Header.Set("Cookie", "k="+token)
			return r
		},
		"a body": func() *http.Request {
			r := httptest.NewRequest(http.MethodPost, "https://portal.example/assets/x", strings.NewReader("k="+token))
			r.Header.Set("Sec-Fetch-Site", "same-origin")
			return r
		},
	}
	check := func(passes bool) {
		t.Helper()
		for how, request := range requests {
			got := ""
			g.ServeHTTP(httptest.NewRecorder(), request(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				got = fmt.Sprint(r.URL, r.Header, string(body))
			}))
			if got == "" || strings.Contains(got, token) != passes {
				t.Errorf("in %s the portal gets %q; want it with the token: %t", how, got, passes)
			}
		}
	}
	check(true)
	if _, err := g.Directory.Upgrade(t.Context(), directory.Upgrade{Companies: companies}, nil); err != nil {
		t.Fatal(err)
	}
	check(false)
	if _, err := g.Directory.Upgrade(t.Context(), directory.Upgrade{Companies: companies, Undo: true}, nil); err != nil {
		t.Fatal(err)
	}
	check(true)
}

// If a URL has more spellings of tokens than any real one, all of them count as unauthorized.
func TestAURLWithManySpellingsOfATokenHasNoneOfThem(t *testing.T) {
	g, cookie, _ := benchGate(t)
	g = withOldLinks(t, g)
	const token = "birch-secret-token"
	var query strings.Builder
	for i := range 200 {
		spelled := []byte(token)
		for bit := range 8 {
			if i>>bit&1 == 1 && spelled[bit] >= 'a' {
				spelled[bit] -= 'a' - 'A'
			}
		}
		fmt.Fprintf(&query, "k%d=%s&", i, spelled)
	}
	for path, status := range map[string]int{"/x?": 200, "/assets/x?": 200, "/x/": 404} {
		got := ""
		r := httptest.NewRequest(http.MethodGet, "https://portal.example"+path+query.String(), nil)
		r.Header.Set("Cookie", "__Host-portal="+cookie)
		w := httptest.NewRecorder()
		g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r.URL.String() }))
		if w.Code != status || strings.Contains(strings.ToLower(got), token) {
			t.Errorf("%s = %d, and the portal gets %.200s; want %d, and no spelling of the token", path, w.Code, got, status)
		}
	}
}

// Search pages have a dozen parameters, and grids request each of their pages: a whole office does
// that all day, in visits too.
func TestSearchesInAVisitAreNotCounted(t *testing.T) {
	g, _, _ := benchGate(t)
	g = withOldLinks(t, g)
	g.ClientIP = func(*http.Request) netip.Addr { return netip.MustParseAddr("203.0.113.7") }
	g.remake()
	dune, err := g.Directory.StatusOf(t.Context(), "dune")
	if err != nil {
		t.Fatal(err)
	}
	cookie := "__Host-portal-visit=" + g.forward.sealVisit(g.forward.newVisit(dune, "dune-secret-token", nil))
	for i := range 400 {
		for _, base := range []string{"/portal/dune/search", "/one-click/dune-secret-token/search"} {
			got := ""
			query := fmt.Sprintf("from=2026-01-01&to=2026-01-31&status=delivered&customer=Harbor-Bakery&sort=created_at&cursor=9f8a7b6c5d%d", i)
			r := httptest.NewRequest(http.MethodGet, "https://portal.example"+base+"?"+query, nil)
			r.Header.Set("Cookie", cookie)
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { got = r.URL.RawQuery }))
			if got != query {
				t.Fatalf("search %d at %s = %d, and the portal gets %q; want it as it was sent", i, base, w.Code, got)
			}
		}
	}
}

// D15: the work for different values in a query grows only linearly with its length.
func TestD15_ManyValuesCostNoMoreThanFew(t *testing.T) {
	g, cookie, _ := benchGate(t)
	g = withOldLinks(t, g)
	work := func(values int) uint64 {
		query := strings.Repeat("a=something-%252525252531&", 800)
		for i := range values {
			query += fmt.Sprintf("&b=something-%d", i)
		}
		r := httptest.NewRequest(http.MethodGet, "https://portal.example/one-click?"+query, nil)
		r.Header.Set("Cookie", "__Host-portal="+cookie)
		passed := false
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		g.ServeHTTP(httptest.NewRecorder(), r, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
		runtime.ReadMemStats(&after)
		if !passed {
			t.Errorf("a page with %d values isn't passed on", values)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	if few, many := work(1), work(50); many > 2*few+1<<20 {
		t.Errorf("50 values allocate %d bytes, one %d; want about as many", many, few)
	}
}
