package caddymodule_test

// Class P: method and path alone, as the portal reads them, decide whether a request gets
// in; nothing else that a visitor can set does.
//
// Not here: P08 and P17, of old links (attack_legacy_test.go); P13 (forward-auth doesn't
// exist).

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const someOpen = "public /public/* /favicon.ico\n\t\tpublic POST /hooks/*"

// shut checks that the gate answers a request of a visitor who isn't signed in.
func (h *house) shut(t *testing.T, what, request string) {
	t.Helper()
	h.portal.unseen(t, what, func() {
		if a := h.raw(request); a.status < 400 || strings.Contains(a.body, "portal:") {
			t.Errorf("%s = %d %.60q; want the gate's 4xx", what, a.status, a.body)
		}
	})
}

func TestP01_CVE_2025_54576_TheQueryGivesNoAccess(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	for _, target := range []string{"/secret?path=/public/", "/secret?/public/x", "/secret?x=/public/../", "/secret?#/public/x", "/x;/public/x",
		"/x%3f/public/x", "/?public/x", "/secret%23/public/x"} {
		h.shut(t, target, h.message("GET", target))
	}
}

func TestP03_CVE_2026_40575_HeadersGiveNoAccess(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	for _, line := range []string{"X-Forwarded-Uri: /public/x", "X-Original-URL: /public/x", "X-Rewrite-URL: /public/x", "X-Original-URI: /public/x",
		"X-Forwarded-Prefix: /public", "X-Forwarded-Path: /public/x", "Referer: http://127.0.0.1/public/x", "X-Forwarded-For: 127.0.0.1",
		"X-Real-IP: 127.0.0.1", "Authorization: Basic YWRtaW46YWRtaW4=", "X-Forwarded-Method: OPTIONS", "Content-Location: /public/x",
		"X-HTTP-Path: /public/x", "X-Request-URI: /public/x", "X-Sendfile: /public/x", "X-Accel-Redirect: /public/x", "SOAPAction: /public/x"} {
		h.shut(t, line, h.message("GET", "/secret", line))
	}
}

func TestP04_CVE_2026_34457_MonitorsGetNoAccess(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	for _, agent := range []string{"GoogleHC/1.0", "kube-probe/1.2", "ELB-HealthChecker/2.0", "Googlebot/2.1", "curl/8.0", "Consul Health Check", ""} {
		for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
			h.shut(t, agent, h.message(method, "/secret", "User-Agent: "+agent))
			h.shut(t, agent, h.message(method, "/", "User-Agent: "+agent))
		}
		if a := h.get("/-/health", "User-Agent: "+agent); a.status != 204 || a.body != "" {
			t.Errorf("GET /-/health by %s = %d %q; want 204", agent, a.status, a.body)
		}
	}
}

// CVE-2025-66490 and similar, GHSA-m8m5-v4jf-3wcm: a path that only some software reads as
// open isn't open. For signed-in visitors its bytes pass unchanged.
func TestP06_CVE_2025_66490_OpenPathsInDisguise(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	bob := h.in("bob@example.com")
	for _, tail := range []string{"..%2fadmin", "%2e%2e/admin", "..;/admin", "%252e%252e/admin", "/../admin", "..%5cadmin", ".%2e/admin", "../admin",
		"./x", "x/..", "x/../../admin", "..%252fadmin", "..%c0%afadmin", "%2fadmin", "x%00", "x%0a", "x%0d%0aX: y", "x;v=1", "x%3bv=1", "x//y", "x%25",
		"..\\admin", "x./", "x%20/y", "%u002e%u002e/admin", "%C1%A1", "a%EF%BC%8Fb", "%EF%BC%8E/b", "a%C2%A5b"} {
		target := "/public/" + tail
		h.shut(t, target, h.message("GET", target))
		a := h.get(target, bob.session())
		if got, _ := h.portal.last(); a.status == 200 && got.URI != strings.ReplaceAll(target, `\`, "%5C") || a.status != 200 && a.status != 400 {
			t.Errorf("GET %s, signed in = %d, the portal got %s; want the same bytes, or 400", target, a.status, got.URI)
		}
	}
	for _, target := range []string{"/Public/x", "/PUBLIC/x", "/public", "/publicx/y", "/favicon.ico/", "/favicon.ico/x", "/favicon%2eico", "//public/x",
		"/./public/x", "/x/../public/x", "/%70ublic/x", "/public%2fx", "/favicon.ico;x"} {
		h.shut(t, target, h.message("GET", target))
	}
	for _, target := range []string{"/public/x", "/public/", "/public/caf%C3%A9.css", "/public/a%20b.css", "/public/a(1).png", "/favicon.ico", "/favicon.ico?v=../admin"} {
		if a := h.get(target); a.status != 200 {
			t.Errorf("GET %s = %d; want 200, it is open", target, a.status)
		}
	}
	h.shut(t, "GET /hooks/x", h.message("GET", "/hooks/x"))
	if a := h.raw(h.message("POST", "/hooks/x", "Content-Length: 0")); a.status != 200 {
		t.Errorf("POST /hooks/x = %d; want 200, it is open", a.status)
	}
}

// CVE-2026-40912 and similar: an encoded slash is part of a name, to us and to the portal.
func TestP07_CVE_2026_40912_EncodedSlashes(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	bob := h.in("bob@example.com")
	for _, target := range []string{"/app%2Fadmin", "/app/%2e%2e/admin", "/app%2fadmin?x=%2F", "/%2Fapp", "/a%2F%2Fb"} {
		h.shut(t, target, h.message("GET", target))
		if a := h.get(target, bob.session()); a.status == 200 {
			if got, _ := h.portal.last(); got.URI != target {
				t.Errorf("GET %s: the portal got %s; want the same bytes", target, got.URI)
			}
		}
	}
}

// A path that could be read as one of our pages never reaches the portal, signed in or not,
// since it could contain a link.
func TestP07_OurPagesInDisguise(t *testing.T) {
	h := openHouse(t, layout{firm: "prefix /door"})
	bob := h.in2("bob@example.com", "/door")
	const secret = "?t=abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
	for _, target := range []string{"/door/link" + secret, "/DOOR/link" + secret, "/Door/Link" + secret, "//door/link" + secret, "/door//link" + secret,
		"/./door/link" + secret, "/x/../door/link" + secret, "/%64oor/link" + secret, "/door%2flink" + secret, "/door/link%3ft=x", "/door;x/link" + secret,
		"/door/link/" + secret, "/door/LINK" + secret, "/door/nothing", "/door/", "/door", "/%2564oor/link" + secret} {
		h.portal.unseen(t, target, func() {
			for _, who := range []string{"A: b", bob.session()} {
				if a := h.get(target, who); a.status != 404 && a.status != 400 {
					t.Errorf("GET %s = %d; want 404 or 400", target, a.status)
				}
			}
		})
	}
	if a := h.get("/doors/x", bob.session()); a.status != 200 {
		t.Errorf("GET /doors/x = %d; want the portal's 200", a.status)
	}
}

// CVE-2026-27588, CVE-2026-48794: a host in capitals is the same host.
func TestP10_CVE_2026_27588_HostsInEverySpelling(t *testing.T) {
	address := freeAddress(t)
	_, port, _ := strings.Cut(address, ":")
	portal := newPortal(t)
	h := openHouse(t, layout{more: fmt.Sprintf("http://portal.example:%s {\n\tdoorpost example\n\treverse_proxy %s\n}", port, strings.TrimPrefix(portal.URL, "http://"))})
	bob := h.in("bob@example.com")
	for _, c := range []struct {
		host string
		ours bool // a spelling of the site's host
	}{
		{"portal.example:" + port, true}, {"PORTAL.EXAMPLE:" + port, true}, {"Portal.Example", true}, {"portal.example", true},
		{"portal.example:443", true}, {"portal.example.", false}, {"portal.example.:" + port, false}, {"a.portal.example", false},
		{"portal.example.evil", false}, {"evilportal.example", false}, {"portal.example@evil", false}, {"127.0.0.1", false},
	} {
		request := "GET /x HTTP/1.1\r\nHost: " + c.host + "\r\nAccept: text/html\r\nConnection: close\r\n"
		portal.unseen(t, "Host: "+c.host, func() {
			a := h.rawTo(address, request+"\r\n")
			if c.ours && a.status != 401 || !c.ours && a.status == 200 && a.body != "" {
				t.Errorf("Host: %s = %d %.40q; want the gate, or nothing", c.host, a.status, a.body)
			}
		})
		a := h.rawTo(address, request+bob.session()+"\r\n\r\n")
		got, _ := portal.last()
		if c.ours && (a.status != 200 || got.Header.Get("Remote-User") != "bob@example.com") {
			t.Errorf("Host: %s, signed in = %d as %q; want the portal's 200 as bob", c.host, a.status, got.Header.Get("Remote-User"))
		}
	}
}

// The request line may contain a host, which then counts.
func TestP12_AbsoluteForm(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	bob := h.in("bob@example.com")
	for _, target := range []string{"http://evil.example/x", "http://evil.example/public/x", "https://evil.example:443/public/x", "http://x@evil.example/public/x"} {
		h.portal.unseen(t, target, func() {
			for _, who := range []string{"A: b", bob.session()} {
				if a := h.raw(h.message("GET", target, who)); a.status == 200 && a.body != "" {
					t.Errorf("GET %s = %q; want nothing", target, a.body)
				}
			}
		})
	}
	h.shut(t, "absolute", h.message("GET", h.url+"/x"))
	h.shut(t, "absolute, with another Host", "GET "+h.url+"/x HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
	for _, target := range []string{"foo:bar", "mailto:ann@example.com", "*", "x", "?x", "\\x", "//"} {
		h.shut(t, target, h.message("GET", target, "Accept: text/html"))
		h.portal.unseen(t, target+", signed in", func() {
			if a := h.raw(h.message("GET", target, bob.session())); a.status == 200 && target != "//" {
				t.Errorf("GET %s, signed in = 200; want it refused", target)
			}
			if target == "//" {
				h.portal.mu.Lock()
				h.portal.seen = h.portal.seen[:len(h.portal.seen)-1] // a path like any other
				h.portal.mu.Unlock()
			}
		})
	}
	if a := h.raw(h.message("GET", h.url+"/x", bob.session())); a.status != 200 {
		t.Errorf("absolute, signed in = %d; want 200", a.status)
	}
}

// No method gives access, on any kind of path.
func TestP14_NoMethodGivesAccess(t *testing.T) {
	h := openHouse(t, layout{firm: "public GET /public/*"})
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "TRACK", "FOO", "get", "PROPFIND", "MKCOL", "SEARCH",
		"PRI", "PURGE", "M-SEARCH", strings.Repeat("A", 32), strings.Repeat("A", 33)}
	for _, method := range methods {
		for _, target := range []string{"/", "/x", "/x/y?z", "/-/nothing"} {
			for _, line := range []string{"A: b", "X-HTTP-Method-Override: GET", "X-Method-Override: OPTIONS", "Content-Length: 0"} {
				h.shut(t, method+" "+target+" "+line, h.message(method, target, line))
			}
		}
		if method != "GET" {
			h.shut(t, method+" /public/x", h.message(method, "/public/x", "X-HTTP-Method-Override: GET"))
		}
	}
	bob := h.in("bob@example.com")
	for _, method := range []string{"TRACE", "TRACK"} {
		h.portal.unseen(t, method, func() {
			a := h.raw(h.message(method, "/x", bob.session()))
			if a.status != 405 || strings.Contains(a.body, bob.cookie("portal")) || a.header.Get("Allow") == "" {
				t.Errorf("%s, signed in = %d, Allow: %q; want 405 and what is allowed", method, a.status, a.header.Get("Allow"))
			}
		})
	}
}

func TestP18_PreflightsGetNothing(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen})
	for _, target := range []string{"/x", "/-/me", "/-/sign-out"} {
		h.portal.unseen(t, target, func() {
			a := h.raw(h.message("OPTIONS", target, "Origin: https://evil.example", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x"))
			for name := range a.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("OPTIONS %s: %s: %s", target, name, a.header.Get(name))
				}
			}
			if a.status < 400 {
				t.Errorf("OPTIONS %s = %d; want 4xx", target, a.status)
			}
		})
	}
}

// A page of ours lists its methods when it gets another one.
func TestP14_OurPagesAndTheirMethods(t *testing.T) {
	h := openHouse(t, layout{})
	pages := map[string]string{"/-/sign-in": "GET, HEAD, POST", "/-/sent": "GET, HEAD", "/-/code": "GET, HEAD, POST", "/-/link": "GET, HEAD, POST",
		"/-/sign-out": "GET, HEAD, POST", "/-/me": "GET, HEAD", "/-/jwks.json": "GET, HEAD", "/-/health": "GET, HEAD", "/-/logo": "GET, HEAD", "/-/companies": "GET, HEAD",
		"/-/account": "GET, HEAD", "/-/devices": "GET, HEAD, POST", "/-/password": "GET, HEAD, POST", "/-/help": "GET, HEAD, POST",
		"/-/staff": "GET, HEAD", "/-/staff/": "GET, HEAD", "/-/staff/contacts": "GET, HEAD, POST", "/-/staff/contact": "GET, HEAD, POST", "/-/staff/look": "GET, HEAD, POST", "/-/staff/add": "GET, HEAD, POST", "/-/staff/companies": "GET, HEAD, POST",
		"/-/password/set": "GET, HEAD, POST", "/-/password/change": "GET, HEAD, POST", "/-/password/remove": "GET, HEAD, POST"}
	for page, allow := range pages {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "FOO"} {
			a := h.raw(h.message(method, page, "Sec-Fetch-Site: same-origin", "Content-Length: 0"))
			allowed := slices.Contains(strings.Split(allow, ", "), method)
			if (a.status == http.StatusMethodNotAllowed) == allowed {
				t.Errorf("%s %s = %d; want 405 only without it in %s", method, page, a.status, allow)
			}
			if !allowed && a.header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow: %q; want %q", method, page, a.header.Get("Allow"), allow)
			}
		}
	}
	for _, page := range []string{"/-/nothing", "/-/", "/-", "/-/link/", "/-/sign-in/x", "/-/account/", "/-/password/", "/-/password/x", "/-/mailbox"} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			if a := h.raw(h.message(method, page, "Content-Length: 0")); a.status != 404 {
				t.Errorf("%s %s = %d; want 404", method, page, a.status)
			}
		}
	}
}
