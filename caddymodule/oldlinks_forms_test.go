package caddymodule_test

import (
	"strings"
	"testing"
)

// Where no company is expected, a path that looks like a company's gets a response that depends
// only on its form: the same for existing and unknown companies. Otherwise clients could list the
// firm's other clients.
func TestCompaniesCannotBeListed(t *testing.T) {
	h := openOldHouse(t, "birch")
	bob := h.in("bob@example.com") // only of acme
	visitor := h.browser()
	visitor.open("/one-click/acme-secret-token-1/")
	owner := h.in("owner@example.com")
	visit := "Cookie: portal-visit=" + visitor.cookie("portal-visit")
	for _, form := range []string{"/x?next=/files/ID/a", "/x?next=%2Ffiles%2FID", "/?q=https://elsewhere.example/files/ID/a", "/x?next=/portal/ID/", "/x?/overview/ID", "/files/ID", "/files/ID/a", "/portal/ID", "/portal/ID/", "/overview/ID",
		"/index/files/ID/a", "/cgi-bin/app/files/ID/", "/x;/files/ID/a", "/index/files/ID%3Fx/a", "/assets/files/ID/a", "/assets/x/files/ID", "/assets/x?next=/files/ID/a", "/files/ID;jsessionid=A1", "/files/ID%23/x", "/one-click/acme-secret-token-1/x?next=/files/ID/a"} {
		for who, cookie := range map[string]string{"a client of another company": bob.session(), "a visitor of another company": visit, "nobody": "A: b"} {
			there, missing := h.get(strings.ReplaceAll(form, "ID", "birch"), cookie), h.get(strings.ReplaceAll(form, "ID", "bolts"), cookie)
			if strings.HasPrefix(there.body, "portal:") { // the response repeats the URL of the visitor
				there.body, missing.body = strings.ReplaceAll(there.body, "birch", "ID"), strings.ReplaceAll(missing.body, "bolts", "ID")
			}
			there.body, missing.body = strings.ReplaceAll(there.body, "birch", "ID"), strings.ReplaceAll(missing.body, "bolts", "ID")
			if there.status != missing.status || there.body != missing.body {
				t.Errorf("%s for %s = %d; of a company that there isn't %d", form, who, there.status, missing.status)
			}
		}
	}
	for destination, want := range map[string]int{"/files/birch/a": 404, "/files/bolts/a": 404, "/files/birch": 404, "/files/bolts": 404, "/x?q=/files/bolts/a": 404, "/files/acme/a": 200, "/other": 200} {
		if a := h.raw(h.message("MOVE", "/files/acme/b", bob.session(), "Destination: "+destination)); a.status != want {
			t.Errorf("MOVE to %s = %d; want %d", destination, a.status, want)
		}
	}
	// Paths of their own companies pass, and so do paths that can't be a company's by their form.
	for _, path := range []string{"/x?next=/files/acme/a", "/files/acme", "/index/files/acme/a", "/files/help.html", "/files/upload.php", "/x?file=/files/report.pdf", "/files/some%20page", "/x?next=/orders/birch/a", "/docs/2026/old/files/birch/a", "/help/portal/birch"} {
		if a := bob.open(path); a.StatusCode != 200 {
			t.Errorf("%s for a client of acme = %d; want 200", path, a.StatusCode)
		}
	}
	for _, path := range []string{"/files/upload", "/x?next=/files/bolts/a", "/index/files/bolts/a"} {
		if a := owner.open(path); a.StatusCode != 200 {
			t.Errorf("%s for staff = %d; want 200", path, a.StatusCode)
		}
	}
	if a := h.get("/x?next=/files/acme/a", visit); a.status != 200 {
		t.Errorf("the visited company's path in a query = %d; want 200", a.status)
	}
}

// If a pattern begins with the company, any page of one segment could be a company's: then only
// those of existing companies are refused.
func TestPagesBesideAWidePattern(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: "company_path /{company}/*"})
	m.moveInto(h)
	bob := h.in("bob@example.com")
	for path, want := range map[string]int{"/dashboard": 200, "/acme": 200, "/acme/x": 200, "/birch": 404, "/birch/x": 404, "/other/x": 404, "/x.css": 200} {
		if a := bob.open(path); a.StatusCode != want {
			t.Errorf("%s = %d; want %d", path, a.StatusCode, want)
		}
	}
}

// An old link of any length leads to its page, or as close to it as can be remembered, and nothing
// on the way is longer than servers and proxies accept.
func TestVeryLongOldLinks(t *testing.T) {
	h := openOldHouse(t, "acme", "birch")
	for name, tail := range map[string]string{
		"a long query":                   "orders/7?a=" + strings.Repeat("x", 8300),
		"a long query behind a page":     "orders/" + strings.Repeat("y", 1500) + "?a=" + strings.Repeat("x", 20_000),
		"a long path":                    strings.Repeat("y", 8300),
		"a long path and a query":        strings.Repeat("y", 8300) + "?a=1",
		"a query that can be remembered": "orders/7?a=" + strings.Repeat("x", 2500),
	} {
		gone := goes(h.browser().open("/one-click/acme-secret-token-1/" + tail))
		unknown := goes(h.browser().open("/one-click/nobodys-secret-tkn/" + tail))
		if !goneForm.MatchString(gone) || len(gone) > 4096 || len(unknown) != len(gone) {
			t.Errorf("%s leads to %d characters, and one of nobody's to %d; want the same, and at most 4096: %.60s", name, len(gone), len(unknown), gone)
		}
		b := h.browser()
		if a := b.open(gone); a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) {
			t.Errorf("%s: the page behind it = %d; want the prompt", name, a.StatusCode)
		}
	}
	b := h.browser()
	for _, c := range []struct{ old, want string }{
		{"/one-click/acme-secret-token-1/orders/7?a=" + strings.Repeat("x", 8300), "/portal/acme/orders/7"},
		{"/one-click/acme-secret-token-1/" + strings.Repeat("y", 8300), "/portal/acme/"},
		{"/view?z=1&client=acme-secret-token-1&a=" + strings.Repeat("x", 8300), "/overview/acme"},
		{"/one-click/" + strings.Repeat("t", 8300) + "/", ""},
	} {
		gone := goes(h.browser().open(c.old))
		if b.me() == nil { // once is enough
			l := b.ask("bob@example.com", gone)
			if a := b.open(l.link); goes(a) != gone {
				t.Fatalf("the mailed link leads to %q; want the old link's way", goes(a))
			}
		}
		a := b.open(gone)
		if c.want == "" {
			if a.StatusCode != 302 || goes(a) != "/" {
				t.Errorf("%.40s…, of which nothing can be remembered, leads to %q; want /", c.old, goes(a))
			}
		} else if goes(a) != c.want {
			t.Errorf("%.40s… leads to %q; want %s", c.old, goes(a), c.want)
		}
	}
}

// After the session has ended, a part of a frameset leads to the whole portal; a frame with a
// complete page leads to that page.
func TestFramesetsLeadToThePortal(t *testing.T) {
	h := openOldHouse(t, "acme")
	for name, c := range map[string]struct {
		path    string
		headers []string
		want    string
	}{
		"a part of a frameset":           {"/menu", []string{"Sec-Fetch-Dest", "frame", "Sec-Fetch-Site", "same-origin"}, `href="/" `},
		"one that is an old link":        {"/one-click/acme-secret-token-1/x", []string{"Sec-Fetch-Dest", "frame", "Sec-Fetch-Site", "same-origin"}, `href="/" `},
		"a frame within a page":          {"/report", []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "same-origin"}, `href="/report" `},
		"a frame on the firm's website":  {"/report", []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}, `href="/report" `},
		"a frameset of another site":     {"/report", []string{"Sec-Fetch-Dest", "frame", "Sec-Fetch-Site", "cross-site"}, `href="/report" `},
		"an old link on another website": {"/one-click/acme-secret-token-1/x", []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}, `href="/-/go?x=`},
	} {
		if a := h.browser().open(c.path, c.headers...); a.StatusCode != 401 || !strings.Contains(a.body, c.want) || strings.Contains(a.body, "secret-token") {
			t.Errorf("%s = %d; want a link with %s\n%s", name, a.StatusCode, c.want, a.body)
		}
	}
}
