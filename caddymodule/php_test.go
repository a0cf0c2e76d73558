//go:build browser

package caddymodule_test

import (
	"bytes"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The example in docs/portal-developers.md for a PHP portal accepts the gate's assertion and no
// other.
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
	// If it returns null for a signed-in visitor, the log says why.
	for what, c := range map[string]struct{ assertion, origin, keys, want string }{
		"keys that can't be fetched": {good, h.url, "http://127.0.0.1:1/jwks.json", "cannot fetch the gate's keys from http://127.0.0.1:1/jwks.json"},
		"keys that are a page":       {good, h.url, h.url + "/-/sign-in", "the answer is no set of keys"},
		"another portal's":           {good, "https://other.example", h.url + "/-/jwks.json", "this portal is at https://other.example"},
		"a forged signature":         {good[:strings.LastIndexByte(good, '.')+1] + other, h.url, h.url + "/-/jwks.json", "its signature is not the gate's"},
		"no assertion":               {"", h.url, h.url + "/-/jwks.json", ""},
	} {
		script := `require '../testdata/php/portal_visitor.php'; $_SERVER['HTTP_PORTAL_ASSERTION'] = $argv[1];
			echo portal_visitor($argv[2], $argv[3], $argv[4]) === null ? 'nobody' : 'somebody';`
		var log bytes.Buffer
		cmd := exec.Command("php", "-d", "display_errors=0", "-d", "log_errors=1", "-d", "error_log=/dev/stderr", "-r", script, "--", c.assertion, c.origin, c.keys, filepath.Join(t.TempDir(), "keys.json"))
		cmd.Stderr = &log
		out, err := cmd.Output()
		if err != nil || string(out) != "nobody" || !strings.Contains(log.String(), c.want) || (c.want == "") != (log.Len() == 0) {
			t.Errorf("%s: portal_visitor says %q, %v, and the log %q; want nobody, and %q", what, out, err, &log, c.want)
		}
	}
	if resp, err := http.Get(h.url + "/-/jwks.json"); err != nil || resp.StatusCode != 200 {
		t.Errorf("GET jwks.json: %v", err)
	}
}
