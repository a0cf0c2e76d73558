//go:build browser

package caddymodule_test

import (
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// The example in docs/portal-developers.md for a portal in PHP: it takes the gate's word, and no other.
func TestPHPChecksTheAssertion(t *testing.T) {
	if _, err := exec.LookPath("php"); err != nil {
		t.Fatal("no php here; ./test.sh installs it")
	}
	h := openHouse(t, layout{})
	b := h.browser()
	b.signIn("ann@example.com")
	b.open("/")
	got, _ := h.portal.last()
	good := got.Header.Get("Portal-Assertion")
	other := "A" + good[strings.LastIndexByte(good, '.')+2:]
	if other[1:] == good[strings.LastIndexByte(good, '.')+2:] && good[strings.LastIndexByte(good, '.')+1] == 'A' {
		other = "B" + other[1:]
	}
	for _, c := range []struct{ name, assertion, origin, want string }{
		{"the gate's", good, h.url, "ann@example.com client acme,birch"},
		{"none", "", h.url, "nobody"},
		{"a forged signature", good[:strings.LastIndexByte(good, '.')+1] + other, h.url, "nobody"},
		{"no signature", good[:strings.LastIndexByte(good, '.')+1], h.url, "nobody"},
		{"another algorithm", "eyJhbGciOiJub25lIn0" + good[strings.IndexByte(good, '.'):], h.url, "nobody"},
		{"another firm's", good, strings.Replace(h.url, "127.0.0.1", "127.0.0.2", 1), "nobody"},
	} {
		script := `require '../testdata/php/portal_visitor.php';
			$_SERVER['HTTP_PORTAL_ASSERTION'] = $argv[1];
			$who = portal_visitor($argv[2], $argv[3], $argv[4]);
			echo $who === null ? 'nobody' : "$who[email] $who[role] " . implode(',', $who['companies']);`
		out, err := exec.Command("php", "-d", "display_errors=stderr", "-r", script, "--", c.assertion, c.origin, h.url+"/-/jwks.json", h.path("keys.json")).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("portal_visitor(%s) = %q, %v; want %q", c.name, out, err, c.want)
		}
	}
	if resp, err := http.Get(h.url + "/-/jwks.json"); err != nil || resp.StatusCode != 200 {
		t.Errorf("GET jwks.json: %v", err)
	}
}
