package caddymodule_test

// Class N: answers don't reveal whether an address is known. Class X: visitors' input stays text.
// Class K, as far as the gate itself answers.
//
// Not here: N02's thousands of samples (measured, not tested), X08 beyond the events of the gate
// (audit); K01 to K05, K08 (store/redis, redis_gates_test.go), K09 to K11 (outbox), K12, K14, K18
// (store/bolt), K15 (token, clock_test.go), K16, K17 (app_test.go, reload_test.go), K20's weak
// secrets (app_test.go). gate/away_test.go covers failures of the store.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// kinds are addresses of every kind that answers could distinguish.
var kinds = map[string]string{"known": "ann@example.com", "another one of theirs": "ann.b@example.org", "unknown": "who@example.com", "unknown domain": "who@nowhere.invalid",
	"switched off": "eve@example.com", "over the limit": "bob@example.com", "staff": "owner@example.com"}

// CVE-2026-23511, supabase/auth #1955, #1547: each step, for an address of every kind, from a new
// browser and from one that has requested a mail before.
func TestN01_CVE_2026_23511_EveryAddressIsAnsweredAlike(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for range 3 {
		h.browser().ask("bob@example.com", "/") // as many as may be active
	}
	seconds := regexp.MustCompile(`data-wait="\d+"|<span data-seconds>\d+</span>`)
	type step struct{ name, shape string }
	walk := func(email string) (steps []step) {
		b := h.browser()
		note := func(name string, a answer) {
			shape := strings.ReplaceAll(a.shape(), email, "ADDRESS")
			shape = strings.ReplaceAll(shape, fmt.Sprintf("Content-Length: %d", len(a.body)), fmt.Sprintf("Content-Length: %d", len(a.body)-len(email)*strings.Count(a.body, email)))
			steps = append(steps, step{name, seconds.ReplaceAllString(shape, "SECONDS")})
		}
		for round := range 2 {
			note(fmt.Sprintf("asked %d", round), b.send("/-/sign-in", form("email", email, "to", "/x", "shared", "1")))
			note(fmt.Sprintf("sent %d", round), b.open("/-/sent"))
			note(fmt.Sprintf("wrong code %d", round), b.send("/-/code", form("code", "0000-0000")))
			note(fmt.Sprintf("no code %d", round), b.send("/-/code", form("code", "x")))
			time.Sleep(60 * time.Millisecond) // for the worker
			note(fmt.Sprintf("sent later %d", round), b.open("/-/sent"))
			note(fmt.Sprintf("wrong code later %d", round), b.send("/-/code", form("code", "1111-1111")))
		}
		for range 6 {
			note("burnt", b.send("/-/code", form("code", "2222-2222")))
		}
		note("the prompt", b.open("/x"))
		note("the prompt by itself", b.open("/-/sign-in"))
		note("me", b.open("/-/me"))
		return steps
	}
	want := walk("ann@example.com")
	for kind, email := range kinds {
		if kind == "known" {
			continue
		}
		for i, got := range walk(email) {
			if got != want[i] {
				t.Errorf("%s, %s:\n%s\n\nof a known address:\n%s", kind, got.name, got.shape, want[i].shape)
			}
		}
	}
}

// A mail server that never replies delays no answer.
func TestN03_AnswersDontWaitForMail(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	release := m.hold()
	defer release()
	for round := range 3 {
		for kind, email := range kinds {
			b := h.browser()
			began := time.Now()
			a := b.send("/-/sign-in", form("email", email))
			if took := time.Since(began); a.StatusCode != 303 || took > 5*time.Second {
				t.Errorf("round %d, %s: %d after %v; want 303 while the server still holds the mail", round, kind, a.StatusCode, took)
			}
		}
	}
	h.eventually("the mail server holds mails", func() bool { return m.begun() > 0 })
}

// CVE-2026-32595's class: work that depends on the address begins only after the answer, so that no
// response time reveals it.
func TestN02_CVE_2026_32595_TheWorkFollowsTheAnswer(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global})
	h.browser().ask("ann@example.com", "/")
	told := map[string]float64{}
	for line := range strings.SplitSeq(log.text(t), "\n") {
		var e struct {
			Event string
			TS    float64
		}
		if json.Unmarshal([]byte(line), &e) == nil && e.Event != "" {
			told[e.Event] = e.TS
		}
	}
	if d := told["queued"] - told["asked"]; told["asked"] == 0 || d < 0.015 {
		t.Errorf("the contact was looked up %.1f ms after the request; want 20 at least", d*1000)
	}
}

// Random, malformed and another firm's tokens: one page. A used or expired token says so to a
// visitor who has the whole token, and names nobody.
func TestN07_InvalidTokensGetTheSamePage(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	b := h.browser()
	l := b.ask("ann@example.com", "/secret-way-back")
	secret := secretOf(l.link)
	near := secret[:25] + map[bool]string{true: "b", false: "a"}[secret[25] == 'a']
	var want string
	for _, token := range []string{strings.Repeat("A", 43), strings.Repeat("a", 26), near, strings.Repeat("z", 43), "x", ""} {
		got := h.browser().open("/-/link?t=" + token).shape()
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("GET link with %q =\n%s\nwith a random one:\n%s", token, got, want)
		}
	}
	b.open(l.link)
	a := h.browser().open(l.link)
	for _, name := range []string{"ann@example.com", "Ann", "Baker", "acme", "Acme"} {
		if a.StatusCode != 410 || strings.Contains(a.body, name) {
			t.Errorf("the page of a used link = %d, and it has %s", a.StatusCode, name)
		}
	}
}

// marked is text that reveals missing escaping or execution.
const marked = `"'><img src=x onerror=alert(1)>{{.Firm}}{env.HOME}</textarea></script><!--`

// CVE-2023-52430, CVE-2024-21496: input in a path, query, form or header appears as text or not at
// all.
func TestX01_CVE_2023_52430_InputIsEscaped(t *testing.T) {
	h := openHouse(t, layout{})
	t.Setenv("HOME", "/home/of/the/operator")
	b := h.browser()
	b.ask("ann@example.com", "/")
	esc := url.QueryEscape(marked)
	path := "/" + url.PathEscape(marked)
	urlencoded := []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"}
	for name, r := range map[string]*http.Request{
		"a path of the portal's": b.request("GET", path, nil), "a path of ours": b.request("GET", "/-"+path, nil), "a path under ours": b.request("GET", "/-/sign-in"+path, nil),
		"a query": b.request("GET", "/x?"+esc+"="+esc, nil), "to": b.request("GET", "/-/sign-in?to=/"+esc, nil), "a link": b.request("GET", "/-/link?t="+esc, nil),
		"a long link": b.request("GET", "/-/link?t="+url.QueryEscape((marked + marked)[:43]), nil),
		"an address":  b.request("POST", "/-/sign-in", strings.NewReader("email="+esc+"&to=/"+esc+"&shared="+esc), urlencoded...),
		"a code":      b.request("POST", "/-/code", strings.NewReader("code="+esc), urlencoded...),
		"a token":     b.request("POST", "/-/link", strings.NewReader("t="+esc+"&email="+esc), urlencoded...),
		"a held form": b.request("POST", "/x?"+esc, strings.NewReader(esc+"="+esc+"&"+esc+"="), urlencoded...),
		"a frame":     b.request("GET", path+"?"+esc, nil, "Sec-Fetch-Dest", "iframe"),
		"headers": b.request("GET", "/-/nothing", nil, "Referer", "javascript:alert(document.domain)//"+marked, "User-Agent", marked, "X-Forwarded-For", marked,
			"X-Forwarded-Host", marked, "Accept-Language", marked, "Cookie", "portal-flow="+strings.Repeat("x", 43)+"; a="+strings.ReplaceAll(marked, `"`, "")),
		"a Referer at the prompt": b.request("GET", "/x", nil, "Referer", "javascript:alert(document.domain)//X"),
	} {
		a := b.do(r)
		if a.StatusCode >= 500 {
			t.Errorf("%s = %d", name, a.StatusCode)
		}
		wantPolicyIfPage(t, name, a)
		for _, bad := range []string{"<img src=x", "onerror=alert(1)>", "/home/of/the/operator", "{Example", "javascript:", "</textarea>", "<!--"} {
			if strings.Contains(a.body, bad) {
				t.Errorf("%s: the page has %s", name, bad)
			}
		}
		for header, values := range a.Header {
			if v := strings.Join(values, " "); strings.Contains(v, "<img") || strings.Contains(v, "/home/of") || strings.Contains(v, "javascript") {
				t.Errorf("%s: %s: %s", name, header, v)
			}
		}
	}
}

func wantPolicyIfPage(t *testing.T, name string, a answer) {
	t.Helper()
	csp := a.Header.Get("Content-Security-Policy")
	if strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") && (!strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-") || strings.Contains(csp, "unsafe")) {
		t.Errorf("%s: Content-Security-Policy: %s", name, csp)
	}
}

// naughty are strings that often break programs.
var naughty = []string{"", " ", "\x00", "\x00\x01\x02\x7f", "\r\n\r\n", "\u0085\u2028\u2029", "\ufeff", "\u202etest", "undefined", "null", "NaN", "-1", "1e309", "0x0", "%", "%00", "%zz", "%%20%s%n%p",
	"' OR 1=1 --", "'; DROP TABLE users; --", `"`, "`", `\`, `\\`, `\'`, "<script>alert(1)</script>", "<svg onload=alert(1)>", "javascript:alert(1)", "{{13*17}}", "${13*17}", "#{13*17}", "<%= 13*17 %>", "{env.HOME}",
	"{file./etc/passwd}", "{http.request.header.Cookie}", "{http.auth.user.email}", "$HOME", "$(id)", "`id`", "; id", "| id", "../../../../etc/passwd", `..\..\windows\win.ini`, "/dev/null", "CON", "file:///etc/passwd", "http://127.0.0.1:2019/config/",
	"\xff\xfe", "\xc0\xaf", "\xed\xa0\x80", "Ω≈ç√∫˜µ≤≥÷", "ﷺ", "田中さん", "😍", "🏳️‍🌈", "Z̮̞̠͙͔ͅḀ̗̞͈̻", "İıſK", "ﬀ", "а@ex.com", "\x1b[2J\x1b[31m", "\a\b", "&amp;&lt;", "&#x27;", "a=b&c=d", "a;b", "a,b", "__proto__", "constructor", "[]", "{}",
	"true", "TRUE", strings.Repeat("A", 10_000), strings.Repeat("ä", 4_000), strings.Repeat("%", 3_000), strings.Repeat("(", 5_000), "=?utf-8?q?x?=", "\u0000@\u0000.\u0000", "Scunthorpe", "<foo val=“bar” />"}

// Each string in each place: no 5xx, no panic, nothing unescaped, and the gate still works.
func TestX05_NaughtyStrings(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	b := h.browser()
	b.ask("ann@example.com", "/")
	line := func(s string) string {
		return strings.Map(func(c rune) rune {
			if c < ' ' || c == 0x7f {
				return -1
			}
			return c
		}, s)
	}
	n := 0
	try := func(what string, a rawAnswer) {
		n++
		if a.status >= 500 || a.status == 0 {
			t.Errorf("%s = %d", what, a.status)
		}
		for _, bad := range []string{"<script>alert", "<svg onload", "<foo val", ">221<", "root:x:"} {
			if strings.Contains(a.body, bad) {
				t.Errorf("%s: the answer has %s", what, bad)
			}
		}
	}
	all := naughty
	for line := range strings.SplitSeq(string(collection(t, "blns/blns.txt")), "\n") {
		if line != "" && line[0] != '#' {
			all = append(all, line)
		}
	}
	for _, s := range all {
		esc, what := url.QueryEscape(s), fmt.Sprintf("%.30q", s)
		flow := "Cookie: portal-flow=" + b.cookie("portal-flow")
		for _, field := range []string{"email", "to", "shared", "t", "code"} {
			for _, path := range []string{"/-/sign-in", "/-/code", "/-/link"} {
				f := form("email", "who@example.com", "t", strings.Repeat("A", 43), "code", "0000-0000")
				if path == "/-/sign-in" {
					f.Set("email", "not one") // requests no mail
				}
				f.Set(field, s)
				try(what+" as "+field+" of "+path, h.post(path, f.Encode(), flow))
			}
		}
		try(what+" as a field's name", h.post("/-/code", esc+"="+esc, flow))
		try(what+" as a body", h.post("/-/code", s, flow))
		try(what+" as a held form", h.post("/x", esc+"="+esc, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate"))
		if len(esc) < 8000 {
			try(what+" as a query", h.get("/-/link?t="+esc))
			try(what+" as to", h.get("/-/sign-in?to="+esc))
			try(what+" as a path", h.get("/"+url.PathEscape(s)))
			try(what+" as a path of ours", h.get("/-/"+url.PathEscape(s)))
		}
		if s := line(s); len(s) < 8000 {
			for _, name := range []string{"User-Agent", "X-Forwarded-For", "Referer", "Accept", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest", "Origin", "Content-Type", "Connection",
				"Upgrade", "Purpose", "Accept-Language", "Range", "If-None-Match", "Authorization"} {
				try(what+" as "+name, h.raw("POST /-/code HTTP/1.1\r\nHost: "+h.host()+"\r\nContent-Length: 0\r\n"+name+": "+s+"\r\n\r\n"))
			}
			try(what+" as a cookie", h.get("/x", "Cookie: portal="+s+"; portal-flow="+s))
			try(what+" as a header's name", h.get("/x", s+": x"))
		}
	}
	if n < 2000 {
		t.Errorf("%d tries; want more", n)
	}
	if a := h.browser().open("/-/health"); a.StatusCode != 204 {
		t.Errorf("health after that = %d; want 204", a.StatusCode)
	}
}

// CVE-2026-30852, GHSA-wwhq-w58m-w29c, GHSA-j8px-rmrx-76h9: only operators can use Caddy's
// placeholders. In input of visitors and contacts they are text, also in a configuration that uses
// the gate's placeholders.
func TestX06_CVE_2026_30852_PlaceholdersAreText(t *testing.T) {
	const secret = "the-secret-of-the-environment"
	t.Setenv("ATTACK_SECRET", secret)
	portal := newPortal(t)
	h, _ := openFastHouse(t, layout{
		contacts: "email,first_name,last_name,companies\nann@example.com,{env.ATTACK_SECRET},{http.request.header.Cookie},\n{env.attack_secret}@example.com,Odd,One,\n",
		site:     "header >X-Who \"{http.auth.user.name} {http.auth.user.email} {http.auth.user.id}\"\n\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://") + " {\n\t\theader_up X-Name {http.auth.user.name}\n\t}",
	})
	b := h.browser()
	to := "/{env.ATTACK_SECRET}?x={env.ATTACK_SECRET}"
	l := b.ask("ann@example.com", to)
	a := b.open(l.link, "User-Agent", "{env.ATTACK_SECRET}")
	pages := []string{a.Header.Get("Location"), l.text, l.html, l.Get("Subject"), l.Get("To")}
	if want := "/%7Benv.ATTACK_SECRET%7D?x={env.ATTACK_SECRET}"; a.Header.Get("Location") != want {
		t.Errorf("`to` leads to %q; want %q", a.Header.Get("Location"), want)
	}
	a = b.open("/x", "X-Forwarded-For", "{env.ATTACK_SECRET}", "User-Agent", "{env.ATTACK_SECRET}", "Cookie", "c={env.ATTACK_SECRET}; portal="+b.cookie("portal"))
	got, _ := portal.last()
	who := a.Header.Get("X-Who")
	if !strings.HasPrefix(who, "{env.ATTACK_SECRET} {http.request.header.Cookie} ann@example.com ") || got.Header.Get("X-Name") != "{env.ATTACK_SECRET} {http.request.header.Cookie}" {
		t.Errorf("X-Who: %s, X-Name: %s; want the name as it is", who, got.Header.Get("X-Name"))
	}
	pages = append(pages, who, fmt.Sprint(got.Header))
	odd := h.browser()
	l = odd.ask("{env.attack_secret}@example.com", "/")
	odd.open(l.link)
	odd.open("/x")
	got, _ = portal.last()
	if got.Header.Get("Remote-User") != "{env.attack_secret}@example.com" {
		t.Errorf("Remote-User: %s; want the address as it is", got.Header.Get("Remote-User"))
	}
	for _, path := range []string{"/{env.ATTACK_SECRET}", "/-/{env.ATTACK_SECRET}", "/-/sign-in?to=/{env.ATTACK_SECRET}", "/-/link?t={env.ATTACK_SECRET}"} {
		pages = append(pages, h.browser().open(path).body)
	}
	pages = append(pages, h.browser().send("/-/sign-in", form("email", "{env.ATTACK_SECRET}")).body, h.browser().send("/-/sign-in", form("t", "{env.ATTACK_SECRET}")).body)
	for _, page := range pages {
		if strings.Contains(page, secret) {
			t.Errorf("a secret of the environment came out: %.300s", page)
		}
	}
}

// GO-2026-5039's class: for any input, a log has one line of JSON for each event, and no control
// characters.
func TestX07_InputForgesNoLogLine(t *testing.T) {
	log := newLogFile(t)
	portal := newPortal(t)
	h := openHouse(t, layout{global: log.global, site: "log\n\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://")})
	evil := "\x1b[2J\n{\"level\":\"info\",\"logger\":\"doorpost\",\"msg\":\"door\",\"event\":\"signed-in\",\"forged\":true}\r\n"
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	for _, f := range []url.Values{form("email", "x@example.com"+evil), form("email", "x@example.com", "to", "/"+evil), form("t", evil)} {
		b.send("/-/sign-in", f, "User-Agent", "Mozilla/5.0")
	}
	b.send("/-/code", form("code", evil))
	b.send("/-/link", form("t", secretOf(l.link), "email", evil))
	h.get("/-/" + url.PathEscape(evil))
	h.get("/"+url.PathEscape(evil)+"?"+url.QueryEscape(evil), "User-Agent: \x1b[2J", "Referer: \x1b]0;x\a")
	lines := bufio.NewScanner(strings.NewReader(log.text(t)))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event map[string]any
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Errorf("a log line isn't JSON: %v: %.300s", err, lines.Text())
		} else if event["forged"] != nil {
			t.Errorf("a log line was forged: %s", lines.Text())
		}
		if i := bytes.IndexFunc(lines.Bytes(), func(c rune) bool { return c < ' ' && c != '\t' }); i >= 0 {
			t.Errorf("a log line has a control character: %.300q", lines.Text())
		}
	}
}

// Events are recorded once, with the peer's address and not with the address that the visitor
// claims (D06, CVE-2024-21494).
func TestX08_CVE_2024_21494_EventsAreRecordedOnce(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app()})
	m.moveInto(h)
	spoofed := []string{"X-Forwarded-For", "6.6.6.6, 127.0.0.1", "X-Real-Ip", "6.6.6.6", "Cf-Connecting-Ip", "6.6.6.6", "Forwarded", "for=6.6.6.6", "True-Client-Ip", "6.6.6.6"}
	ann, phone := h.browser(), h.browser()
	ann.send("/-/sign-in", form("email", "ann@example.com"), spoofed...)
	l := h.nextLetter("ann@example.com", 0)
	ann.send("/-/code", form("code", "0000-0000"), spoofed...)
	phone.open(l.link, spoofed...)
	phone.send("/-/link", form("t", secretOf(l.link), "email", "x@example.com"), spoofed...)
	ann.open(l.link, spoofed...)
	ann.send("/-/sign-out", url.Values{}, spoofed...)
	for _, email := range []string{"who@example.com", "eve@example.com"} {
		h.browser().send("/-/sign-in", form("email", email), spoofed...)
	}
	for range 4 {
		h.browser().send("/-/sign-in", form("email", "bob@example.com"), spoofed...)
	}
	// Of bob's four requests one is mailed, one is delayed by a minute, and the others are over the
	// limit. Two files were loaded.
	want := map[string]int{"changed": 2, "asked": 7, "queued": 2, "sent": 2, "wrong-code": 1, "opened": 1, "wrong-mail": 1, "signed-in": 1, "signed-out": 1, "unknown": 1, "disabled": 1, "delayed": 1, "limited": 2}
	got := map[string]int{}
	for range 100 {
		clear(got)
		for line := range strings.SplitSeq(log.text(t), "\n") {
			var e struct{ Logger, Event, IP string }
			if json.Unmarshal([]byte(line), &e) == nil && e.Logger == "doorpost" && e.Event != "" {
				got[e.Event]++
				if e.IP != "" && e.IP != "127.0.0.1" {
					t.Errorf("%s has the ip %s; want the peer's", e.Event, e.IP)
				}
			}
		}
		got["queued"] = min(got["queued"], want["queued"]) // concurrent requests for one contact may be queued more than once
		if maps.Equal(got, want) {
			return
		}
		time.Sleep(20 * time.Millisecond) // for the workers
	}
	t.Errorf("events = %v; want %v", got, want)
}

// D12: visitors who aren't signed in can't fill memory or disk by requesting pages, with any
// invented cookies. Invented links and codes are recorded as events, up to the sampling limit
// (audit/audit_test.go).
func TestD12_AnonymousVisitorsUseNoStorage(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	h.in("bob@example.com")
	h.eventually("the mail is gone from the queue", func() bool { return len(h.letters("bob@example.com")) == 1 })
	before := h.store()
	h.eventually("the store rests", func() bool {
		time.Sleep(1500 * time.Millisecond) // events are stored with a delay
		was := before
		before = h.store()
		return was == before
	})
	random := func(i int) string { return fmt.Sprintf("%043d", i) }
	for i := range 200 {
		cookies := "Cookie: portal=" + random(i) + "; portal-flow=" + random(i) + "; portal-device=" + random(i)
		for _, path := range []string{fmt.Sprintf("/x/%d", i), "/public/x", "/-/sent", "/-/sign-in", "/-/me", "/-/sign-out", "/-/nothing", "/-/health"} {
			h.get(path, cookies)
		}
		h.post("/x", "a=b", cookies, "Sec-Fetch-Site: same-origin")
		h.post("/-/sign-out", "", "Cookie: portal-flow="+random(i))
		h.post("/-/sign-in", "email=none", "Cookie: portal-flow="+random(i))
		h.post("/-/code", "code=0000-0000", "Cookie: portal-flow="+random(i))
	}
	if after := h.store(); after != before {
		t.Errorf("by pages: the store has changed: %d bytes before, %d after", len(before), len(after))
	}
	for i := range 200 {
		h.get("/-/link?t="+random(i), "Cookie: portal-flow="+random(i))
		h.post("/-/link", "t="+random(i)+"&email=ann%40example.com")
		h.post("/-/sign-in", "t="+random(i))
	}
	if after := h.store(); len(after) > len(before)+2<<20 {
		t.Errorf("by links: the store has %d bytes; before, it had %d", len(after), len(before))
	}
}

// K21: operators' actions are only on the admin endpoint, never on the site.
func TestK21_CVE_2026_27589_NoAdminOnTheSite(t *testing.T) {
	h := openHouse(t, layout{admin: freeAddress(t), firm: "public /public/*"})
	ann := h.in("ann@example.com")
	for _, path := range []string{"/doorpost/example/contacts", "/doorpost/example/sessions", "/config/", "/load", "/-/doorpost/example/contacts", "/-/admin", "/-/api/contacts", "/-/staff/"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			h.shut(t, method+" "+path, h.message(method, path, "Content-Length: 0"))
			a := h.raw(h.message(method, path, ann.session(), "Content-Length: 0"))
			if strings.Contains(a.body, "ann@example.com") && !strings.HasPrefix(a.body, "portal:") || strings.Contains(a.body, "bob@example.com") {
				t.Errorf("%s %s = %d %.200s; want nothing of the admin endpoint", method, path, a.status, a.body)
			}
		}
	}
	// A web page sends a form to the admin endpoint, by another name of this machine.
	for _, lines := range [][2]string{{"evil.example", "http://evil.example"}, {h.admin, "http://evil.example"}, {h.admin, "null"}} {
		a := h.rawTo(h.admin, "POST /doorpost/example/contacts/disable HTTP/1.1\r\nHost: "+lines[0]+"\r\nOrigin: "+lines[1]+"\r\nSec-Fetch-Site: cross-site\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 27\r\n\r\n"+`{"email":"ann@example.com"}`)
		if a.status < 400 || ann.me() == nil {
			t.Errorf("a form for the admin endpoint, Host: %s, Origin: %s = %d; want it refused", lines[0], lines[1], a.status)
		}
	}
}

// Visitors see the right error: a page that fails for another reason doesn't speak of sign-ins.
func TestOnlyStoreErrorsSpeakOfSignIns(t *testing.T) {
	log := newLogFile(t)
	h := openHouse(t, layout{global: log.global})
	opened := h.browser().open(caddymodule.MailboxURL(t, "example"))
	if len(opened.Cookies()) != 1 {
		t.Fatalf("GET of the mailbox sets %v; want its cookie", opened.Cookies())
	}
	if err := os.RemoveAll(h.path("mail")); err != nil {
		t.Fatal(err)
	}
	h.write("mail", "a file where the folder should be")
	a := h.get("/-/mailbox/", "Cookie: portal-mailbox="+opened.Cookies()[0].Value)
	if a.status != 500 || !strings.Contains(a.body, "Something went wrong") || strings.Contains(a.body, "check who is signed in") || a.header.Get("Retry-After") != "" {
		t.Errorf("a folder of mails that can't be read = %d, Retry-After %q; want 500, and that it is our mistake", a.status, a.header.Get("Retry-After"))
	}
	if said := log.text(t); !strings.Contains(said, "an unexpected error kept the gate from serving") || strings.Contains(said, "the gate can't serve") {
		t.Errorf("the log: %s; want the unexpected error alone", said)
	}
}

// Browsers resolve every name under localhost to this machine (RFC 6761, 6.3). So does each check
// of ours for this machine.
func TestMailboxOpensAtEveryNameOfThisMachine(t *testing.T) {
	for _, name := range []string{"portal.localhost", "LOCALHOST", "[::1]", "127.8.9.10"} {
		at := freeAddress(t)
		_, port, _ := strings.Cut(at, ":")
		host := name + ":" + port
		h := openHouse(t, layout{url: "http://" + host, more: "http://:" + port + " {\n\tbind 127.0.0.1\n\tdoorpost example\n\trespond hello\n}"})
		mailbox, err := url.Parse(caddymodule.MailboxURL(t, "example"))
		if err != nil || mailbox.Path == "" {
			t.Errorf("%s: the mailbox is at %s, %v", host, mailbox, err)
			continue
		}
		a := h.rawTo(at, "GET "+mailbox.RequestURI()+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		if a.status != 303 || a.header.Get("Location") != "/-/mailbox/" {
			t.Errorf("%s: the address of the mailbox answers %d, Location %q; want 303 to the mailbox", host, a.status, a.header.Get("Location"))
		}
	}
}

// The preview mailbox allows anybody to sign in, so only this machine can open it.
func TestK20_TheMailboxIsForThisMachine(t *testing.T) {
	h := openHouse(t, layout{})
	h.browser().ask("ann@example.com", "/")
	if a := h.get("/-/mailbox/"); a.status != 403 || strings.Contains(a.body, "ann@example.com") {
		t.Fatalf("GET /-/mailbox/ without the key = %d; want 403 and no mails, since a proxy may hide where this comes from", a.status)
	}
	if a := h.get("/-/mailbox/?key=" + strings.Repeat("x", 32)); a.status != 403 || len(a.header["Set-Cookie"]) > 0 {
		t.Fatalf("GET /-/mailbox/ with a wrong key = %d; want 403", a.status)
	}
	opened := h.browser().open(caddymodule.MailboxURL(t, "example"))
	if opened.StatusCode != 303 || opened.Header.Get("Location") != "/-/mailbox/" || len(opened.Cookies()) != 1 || !opened.Cookies()[0].HttpOnly || opened.Cookies()[0].Path != "/-/mailbox/" {
		t.Fatalf("GET of the mailbox with its key = %d to %q, cookies %v; want 303 to it without the key, and a cookie for it alone", opened.StatusCode, opened.Header.Get("Location"), opened.Cookies())
	}
	key := "Cookie: portal-mailbox=" + opened.Cookies()[0].Value
	if a := h.get("/-/mailbox/", key); a.status != 200 || !strings.Contains(a.body, "ann@example.com") {
		t.Fatalf("GET /-/mailbox/ = %d; want the mails", a.status)
	}
	for _, line := range []string{"X-Forwarded-For: 1.2.3.4", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=1.2.3.4", "X-Forwarded-Host: localhost", "X-Forwarded-Proto: http", "Via: 1.1 x", "X-Real-IP: 1.2.3.4",
		"CF-Connecting-IP: 1.2.3.4", "True-Client-IP: 1.2.3.4", "X-Forwarded-User: x", "X-Forwarded-Prefix: /", "X-Client-IP: 1.2.3.4", "X-Original-Host: x"} {
		if a := h.get("/-/mailbox/", line, key); a.status != 404 {
			t.Errorf("GET /-/mailbox/ with %s = %d; want 404", line, a.status)
		}
	}
	for _, host := range []string{"evil.example", "localhost" + h.host()[len("127.0.0.1"):], "127.0.0.1"} {
		if a := h.raw("GET /-/mailbox/ HTTP/1.1\r\nHost: " + host + "\r\n" + key + "\r\nConnection: close\r\n\r\n"); strings.Contains(a.body, "ann@example.com") {
			t.Errorf("GET /-/mailbox/ with Host: %s = %d, and the mails", host, a.status)
		}
	}
	h.write("mail/../secret.eml", "Subject: x\r\n\r\nof no concern to anybody")
	h.write("mail/.hidden.txt", "of no concern to anybody")
	for _, name := range []string{"../secret.eml", "..%2fsecret.eml", "%2e%2e/secret.eml", "..%5csecret.eml", "....//secret.eml", ".hidden.txt", "x/../../secret.eml", "/etc/passwd", "%00.eml", "nothing.eml", ".eml", "..eml"} {
		if a := h.get("/-/mailbox/"+name, key); a.status != 404 && a.status != 400 || strings.Contains(a.body, "of no concern") {
			t.Errorf("GET /-/mailbox/%s = %d; want 404", name, a.status)
		}
	}
	// It doesn't exist if the site isn't on loopback, or if mails are sent.
	anyHost := freeAddress(t)
	_, port, _ := strings.Cut(anyHost, ":")
	h = openHouse(t, layout{url: "https://portal.example", more: "http://:" + port + " {\n\tdoorpost example\n\trespond hello\n}"})
	if a := h.rawTo(anyHost, "GET /-/mailbox/ HTTP/1.1\r\nHost: portal.example\r\nConnection: close\r\n\r\n"); a.status != 404 {
		t.Errorf("a public url, that host: GET /-/mailbox/ = %d; want 404", a.status)
	}
	for name, l := range map[string]layout{"a public url": {url: "https://portal.example"}, "a mail server": {app: "mail smtp 127.0.0.1:1 {\n\t\t\ttls off\n\t\t}"}} {
		h := openHouse(t, l)
		for _, host := range []string{h.host(), "portal.example"} {
			if a := h.raw("GET /-/mailbox/ HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"); a.status == 200 && a.body != "" {
				t.Errorf("%s: GET /-/mailbox/ = 200", name)
			}
		}
	}
}
