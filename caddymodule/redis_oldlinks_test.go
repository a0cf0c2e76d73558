//go:build servers

package caddymodule_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Two gates of a firm with old links on one Redis server: anything that one of them learns counts
// at the other, and at a gate that has just started.
func TestTwoGates_OldLinks(t *testing.T) {
	portal := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			drip(w, r, "data: hello\n\n")
			return
		}
		if r.Header.Get("Cookie") == "" {
			w.Header().Set("Set-Cookie", "PHPSESSID=sid-of-acme; path=/; HttpOnly")
		}
		w.Write([]byte(strings.Join(r.Header["Cookie"], "|")))
	}))
	t.Cleanup(func() { portal.CloseClientConnections(); portal.Close() })
	rs, mails := startRedis(t), startMailServer(t)
	own := mails.app() + "\n"
	own += rs.lines(t, own, t.TempDir())
	open := func() *server {
		s := newServer(t, own, "email,companies\n")
		s.write("contacts.csv", "email,companies\nc0@example.com,acme\n")
		s.write("companies.csv", oldCompanies)
		s.admin = freeAddress(t)
		s.config = strings.NewReplacer("admin off", "admin "+s.admin, "public /open", "companies "+s.path("companies.csv")+"\n"+oldLinks,
			"respond \"for {http.auth.user.email}\"", "reverse_proxy "+strings.TrimPrefix(portal.URL, "http://")).Replace(s.config)
		s.write("Caddyfile", s.config)
		return s
	}
	first, second := open(), open()
	second.write("Caddyfile", strings.ReplaceAll(second.config, "url "+second.url, "url "+first.url))
	mails.moveInto(first.house)
	first.start()
	second.start()
	const old = "/one-click/acme-secret-token-1/"
	eventually := func(what string, most time.Duration, ok func() bool) {
		t.Helper()
		began := time.Now()
		for !ok() {
			if time.Since(began) > 30*time.Second {
				t.Fatalf("%s: not within 30 s", what)
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(began)
		t.Logf("%s after %v", what, took.Round(time.Millisecond))
		if took > most+slack {
			t.Errorf("%s after %v; want %v at most", what, took, most)
		}
	}
	b := first.browser()
	eventually("the old link works at both", 10*time.Second, func() bool {
		return b.open(old+"x").StatusCode == 200 && b.open(second.url+old+"x").StatusCode == 200
	})
	if a := b.open(second.url + "/dashboard.php"); a.StatusCode != 200 || a.body != "PHPSESSID=sid-of-acme" {
		t.Errorf("the visit and the portal's session at the other gate = %d, the portal gets %q", a.StatusCode, a.body)
	}
	eventually("the other gate has learned the cookie's name", 5*time.Second, func() bool {
		a := second.get("/dashboard.php", "Cookie: portal-visit="+b.cookie("portal-visit")+"; PHPSESSID=sid-of-acme")
		return a.status == 200 && a.body == ""
	})
	resp, err := b.client.Do(b.request("GET", second.url+old+"events", nil, "Accept", "text/event-stream"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for one := make([]byte, 100); ; {
			if _, err := resp.Body.Read(one); err != nil {
				return
			}
		}
	}()
	first.upgrade("acme")
	eventually("upgraded at one gate, the other asks for sign-in", 5*time.Second, func() bool {
		return b.open(second.url+old+"x").StatusCode == 302 && b.open(second.url+"/dashboard.php").StatusCode == 401
	})
	eventually("and the visit's stream there ends", 5*time.Second, func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	in := first.browser()
	in.signIn("c0@example.com")
	if a := in.open(second.url + "/portal/acme/x"); a.StatusCode != 200 || a.body != "" {
		t.Errorf("a member at the other gate = %d %q", a.StatusCode, a.body)
	}
	if a := in.open("/portal/acme/x"); a.body != "PHPSESSID=sid-of-acme" {
		t.Errorf("the portal's session that the other gate has bound: the portal gets %q", a.body)
	}
	third := open()
	third.write("Caddyfile", strings.ReplaceAll(third.config, "url "+third.url, "url "+first.url))
	third.start()
	if a := third.get(old + "x"); a.status != 302 {
		t.Errorf("a gate that has just begun: an upgraded old link = %d; want 302", a.status)
	}
	if a := third.get("/portal/acme/x", in.session()+"; PHPSESSID=sid-of-acme"); a.status != 200 || a.body != "" {
		t.Errorf("a gate that has just begun: a session without its seal = %d, the portal gets %q", a.status, a.body)
	}
	eventually("the uses at both gates are counted together", 15*time.Second, func() bool {
		out, err := first.house.caddy("doorpost", "legacy", "usage", "--csv").CombinedOutput()
		for line := range strings.Lines(string(out)) {
			var hits, asked int
			if f := strings.Split(line, ","); f[0] == "acme" {
				_, err1 := fmt.Sscan(f[4]+" "+f[5], &hits, &asked)
				return err == nil && err1 == nil && hits >= 4 && asked >= 2 // some of which the second and the third gate received
			}
		}
		return false
	})
	rs.kill()
	visitor := "Cookie: portal-visit=" + b.cookie("portal-visit")
	for _, s := range []*server{first, second, third} {
		eventually("without Redis, an old link and a visit are refused for now", 10*time.Second, func() bool { // cached data counts until then
			return s.get(old+"x").status == 503 && s.get("/x?client=birch-secret-token", visitor).status == 503
		})
	}
	for _, s := range []*server{first, second, third} {
		for _, path := range []string{old + "x", "/one-click/nobodys/x", "/view?client=acme-secret-token-1", "/x?client=birch-secret-token", "/portal/birch/", "/one-click/birch-secret-token/"} {
			for who, lines := range map[string][]string{"nobody": nil, "a member": {in.session()}, "a visitor": {visitor}} {
				began := time.Now()
				a := s.get(path, lines...)
				if path == "/x?client=birch-secret-token" && who == "nobody" { // asks for sign-in whatever the store says
					if location := a.header.Get("Location"); a.status != 302 || !strings.HasPrefix(location, "/-/go?x=") || len(a.header["Set-Cookie"]) > 0 {
						t.Errorf("without Redis, %s for %s = %d to %q; want the prompt, with the token sealed", path, who, a.status, location)
					}
					continue
				}
				if a.status != 503 || a.header.Get("Retry-After") == "" || len(a.header["Set-Cookie"]) > 0 || time.Since(began) > 5*time.Second {
					t.Errorf("without Redis, %s for %s = %d, Retry-After %q, cookies %q, after %v; want 503", path, who, a.status, a.header.Get("Retry-After"), a.header["Set-Cookie"], time.Since(began))
				}
			}
		}
	}
}
