package caddymodule_test

import (
	"strings"
	"testing"
)

// A mailed link fits on a line, and works after the usual changes by programs.
func TestAMailedLinkSurvivesChangesByPrograms(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for i, mangle := range []func(string) string{
		func(l string) string { return l + ">" },
		func(l string) string { return l + "." },
		func(l string) string { return l + "&gt;" },
		func(l string) string { return strings.Replace(l, "t=", "t=3D", 1) },
		func(l string) string { return l[:len(l)-9] + "%20" + l[len(l)-9:] },
		func(l string) string { return l[:len(l)-9] + "%0D%0A" + l[len(l)-9:] },
		strings.Clone,
	} {
		h.mayMailAgain(i)
		b := h.browser()
		l := b.ask("ann@example.com", "/x")
		if path := strings.TrimPrefix(l.link, h.url); len("https://clients.bookkeeping.example.com"+path) > 76 {
			t.Errorf("the link %s is longer than a line of 76 characters at an ordinary host", l.link)
		}
		if a := b.open(mangle(l.link)); a.StatusCode != 303 || a.Header.Get("Location") != "/x" {
			t.Errorf("GET %s = %d to %q; want 303 to /x", mangle(l.link), a.StatusCode, a.Header.Get("Location"))
		}
		b.send("/-/sign-out", nil)
	}
}
