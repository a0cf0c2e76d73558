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

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// shot saves a screenshot of the browser if SHOTS is a folder.
func shot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	folder := os.Getenv("SHOTS")
	if folder == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), get(t, ctx, chromedp.CaptureScreenshot()), 0o644); err != nil {
		t.Error(err)
	}
}

// reads fails the test unless an element of the page has the text.
func reads(t *testing.T, ctx context.Context, selector css, want string) {
	t.Helper()
	if got := strings.TrimSpace(get(t, ctx, chromedp.Text(selector))); got != want {
		t.Errorf("%s says %q at %s; want %q", selector, got, get(t, ctx, chromedp.Location()), want)
	}
}

// A client's old link before and after the upgrade, in a browser, with an unchanged PHP portal; her
// second company; and another person on the same machine.
func TestBrowserOldLinkBeforeAndAfterTheUpgrade(t *testing.T) {
	h := openPHPHouse(t, "php_fastcgi", layout{app: "mail folder " + filepath.Join(t.TempDir(), "mail")})
	const old = "/one-click/acme-secret-token-1/"
	ctx := chromium(t)

	run(t, ctx, chromedp.Navigate(h.url+old), where("/dashboard.php"))
	reads(t, ctx, "#client", "Acme Ltd")
	run(t, ctx, chromedp.Click(css("#order")), where(old+"orders/7"), says("#fetched", "Acme Ltd: 0"))
	shot(t, ctx, "walk-1-before")
	run(t, ctx, chromedp.SendKeys(css("input[name=note]"), "Zwölf <Kästen>\r"), where(old+"orders/7?saved=1"), says("#fetched", "Acme Ltd: 1"))
	reads(t, ctx, "#notes", "Zwölf <Kästen>")

	h.upgrade("acme", "birch")
	run(t, ctx, chromedp.Click(css("#dashboard")), chromedp.WaitVisible(css("input[name=email]"))) // from the page that is still open
	signsIn := func(email string) {
		t.Helper()
		run(t, ctx, chromedp.SendKeys(css("input[name=email]"), email+"\r"), where("/-/sent"),
			chromedp.WaitVisible(css("input[name=code]")))
		shot(t, ctx, "walk-3-sent")
		h.eventually("a mail in the mailbox", func() bool {
			reader := h.browser()
			reader.open(caddymodule.MailboxURL(t, "example"))
			return strings.Contains(reader.open("/-/mailbox/").body, email)
		})
		run(t, ctx, chromedp.Navigate(caddymodule.MailboxURL(t, "example")), chromedp.Click(css(`main a[href$=".eml"]`)), where(".eml"),
			chromedp.Click(css(`pre a[href*="/-/link?t="]`)))
	}
	run(t, ctx, chromedp.Navigate(h.url+old+"orders/7?tab=2#notes"), chromedp.WaitVisible(css("input[name=email]")))
	if at := get(t, ctx, chromedp.Location()); !strings.HasPrefix(at, h.url+"/-/go?x=") {
		t.Errorf("the old link leads to %s; want /-/go", at)
	}
	shot(t, ctx, "walk-2-prompt")
	signsIn("ann@example.com")
	run(t, ctx, where("/portal/acme/orders/7?tab=2#notes"), says("#fetched", "Acme Ltd: 0"))
	reads(t, ctx, "#at", old+"orders/7?tab=2")
	shot(t, ctx, "walk-4-after")
	run(t, ctx, chromedp.SendKeys(css("input[name=note]"), "once more\r"), where("/portal/acme/orders/7?saved=1"), says("#fetched", "Acme Ltd: 1"))
	reads(t, ctx, "#notes", "once more")
	run(t, ctx, chromedp.Click(css("#next")), where("/portal/acme/orders/8"), says("#fetched", "Acme Ltd: 1"))

	run(t, ctx, chromedp.Navigate(h.url+"/"), where("/-/companies"))
	shot(t, ctx, "walk-5-companies")
	run(t, ctx, chromedp.Click(css(`a[href="/portal/birch/"]`)), where("/dashboard.php"))
	reads(t, ctx, "#client", "Birch & Sons")
	run(t, ctx, chromedp.Click(css("#order")), where("/portal/birch/orders/7"), says("#fetched", "Birch & Sons: 0"))

	run(t, ctx, chromedp.Navigate(h.url+"/-/sign-out"), chromedp.Click(css("form button")), chromedp.WaitNotPresent(css(`form[action$="/sign-out"]`)),
		chromedp.Navigate(h.url+old+"orders/7"), chromedp.WaitVisible(css("input[name=email]")))
	signsIn("bob@example.com") // on the same machine
	run(t, ctx, where("/portal/acme/orders/7"), says("#fetched", "Acme Ltd: 0"))
	reads(t, ctx, "#notes", "")
	run(t, ctx, chromedp.Navigate(h.url+"/one-click/birch-secret-token/"), chromedp.WaitVisible(css("main h1")))
	reads(t, ctx, "main h1", "This page is not in your portal")
	run(t, ctx, chromedp.Click(css("main a.button")), where("/dashboard.php"))
	reads(t, ctx, "#client", "Acme Ltd")
}

// says waits until an element has the text.
func says(selector css, text string) step {
	return chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		for {
			got, err := chromedp.Text(selector)(ctx, tab)
			if err != nil || strings.TrimSpace(got) == text {
				return err
			}
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("%s says %q; want %q", selector, got, text)
			}
		}
	})
}

// comesAs gives the browser a person's session.
func comesAs(t *testing.T, ctx context.Context, h *house, email string) {
	t.Helper()
	cookie := h.in(email).cookie("portal")
	run(t, ctx, chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, cdpnetwork.SetCookie, cdpnetwork.SetCookieParams{Name: "portal", Value: cookie, URL: h.url})
		return err
	}))
}

// The pages of old links and companies have no accessibility problems that axe finds.
func TestBrowserAccessibilityOfCompanies(t *testing.T) {
	companies := "id,name,legacy_tokens\nacme,Acme Ltd,acme-secret-token-1\nbirch,Birch & Sons,\n"
	for i := range 60 {
		companies += fmt.Sprintf("c%d,\"%s %d, of a longer name\",\n", i, []string{"Harbour Café", "Müller Bau GmbH & Co. KG", "North Street Dental Practice"}[i%3], i)
	}
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: companies, contacts: someContacts + `many@example.com,,,,"acme;c1;c2;c3;c4;c5;c6;c7;c8;c9;c10",,` + "\n"})
	ctx := chromium(t)
	as := func(email string) { comesAs(t, ctx, h, email) }
	as("ann@example.com")
	checkPages(t, ctx, []shown{{"companies-few", []step{chromedp.Navigate(h.url + "/-/companies")}}})
	as("many@example.com")
	checkPages(t, ctx, []shown{
		{"companies-many", []step{chromedp.Navigate(h.url + "/-/companies")}},
		{"companies-found", []step{chromedp.Navigate(h.url + "/-/companies"), chromedp.SendKeys(css("input[name=q]"), "caf\r"), where("?q=caf")}},
		{"companies-not-found", []step{chromedp.Navigate(h.url + "/-/companies?q=Zebra")}},
	})
	as("owner@example.com")
	checkPages(t, ctx, []shown{{"companies-staff", []step{chromedp.Navigate(h.url + "/-/companies")}}})
	as("nameless@example.com")
	checkPages(t, ctx, []shown{
		{"companies-none", []step{chromedp.Navigate(h.url + "/-/companies")}},
		{"not-in-your-portal", []step{chromedp.Navigate(h.url + "/portal/acme/")}},
	})
}

// The button on the firm's website, which leads to the portal's base address: in a new tab, and in
// its own window.
func TestBrowserWebsiteButton(t *testing.T) {
	h, _ := openFastHouse(t, layout{firm: oldLinks, companies: oldCompanies})
	h.html()
	site := newPortal(t)
	site.answer = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>Firm</title>
<p><a id="tab" href="%[1]s/" target="_blank" rel="noopener">Client portal</a></p>
<p><button id="window" onclick="open('%[1]s/', 'portal', 'width=500,height=700')">Client portal</button></p>`, h.url)
	}
	other := strings.Replace(site.URL, "127.0.0.1", "localhost", 1) // another site than the portal's
	ctx := chromium(t)
	opens := func(button css, want step) {
		t.Helper()
		opened := chromedp.WaitNewTarget(ctx, func(info *target.Info) bool { return info.Type == "page" })
		run(t, ctx, chromedp.Navigate(other), chromedp.Click(button))
		second, cancel := chromedp.NewContext(ctx, chromedp.WithTargetID(<-opened))
		defer cancel()
		if err := chromedp.Do(second); err != nil {
			t.Fatal(err)
		}
		run(t, second, want)
	}
	prompt := chromedp.WaitVisible(css("input[name=email]"))
	opens("#tab", prompt)
	opens("#window", prompt)
	comesAs(t, ctx, h, "bob@example.com")
	there := chromedp.Steps(where("/portal/acme/"), says("#who", "bob@example.com"))
	opens("#tab", there)
	opens("#window", there)
}

// A frameset after the session has ended: the link in the frame leads to the outer page, which
// opens the whole portal, or without scripts to the portal's root.
func TestBrowserFrameset(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/books":
			fmt.Fprint(w, `<frameset cols="30%,70%"><frame name=menu src=/menu><frame name=main src=/list></frameset>`)
		case "/menu":
			fmt.Fprint(w, `<a id=orders href=/orders target=main>Orders</a>`)
		default:
			fmt.Fprintf(w, "<h1 id=at>%s</h1>", r.URL.Path)
		}
	}
	for _, scripted := range []bool{true, false} {
		want := "/"
		if scripted {
			want = "/books?year=2026"
		}
		ctx := chromium(t)
		comesAs(t, ctx, h, "bob@example.com")
		run(t, ctx, chromedp.Navigate(h.url+"/books?year=2026"), chromedp.WaitVisible(css("frame[name=main]")), forgetCookies(), scripts(scripted))
		link := ""
		h.eventually("the frame's page", func() bool {
			link = get(t, ctx, chromedp.Evaluate[string](`(function () {
				var main = window.frames.main.document, a = main.querySelector('a.button'), orders = window.frames.menu.document.getElementById('orders');
				if (a) return main.readyState === 'complete' ? a.href : '';
				if (orders) orders.click();
				return '';
			})()`))
			return link != ""
		})
		if link != h.url+want {
			t.Errorf("with scripts %t, the frame's link leads to %s; want %s", scripted, link, want)
		}
	}
}
