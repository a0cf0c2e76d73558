package caddymodule_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A portal that redirects people to where they came from finds the Referer, for an open company's
// old links and for new ones; no other site or company learns a token.
func TestThePortalLeadsBackToWhereTheyCameFrom(t *testing.T) {
	h := openOldHouse(t)
	h.command("upgrade", "birch")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Redirect(w, r, r.Header.Get("Referer"), http.StatusSeeOther)
		}
	}
	const old = "/one-click/acme-secret-token-1/orders/7"
	visitor, ann, bob := h.browser(), h.in("ann@example.com"), h.in("bob@example.com")
	if a := visitor.open(old); a.Header.Get("Referrer-Policy") != "strict-origin-when-cross-origin" {
		t.Errorf("an old link's policy is %q; want the whole URL within the site alone", a.Header.Get("Referrer-Policy"))
	}
	origin := h.url + "/"
	for name, c := range map[string]struct {
		b          *browser
		to, page   string
		want, then string // Referer for the portal; target of the redirect
		headers    []string
	}{
		"a visitor, at the old link":                {visitor, old, h.url + old, h.url + old, h.url + old, nil},
		"a visitor, by a script":                    {visitor, old, h.url + old, h.url + old, h.url + old, []string{"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*"}},
		"a visitor, at a page of no company":        {visitor, "/save.php", h.url + old, h.url + old, h.url + old, nil},
		"a visitor, from a page with a parameter":   {visitor, "/save.php", h.url + "/list.php?client=acme-secret-token-2", h.url + "/list.php?client=acme-secret-token-2", h.url + "/list.php?client=acme-secret-token-2", nil},
		"a member, at the old link":                 {bob, old, h.url + old, h.url + old, h.url + old, nil},
		"a member, at the new link":                 {ann, "/portal/birch/save", h.url + "/portal/birch/x", h.url + "/portal/birch/x", h.url + "/portal/birch/x", nil},
		"a member of two, at a page of no company":  {ann, "/save.php", h.url + old, h.url + old, h.url + old, nil},
		"a member of two, from one to the other":    {ann, "/portal/birch/save", h.url + old, origin, origin, nil},
		"a member, with another company's":          {bob, old, h.url + "/one-click/birch-secret-token/x", origin, origin, nil},
		"a member, elsewhere, with another company": {bob, "/save.php", h.url + "/one-click/birch-secret-token/x", origin, origin, nil},
		"a visitor, with another company's":         {visitor, "/save.php", h.url + "/view?client=birch-secret-token", origin, origin, nil},
		"a visitor, with a token of nobody's":       {visitor, old, h.url + "/one-click/nobodys-secret-token/x", origin, origin, nil},
		"a visitor, with two companies'":            {visitor, old, h.url + old + "?client=birch-secret-token", origin, origin, nil},
		"a visitor, from another site":              {visitor, old, "https://elsewhere.example" + old, "https://elsewhere.example/", "https://elsewhere.example/", nil},
		"anybody, at what is open":                  {h.browser(), "/assets/save", h.url + old, origin, origin, nil},
	} {
		a := c.b.send(c.to, url.Values{"a": {"b"}}, append([]string{"Referer", c.page}, c.headers...)...)
		if got := h.portal.lastPost(); a.StatusCode != 303 || got.Header.Get("Referer") != c.want || goes(a) != c.then {
			t.Errorf("%s: %d, the portal gets the Referer %q and leads to %q; want %q and %q", name, a.StatusCode, got.Header.Get("Referer"), goes(a), c.want, c.then)
		}
	}
	visitor.open(old, "Referer", h.url+old, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Accept", "image/*")
	if got, _ := h.portal.last(); got.Header.Get("Referer") != origin {
		t.Errorf("with a picture the portal gets the Referer %q; want the origin alone", got.Header.Get("Referer"))
	}
	if visitor.open("/dashboard.php", "Referer", h.url+old); true {
		if got, _ := h.portal.last(); got.Header.Get("Referer") != h.url+old {
			t.Errorf("with a page the portal gets the Referer %q; want it whole", got.Header.Get("Referer"))
		}
	}
}

// The Referer that the portal receives appears in no log at the default level.
func TestNoLogHasTheRefererOfAnOldLink(t *testing.T) {
	log := newLogFile(t)
	m := startMailServer(t)
	h := openHouse(t, layout{global: log.global, app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), site: log.site + "\n\terror 502"})
	m.moveInto(h)
	b := h.browser()
	const old = "/one-click/acme-secret-token-1/x"
	b.open(old)
	b.open("/dashboard.php", "Referer", h.url+old)
	b.send(old, form("a", "b"), "Referer", h.url+old)
	wantNoToken(t, log)
}

func wantNoToken(t *testing.T, log logFile) {
	t.Helper()
	for line := range strings.Lines(log.text(t)) {
		if strings.Contains(line, "secret-token") {
			t.Errorf("a log line has the token: %s", line)
		}
	}
}

// A page whose URL contains a secret sends only its origin to other sites, whoever opens it and
// whatever the portal says.
func TestURLWithASecretIsNoReferrerForOtherSites(t *testing.T) {
	h := openOldHouse(t)
	const old = "/one-click/acme-secret-token-1/x"
	said := ""
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		if said != "" {
			w.Header().Set("Referrer-Policy", said)
		}
	}
	for who, b := range map[string]*browser{"a visitor": h.browser(), "a member": h.in("bob@example.com"), "staff": h.in("owner@example.com")} {
		for _, said = range []string{"", "unsafe-url", "no-referrer-when-downgrade"} {
			for _, page := range []string{old, "/x?client=acme-secret-token-1"} {
				b.open(old) // gives the visitor a visit
				if got := b.open(page).Header["Referrer-Policy"]; len(got) != 1 || got[0] != "strict-origin-when-cross-origin" {
					t.Errorf("%s, at %s, where the portal says %q: Referrer-Policy %q; want strict-origin-when-cross-origin", who, page, said, got)
				}
			}
		}
	}
	said = "unsafe-url"
	if got := h.in("bob@example.com").open("/portal/acme/x").Header.Get("Referrer-Policy"); got != said {
		t.Errorf("at a new link, Referrer-Policy %q; want the portal's", got)
	}
}

// A return URL with a token in it, such as the portal's own scripts may request, appears only in
// sealed form in pages, links of mails and Location headers.
func TestAWayBackWithATokenIsSealed(t *testing.T) {
	h := openOldHouse(t, "acme")
	const to, token = "/one-click/acme-secret-token-1/orders/7#total", "secret-token"
	shows := func(what string, a answer) answer {
		t.Helper()
		if strings.Contains(a.body+goes(a), token) {
			t.Errorf("%s = %d to %q; it has the token", what, a.StatusCode, goes(a))
		}
		return a
	}
	b := h.browser()
	for _, page := range []string{"/-/sign-in", "/-/password", "/-/help"} {
		shows(page, b.open(page+"?to="+url.QueryEscape(to)))
	}
	shows("a wrong address", b.send("/-/sign-in", form("email", "nobody", "to", to)))
	shows("a wrong password", b.send("/-/password", form("email", "ann@example.com", "password", "wrong", "to", to)))
	l := b.ask("bob@example.com", to)
	shows("the page that waits", b.open("/-/sent"))
	a := shows("the link", b.open(l.link))
	if !goneForm.MatchString(strings.TrimSuffix(goes(a), "#total")) || !strings.HasSuffix(goes(a), "#total") {
		t.Errorf("the link leads to %q; want the sealed way, with what stands behind the #", goes(a))
	}
	if a := b.open(strings.TrimSuffix(goes(a), "#total")); goes(a) != "/portal/acme/orders/7" {
		t.Errorf("that leads to %q; want the new link", goes(a))
	}
	shows("signed in", b.open("/-/sign-in?to="+url.QueryEscape(to)))
}
