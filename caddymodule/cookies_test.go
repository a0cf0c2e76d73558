package caddymodule_test

// The portal's cookies on their way through the gate.

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// On a shared computer, no spelling of a cookie's name gives one contact the other's portal
// session: the gate drops cookies that some software could read as it.
func TestNoSpellingOfACookieGivesAnotherContactsPortalSession(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "portal_session named"})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "sid=anns; HttpOnly")
		w.Header().Add("Set-Cookie", "named=anns")
	}
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	ann.open("/x")
	for _, name := range []string{"sid", "named"} {
		sealed := ann.cookie(name)
		for _, spelling := range []string{"NAME", "name ", " name", "\tname", "name\t", "\u00a0name", "name\u00a0", "\ufeffname", "\u2003name", "\"name\"", "\\name", "(name", "name@", "{name}",
			"name[]", "x[name]", "%6eame", "%6Eame%20", "%2520name", "x,name", "x name", "x=1 name", `x="1,name`, "=name",
			"+name", "++name", "%20+name", "%2bname"} {
			spelling = strings.NewReplacer("name", name, "NAME", strings.ToUpper(name), "%6eame", "%"+hexOf(name[0])+name[1:], "%6Eame", "%"+strings.ToUpper(hexOf(name[0]))+name[1:]).Replace(spelling)
			for what, value := range map[string]string{"bare": "anns", "sealed": sealed} {
				h.get("/y", bob.session()+"; theme=dark; "+spelling+"="+value+"; prefs[a]=1")
				got, _ := h.portal.last()
				if cookies := strings.Join(got.Header["Cookie"], "|"); couldBe(cookies, name) || !strings.HasPrefix(cookies, "theme=dark") || !strings.HasSuffix(cookies, "prefs[a]=1") {
					t.Errorf("%q, %s: the portal gets Cookie: %q; want the others alone", spelling, what, cookies)
				}
			}
		}
	}
}

func hexOf(b byte) string { return string("0123456789abcdef"[b>>4]) + string("0123456789abcdef"[b&15]) }

// couldBe reports whether the most lenient software would find a cookie of that name with Ann's
// value: one that decodes names, and ends them at anything except letters.
func couldBe(cookies, name string) bool {
	for pair := range strings.FieldsFuncSeq(strings.ToLower(cookies), func(r rune) bool { return strings.ContainsRune(";, \t\u00a0\u2003\ufeff", r) }) {
		before, value, _ := strings.Cut(pair, "=")
		letters := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}, before)
		if letters == name && value == "anns" {
			return true
		}
	}
	return false
}

// bakes makes the portal begin a session for requests without one, and greet requests with one.
func (p *portal) bakes(name, attributes string) {
	n := 0
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie(name); err == nil {
			w.Write([]byte("session " + c.Value))
			return
		}
		n++
		w.Header().Add("Set-Cookie", fmt.Sprintf("%s=%d%s", name, n, attributes))
		fmt.Fprintf(w, "session %d", n)
	}
}

// A cookie for the portal's whole domain is read and set by other sites, so it stays unchanged in
// both directions, also after a restart; the log says so once.
func TestCookiesOfTheWholeDomainAreUnchanged(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	p, address := newPortal(t), freeAddress(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), url: "https://clients.example.com",
		more: "http://:" + address[strings.LastIndexByte(address, ':')+1:] + " {\n\tbind 127.0.0.1\n\tdoorpost example\n\treverse_proxy " + strings.TrimPrefix(p.URL, "http://") + "\n}"})
	m.moveInto(h)
	b := h.browser()
	l := b.ask("ann@example.com", "/")
	a := h.post("/-/link", form("t", secretOf(l.link), "email", "ann@example.com").Encode(), "Origin: https://clients.example.com")
	session, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	var line string
	p.answer = func(w http.ResponseWriter, r *http.Request) { w.Header().Add("Set-Cookie", line) }
	comes := func(cookie string) (set, back string) {
		t.Helper()
		a := h.rawTo(address, "GET /x HTTP/1.1\r\nHost: clients.example.com\r\nConnection: close\r\nCookie: "+strings.Trim(session+"; "+cookie, "; ")+"\r\n\r\n")
		if a.status != 200 {
			t.Fatalf("GET = %d; want 200", a.status)
		}
		got, _ := p.last()
		return a.header.Get("Set-Cookie"), got.Header.Get("Cookie")
	}
	for _, line = range []string{"SSOID=0123abcd; Domain=.example.com; HttpOnly", "SSOID=0123abcd; HttpOnly; domain=Example.Com; Path=/", "other=1; Domain=example.com; Domain=; Domain=.example.com; HttpOnly"} {
		for range 2 {
			if set, _ := comes(""); set != line {
				t.Errorf("the portal sets %q, the browser gets %q; want it as it is", line, set)
			}
		}
	}
	if _, back := comes("SSOID=set-by-www; other=2"); back != "SSOID=set-by-www; other=2" {
		t.Errorf("what another site has set arrives as %q; want it as it is", back)
	}
	// This applies only to wider domains: not to the host's own name, nor to domains that browsers
	// reject.
	for _, line = range []string{"own=1; Domain=clients.example.com; HttpOnly", "own2=1; Domain=.CLIENTS.example.com; HttpOnly", "own3=1; HttpOnly"} {
		if set, _ := comes(""); !strings.Contains(set, "=~.") {
			t.Errorf("the portal sets %q, the browser gets %q; want it bound", line, set)
		}
	}
	if n := strings.Count(log.text(t), "portal_session SSOID off"); n != 1 {
		t.Errorf("the log says %d times what to write; want once", n)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	h.start()
	if _, back := comes("SSOID=set-by-www"); back != "SSOID=set-by-www" {
		t.Errorf("after a restart, what another site has set arrives as %q; want it as it is", back)
	}
	h.change("contacts ", "portal_session SSOID\n\t\tcontacts ")
	line = "SSOID=0123abcd; Domain=.example.com; HttpOnly"
	if set, back := comes("SSOID=set-by-www"); !strings.Contains(set, "=~.") || back != "" {
		t.Errorf("named in the Caddyfile, the browser gets %q, and what another site has set arrives as %q; want it bound", set, back)
	}
}

// A cookie for the site only is bound whatever Host a request has: naming the site, or repeating
// the Host, in Domain doesn't share it.
func TestNoHostUnbindsACookie(t *testing.T) {
	m := startMailServer(t)
	p, address := newPortal(t), freeAddress(t)
	h := openHouse(t, layout{app: m.app(), url: "https://clients.example.com",
		more: "http://:" + address[strings.LastIndexByte(address, ':')+1:] + " {\n\tbind 127.0.0.1\n\tdoorpost example\n\treverse_proxy " + strings.TrimPrefix(p.URL, "http://") + "\n}"})
	m.moveInto(h)
	l := h.browser().ask("ann@example.com", "/")
	a := h.post("/-/link", form("t", secretOf(l.link), "email", "ann@example.com").Encode(), "Origin: https://clients.example.com")
	session, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	domain := ""
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "sid=anns; HttpOnly; Domain="+cmp.Or(domain, r.Host))
	}
	for _, domain = range []string{"clients.example.com", "elsewhere.example", "other.example.com", ""} {
		for _, host := range []string{"other.example.com", "elsewhere.example", "localhost:1234", "sub.clients.example.com", "clients.example.com"} {
			get := func(cookie string) rawAnswer {
				return h.rawTo(address, "GET /x HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\nCookie: "+session+cookie+"\r\n\r\n")
			}
			if a := get(""); a.status != 200 || !strings.Contains(a.header.Get("Set-Cookie"), "=~.") {
				t.Errorf("Host %s: %d, Set-Cookie %q; want it bound", host, a.status, a.header.Get("Set-Cookie"))
			}
			get("; sid=anns")
			if got, _ := p.last(); got.Header.Get("Cookie") != "" {
				t.Errorf("Host %s: the portal gets %q, which has no seal; want nothing", host, got.Header.Get("Cookie"))
			}
		}
	}
}

// If a portal has its own login, a contact keeps one session on pages of all their companies and of
// none; nobody else can use it, nor can the contact after their companies have changed.
func TestAPortalSessionOfOneContact(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), companies: oldCompanies, firm: oldLinks + "\n\t\tportal_session DokuWiki person"})
	m.moveInto(h)
	h.portal.bakes("DokuWiki", "; HttpOnly; Path=/")
	for _, email := range []string{"owner@example.com", "ann@example.com"} {
		b := h.in(email)
		first := b.open("/wiki/").body
		for _, path := range []string{"/portal/acme/", "/files/acme/x", "/files/birch/x", "/wiki/", "/assets/x", "/files/acme/x"} {
			if a := b.open(path); a.body != first {
				t.Errorf("%s, %s: the portal has %q; want %s", email, path, a.body, first)
			}
		}
		sealed := b.cookie("DokuWiki")
		bob := h.in("bob@example.com")
		for _, value := range []string{sealed, sealed[strings.LastIndexByte(sealed, '.')+1:]} {
			if a := h.get("/wiki/", bob.session()+"; DokuWiki="+value); a.body == first {
				t.Errorf("another person comes into the session of %s", email)
			}
		}
	}
	b := h.in("ann@example.com")
	first := b.open("/wiki/").body
	visitor := h.browser()
	visitor.open("/one-click/acme-secret-token-1/x")
	if a := h.get("/wiki/", "Cookie: portal-visit="+visitor.cookie("portal-visit")+"; DokuWiki="+b.cookie("DokuWiki")); a.status != 200 || a.body == first {
		t.Errorf("by a visit: %d %q; want a session of its own", a.status, a.body)
	}
	old := b.cookie("DokuWiki")
	h.change("DokuWiki person", "DokuWiki")
	if a := h.get("/files/acme/x", b.session()+"; DokuWiki="+old); a.body == first {
		t.Error("bound to the company by now, the person's session comes back at a company's page")
	}
	h.change("portal_session DokuWiki", "portal_session DokuWiki person")
	h.command("contacts", "set", "ann@example.com", "--companies", "acme")
	if a := h.get("/wiki/", b.session()+"; DokuWiki="+old); a.body == first {
		t.Error("the person's companies have changed, and the portal's session goes on")
	}
}

// Otherwise a session belongs to one company; the log says once how to change this.
func TestAWithheldPortalSessionIsLogged(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), companies: oldCompanies, firm: oldLinks})
	m.moveInto(h)
	h.portal.bakes("DokuWiki", "; HttpOnly; Path=/")
	owner, bob := h.in("owner@example.com"), h.in("bob@example.com")
	for _, path := range []string{"/wiki/", "/files/acme/x"} {
		bob.open(path) // a client of one company keeps it
	}
	if text := log.text(t); strings.Contains(text, "portal_session DokuWiki person") {
		t.Error("the log says how to keep a session that was kept")
	}
	for _, path := range []string{"/wiki/", "/files/acme/x", "/wiki/", "/files/birch/x"} {
		owner.open(path)
	}
	if n := strings.Count(log.text(t), "portal_session DokuWiki person"); n != 1 {
		t.Errorf("the log says %d times how to keep a session; want once", n)
	}
}

// Cookies that the Caddyfile excludes stay unchanged, HttpOnly or not.
func TestAnExcludedCookieIsUnchanged(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "portal_session SSOID off"})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "SSOID=1; HttpOnly; Path=/")
	}
	ann, bob := h.in("ann@example.com"), h.in("bob@example.com")
	if a := ann.open("/x"); a.Header.Get("Set-Cookie") != "SSOID=1; HttpOnly; Path=/" {
		t.Errorf("the browser gets %q; want the cookie as it is", a.Header.Get("Set-Cookie"))
	}
	h.get("/x", bob.session()+"; SSOID=1")
	if got, _ := h.portal.last(); got.Header.Get("Cookie") != "SSOID=1" {
		t.Errorf("the portal gets Cookie: %q; want SSOID=1", got.Header.Get("Cookie"))
	}
}

// A cookie of the maximum size returns to the portal unchanged, only for the same contact, and its
// record is deleted when the portal deletes the cookie.
func TestLargePortalCookiesReturnOnlyForTheirContact(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	fat := "sid=" + strings.Repeat("0123456789abcdef", 255) + "0123456789ab" // 4,096 bytes without the =
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/in":
			w.Header().Add("Set-Cookie", fat+"; Path=/; HttpOnly")
		case "/out":
			w.Header().Add("Set-Cookie", "sid=; Path=/; Max-Age=0")
		case "/forget":
			w.Header().Set("Clear-Site-Data", `"cookies"`)
		}
	}
	gets := func(b *browser) string {
		b.open("/x")
		got, _ := h.portal.last()
		return got.Header.Get("Cookie")
	}
	owners := func(b *browser) (n int) {
		u, _ := url.Parse(h.url)
		for _, c := range b.client.Jar.Cookies(u) {
			if strings.HasPrefix(c.Name, "portal-owner-") {
				n++
			}
		}
		return n
	}
	for _, leaves := range []string{"/out", "/forget"} {
		b := h.in("ann@example.com")
		a := b.open("/in")
		for _, c := range a.Cookies() {
			if len(c.Name)+len(c.Value) > 4096 {
				t.Errorf("%s has %d bytes; browsers keep 4,096", c.Name, len(c.Name)+len(c.Value))
			}
		}
		if got := gets(b); got != fat || owners(b) != 1 {
			t.Errorf("the portal gets %.60s…, with %d owners in the browser; want its cookie, and one", got, owners(b))
		}
		b.send("/-/link", form("t", secretOf(b.ask("bob@example.com", "/").link), "email", "bob@example.com"))
		if got := gets(b); got != "" {
			t.Errorf("another person brings %.60s…; want nothing", got)
		}
		b.send("/-/link", form("t", secretOf(b.ask("ann@example.com", "/").link), "email", "ann@example.com"))
		if got := gets(b); got != fat {
			t.Errorf("the first person again: the portal gets %.60s…; want its cookie", got)
		}
		b.open(leaves)
		if got := gets(b); got != "" || owners(b) != 0 {
			t.Errorf("after %s the portal gets %.60s…, with %d owners in the browser; want none", leaves, got, owners(b))
		}
	}
}
