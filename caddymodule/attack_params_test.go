package caddymodule_test

import (
	"fmt"
	"strings"
	"testing"
)

// Servers rewrite a path to a program with parameters, and append the original query; of two
// parameters with the same name, PHP uses the last. And frameworks read parameters from the path.
// So a token must not give access to an upgraded company in the query of an old link's path, nor in
// the path of a link with its token in the query.
func TestP06_ATokenInTheQueryGivesNoAccessToAPathOfAnotherCompany(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), companies: oldCompanies, firm: oldLinks + `
		legacy_link /Shop/Order.php?page=tax&k={token} /tax/{company}`})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	bob, ann := h.in("bob@example.com"), h.in("ann@example.com") // of acme; of acme and birch
	gets := func(b *browser, path string) (status int, uri string) {
		t.Helper()
		_, before := h.portal.last()
		a := b.open(path)
		if last, n := h.portal.last(); n > before {
			uri = last.URI
		}
		return a.StatusCode, uri
	}
	const birchs, nobodys = "birch-secret-token", "nobodys-secret-tok"
	// In the query the portal gets an unknown token, so that nobody learns which are real.
	for _, path := range []string{"/portal/acme/x?t=TOKEN", "/portal/acme/?a=b&token=TOKEN&c=d", "/portal/acme/x?t=%62irch-secret-token", "/portal/acme/x?t=BIRCH-secret-token", "/portal/acme/x?TOKEN", "/portal/acme/x?t%5Bx=TOKEN",
		"/one-click?token=TOKEN", "/one-click.php?token=TOKEN", "/one-click/?t=TOKEN", "/one-click/open?id=TOKEN&x=1", "/index.php/one-click?token=TOKEN",
		"/overview/acme?xclient=TOKEN", "/view?xclient=TOKEN", "/view?x=client=TOKEN&y=1", "/view.php?c=TOKEN", "/orders?%u0063lient=TOKEN", "/orders?%25u0043lient=TOKEN"} {
		status, uri := gets(bob, strings.Replace(path, "TOKEN", birchs, 1))
		if strings.Contains(path, "/index.php/") && status == 400 {
			continue
		}
		if status != 200 || uri == "" || strings.Contains(strings.ToLower(strings.ReplaceAll(uri, "%62", "b")), birchs) {
			t.Errorf("%s with another company's token = %d, and the portal gets %q; want another one", path, status, uri)
		}
		path = strings.ReplaceAll(path, "%62irch-secret-token", "TOKEN")
		for token, b := range map[string]*browser{nobodys: bob, birchs: ann} {
			if status, uri := gets(b, strings.Replace(path, "TOKEN", token, 1)); status != 200 || !strings.Contains(path, "BIRCH") && !strings.Contains(uri, token) {
				t.Errorf("%s with %s = %d, and the portal gets %q; want it as it was sent", path, token, status, uri)
			}
		}
	}
	// Requests of the portal's own pages with an old link of their company.
	if a := bob.do(bob.request("GET", "/one-click/acme-secret-token-1/x?t="+birchs, nil, "Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin")); a.StatusCode != 200 {
		t.Errorf("a fetch with two tokens = %d; want 200", a.StatusCode)
	}
	if last, _ := h.portal.last(); strings.Contains(last.URI, birchs) || !strings.Contains(last.URI, "acme-secret-token-1/x?t=") {
		t.Errorf("the portal gets %q; want another token in the query", last.URI)
	}
	if a := bob.open("/one-click/acme-secret-token-1/x?t=" + birchs); a.StatusCode != 302 || strings.Contains(goes(a), birchs) {
		t.Errorf("an old link with another one's token in its query = %d to %q; want the new link without", a.StatusCode, goes(a))
	}
	for _, path := range []string{"/view?%u0063lient=TOKEN", "/x?q=%u002fone-click%u002fTOKEN"} { // as ASP.NET decodes
		if status, uri := gets(bob, strings.Replace(path, "TOKEN", birchs, 1)); uri != "" || status != 404 && status != 400 {
			t.Errorf("%s with another company's token = %d, and the portal gets %q; want 404 or 400", path, status, uri)
		}
	}
	if status, uri := gets(bob, "/x?q=%u002ffiles%u002fbirch%u002fx"); uri != "" || status != 404 {
		t.Errorf("another company's path in a query, as ASP.NET decodes it, = %d, and the portal gets %q; want 404", status, uri)
	}
	form := bob.request("POST", "/portal/acme/x", strings.NewReader("a=1&%u0063lient="+birchs), "Content-Type", "application/x-www-form-urlencoded")
	if a := bob.do(form); a.StatusCode != 200 {
		t.Errorf("a form = %d; want 200", a.StatusCode)
	}
	if last, _ := h.portal.last(); strings.Contains(last.Body, birchs) {
		t.Errorf("the portal gets the form %q; want another token", last.Body)
	}
	// In the path it gives no access.
	for _, path := range []string{"/view/TOKEN", "/view/TOKEN/x", "/View.php/TOKEN", "/view/index/TOKEN", "/index.php/view/TOKEN", "/view/client/TOKEN", "/orders/Client/TOKEN.json", "/view/client:TOKEN", "/view/x/client=TOKEN",
		"/portal/acme/client/TOKEN", "/shop/order/TOKEN", "/shop/order/tax/TOKEN", "/shop/order/page/tax/k/TOKEN", "/x/k/TOKEN%20%231"} {
		if strings.HasSuffix(path, "%20%231") { // removed by some software
			path = strings.TrimSuffix(path, "%20%231") + "%231"
		}
		if status, uri := gets(bob, strings.Replace(path, "TOKEN", birchs, 1)); uri != "" || status != 404 && status != 400 {
			t.Errorf("%s with another company's token = %d, and the portal gets %q; want 404 or 400", path, status, uri)
		}
		for token, b := range map[string]*browser{nobodys: bob, birchs: ann} {
			if status, uri := gets(b, strings.Replace(path, "TOKEN", token, 1)); (status != 200 || uri == "") && status != 400 {
				t.Errorf("%s with %s = %d, and the portal gets %q; want it as it was sent", path, token, status, uri)
			}
		}
	}
	// Ordinary pages work as before: many parameters, lists, pages below the pattern's, public
	// files.
	lists, many := "", ""
	for i := range 100 {
		lists += fmt.Sprintf("&columns[%d][data]=customer_name_%d", i, i)
	}
	for i := range 40 {
		many += fmt.Sprintf("&field-%d=something-%d", i, i)
	}
	for _, path := range []string{"/portal/acme/orders?draw=1" + lists, "/portal/acme/orders?x=1" + many, "/view/help/list", "/orders/client/7?from=2026-01-01&to=2026-12-31", "/portal/acme/x?q=Harbor+Bakery+in+the+street"} {
		if status, uri := gets(bob, path); status != 200 || uri == "" {
			t.Errorf("%.60s = %d, and the portal gets %.60q; want 200", path, status, uri)
		}
	}
	for _, b := range []*browser{h.browser(), bob} {
		if status, uri := gets(b, "/assets/client/main.js"); status != 200 || uri != "/assets/client/main.js" {
			t.Errorf("a public file in a folder called as the parameter = %d, and the portal gets %q; want it as it was sent", status, uri)
		}
	}
}

// The same in a visit by an open company's old link.
func TestP06_ATokenInTheQueryOfAVisitGivesNoAccess(t *testing.T) {
	h := openOldHouse(t, "birch")
	b := h.browser()
	for _, path := range []string{"/one-click/acme-secret-token-1/", "/one-click/acme-secret-token-1/x?t=birch-secret-token", "/one-click?token=birch-secret-token", "/portal/acme/x?t=birch-secret-token"} {
		a := b.open(path)
		if last, _ := h.portal.last(); a.StatusCode != 200 || strings.Contains(last.URI, "birch") {
			t.Errorf("%s = %d, and the portal gets %q; want 200 and nothing of birch", path, a.StatusCode, last.URI)
		}
	}
	for _, path := range []string{"/view/birch-secret-token", "/view/client/birch-secret-token"} {
		_, before := h.portal.last()
		a := b.open(path)
		if _, n := h.portal.last(); n > before {
			t.Errorf("%s = %d, at the portal; want it not to get there", path, a.StatusCode)
		}
	}
}

// A server may put more of an old link's path into a parameter than its token, or less than the
// token's segment: open.php?path=$1 for /one-click/(.*), open.php?page=$1 for /c/(.*).
func TestP06_ATokenWithMoreOfItsPathInAParameterGivesNoAccess(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), companies: oldCompanies, firm: oldLinks + `
		legacy_link /c/inv-{token}.html /invoice/{company}
		legacy_link /app/key/{token}/* /known/{company}/* forward_new`})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	bob, ann := h.in("bob@example.com"), h.in("ann@example.com") // of acme; of acme and birch
	gets := func(b *browser, path string) (status int, uri string) {
		t.Helper()
		_, before := h.portal.last()
		a := b.open(path)
		if last, n := h.portal.last(); n > before {
			uri = last.URI
		}
		return a.StatusCode, uri
	}
	const birchs, nobodys = "birch-secret-token", "nobodys-secret-tok"
	for _, path := range []string{"/portal/acme/x?path=TOKEN/orders/7", "/portal/acme/?path=TOKEN/", "/portal/acme/x?path=/TOKEN", "/portal/acme/x?TOKEN/x", "/portal/acme/x?path=TOKEN%2Forders", "/one-click?path=TOKEN/x&a=b",
		"/portal/acme/x?path=key/TOKEN/x", "/invoice/acme?page=inv-TOKEN.html", "/invoice/acme?page=INV-TOKEN", "/invoice/acme?page=c/inv-TOKEN.html", "/portal/acme/x?page=TOKEN.html",
		"/portal/acme/x?token%00%5B%5D=TOKEN", // ends at the NUL in PHP
		"/known/acme/?t=TOKEN", "/known/acme?t=TOKEN"} {
		switch status, uri := gets(bob, strings.Replace(path, "TOKEN", birchs, 1)); {
		case strings.Contains(uri, birchs), uri == "" && status != 404 || uri != "" && status != 200:
			t.Errorf("%s with another company's token = %d, and the portal gets %q; want another one", path, status, uri)
		}
		for token, b := range map[string]*browser{nobodys: bob, birchs: ann} {
			if status, uri := gets(b, strings.Replace(path, "TOKEN", token, 1)); status != 200 || !strings.Contains(uri, token) {
				t.Errorf("%s with %s = %d, and the portal gets %q; want it as it was sent", path, token, status, uri)
			}
		}
	}
	// Chosen in a list, one by one.
	chosen := ""
	for i := range 100 {
		chosen += fmt.Sprintf("&id=6ba7b810-9dad-11d1-80b4-00c04fd43%03d", i)
	}
	if status, uri := gets(bob, "/portal/acme/export?as=csv"+chosen); status != 200 || !strings.HasSuffix(uri, chosen) {
		t.Errorf("a page with a hundred ids in its query = %d, and the portal gets %.60q; want it as it was sent", status, uri)
	}
}
