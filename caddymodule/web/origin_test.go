package web

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
)

// Anybody on the network may have sent a page of the same host without TLS. Browsers with
// Sec-Fetch-Site call such a page cross-site; the headers of other browsers are checked the same
// way.
func TestS09_PageWithoutTLSIsAnotherSite(t *testing.T) {
	origin := &url.URL{Scheme: "https", Host: "portal.example"}
	cookies := CookiesFor(origin)
	check := NewOriginCheck(&site.Sites{URL: origin}, cookies)
	for _, c := range []struct {
		url, from string // of the request; of the page
		ours      bool
	}{
		{"https://portal.example", "https://portal.example", true},
		{"https://portal.example", "http://portal.example", false},
		{"https://portal.example", "HTTP://PORTAL.EXAMPLE", false},
		{"https://portal.example", "ftp://portal.example", false},
		{"https://portal.example", "//portal.example", false},
		{"http://portal.example", "http://portal.example", false}, // TLS ended in front of the gate
		{"http://10.0.0.1:8080", "http://portal.example", false},  // likewise, with another Host
		{"http://10.0.0.1:8080", "https://portal.example", true},
		{"https://second.example", "https://second.example", true}, // another site block of the firm
		{"https://second.example", "http://second.example", false},
		{"http://second.example", "http://second.example", true}, // without TLS
		{"http://second.example", "http://portal.example", false},
		{"http://second.example", "//second.example", false},
		{"http://second.example", "ftp://second.example", false},
		{"https://portal.example", "https://second.example", false},
	} {
		for _, name := range []string{"Origin", "Referer"} {
			r := httptest.NewRequest("POST", c.url+"/-/sign-out", nil)
			r.Header.Set(name, c.from)
			r.Header.Set("Cookie", cookies.Session+"=x")
			if err := check.Check(r); (err == nil) != c.ours {
				t.Errorf("POST %s with %s: %s: %v; want it taken: %t", c.url, name, c.from, err, c.ours)
			}
		}
	}
}

// A form is accepted from this site, according to the browser's headers, or from clients that
// aren't signed in.
func FuzzOrigin(f *testing.F) {
	origin := &url.URL{Scheme: "https", Host: "portal.example"}
	cookies := CookiesFor(origin)
	check := NewOriginCheck(&site.Sites{URL: origin}, cookies)
	for _, seed := range [][3]string{{"https://portal.example", "", "portal.example"}, {"null", "", "portal.example"}, {"", "https://portal.example/x", "portal.example"}, {"http://portal.example", "", "portal.example"},
		{"https://portal.example.evil", "", "portal.example"}, {"https://evil@portal.example", "", "portal.example"}, {"https://other.example", "", "other.example"}, {"", "https://evil/?https://portal.example", "x"}, {"", "", "portal.example"}, {"http:", "", ""}, {"", "https:///x", ""}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, origin, referer, host string) {
		r := &http.Request{Method: "POST", Host: host, URL: &url.URL{Path: "/-/sign-out"}, Header: http.Header{"Cookie": {cookies.Session + "=x"}}}
		if origin != "" {
			r.Header["Origin"] = []string{origin}
		}
		if referer != "" {
			r.Header["Referer"] = []string{referer}
		}
		if check.Check(r) != nil {
			return
		}
		from := origin
		if from == "" {
			from = referer
		}
		scheme, rest, ok := strings.Cut(from, "://")
		authority := rest
		if i := strings.IndexAny(rest, "/?#"); i >= 0 {
			authority = rest[:i]
		}
		authority = authority[strings.LastIndexByte(authority, '@')+1:]
		if !ok || strings.Contains(authority, "%") {
			if from == "" || authority == "" {
				t.Fatalf("a form is taken with Origin %q, Referer %q, at %q", origin, referer, host)
			}
			return // no browser writes escapes in a host
		}
		known := strings.EqualFold(authority, "portal.example") && strings.EqualFold(scheme, "https") || strings.EqualFold(authority, host)
		if !known || strings.EqualFold(authority, "portal.example") && !strings.EqualFold(scheme, "https") {
			t.Fatalf("a form is taken with Origin %q, Referer %q, at %q", origin, referer, host)
		}
	})
}
