package caddymodule_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// Guessing tokens of open companies is limited: after too many wrong ones, right ones require
// sign-in like wrong ones.
func TestT11_GuessesAtOldLinksAreLimited(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{global: behindProxy, app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.upgrade("birch")
	const bad, right = "192.0.2.7", "/one-click/acme-secret-token-1/start"
	member, visitor := h.in("bob@example.com").at(bad), h.browser().at(bad)
	if a := visitor.open(right); a.StatusCode != 200 {
		t.Fatalf("an open company's old link = %d; want 200", a.StatusCode)
	}
	b := h.browser()
	get := func(path string) func(int) *http.Request {
		return func(i int) *http.Request {
			return b.request("GET", strings.ReplaceAll(path, "NUMBER", fmt.Sprint(i)), nil, "X-Forwarded-For", bad)
		}
	}
	h.storm(200, get("/one-click/of-long-ago/logo.png")) // a page reloaded again and again, with pictures
	if a := h.browser().open(right, "X-Forwarded-For", bad); a.StatusCode != 200 {
		t.Errorf("after 200 requests with one wrong token, the right one = %d; want 200", a.StatusCode)
	}
	h.storm(10, get("/one-click/birch-secret-token/start")) // counts as wrong once
	h.storm(150, get("/one-click/guess-NUMBER/start"))
	h.storm(30, get("/view?client=more-NUMBER"))
	wrong := h.browser().open("/one-click/wrong-secret-token-/start", "X-Forwarded-For", bad)
	a := h.browser().open(right, "X-Forwarded-For", bad)
	if a.StatusCode != 302 || !goneForm.MatchString(goes(a)) || len(goes(a)) != len(goes(wrong)) || wrong.StatusCode != 302 {
		t.Errorf("the right token from where too many were wrong = %d to %s, a wrong one = %d to %s; want the same", a.StatusCode, goes(a), wrong.StatusCode, goes(wrong))
	}
	if next := h.browser().open(goes(a), "X-Forwarded-For", bad); next.StatusCode != 401 {
		t.Errorf("where it leads to = %d; want 401, the prompt", next.StatusCode)
	}
	if len(a.Header["Set-Cookie"]) != 0 {
		t.Errorf("it sets %q; want no visit", a.Header["Set-Cookie"])
	}
	for name, a := range map[string]answer{
		"from another network":                h.browser().open(right, "X-Forwarded-For", "198.51.100.1"),
		"of who has been there before":        visitor.open(right),
		"of a member of the company":          member.open(right),
		"another page, of who has been there": visitor.open("/orders"),
	} {
		if a.StatusCode != 200 {
			t.Errorf("the right token %s = %d; want 200", name, a.StatusCode)
		}
	}
	caddymodule.Advance(t, time.Minute)
	if a := h.browser().open(right, "X-Forwarded-For", bad); a.StatusCode != 200 {
		t.Errorf("the right token a minute later = %d; want 200", a.StatusCode)
	}
}

// The doctor counts guessable tokens of open companies only, and shows no token.
func TestDoctorReportsGuessableTokens(t *testing.T) {
	h := openHouse(t, layout{firm: oldLinks, admin: freeAddress(t),
		companies: "id,name,legacy_tokens\nacme,Acme Ltd,acme-1; acme-2\nbirch,Birch & Sons,birch-secret-token\ncedar,Cedar Inc,hb7Qm2xVt9Kp4Rz\n"})
	find := func() admin.Finding {
		d, err := h.office().Doctor(t.Context())
		at := slices.IndexFunc(d.Findings, func(f admin.Finding) bool { return f.Check == "tokens" })
		if err != nil || at < 0 {
			t.Fatalf("the doctor finds %+v, %v; want something about tokens", d, err)
		}
		return d.Findings[at]
	}
	h.upgrade("birch")
	if f := find(); f.OK || !strings.HasSuffix(f.What, ": 2") || !strings.HasSuffix(f.Do, ": acme") || strings.Contains(f.What+f.Do, "acme-") {
		t.Errorf("the doctor finds %+v; want two tokens of acme, not shown", f)
	}
	h.upgrade("acme")
	if f := find(); !f.OK {
		t.Errorf("after the upgrade, the doctor finds %+v; want nothing wrong", f)
	}
}

// Forms and cookies with very many values are checked like others and pass: nothing is looked up
// for them.
func TestFormsAndCookiesFullOfTokens(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: strings.Replace(oldLinks, "/assets/*", "/assets/* /contact", 1), companies: oldCompanies, admin: freeAddress(t)})
	m.moveInto(h)
	h.upgrade("acme", "birch")
	bob := h.in("bob@example.com")
	values := func(n int, token, separator string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf("client=guess-%d", i)
		}
		all[n/2] = "client=" + token
		return strings.Join(all, separator)
	}
	const birchs = "birch-secret-token"
	for path, b := range map[string]*browser{"/contact": h.browser(), "/orders": bob} {
		form := values(5000, birchs, "&")
		a := b.do(b.request("POST", path, strings.NewReader(form), "Content-Type", "application/x-www-form-urlencoded", "Origin", h.url, "Sec-Fetch-Site", "same-origin"))
		before, after, _ := strings.Cut(form, birchs)
		if got := h.portal.lastPost().Body; a.StatusCode != 200 || len(got) != len(form) || !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after) || strings.Contains(got, birchs) {
			t.Errorf("POST %s with 5,000 values = %d, and the portal gets %d bytes of %d; want all but the token", path, a.StatusCode, len(got), len(form))
		}
	}
	for path, b := range map[string]*browser{"/assets/logo.png": h.browser(), "/orders": bob} {
		a := b.open(path, "Cookie", "lang=en; "+values(500, birchs, "; ")+"; theme=dark; "+b.session())
		seen, _ := h.portal.last()
		got := seen.Header.Get("Cookie")
		if n := strings.Count(got, "client=guess-"); a.StatusCode != 200 || n != 499 || !strings.HasPrefix(got, "lang=en; client=guess-0; ") || !strings.Contains(got, "; theme=dark") || strings.Contains(got, birchs) {
			t.Errorf("GET %s with 500 cookies = %d, and the portal gets %d of them; want all but the token", path, a.StatusCode, n)
		}
	}
}
