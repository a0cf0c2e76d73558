package caddymodule_test

// Classes P, T and S at boundaries: between a contact's companies in one session of the portal,
// between the checked URL and other URLs in a request, and between two firms in one Caddy.

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// dashboards makes the portal work like most old PHP portals: each page begins a session if there
// is none, the one-click URL stores the company in it, and other pages show that company.
func (p *portal) dashboards(companies map[string]string) {
	var mu sync.Mutex
	sessions := map[string]string{}
	p.answer = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		last, _ := p.last()
		sid := ""
		if c, err := r.Cookie("PHPSESSID"); err == nil {
			sid = c.Value
		}
		if _, ok := sessions[sid]; !ok {
			sid = fmt.Sprintf("sid-%d", len(sessions))
			sessions[sid] = "nobody"
			w.Header().Add("Set-Cookie", "PHPSESSID="+sid+"; path=/; HttpOnly")
		}
		token := r.URL.Query().Get("client")
		if r.Method == http.MethodPost {
			all, _ := url.ParseQuery(last.Body) // newPortal has read it
			token = all.Get("client")
		}
		if rest, ok := strings.CutPrefix(r.URL.Path, "/one-click/"); ok {
			token, _, _ = strings.Cut(rest, "/")
		}
		if company, ok := companies[token]; ok {
			sessions[sid] = company
		}
		fmt.Fprintf(w, "data of %s, told %s", sessions[sid], r.Header.Get("Portal-Company"))
	}
}

var whoseTokens = map[string]string{"acme-secret-token-1": "acme", "acme-secret-token-2": "acme", "birch-secret-token": "birch"}

// A session that the portal began on a page without a company, and that has a company since: it
// ends when the contact leaves the company.
func TestS15_APortalSessionEndsWhenItsContactLeavesTheCompany(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	h.portal.dashboards(whoseTokens)
	for _, first := range []string{"/dashboard.php", "/assets/menu.php", "/portal/acme/", "/invoices.php?client=acme-secret-token-1"} {
		h.command("contacts", "set", "bob@example.com", "--companies", "acme")
		bob := h.in("bob@example.com")
		bob.open(first)
		bob.open("/portal/acme/")
		if a := bob.open("/dashboard.php"); !strings.HasPrefix(a.body, "data of acme, told ") || strings.HasSuffix(a.body, "acme") != strings.Contains(first, "acme") {
			t.Errorf("begun at %s, the dashboard: %q; want acme's, told so where the session began at its page", first, a.body)
		}
		h.command("contacts", "set", "bob@example.com", "--companies", "birch")
		if a := bob.open("/dashboard.php"); strings.Contains(a.body, "acme") {
			t.Errorf("begun at %s, the membership taken away: the portal says %q", first, a.body)
		}
	}
}

// The session can't be used for the contact's other company, nor by former staff, nor by a visitor
// who has used another open company's token.
func TestS15_APortalSessionIsNotUsedForAnotherCompany(t *testing.T) {
	h := openOldHouse(t, "acme")
	h.portal.dashboards(whoseTokens)
	h.command("contacts", "add", "carl@example.com", "--companies", "acme")
	ann, carl := h.in("ann@example.com"), h.in("carl@example.com")
	carl.open("/dashboard.php")
	carl.send("/login.php", form("client", "acme-secret-token-1"))
	if a := carl.open("/dashboard.php"); a.body != "data of acme, told " {
		t.Errorf("by a token in a form: %q; want what the portal made of it", a.body)
	}
	h.command("contacts", "set", "carl@example.com", "--companies", "birch")
	if a := carl.open("/dashboard.php"); strings.Contains(a.body, "acme") {
		t.Errorf("by a token in a form, the membership taken away: %q", a.body)
	}
	h.command("contacts", "set", "carl@example.com", "--companies", "acme")
	ann.open("/dashboard.php")
	ann.open("/portal/acme/")
	if a := ann.open("/files/birch/list.php"); strings.Contains(a.body, "data of acme") {
		t.Errorf("at the other company's pages: %q", a.body)
	}
	bob := h.in("bob@example.com")
	bob.open("/invoices.php?client=birch-secret-token")
	if a := bob.open("/dashboard.php"); strings.Contains(a.body, "birch") {
		t.Errorf("by a token of an open company that isn't theirs, as themselves: %q", a.body)
	}
	bob.open("/invoices.php?client=birch-secret-token")
	carl = h.in("carl@example.com")
	carl.open("/files/acme/list.php?client=birch-secret-token")
	nobody := h.browser()
	nobody.open("/assets/login.php?client=birch-secret-token")
	h.upgrade("birch")
	if a := bob.open("/dashboard.php"); strings.Contains(a.body, "birch") {
		t.Errorf("by a token of an open company, after its upgrade: %q", a.body)
	}
	if a := carl.open("/files/acme/list.php"); strings.Contains(a.body, "data of birch") {
		t.Errorf("by such a token at a page of their own company, after the upgrade: %q", a.body)
	}
	if a := nobody.open("/assets/menu.php"); strings.Contains(a.body, "birch") {
		t.Errorf("by such a token at an open page, after the upgrade: %q", a.body)
	}
	h.command("contacts", "set", "bob@example.com", "--role", "staff")
	bob.open("/dashboard.php")
	bob.open("/portal/birch/")
	h.command("contacts", "set", "bob@example.com", "--role", "client")
	if a := bob.open("/dashboard.php"); strings.Contains(a.body, "birch") {
		t.Errorf("staff no more: %q", a.body)
	}
}

// A portal's session can't be used for another company that gets the ID or the token.
func TestS15_APortalSessionIsNotUsedForACompanyThatGetsItsID(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	h.portal.dashboards(whoseTokens)
	t.Run("the token moves to another company", func(t *testing.T) {
		bob := h.in("bob@example.com")
		bob.open("/portal/acme/")
		h.command("companies", "set", "acme", "--legacy-tokens", "acme-secret-token-2")
		h.command("companies", "set", "birch", "--legacy-tokens", "birch-secret-token,acme-secret-token-1")
		if a := bob.open("/dashboard.php"); strings.Contains(a.body, "data of acme") {
			t.Errorf("the session by the token that is birch's now: %q", a.body)
		}
	})
	t.Run("another company has the id", func(t *testing.T) {
		bob := h.in("bob@example.com")
		bob.open("/portal/acme/")
		h.command("companies", "remove", "acme", "--yes")
		h.command("companies", "add", "acme", "--legacy-tokens", "acme-secret-token-2")
		h.command("contacts", "set", "bob@example.com", "--companies", "acme")
		if a := bob.open("/dashboard.php"); strings.Contains(a.body, "data of acme") {
			t.Errorf("the session of the company that was: %q", a.body)
		}
	})
}

// Another company's token within a visit to one company: the portal's session for it ends with the
// other company's upgrade.
func TestP17_AVisitsOtherTokenEndsWithItsUpgrade(t *testing.T) {
	h := openOldHouse(t)
	h.portal.dashboards(whoseTokens)
	b := h.browser()
	b.open("/one-click/acme-secret-token-1/x")
	b.open("/invoices.php?client=birch-secret-token")
	h.upgrade("birch")
	if a := b.open("/dashboard.php"); strings.Contains(a.body, "birch") {
		t.Errorf("in the visit to acme, after birch's upgrade: %q", a.body)
	}
}

// The access log, at its default level, contains no token of an open company, in whichever header a
// browser or library puts the page's URL.
func TestT10_NoLogHasATokenOfAnyHeader(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	p := newPortal(t)
	h := openHouse(t, layout{global: strings.NewReplacer("debug\n", "", "level DEBUG", "level INFO").Replace(log.global), app: m.app(), firm: oldLinks,
		companies: oldCompanies, admin: freeAddress(t), site: log.site + "\n\treverse_proxy " + strings.TrimPrefix(p.URL, "http://")})
	m.moveInto(h)
	page := h.url + "/one-click/acme-secret-token-1/x"
	for _, name := range []string{"Referer", "HX-Current-URL", "Ping-From", "Ping-To", "Destination", "X-PJAX-URL", "Turbolinks-Referrer", "Next-Url", "Content-Location", "If", "X-Up-Origin", "Link", "X-Referer", "Service-Worker-Navigation-Preload"} {
		value := page
		if name == "If" {
			value = "<" + page + "> ([\"e\"])"
		}
		h.raw(h.message("POST", "/track", name+": "+value, "Content-Length: 0"))
		h.raw(h.message("GET", "/assets/x", name+": "+value))
		if text := log.text(t); strings.Contains(text, "secret-token") {
			t.Errorf("%s: the log has the token", name)
			os.Truncate(log.path, 0)
		}
	}
}

// WebDAV has a second URL in a header (RFC 4918, 10.3 and 10.4).
func TestP07_TheDestinationHeaderIsChecked(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, method := range []string{"MOVE", "COPY"} {
		for _, to := range []string{"/files/birch/x", h.url + "/files/birch/x", h.url + "/files/BIRCH/x", "/files/%62irch/x", "/one-click/birch-secret-token/x", "/view?client=birch-secret-token", "../birch/x", h.url + "/files/acme/../birch/x"} {
			h.portal.unseen(t, method+" to "+to, func() {
				if a := h.raw(h.message(method, "/files/acme/x", bob.session(), "Destination: "+to)); a.status < 400 {
					t.Errorf("%s /files/acme/x to %s by who is of acme alone = %d", method, to, a.status)
				}
			})
		}
		if a := h.raw(h.message(method, "/files/acme/x", bob.session(), "Destination: "+h.url+"/files/acme/y")); a.status != 200 {
			t.Errorf("%s within acme = %d; want 200", method, a.status)
		}
	}
	visitor := h.browser() // of no company
	for _, to := range []string{"/files/birch/x", "/one-click/birch-secret-token/x"} {
		h.portal.unseen(t, "a public page to "+to, func() {
			visitor.do(visitor.request("MOVE", "/assets/x", nil, "Destination", to))
		})
	}
}

// Portals with one program for all pages read the page from the query.
func TestP07_ACompanysPathInTheQuery(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, target := range []string{"/index.php?/files/birch/x", "/index.php?q=/files/birch/x", "/index.php?q=files/birch/x", "/x?r=files%2Fbirch%2Fx", "/x?route=/FILES/birch/x", "/x?u=" + h.url + "/overview/birch?a=1", "/x?q=/files/nosuch/x", "/x?q=/files/b%C3%ADrch%20/x", "/files/acme/x?q=files/birch/x"} {
		h.portal.unseen(t, target, func() {
			if a := h.get(target, bob.session()); a.status < 400 {
				t.Errorf("%s for who is of acme alone = %d", target, a.status)
			}
		})
	}
	for _, target := range []string{"/index.php?/files/acme/x", "/x?q=/portal/acme/", "/x?q=files", "/assets/x?back=/files/birch/x"} {
		if a := h.get(target, bob.session()); a.status != 200 {
			t.Errorf("%s for who is of acme = %d; want 200", target, a.status)
		}
	}
	h.upgrade("birch", "--undo")
	visitor := h.browser()
	for target, want := range map[string]int{"/one-click/birch-secret-token/?q=/files/birch/x": 200, "/x?q=/files/birch/y": 200, "/x?q=/files/acme/x": 401} {
		if target != "/one-click/birch-secret-token/?q=/files/birch/x" {
			visitor.open("/one-click/birch-secret-token/")
		}
		if a := visitor.open(target); a.StatusCode != want {
			t.Errorf("%s in a visit to birch = %d; want %d", target, a.StatusCode, want)
		}
	}
}

// A page open to everyone redirects to new links, too, and visitors of other companies to the
// prompt.
func TestP17_AnOpenPageLeadsToNewLinks(t *testing.T) {
	h := openOldHouse(t, "acme")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/one-click/acme-secret-token-1/x", http.StatusSeeOther)
	}
	if a := h.get("/assets/login.php", h.in("bob@example.com").session()); a.header.Get("Location") != "/portal/acme/x" {
		t.Errorf("an open page leads a member to %s; want the new link", a.header.Get("Location"))
	}
	if a := h.get("/assets/login.php", "A: b"); !goneForm.MatchString(a.header.Get("Location")) {
		t.Errorf("an open page leads to %s; want to the prompt", a.header.Get("Location"))
	}
}

// A portal with a weaker policy for its pages doesn't reveal the token to other sites.
func TestP17_AVisitsPagesSendNoReferrerToOtherSites(t *testing.T) {
	h := openOldHouse(t)
	for _, policy := range []string{"unsafe-url", "no-referrer-when-downgrade", "no-referrer", ""} {
		h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
			if policy != "" {
				w.Header().Set("Referrer-Policy", policy)
			}
		}
		a := h.browser().open("/one-click/acme-secret-token-1/x")
		last := a.Header["Referrer-Policy"][len(a.Header["Referrer-Policy"])-1]
		if last == "unsafe-url" || last == "no-referrer-when-downgrade" {
			t.Errorf("the portal's policy %s holds: %q", policy, a.Header["Referrer-Policy"])
		}
	}
}

// A request allowed because of its method is still checked by that method later.
func TestP14_TheMethodIsCheckedThroughout(t *testing.T) {
	h := openHouse(t, layout{firm: "public POST /webhooks/*"})
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X_HTTP_METHOD_OVERRIDE"} {
		before := h.portal.count()
		a := h.raw(h.message("POST", "/webhooks/x", name+": GET", "Content-Length: 0"))
		if got, n := h.portal.last(); n > before && got.Header.Get(name) != "" {
			t.Errorf("%s: GET by nobody = %d, and the portal gets it", name, a.status)
		}
	}
}

// A request that isn't a WebSocket can't become a tunnel.
func TestH16_OnlyWebSocketsSwitch(t *testing.T) {
	h := openOldHouse(t)
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", r.Header.Get("Upgrade"))
		w.WriteHeader(http.StatusSwitchingProtocols)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	bob := h.in("bob@example.com")
	for _, to := range []string{"TLS/1.2", "HTTP/2.0", "h2", "HTTP/1.1", "websocket2", "foo"} {
		a := h.raw("GET /x HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: Upgrade\r\nUpgrade: " + to + "\r\n" + bob.session() + "\r\n\r\n")
		if got, _ := h.portal.last(); a.status == 101 {
			t.Errorf("Upgrade: %s = %d, and the portal gets %q", to, a.status, got.Header["Upgrade"])
		}
	}
}

// A directive that removes a token from the query before the check leaves it in the original URI
// that PHP gets. A firm without old links may rewrite queries freely.
func TestP08_AChangedQueryIsCheckedAsItWas(t *testing.T) {
	for firm, want := range map[string]int{oldLinks: 500, "": 200} {
		companies := oldCompanies
		if firm == "" {
			companies = "id\nacme\nbirch\n"
		}
		h, _ := openFastHouse(t, layout{global: "order uri before doorpost", firm: firm, companies: companies, site: "uri query -client\n\trespond seen"})
		bob := h.in("bob@example.com")
		if a := h.get("/x?client=birch-secret-token", bob.session()); a.status != want {
			t.Errorf("with %.11q, a query that was changed = %d; want %d", firm, a.status, want)
		}
		if a := h.get("/x?a=1", bob.session()); a.status != 200 || a.body != "seen" {
			t.Errorf("with %.11q, a query as it came = %d %q; want 200", firm, a.status, a.body)
		}
	}
}

// Two firms with different patterns in one Caddy: tokens, visits and portal sessions of one are
// worthless at the other, even if they have the same format.
func TestTwoFirmsWithOldLinks(t *testing.T) {
	dir, m, second, other := t.TempDir(), startMailServer(t), newPortal(t), "http://"+freeAddress(t)
	for name, text := range map[string]string{"b.csv": "email,companies\nbob@example.com,acme\n", "bc.csv": "id,name,legacy_tokens\nacme,Acme of B,b-acme-secret-token\nbirch,Birch of B,b-birch-secret-token\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies, more: fmt.Sprintf(
		"%s {\n doorpost other {\n url %s\n contacts %s\n companies %s\n brand {\n name Other\n from other@example.org\n }\n legacy_link /view/{token} /overview/{company}\n legacy_link /one-click/{token}/* /p/{company}/*\n company_path /portal/{company}/*\n }\n reverse_proxy %s\n}\n",
		other, other, filepath.Join(dir, "b.csv"), filepath.Join(dir, "bc.csv"), strings.TrimPrefix(second.URL, "http://"))})
	m.moveInto(h)
	second.dashboards(map[string]string{"b-acme-secret-token": "acme", "b-birch-secret-token": "birch", "acme-secret-token-1": "LEAK"})
	h.portal.dashboards(whoseTokens)
	h.command("upgrade", "acme", "--firm", "other")
	b := h.browser()
	if a := b.open("/one-click/acme-secret-token-1/x"); a.StatusCode != 200 {
		t.Fatalf("open at its own firm = %d", a.StatusCode)
	}
	cookies := "Cookie: portal-visit=" + b.cookie("portal-visit") + "; PHPSESSID=" + b.cookie("PHPSESSID")
	bob := h.in("bob@example.com")
	host := strings.TrimPrefix(other, "http://")
	ask := func(target string, lines ...string) rawAnswer {
		return h.rawTo(host, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\nAccept: text/html\r\n"+strings.Join(append(lines, "\r\n"), "\r\n"))
	}
	for _, target := range []string{"/one-click/acme-secret-token-1/x", "/view/acme-secret-token-1", "/dashboard.php", "/portal/acme/", "/p/acme/", "/one-click/b-acme-secret-token/"} {
		for _, line := range []string{cookies, bob.session(), cookies + "; " + strings.TrimPrefix(bob.session(), "Cookie: ")} {
			before := second.count()
			a := ask(target, line)
			if second.count() > before || a.status == 200 {
				t.Errorf("%s at the other firm with %.20s… = %d, and its portal saw it", target, line, a.status)
			}
			if to := a.header.Get("Location"); to != "" && !goneForm.MatchString(to) {
				t.Errorf("%s at the other firm leads to %s", target, to)
			}
		}
	}
	// A sealed return path of one firm is invalid at the other.
	gone := ask("/one-click/b-acme-secret-token/").header.Get("Location")
	if a := h.get(gone, "A: b"); a.status != 404 && a.status != 400 {
		t.Errorf("%.30s… of the other firm = %d; want nothing", gone, a.status)
	}
	// A session is sealed for its firm.
	open := ask("/one-click/b-birch-secret-token/x", "Cookie: PHPSESSID="+b.cookie("PHPSESSID"))
	if got, _ := second.last(); open.status != 200 || len(got.Header["Cookie"]) > 0 {
		t.Errorf("another firm's PHPSESSID comes to the portal: %d %q", open.status, got.Header["Cookie"])
	}
}

// A portal session from an open company's old link survives a reload, but not the company's upgrade
// after it; nor does the visit.
func TestP17_AReloadAndThenTheUpgrade(t *testing.T) {
	h := openVisitedHouse(t)
	b := h.browser()
	b.open("/one-click/acme-secret-token-1/")
	over := b.endless("/events")
	h.change("public /assets/*", "public /assets/* /robots.txt")
	if a := b.open("/dashboard.php"); a.StatusCode != 200 || ended(over, 0) {
		t.Errorf("after a reload the visit's page = %d, its stream ended: %t; want both to go on", a.StatusCode, ended(over, 0))
	}
	h.upgrade("acme")
	if a := b.open("/dashboard.php"); a.StatusCode != 401 {
		t.Errorf("after the upgrade the visit's page = %d; want 401", a.StatusCode)
	}
	if !ended(over, 30*time.Second) {
		t.Error("a stream from before the reload goes on after the upgrade")
	}
}
