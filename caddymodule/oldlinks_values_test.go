package caddymodule_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// A company's token, anywhere in a request, reaches the portal only if the sender may use it. The
// gate need not know where the portal looks for tokens, and the rest of the request stays
// unchanged.
func TestAnothersTokenReachesThePortalNowhere(t *testing.T) {
	const own, birchs = "wd3Kx8nLq5Ys6Tg", "hb7Qm2xVt9Kp4Rz"
	log := plainLog(t)
	portal := newPortal(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, site: "log\n\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://"), app: m.app(), firm: strings.Replace(oldLinks, "/assets/*", "/assets/* /contact", 1), admin: freeAddress(t),
		companies: "id,name,legacy_tokens\nacme,Acme Ltd," + own + "\nbirch,Birch & Sons," + birchs + "\ndune,Dune,dn4Jw7pXc2Lv8Qs\n"})
	m.moveInto(h)
	h.upgrade("birch")
	bob, ann, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("owner@example.com") // of acme; of acme and birch; staff
	visitor := h.browser()
	visitor.open("/one-click/" + own + "/x")
	escaped := func(s string) string {
		var b strings.Builder
		for i := range len(s) {
			fmt.Fprintf(&b, "%%%02X", s[i])
		}
		return b.String()
	}
	xml := "<?xml version=\"1.0\"?><q k=\"TOKEN\"/>"
	requests := map[string]func(b *browser, token string) *http.Request{
		"a parameter of any name": func(b *browser, token string) *http.Request { return b.request("GET", "/contact?x=1&k="+token, nil) },
		"a parameter without name": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact?"+token+"&x=1", nil)
		},
		"a parameter, escaped twice": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact?k="+strings.ReplaceAll(escaped(token), "%", "%25"), nil)
		},
		"a part of a value": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact?next=%2Fopen%2F"+token+"%2Fx", nil)
		},
		"a header": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact", nil, "X-Client-Key", token)
		},
		"a header of a WebSocket": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact", nil, "Sec-Websocket-Protocol", "portal, "+token)
		},
		"Bearer": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact", nil, "Authorization", "Bearer "+token)
		},
		"a cookie of any name": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact", nil, "Cookie", strings.TrimPrefix(b.session()+"; k="+token, "; "))
		},
		"a cookie's name": func(b *browser, token string) *http.Request {
			return b.request("GET", "/contact", nil, "Cookie", strings.TrimPrefix(b.session()+"; "+token+"=1", "; "))
		},
	}
	for name, body := range map[string][2]string{
		"JSON": {"application/json", `{"a":[{"k":"TOKEN"}]}`}, "JSON with escapes": {"application/json", `{"k":"\u0068` + birchs[1:] + `"}`}, "text": {"text/plain", "k: TOKEN\n"}, "XML": {"text/xml", xml},
		"no type": {"", "TOKEN"}, "a form": {"application/x-www-form-urlencoded", "a=1&k=TOKEN&b=2"}, "an upload": {"application/octet-stream", strings.Repeat("\x00\xff", 40_000) + "TOKEN" + strings.Repeat("\x01", 40_000)},
	} {
		requests[name] = func(b *browser, token string) *http.Request {
			return b.request("POST", "/contact", strings.NewReader(strings.ReplaceAll(body[1], "TOKEN", token)), "Content-Type", body[0], "Origin", h.url, "Sec-Fetch-Site", "same-origin")
		}
	}
	whole := func(one seen) string {
		uri := one.URI
		for range 3 {
			uri, _ = url.QueryUnescape(uri)
		}
		return strings.ReplaceAll(fmt.Sprint(uri, one.Header, one.Body), `\u0068`, "h")
	}
	for who, c := range map[string]struct {
		b   *browser
		may bool
	}{"a client of acme": {bob, false}, "a visitor of acme": {visitor, false}, "nobody": {h.browser(), false}, "a client of birch": {ann, true}, "staff": {owner, true}} {
		for how, request := range requests {
			_, before := portal.last()
			a := c.b.do(request(c.b, birchs))
			got, n := portal.last()
			if a.StatusCode != 200 || n == before || strings.Contains(whole(got), birchs) != c.may {
				t.Errorf("%s, %s: %d, %d requests more at the portal, which has the token: %t; want %t", who, how, a.StatusCode, n-before, strings.Contains(whole(got), birchs), c.may)
			}
			if how == "JSON with escapes" {
				continue // these always contain birch's token
			}
			a = c.b.do(request(c.b, "nb2Hs6tRk9Wx3Mc")) // of no company
			if got, _ = portal.last(); a.StatusCode != 200 || !strings.Contains(whole(got), "nb2Hs6tRk9Wx3Mc") {
				t.Errorf("%s, %s: with nobody's token %d, and the portal gets %.300s; want it as it was sent", who, how, a.StatusCode, whole(got))
			}
		}
	}
	// In a path, the portal has no page for it.
	for _, path := range []string{"/orders/" + birchs, "/a/b-" + birchs + ".html", "/" + escaped(birchs) + "/x"} {
		_, before := portal.last()
		a := bob.open(path)
		if _, n := portal.last(); a.StatusCode != 404 && a.StatusCode != 400 || n > before {
			t.Errorf("%s = %d, and %d requests reach the portal; want 404 and none", path, a.StatusCode, n-before)
		}
		if a := ann.open(path); a.StatusCode != 200 && a.StatusCode != 400 {
			t.Errorf("%s for a client of the company = %d; want 200", path, a.StatusCode)
		}
	}
	// No log has a token, wherever in the URL it was.
	if text := log.text(t); !strings.Contains(text, "(hidden)") || slices.ContainsFunc([]string{birchs, own}, func(token string) bool { return strings.Contains(text, token) }) {
		t.Error("the log has a token, or no line in the place of one that had")
	}
}

// Nobody finds out which guesses are tokens of open companies by what a public page of the portal does: neither when it
// fails, nor by the page that the browser says it comes from.
func TestAPublicPageTellsNothingOfTokens(t *testing.T) {
	const open, none = "Zp3Lw8nYc5", "Qx4Vb6tRk9"
	portal, m := newPortal(t), startMailServer(t)
	h := openHouse(t, layout{site: "handle /assets/none/* {\n\t\tfile_server {\n\t\t\troot " + t.TempDir() + "\n\t\t}\n\t}\n\thandle /assets/error/* {\n\t\treverse_proxy " + freeAddress(t) + "\n\t}\n\thandle {\n\t\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://") + "\n\t}",
		app: m.app(), firm: oldLinks, companies: "id,name,legacy_tokens\nacme,Acme Ltd,wd3Kx8nLq5Ys6Tg\nbirch,Birch,\nelm,Elm," + open + "\n"})
	m.moveInto(h)
	b := h.browser()
	answers := func(token string) (all string) {
		for _, path := range []string{"/assets/x", "/assets/none/x", "/assets/error/x"} {
			for _, r := range []*http.Request{b.request("GET", path+"?k="+token, nil), b.request("GET", path, nil, "X-Key", token), b.request("GET", path, nil, "Referer", h.url+"/y?k="+token)} {
				_, before := portal.last()
				a := b.do(r)
				got, after := portal.last()
				if after > before {
					all += strings.ReplaceAll(fmt.Sprint(got.URI, got.Header["X-Key"], got.Header["Referer"]), token, "TOKEN")
				}
				all += fmt.Sprint(path, a.StatusCode, a.Header["Content-Type"], strings.ReplaceAll(a.body, token, "TOKEN"), "\n")
			}
		}
		return all
	}
	real, guessed := answers(open), answers(none)
	if a, b := firstLines(real, guessed); real != guessed {
		t.Errorf("with an open company's token the answer is\n%s\nand with nobody's\n%s", a, b)
	}
	if !strings.Contains(real, "/assets/none/x404") || !strings.Contains(real, "/assets/error/x502") || !strings.Contains(real, "k=TOKEN") {
		t.Errorf("the answers are\n%s\nwant that of a file that isn't there, one of a portal that is away, and the token as it was sent", real)
	}
}

// firstLines returns the first line in which two texts differ.
func firstLines(a, b string) (string, string) {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return x[i], y[i]
		}
	}
	return a, b
}
