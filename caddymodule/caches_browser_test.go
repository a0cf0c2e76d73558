//go:build browser

package caddymodule_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

// askedFor returns the requests for a path and query.
func (p *portal) askedFor(uri string) []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.seen), func(s seen) bool { return s.URI != uri })
}

// After sign-out the browser shows none of the contact's pages, neither by URL nor by Back, even
// if the portal allows caching; nor after another contact signs in without a sign-out.
func TestBrowserShowsNoPagesAfterSignOut(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: "company_path /files/{company}/*"})
	h.portal.mu.Lock()
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("ETag", `"`+r.Header.Get("Remote-User")+`"`)
		w.Header().Set("Last-Modified", "Mon, 01 Sep 2025 10:00:00 GMT")
		if r.URL.Query().Has("long") {
			w.Header().Set("Cache-Control", "public, max-age=3600")
		}
		if r.Header.Get("If-None-Match") == w.Header().Get("ETag") {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `<!doctype html><title>Portal</title><p id="who">%s</p>`, r.Header.Get("Remote-User"))
	}
	h.portal.mu.Unlock()
	ctx := chromium(t)
	signIn := func(email string) {
		n := len(h.letters(email))
		h.mayMailAgain(n)
		run(t, ctx, chromedp.Navigate(h.url+"/-/sign-in"), chromedp.SendKeys(css("input[name=email]"), email+"\r"), where("/-/sent"))
		run(t, ctx, chromedp.Navigate(h.nextLetter(email, n).link), chromedp.WaitVisible(css("#who")))
	}
	shows := func(what, want string) {
		t.Helper()
		run(t, ctx, chromedp.WaitReady(css("body")))
		got := get(t, ctx, chromedp.Evaluate[string](`(document.querySelector("#who") || document.querySelector("input[name=email]") && {textContent: "the prompt"} || {textContent: location.href}).textContent`))
		if got != want {
			t.Errorf("%s: the page shows %q; want %q", what, got, want)
		}
	}
	pages := []string{"/files/acme/a.html", "/files/acme/a.html?long"}
	signIn("ann@example.com")
	for _, page := range pages {
		run(t, ctx, chromedp.Navigate(h.url+page))
		shows(page, "ann@example.com")
		run(t, ctx, chromedp.Navigate(h.url+"/x"), chromedp.Navigate(h.url+page))
		shows(page+" again", "ann@example.com")
		if asked := h.portal.askedFor(page); len(asked) != 2 || asked[1].Header.Get("If-None-Match") != `"ann@example.com"` {
			t.Errorf("%s again: the portal got %d requests; want 2, the second with the page's ETag", page, len(asked))
		}
	}
	run(t, ctx, chromedp.Navigate(h.url+"/-/sign-out"), chromedp.Click(css("form button")), chromedp.WaitNotPresent(css(`form[action$="/sign-out"]`)))
	for _, page := range pages {
		run(t, ctx, chromedp.Navigate(h.url+page))
		shows("signed out, "+page, "the prompt")
	}
	run(t, ctx, chromedp.NavigateBack(), chromedp.NavigateBack(), chromedp.NavigateBack(), chromedp.NavigateBack())
	shows("signed out, by Back", "the prompt")
	// Ann's session ends without sign-out: Bob signs in over it.
	signIn("ann@example.com")
	run(t, ctx, chromedp.Navigate(h.url+pages[0]), chromedp.Navigate(h.url+pages[1]))
	shows("Ann once more", "ann@example.com")
	run(t, ctx, forgetCookies())
	signIn("bob@example.com")
	for _, page := range pages {
		run(t, ctx, chromedp.Navigate(h.url+page))
		shows("Bob, "+page, "bob@example.com")
	}
}
