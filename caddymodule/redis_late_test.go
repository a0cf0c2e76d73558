//go:build servers

package caddymodule_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// Redis starts later than Caddy at boot: requests that need no store are served, all others get a
// 503, and the gate works by itself once Redis is up. A reload that finds no Redis is refused,
// unless Redis was never reached.
func TestTheGateWaitsForARedisThatIsLate(t *testing.T) {
	_, port, _ := net.SplitHostPort(freeAddress(t))
	server := &redisServer{dir: t.TempDir(), port: port}
	t.Cleanup(func() {
		if server.cmd != nil {
			server.kill()
		}
	})
	mail, log := startMailServer(t), newLogFile(t)
	own := mail.app()
	h := openHouse(t, layout{app: own + "\n\t\t" + server.lines(t, own, t.TempDir()), firm: "public /assets/*", global: log.global, admin: freeAddress(t), closed: true})
	mail.moveInto(h)
	b := h.browser()
	h.eventually("an answer", func() bool {
		resp, err := http.Get(h.url + "/-/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return true
	})
	if a := b.open("/assets/site.css"); a.StatusCode != http.StatusOK || !strings.HasPrefix(a.body, "portal: ") {
		t.Errorf("a public path = %d %q; want the portal's page", a.StatusCode, a.body)
	}
	if a := b.open("/orders/7"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(a.body, `name="email"`) {
		t.Errorf("a page, signed out = %d; want 401 and the prompt", a.StatusCode)
	}
	away := func(what string, a answer) {
		t.Helper()
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || len(a.Cookies()) > 0 {
			t.Errorf("%s = %d, Retry-After %q, cookies %v; want 503, when to try again, and no cookie", what, a.StatusCode, a.Header.Get("Retry-After"), a.Cookies())
		}
	}
	away("health", b.open("/-/health"))
	away("asking for a link", b.send("/-/sign-in", form("email", "ann@example.com")))
	away("a link", b.open("/-/link?t="+strings.Repeat("a", 26)))
	away("a page, with a cookie", cookieBrowser(h, strings.Repeat("a", 43)).open("/orders/7"))
	if out, err := h.caddy("doorpost", "contacts", "list").CombinedOutput(); err == nil || strings.Contains(string(out), "There is no contact yet") {
		t.Errorf("contacts list = %v\n%s; want an error", err, out)
	}
	if err := h.load(); err != nil {
		t.Errorf("a reload while Redis was never there: %v", err)
	}
	if told := log.text(t); !strings.Contains(told, "the store can't be used yet; what needs it is refused, and it is tried again until it can") || !strings.Contains(told, "connection refused") {
		t.Error("the log doesn't say that the store can't be used yet, and why")
	}

	server.start(t)
	h.eventually("the gate is open", func() bool { return b.open("/-/health").StatusCode == http.StatusNoContent })
	h.eventually("the contacts are loaded", func() bool {
		page, err := h.office().Contacts(t.Context(), "example", admin.ListContacts{})
		return err == nil && len(page.Contacts) == 5
	})
	b.signIn("ann@example.com")
	if a := b.open("/orders/7"); a.body != "portal: GET /orders/7 for ann@example.com" {
		t.Errorf("a page, signed in = %d %q; want the portal's", a.StatusCode, a.body)
	}

	server.kill()
	if err := h.load(); err == nil {
		t.Error("a reload without Redis succeeded; want the configuration from before to go on")
	}
	if a := b.open("/assets/site.css"); a.StatusCode != http.StatusOK {
		t.Errorf("a public path while Redis is away = %d; want 200", a.StatusCode)
	}
	server.start(t)
	h.eventually("the gate is open again", func() bool { return b.open("/-/health").StatusCode == http.StatusNoContent })
	h.config = strings.ReplaceAll(h.config, server.at().URL, "redis://"+freeAddress(t)+"/0")
	if err := h.load(); err == nil {
		t.Error("a reload onto no server succeeded; want the configuration from before to go on")
	}
	if a := b.open("/orders/7"); a.StatusCode != http.StatusOK {
		t.Errorf("a page after a reload onto no server = %d; want 200 by the configuration from before", a.StatusCode)
	}
}
