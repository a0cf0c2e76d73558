package caddymodule_test

// Classes R, P, H and T where old links, visits and the portal's own cookies meet: one of
// them must not circumvent another.

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
)

// Anyone can obtain a sealed link through /-/go; it leads only to this site.
func TestR07_CVE_2022_28923_OldLinksRedirectWithinTheSite(t *testing.T) {
	h := openOldHouse(t, "acme")
	bob := h.in("bob@example.com")
	for _, target := range []string{"//evil.example/x?client=foo", "//evil.example?client=foo", "///evil.example/x?client=foo", "//evil.example/%2e%2e?client=foo", `/\evil.example/x?client=foo`,
		"/%5cevil.example/x?client=foo", "/./%2fevil.example?client=foo", "//evil.example/one-click/x/", "//evil.example:80/index/one-click/t/", "/.//evil.example/x?client=foo", "http://evil.example/x?client=foo", "//evil.example/%?client=foo"} {
		for _, from := range []string{h.host(), "evil.example"} {
			a := h.raw("GET " + target + " HTTP/1.1\r\nHost: " + from + "\r\nConnection: close\r\nAccept: text/html\r\n\r\n")
			to := a.header.Get("Location")
			if to != "" && !stays(to) {
				t.Errorf("%s leads to %s", target, to)
			}
			if !goneForm.MatchString(to) {
				continue
			}
			for _, who := range []string{"A: b", bob.session()} {
				b := h.get(to, who)
				if to := b.header.Get("Location"); to != "" && !stays(to) {
					t.Errorf("%s leads, by /-/go (%q), to %s", target, who, to)
				}
			}
		}
	}
}

// No access log contains a token: neither if the portal's answers redirect to old links and
// are logged, nor if the portal aborts and Caddy logs the request.
func TestT10_NoLogHasATokenOfAnAnswer(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	p := newPortal(t)
	h := openHouse(t, layout{global: strings.NewReplacer("debug\n", "", "level DEBUG", "level INFO").Replace(log.global), app: m.app(), firm: oldLinks,
		companies: oldCompanies, admin: freeAddress(t), site: log.site + "\n\treverse_proxy " + strings.TrimPrefix(p.URL, "http://")})
	m.moveInto(h)
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("X-Portal") {
		case "breaks off":
			w.Header().Set("Content-Length", "100000")
			w.Write(make([]byte, 50_000))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "resets":
			panic(http.ErrAbortHandler)
		}
		for name, value := range map[string]string{"Location": "/one-click/acme-secret-token-1/next", "Content-Location": "http://" + r.Host + "/view?client=acme-secret-token-1",
			"Refresh": "5; url=/one-click/acme-secret-token-1/soon", "Link": "</app.css>; rel=preload, </one-click/acme-secret-token-1/style.css>; rel=preload", "HX-Redirect": "/login?next=%2Fone-click%2Facme-secret-token-1%2F"} {
			if r.Header.Get("X-Portal") == name {
				w.Header().Set(name, value)
			}
		}
	}
	for _, upgraded := range []bool{false, true} {
		visitor, member := h.browser(), h.in("ann@example.com")
		visitor.open("/one-click/acme-secret-token-1/x")
		for _, does := range []string{"Location", "Content-Location", "Refresh", "Link", "HX-Redirect", "resets", "breaks off"} {
			for _, path := range []string{"/dashboard.php", "/portal/acme/x", "/one-click/acme-secret-token-1/x", "/assets/x", "/x?client=acme-secret-token-1", "/login?next=%2Fone-click%2Facme-secret-token-1%2Fx", "/assets/x?client=acme-secret-token-1"} {
				for _, b := range []*browser{visitor, member, h.browser()} {
					b.tells(path, "X-Portal", does)
				}
			}
		}
		if !upgraded {
			h.upgrade("acme")
		}
	}
	text, n := log.text(t), 0
	for line := range strings.Lines(text) {
		if strings.Contains(line, "secret-token") {
			if n++; n < 6 {
				t.Errorf("a log line has the token: %s", line)
			}
		}
	}
	if n > 0 {
		t.Errorf("%d lines have it", n)
	}
	for _, want := range []string{"aborting with incomplete response", `"uri":"/dashboard.php"`, "the portal doesn't answer an old link"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no %q", want)
		}
	}
}

// tells requests a page of a portal that may abort.
func (b *browser) tells(path string, headers ...string) {
	if resp, err := b.client.Do(b.request("GET", path, nil, headers...)); err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// Answers of the portal outside a visit allow no access, neither now nor after the upgrade.
func TestP17_WithoutAVisitNoPortalSessionWorks(t *testing.T) {
	h := openOldHouse(t)
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Set-Cookie", "PHPSESSID=sid-of-acme; path=/; HttpOnly")
		fmt.Fprint(w, strings.Join(r.Header["Cookie"], "|"))
	}
	a := h.get("/one-click/acme-secret-token-1/x", "Sec-Fetch-Mode: cors", "Accept: */*")
	line, _, _ := strings.Cut(a.header.Get("Set-Cookie"), ";")
	h.upgrade("acme")
	for _, path := range []string{"/assets/x.css", "/dashboard.php"} {
		if a := h.get(path, "Cookie: "+line); strings.Contains(a.body, "sid-of-acme") && a.status == 200 {
			t.Errorf("%s with the portal's session from before the upgrade = %d %q", path, a.status, a.body)
		}
	}
}

// Portal pages that are open to everyone begin no other session for a visitor.
func TestAVisitContinuesOnPublicPages(t *testing.T) {
	h := openOldHouse(t)
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("PHPSESSID")
		if err != nil {
			w.Header().Add("Set-Cookie", fmt.Sprintf("PHPSESSID=begun-at-%s; path=/; HttpOnly", strings.ReplaceAll(r.URL.Path, "/", "-")))
			return
		}
		fmt.Fprint(w, c.Value)
	}
	b := h.browser()
	b.open("/one-click/acme-secret-token-1/x")
	for _, path := range []string{"/assets/menu.php", "/dashboard.php"} {
		if a := b.open(path); a.body != "begun-at--one-click-acme-secret-token-1-x" {
			t.Errorf("%s: the portal says %q; want the session that the visit began with", path, a.body)
		}
	}
}

// On new links, nothing that we write contains a token, whether or not the company is open.
func TestP17_NewLinksContainNoToken(t *testing.T) {
	h := openOldHouse(t)
	to := ""
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", to)
		w.Header().Add("Set-Cookie", "a=1; HttpOnly")
		w.WriteHeader(302)
	}
	bob, visitor := h.in("bob@example.com"), h.browser()
	visitor.open("/one-click/acme-secret-token-1/x")
	for ref, want := range map[string]string{"next?a=1": "/portal/acme/next?a=1", "?a=1": "/portal/acme/start?a=1", "../acme-secret-token-1/x": "/portal/acme/x",
		"/one-click/acme-secret-token-1/x": "/portal/acme/x", "/view?client=acme-secret-token-2": "/overview/acme", "https://elsewhere.example/": "https://elsewhere.example/"} {
		to = ref
		for name, b := range map[string]*browser{"a member": bob, "a visitor": visitor} {
			a := b.open("/portal/acme/start")
			if text := fmt.Sprint(a.Header); strings.Contains(text, "secret-token") || goes(a) != want || !strings.Contains(text, "Path=/portal/acme]") {
				t.Errorf("%s, Location: %s at a new link of an open company: %s; want it to lead to %s", name, ref, text, want)
			}
		}
	}
}

// The portal's session is bound however it is set: in an answer, or in a WebSocket handshake.
// Early hints and trailers can't set one.
func TestS01_PortalCookiesAreBoundHoweverTheyAreSet(t *testing.T) {
	h := openOldHouse(t, "acme")
	const line = "PHPSESSID=sid-of-bob; path=/; HttpOnly"
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		out := w.Header()
		switch r.Header.Get("X-Portal") {
		case "handshake":
			out.Set("Connection", "Upgrade")
			out.Set("Upgrade", "websocket")
			out.Set("Set-Cookie", line)
			w.WriteHeader(http.StatusSwitchingProtocols)
			if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
				conn.Close()
			}
			return
		case "beforehand":
			out.Set("Set-Cookie", line)
			w.WriteHeader(http.StatusEarlyHints)
		case "announced":
			out.Set("Trailer", "Set-Cookie")
			io.WriteString(w, "body")
			out.Set("Set-Cookie", line)
			return
		case "afterwards":
			io.WriteString(w, "body")
			http.NewResponseController(w).Flush()
			out.Set(http.TrailerPrefix+"Set-Cookie", line)
			return
		}
		io.WriteString(w, strings.Join(r.Header["Cookie"], "|"))
	}
	bob := h.in("bob@example.com")
	for _, how := range []string{"handshake", "beforehand", "announced", "afterwards"} {
		lines := []string{"Host: " + h.host(), "X-Portal: " + how, bob.session(), "TE: trailers", "Connection: close"}
		if how == "handshake" {
			lines = append(lines[:4:4], "Connection: Upgrade", upgrade)
		}
		conn := h.dial()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "GET /portal/acme/ws HTTP/1.1\r\n"+strings.Join(lines, "\r\n")+"\r\n\r\n")
		all, _ := io.ReadAll(conn)
		if text := string(all); strings.Contains(text, "PHPSESSID=sid") || how == "handshake" && !strings.Contains(text, "PHPSESSID=~.") || !strings.HasPrefix(text, "HTTP/1.1 ") {
			t.Errorf("set %s: the answer is\n%s", how, text)
		}
	}
	// The browser sends the bound cookie, and the portal gets its own, complete and with its
	// own name.
	a := h.raw("GET /portal/acme/ws HTTP/1.1\r\nHost: " + h.host() + "\r\nX-Portal: handshake\r\nConnection: Upgrade\r\n" + upgrade + "\r\n" + bob.session() + "\r\n\r\n")
	bound, _, _ := strings.Cut(strings.TrimPrefix(a.header.Get("Set-Cookie"), "PHPSESSID="), ";")
	owner := h.in("owner@example.com")
	half := bound[:len(bound)/2]
	for cookie, want := range map[string]string{
		"PHPSESSID=" + bound: "PHPSESSID=sid-of-bob", "a=1; PHPSESSID=" + bound + "; b=2": "a=1; PHPSESSID=sid-of-bob; b=2",
		"PHPSESSID=sid-of-bob": "", "phpsessid=" + bound: "", "phpsessid=sid-of-bob": "", "PHPSESSI%44=sid-of-bob": "", "PHPSESSID%00x=sid-of-bob": "", " PHPSESSID =sid-of-bob": "",
		"PHPSESSID=" + half: "", "PHPSESSID=" + bound + "x": "", "PHPSESSID=\"" + bound + "\"": "", "PHPSESSID=~." + half + "." + half: "", "PHPSESSID=~.": "", "PHPSESSID=~..sid-of-bob": "", "other=" + bound: "",
		"PHPSESSID=" + bound + "; PHPSESSID=sid-of-bob": "PHPSESSID=sid-of-bob", "PHPSESSID=sid-of-bob; PHPSESSID=" + bound: "PHPSESSID=sid-of-bob",
		"PHPSESSID=" + strings.Repeat("~.", 2_000): "", "PHPSESSID=" + strings.ReplaceAll(bound, "sid-of-bob", "sid-of-ann"): "", "PHP.SESSID=x": "PHP.SESSID=x",
	} {
		if a := h.get("/portal/acme/x", bob.session()+"; "+cookie); a.status != 200 || strings.Join(strings.Fields(a.body), " ") != want {
			t.Errorf("Cookie: %.120s: the portal gets %.120q (%d); want %q", cookie, a.body, a.status, want)
		}
		if a := h.get("/portal/acme/x", owner.session()+"; "+cookie); strings.Contains(a.body, "sid-of") {
			t.Errorf("Cookie: %.120s from somebody else: the portal gets %.120q", cookie, a.body)
		}
		if a := h.get("/assets/x", "Cookie: "+cookie); strings.Contains(a.body, "sid-of") {
			t.Errorf("Cookie: %.120s from nobody: the portal gets %.120q", cookie, a.body)
		}
	}
}

// CVE-2021-41230's class: streams of a company's pages end when the contact leaves the
// company; streams of other companies, or of none, go on.
func TestS15_StreamsOfACompanyEndWithTheMembership(t *testing.T) {
	address := streams(t)
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), site: "uri strip_prefix /files/acme\n\turi strip_prefix /files/birch\n\treverse_proxy " + address})
	m.moveInto(h)
	ann := h.in("ann@example.com")
	var ends, stays []*stream
	for kind := range kindsOfStream {
		_, s := ann.tries(kind, "/files/acme", "portal")
		ends = append(ends, s)
		for _, path := range []string{"/files/birch", ""} {
			_, s := ann.tries(kind, path, "portal")
			stays = append(stays, s)
		}
	}
	time.Sleep(2 * session.SweepInterval)
	goOn(t, "a member", append(ends, stays...))
	h.command("contacts", "set", "ann@example.com", "--companies", "birch")
	endBy(t, "not a member any more", ends, time.Now())
	goOn(t, "a member of another company", stays)
}
