package config

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Refused values and their errors are in the golden files. These tests cover accepted values and
// the results of functions.

func TestCheckURL(t *testing.T) {
	for _, c := range []struct {
		url    string
		origin string // "" if refused
	}{
		{"https://clients.example.com", "https://clients.example.com"},
		{"https://clients.example.com/", "https://clients.example.com"},
		{"HTTPS://Clients.Example.COM:443", "https://clients.example.com"},
		{"https://clients.example.com:8443", "https://clients.example.com:8443"},
		{"https://clients.example.com:80", "https://clients.example.com:80"},
		{"https://portal", "https://portal"},
		{"https://192.0.2.1", "https://192.0.2.1"},
		{"https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"},
		{"https://xn--mnchen-3ya.example", "https://xn--mnchen-3ya.example"},
		{"http://localhost:8080", "http://localhost:8080"},
		{"http://portal.localhost", "http://portal.localhost"},
		{"http://127.0.0.2:80", "http://127.0.0.2"},
		{"http://[::1]:8080", "http://[::1]:8080"},
		{"http://192.0.2.1", ""},
		{"http://localhost.example.com", ""},
		{"http://127.0.0.1.example.com", ""},
		{"https://", ""},
		{"https:clients.example.com", ""},
		{"//clients.example.com", ""},
		{"https://clients.example.com#", ""},
		{"https://clients.example.com?", ""},
		{"https://clients.example.com:99999", ""},
		{"https://clients_.example.com", ""},
		{"https://a b.example.com", ""},
		{"https://clients..example.com", ""},
		{"https://clients.example.com/%2e", ""},
	} {
		err := checkURL(c.url)
		if (err == nil) != (c.origin != "") {
			t.Errorf("checkURL(%s) = %v; want it refused: %v", c.url, err, c.origin == "")
		}
		if err == nil && origin(c.url) != c.origin {
			t.Errorf("origin(%s) = %s; want %s", c.url, origin(c.url), c.origin)
		}
	}
}

func TestCheckPublicPath(t *testing.T) {
	for path, ok := range map[string]bool{
		"/": true, "/favicon.ico": true, "/assets/*": true, "/a/b/c/*": true, "/a/": true, "/mit Leerzeichen/*": true,
		"": false, "*": false, "/*": false, "//*": false, "/a//*": false, "/./*": false, "/a/./b": false, "/a/../*": false,
		"/a*": false, "/*.css": false, "/a;b": false, `/a\b`: false, "/a%20b": false, "/a?b": false, "/a#b": false, "/{path}": false,
		"/a\x00": false, "/a/..": false, "a": false,
	} {
		if err := checkPublicPath(path); (err == nil) != ok {
			t.Errorf("checkPublicPath(%q) = %v; want it good: %v", path, err, ok)
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	for prefix, ok := range map[string]bool{
		"": true, "/-": true, "/door": true, "/a/b": true, "/.well-known/door": true, "/" + strings.Repeat("a", 63): true,
		"/": false, "/a/": false, "/a//b": false, "/.": false, "/a/..": false, "/a b": false, "/ä": false, "/a%2d": false, "/a*": false,
		"/" + strings.Repeat("a", 64): false, "a": false, "/a?b": false,
	} {
		if err := checkPrefix(prefix); (err == nil) != ok {
			t.Errorf("checkPrefix(%q) = %v; want it good: %v", prefix, err, ok)
		}
	}
}

func TestCheckFirmID(t *testing.T) {
	for id, ok := range map[string]bool{
		"example": true, "a": true, "7-up": true, "-": true, strings.Repeat("a", 63): true,
		"": false, "Example": false, "ex_ample": false, "ex.ample": false, "ä": false, strings.Repeat("a", 64): false, "a b": false, "a\n": false,
	} {
		if err := CheckFirmID(id); (err == nil) != ok {
			t.Errorf("checkFirmID(%q) = %v; want it good: %v", id, err, ok)
		}
	}
}

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		rate string
		n    int
		per  time.Duration
	}{
		{"", 60, time.Minute}, {"60/m", 60, time.Minute}, {"10/s", 10, time.Second}, {"500/h", 500, time.Hour}, {"999999/h", 999999, time.Hour},
		{"0/m", 0, 0}, {"-1/m", 0, 0}, {"60", 0, 0}, {"60/d", 0, 0}, {"/m", 0, 0}, {"1.5/s", 0, 0}, {"060/m", 0, 0}, {"1000000/h", 0, 0}, {"60/m ", 0, 0},
	} {
		n, per, err := parseRate(c.rate)
		if n != c.n || per != c.per || (err == nil) != (c.n > 0) {
			t.Errorf("parseRate(%q) = %d, %s, %v; want %d, %s", c.rate, n, per, err, c.n, c.per)
		}
	}
}

func TestWithDefaults(t *testing.T) {
	for _, c := range []struct {
		given, want Session
	}{
		{Session{}, Session{caddy.Duration(45 * day), caddy.Duration(180 * day)}},
		{Session{Max: caddy.Duration(30 * day)}, Session{caddy.Duration(30 * day), caddy.Duration(30 * day)}},
		{Session{Idle: caddy.Duration(time.Hour)}, Session{caddy.Duration(time.Hour), caddy.Duration(180 * day)}},
	} {
		cfg := Firm{Session: c.given}.withDefaults()
		if cfg.Session != c.want || cfg.Prefix != "/-" || time.Duration(cfg.LinkLifetime) != 10*time.Minute {
			t.Errorf("withDefaults(%v) = %v, %s, %v; want %v, /-, 10m", c.given, cfg.Session, cfg.Prefix, cfg.LinkLifetime, c.want)
		}
		if err := cfg.Session.Validate(); err != nil {
			t.Errorf("the defaults of %v don't pass: %v", c.given, err)
		}
	}
}

func TestDays(t *testing.T) {
	for d, want := range map[time.Duration]string{
		45 * day: "45d", 36 * time.Hour: "36h", 2 * time.Hour: "2h", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m",
		10 * time.Second: "10s", time.Hour + time.Second: "1h0m1s", 0: "0s", 20 * time.Hour: "20h",
	} {
		if got := days(d); got != want {
			t.Errorf("days(%v) = %s; want %s", d, got, want)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"contacts", "companies", "staff", "public", "url", "brand", "username"}
	for name, want := range map[string]string{
		"contact": "contacts", "comapnies": "companies", "stuff": "staff", "Public": "public", "urls": "url", "uri": "url",
		"user": "username", "xyz": "", "": "", "database": "", "u": "",
	} {
		if got := nearest(name, names); got != want {
			t.Errorf("nearest(%q) = %q; want %q", name, got, want)
		}
	}
}

func TestDefines(t *testing.T) {
	for _, c := range []struct {
		raw  string
		want bool
	}{
		{`{"handler":"doorpost","firm":"example","config":{"url":"x"}}`, true},
		{`{"handler":"doorpost","firm":"example"}`, false},
		{`{"handler":"doorpost","firm":"example","config":null}`, false},
		{`{"handler":"doorpost","firm":"other","config":{}}`, false},
		{`{"handler":"subroute","routes":[{"handle":[{"handler":"vars"},{"handler":"doorpost","firm":"example","config":{}}]}]}`, true},
		{`{"handler":"static_response","body":"doorpost example config"}`, false},
		{`{"handler":"doorpost"`, false},
	} {
		if got := defines(json.RawMessage(c.raw), "example"); got != c.want {
			t.Errorf("defines(%s) = %v; want %v", c.raw, got, c.want)
		}
	}
}
