package gate

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/assertion"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

func TestH09_TrailersAndH2CGoNoFurther(t *testing.T) {
	r := httptest.NewRequest("POST", "/", nil)
	r.Trailer = http.Header{"Remote-User": nil}
	r.Header.Set("Trailer", "Remote-User")
	r.Header.Set("Upgrade", "H2C")
	r.Header.Set("Http2-Settings", "x")
	upstream.StripIdentity(r)
	if r.Trailer != nil || len(r.Header) != 0 {
		t.Errorf("left: trailer %v, header %v; want none", r.Trailer, r.Header)
	}
}

func TestH14_HeaderValues(t *testing.T) {
	for in, want := range map[string]string{
		"Ann Baker":                      "Ann Baker",
		"Ann\r\nRemote-User: admin":      "AnnRemote-User: admin",
		"Zoë\x00":                        "Zoë",
		"\u202eevil":                     "evil",
		"\xff\xfe":                       "",
		"  ":                             "",
		strings.Repeat("é", 4096)[:8000]: strings.Repeat("é", 4000), // never cut
	} {
		if got := upstream.HeaderValue(in); got != want {
			t.Errorf("headerValue(%.40q) = %.40q; want %.40q", in, got, want)
		}
	}
}

func TestH13_ThePortalCantSetOurCookies(t *testing.T) {
	u, _ := url.Parse("https://portal.example")
	rec := httptest.NewRecorder()
	w := &portalWriter{ResponseWriter: rec, gate: &Gate{URL: u, cookies: web.CookiesFor(u), bound: portalCookies(t)}, private: true, ctx: t.Context()}
	w.Header()["Set-Cookie"] = []string{"__Host-portal=x; Path=/", "sid=7", "__host-portal-FLOW =y", "=__Host-portal=x; Path=/",
		" = __Host-portal =x", "__Host-portal", "__Host-portal; Path=/", "\t__Host-portal\t=x"}
	w.WriteHeader(200)
	if got := rec.Result().Header["Set-Cookie"]; !slices.Equal(got, []string{"sid=7"}) {
		t.Errorf("Set-Cookie = %q; want sid=7 alone", got)
	}
	if got := rec.Result().Header.Get("Cache-Control"); got != "private, no-cache" {
		t.Errorf("Cache-Control = %q; want private, no-cache", got)
	}
}

// What the portal is told is never more than a server's limits allow, and never a part of a list,
// whatever the lengths of names and ids, and the headers are as many bytes as they were taken for.
func TestH14_AListIsToldAsAWholeOrNotAtAll(t *testing.T) {
	g, _, _ := benchGate(t)
	for _, name := range []string{"", "Ann Baker", strings.Repeat("é", 200), strings.Repeat("<", 200)} {
		for _, id := range []int{3, 20, 63} {
			told := false
			for n := 400; n >= 0; n = n * 9 / 10 {
				var companies []string
				for i := range n {
					companies = append(companies, (fmt.Sprintf("%03d", i) + strings.Repeat("x", 60))[:id])
				}
				c := directory.Contact{ID: strings.Repeat("i", 32), Emails: []address.Address{"ann@example.com"}, FirstName: name, Role: directory.Client, Companies: companies}
				v := &Visitor{Live: &session.Live{Session: session.Session{Handle: strings.Repeat("h", 26), Method: "password"}}, Contact: c, firm: "example"}
				v.tell(g.Assertion.Origin, nil)
				jwt, err := g.Assertion.Sign(t.Context(), v.claims(upstream.LongestID))
				if err != nil {
					t.Fatal(err)
				}
				h := http.Header{}
				v.told.SetOn(h, jwt, upstream.LongestID)
				var sent bytes.Buffer
				h.Write(&sent)
				groups, companiesTold := h.Get("Remote-Groups"), len(v.companies) > 0
				if sent.Len() > upstream.MaxIdentity || groups != "" && groups != strings.Join(companies, ",") || companiesTold != (groups != "") || (v.omitted > 0) != (n > 0 && groups == "") {
					t.Fatalf("a name of %d bytes, %d ids of %d: %d bytes of headers, Remote-Groups of %d, %d left out", len(name), n, id, sent.Len(), len(groups), v.omitted)
				}
				if told = told || groups != ""; told && n > 0 && groups == "" {
					t.Fatalf("a name of %d bytes, ids of %d: fewer than were told aren't", len(name), id)
				}
				if size := assertion.SizeOf(v.claims(upstream.LongestID), g.Assertion.Origin); size < len(jwt) || size > len(jwt)+60 {
					t.Fatalf("SizeOf = %d of an assertion of %d bytes", size, len(jwt))
				}
				if n == 0 {
					break
				}
			}
			if !told {
				t.Errorf("a name of %d bytes, ids of %d: not even one company is told", len(name), id)
			}
		}
	}
}

// A handler that flushes before it writes sends the header out, too.
func TestH13_NorByFlushing(t *testing.T) {
	u, _ := url.Parse("https://portal.example")
	rec := httptest.NewRecorder()
	w := &portalWriter{ResponseWriter: rec, gate: &Gate{URL: u, cookies: web.CookiesFor(u), bound: portalCookies(t)}, private: true, ctx: t.Context()}
	w.Header()["Set-Cookie"] = []string{"__Host-portal=x"}
	if err := http.NewResponseController(w).Flush(); err != nil || !rec.Flushed {
		t.Fatalf("Flush = %v, flushed %t; want it passed on", err, rec.Flushed)
	}
	if got := rec.Result().Header; len(got["Set-Cookie"]) != 0 || got.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("header = %v; want no cookie, and private", got)
	}
}

// Caddy's header directives replace within a value in place: what they change is one
// request's, and not the next one's or another visitor's.
func TestH01_ValuesBelongToOneRequest(t *testing.T) {
	var id upstream.Identity
	id.Add("Remote-User", "ann@example.com")
	id.Add("Remote-Groups", "acme")
	first, second := http.Header{}, http.Header{}
	id.SetOn(first, "", "")
	if len(first["Remote-User"]) != 1 {
		t.Errorf("Remote-User = %q; want one value", first["Remote-User"])
	}
	first["Remote-User"][0] = "changed"
	first["Remote-User"] = append(first["Remote-User"], "more")
	id.SetOn(second, "", "")
	if got := first["Remote-User"]; got[0] != "changed" {
		t.Errorf("the next request has changed the first one's Remote-User to %q", got)
	}
	if got := second.Get("Remote-User"); got != "ann@example.com" || first.Get("Remote-Groups") != "acme" {
		t.Errorf("the next request has Remote-User %q; the first one Remote-Groups %q", got, first.Get("Remote-Groups"))
	}
	u, _ := url.Parse("https://portal.example")
	for range 2 {
		w := &portalWriter{ResponseWriter: httptest.NewRecorder(), gate: &Gate{URL: u, cookies: web.CookiesFor(u), bound: portalCookies(t)}, private: true, ctx: t.Context()}
		w.WriteHeader(200)
		if got := w.Header().Get("Cache-Control"); got != "private, no-cache" {
			t.Errorf("Cache-Control = %q; want private, no-cache", got)
		}
		w.Header()["Cache-Control"][0] = "changed"
	}
}

// Headers that the firm leaves out take no room from the others, and the list in the assertion is complete, too.
func TestH14_WhatIsNotWantedTakesNoRoom(t *testing.T) {
	g, _, _ := benchGate(t)
	var companies []string
	for i := range 90 {
		companies = append(companies, fmt.Sprintf("company-%03d-%s", i, strings.Repeat("x", 30)))
	}
	c := directory.Contact{ID: strings.Repeat("i", 32), Emails: []address.Address{"ann@example.com"}, Role: directory.Client, Companies: companies}
	for _, one := range []struct {
		wanted          upstream.Wanted
		listed, claimed bool
	}{
		{nil, false, false},
		{upstream.Wanted{"Remote-User", "Remote-Groups"}, true, true},
		{upstream.Wanted{"Remote-User", "Portal-Assertion"}, false, true},
		{upstream.Wanted{"Remote-User"}, false, true},
	} {
		v := &Visitor{Live: &session.Live{Session: session.Session{Handle: strings.Repeat("h", 26), Method: "link"}}, Contact: c, firm: "example"}
		v.tell(g.Assertion.Origin, one.wanted)
		h := http.Header{}
		v.told.SetOn(h, "", "")
		omitted := one.wanted.Has("Remote-Groups") && !one.listed
		if listed := h.Get("Remote-Groups") != ""; listed != one.listed || (len(v.companies) > 0) != one.claimed || (h.Get("Portal-Groups-Omitted") != "") != omitted {
			t.Errorf("wanted %v: %d bytes of Remote-Groups, %d companies in the assertion, Portal-Groups-Omitted: %q", one.wanted, len(h.Get("Remote-Groups")), len(v.companies), h.Get("Portal-Groups-Omitted"))
		}
	}
}
