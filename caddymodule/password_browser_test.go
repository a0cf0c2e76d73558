//go:build browser

package caddymodule_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// Help, a mail, a password, signing in with it: with what scripts add to it.
func TestBrowserPassword(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	run(t, ctx,
		chromedp.Navigate(h.url+"/orders/7?tab=2#total"),
		chromedp.Click(css("form.other button")),
		where("/-/password?to=%2Forders%2F7%3Ftab%3D2%23total"),
		chromedp.Click(css(`a[href*="/help"]`)), where("/-/help?to=%2forders%2f7%3ftab%3d2%23total"),
		chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"),
		where("/-/sent"))
	link := setPattern.FindString(h.nextLetter("ann@example.com", 0).text)
	run(t, ctx, chromedp.Navigate(link), chromedp.SendKeys(css("#password"), "quiet rivers"))
	if said := get(t, ctx, chromedp.Text(css("[data-least]"))); said != "So far 12 of 15." {
		t.Errorf("after twelve characters it says %q", said)
	}
	run(t, ctx, chromedp.Click(css("[data-reveal]")))
	if kind := get(t, ctx, chromedp.Evaluate[string](`document.querySelector("#password").type`)); kind != "text" {
		t.Errorf("revealed, the field is of type %s; want text", kind)
	}
	run(t, ctx, chromedp.SendKeys(css("#password"), " carry old boats"))
	if said := get(t, ctx, chromedp.Text(css("[data-least]"))); said != "Long enough." {
		t.Errorf("after enough characters it says %q", said)
	}
	run(t, ctx, chromedp.Click(css("main form button:not([type=button])")), chromedp.WaitVisible(css("[autocomplete=current-password]")))
	if email := get(t, ctx, chromedp.Evaluate[string](`document.querySelector("#email").value`)); email != "ann@example.com" {
		t.Errorf("the address filled in is %q", email)
	}
	run(t, ctx, chromedp.SendKeys(css("#password"), annsPassword+"\r"), where("/orders/7?tab=2#total"))
	if who := get(t, ctx, chromedp.Text(css("#who"))); who != "ann@example.com" {
		t.Errorf("the portal says %q; want ann@example.com", who)
	}
}

// Every page about passwords, in both themes, on a phone and on a desktop: axe finds nothing.
func TestBrowserPasswordAccessibility(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	elsewhere := h.browser()
	used, tok := elsewhere.help("bob@example.com", "/")
	elsewhere.send("/-/password/set", url.Values{"t": {tok}, "password": {annsPassword}})
	link, _ := elsewhere.help("ann@example.com", "/")
	elsewhere.signIn("owner@example.com")
	other := h.browser()
	other.manually("bob@example.com", annsPassword)
	bobs := func(path string) step { return chromedp.Navigate(h.url + path) }

	judge(t, ctx, []shown{
		{"password", []step{chromedp.Navigate(h.url + "/-/password")}},
		{"password-wrong", []step{chromedp.Navigate(h.url + "/-/password"), chromedp.SendKeys(css("#email"), "ann@example.com"),
			chromedp.SendKeys(css("#password"), "wrong wrong wrong\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"help", []step{chromedp.Navigate(h.url + "/-/help")}},
		{"help-sent", []step{chromedp.Navigate(h.url + "/-/help"), chromedp.SendKeys(css(`input[name=email]`), "nobody@example.com\r"), where("/-/sent")}},
		{"set-password", []step{chromedp.Navigate(link)}},
		{"set-password-refused", []step{chromedp.Navigate(link), chromedp.SendKeys(css("#password"), "short\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"set-password-used", []step{chromedp.Navigate(used)}},
		{"set-password-unknown", []step{chromedp.Navigate(h.url + "/-/password/set?t=nothing")}},
		{"account", []step{chromedp.Navigate(h.url + "/-/password"), chromedp.SendKeys(css("#email"), "bob@example.com"),
			chromedp.SendKeys(css("#password"), annsPassword+"\r"), where("/"), bobs("/-/account")}},
		{"account-wrong", []step{bobs("/-/account"), chromedp.SendKeys(css("#current"), "wrong\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
	})
	if strings.Contains(get(t, ctx, chromedp.Text(css("main"))), "{{") {
		t.Error("a template shows")
	}
}
