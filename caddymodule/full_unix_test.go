//go:build unix

package caddymodule_test

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// tooBusy checks the answer of a gate that can't serve: fast, not cached, with
// Retry-After, and without text or cookie about being signed out.
func tooBusy(t *testing.T, what string, a answer) {
	t.Helper()
	if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("%s = %d, Retry-After %q; want 503 with it", what, a.StatusCode, a.Header.Get("Retry-After"))
	}
	if len(a.Cookies()) > 0 && a.Cookies()[0].Name == "portal" || a.Header.Get("Location") != "" {
		t.Errorf("%s sets %v and leads to %q; want neither", what, a.Cookies(), a.Header.Get("Location"))
	}
}

// ownProcess marks a test that runs in its own process.
const ownProcess = "DOORPOST_TEST_ALONE"

// K12: with a full disk nobody new can sign in, no acknowledged change is lost, sessions
// go on, and everything works again once there is space.
func TestK12_DiskFull(t *testing.T) {
	if os.Getenv(ownProcess) == "" {
		// The limit is per process, and the test runner writes its own files.
		alone := exec.Command(os.Args[0], "-test.run=^TestK12_DiskFull$", "-test.timeout=1m", "-test.v")
		alone.Env = append(os.Environ(), ownProcess+"=1")
		out, err := alone.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestK12_DiskFull") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	h := openHouse(t, layout{contacts: manyContacts(5)})
	in, rare, asking, coming := h.browser(), h.browser(), h.browser(), h.browser()
	in.signIn(contact(0))
	in.open("/x")
	rare.signIn(contact(1)) // without a request so far, so the store is read
	link := asking.ask(contact(2), "/there")
	other := coming.ask(contact(3), "/there")

	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(syscall.SIGXFSZ) // a write beyond the limit then fails, as on a full disk
	lift := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
			t.Fatal(err)
		}
	}
	defer lift()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	tooBusy(t, "POST /-/sign-in on a full disk", coming.send("/-/sign-in", url.Values{"email": {contact(4)}}))
	tooBusy(t, "GET link on a full disk", asking.open(link.link))
	tooBusy(t, "POST code on a full disk", coming.send("/-/code", url.Values{"code": {other.code}}))
	for _, b := range []*browser{in, rare} {
		if a := b.open("/x"); a.StatusCode != 200 || !strings.HasPrefix(a.body, "portal:") {
			t.Errorf("GET /x, signed in, on a full disk = %d; want the portal's page", a.StatusCode)
		}
	}
	lift()
	if a := asking.open(link.link); a.StatusCode != 303 || a.Header.Get("Location") != "/there" {
		t.Errorf("GET link once there is room = %d; want 303 to /there", a.StatusCode)
	}
	if a := coming.send("/-/code", url.Values{"code": {other.code}}); a.StatusCode != 303 || a.Header.Get("Location") != "/there" {
		t.Errorf("POST code once there is room = %d; want 303 to /there", a.StatusCode)
	}
	coming.ask(contact(4), "/")
}

// K02: while the store is unavailable, only visitors known to be signed in get in, and
// nobody is told that they are signed out. Public pages stay public.
func TestK02_StoreAway(t *testing.T) {
	h := openHouse(t, layout{contacts: manyContacts(3), firm: "public /open/*"})
	in, rare, asking := h.browser(), h.browser(), h.browser()
	in.signIn(contact(0))
	in.open("/x")
	rare.signIn(contact(1))
	link := asking.ask(contact(2), "/")
	cookie := rare.cookie("portal")
	if err := caddymodule.OpenStore(t).Close(); err != nil {
		t.Fatal(err)
	}
	tooBusy(t, "GET /x", rare.open("/x"))
	tooBusy(t, "fetch of /x", rare.open("/x", "Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"))
	tooBusy(t, "a WebSocket", rare.open("/x", "Accept", "", "Sec-Fetch-Mode", "websocket", "Sec-Fetch-Dest", "", "Connection", "Upgrade", "Upgrade", "websocket"))
	tooBusy(t, "POST /x", rare.send("/x", url.Values{"a": {"b"}}))
	tooBusy(t, "GET /-/me", rare.open("/-/me"))
	tooBusy(t, "GET /-/sign-in", rare.open("/-/sign-in"))
	tooBusy(t, "GET /-/sign-out", rare.open("/-/sign-out"))
	tooBusy(t, "POST /-/sign-out", rare.send("/-/sign-out", url.Values{}))
	tooBusy(t, "GET /-/sent", asking.open("/-/sent"))
	tooBusy(t, "POST /-/sign-in", h.browser().send("/-/sign-in", url.Values{"email": {contact(1)}}))
	tooBusy(t, "POST /-/code", asking.send("/-/code", url.Values{"code": {link.code}}))
	tooBusy(t, "GET link", asking.open(link.link))
	tooBusy(t, "GET /-/health", rare.open("/-/health"))
	if got := rare.cookie("portal"); got != cookie {
		t.Errorf("the session's cookie is %q by now; want it untouched", got)
	}
	if a := in.open("/x"); a.StatusCode != 200 && a.StatusCode != 503 {
		t.Errorf("GET /x of a session that is in memory = %d; want 200 or 503", a.StatusCode)
	}
	for who, b := range map[string]*browser{"somebody signed in": rare, "anybody": h.browser()} {
		if a := b.open("/open/x"); a.StatusCode != 200 || a.body != "portal: GET /open/x for " {
			t.Errorf("GET /open/x by %s = %d %q; want the portal's page, without a name", who, a.StatusCode, a.body)
		}
	}
	if err := h.load(); err == nil { // it would use the same store
		t.Error("a reload = nil; want an error, and the old config to go on")
	}
	tooBusy(t, "GET /x after a reload", rare.open("/x"))
}
