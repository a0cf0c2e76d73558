package caddymodule_test

// Class T: one-time links and codes.
//
// Not here: T03 over two gates (redis_gates_test.go); T07's statistics and T08
// (secret/secret_test.go, token/secret_test.go: link and code are independent); T14's
// clocks that jump (token/life_test.go); T18 (password_test.go); T11's budget over many
// browsers (token, attack_flood_test.go).

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// scanner returns the client with which mail services open links: no cookies, another
// network, a browser's User-Agent.
func (h *house) scanner() *browser { return h.browser() }

// Safe Links and similar scanners: Ghost #12347, outline #9227, supabase/auth #1214.
func TestT01_ScannersConsumeNoLink(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders")
	s := h.scanner()
	for range 3 {
		for _, headers := range [][]string{nil, keyless, {"Accept", "*/*"}, {"Sec-Purpose", "prefetch"}, {"User-Agent", "Mozilla/5.0 (compatible; MSIE 9.0)"}} {
			for _, method := range []string{"HEAD", "GET"} {
				a := s.do(s.request(method, l.link, nil, headers...))
				if a.StatusCode != 200 || len(a.Header["Set-Cookie"]) != 0 {
					t.Errorf("%s link by a scanner, %v = %d, cookies %q; want 200, and none", method, headers, a.StatusCode, a.Header["Set-Cookie"])
				}
			}
		}
	}
	// The requesting browser consumes a link only with a page load, not with previews,
	// prefetches or subresources.
	for name, headers := range map[string][]string{
		"a prefetch":      {"Sec-Purpose", "prefetch"},
		"a prerender":     {"Sec-Purpose", "prefetch;prerender"},
		"an old prefetch": {"Purpose", "prefetch", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""},
		"Safari's":        {"X-Purpose", "preview", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
		"Firefox's":       {"X-Moz", "prefetch", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
		"an image":        {"Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"},
		"a frame":         {"Sec-Fetch-Dest", "iframe"},
		"an object":       {"Sec-Fetch-Dest", "object"},
		"a script's":      {"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
		"an old script's": {"X-Requested-With", "XMLHttpRequest", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
		"no page wanted":  {"Accept", "*/*", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
		"an image, old":   {"Accept", "image/png,image/*;q=0.8,*/*;q=0.5", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
	} {
		if a := asking.open(l.link, headers...); a.StatusCode == 303 || len(a.Header["Set-Cookie"]) != 0 {
			t.Errorf("GET link in the asking browser as %s = %d, cookies %q; want nothing spent", name, a.StatusCode, a.Header["Set-Cookie"])
		}
	}
	if a := asking.do(asking.request("HEAD", l.link, nil)); a.StatusCode == 303 || len(a.Header["Set-Cookie"]) != 0 {
		t.Errorf("HEAD link in the asking browser = %d; want nothing spent", a.StatusCode)
	}
	if a := asking.open(l.link, "Sec-Fetch-Site", "cross-site"); a.StatusCode != 303 || asking.me() == nil {
		t.Errorf("GET link from a webmail, in the asking browser = %d; want 303", a.StatusCode)
	}
}

var anyForm = regexp.MustCompile(`(?s)<form[^>]*action="([^"]*)"(.*?)</form>`)

// FusionAuth, outline #9227: a scanner that runs scripts and presses every button. It has
// neither the requesting browser's cookie nor the address.
func TestT02_ScannersThatPressButtonsConsumeNoLink(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders")
	for _, email := range []string{"", "a@example.com", "test@example.com", "a•••@example.com", "user@example.com", "me@example.com", "x", "ann@example.org"} {
		s := h.scanner()
		page := s.open(l.link)
		for _, m := range anyForm.FindAllStringSubmatch(page.body, -1) {
			f := form("email", email)
			for _, field := range regexp.MustCompile(`name="([^"]*)" value="([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
				f.Set(field[1], unescape(field[2]))
			}
			if f.Get("email") == "" {
				f.Set("email", email)
			}
			if a := s.send(m[1], f); a.StatusCode == 303 && !strings.HasPrefix(a.Header.Get("Location"), "/-/sent") {
				t.Errorf("POST %s by a scanner with %q = %d to %s", m[1], email, a.StatusCode, a.Header.Get("Location"))
			}
		}
		if s.me() != nil {
			t.Fatalf("a scanner is in, with %q", email)
		}
	}
	// It has used up the attempts on the link's page, which doesn't affect the requesting
	// browser.
	if a := asking.open(l.link); a.StatusCode != 303 || asking.me() == nil {
		t.Errorf("GET link in the asking browser, after the scanner = %d; want 303", a.StatusCode)
	}
}

func TestT02_TheCodeOutlivesTheTries(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders")
	s := h.scanner()
	for i := range 8 {
		a := s.send("/-/link", form("t", secretOf(l.link), "email", fmt.Sprintf("a%d@example.com", i)))
		if want := map[bool]int{true: 403, false: 410}[i < 5]; a.StatusCode != want {
			t.Errorf("try %d of an address = %d; want %d", i+1, a.StatusCode, want)
		}
	}
	if a := s.send("/-/link", form("t", secretOf(l.link), "email", "ann@example.com")); a.StatusCode != 410 || s.me() != nil {
		t.Errorf("the right address after five wrong ones = %d; want 410", a.StatusCode)
	}
	if a := asking.send("/-/code", form("code", l.code)); a.StatusCode != 303 || asking.me() == nil {
		t.Errorf("the code after that = %d; want 303", a.StatusCode)
	}
}

// One link, one session, however many requests use it at once.
func TestT03_OneLinkOneSession(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	l := h.browser().ask("ann@example.com", "/orders")
	f := form("t", secretOf(l.link), "email", "ann@example.com")
	const n = 100
	browsers, answers := make([]*browser, n), make([]answer, n)
	for i := range browsers {
		browsers[i] = h.browser()
	}
	var all sync.WaitGroup
	for i := range browsers {
		all.Go(func() { answers[i] = browsers[i].send("/-/link", f) })
	}
	all.Wait()
	in := 0
	for i, a := range answers {
		switch {
		case a.StatusCode == 303 && browsers[i].me() != nil:
			in++
		case a.StatusCode == 303, len(a.Header["Set-Cookie"]) != 0, browsers[i].me() != nil:
			t.Errorf("one that came too late = %d, cookies %q", a.StatusCode, a.Header["Set-Cookie"])
		case a.StatusCode != 410 || strings.Contains(a.body, "ann@example.com"):
			t.Errorf("one that came too late = %d; want 410 that names nobody", a.StatusCode)
		}
	}
	if in != 1 {
		t.Errorf("%d of %d are in; want 1", in, n)
	}
	if a := h.browser().send("/-/link", f); a.StatusCode != 410 {
		t.Errorf("the link a second time = %d; want 410", a.StatusCode)
	}
}

// People double-click: concurrent requests of the requesting browser all succeed, with one
// session.
func TestT03_ADoubleClickIsOneSession(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for range 5 {
		b := h.browser()
		l := b.ask("ann@example.com", "/orders")
		sessions := map[string]bool{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				a := b.open(l.link)
				if a.StatusCode != 303 || a.Header.Get("Location") != "/orders" {
					t.Errorf("one of eight clicks = %d to %q; want 303 to /orders", a.StatusCode, a.Header.Get("Location"))
				}
				mu.Lock()
				defer mu.Unlock()
				for _, c := range a.Cookies() {
					if c.Name == "portal" {
						sessions[c.Value] = true
					}
				}
			})
		}
		all.Wait()
		if len(sessions) != 1 || b.me() == nil {
			t.Errorf("eight clicks gave %d sessions; want one", len(sessions))
		}
		// Others can't use the link any more, nor can they after signing out.
		if a := h.browser().open(l.link); a.StatusCode != 410 {
			t.Errorf("GET used link elsewhere = %d; want 410", a.StatusCode)
		}
		b.send("/-/sign-out", url.Values{})
		if b.open(l.link); b.me() != nil {
			t.Error("the link signs in again after the sign-out")
		}
	}
}

// CVE-2019-16109: an invalid token belongs to nobody.
func TestT05_CVE_2019_16109_InvalidTokensSignNobodyIn(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	secret := secretOf(l.link)
	long := strings.Repeat("a", 100_000)
	for _, query := range []string{"", "?", "?t=", "?t", "?t=%00", "?t=null", "?t=undefined", "?t=0", "?t[]=" + secret, "?t[]=", "?T=" + secret, "?x=" + secret, "?t=" + long,
		"?t=" + secret + "&t=" + secret, "?t=&t=" + secret, "?t=" + secret + "x", "?t=" + secret[1:], "?t=" + strings.ToUpper(secret), "?t=-" + secret, "?t=" + secret + "%00",
		"?t=" + strings.Repeat("A", 43), "?t=" + strings.Repeat("%00", 43), "?t=../../../../../../../../../../../../etc/passwd", "?t={env.HOME}", "?t=" + secret[:25] + "%ff"} {
		if a := b.open("/-/link" + query); a.StatusCode != 400 && a.StatusCode != 431 || len(a.Header["Set-Cookie"]) != 0 || b.me() != nil {
			t.Errorf("GET /-/link%.60s = %d; want 400", query, a.StatusCode)
		}
	}
	for _, typed := range []string{"", "\x00", "null", secret + "x", secret[1:], strings.Repeat("A", 43), long[:10_000]} {
		if a := b.send("/-/link", form("t", typed, "email", "ann@example.com")); a.StatusCode != 400 || b.me() != nil {
			t.Errorf("POST /-/link with t=%.50q = %d; want 400", typed, a.StatusCode)
		}
		if a := b.send("/-/sign-in", form("t", typed)); a.StatusCode != 400 {
			t.Errorf("POST /-/sign-in with t=%.50q = %d; want 400", typed, a.StatusCode)
		}
	}
	if a := h.get("/-/link?t="+strings.Repeat("a", 2<<20), b.session()); a.status != 431 && a.status != 0 {
		t.Errorf("GET /-/link with 2 MiB = %d; want 431", a.status)
	}
	if a := b.open(l.link); a.StatusCode != 303 {
		t.Errorf("GET link after all that = %d; want 303", a.StatusCode)
	}
}

// A copy of the store lets nobody sign in: it contains no links, codes or cookies, nor the
// text of waiting mails.
func TestT09_TheStoreHoldsNoCredentials(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders/secret-way-back")
	bob := h.in("bob@example.com")
	before, release := m.begun(), m.hold()
	defer release()
	h.browser().send("/-/sign-in", form("email", "nameless@example.com"))
	h.eventually("a mail waits at the mail server", func() bool { return m.begun() > before })
	store := h.store()
	for name, secret := range map[string]string{
		"the link": secretOf(l.link), "the code": l.code, "the code in one": strings.ReplaceAll(l.code, "-", ""), "a session": bob.cookie("portal"),
		"an asking browser": asking.cookie("portal-flow"), "a mail's link": "/-/link?t=", "where somebody wants to go": "secret-way-back",
		"an address": "ann@example.com", "an address that asks": "nameless@example.com", "a name": "Baker",
	} {
		if secret == "" || strings.Contains(store, secret) {
			t.Errorf("the store holds %s in the clear", name)
		}
	}
}

// store returns everything that the store has on disk.
func (h *house) store() string {
	h.t.Helper()
	files := []string{h.path("data/doorpost/doorpost.db")}
	if h.redis != nil {
		files = h.redis.files()
	}
	var all strings.Builder
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			h.t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}

// ory/kratos #3126 and similar: at the most verbose level, with access logs, and after all
// kinds of failures, no log contains a credential.
func TestT10_NoLogHasASecret(t *testing.T) {
	log := newLogFile(t)
	portal := newPortal(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), firm: "prefix /-\n\t\tpublic /public/*",
		site: "log\n\treverse_proxy /dead " + freeAddress(t) + "\n\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://")})
	m.moveInto(h)
	var secrets []string
	secret := func(all ...string) {
		for _, s := range all {
			if len(s) < 8 {
				t.Errorf("%q is no secret", s)
			}
			secrets = append(secrets, s)
		}
	}
	// Links that are used, opened elsewhere, mangled, and sent in the wrong way.
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders")
	token := secretOf(l.link)
	secret(token, l.code, strings.ReplaceAll(l.code, "-", ""), asking.cookie("portal-flow"))
	elsewhere := h.browser()
	elsewhere.open(l.link)
	elsewhere.open(l.link, "Accept", "*/*")
	for _, target := range []string{"/-/link?t=", "/-/LINK?t=", "/%2d/link?t=", "/-//link?t=", "//-/link?t=", "/-/link/?t=", "/./-/link?t=", "/x/../-/link?t=", "/-/link%3ft=",
		"/-/link%3Ft%3D", "/-/link/", "/-/link", "/-/link?T=", "/-/link?x=1&t=", "/-/link;t=", "/-;x/link?t=", "/-/sign-in?t=", "/-/nothing?t=", "/-?t=", "/%252d/link?t=", "/-%2flink?t="} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "TRACE", "OPTIONS"} {
			h.raw(h.message(method, target+token, asking.session(), "Accept: text/html", "Content-Length: 0"))
		}
	}
	for _, method := range []string{"GET", "POST"} { // as an older browser's Referer
		h.raw(h.message(method, "/-/logo", "Referer: "+l.link))
		h.raw(h.message(method, "/-/sign-in", "Referer: "+l.link, "Content-Length: 0"))
	}
	elsewhere.send("/-/link", form("t", token, "email", "eve@example.com"))
	asking.send("/-/code", form("code", "0000-0000"))
	asking.open(l.link)
	elsewhere.open(l.link)
	h.mayMailAgain(1)
	elsewhere.send("/-/sign-in", form("t", token))
	asking.open(l.link)
	h.nextLetter("ann@example.com", 1)
	secret(asking.cookie("portal"), elsewhere.cookie("portal-flow"), secretOf(h.nextLetter("ann@example.com", 1).link))
	// Passwords, and links that set them.
	set, tok := elsewhere.help("bob@example.com", "/orders")
	secret(tok, annsPassword, annsPassword2)
	elsewhere.open(set)
	for _, target := range []string{"/-/password/set?t=", "/-/PASSWORD/set?t=", "/-/password/set/?t=", "//-/password/set?t=", "/-/password%2fset?t=", "/-/password/set%3ft=", "/-/password?t=", "/-/help?t="} {
		for _, method := range []string{"GET", "HEAD", "PUT"} {
			h.raw(h.message(method, target+tok, "Accept: text/html"))
		}
	}
	elsewhere.send("/-/password/set", form("t", tok, "password", annsPassword))
	elsewhere.send("/-/password/set", form("t", tok, "password", annsPassword2))
	elsewhere.manually("bob@example.com", annsPassword2)
	elsewhere.manually("bob@example.com", annsPassword)
	secret(elsewhere.cookie("portal"), elsewhere.cookie("portal-device"))
	elsewhere.send("/-/password/change", form("current", annsPassword2, "password", annsPassword2))
	// The portal: up, down, and streaming.
	asking.open("/orders?a=1")
	asking.open("/dead")
	h.browser().open("/orders")
	for _, code := range []string{l.code, strings.ToUpper(l.code)} {
		asking.send("/-/code", form("code", code))
	}
	// A reload, and a mail server that doesn't reply.
	h.change("prefix /-", "link_lifetime 9m")
	http.DefaultClient.CloseIdleConnections()
	release := m.hold()
	h.browser().send("/-/sign-in", form("email", "bob@example.com"))
	asking.send("/-/sign-out", url.Values{})
	release()

	text := log.text(t)
	for _, want := range []string{"handled request", "upstream roundtrip", `"logger":"doorpost"`, "signed-in", "wrong-mail", "wrong-code", "wrong-password"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q: is it a log of everything?", want)
		}
	}
	for _, s := range secrets {
		for line := range strings.SplitSeq(text, "\n") {
			if strings.Contains(line, s) || strings.Contains(line, url.QueryEscape(s)) {
				t.Errorf("a log line has the secret %s: %.1000s", s, line)
				break
			}
		}
	}
	// Whole addresses are in no line, except Caddy's lines about requests to the portal.
	for line := range strings.SplitSeq(text, "\n") {
		if (strings.Contains(line, "ann@example.com") || strings.Contains(line, "bob@example.com")) && !strings.Contains(line, `"http.handlers.reverse_proxy"`) {
			t.Errorf("a log line has a whole address: %.600s", line)
		}
	}
}

// Guessing codes: five guesses, however fast, and then not even the right one works.
func TestT11_FiveGuesses(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	wrong := func(i int) url.Values { return form("code", fmt.Sprintf("%04d-%04d", i, i)) }
	in := func(a answer) bool { return a.StatusCode == 303 && a.Header.Get("Location") != "/-/sign-in" }

	b := h.browser()
	l := b.ask("ann@example.com", "/")
	for i := range 4 {
		if a := b.send("/-/code", wrong(i)); a.StatusCode != 403 {
			t.Errorf("wrong code %d = %d; want 403", i, a.StatusCode)
		}
	}
	if a := b.send("/-/code", form("code", " "+strings.ToUpper(strings.Replace(l.code, "-", " ", 1))+". ")); !in(a) {
		t.Errorf("the right code after four wrong ones = %d; want 303", a.StatusCode)
	}

	b = h.browser()
	l = b.ask("ann@example.com", "/")
	for i := range 5 {
		b.send("/-/code", wrong(i))
	}
	for range 3 {
		if a := b.send("/-/code", form("code", l.code)); in(a) || b.me() != nil {
			t.Error("the right code after five wrong ones lets in")
		}
	}
	if a := b.open(l.link); a.StatusCode != 303 || b.me() == nil {
		t.Errorf("the link, after its code is burnt = %d; want 303", a.StatusCode)
	}

	// Concurrently: after a hundred guesses, in any order, no sixth was compared.
	b = h.browser()
	l = b.ask("ann@example.com", "/")
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() { b.send("/-/code", wrong(i)) })
	}
	all.Wait()
	if a := b.send("/-/code", form("code", l.code)); in(a) || b.me() != nil {
		t.Error("the right code after a hundred wrong ones at once lets in")
	}

	// Input of the wrong shape isn't counted.
	b = h.browser()
	l = b.ask("bob@example.com", "/")
	for _, typed := range []string{"", "abc", "abcdefghi", strings.Repeat("x", 300), "0000\x01", "{env.HOME}"} {
		b.send("/-/code", form("code", typed))
	}
	if a := b.send("/-/code", form("code", l.code)); !in(a) {
		t.Errorf("the right code after what were none = %d; want 303", a.StatusCode)
	}

	// Another browser can neither use the code nor use up its guesses.
	b = h.browser()
	l = b.ask("nameless@example.com", "/")
	other := h.browser()
	other.ask("nameless@example.com", "/")
	for i := range 6 {
		if a := other.send("/-/code", form("code", l.code)); in(a) || other.me() != nil {
			t.Errorf("another browser's code, try %d, lets in", i)
		}
	}
	if a := b.send("/-/code", form("code", l.code)); !in(a) {
		t.Errorf("the code in its own browser = %d; want 303", a.StatusCode)
	}
}

// Login CSRF: an attacker sends their own link to a victim, who must not sign in to the
// attacker's account unawares.
func TestT13_ALinkForAnotherContactNeedsConfirmation(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	attacker := h.browser()
	l := attacker.ask("bob@example.com", "/trap")
	trap := form("t", secretOf(l.link), "email", "bob@example.com")
	ann := h.in("ann@example.com")
	session := ann.cookie("portal")
	for name, victim := range map[string]*browser{"signed in": ann, "signed out": h.browser()} {
		a := victim.open(l.link, "Sec-Fetch-Site", "cross-site")
		if a.StatusCode != 200 || len(a.Header["Set-Cookie"]) != 0 || !strings.Contains(a.body, "b•••@example.com") {
			t.Errorf("%s: somebody else's link = %d; want 200 that says whose it is", name, a.StatusCode)
		}
		if name == "signed in" && !strings.Contains(a.body, "ann@example.com") {
			t.Error("the page doesn't say whose place it would take")
		}
		for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, {"Sec-Fetch-Site", "", "Origin", "https://evil.example"},
			{"Sec-Fetch-Site", "", "Origin", "null"}, {"Sec-Fetch-Site", "same-site", "Origin", "http://sub.127.0.0.1"}, {"Sec-Fetch-Site", "", "Origin", "", "Referer", "https://evil.example/"}} {
			if a := victim.send("/-/link", trap, headers...); a.StatusCode != 403 || len(a.Header["Set-Cookie"]) != 0 {
				t.Errorf("%s: the attacker's form, %v = %d; want 403", name, headers, a.StatusCode)
			}
			if a := victim.send("/-/sign-in", form("t", secretOf(l.link)), headers...); a.StatusCode != 403 {
				t.Errorf("%s: the attacker's other form, %v = %d; want 403", name, headers, a.StatusCode)
			}
		}
	}
	if ann.cookie("portal") != session || ann.me()["email"] != "ann@example.com" {
		t.Errorf("ann has become %v", ann.me())
	}
	// This also holds in the requesting browser if another contact has signed in since.
	if a := attacker.open(attacker.ask("ann@example.com", "/").link); a.StatusCode != 303 {
		t.Fatalf("GET link = %d; want 303", a.StatusCode)
	}
	if a := attacker.open(l.link); a.StatusCode != 200 || attacker.me()["email"] != "ann@example.com" {
		t.Errorf("GET link of another in the asking browser, signed in = %d as %v; want 200, and still ann", a.StatusCode, attacker.me()["email"])
	}
	// Nor by the second half of a double click within its few seconds.
	l = attacker.ask("ann@example.com", "/")
	attacker.open(l.link)
	attacker.send("/-/code", form("code", attacker.ask("bob@example.com", "/").code))
	if a := attacker.open(l.link); a.StatusCode != 410 || len(a.Header["Set-Cookie"]) != 0 || attacker.me()["email"] != "bob@example.com" {
		t.Errorf("GET used link of another, a moment after = %d as %v; want 410, and still bob", a.StatusCode, attacker.me()["email"])
	}
	// A visitor who confirms is signed in.
	trap = form("t", secretOf(h.browser().ask("bob@example.com", "/").link), "email", "bob@example.com")
	if a := ann.send("/-/link", trap); a.StatusCode != 303 || ann.me()["email"] != "bob@example.com" {
		t.Errorf("switching = %d as %v; want 303 as bob", a.StatusCode, ann.me()["email"])
	}
	if a := h.get("/x", "Cookie: portal="+session); a.status != 401 {
		t.Errorf("the session from before = %d; want 401", a.status)
	}
	// A contact's own link, used or not, redirects to its target.
	for _, asked := range []*browser{h.browser(), ann} {
		l := asked.ask("bob@example.com", "/orders")
		if asked == ann {
			h.browser().send("/-/link", form("t", secretOf(l.link), "email", "bob@example.com"))
		}
		if a := ann.open(l.link); a.StatusCode != 303 || a.Header.Get("Location") != "/orders" {
			t.Errorf("GET own link, signed in = %d to %q; want 303 to /orders", a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// A link expires.
func TestT14_TheLifeOfALink(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "link_lifetime 1s"})
	b := h.browser()
	l := b.ask("ann@example.com", "/orders")
	began := time.Now()
	if a := h.browser().open(l.link); a.StatusCode != 200 {
		t.Errorf("GET link after %v = %d; want 200", time.Since(began), a.StatusCode)
	}
	time.Sleep(time.Until(began.Add(1100 * time.Millisecond)))
	if a := b.open(l.link); a.StatusCode != 410 || b.me() != nil {
		t.Errorf("GET link after %v = %d; want 410", time.Since(began), a.StatusCode)
	}
	if a := b.send("/-/code", form("code", l.code)); a.StatusCode != 403 || b.me() != nil {
		t.Errorf("POST code after %v = %d; want 403", time.Since(began), a.StatusCode)
	}
	// One press, and a new link for the same target comes to the same address.
	elsewhere := h.browser()
	if a := elsewhere.open(l.link); !strings.Contains(a.body, "a•••@example.com") || strings.Contains(a.body, "ann@") {
		t.Errorf("the page of a link that ran out names %s", a.body)
	}
	h.mayMailAgain(1)
	if a := elsewhere.send("/-/sign-in", form("t", secretOf(l.link))); a.StatusCode != 303 {
		t.Errorf("the button of a link that ran out = %d; want 303", a.StatusCode)
	}
	if a := elsewhere.open("/-/sent"); strings.Contains(a.body, "ann@") {
		t.Error("the page after it tells the whole address to who only held the link")
	}
	if a := elsewhere.open(h.nextLetter("ann@example.com", 1).link); a.StatusCode != 303 || a.Header.Get("Location") != "/orders" {
		t.Errorf("the new link = %d to %q; want 303 to /orders", a.StatusCode, a.Header.Get("Location"))
	}
}

// Up to three links are active, so that further requests don't end earlier links; a sign-in
// ends all, except the code in the requesting browser.
func TestT15_ThreeLinksAreActiveAtATime(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	for used := range 3 {
		victim, attacker := h.browser(), h.browser()
		before := len(m.recipients())
		links := []letter{victim.ask("ann@example.com", "/"), attacker.ask("ann@example.com", "/"), attacker.ask("ann@example.com", "/")}
		for range 5 {
			attacker.send("/-/sign-in", form("email", "ann@example.com"))
		}
		time.Sleep(150 * time.Millisecond) // time for the worker to refuse them
		phone := h.browser()
		if a := phone.send("/-/link", form("t", secretOf(links[used].link), "email", "ann@example.com")); a.StatusCode != 303 {
			t.Errorf("link %d of 3 = %d; want 303", used+1, a.StatusCode)
		}
		// Links requested by the same browser have ended; those of the other one have not.
		for i, l := range links {
			want := 200
			if (i == 0) == (used == 0) {
				want = 410
			}
			if a := h.browser().open(l.link); a.StatusCode != want {
				t.Errorf("link %d after link %d was used = %d; want %d", i+1, used+1, a.StatusCode, want)
			}
		}
		if n := len(m.recipients()); n != before+3 {
			t.Errorf("%d mails; want 3", n-before)
		}
		// If a link was used elsewhere, the first one's code still works in its browser.
		if a := victim.send("/-/code", form("code", links[0].code)); victim.me() == nil {
			t.Errorf("link %d was used elsewhere; the code of the first one in its browser = %d", used+1, a.StatusCode)
		}
	}
}

// Ghost #15526, CVE-2025-46815: a link or code has one purpose, at one firm.
func TestT17_CVE_2025_46815_OnePurpose(t *testing.T) {
	other := "http://" + freeAddress(t)
	h, _ := openFastHouse(t, layout{more: fmt.Sprintf(`%s {
	doorpost other {
		url %s
		brand {
			name Other
			from other@example.com
		}
		staff ann@example.com
	}
	respond "other's portal"
}`, other, other)})
	ann := h.in("ann@example.com")
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	token, flow, session := secretOf(l.link), b.cookie("portal-flow"), ann.cookie("portal")
	for name, cookie := range map[string]string{"a link": token, "a browser": flow, "a code": l.code} {
		if a := h.get("/x", "Cookie: portal="+cookie); a.status != 401 {
			t.Errorf("%s as a session = %d; want 401", name, a.status)
		}
	}
	for name, secret := range map[string]string{"a browser": flow, "a session": session, "a code": l.code} {
		if a := h.browser().open("/-/link?t=" + secret); a.StatusCode != 400 {
			t.Errorf("%s as a link = %d; want 400", name, a.StatusCode)
		}
	}
	for name, secret := range map[string]string{"a browser": flow, "a session": session, "a link": token} {
		if a := b.send("/-/code", form("code", secret)); a.StatusCode == 303 {
			t.Errorf("%s as a code = 303", name)
		}
	}
	// At the other firm, ann is a contact, too.
	stranger := h.browser()
	for _, request := range []*http.Request{
		stranger.request("GET", other+"/-/link?t="+token, nil),
		stranger.request("POST", other+"/-/link", strings.NewReader(form("t", token, "email", "ann@example.com").Encode()), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"),
		stranger.request("POST", other+"/-/sign-in", strings.NewReader(form("t", token).Encode()), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"),
	} {
		if a := stranger.do(request); a.StatusCode != 400 {
			t.Errorf("%s %s of another firm's link = %d; want 400", request.Method, request.URL.Path, a.StatusCode)
		}
	}
	for name, request := range map[string]*http.Request{
		"a session": stranger.request("GET", other+"/x", nil, "Cookie", "portal="+session),
		"a browser": stranger.request("POST", other+"/-/code", strings.NewReader(form("code", l.code).Encode()), "Content-Type", "application/x-www-form-urlencoded",
			"Sec-Fetch-Site", "same-origin", "Cookie", "portal-flow="+flow),
	} {
		if a := stranger.do(request); a.StatusCode == 200 || a.StatusCode == 303 && a.Header.Get("Location") != "/-/sign-in" {
			t.Errorf("%s at another firm = %d to %q", name, a.StatusCode, a.Header.Get("Location"))
		}
	}
	if a := b.open(l.link); a.StatusCode != 303 {
		t.Errorf("the link where it belongs = %d; want 303", a.StatusCode)
	}
}

// The link leaves the address bar before anything from another site is loaded, and its page
// sends no Referer.
func TestT19_NoRefererContainsALink(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	l := b.ask("ann@example.com", "/orders")
	for name, a := range map[string]answer{"the page that asks": h.browser().open(l.link), "the way in": b.open(l.link), "the page of a used one": h.browser().open(l.link)} {
		if got := a.Header.Get("Referrer-Policy"); got != "strict-origin" {
			t.Errorf("%s: Referrer-Policy: %q; want strict-origin", name, got)
		}
		if got := a.Header.Get("Cache-Control"); got != "no-store, no-transform" {
			t.Errorf("%s: Cache-Control: %q; want no-store, no-transform", name, got)
		}
		if strings.Contains(a.Header.Get("Location"), secretOf(l.link)) {
			t.Errorf("%s leads to %s", name, a.Header.Get("Location"))
		}
		for _, m := range regexp.MustCompile(`(?:src|href)="([^"]*)"`).FindAllStringSubmatch(a.body, -1) {
			if strings.Contains(m[1], secretOf(l.link)) || strings.Contains(m[1], "//") {
				t.Errorf("%s loads or leads to %s", name, m[1])
			}
		}
	}
	// A browser that sends the whole URL anyway: the portal doesn't get it.
	b.open("/orders", "Referer", l.link)
	if got, _ := h.portal.last(); got.URI != "/orders" || got.Header.Get("Referer") != h.url+"/" {
		t.Errorf("the portal got Referer: %q; want the origin alone", got.Header.Get("Referer"))
	}
}
