package caddymodule_test

// Class P for old links: a URL doesn't reveal whether it contains a real token, and no answer
// repeats one.

import (
	"net/http"
	"strings"
	"testing"
)

// nearlyOld are URLs that match no pattern, but that some portal could take for old links: a
// slash is missing, the parameter is on another page, a program comes first, the portal decodes
// once more.
var nearlyOld = []string{"/one-click/TOKEN", "/x?client=TOKEN", "/x?Client[]=TOKEN&a=1", "/index/one-click/TOKEN/", "/assets/x.css?client=TOKEN",
	"/x?[client]=TOKEN", "/x?client=TOKEN%20", "/x?client=TOKEN+&b=%2e", "/x?client=TOKEN%2520"}

func TestP17_NearlyOldLinksRevealNothing(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.RequestURI, "birch-secret-token") {
			t.Errorf("the portal gets another company's token: %s", r.RequestURI)
		}
	}
	bob := h.in("bob@example.com") // of acme only
	for _, form := range nearlyOld {
		real, unknown := strings.ReplaceAll(form, "TOKEN", "birch-secret-token"), strings.ReplaceAll(form, "TOKEN", "xxxxx-secret-token")
		a, b := h.browser().open(real), h.browser().open(unknown)
		if a.StatusCode != b.StatusCode || a.body != b.body || len(goes(a)) != len(goes(b)) || len(a.Header) != len(b.Header) {
			t.Errorf("%s, signed out = %d to %q; with an unknown token %d to %q", real, a.StatusCode, goes(a), b.StatusCode, goes(b))
		}
		if strings.Contains(a.body+goes(a), "secret-token") {
			t.Errorf("%s, signed out: the token is repeated: %q %s", real, goes(a), a.body)
		}
		if goneForm.MatchString(goes(a)) {
			if a := bob.open(goes(a)); strings.Contains(goes(a)+a.body, "secret-token") && !strings.Contains(goes(a), "client") {
				t.Errorf("%s, after proof: the token is repeated: %q", real, goes(a))
			}
		}
		for _, path := range []string{real, unknown} { // the path can't be changed
			a := bob.open(path)
			if strings.Contains(path, "?") && a.StatusCode != 200 {
				t.Errorf("%s, signed in as somebody else = %d; want the portal's answer to an unknown token", path, a.StatusCode)
			}
		}
	}
}

// A member's own token outside of any pattern: the redirects to the prompt and back don't
// repeat it.
func TestP17_RedirectsAfterSignInContainNoToken(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, form := range append(nearlyOld, "/one-click/acme-secret-token-2/?client=TOKEN", "/one-click/acme-secret-token-2/x/one-click/TOKEN/", "/one-click/TOKEN/?a=TOKEN", "/view?client=TOKEN&b=%61cme-secret-token-1") {
		for _, token := range []string{"acme-secret-token-1", "birch-secret-token"} {
			path := strings.ReplaceAll(form, "TOKEN", token)
			at := path
			for _, b := range []*browser{h.browser(), bob} {
				for range 5 {
					a := b.open(at)
					if strings.Contains(goes(a), "secret-token") {
						t.Errorf("%s leads to %s", path, goes(a))
					}
					if at = goes(a); at == "" {
						at = path
						break
					}
					b = bob
				}
			}
		}
	}
}

// Caddy fbfb8fc51: the restored path and its escaped form agree.
func TestP08_StaleEscapedPath(t *testing.T) {
	h := openOldHouse(t, "acme")
	bob := h.in("bob@example.com")
	for target, want := range map[string]string{
		"/portal/acme/a%20b": "/one-click/acme-secret-token-1/a%20b", "/portal/acme/%61": "/one-click/acme-secret-token-1/%61",
		"/%70ortal/%61cme/%C3%A9(1)?x=%2F": "/one-click/acme-secret-token-1/%C3%A9(1)?x=%2F", "/Portal/ACME/": "/one-click/acme-secret-token-1/",
		"/portal/acme/é": "/one-click/acme-secret-token-1/%C3%A9", "/overview/%61cme?y": "/view?client=acme-secret-token-1&y",
		"/portal%2facme/x": "", "/portal/acme%2fx/": "", "/portal/acme/x%2fy": "", "/portal/acme/..%2f": "", "/portal/acme/x;y": "/one-click/acme-secret-token-1/x;y", "/portal/acme/%23%3F%25": "/one-click/acme-secret-token-1/%23%3F%25", "/%2570ortal/acme/": "",
	} {
		before := h.portal.count()
		a := h.get(target, bob.session())
		got, n := h.portal.last()
		if want == "" && (a.status != 400 || n != before) {
			t.Errorf("%s = %d; want 400, and the portal not asked", target, a.status)
		} else if want != "" && (a.status != 200 || n != before+1 || got.URI != want) {
			t.Errorf("%s = %d, and the portal got %s; want %s", target, a.status, got.URI, want)
		}
	}
}

// Tokens that differ for the gate but not for the portal's database: MySQL by default ignores
// case and accents.
func TestP17_ATokenThatOnlyADatabaseMatchesGivesNoAccess(t *testing.T) {
	h := openOldHouse(t)
	h.command("companies", "set", "birch", "--legacy-tokens", "birch-secret-token,MiXed-Secret-Token")
	h.upgrade("birch")
	bob, ann, visitor := h.in("bob@example.com"), h.in("ann@example.com"), h.browser()
	visitor.open("/one-click/acme-secret-token-1/x")
	sees := func(target, cookie string) bool {
		before := h.portal.count()
		h.get(target, cookie)
		got, n := h.portal.last()
		return n > before && strings.Contains(strings.ToLower(got.URI), "-secret-token")
	}
	for _, target := range []string{"/invoices.php?client=BIRCH-SECRET-TOKEN", "/invoices.php?client=b%C3%ACrch-secret-token", "/invoices.php?client=mixed-secret-token", "/invoices.php?client=MIXED-secret-token",
		"/assets/x?client=Mixed-secret-token", "/x/one-click/BIRCH-SECRET-TOKEN/", "/one-click/BIRCH-SECRET-TOKEN", "/one-click/mixed-secret-token", "/assets/one-click/mixed-secret-token/"} {
		for who, cookie := range map[string]string{"who is of acme": bob.session(), "a visitor of acme": "Cookie: portal-visit=" + visitor.cookie("portal-visit"), "nobody": "A: b"} {
			if sees(target, cookie) {
				t.Errorf("%s by %s: the portal gets it", target, who)
			}
		}
	}
	for _, target := range []string{"/invoices.php?client=MIXED-secret-token", "/invoices.php?client=birch-secret-token"} {
		if !sees(target, ann.session()) {
			t.Errorf("%s by who is of birch: the portal doesn't get it", target)
		}
	}
	for _, target := range []string{"/one-click/help", "/invoices.php?client=7"} {
		if a := h.get(target, bob.session()); a.status != 200 {
			t.Errorf("%s, which is like no token = %d; want 200", target, a.status)
		}
	}
}
