package caddymodule_test

// Classes R, P, H and T once more, where old links, visits and the portal's own cookies meet:
// what one of them lets through, another mustn't open.

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// The way through /-/go, which anyone can have sealed, ends on this site.
func TestR07_CVE_2022_28923_OldLinksLeadNowhereElse(t *testing.T) {
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

// What a portal gives without a visit opens nothing, neither now nor after the upgrade.
func TestP17_NoVisitNoSession(t *testing.T) {
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

// The portal's pages that are open to everyone begin no other session for a visitor.
func TestAVisitGoesOverOpenPages(t *testing.T) {
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

// On a new link nothing that we write has a token, open company or not.
func TestP17_NewLinksStayNew(t *testing.T) {
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
