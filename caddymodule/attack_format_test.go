package caddymodule_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Some portals remove a format from the end of a path: they read /files/birch.json as birch's
// page, and an old link with .html after its token as that link. A client of another company gets
// neither, and doesn't learn whether there is such a company.
func TestP06_AFormatAfterACompanyGivesNoAccessToOthers(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob, ann, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("owner@example.com") // of acme; of acme and birch; staff
	gets := func(b *browser, path string) (status int, uri string) {
		t.Helper()
		_, before := h.portal.last()
		a := b.open(path)
		if last, n := h.portal.last(); n > before {
			uri = last.URI
		}
		return a.StatusCode, uri
	}
	for _, path := range []string{"/files/birch.json", "/files/Birch.html", "/files/birch.min.js", "/files/birch.csv", "/files/b%69rch.pdf", "/index/files/birch.xml", "/files/birch.json+", "/files/birch.json;jsessionid=A1", "/files/birch.json?q=1"} {
		status, uri := gets(bob, path)
		if status != 200 || uri == "" || strings.Contains(strings.ToLower(uri), "birch") || len(uri) > len(path) {
			t.Errorf("%s of another company = %d, and the portal gets %q; want another name of that length", path, status, uri)
		}
		for name, b := range map[string]*browser{"a member": ann, "staff": owner} {
			if status, uri := gets(b, path); status != 200 || !strings.Contains(strings.ToLower(strings.ReplaceAll(uri, "%69", "i")), "birch") {
				t.Errorf("%s for %s = %d, and the portal gets %q; want it as it was sent", path, name, status, uri)
			}
		}
	}
	for _, path := range []string{"/one-click/birch-secret-token.json", "/one-click/birch-secret-token.html", "/one-click/birch-secret-token+", "/one-click/birch-secret-token.a.b",
		"/index/one-click/birch-secret-token.json", "/x?q=/one-click/birch-secret-token.html", "/files/birch+", "/files/birch%20+", "/x?q=/files/birch.html", "/index.php?s=/files/birch.json", "/files/+birch"} {
		if status, uri := gets(bob, path); uri != "" || status != 404 && status != 400 {
			t.Errorf("%s of another company = %d, and the portal gets %q; want 404 or 400", path, status, uri)
		}
	}
	for _, path := range []string{"/files/acme.json", "/files/help.html", "/files/nobody.json", "/files/report.pdf", "/one-click/acme-secret-token-1.json", "/one-click/help.html",
		"/x?file=/files/report.pdf", "/files/cedar-2.pdf"} {
		if status, uri := gets(bob, path); status != 200 || uri != path {
			t.Errorf("%s = %d, and the portal gets %q; want it as it was sent", path, status, uri)
		}
	}
	// Destination can't be rewritten, so the request is refused.
	if a := bob.do(bob.request("MOVE", "/files/acme/x", nil, "Destination", h.url+"/files/birch.json")); a.StatusCode != 404 {
		t.Errorf("a move to /files/birch.json = %d; want 404", a.StatusCode)
	}
}

// The same for visitors with the old link of an open company.
func TestP06_AFormatAfterACompanyGivesNoAccessToOthersInAVisit(t *testing.T) {
	h := openOldHouse(t, "birch")
	b := h.browser()
	if a := b.open("/one-click/acme-secret-token-1/"); a.StatusCode != 200 {
		t.Fatalf("an open company's old link = %d; want 200", a.StatusCode)
	}
	for path, want := range map[string]int{"/files/acme.json": 200, "/files/birch.json": 200, "/one-click/acme-secret-token-1.json": 200, "/one-click/birch-secret-token.json": 302} {
		_, before := h.portal.last()
		a := b.open(path)
		last, n := h.portal.last()
		if a.StatusCode != want || n > before && strings.Contains(last.URI, "birch") {
			t.Errorf("%s = %d, and the portal got %q; want %d and nothing of birch", path, a.StatusCode, last.URI, want)
		}
	}
}

// Old links without the slash of their pattern count like others: guessing tokens that way is
// limited, too.
func TestT11_GuessesAtOldLinksWithoutTheirSlashAreLimited(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{global: behindProxy, app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.upgrade("birch")
	ann := h.in("ann@example.com")
	for name, c := range map[string]struct {
		ip    string
		guess func(i int) *http.Request
	}{
		"nobody": {"192.0.2.7", func(i int) *http.Request {
			return h.browser().request("GET", fmt.Sprintf("/one-click/guess-%d", i), nil, "X-Forwarded-For", "192.0.2.7")
		}},
		"who is signed in": {"198.51.100.7", func(i int) *http.Request {
			return ann.request("GET", fmt.Sprintf("/one-click/guess-%d", i), nil, "X-Forwarded-For", "198.51.100.7", "Cookie", "portal="+ann.cookie("portal"))
		}},
	} {
		if a := h.browser().open("/one-click/acme-secret-token-1", "X-Forwarded-For", c.ip); a.StatusCode != 200 {
			t.Fatalf("the right token before = %d; want 200", a.StatusCode)
		}
		h.storm(180, c.guess)
		for _, right := range []string{"/one-click/acme-secret-token-1", "/one-click/acme-secret-token-1/x"} {
			if a := h.browser().open(right, "X-Forwarded-For", c.ip); a.StatusCode != 302 || !goneForm.MatchString(goes(a)) {
				t.Errorf("after guesses by %s, %s = %d to %q; want the prompt", name, right, a.StatusCode, goes(a))
			}
		}
		if a := ann.open("/one-click/acme-secret-token-1/x", "X-Forwarded-For", c.ip); a.StatusCode != 200 {
			t.Errorf("after guesses by %s, the right one of a member = %d; want 200", name, a.StatusCode)
		}
	}
}

// The same if a pattern has something after the token or company that some portals don't need: an
// extension, an index page, a format.
func TestP06_TokensAreFoundWithoutThePatternsSuffix(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), companies: oldCompanies, firm: `legacy_link /invoice/inv-{token}.html /i/{company}
		legacy_link /start/{token}/index.php /s/{company}
		legacy_link /list/{token}/orders/all /l/{company}
		company_path /files/{company}/list/*
		company_path /docs/{company}/index.php`})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	bob, ann := h.in("bob@example.com"), h.in("ann@example.com") // of acme; of acme and birch
	reached := func(b *browser, path string) (status int, yes bool) {
		_, before := h.portal.last()
		a := b.open(path)
		_, n := h.portal.last()
		return a.StatusCode, n > before
	}
	for _, path := range []string{"/invoice/inv-TOKEN", "/invoice/inv-TOKEN/", "/invoice/inv-TOKEN.json", "/invoice/inv-TOKEN.html+", "/invoice/inv-TOKEN;x=1", "/invoice/INV-TOKEN.pdf/",
		"/start/TOKEN", "/start/TOKEN/", "/start/TOKEN/index", "/start/TOKEN/index.html", "/start/TOKEN/other.php",
		"/list/TOKEN/orders", "/list/TOKEN/orders/all.json", "/list/TOKEN/orders/all+", "/list/TOKEN/orders/all.json;x=1", "/list/TOKEN/about", "/x/start/TOKEN/"} {
		if status, yes := reached(bob, strings.Replace(path, "TOKEN", "birch-secret-token", 1)); yes || status != 404 && status != 400 {
			t.Errorf("%s with another company's token = %d, at the portal: %t; want 404 or 400", path, status, yes)
		}
		if strings.Contains(path, ";") {
			continue // 400 if a pattern may apply
		}
		for token, b := range map[string]*browser{"birch-secret-token": ann, "orders-of-2026": bob} {
			if status, yes := reached(b, strings.Replace(path, "TOKEN", token, 1)); !yes || status != 200 {
				t.Errorf("%s with %s, which is theirs or no token, = %d, at the portal: %t; want 200", path, token, status, yes)
			}
		}
	}
	if status, yes := reached(bob, "/docs/help.html"); !yes || status != 200 {
		t.Errorf("a file beside the companies = %d, at the portal: %t; want 200", status, yes)
	}
	for _, path := range []string{"/files/birch/list.json", "/files/birch/list.json/x", "/docs/birch", "/docs/birch/", "/docs/birch/index.html"} {
		if status, yes := reached(bob, path); yes || status != 404 {
			t.Errorf("%s of another company = %d, at the portal: %t; want 404", path, status, yes)
		}
		if status, yes := reached(ann, path); !yes || status != 200 {
			t.Errorf("%s of a member = %d, at the portal: %t; want 200", path, status, yes)
		}
		if status, yes := reached(bob, strings.Replace(path, "birch", "nobody", 1)); yes || status != 404 {
			t.Errorf("%s of no company = %d, at the portal: %t; want 404, too", path, status, yes)
		}
	}
}
