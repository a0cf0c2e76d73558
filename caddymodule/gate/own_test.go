package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// A page of the same name that came without TLS may be anybody's who is on the way.
// Browsers that say Sec-Fetch-Site call it cross-site; the others' word is judged alike.
func TestS09_APageWithoutTLSIsNotOurs(t *testing.T) {
	g := &Gate{URL: &url.URL{Scheme: "https", Host: "portal.example"}, cookies: web.CookiesFor(&url.URL{Scheme: "https"}), csrf: http.NewCrossOriginProtection()}
	if err := g.csrf.AddTrustedOrigin("https://portal.example"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		url, from string // of the request; of the page
		ours      bool
	}{
		{"https://portal.example", "https://portal.example", true},
		{"https://portal.example", "http://portal.example", false},
		{"https://portal.example", "HTTP://PORTAL.EXAMPLE", false},
		{"https://portal.example", "ftp://portal.example", false},
		{"https://portal.example", "//portal.example", false},
		{"http://portal.example", "http://portal.example", false}, // TLS ended in front of us
		{"http://10.0.0.1:8080", "http://portal.example", false},  // likewise, and the Host is another
		{"http://10.0.0.1:8080", "https://portal.example", true},
		{"https://second.example", "https://second.example", true}, // another site block of the firm
		{"https://second.example", "http://second.example", false},
		{"http://second.example", "http://second.example", true}, // it has no TLS
		{"http://second.example", "http://portal.example", false},
		{"http://second.example", "//second.example", false},
		{"http://second.example", "ftp://second.example", false},
		{"https://portal.example", "https://second.example", false},
	} {
		for _, name := range []string{"Origin", "Referer"} {
			r := httptest.NewRequest("POST", c.url+"/-/sign-out", nil)
			r.Header.Set(name, c.from)
			r.Header.Set("Cookie", g.cookies.Session+"=x")
			if err := g.checkOrigin(r); (err == nil) != c.ours {
				t.Errorf("POST %s with %s: %s: %v; want it taken: %t", c.url, name, c.from, err, c.ours)
			}
		}
	}
}
