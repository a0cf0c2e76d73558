package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// withAdmin loads a site into Caddy with its admin endpoint, and returns the endpoint's
// address.
func withAdmin(t *testing.T, s siteBlock) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	at := l.Addr().String()
	t.Cleanup(func() {
		caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}}}`), true) // otherwise the endpoint outlives the test
		caddy.Stop()
	})
	if err := loadWithAdmin(t, at, s.caddyfile()); err != nil {
		t.Fatal(err)
	}
	return at
}

func loadWithAdmin(t *testing.T, at, caddyfile string) error {
	t.Helper()
	return caddy.Load(adapt(t, strings.Replace(caddyfile, "admin off", "admin "+at+" {\n\t\tenforce_origin\n\t}", 1)), true)
}

// The commands work with the running Caddy, whichever configurations it has loaded.
func TestAdminAPI(t *testing.T) {
	dir := home(t)
	s := siteBlock{firm: "staff owner@example.com"}
	d := &terminal{t: t, address: withAdmin(t, s)}
	check := func(when string) {
		t.Helper()
		stdout, stderr, code := d.run("contacts", "list")
		for range 100 { // Caddy closes the old admin endpoint while the new one is open
			if code == 0 || !strings.Contains(stderr, "EOF") {
				break
			}
			stdout, stderr, code = d.run("contacts", "list")
		}
		if code != 0 || !strings.Contains(stdout, "owner@example.com") {
			t.Errorf("%s: contacts list = %d, %s%s; want the owner", when, code, stdout, stderr)
		}
	}
	check("at first")
	if err := loadWithAdmin(t, d.address, s.caddyfile()); err != nil {
		t.Fatal(err)
	}
	check("after a reload")
	s.firm += "\n\t\tcontacts missing.csv"
	if err := loadWithAdmin(t, d.address, s.caddyfile()); err == nil {
		t.Fatal("a config with a missing file was loaded")
	}
	check("after a reload that failed")
	if _, stderr, code := d.run("backup", "copy.db"); code != 0 {
		t.Errorf("backup = %d, %s", code, stderr)
	}
	if err := loadWithAdmin(t, d.address, "{\n\tadmin off\n\tpersist_config off\n}\n"); err != nil {
		t.Fatal(err)
	}
	if _, open := engines.References(config.Location{Path: filepath.Join(dir, "doorpost.db")}); open {
		t.Error("the store is still open without doorpost in the config: a request has kept it")
	}
	if _, stderr, code := d.run("contacts", "list"); code != 1 || !strings.Contains(stderr, "no doorpost in it") {
		t.Errorf("contacts list without doorpost in the config = %d, %s", code, stderr)
	}
	if _, stderr, code := d.run("backup", "copy.db"); code != 1 || !strings.Contains(stderr, "no doorpost in it") {
		t.Errorf("backup without doorpost in the config = %d, %s", code, stderr)
	}
}

// A contact disabled through the admin endpoint is signed out with the next request to
// the gate.
func TestDisablingThroughTheAdminAPISignsOut(t *testing.T) {
	home(t)
	d := &terminal{t: t, address: withAdmin(t, siteBlock{})}
	f := activeApp(t).firms["example"]
	url := base(t) + "/orders"
	for _, command := range []string{"contacts disable", "contacts remove", "sessions revoke"} {
		if _, stderr, code := d.run("contacts", "add", "ann@example.com"); code != 0 && !strings.Contains(stderr, "belongs to") {
			t.Fatal(stderr)
		}
		d.run("contacts", "enable", "ann@example.com")
		c, err := f.Directory.ByEmail(t.Context(), address.Address("ann@example.com"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := f.Sessions.Begin(t.Context(), session.Session{Contact: c.ID, Generation: c.Generation, Method: "link"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Sessions.Store.Apply(t.Context(), b.Ops...); err != nil {
			t.Fatal(err)
		}
		f.Sessions.Began(t.Context(), b)
		visit := func() int {
			r, err := http.NewRequest("GET", url, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.AddCookie(&http.Cookie{Name: "portal", Value: b.Cookie})
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode
		}
		if status := visit(); status != 200 {
			t.Fatalf("signed in: GET /orders = %d; want 200", status)
		}
		if _, stderr, code := d.run(append(strings.Fields(command), "ann@example.com")...); code != 0 {
			t.Fatal(command, stderr)
		}
		if status := visit(); status != 401 {
			t.Errorf("after %s: GET /orders = %d; want 401", command, status)
		}
	}
}

// Web pages of other sites can't use the admin endpoint, and the site doesn't offer it.
func TestTheAdminAPIRejectsWebPages(t *testing.T) {
	home(t)
	at := withAdmin(t, siteBlock{})
	const path, body = "/doorpost/example/contacts/add", `{"email":"eve@example.com"}`
	for _, one := range []struct {
		what    string
		host    string
		headers []string
		status  int
	}{
		{"a rebound name", "evil.example", []string{"Content-Type", "application/json"}, 403},
		{"another origin", at, []string{"Content-Type", "application/json", "Origin", "https://evil.example"}, 403},
		{"a form", at, []string{"Content-Type", "text/plain", "Origin", "http://" + at}, 415},
		{"no-cors", at, []string{"Content-Type", "application/json", "Sec-Fetch-Mode", "no-cors"}, 400},
		{"a page load", at, []string{"Content-Type", "application/json", "Sec-Fetch-Mode", "navigate"}, 403},
	} {
		r, err := http.NewRequest("POST", "http://"+at+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = one.host
		for i := 0; i < len(one.headers); i += 2 {
			r.Header.Set(one.headers[i], one.headers[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != one.status {
			t.Errorf("%s: %s; want %d", one.what, resp.Status, one.status)
		}
	}
	resp, err := http.Post(base(t)+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 {
		t.Errorf("on the site's own listener: %s; want 401", resp.Status)
	}
	if stdout, _, _ := (&terminal{t: t, address: at}).run("contacts", "list"); strings.Contains(stdout, "eve") {
		t.Errorf("one of them added a contact:\n%s", stdout)
	}
	elsewhere := strings.Replace(siteBlock{}.caddyfile(), "admin off", "admin "+at+" {\n\t\torigins ops.example\n\t}", 1)
	if err := caddy.Load(adapt(t, elsewhere), true); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := (&terminal{t: t, address: at}).run("contacts", "list"); code != 1 || !strings.Contains(stderr, "refuses") || !strings.Contains(stderr, "origins") {
		t.Errorf("an endpoint that answers to another name only: contacts list = %d, %s", code, stderr)
	}
}

// A request to the admin endpoint keeps the store open; after it, and after the
// configuration, the store is closed.
func TestARequestToTheAdminAPIKeepsTheStoreOpen(t *testing.T) {
	home(t)
	serve(t, siteBlock{})
	app := activeApp(t)
	leave, err := app.enterAdmin()
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := app.backup(io.Discard); err != nil {
		t.Errorf("backup while its request is under way: %v", err)
	}
	leave()
	var left bytes.Buffer
	if err := app.backup(&left); !errors.Is(err, store.ErrUnavailable) || left.Len() > 0 {
		t.Errorf("backup after the last request: %v, %d bytes; want unavailable", err, left.Len())
	}
	if _, err := app.enterAdmin(); !errors.Is(err, errStopped) {
		t.Errorf("enterAdmin after it = %v; want errStopped", err)
	}
	if _, err := (&App{ready: make(chan struct{})}).enterAdmin(); !errors.Is(err, errStarting) {
		t.Errorf("enterAdmin before the start = %v; want errStarting", err)
	}
}
