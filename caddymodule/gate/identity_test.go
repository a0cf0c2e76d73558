package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
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
		strings.Repeat("é", 4096)[:8000]: strings.Repeat("é", 4000), // never truncated
	} {
		if got := upstream.HeaderValue(in); got != want {
			t.Errorf("headerValue(%.40q) = %.40q; want %.40q", in, got, want)
		}
	}
}

func TestH13_ThePortalCantSetOurCookies(t *testing.T) {
	u, _ := url.Parse("https://portal.example")
	rec := httptest.NewRecorder()
	w := &portalWriter{ResponseWriter: rec, gate: portalGate(u, portalCookies(t)), private: true, ctx: t.Context()}
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

// A handler that flushes before it writes sends the header, too.
func TestH13_NorByFlushing(t *testing.T) {
	u, _ := url.Parse("https://portal.example")
	rec := httptest.NewRecorder()
	w := &portalWriter{ResponseWriter: rec, gate: portalGate(u, portalCookies(t)), private: true, ctx: t.Context()}
	w.Header()["Set-Cookie"] = []string{"__Host-portal=x"}
	if err := http.NewResponseController(w).Flush(); err != nil || !rec.Flushed {
		t.Fatalf("Flush = %v, flushed %t; want it passed on", err, rec.Flushed)
	}
	if got := rec.Result().Header; len(got["Set-Cookie"]) != 0 || got.Get("Cache-Control") != "private, no-cache" {
		t.Errorf("header = %v; want no cookie, and private", got)
	}
}

// Caddy's header directives replace text within a value in place: that must affect only one
// request, not the next one or another visitor's.
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
		w := &portalWriter{ResponseWriter: httptest.NewRecorder(), gate: portalGate(u, portalCookies(t)), private: true, ctx: t.Context()}
		w.WriteHeader(200)
		if got := w.Header().Get("Cache-Control"); got != "private, no-cache" {
			t.Errorf("Cache-Control = %q; want private, no-cache", got)
		}
		w.Header()["Cache-Control"][0] = "changed"
	}
}
