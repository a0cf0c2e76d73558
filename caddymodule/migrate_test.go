//go:build servers

package caddymodule_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A firm moves from a file to Redis and back: nobody is signed out, a link that waits works, and a store
// that was left behind isn't trusted. A copy of the store on Redis is a file.
func TestMovingToRedisAndBack(t *testing.T) {
	rs, mails, dir := startRedis(t), startMailServer(t), t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(strings.Repeat("correct horse ", 4)), 0o600); err != nil {
		t.Fatal(err)
	}
	file := func(name string) string { return "store bolt " + filepath.Join(dir, name) }
	h := openHouse(t, layout{app: mails.app() + "\n\t\tsecret {file." + dir + "/secret}\n\t\t" + file("first.db"), admin: freeAddress(t)})
	mails.moveInto(h)
	ann, bob := h.browser(), h.browser()
	ann.signIn("ann@example.com")
	waiting := bob.ask("bob@example.com", "/orders/7")

	run := func(args ...string) (string, error) {
		h.write("Caddyfile", h.config)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DOORPOST_TEST_CADDY_ARGS="+strings.Join(append(append([]string{"doorpost"}, args...), "--config", h.path("Caddyfile")), "\n"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	move := func(was, to, flag, store string) {
		t.Helper()
		h.config = strings.Replace(h.config, was, to, 1)
		if strings.HasPrefix(was, "store bolt") {
			if out, err := run("migrate", flag, store); err == nil || !strings.Contains(out, "is held by") {
				t.Errorf("moving a store that is open = %v\n%s", err, out)
			}
		}
		h.stop()
		if out, err := run("migrate", flag, store); err != nil || !strings.Contains(out, "of 1 firm from") {
			t.Fatalf("moving = %v\n%s", err, out)
		}
		h.start()
		h.settled()
		if a := ann.open("/x"); a.StatusCode != 200 || a.body != "portal: GET /x for ann@example.com" {
			t.Errorf("Ann's page after moving to %s = %d %q", to, a.StatusCode, a.body)
		}
	}
	first := file("first.db")
	move(first, rs.line(), "--from", "bolt:"+filepath.Join(dir, "first.db"))
	if a := bob.open(waiting.link); a.StatusCode != 303 || goes(a) != "/orders/7" {
		t.Errorf("a link from before = %d to %q; want 303 to the page", a.StatusCode, goes(a))
	}
	h.browser().signIn("owner@example.com")
	copied := filepath.Join(dir, "copy.db")
	if out, err := h.caddy("doorpost", "backup", copied).CombinedOutput(); err != nil {
		t.Errorf("backup = %v\n%s", err, out)
	}
	if out, err := run("store", "check", copied); err != nil || !strings.Contains(out, "is whole") {
		t.Errorf("store check of the copy = %v\n%s", err, out)
	}

	h.config = strings.Replace(h.config, rs.line(), first, 1)
	h.stop()
	h.start()
	if a := ann.open("/x"); a.StatusCode != 503 {
		t.Errorf("Ann's page with the store that was left behind = %d; want 503", a.StatusCode)
	}
	h.config = strings.Replace(h.config, first, rs.line(), 1)
	h.stop()
	h.start()
	h.settled()

	if rs.servers() == nil {
		move(rs.line(), file("second.db"), "--from", rs.at().URL)
		if a := bob.open("/y"); a.StatusCode != 200 {
			t.Errorf("Bob's page after moving back = %d; want 200", a.StatusCode)
		}
	}
}
