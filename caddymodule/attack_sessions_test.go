package caddymodule_test

// Class S: sessions, cookies, forms from elsewhere, frames, caches.
//
// Not here: S16's hundred sessions (session/session_test.go), S02 and S15 over two gates
// (redis_gates_test.go).

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// CVE-2026-34454: a sign-in never keeps an earlier session ID, whosever it was.
func TestS01_CVE_2026_34454_EverySignInGetsANewID(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	u, _ := url.Parse(h.url)
	plant := func(b *browser, value string) {
		b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: value, Path: "/"}})
	}
	attackers := strings.Repeat("A", 43)
	for way, in := range map[string]func(*browser, letter) answer{
		"by link":           func(b *browser, l letter) answer { return b.open(l.link) },
		"by code":           func(b *browser, l letter) answer { return b.send("/-/code", form("code", l.code)) },
		"by link elsewhere": func(_ *browser, l letter) answer { return answer{} },
	} {
		b := h.browser()
		if way == "by link elsewhere" {
			in = func(b *browser, l letter) answer {
				return b.send("/-/link", form("t", secretOf(l.link), "email", "ann@example.com"))
			}
		}
		plant(b, attackers)
		l := b.ask("ann@example.com", "/")
		if way == "by link elsewhere" {
			b = h.browser()
			plant(b, attackers)
		}
		if a := in(b, l); a.StatusCode != 303 || b.cookie("portal") == attackers || len(b.cookie("portal")) != 43 {
			t.Errorf("%s = %d with the cookie %q; want a new one", way, a.StatusCode, b.cookie("portal"))
		}
		if a := h.get("/x", "Cookie: portal="+attackers); a.status != 401 {
			t.Errorf("%s: the planted id = %d; want 401", way, a.status)
		}
		// Again, as the same contact and as another one: each time the earlier ID is invalid.
		for _, email := range []string{"ann@example.com", "bob@example.com"} {
			before := b.cookie("portal")
			l := b.ask(email, "/")
			if email == "ann@example.com" {
				b.open(l.link)
			} else {
				b.send("/-/code", form("code", l.code))
			}
			if b.cookie("portal") == before || b.me()["email"] != email {
				t.Errorf("%s, then as %s: in as %v with the cookie of before: %t", way, email, b.me()["email"], b.cookie("portal") == before)
			}
			if a := h.get("/x", "Cookie: portal="+before); a.status != 401 {
				t.Errorf("%s, then as %s: the id before = %d; want 401", way, email, a.status)
			}
		}
	}
	// Invalid cookies are deleted, but only by a page load.
	for _, path := range []string{"/x", "/-/sign-in"} {
		for _, c := range []struct {
			lines []string
			clear bool
		}{
			{[]string{"Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, true},
			{[]string{"HEAD"}, false},
			{[]string{"Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, false},
			{[]string{"Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, false},
			{[]string{"X-Requested-With: XMLHttpRequest"}, false},
			{[]string{"Sec-Purpose: prefetch"}, false},
		} {
			method, lines := "GET", c.lines
			if lines[0] == "HEAD" {
				method, lines = "HEAD", nil
			}
			a := h.raw(h.message(method, path, append(lines, "Accept: text/html", "Cookie: portal="+attackers)...))
			if got := slices.Equal(a.header["Set-Cookie"], []string{"portal=; Path=/; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; HttpOnly; SameSite=Lax"}); got != c.clear || !c.clear && len(a.header["Set-Cookie"]) != 0 {
				t.Errorf("GET %s with a dead cookie, %v: Set-Cookie %q; want it cleared: %t", path, c.lines, a.header["Set-Cookie"], c.clear)
			}
		}
	}
}

// A browser with many cookies of our name, set by another site: the valid one counts, at
// bounded cost.
func TestS01_ManyCookies(t *testing.T) {
	h := openHouse(t, layout{})
	good := "portal=" + h.in("bob@example.com").cookie("portal")
	junk := "portal=" + strings.Repeat("B", 43)
	for name, c := range map[string]struct {
		cookie string
		status int
	}{
		"one that is, behind two that aren't":   {junk + "; portal=x; " + good, 200},
		"one that is, before a hundred":         {good + strings.Repeat("; "+junk, 100), 200},
		"a hundred that aren't":                 {strings.Repeat(junk+"; ", 100), 401},
		"one that is, behind a hundred":         {strings.Repeat(junk+"; ", 100) + good, 401},
		"a large one":                           {"portal=" + strings.Repeat("x", 12_000), 401},
		"a large one of somebody else":          {"x=" + strings.Repeat("x", 12_000) + "; " + good, 200},
		"one in quotes":                         {`portal="` + good[7:] + `"`, 200},
		"one with something behind it":          {good + "x", 401},
		"one in capitals":                       {"PORTAL=" + good[7:], 401},
		"one with another name":                 {"portal2=" + good[7:], 401},
		"none":                                  {"", 401},
		"a name alone":                          {"portal", 401},
		"more than the server reads":            {strings.Repeat("a=b; ", 10_000), 431},
		"two thousand of somebody else, no one": {strings.Repeat("a=b; ", 2_000), 401},
	} {
		if a := h.get("/x", "Cookie: "+c.cookie); a.status != c.status {
			t.Errorf("%s = %d; want %d", name, a.status, c.status)
		}
	}
}

// CVE-2024-21492: after the sign-out a copy of the cookie is worthless.
func TestS02_CVE_2024_21492_CookiesAreWorthlessAfterSignOut(t *testing.T) {
	h := openHouse(t, layout{})
	b, other := h.in("ann@example.com"), h.in("ann@example.com")
	copied := b.session()
	if a := b.open("/-/sign-out"); a.StatusCode != 200 || b.me() == nil {
		t.Errorf("GET /-/sign-out = %d; want 200, and nobody signed out", a.StatusCode)
	}
	a := b.send("/-/sign-out", url.Values{})
	if want := "portal=; Path=/; Expires=Thu, 01 Jan 1970 00:00:01 GMT; Max-Age=0; HttpOnly; SameSite=Lax"; a.StatusCode != 303 || !slices.Equal(a.Header["Set-Cookie"], []string{want}) {
		t.Errorf("POST /-/sign-out = %d, Set-Cookie %q; want 303 and the cookie cleared", a.StatusCode, a.Header["Set-Cookie"])
	}
	for _, path := range []string{"/x", "/-/me"} {
		if a := h.get(path, copied); a.status != 401 {
			t.Errorf("GET %s with a copy of the cookie = %d; want 401", path, a.status)
		}
	}
	if other.me() == nil {
		t.Error("another browser of theirs is signed out, too")
	}
	h.start() // a reload
	if a := h.get("/x", copied); a.status != 401 {
		t.Errorf("GET with a copy of the cookie after a reload = %d; want 401", a.status)
	}
}

// gorilla/securecookie's 30 days: the server enforces both limits, whatever the browser
// keeps.
func TestS03_TheServerEnforcesTheLimits(t *testing.T) {
	const idle, longest = 700 * time.Millisecond, 1600 * time.Millisecond
	h := openHouse(t, layout{firm: fmt.Sprintf("session {\n\t\t\tidle %v\n\t\t\tmax %v\n\t\t}", idle, longest)})
	busy, quiet := h.in("ann@example.com"), h.in("bob@example.com")
	began := time.Now()
	copied := [2]string{busy.session(), quiet.session()}
	for last := began; time.Since(began) < time.Second; time.Sleep(100 * time.Millisecond) {
		a := h.get("/x", copied[0])
		if stood := time.Since(last) > idle/2; a.status != 200 && !stood { // a busy machine may stop for so long that the session is idle
			t.Fatalf("GET of a busy one after %v = %d; want 200", time.Since(began), a.status)
		} else if stood {
			t.Logf("the machine stood still for %v", time.Since(last))
			break
		}
		last = time.Now()
	}
	time.Sleep(time.Until(began.Add(time.Second)))
	if a := h.get("/x", copied[1]); a.status != 401 {
		t.Errorf("GET of an idle one after %v = %d; want 401", time.Since(began), a.status)
	}
	for time.Since(began) < longest+100*time.Millisecond {
		h.get("/x", copied[0])
		time.Sleep(100 * time.Millisecond)
	}
	if a := h.get("/x", copied[0]); a.status != 401 {
		t.Errorf("GET of a busy one after %v = %d; want 401", time.Since(began), a.status)
	}
}

// With a new secret before the old one, everything sealed by the old one still works; without
// the old one, its links are unknown. Sessions don't depend on it.
func TestS07_AnOlderSecretWorksUntilItIsRemoved(t *testing.T) {
	t.Setenv("ATTACK_OLD", "an old secret of thirty-two characters or more")
	t.Setenv("ATTACK_NEW", "a new secret of thirty-two characters, or more")
	t.Setenv("ATTACK_OTHER", "another secret of thirty-two characters, or more")
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app() + "\n\t\tsecret {env.ATTACK_OLD}", admin: freeAddress(t)})
	m.moveInto(h)
	bob, before := h.in("bob@example.com"), h.browser()
	l := before.ask("ann@example.com", "/orders")
	late := h.browser()
	waiting := late.ask("owner@example.com", "/")
	h.change("secret {env.ATTACK_OLD}", "secret {env.ATTACK_NEW} {env.ATTACK_OLD}")
	http.DefaultClient.CloseIdleConnections()
	if bob.me() == nil {
		t.Error("a new secret has signed bob out")
	}
	if a := before.open(l.link); a.StatusCode != 303 || before.me()["email"] != "ann@example.com" {
		t.Errorf("GET link from before the new secret = %d; want 303", a.StatusCode)
	}
	b := h.browser()
	now := b.ask("nameless@example.com", "/")
	if secretOf(now.link) == "" || b.send("/-/code", form("code", now.code)).StatusCode != 303 {
		t.Error("a code under the new secret doesn't work")
	}
	h.sealedAnew()
	h.change("secret {env.ATTACK_NEW} {env.ATTACK_OLD}", "secret {env.ATTACK_NEW}")
	http.DefaultClient.CloseIdleConnections()
	h.eventually("the old secret is gone", func() bool { return h.browser().open(waiting.link).StatusCode == 400 })
	if a := late.open(waiting.link); a.StatusCode != 400 || late.me() != nil {
		t.Errorf("GET link from before, when the old secret is gone = %d; want 400", a.StatusCode)
	}
	if a := b.open("/x"); a.StatusCode != 200 {
		t.Errorf("a session, when the old secret is gone = %d; want 200", a.StatusCode)
	}
	h.config = strings.ReplaceAll(h.config, "secret {env.ATTACK_NEW}", "secret {env.ATTACK_OTHER}")
	if err := h.load(); err == nil || b.open("/x").StatusCode != 200 {
		t.Errorf("loading with a secret that never was = %v; want it refused, and all as before", err)
	}
}

// S04, S11: TLS ends in front of Caddy, where the Host differs. The cookies are those of the
// https site, and forms of its pages are accepted.
func TestS04_CookiesOfAnHTTPSSite(t *testing.T) {
	h := openHouse(t, layout{url: "https://portal.example"})
	flags := regexp.MustCompile(`^__Host-portal(-flow)?=[A-Za-z0-9_-]{43}; Path=/; (Expires=[^;]*; Max-Age=\d+; )?HttpOnly; Secure; SameSite=Lax$`)
	post := func(path, body string, lines ...string) rawAnswer { return h.post(path, body, lines...) }
	mails := 0
	for name, lines := range map[string][]string{
		"a browser of today":         {"Origin: https://portal.example", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate"},
		"one without Sec-Fetch":      {"Origin: https://portal.example"},
		"one without Origin, either": {"Referer: https://portal.example/"},
	} {
		h.mayMailAgain(mails)
		a := post("/-/sign-in", "email=ann%40example.com&shared=1", lines...)
		if a.status != 303 || len(a.header["Set-Cookie"]) != 1 || !flags.MatchString(a.header.Get("Set-Cookie")) {
			t.Errorf("%s: POST /-/sign-in = %d, Set-Cookie %q", name, a.status, a.header["Set-Cookie"])
		}
		h.nextLetter("ann@example.com", mails)
		mails++
	}
	l := h.nextLetter("ann@example.com", mails-1)
	if !strings.HasPrefix(l.link, "https://portal.example/-/link?t=") {
		t.Errorf("the link is %s", l.link)
	}
	a := post("/-/link", form("t", secretOf(l.link), "email", "ann@example.com").Encode(), "Origin: https://portal.example")
	cookie := a.header.Get("Set-Cookie")
	if a.status != 303 || len(a.header["Set-Cookie"]) != 1 || !flags.MatchString(cookie) {
		t.Fatalf("POST /-/link = %d, Set-Cookie %q", a.status, a.header["Set-Cookie"])
	}
	if strings.Contains(cookie, "Max-Age") || strings.Contains(cookie, "Expires") {
		t.Errorf("on a shared computer: %s; want it to end with the browser", cookie)
	}
	name, _, _ := strings.Cut(cookie, ";")
	if a := h.get("/x", "Cookie: a=1; "+name); a.status != 200 {
		t.Errorf("GET with it = %d; want 200", a.status)
	}
	if got, _ := h.portal.last(); got.Header.Get("Cookie") != "a=1" {
		t.Errorf("the portal got Cookie: %q; want a=1", got.Header.Get("Cookie"))
	}
	// S09, R10: a page of the same host without TLS isn't ours.
	for _, line := range []string{"Origin: http://portal.example", "Referer: http://portal.example/", "Origin: http://portal.example:443", "Origin: portal.example", "Origin: //portal.example"} {
		for _, path := range []string{"/-/sign-in", "/-/code", "/-/link", "/-/sign-out"} {
			if a := post(path, "email=ann%40example.com", line, "Cookie: "+name); a.status != 403 || len(a.header["Set-Cookie"]) != 0 {
				t.Errorf("POST %s with %s = %d, Set-Cookie %q; want 403", path, line, a.status, a.header["Set-Cookie"])
			}
		}
	}
	// Without the prefix it is another cookie.
	_, value, _ := strings.Cut(name, "=")
	for _, other := range []string{"portal", "Portal", "__Secure-portal", "__host-portal", "__Host-Portal", "Host-portal"} {
		if a := h.get("/x", "Cookie: "+other+"="+value); a.status != 401 {
			t.Errorf("GET with %s = %d; want 401", other, a.status)
		}
	}
	h2 := openHouse(t, layout{})
	b := h2.in("ann@example.com")
	life := regexp.MustCompile(`^portal=[^;]{43}; Path=/; Expires=[^;]*; Max-Age=15552000; HttpOnly; SameSite=Lax$`)
	l = b.ask("ann@example.com", "/")
	device := regexp.MustCompile(`^portal-device=[^;]{86}; Path=/; Expires=[^;]*; Max-Age=31536000; HttpOnly; SameSite=Lax$`)
	if a := b.open(l.link); len(a.Header["Set-Cookie"]) != 2 || !life.MatchString(a.Header["Set-Cookie"][0]) || !device.MatchString(a.Header["Set-Cookie"][1]) {
		t.Errorf("on loopback: Set-Cookie %q; want half a year, and a year for the device, HttpOnly, Lax", a.Header["Set-Cookie"])
	}
}

// CVE-2025-24358, CVE-2025-46721: each of our forms, from each possible origin.
func TestS09_CVE_2025_24358_FormsFromElsewhere(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "public /public/*"})
	own := "Origin: " + h.url
	_, port, _ := strings.Cut(h.host(), ":")
	sources := []struct {
		name  string
		lines []string
		taken bool
	}{
		{"our page", []string{own, "Sec-Fetch-Site: same-origin"}, true},
		{"our page, with a policy that hides it", []string{"Origin: null", "Sec-Fetch-Site: same-origin"}, true},
		{"our page, in an older browser", []string{own}, true},
		{"our page, in a very old one", []string{"Referer: " + h.url + "/x"}, true},
		{"typed in", []string{"Sec-Fetch-Site: none"}, true},
		{"elsewhere", []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, false},
		{"elsewhere, in an older browser", []string{"Origin: https://evil.example"}, false},
		{"elsewhere, in a very old one", []string{"Referer: https://evil.example/"}, false},
		{"elsewhere, in a very old one, in disguise", []string{"Referer: https://evil.example/?" + h.url}, false},
		{"a sibling", []string{"Origin: http://sub.127.0.0.1:" + port, "Sec-Fetch-Site: same-site"}, false},
		{"a sibling, in an older browser", []string{"Origin: http://sub.127.0.0.1:" + port}, false},
		{"another port", []string{"Origin: http://127.0.0.1:1", "Sec-Fetch-Site: same-site"}, false},
		{"another port, in an older browser", []string{"Origin: http://127.0.0.1:1"}, false},
		{"nowhere", []string{"Origin: null"}, false},
		{"nowhere, and elsewhere", []string{"Origin: null", "Sec-Fetch-Site: cross-site"}, false},
		{"two places", []string{"Origin: https://evil.example", own}, false},
		{"a place that begins like ours", []string{"Origin: " + h.url + ".evil.example"}, false},
		{"a place that ends like ours", []string{"Origin: https://evil.example#" + h.host()}, false},
		{"what isn't known", []string{"Sec-Fetch-Site: something"}, false},
		{"a browser that says nothing", nil, false},
		{"with a token of somebody else", []string{"Origin: https://evil.example", "Cookie: csrf=x; _gorilla_csrf=x", "X-CSRF-Token: x"}, false},
		{"another method inside", []string{"Origin: https://evil.example", "X-HTTP-Method-Override: GET"}, false},
	}
	for _, path := range []string{"/-/sign-in", "/-/code", "/-/link", "/-/password", "/-/help", "/-/password/set", "/-/password/change", "/-/password/remove", "/-/devices", "/-/sign-out"} {
		b := h.in("ann@example.com")
		for _, s := range sources {
			lines := append(slices.Clone(s.lines), b.session()+"; portal-flow="+b.cookie("portal-flow"))
			a := h.post(path, "email=x&code=y&t=z", lines...)
			if (a.status == 403 && len(a.header["Set-Cookie"]) == 0 && strings.Contains(a.body, "another website")) == s.taken {
				t.Errorf("POST %s from %s = %d, Set-Cookie %q; want it taken: %t", path, s.name, a.status, a.header["Set-Cookie"], s.taken)
			}
			if !s.taken && b.me() == nil {
				t.Fatalf("POST %s from %s has signed out", path, s.name)
			}
			if path == "/-/sign-out" && s.taken {
				if b.me() != nil {
					t.Errorf("POST %s from %s: still signed in", path, s.name)
				}
				b = h.in("ann@example.com")
			}
		}
	}
	// A client without cookies can't act for anybody.
	if a := h.post("/-/sign-in", "email=ann%40example.com"); a.status != 303 {
		t.Errorf("POST /-/sign-in by a program = %d; want 303", a.status)
	}
}

// CVE-2025-47910: no spelling of a path, no method and no kind of form circumvents the check.
func TestS10_CVE_2025_47910_NoSpellingCircumventsTheCheck(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "public /public/*"})
	b := h.in("ann@example.com")
	for _, path := range []string{"/-/sign-out", "/-/sign-out/", "/-//sign-out", "//-/sign-out", "/%2d/sign-out", "/-/sign-out%2f", "/-/./sign-out", "/public/../-/sign-out", "/-/SIGN-OUT", "/-/sign-out;x",
		"/-/sign-out?x", "/-/sign-out?Sec-Fetch-Site=same-origin", "/-/sign-out#x", "/-/sign-out%00", "/-/x/../sign-out", "/-/sign%2dout", `/-\sign-out`, h.url + "/-/sign-out"} {
		for _, lines := range [][]string{nil, {"X-HTTP-Method-Override: GET"}, {"X-HTTP-Method-Override: POST"}, {"Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, {"Referer: " + h.url + "/x"}, {"X-Forwarded-Host: evil.example"},
			{"X-Forwarded-Host: " + h.host()}, {"Sec-Fetch-Site: "}, {"sec_fetch_site: same-origin"}} {
			if a := h.post(path, "", append(lines, "Origin: https://evil.example", b.session())...); a.status < 400 || b.me() == nil {
				t.Fatalf("POST %s from elsewhere, %q = %d, still in: %t", path, lines, a.status, b.me() != nil)
			}
		}
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "post", "POST\x00"} {
			h.raw(h.message(method, path, "Origin: https://evil.example", "X-HTTP-Method-Override: POST", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 0", b.session()))
			if b.me() == nil {
				t.Fatalf("%s %s from elsewhere has signed out", method, path)
			}
		}
		for _, kind := range []string{"text/plain", "multipart/form-data; boundary=x", "application/json", ""} {
			a := h.raw(h.message("POST", path, "Origin: https://evil.example", "Content-Type: "+kind, "Content-Length: 0", b.session()))
			if a.status < 400 || b.me() == nil {
				t.Fatalf("POST %s of %q from elsewhere = %d, still in: %t", path, kind, a.status, b.me() != nil)
			}
		}
	}
}

// The headers of our own pages, S13, S14 and the contract's, on each page.
func TestS13_HeadersOfOurPages(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	b := h.browser()
	l := b.ask("ann@example.com", "/orders")
	held := h.browser().do(h.browser().request("POST", "/x", strings.NewReader("a=b"), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"))
	pages := map[string]answer{
		"the prompt": h.browser().open("/x"), "the prompt by itself": h.browser().open("/-/sign-in"), "the prompt, typed wrong": b.send("/-/sign-in", form("email", "x")),
		"the sent page": b.open("/-/sent"), "the sent page, wrong code": b.send("/-/code", form("code", "x")), "the link's page": h.browser().open(l.link),
		"the link's page, typed wrong": h.browser().send("/-/link", form("t", secretOf(l.link), "email", "x@example.com")), "no link": b.open("/-/link?t=x"),
		"signed out": b.open("/-/sign-out"), "nothing": b.open("/-/nothing"), "wrong method": b.do(b.request("PUT", "/-/sent", nil)), "no form": b.do(b.request("POST", "/-/code", nil)),
		"from elsewhere": b.send("/-/code", nil, "Sec-Fetch-Site", "cross-site"), "a held form": held,
		"the password page": h.browser().open("/-/password"), "a wrong password": h.browser().manually("ann@example.com", wrongOne), "help": h.browser().open("/-/help"),
		"no password link": b.open("/-/password/set?t=x"),
	}
	set, tok := h.browser().help("bob@example.com", "/")
	pages["the password link's page"] = h.browser().open(set)
	pages["a bad password"] = h.browser().send("/-/password/set", form("t", tok, "password", "short"))
	h.browser().send("/-/password/set", form("t", tok, "password", annsPassword))
	pages["the used password link's page"] = h.browser().open(set)
	b.open(l.link)
	pages["the account page"] = b.open("/-/account")
	pages["the sign-out page"] = b.open("/-/sign-out")
	pages["the used link's page"] = h.browser().open(l.link)
	pages["too much"] = b.send("/-/code", form("code", strings.Repeat("x", 20_000)))
	for name, a := range pages {
		for header, want := range map[string]string{"Cache-Control": "no-store, no-transform", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "strict-origin",
			"Content-Type": "text/html; charset=utf-8"} {
			if got := a.Header.Get(header); got != want {
				t.Errorf("%s (%d): %s: %q; want %q", name, a.StatusCode, header, got, want)
			}
		}
		wantPolicy(t, name, a)
		if strings.Contains(strings.ToLower(a.body), "doorpost") || strings.Contains(strings.ToLower(fmt.Sprint(a.Header)), "doorpost") {
			t.Errorf("%s names Doorpost", name)
		}
	}
	frame := h.browser().open("/x", "Sec-Fetch-Dest", "iframe")
	if csp := frame.Header.Get("Content-Security-Policy"); frame.StatusCode != 401 || strings.Contains(frame.body, "<form") || !strings.Contains(csp, "form-action 'none'") {
		t.Errorf("in a frame = %d, %s; want 401 and nothing to send", frame.StatusCode, csp)
	}
	// Other answers: errors and redirects.
	for name, a := range map[string]answer{"a bare 401": h.browser().open("/x", "Accept", "*/*"), "signed in": b.open("/-/me"), "sent on": b.open("/-/sign-in?to=/x"),
		"an error in JSON": b.open("/-/nothing", "Accept", "application/json"), "health": b.open("/-/health"), "refused": b.do(b.request("TRACE", "/x", nil))} {
		if got := a.Header.Get("Cache-Control"); got != "no-store, no-transform" {
			t.Errorf("%s (%d): Cache-Control: %q; want no-store, no-transform", name, a.StatusCode, got)
		}
	}
}

// wantPolicy checks that a Content-Security-Policy allows only the page's own inline content,
// by hash.
func wantPolicy(t *testing.T, name string, a answer) {
	t.Helper()
	csp := a.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'", "script-src 'sha256-", "style-src 'sha256-"} {
		if !strings.Contains(csp, want) {
			t.Errorf("%s: Content-Security-Policy: %s; want %s", name, csp, want)
		}
	}
	for _, bad := range []string{"unsafe", "*", "data:", "http:", "blob:"} {
		if strings.Contains(csp, bad) {
			t.Errorf("%s: Content-Security-Policy: %s; want no %s", name, csp, bad)
		}
	}
}

// Cache deception: no cache may store an answer for one person and give it to another.
func TestS14_NoCacheStoresPersonalAnswers(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	answers := map[string]http.Header{"": {}, "max-age=60": {"Cache-Control": {"max-age=60"}}, "no-cache": {"Cache-Control": {"no-cache"}}, "expires": {"Expires": {"0"}}}
	for name, header := range answers {
		h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.Write([]byte("hello"))
		}
		for _, path := range []string{"/orders/x.css", "/public/x.css"} {
			want := header.Get("Cache-Control")
			switch {
			case path != "/public/x.css":
				want = "private, no-cache" // caches_test.go covers the rest
			case name == "":
				want = "private"
			}
			if a := h.get(path, bob.session()); a.header.Get("Cache-Control") != want {
				t.Errorf("GET %s as bob, the portal says %q: Cache-Control: %q; want %q", path, name, a.header.Get("Cache-Control"), want)
			}
		}
		if a := h.get("/public/x.css"); a.header.Get("Cache-Control") != header.Get("Cache-Control") {
			t.Errorf("GET /public/x.css, the portal says %q: Cache-Control: %q; want the portal's word", name, a.header.Get("Cache-Control"))
		}
	}
	for _, accept := range []string{"text/html", "*/*", "text/css"} {
		a := h.raw(h.message("GET", "/orders/x.css", "Accept: "+accept))
		if a.status != 401 || a.header.Get("Cache-Control") != "no-store, no-transform" || a.header.Get("Location") != "" {
			t.Errorf("GET /orders/x.css, signed out, Accept: %s = %d, Cache-Control: %q; want 401, no-store, no-transform", accept, a.status, a.header.Get("Cache-Control"))
		}
	}
}

// CVE-2021-41230: disabling, removing or changing a contact takes effect with the next
// request.
func TestS15_CVE_2021_41230_ChangesOfContactsTakeEffectAtOnce(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t)})
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	waiting := h.browser().ask("ann@example.com", "/")
	ann.open("/x")
	h.operator("contacts/disable", "ann@example.com")
	h.operator("contacts/remove", "bob@example.com")
	for name, b := range map[string]*browser{"switched off": ann, "removed": bob} {
		h.portal.unseen(t, name, func() {
			if a := h.get("/x", b.session()); a.status != 401 {
				t.Errorf("%s: GET = %d; want 401", name, a.status)
			}
			if a := h.get("/-/me", b.session()); a.status != 401 {
				t.Errorf("%s: GET /-/me = %d; want 401", name, a.status)
			}
		})
	}
	if a := h.browser().send("/-/link", form("t", secretOf(waiting.link), "email", "ann@example.com")); a.StatusCode != 410 {
		t.Errorf("a link of who was switched off = %d; want 410", a.StatusCode)
	}
}

// Sessions that began with an address end when the contact loses that address, also if a file
// removes it.
func TestS15_SessionsEndWhenAFileRemovesTheirAddress(t *testing.T) {
	h := openHouse(t, layout{})
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	h.write("contacts.csv", strings.Replace(someContacts, "ann@example.com,ann.b@example.org,", "ann@example.com,,", 1))
	h.start()
	h.settled()
	http.DefaultClient.CloseIdleConnections()
	if a, b := h.get("/x", ann.session()), h.get("/x", bob.session()); a.status != 401 || b.status != 200 {
		t.Errorf("GET of who lost an address = %d, of another contact = %d; want 401 and 200", a.status, b.status)
	}
}

// The same if only the directory has changed, and no session was ended.
func TestS15_ChangesOfTheDirectoryTakeEffect(t *testing.T) {
	h := openHouse(t, layout{})
	ann := h.in("ann@example.com")
	asking := h.browser()
	waiting := asking.ask("ann@example.com", "/")
	h.write("contacts.csv", strings.Replace(someContacts, `"acme; birch",,`, `"acme; birch",,true`, 1))
	h.start()
	http.DefaultClient.CloseIdleConnections()
	h.portal.unseen(t, "switched off", func() {
		if a := h.get("/x", ann.session()); a.status != 401 {
			t.Errorf("GET of who was switched off = %d; want 401", a.status)
		}
	})
	flow := "Cookie: portal-flow=" + asking.cookie("portal-flow")
	for way, a := range map[string]rawAnswer{
		"the link":      h.get("/-/link?t="+secretOf(waiting.link), flow),
		"its form":      h.post("/-/link", form("t", secretOf(waiting.link), "email", "ann@example.com").Encode()),
		"the code":      h.post("/-/code", form("code", waiting.code).Encode(), flow),
		"another of it": h.post("/-/sign-in", form("email", "ann.b@example.org").Encode()),
	} {
		if strings.Contains(strings.Join(a.header["Set-Cookie"], " "), "portal=") || a.status == 303 && way != "another of it" {
			t.Errorf("%s of who was switched off = %d, Set-Cookie %q; want no session", way, a.status, a.header["Set-Cookie"])
		}
	}
	time.Sleep(100 * time.Millisecond) // time for the worker
	if n := len(h.letters("ann")); n != 2 {
		t.Errorf("%d mails; want the two from before", n)
	}
}
