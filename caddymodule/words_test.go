package caddymodule_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// says fails the test unless the page has each of the texts.
func (a answer) says(t *testing.T, what string, status int, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if a.StatusCode != status || !strings.Contains(a.body, text) {
			t.Errorf("%s = %d; want %d and %q\n%s", what, a.StatusCode, status, text, a.body)
		}
	}
}

// For every URL that looks like an old link, real or not, the prompt says in one line why it
// appears, and so does the page that is shown again after a mistake.
func TestAnOldLinkSaysWhyItAsks(t *testing.T) {
	h := openHouse(t, layout{firm: "legacy_link /one-click/{token}/* /portal/{company}/*"})
	b := h.browser()
	const line = "This link now asks who you are. Then it opens its page."
	for _, path := range []string{"/one-click/never-was/7", "/one-click/x/"} {
		a := b.open(path)
		to := a.Header.Get("Location")
		b.open(to).says(t, path, 401, line)
		b.send("/-/sign-in", form("email", "ann@example", "to", to)).says(t, path+", a mistyped address", 400, line, "complete email address")
	}
	if a := b.open("/portal/acme/7"); strings.Contains(a.body, line) {
		t.Error("a new link says what only old ones do")
	}
}

// An address that was typed is kept from one form to another, and never appears in a URL.
func TestTheAddressSurvivesEveryWay(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	follow := func(a answer) answer {
		t.Helper()
		to := a.Header.Get("Location")
		if u, err := url.QueryUnescape(to); a.StatusCode != 303 || err != nil || strings.Contains(u, "ann") || strings.Contains(u, "@") {
			t.Errorf("%d to %q; want 303, and no address in it", a.StatusCode, to)
		}
		return b.open(to)
	}
	const email, whole = `name="email" type="email" value="ann@exam"`, `name="email" type="email" value="ann@example.com"`
	const to = `name="to" value="/orders/7?a=1#total"`
	f := func(pairs ...string) url.Values { return form(append(pairs, "to", "/orders/7?a=1#total")...) }
	follow(b.send("/-/password", f("email", "ann@exam", "go", "password", "shared", "1"))).says(t, "from the prompt to the password", 200, email, to, `name="shared" value="1" checked`)
	follow(b.send("/-/password", f("email", "ann@exam", "password", "secret words", "go", "help"))).says(t, "from the password to help", 200, email, to, "Reset Password")
	follow(b.send("/-/password", f("email", "ann@exam", "go", "link"))).says(t, "from the password to the prompt", 200, email, to, "Send me a link")
	if n := len(h.mails("ann@example.com")); n != 0 {
		t.Errorf("%d mails were sent on the way; want none", n)
	}

	b.ask("ann@example.com", "/orders/7?a=1#total")
	link := regexp.MustCompile(`href="(/-/(?:sign-in|password|help)\?[^"]*typed=1)"`)
	sent := b.open("/-/sent")
	links := link.FindAllStringSubmatch(sent.body, -1)
	if len(links) < 3 {
		t.Fatalf("%d links with what was typed; want those of Change, and to the password\n%s", len(links), sent.body)
	}
	for _, m := range links {
		at := unescape(m[1])
		if strings.Contains(at, "ann") || strings.Contains(at, "@") {
			t.Errorf("%s has the address in it", at)
		}
		b.open(at).says(t, at, 200, whole, to)
		h.browser().open(at).says(t, at+" in another browser", 200, `value=""`)
	}
	b.send("/-/help", f("email", "ann@example.com"))
	for _, m := range link.FindAllStringSubmatch(b.open("/-/sent").body, -1) {
		b.open(unescape(m[1])).says(t, m[1]+" after help", 200, whole)
	}
}

// A wrong field keeps the typed text, and an empty one has its own message.
func TestFieldsKeepWhatWasTyped(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	b.send("/-/sign-in", form("email", " ")).says(t, "an empty address", 400, "Please enter your email address.")
	b.send("/-/help", form("email", "")).says(t, "an empty address for help", 400, "Please enter your email address.")
	b.send("/-/password", form("email", "", "password", "x")).says(t, "an empty address with a password", 400, "Please enter your email address.")
	l := b.ask("ann@example.com", "/")
	h.browser().send("/-/link", form("t", secretOf(l.link), "email", "")).says(t, "an empty address of a link", 403, "Please enter your email address.")
	b.send("/-/code", form("code", "abcd-efg")).says(t, "a short code", 400, `name="code" class="code" type="text" value="abcd-efg"`)
	b.send("/-/code", form("code", "aaaa-bbbb")).says(t, "a wrong code", 403, `value="aaaa-bbbb"`, "Use this code")
	h.browser().send("/-/code", form("code", l.code))

	// After "Send the email again" the page confirms it, in the same way for every address.
	for _, email := range []string{"ann@example.com", "nobody@example.net"} {
		b := h.browser()
		b.send("/-/sign-in", form("email", email))
		if a := b.open("/-/sent"); strings.Contains(a.body, "asked for another email") {
			t.Errorf("%s: the page says so at first", email)
		}
		b.send("/-/sign-in", form("email", email, "again", "1"))
		b.open("/-/sent").says(t, email, 200, `role="status">You asked for another email.`)
	}
}

// Umlaut domains are displayed as people write them.
func TestUmlautDomainsAreShownAsPeopleWriteThem(t *testing.T) {
	h := openHouse(t, layout{contacts: "email,companies\ninfo@bücher.example,acme\n"})
	b := h.browser()
	l := b.ask("info@xn--bcher-kva.example", "/")
	b.open("/-/sent").says(t, "GET /-/sent", 200, "info@bücher.example")
	h.browser().open(l.link).says(t, "the link elsewhere", 200, "i•••@bücher.example")
	b.open(l.link)
	b.open("/-/account").says(t, "the account", 200, "info@bücher.example")
	b.open("/-/companies").says(t, "the companies", 200, "info@bücher.example")
	b.open("/-/sign-out").says(t, "the sign-out", 200, "info@bücher.example")
	if last := b.open("/x"); !strings.HasSuffix(last.body, "for info@xn--bcher-kva.example") {
		t.Errorf("the portal got %q; want the address in its canonical form", last.body)
	}
}

// A visitor at a page that isn't theirs sees the address with which they are signed in, and can
// switch and return.
func TestNotInYourPortalSaysAsWhomAndOffersToSwitch(t *testing.T) {
	h := openHouse(t, layout{firm: "legacy_link /one-click/{token}/* /portal/{company}/*",
		contacts: "email,companies\nann@example.com,acme\nbob@example.com,birch\n", companies: "id,name,legacy_tokens\nacme,Acme Ltd,tok-acme-1\nbirch,Birch & Sons,tok-birch-1\n", admin: freeAddress(t)})
	h.upgrade("acme", "birch")
	same := ""
	for _, path := range []string{"/portal/birch/7?a=1", "/one-click/tok-birch-1/7?a=1", "/one-click/tok-unknown/7?a=1", "/portal/nosuch/7?a=1"} {
		b := h.browser()
		b.signIn("ann@example.com")
		a := b.open(path)
		a.says(t, path, 404, "This page is not in your portal", "signed in as <strong class=\"address\">ann@example.com</strong>", "Sign in with another address",
			`<input type="hidden" name="to" value="" data-here>`)
		if same == "" {
			same = a.body
		} else if a.body != same {
			t.Errorf("%s shows another page than the first\n%s", path, a.body)
		}
		out := b.send("/-/sign-out", form("switch", "1", "to", path)) // as the page's script fills it in
		at := out.Header.Get("Location")
		if out.StatusCode != 303 || !strings.HasPrefix(at, "/-/sign-in?to=") || strings.Contains(at, "tok-") || b.me() != nil {
			t.Fatalf("%s: switching = %d to %q; want 303 to the prompt, signed out", path, out.StatusCode, at)
		}
		u, _ := url.Parse(at)
		l := b.ask("bob@example.com", u.Query().Get("to"))
		a = b.open(l.link)
		for a.StatusCode == 303 || a.StatusCode == 302 {
			a = b.open(a.Header.Get("Location"))
		}
		if birch := strings.Contains(path, "birch"); birch != (a.StatusCode == 200) || birch && a.Request.URL.RequestURI() != "/portal/birch/7?a=1" {
			t.Errorf("%s, as bob after the switch = %d at %s", path, a.StatusCode, a.Request.URL.RequestURI())
		}
		b.send("/-/sign-out", form())
	}
	// The target of a sign-out is on this site, or there is none.
	for _, evil := range []string{"https://evil.example/", "//evil.example", "/-/sign-out", `/\evil.example`} {
		b := h.in("ann@example.com")
		if a := b.send("/-/sign-out", form("to", evil)); a.Header.Get("Location") != "/-/sign-out" || b.me() != nil {
			t.Errorf("sign-out to %q leads to %q; want the usual page", evil, a.Header.Get("Location"))
		}
		if a := b.send("/-/sign-out", form("switch", "1", "to", evil)); a.Header.Get("Location") != "/-/sign-in" {
			t.Errorf("switching to %q leads to %q; want the prompt alone", evil, a.Header.Get("Location"))
		}
	}
}

// The account page is linked from the pages that everybody sees, and links to each company.
func TestTheAccountIsLinked(t *testing.T) {
	h := openHouse(t, layout{firm: "legacy_link /one-click/{token}/* /portal/{company}/*"})
	b := h.in("ann@example.com")
	for _, path := range []string{"/-/companies", "/-/sign-out"} {
		b.open(path).says(t, path, 200, `href="/-/account"`)
	}
	b.open("/portal/nosuch/").says(t, "another company's page", 404, `href="/-/account"`)
	b.open("/-/account").says(t, "the account", 200, `href="/portal/acme/">Acme Ltd</a>`, `href="/portal/birch/">Birch &amp; Sons</a>`)
}
