package caddymodule_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// firmSite is one of two firms in one Caddy, with the credentials of its visitors.
type firmSite struct {
	base, prefix string
	portal       *portal
	session      string // of ann, who is signed in
	flow         string // of a browser that requested link and code
	email        string // known only to this firm
	link, token  string
	code         string
	assertion    string
}

var anyLink = regexp.MustCompile(`https?://\S+/link\?t=([a-z2-7]{26})`)

// twoFirms opens a house with two firms, with one store and one mail folder.
func twoFirms(t *testing.T) (*house, [2]*firmSite) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.csv": "email\nboth@example.com\nonly-a@example.com\n",
		"b.csv": "email\nboth@example.com\nonly-b@example.com\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := &firmSite{base: "http://" + freeAddress(t), prefix: "/door", portal: newPortal(t), email: "only-b@example.com"}
	h := openHouse(t, layout{admin: freeAddress(t), contacts: "email,role\nboth@example.com,client\nonly-a@example.com,client\nstaff-a@example.com,staff\n", more: fmt.Sprintf(
		"%s {\n doorpost other {\n url %s\n prefix /door\n contacts %s\n brand {\n name Other\n from other@example.org\n }\n }\n reverse_proxy %s\n}\n",
		second.base, second.base, filepath.Join(dir, "b.csv"), strings.TrimPrefix(second.portal.URL, "http://"))})
	first := &firmSite{base: h.url, prefix: "/-", portal: h.portal, email: "only-a@example.com"}
	for _, f := range []*firmSite{first, second} {
		in := f.ask(t, h, "both@example.com")
		f.session = in.browser.enters(t, f.base, in.link)
		f.raw(t, h, "GET", "/whoami", nil, "portal="+f.session)
		got, _ := f.portal.last()
		f.assertion = got.Header.Get("Portal-Assertion")
		if f.assertion == "" || got.Header.Get("Remote-User") != "both@example.com" {
			t.Fatalf("%s: the portal got %v", f.base, got.Header)
		}
		waiting := f.ask(t, h, f.email)
		f.flow, f.link, f.code = waiting.flow, waiting.link, waiting.code
		f.token = anyLink.FindStringSubmatch(f.link)[1]
	}
	return h, [2]*firmSite{first, second}
}

type pending struct {
	browser          *browser
	flow, link, code string
}

// ask requests a mail in a new browser.
func (f *firmSite) ask(t *testing.T, h *house, email string) pending {
	t.Helper()
	b := &browser{&house{t: t, url: f.base, dir: h.dir}, h.browser().client}
	before := len(h.letters(email))
	if a := b.send(f.prefix+"/sign-in", url.Values{"email": {email}}); a.StatusCode != 303 {
		t.Fatalf("%s: POST sign-in = %d; want 303", f.base, a.StatusCode)
	}
	l := h.nextLetter(email, before)
	p := pending{b, b.cookie("portal-flow"), anyLink.FindString(l.text), codePattern.FindString(anyLink.ReplaceAllString(l.text, ""))}
	if p.flow == "" || p.code == "" || !strings.HasPrefix(p.link, f.base+f.prefix) {
		t.Fatalf("%s: flow %q, code %q, link %q", f.base, p.flow, p.code, p.link)
	}
	return p
}

// enters opens a link and returns the new session.
func (b *browser) enters(t *testing.T, base, link string) string {
	t.Helper()
	if a := b.open(strings.TrimPrefix(link, base)); a.StatusCode != 303 {
		t.Fatalf("GET link = %d; want 303", a.StatusCode)
	}
	return b.cookie("portal")
}

// raw sends one request to the firm's site with only these cookies.
func (f *firmSite) raw(t *testing.T, h *house, method, path string, form url.Values, cookies string) answer {
	t.Helper()
	client := *h.browser().client
	client.Jar = nil
	b := &browser{&house{t: t, url: f.base}, &client}
	if method == "POST" {
		return b.send(path, form, "Cookie", cookies)
	}
	return b.open(path, "Cookie", cookies)
}

// cookiesOf returns the cookies that an answer sets to a value.
func cookiesOf(a answer) []string {
	var names []string
	for _, c := range a.Cookies() {
		if c.Value != "" {
			names = append(names, c.Name)
		}
	}
	return names
}

// Credentials of one firm are worthless at the other, on every route.
func TestCredentialsOfOneFirmAreWorthlessAtAnother(t *testing.T) {
	h, firms := twoFirms(t)
	for i, at := range firms {
		of := firms[1-i] // the credentials' firm
		session, flow := "portal="+of.session, "portal-flow="+of.flow
		all := session + "; " + flow + "; portal-device=" + of.flow + "; portal-visit=" + of.session
		p := at.prefix
		for _, c := range []struct {
			name, method, path string
			form               url.Values
			cookies            string
			status             int
			location           string
			sets               []string // cookies
		}{
			{"the portal", "GET", "/x", nil, all, 401, "", nil},
			{"the portal, a form", "POST", "/x", url.Values{"a": {"b"}}, all, 401, "", nil},
			{"the other's pages", "GET", of.prefix + "/me", nil, all, 401, "", nil},
			{"prompt", "GET", p + "/sign-in", nil, all, 200, "", nil},
			{"asking for the other's contact", "POST", p + "/sign-in", url.Values{"email": {of.email}}, "", 303, p + "/sent", []string{"portal-flow"}},
			{"asking by the other's link", "POST", p + "/sign-in", url.Values{"t": {of.token}}, flow, 400, "", nil},
			{"sent", "GET", p + "/sent", nil, all, 303, p + "/sign-in", nil},
			{"link, in the browser that asked the other", "GET", p + "/link?t=" + of.token, nil, flow, 400, "", nil},
			{"link, signed in at the other", "GET", p + "/link?t=" + of.token, nil, all, 400, "", nil},
			{"link with its address", "POST", p + "/link", url.Values{"t": {of.token}, "email": {of.email}}, flow, 400, "", nil},
			{"code", "POST", p + "/code", url.Values{"code": {of.code}}, flow, 303, p + "/sign-in", nil},
			{"code in a browser that asked here", "POST", p + "/code", url.Values{"code": {of.code}}, "portal-flow=" + at.flow, 403, "", nil},
			{"sign-out, page", "GET", p + "/sign-out", nil, all, 200, "", nil},
			{"sign-out", "POST", p + "/sign-out", nil, all, 303, p + "/sign-out", nil},
			{"me", "GET", p + "/me", nil, all, 401, "", nil},
			{"companies", "GET", p + "/companies", nil, all, 401, "", nil},
		} {
			a := at.raw(t, h, c.method, c.path, c.form, c.cookies)
			if a.StatusCode != c.status || a.Header.Get("Location") != c.location || !slices.Equal(cookiesOf(a), c.sets) {
				t.Errorf("%s at %s: %s %s = %d to %q, sets %v; want %d to %q, %v", c.name, at.base, c.method, c.path,
					a.StatusCode, a.Header.Get("Location"), cookiesOf(a), c.status, c.location, c.sets)
			}
			if strings.Contains(a.body, "both@") || strings.Contains(a.body, of.email) {
				t.Errorf("%s at %s shows an address of the other firm", c.name, at.base)
			}
		}
		if n := len(h.letters(of.email)); n != 1 {
			t.Errorf("%s got %d mails; want the one from their own firm", of.email, n)
		}
		if n := strings.Count(at.keys(t, h), `"kid"`); n == 0 || verifies(t, at.keys(t, h), of.assertion) || !verifies(t, of.keys(t, h), of.assertion) {
			t.Errorf("%s has %d keys; the other firm's assertion must be checked by its own alone", at.base, n)
		}
	}
	// They still work at their own firm.
	for _, f := range firms {
		if a := f.raw(t, h, "GET", "/x", nil, "portal="+f.session); a.StatusCode != 200 {
			t.Errorf("%s: the session at home = %d; want 200", f.base, a.StatusCode)
		}
		if a := f.raw(t, h, "POST", f.prefix+"/code", url.Values{"code": {f.code}}, "portal-flow="+f.flow); a.StatusCode != 303 || !slices.Contains(cookiesOf(a), "portal") {
			t.Errorf("%s: the code at home = %d; want 303 and a session", f.base, a.StatusCode)
		}
	}
	// A contact disabled at one firm stays a contact of the other.
	h.operator("contacts/disable", "both@example.com")
	for i, want := range []int{401, 200} {
		if a := firms[i].raw(t, h, "GET", "/x", nil, "portal="+firms[i].session); a.StatusCode != want {
			t.Errorf("%s, after the first firm switched them off = %d; want %d", firms[i].base, a.StatusCode, want)
		}
	}
}

func (f *firmSite) keys(t *testing.T, h *house) string {
	t.Helper()
	a := f.raw(t, h, http.MethodGet, f.prefix+"/jwks.json", nil, "")
	if a.StatusCode != 200 {
		t.Fatalf("%s: jwks.json = %d; want 200", f.base, a.StatusCode)
	}
	return a.body
}

// verifies reports whether one of the keys signed the assertion.
func verifies(t *testing.T, keys, assertion string) bool {
	t.Helper()
	var set jose.JSONWebKeySet
	if err := json.Unmarshal([]byte(keys), &set); err != nil {
		t.Fatal(err)
	}
	parsed, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(set.Keys, func(k jose.JSONWebKey) bool {
		var claims jwt.Claims
		return parsed.Claims(k.Key, &claims) == nil
	})
}
