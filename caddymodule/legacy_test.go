package caddymodule_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// oldPortal configures a firm with old links: acme's and birch's are in many mailboxes;
// cedar has none.
const (
	oldLinks = `legacy_link /one-click/{token}/* /portal/{company}/*
		legacy_link /view?client={token} /overview/{company}
		company_path /files/{company}/*
		home /portal/{company}/
		public /assets/*`
	oldCompanies = `id,name,legacy_tokens
acme,Acme Ltd,acme-secret-token-1; acme-secret-token-2
birch,Birch & Sons,birch-secret-token
cedar,Cedar Inc,
`
)

// openOldHouse opens a house with old links; those of upgraded companies require sign-in.
func openOldHouse(t *testing.T, upgraded ...string) *house {
	t.Helper()
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	if len(upgraded) > 0 {
		h.upgrade(upgraded...)
	}
	return h
}

// upgrade runs caddy doorpost upgrade COMPANY… once the contacts are loaded, which may take
// until after the first requests.
func (h *house) upgrade(companies ...string) {
	h.t.Helper()
	args := append([]string{"doorpost", "upgrade"}, companies...)
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		out, err := h.caddy(args...).CombinedOutput()
		if err == nil {
			return
		}
		if time.Since(began) > 30*time.Second || !strings.Contains(string(out), "has no contact") {
			h.t.Fatalf("caddy %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// command runs caddy doorpost with the arguments, and fails the test if the command fails.
func (h *house) command(args ...string) {
	h.t.Helper()
	if out, err := h.caddy(append([]string{"doorpost"}, args...)...).CombinedOutput(); err != nil {
		h.t.Fatalf("caddy doorpost %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// claimsOf returns the claims of an assertion without verifying it.
func claimsOf(t *testing.T, jwt string) (claims map[string]any) {
	t.Helper()
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("the assertion is %q", jwt)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(raw, &claims)
	}
	if err != nil {
		t.Fatal(err)
	}
	return claims
}

// goes returns where an answer redirects, on this site.
func goes(a answer) string { return a.Header.Get("Location") }

var goneForm = regexp.MustCompile(`^/-/go\?x=[A-Za-z0-9_-]+$`)

// Until the upgrade, the old link works as before, and begins a visit.
func TestAnOpenOldLinkBeginsAVisit(t *testing.T) {
	h := openOldHouse(t)
	b := h.browser()
	a := b.open("/one-click/acme-secret-token-1/start?x=1", "Remote-User", "evil@example.com")
	got, _ := h.portal.last()
	if a.StatusCode != 200 || got.URI != "/one-click/acme-secret-token-1/start?x=1" {
		t.Fatalf("an old link = %d, and the portal got %s; want it as it was sent", a.StatusCode, got.URI)
	}
	if len(got.Header["Remote-User"])+len(got.Header["Portal-Assertion"])+len(got.Header["Portal-Company"]) > 0 {
		t.Errorf("the portal is told of a person: %v", got.Header)
	}
	visit := ""
	for _, c := range a.Cookies() {
		if c.Name == "portal-visit" {
			visit = c.Value
			if c.MaxAge != 0 || !c.Expires.IsZero() || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" {
				t.Errorf("the visit's cookie is %v; want one that ends with the browser", c)
			}
		}
	}
	if visit == "" || strings.Contains(visit, "acme") {
		t.Fatalf("the cookies are %v; want a visit that says nothing", a.Cookies())
	}
	for path, want := range map[string]int{
		"/dashboard.php":                   200, // other paths of the portal
		"/portal/acme/":                    200, // its own, old or new
		"/files/acme/a.pdf":                200,
		"/portal/birch/":                   401, // not another company's
		"/files/birch/a.pdf":               401,
		"/files/cedar/a.pdf":               401,
		"/overview/birch":                  401,
		"/view?client=acme-secret-token-2": 200,
	} {
		if a := b.open(path); a.StatusCode != want {
			t.Errorf("with a visit of acme, %s = %d; want %d", path, a.StatusCode, want)
		}
	}
	if got, _ := h.portal.last(); strings.Contains(strings.Join(got.Header["Cookie"], ""), "visit") {
		t.Errorf("the portal gets the visit: %v", got.Header["Cookie"])
	}
	if a := h.browser().open("/dashboard.php"); a.StatusCode != 401 {
		t.Errorf("without a visit /dashboard.php = %d; want 401", a.StatusCode)
	}
	// A form, picture or script of the page begins no visit.
	other := h.browser()
	if a := other.open("/one-click/acme-secret-token-1/logo.png", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Accept", "image/*"); a.StatusCode != 200 || len(a.Cookies()) > 0 {
		t.Errorf("a picture by an old link = %d with cookies %v; want it, and none", a.StatusCode, a.Cookies())
	}
	h.upgrade("acme")
	for _, path := range []string{"/dashboard.php", "/portal/acme/", "/files/acme/a.pdf"} {
		if a := b.open(path); a.StatusCode != 401 {
			t.Errorf("after the upgrade, with the visit from before, %s = %d; want 401", path, a.StatusCode)
		}
	}
}

// The whole way after the upgrade: an old link, a sign-in, and the link's page.
func TestAnUpgradedOldLinkRequiresSignIn(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	b := h.browser()
	a := b.open("/one-click/acme-secret-token-1/orders/7?tab=2&x=%C3%A9")
	if a.StatusCode != 302 || !goneForm.MatchString(goes(a)) || len(a.Cookies()) > 0 {
		t.Fatalf("an upgraded link = %d to %q with cookies %v; want 302 to /-/go", a.StatusCode, goes(a), a.Cookies())
	}
	gone := goes(a)
	a = b.open(gone)
	if a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) || strings.Contains(a.body, "secret-token") || strings.Contains(a.body, "acme") {
		t.Fatalf("%s = %d; want the prompt, which says nothing of the link\n%s", gone, a.StatusCode, a.body)
	}
	l := b.ask("ann@example.com", gone)
	if strings.Contains(l.text+l.html, "secret-token") {
		t.Error("the mail has the token")
	}
	a = b.open(l.link)
	if a.StatusCode != 303 || goes(a) != gone {
		t.Fatalf("the mailed link = %d to %q; want it to lead to %s", a.StatusCode, goes(a), gone)
	}
	a = b.open(gone)
	if a.StatusCode != 302 || goes(a) != "/portal/acme/orders/7?tab=2&x=%C3%A9" {
		t.Fatalf("after proof it leads to %q (%d); want the new link", goes(a), a.StatusCode)
	}
	a = b.open(goes(a))
	got, _ := h.portal.last()
	if a.StatusCode != 200 || got.URI != "/one-click/acme-secret-token-1/orders/7?tab=2&x=%C3%A9" {
		t.Fatalf("the new link = %d, and the portal got %s; want its old link, with the first token", a.StatusCode, got.URI)
	}
	for name, want := range map[string]string{"Remote-User": "ann@example.com", "Portal-Company": "acme", "Remote-Groups": "acme,birch", "Portal-Role": "client"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s: %q; want %q", name, got.Header.Get(name), want)
		}
	}
	claims := claimsOf(t, got.Header.Get("Portal-Assertion"))
	if claims["company"] != "acme" {
		t.Errorf("the assertion's company is %v; want acme", claims["company"])
	}
	// For signed-in visitors, all old links of their company redirect at once.
	for _, old := range []string{"/one-click/acme-secret-token-2/orders/7", "/one-click/acme-secret-token-1/orders/7"} {
		if a := b.open(old); a.StatusCode != 302 || goes(a) != "/portal/acme/orders/7" {
			t.Errorf("%s = %d to %q; want 302 to the new link", old, a.StatusCode, goes(a))
		}
	}
	if a := b.open("/view?client=acme-secret-token-2&y=1"); goes(a) != "/overview/acme?y=1" {
		t.Errorf("the other pattern leads to %q", goes(a))
	}
	// Requests of the portal's own pages to old URLs work.
	if a := b.send("/one-click/acme-secret-token-1/save", form("note", "x")); a.StatusCode != 200 || h.portal.lastPost().URI != "/one-click/acme-secret-token-1/save" {
		t.Errorf("a form sent to an old URL = %d, and the portal got %s", a.StatusCode, h.portal.lastPost().URI)
	}
	if a := b.open("/one-click/acme-secret-token-1/data.json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*"); a.StatusCode != 200 {
		t.Errorf("a script's request to an old URL = %d; want 200", a.StatusCode)
	}
}

// A link reveals neither its company nor whether it is real.
func TestOldLinksRevealNothing(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	links := []string{"/one-click/acme-secret-token-1/", "/one-click/xxxx-secret-token-1/", "/one-click/birch-secret-tokenx/", "/one-click/0000000000000000000/"}
	var first answer
	for i, link := range links {
		a := h.browser().open(link)
		at := goes(a)
		a.Header.Del("Date")
		a.Header.Set("Location", fmt.Sprint(len(at)))
		if i == 0 {
			first = a
			continue
		}
		if a.StatusCode != first.StatusCode || a.body != first.body || fmt.Sprint(a.Header) != fmt.Sprint(first.Header) {
			t.Errorf("%s is answered %d %v; want as the first %d %v", link, a.StatusCode, a.Header, first.StatusCode, first.Header)
		}
		p, q := h.browser().open(at), h.browser().open(goes(h.browser().open(links[0])))
		hide := regexp.MustCompile(`x=[A-Za-z0-9_-]+`)
		if p.StatusCode != q.StatusCode || hide.ReplaceAllString(p.body, "") != hide.ReplaceAllString(q.body, "") {
			t.Errorf("the page behind %s differs", link)
		}
	}
	// For another contact, unknown, mistyped and other companies' links show the same page.
	b := h.browser()
	b.signIn("nameless@example.com")
	same := ""
	for _, path := range append(links, "/portal/acme/", "/portal/nobody/", "/files/acme/a.pdf", "/files/nobody/x", goes(h.browser().open(links[0])), goes(h.browser().open(links[1]))) {
		a := b.open(path)
		if a.StatusCode != 404 || strings.Contains(a.body, "acme") || strings.Contains(a.body, "Acme") {
			t.Errorf("%s for somebody else = %d; want 404 and no name", path, a.StatusCode)
		}
		if same == "" {
			same = a.body
		} else if a.body != same {
			t.Errorf("%s shows another page than the first\n%s", path, a.body)
		}
	}
	for _, x := range []string{"", "abc", strings.Repeat("A", 400)} {
		if a := h.browser().open("/-/go?x=" + x); a.StatusCode != 404 {
			t.Errorf("/-/go with %q = %d; want 404", x, a.StatusCode)
		}
	}
	// `to` accepts sealed targets, and no other path to our pages.
	for email, to := range map[string]string{"bob@example.com": "/-/go?x=abc", "ann@example.com": "/-/go", "owner@example.com": "/-/go?x=" + strings.Repeat("A", 300)} {
		c := h.browser()
		l := c.ask(email, to)
		if a := c.open(l.link); goes(a) != "/" {
			t.Errorf("to=%s leads to %q; want /", to, goes(a))
		}
	}
}

// Each request checks membership, and no spelling circumvents a pattern.
func TestOtherCompaniesAreInaccessible(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com") // of acme only
	for path, want := range map[string]int{
		"/portal/acme/": 200, "/portal/ACME/": 200, "/files/acme/x": 200, "/other": 200, "/assets/x.css": 200,
		"/portal/birch/": 404, "/Portal/Birch/": 404, "/files/birch/x": 404, "/overview/birch": 404,
		"/portal/birch%2fx": 400, "/portal/./birch/": 400, "/portal//birch/": 400, "/x/../portal/birch/": 400, "/portal/birch;x/": 400, `/portal/birch%5cx`: 400,
		"/portal/birch./": 400, "/portal/%62irch/": 404, "/files/birch%00/": 400,
	} {
		before := h.portal.count()
		a := h.get(path, bob.session())
		if a.status != want {
			t.Errorf("%s for a member of acme = %d; want %d", path, a.status, want)
		}
		if seen := h.portal.count() > before; seen != (want == 200) {
			t.Errorf("%s: the portal saw it: %v", path, seen)
		}
	}
	owner := h.in("owner@example.com")
	for _, path := range []string{"/portal/acme/", "/portal/birch/", "/files/cedar/x", "/"} {
		if a := owner.open(path); a.StatusCode != 200 {
			t.Errorf("%s for staff = %d; want 200", path, a.StatusCode)
		}
	}
	h.command("contacts", "set", "bob@example.com", "--companies", "birch")
	if a := bob.open("/portal/acme/"); a.StatusCode != 404 {
		t.Errorf("after the membership was taken away: %d; want 404", a.StatusCode)
	}
	if a := bob.open("/portal/birch/"); a.StatusCode != 200 {
		t.Errorf("after a membership was given: %d; want 200", a.StatusCode)
	}
}

// A portal that reads parameters from any place never gets another company's token, in no
// form and no cookie; other parameters pass unchanged.
func TestTokensInFormsAndCookies(t *testing.T) {
	h := openOldHouse(t, "birch")
	visitor := h.browser()
	visitor.open("/one-click/acme-secret-token-1/")
	const its, parts = "birch-secret-token", "multipart/form-data; boundary=b"
	part := func(value string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"client\"\r\n\r\n" + value + "\r\n--b--\r\n"
	}
	for name, c := range map[string]struct {
		b    *browser
		path string
		may  bool // may use Birch's token
	}{
		"a member of acme":                {h.in("bob@example.com"), "/other", false},
		"a member of acme, at its page":   {h.in("bob@example.com"), "/overview/acme", false},
		"a member of acme, in a visit":    {visitor, "/view?client=acme-secret-token-1", false},
		"nobody, at what is open for all": {h.browser(), "/assets/x", false},
		"a member of both":                {h.in("ann@example.com"), "/other", true},
		"staff":                           {h.in("owner@example.com"), "/other", true},
	} {
		for contentType, in := range map[string]string{"application/x-www-form-urlencoded": "a=1&client=" + its + "&b=2", parts: part(its), "application/json": `{"client":"7"}`} {
			a := c.b.do(c.b.request("POST", c.path, strings.NewReader(in), "Content-Type", contentType, "Origin", h.url, "Sec-Fetch-Site", "same-origin"))
			got := h.portal.lastPost()
			if has := strings.Contains(got.Body, its); a.StatusCode != 200 || has != (c.may && strings.Contains(in, its)) || len(got.Body) != len(in) {
				t.Errorf("%s sends %q: %d, and the portal gets %q", name, in, a.StatusCode, got.Body)
			}
			if start, _, found := strings.Cut(in, its); found && (!strings.HasPrefix(got.Body, start) || !strings.HasSuffix(got.Body, in[len(start)+len(its):])) || !found && got.Body != in {
				t.Errorf("%s sends %q, and the portal gets %q", name, in, got.Body)
			}
		}
		a := c.b.open(c.path, "Cookie", "client="+its+"; theme=dark")
		got, _ := h.portal.last()
		if cookies := strings.Join(got.Header["Cookie"], ";"); a.StatusCode != 200 || strings.Contains(cookies, its) != c.may || !strings.Contains(cookies, "theme=dark") {
			t.Errorf("%s comes with a cookie: %d, and the portal gets %q", name, a.StatusCode, cookies)
		}
	}
	bob := h.in("bob@example.com")
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"without a type":       {[]string{"Content-Type", ""}, 200},
		"packed":               {[]string{"Content-Type", "application/x-www-form-urlencoded", "Content-Encoding", "gzip"}, 400},
		"in other characters":  {[]string{"Content-Type", "application/x-www-form-urlencoded; charset=ibm037"}, 400},
		"in those of browsers": {[]string{"Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"}, 200},
	} {
		n := h.portal.count()
		a := bob.do(bob.request("POST", "/other", strings.NewReader("client="+its), append(c.headers, "Origin", h.url, "Sec-Fetch-Site", "same-origin")...))
		if got, now := h.portal.last(); a.StatusCode != c.status || (now > n) != (c.status == 200) || now > n && strings.Contains(got.Body, its) {
			t.Errorf("a form %s = %d, and the portal gets %q; want %d", name, a.StatusCode, got.Body, c.status)
		}
	}
	if a := bob.do(bob.request("POST", "/other", strings.NewReader("packed"), "Content-Type", "application/json", "Content-Encoding", "gzip", "Origin", h.url)); a.StatusCode != 400 || h.portal.lastPost().Body == "packed" {
		t.Errorf("what is no form, packed = %d; want 400, since some portals unpack it", a.StatusCode)
	}
	before := h.portal.count()
	a := bob.send("/other", url.Values{"client": {strings.Repeat(" ", 300_000) + its}})
	if a.StatusCode != 400 || h.portal.count() > before && strings.Contains(h.portal.lastPost().Body, its) {
		t.Errorf("what is too long to judge = %d, and the portal gets %.100q", a.StatusCode, h.portal.lastPost().Body)
	}
	odd := strings.Repeat("\u00e9=1&", 80_000) // expensive to check
	nobody := h.browser()
	if a := nobody.do(nobody.request("POST", "/assets/x", strings.NewReader(odd), "Content-Type", "application/x-www-form-urlencoded")); a.StatusCode != 400 {
		t.Errorf("80,000 odd names = %d; want 400", a.StatusCode)
	}
}

// The portal's answers redirect to new links.
func TestThePortalsAnswersLeadToNewLinks(t *testing.T) {
	h := openOldHouse(t, "acme")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.Host+"/one-click/acme-secret-token-1/next?y=1")
		w.Header().Set("Content-Location", "/one-click/acme-secret-token-1/here")
		w.Header().Set("Refresh", "5; url=/one-click/acme-secret-token-1/soon")
		w.Header().Add("Set-Cookie", "a=1; Path=/one-click/acme-secret-token-1/; Secure")
		w.WriteHeader(302)
		fmt.Fprint(w, "<a href=/one-click/acme-secret-token-1/body>")
	}
	b := h.in("ann@example.com")
	a := b.open("/portal/acme/start")
	for name, want := range map[string]string{
		"Location": h.url + "/portal/acme/next?y=1", "Content-Location": "/portal/acme/here", "Refresh": "5; url=/portal/acme/soon",
		"Set-Cookie": "a=1; Path=/portal/acme/; Secure",
	} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
	}
	if !strings.Contains(a.body, "/one-click/acme-secret-token-1/body") {
		t.Error("the body was rewritten")
	}
}

// Dana signs out, Bob signs in on the same machine, and doesn't see her dashboard.
func TestThePortalsSessionIsBound(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		c, err := r.Cookie("PHPSESSID")
		if err != nil {
			w.Header().Add("Set-Cookie", "PHPSESSID=sid-of-"+r.Header.Get("Remote-User")+"-"+r.Header.Get("Portal-Company")+"; path=/; HttpOnly")
			w.Header().Add("Set-Cookie", "theme=dark; path=/")
			fmt.Fprint(w, "no session")
			return
		}
		fmt.Fprint(w, c.Value, " company=", r.Header.Get("Portal-Company"))
	}
	b := h.browser()
	b.signIn("ann@example.com")
	says := func(path, want string) {
		t.Helper()
		if a := b.open(path); a.body != want {
			t.Errorf("%s: the portal says %q; want %q", path, a.body, want)
		}
	}
	says("/portal/acme/", "no session")
	says("/portal/acme/", "sid-of-ann@example.com-acme company=acme")
	says("/dashboard.php", "sid-of-ann@example.com-acme company=acme") // the bound cookie contains the company
	if c := b.cookie("PHPSESSID"); strings.HasPrefix(c, "sid-of") {
		t.Errorf("the browser's cookie is %q; want it bound", c)
	}
	if c := b.cookie("theme"); c != "dark" {
		t.Errorf("the cookie for scripts is %q; want it left alone", c)
	}
	says("/portal/birch/", "no session") // the other company's
	says("/portal/birch/", "sid-of-ann@example.com-birch company=birch")
	says("/dashboard.php", "sid-of-ann@example.com-birch company=birch")
	if a := b.open("/one-click/acme-secret-token-2/"); a.StatusCode != 302 || goes(a) != "/portal/acme/" {
		t.Errorf("with the session of one company, the other's old link = %d to %q", a.StatusCode, goes(a))
	}
	says("/portal/acme/", "no session")
	b.send("/-/sign-out", url.Values{})
	b.signIn("bob@example.com")
	says("/dashboard.php", "no session")
	says("/dashboard.php", "sid-of-bob@example.com- company=")
	h.command("contacts", "set", "bob@example.com", "--companies", "")
}

// A firm's start page redirects to the only company, or to the list of companies.
func TestHomeAndCompanies(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob, ann, nobody, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("nameless@example.com"), h.in("owner@example.com")
	if a := bob.open("/"); a.StatusCode != 303 || goes(a) != "/portal/acme/" {
		t.Errorf("/ for a contact of one company = %d to %q", a.StatusCode, goes(a))
	}
	if a := ann.open("/"); a.StatusCode != 303 || goes(a) != "/-/companies" {
		t.Errorf("/ for a contact of two = %d to %q", a.StatusCode, goes(a))
	}
	if a := ann.open("/-/companies"); a.StatusCode != 200 || !strings.Contains(a.body, `href="/portal/birch/"`) || !strings.Contains(a.body, "Acme Ltd") || strings.Contains(a.body, "Cedar") || strings.Contains(a.body, "token") {
		t.Errorf("the list = %d\n%s", a.StatusCode, a.body)
	}
	if a := nobody.open(goes(nobody.open("/"))); a.StatusCode != 200 || !strings.Contains(a.body, "help@example.com") || !strings.Contains(a.body, "no company") {
		t.Errorf("the list of who has no company = %d\n%s", a.StatusCode, a.body)
	}
	if a := owner.open("/"); a.StatusCode != 200 {
		t.Errorf("/ for staff = %d; want the portal", a.StatusCode)
	}
	if a := owner.open("/-/companies?q=ced"); !strings.Contains(a.body, "Cedar") || strings.Contains(a.body, "Acme") || !strings.Contains(a.body, `type="search"`) {
		t.Errorf("staff's search\n%s", a.body)
	}
	if a := h.browser().open("/-/companies"); a.StatusCode != 401 {
		t.Errorf("the list signed out = %d; want 401", a.StatusCode)
	}
}

// No log at any level contains a company's token, also while the portal is down.
func TestNoLogHasACompanysToken(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), site: log.site + "\n\treverse_proxy 127.0.0.1:1"})
	m.moveInto(h)
	b := h.browser()
	if a := b.open("/one-click/acme-secret-token-1/x"); a.StatusCode != 502 {
		t.Errorf("with the portal down an open link = %d; want 502", a.StatusCode)
	}
	b.open("/asset.js", "Referer", h.url+"/one-click/acme-secret-token-1/x", "Sec-Fetch-Dest", "script", "Sec-Fetch-Mode", "no-cors")
	h.upgrade("acme")
	b.open("/one-click/acme-secret-token-1/x")
	b.open("/view?client=acme-secret-token-2")
	b.open("/x?client=acme-secret-token-2")
	b.open("/one-click/acme-secret-token-1%2fx")
	b.signIn("ann@example.com")
	b.open("/portal/acme/x")
	b.send("/one-click/acme-secret-token-1/x", form("a", "b"))
	if text := log.text(t); strings.Contains(text, "secret-token") {
		for line := range strings.Lines(text) {
			if strings.Contains(line, "secret-token") {
				t.Errorf("a log line has the token: %s", line)
			}
		}
	}
}

// Staff have access to every company, and the history records it, once for each session and
// company.
func TestStaffAreAudited(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	owner, ann := h.in("owner@example.com"), h.in("ann@example.com")
	for range 3 {
		owner.open("/portal/acme/")
		owner.open("/files/birch/x")
		ann.open("/portal/acme/")
	}
	entered := func() string {
		var companies []string
		for _, e := range h.history() {
			if e.Kind == "entered" {
				companies = append(companies, e.Company)
			}
		}
		return fmt.Sprint(companies)
	}
	h.eventually("two events", func() bool { return entered() == "[acme birch]" })
	for _, phone := range []string{"+15550100", "+15550101"} { // any change of the contacts
		h.command("contacts", "set", "ann@example.com", "--phone", phone)
		owner.open("/portal/acme/")
		owner.open("/files/birch/x")
	}
	h.start() // a reload
	h.settled()
	owner.open("/portal/acme/")
	if got := entered(); got != "[acme birch]" {
		t.Errorf("entered, after changes and a reload = %s; want [acme birch], as before", got)
	}
	h.in("owner@example.com").open("/portal/acme/")
	h.eventually("another event for another session", func() bool { return entered() == "[acme birch acme]" })
	h.command("upgrade", "acme", "--undo")
	h.eventually("the words", func() bool {
		out, err := h.caddy("doorpost", "audit").CombinedOutput()
		return err == nil && strings.Contains(string(out), "looked at the pages of acme as staff") &&
			strings.Contains(string(out), "an operator upgraded 2 companies") && strings.Contains(string(out), "an operator undid the upgrade of acme")
	})
}

// With a pattern for every page of one segment, public pages stay public; a page that
// redirects to `/` doesn't cause a redirect loop; and a further site of the firm works like
// the first.
func TestWideFormsAndFurtherSites(t *testing.T) {
	m, p, further := startMailServer(t), newPortal(t), "http://"+freeAddress(t)
	proxy := "reverse_proxy " + strings.TrimPrefix(p.URL, "http://")
	h := openHouse(t, layout{app: m.app(), companies: oldCompanies, admin: freeAddress(t), site: proxy, more: further + " {\n\tdoorpost example\n\t" + proxy + "\n}",
		firm: "legacy_link /{token} /portal/{company}\n\t\tcompany_path /files/{company}/*\n\t\thome /portal/{company}\n\t\tpublic /about /favicon.ico /files/help/* /portal/help"})
	m.moveInto(h)
	h.upgrade("acme")
	bob, nobody := h.in("bob@example.com"), h.browser()
	for path, want := range map[string]int{"/about": 200, "/favicon.ico": 200, "/files/help/x": 200, "/portal/help": 200,
		"/About": 302, "/contact": 302, "/files/helpx/x": 401, "/portal/helpx": 401, "/acme-secret-token-1": 302, "/birch-secret-token": 200} {
		if a := h.browser().open(path); a.StatusCode != want {
			t.Errorf("%s, signed out = %d; want %d", path, a.StatusCode, want)
		}
		if want == 200 && path != "/birch-secret-token" {
			if a := bob.open(path); a.StatusCode != 200 || a.body != "portal: GET "+path+" for bob@example.com" {
				t.Errorf("%s, signed in = %d %q", path, a.StatusCode, a.body)
			}
		}
	}
	// A company with that name, or such a token, takes precedence.
	h.command("companies", "set", "cedar", "--legacy-tokens", "about")
	h.command("companies", "add", "help", "--legacy-tokens", "help-secret")
	for path, want := range map[string]int{"/about": 302, "/files/help/x": 401, "/portal/help": 401} {
		if a := nobody.open(path); a.StatusCode != want {
			t.Errorf("%s, of a company = %d; want %d", path, a.StatusCode, want)
		}
		if a := bob.open(path); a.StatusCode != 404 {
			t.Errorf("%s, of another company = %d; want 404", path, a.StatusCode)
		}
	}

	p.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.Redirect(w, r, "http://"+r.Host+"/", http.StatusFound)
			return
		}
		fmt.Fprint(w, "the portal's own beginning")
	}
	at := "/"
	for range 4 {
		a := bob.open(at)
		if at = goes(a); at == "" {
			if a.body != "the portal's own beginning" {
				t.Errorf("/ leads to %d %q; want the portal's own", a.StatusCode, a.body)
			}
			break
		}
	}
	if at != "" {
		t.Errorf("/ leads in a circle, to %s", at)
	}
	if a := bob.open("/"); goes(a) != "/portal/acme" {
		t.Errorf("after that / leads to %q; want home", goes(a))
	}
	if a := bob.open("/orders"); a.StatusCode != 404 { // no token
		t.Errorf("another page = %d; want 404", a.StatusCode)
	}
	if a := bob.open("/files/acme/x"); goes(a) != h.url+"/" {
		t.Errorf("another page of theirs leads to %q; want where the portal sends them", goes(a))
	}

	p.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Location", "/acme-secret-token-2?y")
		http.Redirect(w, r, "http://"+r.Host+"/acme-secret-token-1?x=1", http.StatusFound)
	}
	for _, site := range []string{h.url, further} {
		a := bob.open(site + "/files/acme/x")
		if goes(a) != site+"/portal/acme?x=1" || a.Header.Get("Content-Location") != "/portal/acme?y" {
			t.Errorf("%s: an old link of the portal's becomes %q and %q; want it new, on that site", site, goes(a), a.Header.Get("Content-Location"))
		}
		if a := bob.open(site + "/acme-secret-token-1"); goes(a) != "/portal/acme" {
			t.Errorf("%s: the old link leads to %q", site, goes(a))
		}
		if a := h.browser().open(site + "/acme-secret-token-1"); !goneForm.MatchString(goes(a)) {
			t.Errorf("%s: signed out, the old link leads to %q", site, goes(a))
		}
	}
}
