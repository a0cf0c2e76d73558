package caddymodule_test

import (
	"net/http"
	"strings"
	"testing"
)

// If old links contain a program, the portal may serve the same page without its extension
// (Apache's MultiViews), and mostly without the program (front controllers with clean URLs).
// Contacts who may not open the link can't open these URLs either.
func TestP06_AnOldLinkWithoutItsProgramGivesNoAccess(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), companies: oldCompanies, firm: `legacy_link /index.php/one-click/{token}/* /portal/{company}/*
		legacy_link /open.php/{token} /open-new/{company}
		legacy_link /shop/list.aspx/orders/{token}/all /orders-new/{company}
		legacy_link /index.php/{token} /root-new/{company}
		company_path /index.php/files/{company}/*
		company_path /docs.php/{company}/*
		public /docs/help/*`})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	bob, ann, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("owner@example.com") // of acme; of acme and birch; staff
	reached := func(b *browser, path string) (status int, yes bool) {
		_, before := h.portal.last()
		a := b.open(path)
		_, n := h.portal.last()
		return a.StatusCode, n > before
	}
	for _, path := range []string{"/one-click/TOKEN", "/one-click/TOKEN/", "/one-click/TOKEN/x", "/one-click/TOKEN.json", "/One-Click/TOKEN/x%20y.pdf", "/one-click/TOKEN/5%25", "/index/one-click/TOKEN/x",
		"/app/one-click/TOKEN/x", "/?q=one-click/TOKEN", "/?/one-click/TOKEN", "/index.php?/one-click/TOKEN", "/%C3%B6ne-click/TOKEN", "/open/TOKEN", "/open/TOKEN/x", "/open/TOKEN.html", "/open/TOKEN;x=1",
		"/shop/list/orders/TOKEN/all", "/shop/orders/TOKEN/all", "/shop/orders/TOKEN", "/shop/list/orders/TOKEN/all.json", "/TOKEN", "/TOKEN.json", "/TOKEN/", "/index/TOKEN"} {
		if status, yes := reached(bob, strings.Replace(path, "TOKEN", "birch-secret-token", 1)); yes || status != 404 && status != 400 {
			t.Errorf("%s with another company's token = %d, at the portal: %t; want 404 or 400", path, status, yes)
		}
		if strings.Contains(path, ";") {
			continue // 400 if a pattern may apply
		}
		for token, b := range map[string]*browser{"birch-secret-token": ann, "nobodys-secret-tok": bob} {
			if status, yes := reached(b, strings.Replace(path, "TOKEN", token, 1)); !yes || status != 200 {
				t.Errorf("%s with %s, which is theirs or no token, = %d, at the portal: %t; want 200", path, token, status, yes)
			}
		}
	}
	for _, path := range []string{"/files/ID/x", "/files/ID/", "/files/ID", "/files/ID/x%231.pdf", "/index/files/ID/x", "/app.php/files/ID/x", "/?q=files/ID/x", "/docs/ID/x", "/docs/ID/"} {
		for id, b := range map[string]*browser{"birch": bob, "nobody": bob} {
			if status, yes := reached(b, strings.Replace(path, "ID", id, 1)); yes || status != 404 && status != 400 {
				t.Errorf("%s of %s = %d, at the portal: %t; want 404 or 400, whether there is such a company or not", path, id, status, yes)
			}
		}
		for _, b := range []*browser{ann, owner} {
			if status, yes := reached(b, strings.Replace(path, "ID", "birch", 1)); (!yes || status != 200) && status != 400 {
				t.Errorf("%s of a member or staff = %d, at the portal: %t; want 200", path, status, yes)
			}
		}
	}
	// Other pages of the portal still work.
	for _, path := range []string{"/", "/orders/7", "/index.php/orders/7", "/about", "/open/help", "/shop/help/x", "/%C3%BCbersicht/x", "/files/acme/x", "/docs/help/x", "/report%20%231.pdf"} {
		if status, yes := reached(bob, path); !yes || status != 200 {
			t.Errorf("%s = %d, at the portal: %t; want 200", path, status, yes)
		}
	}
	if last, _ := h.portal.last(); last.URI != "/report%20%231.pdf" || last.Method != http.MethodGet {
		t.Errorf("the portal got %s %s; want it as it was sent", last.Method, last.URI)
	}
	// In a Referer, no other company's token reaches the portal, whose logs would keep it.
	for _, page := range []string{"/index.php/one-click/birch-secret-token/x", "/one-click/birch-secret-token/x"} {
		bob.open("/orders", "Referer", h.url+page, "Sec-Fetch-Mode", "navigate")
		if last, _ := h.portal.last(); strings.Contains(last.Header.Get("Referer"), "birch-secret-token") {
			t.Errorf("on the way from %s the portal got Referer: %s; want the origin alone", page, last.Header.Get("Referer"))
		}
	}
	// An old link as it was sent still works.
	if a := ann.open("/index.php/one-click/birch-secret-token/x"); a.StatusCode != 302 || goes(a) != "/portal/birch/x" {
		t.Errorf("a member's old link = %d to %q; want the new one", a.StatusCode, goes(a))
	}
	if a := ann.open("/portal/birch/x"); a.StatusCode != 200 {
		t.Errorf("a member's new link = %d; want 200", a.StatusCode)
	}
}
