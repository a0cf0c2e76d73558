package caddymodule_test

import (
	"strings"
	"testing"
)

// ordinaryNames are names that people give to files and folders, as browsers send them. Windows
// drops a dot or a space at the end of a name, others cut off the text after certain characters;
// none of them reads another company.
var ordinaryNames = []string{
	"Invoice%20%23123.pdf", "%231%20Invoice.pdf", "Discount%205%25.pdf", "What%20is%20due%3F.txt", "Smith%20%26%20Co./Report.pdf", "Acme%20Inc./", "Jones%20/x.txt",
	"a;b.txt", "orders;v=1.0/7", "Foo::Bar.html", "50%25%20off;%20really%3F/x%23y.", "B%C3%BCro%20%237.pdf", "B%FCro%25.pdf", "Plan%20(A).pdf",
}

// After a company or an old link's token, every name is passed on as it was sent.
func TestOrdinaryFileNamesReachThePortal(t *testing.T) {
	h := openOldHouse(t, "acme")
	bob := h.in("bob@example.com")
	visitor := h.browser()
	visitor.open("/one-click/birch-secret-token/")
	visit := "Cookie: portal-visit=" + visitor.cookie("portal-visit")
	for _, name := range ordinaryNames {
		for _, c := range []struct{ target, who, want string }{
			{"/files/acme/" + name, bob.session(), "/files/acme/" + name},
			{"/portal/acme/" + name, bob.session(), "/one-click/acme-secret-token-1/" + name},
			{"/one-click/birch-secret-token/" + name, "A: b", "/one-click/birch-secret-token/" + name},
			{"/files/birch/" + name, visit, "/files/birch/" + name},
			{"/help/portal/" + name, bob.session(), "/help/portal/" + name}, // a page of no company
			{"/view/files/one%20click/" + name, bob.session(), "/view/files/one%20click/" + name},
		} {
			before := h.portal.count()
			a := h.get(c.target, c.who)
			if got, n := h.portal.last(); a.status != 200 || n != before+1 || got.URI != c.want {
				t.Errorf("GET %s = %d, and the portal got %s; want %s", c.target, a.status, got.URI, c.want)
			}
		}
		for _, target := range []string{"/files/birch/" + name, "/portal/birch/" + name, "/one-click/birch-secret-token;v=1/" + name} {
			h.portal.unseen(t, target, func() {
				if a := h.get(target, bob.session()); a.status != 404 && a.status != 400 {
					t.Errorf("GET %s by who is of acme = %d; want 404, or 400", target, a.status)
				}
			})
		}
		old := "/one-click/acme-secret-token-2/" + name
		if a := bob.open(old); a.StatusCode != 302 || goes(a) != "/portal/acme/"+name {
			t.Errorf("%s = %d to %q; want the new link", old, a.StatusCode, goes(a))
		}
		gone := goes(h.browser().open(old))
		if a := bob.open(gone); !goneForm.MatchString(gone) || goes(a) != "/portal/acme/"+name {
			t.Errorf("%s, signed out, leads to %q and then to %q; want the new link", old, gone, goes(a))
		}
	}
}

// Paths after a company that some portal reads as going up, or as containing a slash, are refused.
func TestP06_PathsAfterACompanyNeverReachAnother(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, tail := range []string{"..", "../birch/x", "%2e%2e/birch/x", "..;/birch/x", "..;x=1/birch/x", "..%3Bx/birch/x", "..%3Fx/birch/x", "..%23/birch/x", "..%2Fbirch/x", "x%2F..%2F..%2Fbirch", "..%5Cbirch", "%252e%252e/birch/x",
		"%25252e%25252e/birch/x", "..%252fbirch", "x%255c..", ".../birch/x", "..%20/birch/x", ".%20./birch/x", "..::$DATA/birch/x", "%25u002e%25u002e/birch/x", "%EF%BC%8E%EF%BC%8E/birch/x", "%C0%AE%C0%AE/birch/x", "x//y", ";/birch", "x%00/y",
		".(S(a))./birch/x", "(S(a))../birch/x", "x%250a"} {
		for _, base := range []string{"/files/acme/", "/portal/acme/"} {
			h.portal.unseen(t, base+tail, func() {
				if a := h.get(base+tail, bob.session()); a.status != 400 {
					t.Errorf("GET %s%s = %d; want 400", base, tail, a.status)
				}
			})
		}
	}
}

// Text that only some portals read as a pattern's word leads to no other company and no token, in a
// path or in a query.
func TestP06_LettersThatSomeReadersTakeForOthers(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, files := range []string{"f%C1%A9les", "f%E0%81%A9les", "f%EF%BD%89les", "f%C4%B1les", "files:$a:$b", "files::$a", "files%EF%BC%8E"} {
		target := "/" + files + "/birch/x"
		h.portal.unseen(t, target, func() {
			if a := h.get(target, bob.session()); a.status != 400 {
				t.Errorf("GET %s = %d; want 400", target, a.status)
			}
			if a := h.get("/x?next="+target, bob.session()); a.status != 404 {
				t.Errorf("GET /x?next=%s = %d; want 404", target, a.status)
			}
		})
	}
	for _, next := range []string{`\files\birch\x`, "%5Cfiles%5Cbirch%5Cx", "%5Cone-click%5Cbirch-secret-token%5Cx", "C:%5Cfiles%5Cbirch%5Cx", "/files%C2%A5birch%C2%A5x"} {
		h.portal.unseen(t, next, func() {
			if a := h.get("/x?next="+next, bob.session()); a.status != 404 {
				t.Errorf("GET /x?next=%s = %d; want 404", next, a.status)
			}
		})
	}
	for _, target := range []string{"/one-cl%C1%A9ck/birch-secret-token/x", "/one-cl%C4%B1ck/birch-secret-token/x", "/one-click:$a:$b/birch-secret-token/x", "/files%C2%A5birch%C2%A5x", "/files/acme/..%C2%A5x"} {
		h.portal.unseen(t, target, func() {
			if a := h.get(target, bob.session()); a.status != 400 {
				t.Errorf("GET %s = %d; want 400", target, a.status)
			}
		})
	}
	for _, query := range []string{"client=%C1%A2irch-secret-token", "cl%C4%B1ent=birch-secret-token"} {
		h.get("/x?"+query, bob.session())
		if got, _ := h.portal.last(); strings.Contains(got.URI, "irch-secret-token") {
			t.Errorf("the portal gets %s; want another token in its place", got.URI)
		}
	}
	for _, target := range []string{"/files/acme/%C2%A5100.pdf", "/files/acme/%C0%20propos.pdf", "/files/acme/10:30", "/wiki/User:Bob", "/x?q=C:%5Cfiles%5Cacme%5Cx", "/x?q=a%5Cb"} {
		if a := h.get(target, bob.session()); a.status != 200 {
			t.Errorf("GET %s = %d; want 200", target, a.status)
		}
	}
}

// Servlet containers append a session id to every link and redirect of their first response.
func TestSessionIDsOfJavaPortals(t *testing.T) {
	h := openOldHouse(t, "acme")
	bob := h.in("bob@example.com")
	for target, want := range map[string]string{
		"/one-click/birch-secret-token/orders;jsessionid=A1.node1": "", "/one-click/birch-secret-token;jsessionid=A1": "", "/view;jsessionid=A1!2?client=birch-secret-token": "",
		"/assets/site.css;jsessionid=A1": "", "/assets/site.css;JSESSIONID=0000A:1?v=2": "",
	} {
		a := h.get(target)
		if got, _ := h.portal.last(); a.status != 200 || got.URI != target {
			t.Errorf("GET %s, signed out = %d, and the portal got %s%s; want it as it was sent", target, a.status, got.URI, want)
		}
	}
	for target, want := range map[string]string{
		"/files/acme/x;jsessionid=A1":      "/files/acme/x;jsessionid=A1",
		"/portal/acme/x;jsessionid=A1?y=1": "/one-click/acme-secret-token-1/x;jsessionid=A1?y=1",
		"/overview/acme;jsessionid=A1":     "/view;jsessionid=A1?client=acme-secret-token-1",
		"/dashboard;jsessionid=A1":         "/dashboard;jsessionid=A1",
	} {
		a := h.get(target, bob.session())
		if got, _ := h.portal.last(); a.status != 200 || got.URI != want {
			t.Errorf("GET %s = %d, and the portal got %s; want %s", target, a.status, got.URI, want)
		}
	}
	if a := bob.open("/one-click/acme-secret-token-2/x;jsessionid=A1"); goes(a) != "/portal/acme/x;jsessionid=A1" {
		t.Errorf("an old link with a session's id leads to %q", goes(a))
	}
	for _, target := range []string{"/one-click/acme-secret-token-1;jsessionid=A1", "/files/birch/x;jsessionid=A1", "/assets;jsessionid=A1", "/assets/..;jsessionid=A1", "/assets/x;v=1", "/secret;jsessionid=/assets/x",
		"/assets/x%3Bjsessionid=A1", "/assets/..%2fx;jsessionid=A1", "/favicon.ico;jsessionid=A1", "/assets/x;jsessionid=A1/y"} {
		h.shut(t, target, h.message("GET", target, "Accept: application/json"))
	}
	if a := h.get("/files/birch/x;jsessionid=A1", bob.session()); a.status != 404 {
		t.Errorf("another company's page with a session's id = %d; want 404", a.status)
	}
}

// ASP.NET removes the ids of cookieless sessions from any place in a path.
func TestP06_CookielessSessionsOfASPNET(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	bob := h.in("bob@example.com")
	for _, target := range []string{"/(S(abc))/files/birch/x", "/files/(S(abc))/birch/x", "/fi/(S(abc))les/birch/x", "/files/bir(S(abc))ch/x", "/(S(a))/fi/(S(b))les/birch/x", "/(A(a)S(b))/files/birch/x", "/%28S%28abc%29%29/files/birch/x",
		"/(S(abc))/one-click/birch-secret-token/x", "/files/acme/(S(a))../birch/x", "/(abcdefghijklmnopqrstuvwx)/files/birch/x"} {
		for _, cookie := range []string{bob.session(), "A: b"} {
			h.portal.unseen(t, target, func() {
				if a := h.get(target, cookie); a.status != 400 {
					t.Errorf("GET %s = %d; want 400", target, a.status)
				}
			})
		}
	}
	for _, target := range []string{"/files/acme/Plan%20(A(1)).pdf", "/wiki/Lisp_(car(x))", "/wiki/Lisp_(programming_language)"} {
		if a := h.get(target, bob.session()); a.status != 200 || strings.Contains(a.body, "400") {
			t.Errorf("GET %s = %d; want 200", target, a.status)
		}
	}
}
