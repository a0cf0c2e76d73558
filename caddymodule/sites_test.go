package caddymodule_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// via sends the browser's requests to an address, whatever host their URL names.
func (b *browser) via(address string) *browser {
	b.client.Transport = &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: address}), DisableKeepAlives: true}
	return b
}

// A second site of a firm has its own portal: mails requested there lead back there, and sign in
// there.
func TestASecondSiteLeadsBackToItself(t *testing.T) {
	address := freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	files := newPortal(t)
	site := "http://files.localhost:" + port
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), more: fmt.Sprintf("%s {\n\tdoorpost example\n\treverse_proxy %s\n}", site, strings.TrimPrefix(files.URL, "http://"))})
	m.moveInto(h)
	b := h.browser().via(address)
	a := b.open(site + "/doc/7?x=1")
	if a.StatusCode != 401 || !strings.Contains(a.body, `value="/doc/7?x=1"`) {
		t.Fatalf("a page of the second site = %d; want the prompt there\n%s", a.StatusCode, a.body)
	}
	a = b.send(site+"/-/sign-in", form("email", "bob@example.com", "to", "/doc/7?x=1"), "Origin", site)
	if a.StatusCode != 303 {
		t.Fatalf("the form there = %d", a.StatusCode)
	}
	h.eventually("a mail", func() bool { return len(h.letters("bob@example.com")) > 0 })
	link := h.letters("bob@example.com")[0].link
	if !strings.HasPrefix(link, site+"/-/link?t=") {
		t.Fatalf("the mail leads to %s; want the site that asked", link)
	}
	if a := b.open(link); a.StatusCode != 303 || goes(a) != "/doc/7?x=1" {
		t.Fatalf("the mailed link = %d to %q; want in, and the page asked for", a.StatusCode, goes(a))
	}
	if a := b.open(site + "/doc/7?x=1"); a.StatusCode != 200 || a.body != "portal: GET /doc/7?x=1 for bob@example.com" || files.count() != 1 || h.portal.count() != 0 {
		t.Errorf("the page = %d %q; want the second site's portal, as bob", a.StatusCode, a.body)
	}
	if a := h.browser().via(address).open(site+"/x", "Accept", "application/json", "Sec-Fetch-Mode", "cors"); !strings.Contains(a.body, `"`+site+`/-/sign-in"`) {
		t.Errorf("programs at the second site are told of %s", a.body)
	}
	// A name that isn't in the configuration never appears in a mail, whatever proxy is in front.
	for host, email := range map[string]string{"evil.example": "", "files.localhost.evil.example": "", "files.localhost:1": "ann@example.com", "FILES.LOCALHOST": "nameless@example.com"} {
		body := form("email", email).Encode()
		h.rawTo(address, fmt.Sprintf("POST /-/sign-in HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", host, len(body), body))
		if email == "" {
			continue // not one of the firm's sites
		}
		h.eventually("a mail", func() bool { return len(h.letters(email)) > 0 })
		if link := h.letters(email)[0].link; !strings.HasPrefix(link, site+"/-/link?t=") {
			t.Errorf("asked for by Host %s, the mail leads to %s", host, link)
		}
	}
	// The sites are separate: a form of one site isn't accepted from the other.
	if a := h.browser().via(address).send(site+"/-/sign-in", form("email", "ann@example.com"), "Origin", h.url, "Sec-Fetch-Site", "cross-site"); a.StatusCode != 403 {
		t.Errorf("a form from the first site at the second one = %d; want 403", a.StatusCode)
	}
	// The first site works as before.
	if l := h.browser().ask("owner@example.com", "/y"); !strings.HasPrefix(l.link, h.url+"/-/link?t=") {
		t.Errorf("the first site's mail leads to %s", l.link)
	}
}

// A second name of the same portal: pages redirect to url before they ask for sign-in; other
// requests don't.
func TestASecondNameLeadsToURL(t *testing.T) {
	address := freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	second := "http://portal.localhost:" + port
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.change(h.url+" {", h.url+", "+second+" {")
	if err := h.load(); err != nil {
		t.Fatal(err)
	}
	h.settled()
	for path, want := range map[string]string{"/orders/7?x=%20a": h.url + "/orders/7?x=%20a", "/": h.url + "/", "/-/sign-in": h.url + "/-/sign-in", "//evil.example/x": h.url + "//evil.example/x", "/portal/acme/x%23y": h.url + "/portal/acme/x%23y"} {
		a := h.browser().via(address).open(second + path)
		if a.StatusCode != 302 || goes(a) != want || len(a.Cookies()) != 0 {
			t.Errorf("%s at the second name = %d to %q; want %s", path, a.StatusCode, goes(a), want)
		}
	}
	a := h.browser().via(address).open(second + "/one-click/acme-secret-token-1/x")
	if a.StatusCode != 302 || !strings.HasPrefix(goes(a), h.url+"/-/go?x=") {
		t.Errorf("an old link at the second name = %d to %q; want it sealed, at url", a.StatusCode, goes(a))
	} else if a := h.browser().open(goes(a)); goes(a) != "/one-click/acme-secret-token-1/x" {
		t.Errorf("that leads to %q; want the old link's page", goes(a))
	}
	for name, a := range map[string]answer{
		"a program":      h.browser().via(address).open(second+"/orders", "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"),
		"a picture":      h.browser().via(address).open(second+"/orders", "Accept", "image/*", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"),
		"a form":         h.browser().via(address).send(second+"/orders", form("a", "b"), "Origin", second),
		"a mailed link":  h.browser().via(address).open(second + "/-/link?t=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"),
		"a frame's page": h.browser().via(address).open(second+"/orders", "Sec-Fetch-Dest", "iframe"),
	} {
		if goes(a) != "" {
			t.Errorf("%s at the second name = %d to %q; want no way elsewhere", name, a.StatusCode, goes(a))
		}
	}
	if h.portal.count() != 0 {
		t.Errorf("the portal saw %d requests", h.portal.count())
	}
}
