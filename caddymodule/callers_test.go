package caddymodule_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The lines in docs/before-the-first-day.md are valid, and let in the callers that they
// are for.
func TestDocumentedLinesLetOtherCallersIn(t *testing.T) {
	page, err := os.ReadFile("../docs/before-the-first-day.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile("`(public [^`]+)`").FindAllStringSubmatch(string(page), -1)
	if len(lines) < 10 {
		t.Fatalf("the page has %d lines; want at least 10", len(lines))
	}
	var all []string
	for _, l := range lines {
		if l[1] != "public /api/*" { // which would hide what `public OPTIONS /api/*` lets in
			all = append(all, l[1])
		}
	}
	h := openHouse(t, layout{firm: strings.Join(all, "\n\t\t")})
	for _, c := range []struct{ method, path string }{
		{"POST", "/webhooks/paid"}, {"POST", "/payment/return"}, {"GET", "/assets/logo.png"}, {"GET", "/robots.txt"}, {"GET", "/calendar/secret.ics"},
		{"PROPFIND", "/dav/ann/"}, {"REPORT", "/dav/ann/"}, {"PUT", "/dav/ann/1.ics"}, {"MKCALENDAR", "/dav/ann/new"}, {"PROPFIND", "/.well-known/caldav"}, {"OPTIONS", "/dav/"},
		{"GET", "/git/site.git/info/refs?service=git-upload-pack"}, {"POST", "/git/site.git/git-upload-pack"},
		{"OPTIONS", "/api/invoices"}, {"GET", "/manifest.webmanifest"},
	} {
		r := h.browser().request(c.method, c.path, nil, "Accept", "*/*", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", "",
			"Authorization", "Basic YW5uOnBvcnRhbA==", "User-Agent", "git/2.47.0")
		a := h.browser().do(r)
		got, _ := h.portal.last()
		if a.StatusCode != http.StatusOK || got.Method != c.method || got.URI != c.path || got.Header.Get("Authorization") != "Basic YW5uOnBvcnRhbA==" {
			t.Errorf("%s %s = %d, the portal got %s %s %q; want it passed on with its password", c.method, c.path, a.StatusCode, got.Method, got.URI, got.Header.Get("Authorization"))
		}
	}
	if a := h.browser().open("/api/invoices", "Accept", "application/json"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("GET /api/invoices, of which OPTIONS alone is public = %d; want 401", a.StatusCode)
	}
}

// If the portal has pages under the prefix, the log says so, and what to write.
func TestPortalPathsUnderThePrefixAreLogged(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global})
	b := h.in("ann@example.com")
	const told = "a page of the site asks for a path under the prefix"
	b.open("/-/scanner", "Sec-Fetch-Site", "none")
	if strings.Contains(log.text(t), told) {
		t.Error("a path that somebody typed is told")
	}
	for range 3 {
		if a := b.open("/-/project/app.js", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "script", "Sec-Fetch-Mode", "no-cors"); a.StatusCode != http.StatusNotFound {
			t.Fatalf("GET /-/project/app.js = %d; want 404", a.StatusCode)
		}
	}
	if n := strings.Count(log.text(t), told); n != 1 || !strings.Contains(log.text(t), `"path":"/-/project/app.js","prefix":"/-","what_to_do":"write, for example: prefix /-signin"`) {
		t.Errorf("it is told %d times; want once, with path and remedy", n)
	}
}
