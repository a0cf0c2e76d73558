//go:build browser

package caddymodule_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	cdpbrowser "github.com/chromedp/cdproto/browser"
	"github.com/chromedp/chromedp"
)

// The reports of a contact and of staff, in both themes, on a phone and on a desktop, have no
// accessibility problems that axe finds. A click saves the file under its own name, also without
// scripts.
func TestBrowserReports(t *testing.T) {
	m := startMailServer(t)
	h, _ := openLibrary(t, layout{app: m.app()})
	m.moveInto(h)
	h.html()
	ctx := chromium(t)
	l := h.browser().ask("ann@example.com", "/-/reports/")
	at := func(path string) step { return chromedp.Navigate(h.url + path) }
	checkPages(t, ctx, []shown{
		{"reports-none", []step{chromedp.Navigate(l.link), chromedp.SendKeys(css("input[name=email]"), "ann@example.com\r"), where("/-/reports/")}},
	})
	h.publish("acme", "", "June statement.pdf", "june")
	h.publish("birch", "Your tax return for 2025, with all its attachments, and what to do with it", "Übersicht: Steuer 2025.xlsx", "tax")
	h.publish("acme", "July statement", "July.pdf", "july")
	checkPages(t, ctx, []shown{
		{"reports", []step{at("/-/reports/")}},
		{"reports-companies", []step{at("/-/companies")}},
		{"reports-account", []step{at("/-/account")}},
	})

	folder := t.TempDir()
	for _, on := range []bool{true, false} {
		run(t, ctx, scripts(on), at("/-/reports/"),
			savesTo(folder),
			chromedp.Click(css(".companies li:nth-child(2) a")))
		path := filepath.Join(folder, "Übersicht_ Steuer 2025.xlsx")
		deadline := time.Now().Add(20 * time.Second)
		for {
			if data, err := os.ReadFile(path); err == nil && string(data) == "tax" {
				break
			}
			if time.Now().After(deadline) {
				all, _ := filepath.Glob(folder + "/*")
				t.Fatalf("scripts %v: no file of that name and content was saved; the folder has %q", on, all)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	run(t, ctx, scripts(true))

	staff := h.browser().ask("owner@example.com", "/-/reports/")
	checkPages(t, ctx, []shown{
		{"reports-staff", []step{at("/-/sign-out"), chromedp.Click(css("main form button")), chromedp.WaitVisible(css(`main a[href$="/sign-in"]`)), // signed out
			chromedp.Navigate(staff.link), chromedp.SendKeys(css("input[name=email]"), "owner@example.com\r"), where("/-/reports/")}},
	})
}

// savesTo makes the browser save downloads in the folder without asking.
func savesTo(folder string) step {
	return chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error {
		_, err := chromedp.Call(ctx, cdpbrowser.SetDownloadBehavior, cdpbrowser.SetDownloadBehaviorParams{Behavior: cdpbrowser.SetDownloadBehaviorBehaviorAllow, DownloadPath: folder})
		return err
	})
}
