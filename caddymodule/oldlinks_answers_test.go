package caddymodule_test

import (
	"encoding/hex"
	"net/http"
	"testing"
)

// A portal redirects to a URL from a request, and the gate rewrites an old link in that response to
// the new one. The new link contains the company, so only its members and staff get it; for others
// it is sealed.
func TestRedirectsDontRevealTheCompanyOfAnOldLink(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks + "\n\t\tpublic /login", companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.upgrade("birch")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		back, err := hex.DecodeString(r.Header.Get("Return-To"))
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Location", string(back))
		w.Header().Set("Content-Location", string(back))
		w.WriteHeader(http.StatusSeeOther)
	}
	const birchs, nobodys = "/one-click/birch-secret-token/x", "/one-click/nobodys-secret-tok/x"
	visitor := h.browser()
	visitor.open("/one-click/acme-secret-token-1/", "Return-To", hex.EncodeToString([]byte("/")))
	if visitor.cookie("portal-visit") == "" {
		t.Fatal("an open company's old link gave no visit")
	}
	bob, ann, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("owner@example.com") // of acme; of acme and birch; staff
	for name, c := range map[string]struct {
		b    *browser
		path string
		want string
	}{
		"nobody":                {h.browser(), "/login", birchs},
		"who visits acme":       {visitor, "/orders", birchs},
		"a client of acme":      {bob, "/orders", birchs},
		"a client, at /login":   {bob, "/login", birchs},
		"a member":              {ann, "/orders", "/portal/birch/x"},
		"a member, at /login":   {ann, "/login", "/portal/birch/x"},
		"staff":                 {owner, "/orders", "/portal/birch/x"},
		"a member, at birch's ": {ann, "/portal/birch/", "/portal/birch/x"},
	} {
		a := c.b.open(c.path, "Return-To", hex.EncodeToString([]byte(birchs)))
		if got := a.Header.Get("Location"); c.want == birchs && goneForm.MatchString(got) {
			if again := h.browser().open(got); again.StatusCode != 401 {
				t.Errorf("%s: %s leads to a page that answers %d; want the prompt", name, c.path, again.StatusCode)
			}
		} else if c.want == birchs || got != c.want || a.Header.Get("Content-Location") != c.want {
			t.Errorf("%s: %s leads to %q (%q); want %q", name, c.path, got, a.Header.Get("Content-Location"), c.want)
		}
		if got := c.b.open(c.path, "Return-To", hex.EncodeToString([]byte(nobodys))).Header.Get("Location"); got != nobodys {
			t.Errorf("%s: %s leads from nobody's token to %q; want it as it was", name, c.path, got)
		}
	}
}
