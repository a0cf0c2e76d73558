//go:build browser

package caddymodule_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// tab opens another tab of the same browser.
func tab(t *testing.T, ctx context.Context) context.Context {
	t.Helper()
	second, cancel := chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(second, chromedp.EmulateViewport(390, 844)); err != nil {
		t.Fatal(err)
	}
	return second
}

// An upload that is sent after the session ended: the browser shows the page, even if the server
// doesn't read the whole upload.
func TestBrowserUploadAfterTheSessionEnded(t *testing.T) {
	h := openHouse(t, layout{})
	h.portal.mu.Lock()
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, `<!doctype html><title>Portal</title><form method="post" action="/receipts" enctype="multipart/form-data"><input type="file" name="receipt"><button>Send</button></form>`)
	}
	h.portal.mu.Unlock()
	ctx := chromium(t)
	for _, size := range []int{1000, 150 << 10, 4 << 20} {
		file := filepath.Join(t.TempDir(), "receipt.pdf")
		if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		in := h.in("bob@example.com")
		run(t, ctx, chromedp.Navigate(h.url+"/-/sign-in"), cookie(h, "portal", in.cookie("portal")), chromedp.Navigate(h.url+"/receipts"),
			chromedp.SetUploadFiles(css("input[type=file]"), []string{file}), forgetCookies(), chromedp.Click(css("button")), chromedp.WaitVisible(css("a[target=_blank]")))
		if said := get(t, ctx, chromedp.Text(css("main h1"))); said != "Nothing was sent" {
			t.Errorf("%d bytes: the browser shows %q; want that nothing was sent", size, said)
		}
	}
	shot(t, ctx, "not-sent")
}

// cookie sets a cookie of the house in the browser.
func cookie(h *house, name, value string) step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, cdpnetwork.SetCookie, cdpnetwork.SetCookieParams{Name: name, Value: value, URL: h.url})
		return err
	})
}

// The tab that waits for the email continues by itself once another tab has used the link.
func TestBrowserWaitingTabGoesOn(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	run(t, ctx, chromedp.Navigate(h.url+"/orders/7?tab=2#total"), chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"), where("/-/sent"))
	second := tab(t, ctx)
	run(t, second, chromedp.Navigate(h.nextLetter("ann@example.com", 0).link), where("/orders/7?tab=2#total"))
	run(t, ctx, front(), where("/orders/7?tab=2#total"))
}

// A visitor whose browser keeps no cookies is told so: with scripts at once, without them before
// the link is spent, which then signs in elsewhere.
func TestBrowserThatKeepsNoCookies(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	profile := t.TempDir()
	if err := os.MkdirAll(filepath.Join(profile, "Default"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(profile, "Default", "Preferences"), []byte(`{"profile":{"default_content_setting_values":{"cookies":2}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := chromiumAt(t, profile)
	run(t, ctx, chromedp.Navigate(h.url+"/orders/7"), chromedp.WaitVisible(css("[data-no-cookies]")))
	shot(t, ctx, "no-cookies-prompt")
	run(t, ctx, scripts(false), chromedp.Navigate(h.url+"/orders/7"), chromedp.WaitNotVisible(css("[data-no-cookies]")),
		chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"), where("/-/sent"))
	reads(t, ctx, "main h1", "Please allow cookies")
	shot(t, ctx, "no-cookies")
	l := h.nextLetter("ann@example.com", 0)
	run(t, ctx, chromedp.Navigate(l.link), chromedp.SendKeys(css("#email"), "ann@example.com\r"), where("/-/link?cookie=set"))
	reads(t, ctx, "main h1", "Please allow cookies")
	if a := h.browser().send("/-/link", form("t", secretOf(l.link), "email", "ann@example.com")); a.StatusCode != 303 {
		t.Errorf("the link in another browser after that = %d; want 303", a.StatusCode)
	}
}

// The page of a kept form names the contact who would send it, once a contact has signed in.
func TestBrowserKeptFormOfAnother(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	in := func(email string) {
		h.mayMailAgain(len(h.letters(email)))
		before := len(h.letters(email))
		run(t, ctx, chromedp.Navigate(h.url+"/-/sign-in"), chromedp.SendKeys(css("input[name=email]"), email+"\r"), where("/-/sent"))
		run(t, ctx, chromedp.Navigate(h.nextLetter(email, before).link), chromedp.WaitVisible(css("#who")))
	}
	in("ann@example.com")
	run(t, ctx, chromedp.Navigate(h.url+"/note"), chromedp.SendKeys(css("textarea"), "mine"))
	second := tab(t, ctx)
	run(t, second, chromedp.Navigate(h.url+"/-/sign-out"), chromedp.Click(css("main form button")), chromedp.WaitNotPresent(css("main form")))
	run(t, ctx, chromedp.Click(css("button")), chromedp.WaitVisible(css("a[target=_blank]")))
	shot(t, ctx, "held")
	before := len(h.letters("bob@example.com"))
	run(t, second, chromedp.Navigate(h.url+"/-/sign-in"), chromedp.SendKeys(css("input[name=email]"), "bob@example.com\r"), where("/-/sent"))
	run(t, second, chromedp.Navigate(h.nextLetter("bob@example.com", before).link), chromedp.WaitVisible(css("#who")))
	run(t, ctx, front(), chromedp.WaitVisible(css("[data-signed-in]")))
	if said := get(t, ctx, chromedp.Text(css("[data-signed-in]"))); !strings.Contains(said, "bob@example.com") {
		t.Errorf("the kept form says %q; want as whom it will be sent", said)
	}
	shot(t, ctx, "held-signed-in")
	run(t, ctx, chromedp.Click(css(`form[action^="/note"] button`)), chromedp.WaitVisible(css(`form[action^="/note"] button .address`)))
	reads(t, ctx, "main h1", "Is this your form?")
	shot(t, ctx, "held-of-another")
	run(t, ctx, chromedp.Click(css(`form[action^="/note"] button`)), chromedp.WaitVisible(css("#got")))
	if last := h.portal.lastPost(); last.URI != "/note?x=1" || !strings.Contains(last.Body, "note=mine") || last.Header.Get("Remote-User") != "bob@example.com" {
		t.Errorf("the portal got %s %q of %s", last.URI, last.Body, last.Header.Get("Remote-User"))
	}
}

// front brings a tab to the front.
func front() step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := chromedp.Call(ctx, target.ActivateTarget, target.ActivateTargetParams{TargetID: tab.TargetID})
		return err
	})
}

// A progressive web app answers page loads in the browser. After the session has ended, the gate
// takes over at the next page load, so that visitors can reach the prompt and the mailed link.
func TestBrowserProgressiveWebApp(t *testing.T) {
	h := openHouse(t, layout{})
	const shell = `<!doctype html><title>App</title><p id="app">App</p><script>navigator.serviceWorker.register('/sw.js')</script>`
	h.portal.mu.Lock()
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.URL.Path == "/sw.js" {
			w.Header().Set("Content-Type", "text/javascript")
			fmt.Fprint(w, `addEventListener('install', e => e.waitUntil(caches.open('1').then(c => c.add('/index.html')).then(() => skipWaiting())));
addEventListener('activate', e => e.waitUntil(clients.claim()));
addEventListener('fetch', e => { if (e.request.mode === 'navigate') e.respondWith(caches.match('/index.html')); });`)
			return
		}
		fmt.Fprint(w, shell)
	}
	h.portal.mu.Unlock()
	ctx := chromium(t)
	// The browser checks for a new version by itself a few seconds after a page load; the test
	// triggers the check.
	controlled := chromedp.Evaluate[bool](`navigator.serviceWorker.ready.then(r => r.update()).then(r => new Promise(done => {
		const look = () => navigator.serviceWorker.controller && !r.installing && !r.waiting ? done(true) : setTimeout(look, 20);
		look();
	}))`, chromedp.EvalAwaitPromise)
	in := h.in("ann@example.com")
	for round := range 2 {
		run(t, ctx, cookie(h, "portal", in.cookie("portal")), chromedp.Navigate(h.url+"/orders"), chromedp.WaitVisible(css("#app")))
		get(t, ctx, controlled)
		if round == 1 { // the app's own worker again
			run(t, ctx, chromedp.Navigate(h.url+"/-/companies"), chromedp.WaitVisible(css("#app")))
		}
		run(t, ctx, forgetCookies(), chromedp.Navigate(h.url+"/-/sign-in"), chromedp.WaitVisible(css("input[name=email]")))
		run(t, ctx, chromedp.Navigate(h.url+"/orders"), chromedp.WaitVisible(css("input[name=email]")))
	}
	// The same with a mailed link as the first page load after the session's end.
	run(t, ctx, cookie(h, "portal", in.cookie("portal")), chromedp.Navigate(h.url+"/orders"), chromedp.WaitVisible(css("#app")))
	get(t, ctx, controlled)
	l := h.browser().ask("bob@example.com", "/orders/7")
	run(t, ctx, forgetCookies(), chromedp.Navigate(l.link), chromedp.SendKeys(css("#email"), "bob@example.com\r"), where("/orders/7"))
}
