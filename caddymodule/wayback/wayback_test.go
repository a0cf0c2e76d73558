package wayback

import (
	"net/url"
	"strings"
	"testing"
)

var testWays = &Ways{Prefix: "/-", AllowedPages: []string{"/companies", "/account", "/reports/*"}}

func TestSafe(t *testing.T) {
	for to, want := range map[string]string{
		"":                                 "/",
		"/":                                "/",
		"/orders/7?tab=2#total":            "/orders/7?tab=2#total",
		"/a?u=https://elsewhere/":          "/a?u=https://elsewhere/",
		"/caf%C3%A9":                       "/caf%C3%A9",
		"/a%20b":                           "/a%20b",
		"/a b":                             "/",
		"orders/7":                         "/",
		"//evil.example":                   "/",
		"/\\evil.example":                  "/",
		"/%5cevil.example":                 "/",
		"/%2fevil.example":                 "/",
		"/%2f%2fevil.example":              "/",
		"/./\\evil.example":                "/",
		"/.//evil.example":                 "/",
		"/%252f%252fevil.example":          "/",
		"/x//evil.example":                 "/",
		"https://evil.example":             "/",
		"javascript:alert(1)":              "/",
		"/\tevil":                          "/",
		"/%09/evil.example":                "/%09/evil.example",
		"/\x00":                            "/",
		"/-/sign-out":                      "/",
		"/-/link?t=x":                      "/",
		"/-":                               "/",
		"/-/":                              "/",
		"/%2d/sign-out":                    "/",
		"/x/../-/sign-out":                 "/",
		"/-/companies":                     "/-/companies",
		"/-/account":                       "/-/account",
		"/-/companies/../sign-out":         "/",
		"/-/;/..":                          "/", // browsers read the semicolon as part of a segment's name, other readers drop it
		"/x;/../-/sign-out":                "/",
		"/x/;/..;y/-/sign-out":             "/",
		"/-/nothing/here":                  "/",
		"/" + strings.Repeat("é", maxTo/4): "/",
		"/-x/y":                            "/-x/y",
		"/" + strings.Repeat("a", maxTo):   "/",
	} {
		if to == "/%09/evil.example" {
			want = "/" // an escaped control character
		}
		if got := testWays.Safe(to); got != want {
			t.Errorf("Safe(%q) = %q; want %q", to, got, want)
		}
	}
}

// Whatever the untrusted parameter to contains, the browser stays on this site.
func FuzzSafe(f *testing.F) {
	for _, seed := range []string{"/", "//evil", "/\\evil", "/%5c", "/./\\evil", "/a?b#c", "https://evil", "/\u2028/", "/%ff", "/.%2f/evil", "/;@evil", "/-/link", "/-/;/..", "/;/-/;/.."} {
		f.Add(seed)
	}
	base, _ := url.Parse("https://portal.example")
	f.Fuzz(func(t *testing.T, to string) {
		got := testWays.Safe(to)
		if got == "" || got[0] != '/' || strings.HasPrefix(got, "//") || strings.ContainsAny(got, "\\\r\n\x00") {
			t.Fatalf("Safe(%q) = %q", to, got)
		}
		u, err := base.Parse(got)
		if err != nil || u.Host != base.Host || u.Scheme != "https" || u.User != nil {
			t.Fatalf("Safe(%q) = %q, which leads to %v, %v", to, got, u, err)
		}
		if testWays.isReserved(u.Path) {
			t.Fatalf("Safe(%q) = %q, a page of ours", to, got)
		}
		if again := testWays.Safe(got); again != got {
			t.Fatalf("Safe(%q) = %q, and of that %q", to, got, again)
		}
	})
}
