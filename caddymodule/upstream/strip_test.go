package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// GHSA-7r4p-vjf4-gxv4, CVE-2025-64484, CVE-2026-52845: a visitor's identity header never reaches
// the portal, in any spelling that an application could take for the gate's.
func TestH03_ReservedHeadersAreRemovedInEverySpelling(t *testing.T) {
	names := []string{"Remote-User", "Remote-Email", "Remote-Name", "Remote-Groups",
		"Portal-Company", "Portal-Role", "Portal-Firm", "Portal-Assertion", "Portal-Anything", "Portal-",
		"Forwarded", "Proxy", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method",
		"X-Auth-Request-User", "X-Auth-Request-", "X-Auth-Request-" + strings.Repeat("x", 100), "Portal-" + strings.Repeat("x", 100),
		"X-Original-URL", "X-Rewrite-URL", "Script-Name", "Path-Info", "Daphne-Root-Path", "X-Script-Name", "X-Forwarded-Script-Name", "X-Forwarded-Path",
		"X-Forwarded-PathBase", "X-Traversal-Path", "X-Vhm-Root", "X-Vhm-Host"}
	for _, name := range names {
		for _, spelling := range []string{name, strings.ToLower(name), strings.ToUpper(name),
			strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.Replace(name, "-", "_", 1),
			strings.ToUpper(strings.ReplaceAll(name, "-", "_")), strings.ReplaceAll(name, "-", "~"), strings.ReplaceAll(name, "-", "!"),
			strings.Replace(name, "-", "'", 1)} {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header[spelling] = []string{"admin"}
			StripIdentity(r)
			if len(r.Header) != 0 {
				t.Errorf("stripIdentity leaves %v", r.Header)
			}
		}
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Accept", "Cookie", "Authorization",
		"Remote-Port", "Portalx", "Proxy-Authorization", "X-Real-Ip", "User-Agent", "Range", "X-Requested-With"} {
		if isReserved(name) {
			t.Errorf("reserved(%q) = true; want false", name)
		}
	}
}

// CVE-2024-45410: Connection can't remove headers that the gate or Caddy sets.
func TestH05_ConnectionRemovesNoReservedHeader(t *testing.T) {
	for line, want := range map[string]string{
		"close, Remote-User, X-Forwarded-For": "close",
		"remote_user":                         "",
		"keep-alive, Upgrade":                 "keep-alive, Upgrade",
		"Portal-Assertion,cookie, X-Custom":   "X-Custom",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Connection", line)
		StripIdentity(r)
		if got := r.Header.Get("Connection"); got != want {
			t.Errorf("Connection: %s becomes %q; want %q", line, got, want)
		}
	}
}

func TestH12_GateCookiesNeverReachThePortal(t *testing.T) {
	b := newCookies(t)
	for in, want := range map[string]string{
		"a=1; __Host-portal=s; b=2":                             "a=1; b=2",
		"__Host-portal=s":                                       "",
		"__Host-portal-flow=x; __Host-portal-device=y; sid=7":   "sid=7",
		"a=1;b=2;  c=3":                                         "a=1;b=2;  c=3",
		"__host-PORTAL=s; a=__Host-portal":                      "a=__Host-portal",
		"x__Host-portal=s; __Host-portalx=t; portal=u":          "x__Host-portal=s; __Host-portalx=t; portal=u",
		"__Host-portal-visit=v;__Host-portal=a;__Host-portal=b": "",
	} {
		h := http.Header{"Cookie": {in}}
		if err := b.Unseal(t.Context(), h, nil); err != nil {
			t.Fatal(err)
		}
		if got := h.Get("Cookie"); got != want {
			t.Errorf("Cookie: %s becomes %q; want %q", in, got, want)
		}
	}
}
