package caddymodule_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// The doctor looks at the running gate from outside, at the portal and at the mail server; what is
// wrong comes with what to do, and with exit code 1.
func TestDoctorLooksAround(t *testing.T) {
	s := newSink(t)
	h := openHouse(t, layout{admin: freeAddress(t), app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t}", s.addr)})
	look := func() map[string]admin.Finding {
		t.Helper()
		d, err := h.office().Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]admin.Finding{}
		for _, f := range d.Findings {
			found[f.Check] = f
			if !f.OK && f.Do == "" {
				t.Errorf("%s doesn't say what to do: %s", f.Check, f.What)
			}
		}
		return found
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(h.portal.URL, "http://"))
	found := look()
	for check, what := range map[string]string{
		"store": "answers, and is no other one than before", "mail server": s.addr + " answers, without encryption", "site": h.url + " leads to this gate",
		"identity": "identity headers that visitors write change nothing", "portal": "the portal at port " + port + " answers this machine alone",
		"trusted_proxies": "no request has shown a proxy in front that isn't trusted",
	} {
		if f := found[check]; !f.OK || !strings.Contains(f.What, what) {
			t.Errorf("%s = %+v; want ok: %s", check, f, what)
		}
	}
	out, err := h.caddy("doorpost", "doctor").CombinedOutput()
	if err != nil || strings.Contains(string(out), "WRONG") {
		t.Errorf("doctor = %v\n%s\nwant exit code 0", err, out)
	}

	h.change("mail smtp "+s.addr, "mail smtp 127.0.0.1:1")
	h.browser().send("/-/sign-in", form("email", "ann@example.com"), "X-Forwarded-For", "203.0.113.9")
	found = look()
	for check, what := range map[string]string{"mail server": "connection refused", "trusted_proxies": "a proxy seems to be in front that isn't trusted"} {
		if f := found[check]; f.OK || !strings.Contains(f.What, what) {
			t.Errorf("%s = %+v; want it wrong: %s", check, f, what)
		}
	}
	out, err = h.caddy("doorpost", "doctor").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "WRONG  mail server (example): ") || slices.Contains(strings.Fields(string(out)), "--firm") {
		t.Errorf("doctor = %v\n%s\nwant exit code 1, and no --firm with one firm", err, out)
	}
}
