package caddymodule_test

// Class R: after a sign-in, visitors are redirected only within this site, whatever target they
// gave.
//
// Not here: R04 (no other origin can be allowed); R09's signed parameters (there are none: the
// target is in the store). Unit tests are in gate/classify_test.go.

import (
	"net/url"
	"strings"
	"testing"
)

// elsewhere are spellings of other origins that a browser, a proxy or an application could
// understand, by class.
var elsewhere = map[string][]string{
	"another origin":    {"https://evil.example", "HTTPS://evil.example/", "http:evil.example", "https:/evil.example", "https:///evil.example", "https:evil.example"},
	"another scheme":    {"javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "ftp://evil.example", "x://y", "java\nscript:alert(1)"},
	"two slashes":       {"//evil.example", "///evil.example", "////evil.example", "//evil.example/%2e%2e", "//evil.example@portal.example", "//[::1]/", "//0x7f000001/"},
	"backslashes":       {`/\evil.example`, `\\evil.example`, `\/evil.example`, `/\/evil.example`, `/\\evil.example`, `/./\evil.example`, `/./../../\evil.example`, `/x/..\evil.example`},
	"encoded":           {"/%5cevil.example", "/%5Cevil.example", "/%2fevil.example", "/%2Fevil.example", "%2f%2fevil.example", "/%2f%2fevil.example", "/%252fevil.example", "/%25252fevil.example", "/%255cevil.example"},
	"dots":              {"/.//evil.example", "/..//evil.example", "/x/..//evil.example", "/.%2f/evil.example", "/%2e%2f/evil.example", "/;/../\\evil.example", "./evil", "../evil", "."},
	"white space":       {" https://evil.example", "/\thttps://evil.example", "/\t/evil.example", "/\n/evil.example", "/\r/evil.example", "\t//evil.example", "/ /evil.example", "/%09/evil.example", "/%0a/evil.example", "/%0d%0aLocation:%20x", "\u00a0//evil.example", "\u3000//evil.example"},
	"control":           {"/\x00/evil.example", "/%00/evil.example", "\x01//evil.example", "/\x7f/evil.example"},
	"look-alikes":       {"/\u2044evil.example", "//\u3002evil.example", "/\uff0fevil.example", "\uff0f\uff0fevil.example", "/\u2215/evil.example"},
	"nothing":           {"", " ", "?", "#", "?//evil.example", "#//evil.example", "@evil.example", "evil.example", ".evil.example", ":@evil.example", "//"},
	"our own origin":    {"http://portal.example/x", "//portal.example/x", "https://portal.example:443/"},
	"a page of ours":    {"/-/sign-out", "/-/link?t=x", "/-/sign-in?to=//evil.example", "/-", "/-/", "/%2d/sign-out", "/%252d/sign-out", "/x/../-/sign-out", "/-;x/sign-out", "/-/SIGN-OUT", "/.//-/sign-out", "/-/reports/../sign-out", `/x\..\..\-\sign-out`},
	"much of it":        {"/" + strings.Repeat("a", 5000), "/" + strings.Repeat("/", 2000), strings.Repeat("/%2f", 900)},
	"what isn't UTF-8":  {"/\xff/\xfe", "/\xc0\xaf/evil.example", "/%c0%af/evil.example", "/%c0%ae%c0%ae/%c0%af/evil.example"},
	"placeholders":      {"/{env.HOME}", "/{http.request.host}", "{http.request.header.Cookie}"},
	"what looks nearly": {"/x:@evil.example", "/x@evil.example", "/evil.example", "/?to=//evil.example", "/#//evil.example", "/&lt;script&gt;", `/"onmouseover="x`},
}

// stays reports whether a browser that follows a Location stays on the site, by the URL standard.
func stays(location string) bool {
	s := strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(strings.TrimFunc(location, func(c rune) bool { return c <= ' ' }))
	return strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && !strings.HasPrefix(location, " ")
}

// R01, R02, CVE-2020-4037, CVE-2020-5233, CVE-2020-11053, CVE-2021-21291: `to`, in each place.
func TestR01_CVE_2020_11053_RedirectsStayOnTheSite(t *testing.T) {
	h := openHouse(t, layout{})
	bob := h.in("bob@example.com")
	for class, all := range elsewhere {
		for _, to := range all {
			query := "/-/sign-in?to=" + url.QueryEscape(to)
			a := bob.open(query)
			location := a.Header.Get("Location")
			if a.StatusCode != 303 && len(to) < 5000 || !stays(location) || strings.HasPrefix(location, "/-") {
				t.Errorf("%s: signed in, to=%.60q = %d to %q; want a path on the site", class, to, a.StatusCode, location)
			}
			if a := h.browser().open(query); !stays(valueOf(a.body, "to")) {
				t.Errorf("%s: to=%.60q: the prompt goes on to %q", class, to, valueOf(a.body, "to"))
			}
			if a := h.browser().send("/-/sign-in", form("email", "not an address", "to", to)); a.StatusCode != 400 || strings.Contains(a.body, `name="to"`) && !stays(valueOf(a.body, "to")) {
				t.Errorf("%s: to=%.60q, typed wrong: %d, the prompt goes on to %q", class, to, a.StatusCode, valueOf(a.body, "to"))
			}
		}
	}
	if a := bob.open("/-/sign-in?to=" + url.QueryEscape("/orders/7?a=1&b=%20#total")); a.Header.Get("Location") != "/orders/7?a=1&b=%20#total" {
		t.Errorf("an honest `to` becomes %q", a.Header.Get("Location"))
	}
	if a := bob.open("/-/sign-in?to=/a&to=//evil.example"); !stays(a.Header.Get("Location")) {
		t.Errorf("two of them become %q", a.Header.Get("Location"))
	}
}

// The whole way: requested with it, mailed, followed; by link and by code.
func TestR01_TheWholeWay(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for _, to := range []string{"//evil.example", `/\evil.example`, "https://evil.example", "/%2f%2fevil.example", "javascript:alert(1)", "/.//evil.example",
		"/-/sign-out", "/\tx", "/\n//evil.example", "/" + strings.Repeat("a", 5000)} {
		b := h.browser()
		if a := b.open(b.ask("ann@example.com", to).link); a.StatusCode != 303 || a.Header.Get("Location") != "/" {
			t.Errorf("to=%.40q, by link: %d to %q; want 303 to /", to, a.StatusCode, a.Header.Get("Location"))
		}
		b = h.browser()
		if a := b.send("/-/code", form("code", b.ask("ann@example.com", to).code)); a.StatusCode != 303 || a.Header.Get("Location") != "/" {
			t.Errorf("to=%.40q, by code: %d to %q; want 303 to /", to, a.StatusCode, a.Header.Get("Location"))
		}
	}
	b := h.browser()
	if a := b.open(b.ask("ann@example.com", "/orders/7?a=1&b=%20#total").link); a.Header.Get("Location") != "/orders/7?a=1&b=%20#total" {
		t.Errorf("an honest `to` leads to %q", a.Header.Get("Location"))
	}
}

// CVE-2022-28923: the requested URL is stored, so it is a `to` as well.
func TestR07_CVE_2022_28923_TheRequestedURL(t *testing.T) {
	h := openHouse(t, layout{})
	for _, target := range []string{"//evil.example/%2e%2e", "//evil.example/x", "/\\evil.example", "///evil.example", "/%5cevil.example", "/%2f%2fevil.example",
		"/.//evil.example", "/x/..//evil.example", "//evil.example@x/", "/%09/evil.example", "//", "/.%2f/evil"} {
		a := h.get(target)
		to := valueOf(a.body, "to")
		if a.status != 401 && a.status != 400 || a.status == 401 && (!stays(to) || strings.Contains(to, "//")) {
			t.Errorf("GET %s = %d, and on to %q", target, a.status, to)
		}
		if a := h.get(target, "Sec-Fetch-Dest: iframe", "Sec-Fetch-Mode: navigate"); a.status == 401 && strings.Contains(a.body, `href="//`) {
			t.Errorf("GET %s in a frame: a link to //", target)
		}
		a = h.raw(h.message("POST", target, "Accept: text/html", "Sec-Fetch-Site: same-origin", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 3") + "a=b")
		if strings.Contains(a.body, `action="//`) || strings.Contains(a.body, `action="/\`) {
			t.Errorf("POST %s: the form that is held goes to another origin", target)
		}
	}
	if a := h.get("/orders/7?a=1&b=%20"); valueOf(a.body, "to") != "/orders/7?a=1&b=%20" {
		t.Errorf("GET /orders/7 remembers %q", valueOf(a.body, "to"))
	}
}

// CVE-2024-21497: no cookie contains the target, so none can be changed.
func TestR08_CVE_2024_21497_NoCookieContainsTheTarget(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	b.ask("ann@example.com", "/orders/7")
	u, _ := url.Parse(h.url)
	for _, c := range b.client.Jar.Cookies(u) {
		if len(c.Value) != 43 {
			t.Errorf("cookie %s=%s; want an opaque id alone", c.Name, c.Value)
		}
	}
	for _, cookie := range []string{"AUTHP_REDIRECT_URL=https://evil.example", "portal-flow=https://evil.example", "to=//evil.example", "rd=//evil.example"} {
		if a := h.get("/orders/7", "Cookie: "+cookie); valueOf(a.body, "to") != "/orders/7" {
			t.Errorf("Cookie: %s: on to %q", cookie, valueOf(a.body, "to"))
		}
	}
}

func TestR10_SigningOutRedirectsWithinTheSite(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for _, to := range []string{"https://www.google.fr", "http://portal.example/", "https://public.example.com.a:8080/", "//evil.example"} {
		b := h.in("bob@example.com")
		query := "?to=" + url.QueryEscape(to) + "&rd=" + url.QueryEscape(to)
		a := b.send("/-/sign-out"+query, form("to", to, "rd", to))
		if a.StatusCode != 303 || a.Header.Get("Location") != "/-/sign-out" || b.me() != nil {
			t.Errorf("sign-out with %s = %d to %q; want 303 to /-/sign-out", to, a.StatusCode, a.Header.Get("Location"))
		}
		if a := b.open("/-/sign-out" + query); strings.Contains(a.body, to) {
			t.Errorf("the page after it has %s", to)
		}
	}
}
