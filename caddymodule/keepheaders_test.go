package caddymodule_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// headerBlocks are header directives for the whole site that people put in front of everything.
var headerBlocks = map[string]string{
	"at once": `header {
		Strict-Transport-Security max-age=31536000
		Content-Security-Policy "default-src 'self'"
		Cache-Control "public, max-age=3600"
		CDN-Cache-Control max-age=3600
		Expires "Thu, 01 Jan 2099 00:00:00 GMT"
	}`,
	"deferred, as it deletes": `header {
		Strict-Transport-Security max-age=31536000
		Content-Security-Policy "default-src 'self'"
		Content-Type text/plain
		Cache-Control "public, max-age=3600"
		CDN-Cache-Control max-age=3600
		Surrogate-Control max-age=3600
		Expires "Thu, 01 Jan 2099 00:00:00 GMT"
		Referrer-Policy unsafe-url
		X-Frame-Options ALLOWALL
		X-Content-Type-Options sniff
		-Set-Cookie
		-Location
		-Server
	}`,
	"deferred, twice": `header >Cache-Control "public, max-age=3600"
	header >Strict-Transport-Security max-age=31536000
	header >+Cache-Control immutable
	header ?Surrogate-Control max-age=3600
	header >Cache-Control no-store public
	header >-X-*`,
	"everything": `header {
		-*
		Strict-Transport-Security max-age=31536000
		defer
	}`,
}

// Headers for the whole site don't replace those that protect our own pages or keep personal pages
// out of caches; other headers apply to our pages as well.
func TestHeadersOfTheWholeSiteDontReplaceOurs(t *testing.T) {
	log := newLogFile(t)
	for name, block := range headerBlocks {
		if strings.Contains(name, "twice") { // another writer of the access log comes in between
			block = log.site + "\n\t" + block
		}
		p := newPortal(t)
		h := openHouse(t, layout{global: log.global, firm: "public /public/*", site: block + "\n\treverse_proxy " + strings.TrimPrefix(p.URL, "http://")})
		b := h.in("bob@example.com") // by Set-Cookie and Location
		pages := map[string]func() answer{
			"the prompt": func() answer { return h.browser().open("/x") }, "the account page": func() answer { return b.open("/-/account") },
			"me": func() answer { return b.open("/-/me") }, "signed out": func() answer { return h.browser().open("/-/sign-out") },
			"an upload": func() answer { return h.browser().do(h.browser().request("POST", "/x", nil)) }, "nothing": func() answer { return b.open("/-/nothing") },
			"health": func() answer { return b.open("/-/health") }, "a worker": func() answer {
				return h.browser().open("/sw.js", "Service-Worker", "script", "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "serviceworker")
			},
		}
		for page, open := range pages {
			a := open()
			if got := a.Header.Get("Strict-Transport-Security"); got != "max-age=31536000" {
				t.Errorf("%s, %s: Strict-Transport-Security: %q; want the site's", name, page, got)
			}
			if got := a.Header["Cache-Control"]; len(got) != 1 || got[0] != "no-store, no-transform" {
				t.Errorf("%s, %s: Cache-Control: %q; want no-store, no-transform", name, page, got)
			}
			for _, caches := range []string{"Cdn-Cache-Control", "Surrogate-Control"} {
				if got := a.Header[caches]; got != nil {
					t.Errorf("%s, %s: %s: %q; want none", name, page, caches, got)
				}
			}
			if strings.HasPrefix(a.body, "<!doctype html>") {
				wantPolicyIfPage(t, name+", "+page, a)
				for header, want := range map[string]string{"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "strict-origin", "Content-Type": "text/html; charset=utf-8"} {
					if got := a.Header[header]; !slices.Equal(got, []string{want}) {
						t.Errorf("%s, %s: %s: %q; want %q", name, page, header, got, want)
					}
				}
			}
		}
		p.answer = func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "max-age=5")
			w.Write([]byte("hello"))
		}
		wantPersonal(t, name+", the portal's page", b.open("/x").Header, "private, no-cache")
		if a := b.open("/public/x"); strings.Contains(block, ">Cache-Control") && !strings.Contains(a.Header.Get("Cache-Control"), "public") {
			t.Errorf("%s, an open page: Cache-Control: %q; want the site's", name, a.Header.Get("Cache-Control"))
		}
		if a := b.send("/-/sign-out", nil); a.StatusCode != 303 || a.Header.Get("Location") != "/-/sign-out" || len(a.Header["Set-Cookie"]) == 0 || b.me() != nil {
			t.Errorf("%s: sign-out = %d, Set-Cookie %q; want it done", name, a.StatusCode, a.Header["Set-Cookie"])
		}
	}
}
