//go:build browser

package caddymodule_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
)

// The examples of docs/notices.md, with curl and in PHP, do what the page says.
func TestPHPAndCurlSendNotices(t *testing.T) {
	page, err := os.ReadFile("../docs/notices.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(first string) string {
		var text strings.Builder
		_, rest, found := strings.Cut(string(page), "\n    "+first)
		if !found {
			t.Fatalf("docs/notices.md has no block that begins with %q", first)
		}
		for line := range strings.Lines("    " + first + rest) {
			if !strings.HasPrefix(line, "    ") {
				break
			}
			text.WriteString(strings.TrimPrefix(line, "    "))
		}
		return text.String()
	}
	h := openHouse(t, layout{admin: freeAddress(t), firm: "home /portal/{company}"})
	p := h.program(servicetoken.Notify)
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = "../testdata/php"
		cmd.Env = append(os.Environ(), "PORTAL="+h.url, "TOKEN="+p.token)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	curl := block(`curl -sS`)
	first, again := run("sh", "-c", curl), run("sh", "-c", curl)
	if first != again || strings.Count(first, `"request":`) != 2 {
		t.Errorf("curl says %s, and again %s; want both contacts told, once", first, again)
	}
	if l := h.nextLetter("bob@example.com", 0); !strings.Contains(l.text, "3 new questions") || !strings.Contains(l.text, "12 March") {
		t.Errorf("the email is\n%s", l.text)
	}
	php := block("require 'portal_notify.php';")
	if out := run("php", "-d", "include_path=.", "-r", php); out != "Told ann@example.com\n" {
		t.Errorf("PHP says %q; want that Ann was told", out)
	}
	p.token = servicetoken.Prefix + "wrong"
	if out := run("php", "-r", "require 'portal_notify.php'; try { portal_api(getenv('PORTAL'), getenv('TOKEN'), 'notify', []); } catch (RuntimeException $e) { echo $e->getMessage(); }"); !strings.HasPrefix(out, "Doorpost answers 401: there is no service token that is good here. send the header") {
		t.Errorf("PHP with a wrong token says %q", out)
	}
}
