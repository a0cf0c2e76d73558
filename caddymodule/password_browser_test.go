//go:build browser

package caddymodule_test

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Help, a mail, a password, and signing in with it, with the features that scripts add.
func TestBrowserPassword(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	run(t, ctx,
		chromedp.Navigate(h.url+"/orders/7?tab=2#total"),
		chromedp.Click(css("button[value=password]")),
		where("/-/password?to=%2Forders%2F7%3Ftab%3D2%23total"),
		chromedp.Click(css("button[value=help]")), where("/-/help?to=%2Forders%2F7%3Ftab%3D2%23total"),
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
	loaded := get(t, ctx, chromedp.Evaluate[int](`performance.getEntriesByType("resource").length`))
	run(t, ctx, becomes(`document.querySelector("[data-least-aloud][role=status]").textContent`, "Long enough."))
	hints(t, ctx)
	if n := get(t, ctx, chromedp.Evaluate[int](`performance.getEntriesByType("resource").length`)); n != loaded {
		t.Errorf("the page has loaded %d things more while somebody types a password; want none", n-loaded)
	}
	run(t, ctx, chromedp.Evaluate[chromedp.Void](`document.querySelector("#password").value = ""`), chromedp.SendKeys(css("#password"), annsPassword))
	run(t, ctx, chromedp.Click(css("main form button:not([type=button])")), chromedp.WaitVisible(css("[autocomplete=current-password]")))
	if email := get(t, ctx, chromedp.Evaluate[string](`document.querySelector("#email").value`)); email != "ann@example.com" {
		t.Errorf("the address filled in is %q", email)
	}
	run(t, ctx, chromedp.SendKeys(css("#password"), annsPassword+"\r"), where("/orders/7?tab=2#total"))
	if who := get(t, ctx, chromedp.Text(css("#who"))); who != "ann@example.com" {
		t.Errorf("the portal says %q; want ann@example.com", who)
	}
}

// hints types passwords on the page that sets one, which counts their characters like the server.
func hints(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, c := range []struct{ typed, says string }{
		{"quiet rivers carry old boats", "Long enough."}, {"fünf große Bäume im Wind", "Long enough."}, {"どこかで猫が三匹歌っている夜です", "Long enough."}, {"kX9#qL2!vB7$mN4", "Long enough."},
		{"", ""}, {"ｓｉｘ", "So far 3 of 15."}, {"kX9#qL2!vB7$me\u0301", "So far 14 of 15."}, {strings.Repeat("kettle noon ", 22), "That is 264; 256 is the most."},
	} {
		said := get(t, ctx, chromedp.Evaluate[string](fmt.Sprintf(`(() => { const p = document.querySelector("#password"); p.value = %q;
			p.dispatchEvent(new Event("input")); return document.querySelector("[data-least]").textContent })()`, c.typed)))
		if said != c.says {
			t.Errorf("of %q the page says %q; want %q", c.typed, said, c.says)
		}
	}
}

// becomes waits until an expression in the page is true.
func becomes(expression, want string) step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for {
			got, err := chromedp.Evaluate[string](expression)(ctx, tab)
			if err != nil || got == want {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is %q; want %q", expression, got, want)
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// All password pages, with and without scripts.
func TestBrowserPasswordWays(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(map[bool]string{true: "with scripts", false: "without"}[on], func(t *testing.T) {
			h, _ := openFastHouse(t, layout{})
			h.html()
			ctx := chromium(t)
			run(t, ctx, scripts(on))
			passwordWays(t, ctx, h, on)
			accountWays(t, ctx, h)
		})
	}
}

// typeIn clears a field and types into it.
func typeIn(field, text string) step {
	return chromedp.Steps(chromedp.Clear(css(field)), chromedp.SendKeys(css(field), text))
}

// passwordWays signs in manually with a wrong password; gets help; sets a password, after two
// unacceptable ones; and signs in with it.
func passwordWays(t *testing.T, ctx context.Context, h *house, on bool) {
	t.Helper()
	problem := css(`#problem[role=alert]`)
	run(t, ctx, chromedp.Navigate(h.url+"/orders/7?tab=2"), chromedp.Click(css("button[value=password]")), chromedp.WaitVisible(css("[autocomplete=current-password]")),
		typeIn("#email", "ann@example.com"), typeIn("#password", "not the one at all\r"), chromedp.WaitVisible(problem))
	if email := get(t, ctx, chromedp.Evaluate[string](`document.querySelector("#email[autocomplete=username]").value + document.querySelector("#password").value`)); email != "ann@example.com" {
		t.Errorf("after a wrong password the form has %q; want the address alone", email)
	}
	for _, event := range []string{"paste", "copy", "drop", "contextmenu"} {
		if !get(t, ctx, chromedp.Evaluate[bool](fmt.Sprintf(`document.querySelector("#password").dispatchEvent(new Event(%q, {bubbles: true, cancelable: true}))`, event))) {
			t.Errorf("the page prevents %s", event)
		}
	}
	if shown := get(t, ctx, chromedp.Evaluate[bool](`!!document.querySelector("[data-reveal]").offsetWidth`)); shown != on {
		t.Errorf("the button that shows the password is there: %t; want %t", shown, on)
	}
	run(t, ctx, chromedp.Click(css("button[value=help]")), chromedp.WaitVisible(css(`form[action$="/help"]`)), typeIn("#email", "ann@example.com\r"), where("/-/sent"))
	link := setPattern.FindString(h.nextLetter("ann@example.com", 0).text)
	run(t, ctx, chromedp.Navigate(link))
	for _, c := range []struct{ typed, why string }{{"short", "at least 15"}, {"annbakeratbookkeeping", "your name"}} {
		run(t, ctx, typeIn("#password[autocomplete=new-password]", c.typed+"\r"), chromedp.WaitVisible(problem))
		if said := get(t, ctx, chromedp.Text(problem)); !strings.Contains(said, c.why) {
			t.Errorf("of %q the server says %q; want %q", c.typed, said, c.why)
		}
		run(t, ctx, chromedp.Navigate(link))
	}
	run(t, ctx, typeIn("#password", annsPassword), chromedp.Click(css(`form[action$="/password/set"] button:not([type=button])`)), chromedp.WaitVisible(css("p.note[role=status]")))
	if email := get(t, ctx, chromedp.Evaluate[string](`document.querySelector("#email").value`)); email != "ann@example.com" {
		t.Errorf("the address filled in is %q", email)
	}
	run(t, ctx, typeIn("#password", annsPassword+"\r"), where("/orders/7?tab=2"))
	if who := get(t, ctx, chromedp.Text(css("#who"))); who != "ann@example.com" {
		t.Errorf("the portal says %q; want ann@example.com", who)
	}
	run(t, ctx, chromedp.Navigate(link), chromedp.WaitVisible(css(`form[action$="/help"]`)))
	if said := get(t, ctx, chromedp.Text(css("main"))); !strings.Contains(said, "Send a new link") {
		t.Errorf("the link once more: %q; want a new one offered", said)
	}
}

// accountWays continues after passwordWays: devices, and changes of the password.
func accountWays(t *testing.T, ctx context.Context, h *house) {
	t.Helper()
	one, two, three := h.browser(), h.browser(), h.browser()
	for _, b := range []*browser{one, two, three} {
		b.manually("ann@example.com", annsPassword)
	}
	in := func() (n int) {
		for _, b := range []*browser{one, two, three} {
			if b.me() != nil {
				n++
			}
		}
		return n
	}
	done, problem := css("p.note[role=status]"), css("#problem[role=alert]")
	account := chromedp.Navigate(h.url + "/-/account")
	run(t, ctx, account, chromedp.Click(css(`form[action$="/devices"]:has([name=handle]) button`)), chromedp.WaitVisible(done))
	if n := in(); n != 2 {
		t.Errorf("one device signed out, %d of three go on; want 2", n)
	}
	run(t, ctx, account, chromedp.Click(css(`form:has([name=others]) button`)), chromedp.WaitVisible(done))
	if n := in(); n != 0 {
		t.Errorf("all others signed out, %d of three go on; want none", n)
	}
	run(t, ctx, account, typeIn("#current", "not the one at all"), typeIn("#password", annsPassword2+"\r"), chromedp.WaitVisible(problem))
	if said := get(t, ctx, chromedp.Text(problem)); !strings.Contains(said, "not your current password") {
		t.Errorf("with a wrong current password it says %q", said)
	}
	run(t, ctx, typeIn("#current", annsPassword), typeIn("#password", "short\r"), chromedp.WaitVisible(css(`#password[aria-invalid=true]`)),
		typeIn("#current", annsPassword), typeIn("#password", annsPassword2+"\r"), chromedp.WaitVisible(done))
	if a := one.manually("ann@example.com", annsPassword2); a.StatusCode != 303 {
		t.Errorf("the new password = %d; want 303", a.StatusCode)
	}
	run(t, ctx, account, chromedp.Click(css("details summary")), typeIn("#gone", annsPassword2+"\r"), chromedp.WaitVisible(done), account)
	if n := len(get(t, ctx, chromedp.Text(css("main")))); n == 0 || get(t, ctx, chromedp.Evaluate[bool](`!!document.querySelector("#gone, #current")`)) {
		t.Error("after it was removed, the account page still asks for a password")
	}
	if a := two.manually("ann@example.com", annsPassword2); a.StatusCode != 403 {
		t.Errorf("the password that was removed = %d; want 403", a.StatusCode)
	}
}

// All password pages, in both themes, on a phone and on a desktop, have no accessibility problems
// that axe finds.
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
	h.brings("nameless@example.com", argon2Hash(t, annsPassword, 128, 2))
	at := func(path string) step { return chromedp.Navigate(h.url + path) }

	checkPages(t, ctx, []shown{
		{"password", []step{chromedp.Navigate(h.url + "/-/password")}},
		{"password-wrong", []step{chromedp.Navigate(h.url + "/-/password"), chromedp.SendKeys(css("#email"), "ann@example.com"),
			chromedp.SendKeys(css("#password"), "wrong wrong wrong\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"help", []step{chromedp.Navigate(h.url + "/-/help")}},
		{"help-sent", []step{chromedp.Navigate(h.url + "/-/help"), chromedp.SendKeys(css(`input[name=email]`), "nobody@example.com\r"), where("/-/sent")}},
		{"set-password", []step{chromedp.Navigate(link)}},
		{"set-password-typed", []step{chromedp.Navigate(link), chromedp.SendKeys(css("#password"), "our bookkeeping rocks")}},
		{"set-password-refused", []step{chromedp.Navigate(link), chromedp.SendKeys(css("#password"), "short\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"set-password-used", []step{chromedp.Navigate(used)}},
		{"set-password-unknown", []step{chromedp.Navigate(h.url + "/-/password/set?t=nothing")}},
		{"account", []step{chromedp.Navigate(h.url + "/-/password"), chromedp.SendKeys(css("#email"), "bob@example.com"),
			chromedp.SendKeys(css("#password"), annsPassword+"\r"), where("/"), at("/-/account")}},
		{"account-typed", []step{at("/-/account"), chromedp.SendKeys(css("#password"), "quiet rivers")}},
		{"account-wrong", []step{at("/-/account"), chromedp.SendKeys(css("#current"), "wrong\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"account-remove-wrong", []step{at("/-/account"), chromedp.Click(css("details summary")), chromedp.WaitVisible(css("#gone")),
			chromedp.SendKeys(css("#gone"), "wrong\r"), chromedp.WaitVisible(css(`#gone[aria-invalid=true]`))}},
		{"account-elsewhere", []step{chromedp.Navigate(h.url + "/-/sign-out"), chromedp.Click(css("main form button")), chromedp.WaitNotPresent(css("main form[action$='/sign-out']")),
			chromedp.Navigate(h.url + "/-/password"), chromedp.SendKeys(css("#email"), "nameless@example.com"),
			chromedp.SendKeys(css("#password"), annsPassword+"\r"), where("/"), at("/-/account")}},
	})
	if strings.Contains(get(t, ctx, chromedp.Text(css("main"))), "{{") {
		t.Error("a template shows")
	}
}
