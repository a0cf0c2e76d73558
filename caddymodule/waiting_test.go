package caddymodule_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// A browser that keeps no cookies is told so before anything is spent, with and without the prompt
// in between. There is no redirect loop.
func TestBrowserWithoutCookiesIsToldSo(t *testing.T) {
	h := openHouse(t, layout{})
	forgetful := func() *browser {
		b := h.browser()
		b.client.Jar = nil
		return b
	}
	told := func(name string, a answer) {
		t.Helper()
		if a.StatusCode != 200 || !strings.Contains(a.body, "Please allow cookies") || strings.Contains(a.body, "@example.com</strong>") {
			t.Errorf("%s = %d to %q; want a page that says to allow cookies, and names nobody\n%s", name, a.StatusCode, a.Header.Get("Location"), a.body)
		}
	}
	b := forgetful()
	l := b.ask("ann@example.com", "/orders/7")
	told("GET /-/sent", b.open("/-/sent"))
	told("GET /-/code", b.do(b.request("GET", h.url+b.open("/-/code").Header.Get("Location"), nil)))
	if a := b.send("/-/code", form("code", l.code)); a.StatusCode != 303 {
		t.Errorf("POST /-/code = %d; want 303", a.StatusCode)
	} else {
		told("after POST /-/code", b.open(a.Header.Get("Location")))
	}

	// The link's own form, as on the page.
	page := b.open(l.link)
	if !strings.Contains(page.body, `name="cookies" value="check"`) {
		t.Fatalf("the link's page has no field that asks for cookies\n%s", page.body)
	}
	f := form("t", secretOf(l.link), "email", "ann@example.com", "cookies", "check")
	a := b.send("/-/link", f)
	if a.StatusCode != http.StatusTemporaryRedirect {
		t.Fatalf("POST /-/link without a cookie = %d; want 307", a.StatusCode)
	}
	told("POST /-/link once more", b.send(a.Header.Get("Location"), f))

	// It wasn't spent there: it signs in in a browser with cookies.
	keeps := h.browser()
	if a := keeps.send("/-/link", f); a.StatusCode != http.StatusTemporaryRedirect || keeps.me() != nil {
		t.Fatalf("POST /-/link at first = %d; want 307", a.StatusCode)
	} else if a := keeps.send(a.Header.Get("Location"), f); a.StatusCode != 303 || a.Header.Get("Location") != "/orders/7" || keeps.me() == nil {
		t.Errorf("POST /-/link with the cookie = %d to %q; want 303 to /orders/7", a.StatusCode, a.Header.Get("Location"))
	}

	// The same for passwords.
	h.holds("ann@example.com", annsPassword)
	f = form("email", "ann@example.com", "password", annsPassword, "to", "/orders/8", "cookies", "check")
	if a := b.send("/-/password", f); a.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("POST /-/password without a cookie = %d; want 307", a.StatusCode)
	} else {
		told("POST /-/password once more", b.send(a.Header.Get("Location"), f))
	}
	keeps = h.browser()
	if a := keeps.send("/-/password", f); a.StatusCode != http.StatusTemporaryRedirect {
		t.Errorf("POST /-/password at first = %d; want 307", a.StatusCode)
	} else if a := keeps.send(a.Header.Get("Location"), f); a.StatusCode != 303 || keeps.me() == nil {
		t.Errorf("POST /-/password with the cookie = %d; want 303", a.StatusCode)
	}
}

// When a visitor signs in in one tab, another tab of the same browser that waits for the mail goes
// to its own return URL: after a reload, or after a code is typed there.
func TestWaitingTabsKeepTheWayBack(t *testing.T) {
	h := openHouse(t, layout{})
	h.holds("ann@example.com", annsPassword)
	for _, c := range []struct {
		name  string
		enter func(b *browser, l letter) answer
	}{
		{"the link", func(b *browser, l letter) answer { return b.open(l.link) }},
		{"the code", func(b *browser, l letter) answer { return b.send("/-/code", form("code", l.code)) }},
		{"the password", func(b *browser, l letter) answer {
			return b.send("/-/password", form("email", "ann@example.com", "password", annsPassword, "to", "/elsewhere"))
		}},
	} {
		b := h.browser()
		l := b.ask("ann@example.com", "/orders/7?tab=2")
		if a := c.enter(b, l); a.StatusCode != 303 {
			t.Fatalf("%s = %d; want 303", c.name, a.StatusCode)
		}
		for name, a := range map[string]answer{
			"a reload":                  b.open("/-/sent"),
			"a script's look":           b.do(b.request("HEAD", "/-/sent", nil, "Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty")),
			"the code that comes late":  b.send("/-/code", form("code", l.code)),
			"a code that was misspelt":  b.send("/-/code", form("code", "aaaa-bbbb")),
			"the code's page, reloaded": b.open(b.open("/-/code").Header.Get("Location")),
		} {
			if a.StatusCode == 303 && a.Header.Get("Location") == "/-/sent" {
				a = b.open("/-/sent")
			}
			if a.StatusCode != 303 || a.Header.Get("Location") != "/orders/7?tab=2" {
				t.Errorf("after %s, %s = %d to %q; want 303 to the page that was wanted", c.name, name, a.StatusCode, a.Header.Get("Location"))
			}
		}
		// Not for the next person at this browser.
		b.send("/-/sign-out", form())
		if a := b.open("/-/sent"); a.StatusCode != 303 || a.Header.Get("Location") != "/-/sign-in" {
			t.Errorf("GET /-/sent after the sign-out = %d to %q; want 303 to the prompt", a.StatusCode, a.Header.Get("Location"))
		}
		u, _ := url.Parse(h.url)
		b.client.Jar.SetCookies(u, []*http.Cookie{{Name: "portal", Value: h.in("bob@example.com").cookie("portal")}})
		if a := b.open("/-/sent"); strings.Contains(a.Header.Get("Location"), "orders") {
			t.Errorf("GET /-/sent as somebody else = %d to %q; want nothing of Ann's", a.StatusCode, a.Header.Get("Location"))
		}
	}
}

// While a tab waits for one person's mail, another person's session in the same browser doesn't
// make it continue.
func TestWaitingTabsWaitForTheirPerson(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.in("bob@example.com")
	b.ask("ann@example.com", "/orders/7")
	if a := b.open("/-/sent"); a.StatusCode != 200 {
		t.Errorf("GET /-/sent with another's session from before = %d to %q; want it to wait", a.StatusCode, a.Header.Get("Location"))
	}
}

// A sign-in beside a form in another tab ends at a page that says to return to the form.
func TestSigningInBesideAFormLeadsBackToIt(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	for name, a := range map[string]answer{"a kept form": b.send("/note", form("a", "1")), "an upload": b.upload("/note", 10)} {
		if !strings.Contains(a.body, `href="/-/sign-in?to=/-/signed-in" target="_blank"`) {
			t.Errorf("%s: no way to sign in in a new tab\n%s", name, a.body)
		}
	}
	l := b.ask("ann@example.com", "/-/signed-in")
	a := b.open(l.link)
	if a.StatusCode != 303 || a.Header.Get("Location") != "/-/signed-in" {
		t.Fatalf("GET link = %d to %q; want 303 to /-/signed-in", a.StatusCode, a.Header.Get("Location"))
	}
	if a := b.open("/-/signed-in"); a.StatusCode != 200 || !strings.Contains(a.body, "ann@example.com") || !strings.Contains(a.body, "go back to the tab with your form") {
		t.Errorf("GET /-/signed-in = %d; want the page that says to go back\n%s", a.StatusCode, a.body)
	}
	if a := h.browser().open("/-/signed-in"); a.StatusCode != 401 {
		t.Errorf("GET /-/signed-in, signed out = %d; want 401", a.StatusCode)
	}
}

// Two people who read one mailbox request mails at the same time: when one signs in, the other's
// link and code stay valid. A new password ends all of them.
func TestT15_SuccessEndsWhatTheSameBrowserAskedFor(t *testing.T) {
	h := openHouse(t, layout{})
	first, second, third := h.browser(), h.browser(), h.browser()
	mails := []letter{first.ask("ann@example.com", "/1"), second.ask("ann@example.com", "/2"), third.ask("ann@example.com", "/3")}
	if a := first.open(mails[0].link); a.StatusCode != 303 || a.Header.Get("Location") != "/1" {
		t.Fatalf("the first one's link = %d; want 303", a.StatusCode)
	}
	if a := second.open(mails[1].link); a.StatusCode != 303 || a.Header.Get("Location") != "/2" || second.me() == nil {
		t.Errorf("the second one's link after that = %d to %q; want 303 to /2", a.StatusCode, a.Header.Get("Location"))
	}
	if a := third.send("/-/code", form("code", mails[2].code)); a.StatusCode != 303 || a.Header.Get("Location") != "/3" || third.me() == nil {
		t.Errorf("the third one's code after both = %d to %q; want 303 to /3", a.StatusCode, a.Header.Get("Location"))
	}
	for i, l := range mails {
		if a := h.browser().open(l.link); a.StatusCode != 410 {
			t.Errorf("link %d a second time = %d; want 410", i+1, a.StatusCode)
		}
	}

	asking := h.browser()
	l := asking.ask("ann@example.com", "/")
	h.has("ann@example.com", annsPassword) // by a mailed link
	if a := asking.open(l.link); a.StatusCode != 410 || asking.me() != nil {
		t.Errorf("a link from before the new password = %d; want 410", a.StatusCode)
	}
	if a := asking.send("/-/code", form("code", l.code)); a.StatusCode == 303 && asking.me() != nil {
		t.Errorf("a code from before the new password = %d; want it not to work", a.StatusCode)
	}
}
