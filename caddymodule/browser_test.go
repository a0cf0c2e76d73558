//go:build browser

package caddymodule_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdpnetwork "github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// These tests need Chromium and axe-core, which test.sh installs. Set SHOTS to a folder
// to save a picture of every page.

// chromium starts a browser with an empty profile: one person's device.
func chromium(t *testing.T) context.Context { t.Helper(); return chromiumAt(t, t.TempDir()) }

// chromiumAt starts a browser with its profile in the folder.
func chromiumAt(t *testing.T, profile string) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("no Chromium here; ./test.sh installs it")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(profile))
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	// The first action starts the browser, which runs until that action's context ends.
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(390, 844)); err != nil {
		t.Fatalf("starting Chromium: %v", err)
	}
	return ctx
}

type (
	step = chromedp.Action[chromedp.Void]
	css  = chromedp.CSS
)

func run(t *testing.T, ctx context.Context, steps ...step) {
	t.Helper()
	_ = get(t, ctx, chromedp.Steps(steps...))
}

// get runs an action in the browser and returns its result.
func get[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	result, err := chromedp.Run(limited, action)
	if err != nil {
		at, _ := chromedp.Run(ctx, chromedp.Location())
		body, _ := chromedp.Run(ctx, chromedp.OuterHTML(css("html")))
		t.Fatalf("%v, at %s\n%s", err, at, body)
	}
	return result
}

// where waits until the page's URL ends with the suffix.
func where(suffix string) step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for {
			at, err := chromedp.Location()(ctx, tab)
			if err != nil || strings.HasSuffix(at, suffix) {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("at %s; want …%s", at, suffix)
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// htmlPortal answers with pages, as a portal does.
func htmlPortal(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if r.Method == http.MethodPost {
		fmt.Fprintf(w, `<!doctype html><title>Sent</title><p id="got">%s</p>`, r.Header.Get("Remote-User"))
		return
	}
	fmt.Fprintf(w, `<!doctype html><title>Portal</title><p id="who">%s</p><p id="total">Total</p>
<form method="post" action="/note?x=1"><input name="subject" value="a&amp;b"><textarea name="note"></textarea><button>Send</button></form>`,
		r.Header.Get("Remote-User"))
}

func (h *house) html() { h.portal.mu.Lock(); h.portal.answer = htmlPortal; h.portal.mu.Unlock() }

// A client's sign-in on a phone leads to the requested page, with its fragment.
func TestBrowserSignInOnAPhone(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	run(t, ctx,
		chromedp.Navigate(h.url+"/orders/7?tab=2#total"),
		chromedp.SendKeys(css("input[name=email]"), "Ann@Example.com\r"),
		where("/-/sent"),
		chromedp.WaitVisible(css("input[name=code]")),
	)
	l := h.nextLetter("ann@example.com", 0)
	run(t, ctx, chromedp.Navigate(l.link), where("/orders/7?tab=2#total"))
	if who := get(t, ctx, chromedp.Text(css("#who"))); who != "ann@example.com" {
		t.Errorf("the portal says %q; want ann@example.com", who)
	}
	run(t, ctx, chromedp.Navigate(h.url+"/-/sign-out"), chromedp.Click(css("form button")),
		chromedp.WaitNotPresent(css(`form[action$="/sign-out"]`)),
		chromedp.Navigate(h.url+"/orders/7"), chromedp.WaitVisible(css("input[name=email]")))
}

// Without scripts, with the keyboard only, using the code.
func TestBrowserWithoutScript(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	run(t, ctx, scripts(false), chromedp.Navigate(h.url+"/a"),
		chromedp.SendKeys(css("input[name=email]"), "bob@example.com\r"), where("/-/sent"))
	l := h.nextLetter("bob@example.com", 0)
	typed := strings.ToUpper(strings.ReplaceAll(l.code, "-", " "))
	run(t, ctx, chromedp.SendKeys(css("input[name=code]"), typed+"\r"), where("/a"))
	if who := get(t, ctx, chromedp.Text(css("#who"))); who != "bob@example.com" {
		t.Errorf("the portal says %q; want bob@example.com", who)
	}
}

func scripts(on bool) step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	})
}

func forgetCookies() step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, cdpnetwork.ClearBrowserCookies, cdp.Empty{})
		return err
	})
}

// A form that was filled in before the session ended isn't lost.
func TestBrowserHeldForm(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	signIn := func(tab context.Context, n int, shows css) {
		h.mayMailAgain(n)
		run(t, tab, chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"), where("/-/sent"))
		run(t, tab, chromedp.Navigate(h.nextLetter("ann@example.com", n).link), chromedp.WaitVisible(shows))
	}
	run(t, ctx, chromedp.Navigate(h.url+"/note"))
	signIn(ctx, 0, "#who")
	const note = "Zwölf \"Kästen\" & more"
	run(t, ctx, chromedp.SendKeys(css("textarea"), note), forgetCookies(),
		chromedp.Click(css("button")), chromedp.WaitVisible(css("a[target=_blank]")))

	opened := chromedp.WaitNewTarget(ctx, func(info *target.Info) bool { return info.Type == "page" })
	run(t, ctx, chromedp.Click(css("a[target=_blank]")))
	second, cancel := chromedp.NewContext(ctx, chromedp.WithTargetID(<-opened))
	defer cancel()
	if err := chromedp.Do(second); err != nil {
		t.Fatal(err)
	}
	run(t, second, chromedp.WaitVisible(css("input[name=email]")))
	signIn(second, 1, "main .note")
	reads(t, second, "main h1", "You’re signed in") // and says to go back to the form

	run(t, ctx, chromedp.Click(css(`form[action^="/note"] button`)), chromedp.WaitVisible(css("#got")))
	got := get(t, ctx, chromedp.Text(css("#got")))
	last := h.portal.lastPost()
	form, err := url.ParseQuery(last.Body)
	if err != nil || got != "ann@example.com" || last.URI != "/note?x=1" || form.Get("note") != note || form.Get("subject") != "a&b" {
		t.Errorf("the portal got %s %s %q from %s; want the form as it was typed", last.Method, last.URI, last.Body, got)
	}
}

// In a frame on the firm's website there is one link, which opens the portal in the whole
// window.
func TestBrowserFrame(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	site := newPortal(t)
	site.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>Firm</title><iframe src="%s/x" width="380" height="400"></iframe>`, h.url)
	}
	run(t, ctx, chromedp.Navigate(site.URL), chromedp.Sleep(time.Second), chromedp.MouseClickXY(10, 10))
	link := get(t, ctx, chromedp.Nodes(css("iframe")))
	inside := get(t, ctx, chromedp.Nodes(css("a"), chromedp.FromNode(link[0])))
	run(t, ctx, chromedp.MouseClickNode(inside[0]), where("/x"), chromedp.WaitVisible(css("input[name=email]")))
}

// Every page, in both themes, on a phone and on a desktop: axe finds nothing.
func TestBrowserAccessibility(t *testing.T) {
	h := openHouse(t, layout{})
	h.html()
	ctx := chromium(t)
	elsewhere := h.browser()
	foreign := elsewhere.ask("ann@example.com", "/").link
	used := elsewhere.ask("bob@example.com", "/").link
	elsewhere.open(used)

	checkPages(t, ctx, []shown{
		{"prompt", []step{chromedp.Navigate(h.url + "/orders/7")}},
		{"prompt-problem", []step{chromedp.Navigate(h.url + "/-/sign-in"),
			chromedp.Evaluate[chromedp.Void](`document.querySelector("form").noValidate = true`),
			chromedp.SendKeys(css(`input[name=email]`), "ann@example\r"), chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"sent", []step{chromedp.Navigate(h.url + "/x"), chromedp.SendKeys(css(`input[name=email]`), "nobody@example.com\r"), where("/-/sent")}},
		{"sent-problem", []step{chromedp.Navigate(h.url + "/-/sent"), chromedp.SendKeys(css(`input[name=code]`), "aaaa-bbbb\r"),
			chromedp.WaitVisible(css(`[aria-invalid=true]`))}},
		{"link-elsewhere", []step{chromedp.Navigate(foreign)}},
		{"link-used", []step{chromedp.Navigate(used)}},
		{"link-unknown", []step{chromedp.Navigate(h.url + "/-/link?t=nothing")}},
		{"signed-out", []step{chromedp.Navigate(h.url + "/-/sign-out")}},
		{"no-such-page", []step{chromedp.Navigate(h.url + "/-/nothing")}},
		{"mailbox", []step{chromedp.Navigate(caddymodule.MailboxURL(t, "example"))}},
		{"mail", []step{chromedp.Navigate(caddymodule.MailboxURL(t, "example")), chromedp.Click(css(`main a[href$=".eml"]`)), where(".eml")}},
	})
}

// shown is a page, and how to get to it.
type shown struct {
	name  string
	steps []step
}

// checkPages opens each page, in both themes, on a phone and on a desktop, and fails the test
// if axe finds something or the page scrolls sideways.
func checkPages(t *testing.T, ctx context.Context, pages []shown) {
	t.Helper()
	axe, err := os.ReadFile("../.testing/node_modules/axe-core/axe.min.js")
	if err != nil {
		t.Fatalf("%v; ./test.sh installs axe-core", err)
	}
	for _, p := range pages {
		run(t, ctx, p.steps...)
		for _, theme := range []string{"light", "dark"} {
			for _, width := range []int64{390, 1280} {
				name := fmt.Sprintf("%s-%s-%d", p.name, theme, width)
				run(t, ctx, chromedp.EmulateViewport(width, 844), inTheme(theme), chromedp.Evaluate[chromedp.Void](string(axe)+"; 0"))
				found := get(t, ctx, chromedp.Evaluate[string](`axe.run({runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}).then(r =>
					JSON.stringify(r.violations.map(v => v.id + ": " + v.nodes.map(n => n.html + " " + n.failureSummary).join(" | "))))`,
					chromedp.EvalAwaitPromise))
				var violations []string
				if err := json.Unmarshal([]byte(found), &violations); err != nil {
					t.Fatalf("%s: axe says %q: %v", name, found, err)
				}
				for _, v := range violations {
					t.Errorf("%s: %s", name, v)
				}
				if get(t, ctx, chromedp.Evaluate[bool](`document.documentElement.scrollWidth > document.documentElement.clientWidth`)) {
					t.Errorf("%s: scrolls sideways", name)
				}
				if folder := os.Getenv("SHOTS"); folder != "" {
					shot := get(t, ctx, chromedp.FullScreenshot(100))
					if err := os.WriteFile(filepath.Join(folder, name+".png"), shot, 0o644); err != nil {
						t.Error(err)
					}
				}
			}
		}
		run(t, ctx, chromedp.EmulateViewport(390, 844))
	}
}

// inTheme makes the browser prefer light or dark.
func inTheme(theme string) step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}},
		})
		return err
	})
}
