//go:build browser

package caddymodule_test

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// All staff pages, in both themes, on a phone and on a desktop, and a walk through them, have no
// accessibility problems that axe finds.
func TestBrowserStaff(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), admin: freeAddress(t), firm: oldLinks, companies: oldCompanies})
	m.moveInto(h)
	h.html()
	asking := h.browser()
	asking.ask("bob@example.com", "/")
	asking.send("/-/code", form("code", "0000-0000"))
	h.browser().send("/-/sign-in", form("email", "bob@example.net"))
	for range 5 {
		h.browser().open("/one-click/acme-secret-token-1/x")
	}
	h.browser().do(h.browser().request("GET", "/one-click/acme-secret-token-2/x", nil, "User-Agent", "LinkScanner/1.0"))
	owner := h.in("owner@example.com")
	owner.send("/-/staff/company", form("id", "acme", "do", "notify"))
	owner.sendFile("/-/staff/report", "July statement.pdf", "july", "company", "acme")
	caddymodule.Advance(t, 61*time.Second)
	ctx := chromium(t)
	l := h.browser().ask("owner@example.com", "/-/staff/")
	at := func(path string) step { return chromedp.Navigate(h.url + path) }
	checkPages(t, ctx, []shown{
		{"staff", []step{chromedp.Navigate(l.link), chromedp.SendKeys(css("input[name=email]"), "owner@example.com\r"), where("/-/staff/")}},
		{"staff-look", []step{at("/-/staff/"), chromedp.SendKeys(css("#look"), "bob@example.net\r"), where("/-/staff/look")}},
		{"staff-contacts", []step{at("/-/staff/contacts")}},
		{"staff-typing", []step{at("/-/staff/contacts"), chromedp.SendKeys(css("#q"), "bo"), chromedp.WaitVisible(css("[data-found] a"))}},
		{"staff-search", []step{at("/-/staff/"), chromedp.SendKeys(css("#q"), "bob\r"), where("/-/staff/contacts")}},
		{"staff-contact", []step{chromedp.Click(css(".companies a")), chromedp.WaitVisible(css(".story"))}},
		{"staff-code", []step{chromedp.Click(css(".tap[href*=code]")), chromedp.WaitVisible(css(".devices button"))}},
		{"staff-code-made", []step{chromedp.Click(css(".devices button")), chromedp.WaitVisible(css(".spelt"))}},
		{"staff-edit", []step{at("/-/staff/contacts"), chromedp.Click(css(".companies a[href*=contact]")), chromedp.WaitVisible(css(".story")), chromedp.Click(css(".tap[href*=edit]")), chromedp.WaitVisible(css("#phone"))}},
		{"staff-edit-wrong", []step{chromedp.SendKeys(css("#company"), "Nobody\r"), chromedp.WaitVisible(css("[aria-invalid=true]"))}},
		{"staff-edit-changed", []step{chromedp.SetValue(css("[name=version]"), "older"), chromedp.SetValue(css("[name=was]"), `{"first":"","last":"","email":"bob@example.com","phone":"1","locale":"","role":"client"}`), chromedp.SendKeys(css("#first"), "Robert\r"), chromedp.WaitVisible(css(".note[role=alert]"))}},
		{"staff-remove", []step{chromedp.Click(css(".after a")), chromedp.Click(css(".tap[href*=remove]")), chromedp.WaitVisible(css("[name=version]~button"))}},
		{"staff-add", []step{at("/-/staff/add")}},
		{"staff-add-wrong", []step{chromedp.SendKeys(css("#email"), "bob@example.com\r"), chromedp.WaitVisible(css("[aria-invalid=true]"))}},
		{"staff-companies", []step{at("/-/staff/companies")}},
		{"staff-company", []step{at("/-/staff/company?id=acme")}},
		{"staff-emails", []step{at("/-/staff/emails")}},
		{"staff-emails-test", []step{chromedp.Click(css("main form button")), chromedp.WaitVisible(css("[role=status]"))}},
		{"staff-devices", []step{at("/-/staff/devices")}},
		{"staff-log", []step{at("/-/staff/log")}},
		{"staff-log-wrong", []step{chromedp.SendKeys(css("#who"), "bob@example.net\r"), chromedp.WaitVisible(css("[role=alert]"))}},
		{"staff-view", []step{at("/-/staff/contacts"), chromedp.Click(css(".companies a")), chromedp.WaitVisible(css("main h1")), chromedp.Click(css("main a[href*='/staff/view']")), chromedp.WaitVisible(css("iframe"))}},
		{"staff-announce", []step{at("/-/staff/announce?company=acme")}},
		{"staff-announce-plan", []step{chromedp.Click(css("main form button")), chromedp.WaitVisible(css("[role=status]"))}},
		{"staff-announced", []step{chromedp.Click(css("main form button")), chromedp.WaitVisible(css("main progress"))}},
		{"staff-upgrade", []step{at("/-/staff/companies"), chromedp.Click(css(".devices button")), chromedp.WaitVisible(css("main form button"))}},
		{"staff-upgraded", []step{chromedp.Click(css("main form button")), chromedp.WaitVisible(css("[role=status]"))}},
	})
}
