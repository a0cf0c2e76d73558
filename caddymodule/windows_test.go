package caddymodule_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// upload is an upload of n bytes as browsers send it from a window.
func (b *browser) upload(path string, n int, headers ...string) answer {
	b.h.t.Helper()
	body := "--x\r\nContent-Disposition: form-data; name=\"receipt\"; filename=\"a.pdf\"\r\n\r\n" + strings.Repeat("a", n) + "\r\n--x--\r\n"
	headers = append([]string{"Content-Type", "multipart/form-data; boundary=x", "Origin", b.h.url, "Sec-Fetch-Site", "same-origin", "Upgrade-Insecure-Requests", "1"}, headers...)
	return b.do(b.request("POST", path, strings.NewReader(body), headers...))
}

// A person who sends something from a window after the session ended gets a page that says that
// nothing was sent, and how to send it again. A program gets a plain 401.
func TestAPersonAtAWindowGetsAPage(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	large := strings.Repeat("note=hello&", 7000)
	const urlencoded = "application/x-www-form-urlencoded"
	own := []string{"Origin", h.url, "Sec-Fetch-Site", "same-origin"}
	post := func(path, body, kind string, headers ...string) *http.Request {
		return b.request("POST", path, strings.NewReader(body), append(append([]string{"Content-Type", kind}, own...), headers...)...)
	}
	for _, c := range []struct {
		name string
		r    *http.Request
		want string // on the page
	}{
		{"an upload", post("/app", "--x--\r\n", "multipart/form-data; boundary=x"), "Nothing was sent"},
		{"a large form", post("/app", large, urlencoded), "Nothing was sent"},
		{"a text form", post("/app", "note=hi", "text/plain"), "Nothing was sent"},
		{"a form without a type", post("/app", "note=hi", ""), "Nothing was sent"},
		{"a form with a broken escape", post("/app", "note=%zz", urlencoded), "Nothing was sent"},
		{"a form of ours", post("/-/devices", "others=1", urlencoded), "Nothing was sent"},
		{"a form of ours, with a password", post("/-/password/change", "current=a&password=b", urlencoded), "Nothing was sent"},
		{"a return from a payment service", post("/paid", "id=7", urlencoded, "Origin", "https://pay.example", "Sec-Fetch-Site", "cross-site"), "don’t do it again"},
		{"a form in a frame", post("/app", "note=hi", urlencoded, "Sec-Fetch-Dest", "iframe"), "Nothing was sent"},
		{"an upload in a frame", post("/app", "--x--\r\n", "multipart/form-data; boundary=x", "Sec-Fetch-Dest", "iframe"), "Nothing was sent"},
		{"an upload that a service worker passes on", post("/app", "--x--\r\n", "multipart/form-data; boundary=x", "Sec-Fetch-Dest", "empty"), "Nothing was sent"},
		{"an upload of a browser without Sec-Fetch", post("/app", "--x--\r\n", "multipart/form-data; boundary=x", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""), "Nothing was sent"},
		{"a form", post("/app", "note=hi", urlencoded), "Your form is kept"},
		{"a form that a service worker passes on", post("/app", "note=hi", urlencoded, "Sec-Fetch-Dest", "empty"), "Your form is kept"},
		{"a page that a service worker passes on", b.request("GET", "/app", nil, "Sec-Fetch-Dest", "empty"), `name="email"`},
	} {
		h.portal.unseen(t, c.name, func() {
			a := b.do(c.r)
			if a.StatusCode != 401 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || !strings.Contains(a.body, c.want) || !strings.Contains(a.body, "/-/sign-in") {
				t.Errorf("%s = %d, %s; want 401 and a page with %q and the way to sign in\n%s", c.name, a.StatusCode, a.Header.Get("Content-Type"), c.want, a.body)
			}
			if len(a.Cookies()) != 0 || a.Header.Get("Cache-Control") == "" {
				t.Errorf("%s: cookies %v, Cache-Control %q; want none, and not to be kept", c.name, a.Cookies(), a.Header.Get("Cache-Control"))
			}
			framed := c.r.Header.Get("Sec-Fetch-Dest") == "iframe"
			if framed != (a.Header.Get("X-Frame-Options") == "") {
				t.Errorf("%s: X-Frame-Options = %q", c.name, a.Header.Get("X-Frame-Options"))
			}
		})
	}
	for name, headers := range map[string][]string{
		"a script's upload":    {"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
		"one that accepts all": {"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
		"curl's":               {"Accept", "*/*", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""},
	} {
		for _, kind := range []string{urlencoded, "multipart/form-data; boundary=x", "application/json"} {
			a := b.do(post("/app", "{}", kind, headers...))
			if a.StatusCode != 401 || a.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(a.body, `"sign_in_url":"`+h.url+`/-/sign-in"`) {
				t.Errorf("%s, %s = %d, %s; want 401, problem+json with sign_in_url\n%s", name, kind, a.StatusCode, a.Header.Get("Content-Type"), a.body)
			}
		}
	}
}

// The page contains nothing from an old link's URL, which may contain a token.
func TestAPersonAtAWindowGetsAPage_OldLinks(t *testing.T) {
	h := openHouse(t, layout{firm: "legacy_link /one-click/{token}/* /portal/{company}/*"}) // every token is unknown, or was upgraded
	b := h.browser()
	for name, a := range map[string]answer{
		"an upload": b.upload("/one-click/tok-acme-1/files", 10),
		"a form":    b.send("/one-click/tok-acme-1/note", form("a", "1")),
		"a page load that a service worker passes on": b.open("/one-click/tok-acme-1/x", "Sec-Fetch-Dest", "empty"),
	} {
		if strings.Contains(a.body, "tok-acme-1") || strings.Contains(fmt.Sprint(a.Header), "tok-acme-1") {
			t.Errorf("%s: the answer has the token\n%v\n%s", name, a.Header, a.body)
		}
		if a.StatusCode == http.StatusFound {
			a = b.open(a.Header.Get("Location"))
		}
		if a.StatusCode != 401 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s = %d, %s; want 401 and a page", name, a.StatusCode, a.Header.Get("Content-Type"))
		}
	}
}

// A browser that is still sending when the response arrives shows it, up to the amount that the
// server reads.
func TestAPersonAtAWindowGetsAPage_W10(t *testing.T) {
	h := openHouse(t, layout{})
	conn := h.dial()
	const size = 1 << 30
	fmt.Fprintf(conn, "POST /app HTTP/1.1\r\nHost: %s\r\nAccept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Site: same-origin\r\n"+
		"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n", h.host(), size)
	page := make(chan string, 1)
	go func() {
		got, _ := io.ReadAll(conn)
		page <- string(got)
	}()
	sent := 0
	for chunk := make([]byte, 64<<10); sent < 64<<20; {
		n, err := conn.Write(chunk)
		if sent += n; err != nil {
			break
		}
	}
	if got := <-page; !strings.HasPrefix(got, "HTTP/1.1 401 ") || !strings.Contains(got, "Nothing was sent") {
		t.Errorf("1 GiB: %.200q; want 401 and the page", got)
	}
	if sent >= 64<<20 { // what the server doesn't read waits in the kernel's buffers
		t.Errorf("1 GiB: the server took %d bytes; want the connection closed", sent)
	}
}

// When a browser checks for a new version of a service worker while nobody is signed in, it gets
// one that lets page loads reach the gate, whatever its path. All requests that aren't a browser's
// own check get the usual response.
func TestASignedOutServiceWorkerIsReplaced(t *testing.T) {
	h := openHouse(t, layout{firm: "public /assets/*"})
	look := []string{"Accept", "*/*", "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "serviceworker", "Sec-Fetch-Site", "same-origin", "Service-Worker", "script"}
	b := h.browser()
	h.portal.unseen(t, "a worker's script", func() {
		for _, path := range []string{"/sw.js", "/app/worker.js?v=2"} {
			a := b.open(path, look...)
			if a.StatusCode != 200 || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/javascript") || !strings.Contains(a.body, "skipWaiting") || strings.Contains(a.body, "fetch") || len(a.Cookies()) != 0 {
				t.Errorf("GET %s as a worker's script = %d, %s; want one that answers nothing\n%s", path, a.StatusCode, a.Header.Get("Content-Type"), a.body)
			}
		}
		for name, headers := range map[string][]string{"without the header": append(look[:8:8], "Service-Worker", ""), "for a page": append(look[:8:8], "Sec-Fetch-Dest", "document", "Service-Worker", "script")} {
			if a := b.open("/sw.js", headers...); a.StatusCode != 401 {
				t.Errorf("GET /sw.js %s = %d; want 401", name, a.StatusCode)
			}
		}
	})
	if a := b.open("/assets/sw.js", look...); !strings.HasPrefix(a.body, "portal:") {
		t.Errorf("a worker's script on a public path = %d; want the portal's", a.StatusCode)
	}
	if a := h.in("ann@example.com").open("/sw.js", look...); !strings.HasPrefix(a.body, "portal:") {
		t.Errorf("a worker's script, signed in = %d; want the portal's", a.StatusCode)
	}
}

// If a request can't be passed on, because its form can't be checked or the portal is down, a
// person gets a page and a program gets JSON.
func TestRefusedRequestsGetAPageOrJSON(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, site: "@away path /one-click/*\n\treverse_proxy @away 127.0.0.1:1"})
	m.moveInto(h)
	b := h.in("bob@example.com")
	for _, c := range []struct {
		method, path, title string
		status              int
		headers             []string
	}{
		{"POST", "/other", "This didn’t work", 400, []string{"Content-Type", "application/x-www-form-urlencoded", "Content-Encoding", "gzip", "Origin", h.url, "Sec-Fetch-Site", "same-origin"}},
		{"GET", "/one-click/acme-secret-token-1/x", "Please try again soon", 502, nil},
	} {
		page := b.do(b.request(c.method, c.path, strings.NewReader("packed"), c.headers...))
		if page.StatusCode != c.status || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") || !strings.Contains(page.body, "<h1") || !strings.Contains(page.body, c.title) {
			t.Errorf("%s %s by a person = %d %s\n%s\nwant %d and a page that says %q", c.method, c.path, page.StatusCode, page.Header.Get("Content-Type"), page.body, c.status, c.title)
		}
		program := b.do(b.request(c.method, c.path, strings.NewReader("packed"), append(c.headers, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Accept", "*/*")...))
		if program.StatusCode != c.status || program.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s %s by a program = %d %s; want %d and JSON", c.method, c.path, program.StatusCode, program.Header.Get("Content-Type"), c.status)
		}
	}
}
