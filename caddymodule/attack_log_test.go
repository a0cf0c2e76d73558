package caddymodule_test

// D17: how much of the log visitors who aren't signed in can fill.

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

const (
	maxLogLine  = 1 << 10 // bytes of a line, for any request
	maxLogFlood = 2 << 20 // bytes that 10,000 requests of one kind add to the log
)

// plainLog is the log of a server without access log, as for Caddyfiles without the directive
// log.
func plainLog(t *testing.T) logFile {
	path := filepath.Join(t.TempDir(), "caddy.log")
	return logFile{path: path, global: "log {\n\t\toutput file " + path + "\n\t\tformat json\n\t}\n\t"}
}

// size returns the log's size in bytes.
func (l logFile) size(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// storm sends n requests with several clients concurrently, each from the next of many
// networks unless it sets its address.
func (h *house) storm(n int, request func(i int) *http.Request) {
	h.t.Helper()
	const clients = 32
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	var next atomic.Int64
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for i := int(next.Add(1)); i <= n; i = int(next.Add(1)) {
				r := request(i)
				if r.Header.Get("X-Forwarded-For") == "" {
					r.Header.Set("X-Forwarded-For", ithNetwork(i))
				}
				resp, err := client.Do(r)
				if err != nil {
					h.t.Errorf("request %d: %v", i, err)
					return
				}
				resp.Body.Close()
			}
		})
	}
	all.Wait()
}

func TestD17_LogOfAnonymousRequestsIsBounded(t *testing.T) {
	log := plainLog(t)
	h := openHouse(t, layout{global: log.global + behindProxy, companies: oldCompanies, firm: oldLinks, admin: freeAddress(t)})
	h.upgrade("birch")
	huge := strings.Repeat("x", 8<<10)
	b := h.browser()
	get := func(path string, header ...string) func(int) *http.Request {
		return func(i int) *http.Request {
			return b.request("GET", path, nil, append(header, "User-Agent", huge)...)
		}
	}
	post := func(path string, fields ...string) func(int) *http.Request {
		return func(i int) *http.Request {
			body := strings.ReplaceAll(form(fields...).Encode(), "who", fmt.Sprint("who", i))
			return b.request("POST", path, strings.NewReader(body), "Content-Type", "application/x-www-form-urlencoded", "Origin", h.url, "User-Agent", huge)
		}
	}
	few, many := 100, 1_500
	if *long {
		few, many = 10_000, 10_000
	}
	secret := strings.Repeat("A", 43)
	for _, kind := range []struct {
		name    string
		n       int
		request func(int) *http.Request
	}{
		{"an old link of no company", many, get("/one-click/unknown/orders")},
		{"an old link of an upgraded company", few, get("/one-click/birch-secret-token/orders")},
		{"an old link of an open company", few, get("/one-click/acme-secret-token-1/orders")},
		{"a long old link", few, get("/one-click/unknown/" + huge)},
		{"a public page, with an old link for a referer", few, get("/assets/"+huge, "Referer", h.url+"/one-click/unknown/"+huge)},
		{"a page", few, get("/orders/" + huge)},
		{"a page that isn't ours", few, get("/-/nothing")},
		{"another name for the site", few, func(i int) *http.Request {
			r := get("/orders")(i)
			r.Host = fmt.Sprintf("%s%d.example.com", strings.Repeat("z.", 2<<10), i)
			return r
		}},
		{"another method", few, func(i int) *http.Request {
			r := get("/one-click/unknown/orders")(i)
			r.Method = strings.Repeat("M", 1<<10)
			return r
		}},
		{"a link that never was", few, get("/-/link?t=" + secret)},
		{"a link's page", few, post("/-/link", "t", secret, "email", "who@example.com")},
		{"a request for mail", few, post("/-/sign-in", "email", "who@example.com")},
		{"a request to set a password", few, post("/-/help", "email", "who@example.com")},
		{"a code", few, post("/-/code", "code", "0000-0000")},
		{"an old link, while the portal is away", few, nil},
	} {
		if kind.request == nil {
			h.portal.Close()
			kind.request = get("/one-click/acme-secret-token-1/orders")
		}
		before := log.size(t)
		h.storm(kind.n, kind.request)
		most := min(int64(kind.n)*maxLogLine, maxLogFlood*int64(kind.n)/10_000+1000*maxLogLine)
		if added := log.size(t) - before; added > most {
			t.Errorf("%s: %d requests add %d KiB to the log; want at most %d", kind.name, kind.n, added>>10, most>>10)
		} else {
			t.Logf("%s: %d requests add %d KiB", kind.name, kind.n, added>>10)
		}
	}
	lines := map[string]bool{}
	for line := range strings.Lines(log.text(t)) {
		message, _, _ := strings.Cut(line[strings.Index(line, `"msg":`):], ",")
		if len(line) > maxLogLine && !lines[message] {
			lines[message] = true
			t.Errorf("a line has %d bytes; want at most %d: %.300s", len(line), maxLogLine, line)
		}
	}
}

func TestOldLinksAreLoggedOnlyInTheAccessLog(t *testing.T) {
	const line = `"msg":"request with an old link"`
	huge := strings.Repeat("x", 8<<10)
	for _, access := range []bool{false, true} {
		log := plainLog(t)
		site := ""
		if access {
			site = "log\n\t"
		}
		p := newPortal(t)
		h := openHouse(t, layout{global: log.global, companies: oldCompanies, firm: oldLinks, site: site + "reverse_proxy " + strings.TrimPrefix(p.URL, "http://")})
		for _, path := range []string{"/one-click/unknown/orders", "/one-click/acme-secret-token-1/orders"} {
			h.browser().open(path, "User-Agent", huge)
		}
		want := 0
		if access {
			want = 2
			h.eventually("both lines are written", func() bool { return strings.Count(log.text(t), line) >= 2 })
		}
		if text := log.text(t); strings.Count(text, line) != want || strings.Contains(text, huge) || strings.Contains(text, "acme-secret") {
			t.Errorf("with access log %t, the log has %d lines of two requests with an old link, or a whole header or token; want %d lines", access, strings.Count(text, line), want)
		}
	}
}
