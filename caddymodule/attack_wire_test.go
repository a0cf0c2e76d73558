package caddymodule_test

// Class W: bytes on the wire. Class D, for single requests.
//
// Not here: D14's slow forms (gate/away_test.go, with a test clock); W06 to W08
// (attack_http2_test.go, attack_odd_test.go); D01 to D11 and D17, which are about more than
// one request (attack_flood_test.go, limit, audit).

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Bare line feeds and folded lines: whatever the server makes of them, the portal gets only
// what the gate has checked.
func TestW04_BareLineFeedsAndFoldedLines(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	host := "Host: " + h.host()
	for name, request := range map[string]string{
		"bare line feeds":                "GET /public/x HTTP/1.1\n" + host + "\nRemote-User: evil\n\n",
		"a folded line":                  "GET /public/x HTTP/1.1\r\n" + host + "\r\nX-A: b\r\n Remote-User: evil\r\n\r\n",
		"a folded line of ours":          "GET /public/x HTTP/1.1\r\n" + host + "\r\nRemote-User: a\r\n\tevil\r\n\r\n",
		"a name with a space":            "GET /public/x HTTP/1.1\r\n" + host + "\r\nRemote-User : evil\r\n\r\n",
		"a name with a tab":              "GET /public/x HTTP/1.1\r\n" + host + "\r\nRemote-User\t: evil\r\n\r\n",
		"a name that begins with one":    "GET /public/x HTTP/1.1\r\n" + host + "\r\n Remote-User: evil\r\n\r\n",
		"a line with no colon":           "GET /public/x HTTP/1.1\r\n" + host + "\r\nRemote-User\r\n\r\n",
		"a carriage return inside":       "GET /public/x HTTP/1.1\r\n" + host + "\r\nX-A: b\rRemote-User: evil\r\n\r\n",
		"a zero inside":                  "GET /public/x HTTP/1.1\r\n" + host + "\r\nX-A: b\x00Remote-User: evil\r\n\r\n",
		"two lengths":                    "POST /public/x HTTP/1.1\r\n" + host + "\r\nContent-Length: 3\r\nContent-Length: 30\r\n\r\nabcGET / HTTP/1.1\r\nRemote-User: evil\r\n\r\n",
		"a length and chunks":            "POST /public/x HTTP/1.1\r\n" + host + "\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n" + host + "\r\nRemote-User: evil\r\n\r\n",
		"chunks in another spelling":     "POST /public/x HTTP/1.1\r\n" + host + "\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"chunks and something else":      "POST /public/x HTTP/1.1\r\n" + host + "\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
		"HTTP/1.0":                       "GET /public/x HTTP/1.0\r\n" + host + "\r\nRemote-User: evil\r\n\r\n",
		"HTTP/1.0, kept alive":           "GET /public/x HTTP/1.0\r\n" + host + "\r\nConnection: keep-alive, Remote-User\r\nRemote-User: evil\r\n\r\n",
		"HTTP/0.9":                       "GET /public/x\r\n\r\n",
		"an HTTP of its own":             "GET /public/x HTTP/9.9\r\n" + host + "\r\n\r\n",
		"an absolute line with a header": "GET " + h.url + "/public/x HTTP/1.1\r\n" + host + "\r\nRemote-User: evil\r\n\r\n",
	} {
		before := h.portal.count()
		conn := h.dial()
		conn.SetDeadline(time.Now().Add(300 * time.Millisecond)) // some of them keep the connection
		io.WriteString(conn, request)
		io.Copy(io.Discard, conn)
		conn.Close()
		h.portal.mu.Lock()
		for _, got := range h.portal.seen[before:] {
			if m := told(got.Header); len(m) != 0 {
				t.Errorf("%s: the portal was told %v", name, m)
			}
			if !strings.HasPrefix(got.URI, "/public/") {
				t.Errorf("%s: the portal got %s %s", name, got.Method, got.URI)
			}
		}
		h.portal.mu.Unlock()
	}
	// Pipelined requests on one connection are checked one by one.
	conn := h.dial()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, "GET /x HTTP/1.1\r\n"+host+"\r\n"+bob.session()+"\r\n\r\nGET /y HTTP/1.1\r\n"+host+"\r\n\r\nGET /z HTTP/1.0\r\n"+host+"\r\n"+bob.session()+"\r\n\r\n")
	in := bufio.NewReader(conn)
	for _, want := range []int{200, 401, 200} {
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != want {
			t.Errorf("in a row: %d; want %d", resp.StatusCode, want)
		}
	}
}

// CVE-2024-24791's class, W10: visitors who aren't signed in get their answer before the
// body, of which the server reads no more than its usual small amount.
func TestW09_CVE_2024_24791_LargeBodiesOfAnonymousVisitors(t *testing.T) {
	address, connections := listener(t)
	h := openHouse(t, layout{site: "reverse_proxy " + address})
	const gibibyte = 1 << 30
	for _, path := range []string{"/upload", "/-/sign-in", "/-/code", "/-/link", "/-/sign-out", "/-/nothing", "/-/health"} {
		for _, kind := range []string{"application/octet-stream", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"} {
			head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nAccept: text/html\r\nSec-Fetch-Site: same-origin\r\nContent-Type: %s\r\n", path, h.host(), kind)
			a := h.raw(head + fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", gibibyte))
			if a.status < 400 && path != "/-/sign-out" || a.status == http.StatusContinue {
				t.Errorf("POST %s of 1 GiB of %s, expecting = %d; want it refused unread", path, kind, a.status)
			}
			for name, length := range map[string]string{"with a length": fmt.Sprintf("Content-Length: %d", gibibyte), "in chunks": "Transfer-Encoding: chunked"} {
				if sent := flood(h, head+length+"\r\n\r\n", name == "in chunks"); sent > 8<<20 {
					t.Errorf("POST %s of 1 GiB of %s, %s: %d KiB were taken; want the connection closed", path, kind, name, sent>>10)
				}
			}
		}
	}
	if n := connections(); n != 0 {
		t.Errorf("%d connections to the portal; want none", n)
	}
}

// flood sends a head and then as much of a body as is read, up to 64 MiB, and returns that
// amount. Data in buffers in between counts as read.
func flood(h *house, head string, chunked bool) (sent int) {
	conn := h.dial()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, head)
	chunk := []byte(strings.Repeat("x", 64<<10))
	if chunked {
		chunk = []byte("10000\r\n" + strings.Repeat("x", 64<<10) + "\r\n")
	}
	go io.Copy(io.Discard, conn)
	for sent < 64<<20 {
		n, err := conn.Write(chunk)
		sent += n
		if err != nil {
			return sent
		}
	}
	return sent
}

// D15: many fields, a large field, deep JSON: rejected, and cheap.
func TestD15_TooMuchInAForm(t *testing.T) {
	h := openHouse(t, layout{})
	deep := strings.Repeat(`{"a":`, 2000) + "1" + strings.Repeat("}", 2000)
	for name, c := range map[string]struct {
		body, kind string
	}{
		"ten thousand fields":      {strings.Repeat("a=b&", 4_000) + "email=ann%40example.com", ""},
		"fields with many names":   {strings.Join(names(1500), "&") + "&email=ann%40example.com", ""},
		"a field of 15 KiB":        {"email=" + strings.Repeat("a", 15<<10), ""},
		"a field of 17 KiB":        {"to=/" + strings.Repeat("a", 17<<10), ""},
		"a field of 1 MiB":         {"to=/" + strings.Repeat("a", 1<<20), ""},
		"percent signs":            {"email=" + strings.Repeat("%41", 5_000), ""},
		"nothing but ampersands":   {strings.Repeat("&", 16_000), ""},
		"nothing but equals signs": {strings.Repeat("=", 16_000), ""},
		"deep JSON":                {deep, "application/json"},
		"deep JSON as a form":      {deep, ""},
		"brackets":                 {"email" + strings.Repeat("[a]", 5_000) + "=x", ""},
		"a password of 1 MiB":      {"email=ann%40example.com&password=" + strings.Repeat("a", 1<<20), ""},
		"many passwords":           {"email=ann%40example.com" + strings.Repeat("&password=a", 1_000), ""},
	} {
		for _, path := range []string{"/-/sign-in", "/-/code", "/-/link", "/-/password", "/-/help", "/-/password/set"} {
			kind := c.kind
			if kind == "" {
				kind = "application/x-www-form-urlencoded"
			}
			began := time.Now()
			a := h.raw(h.message("POST", path, "Content-Type: "+kind, fmt.Sprintf("Content-Length: %d", len(c.body))) + c.body)
			took := time.Since(began)
			if a.status != 400 && a.status != 413 && !(path == "/-/code" && a.status == 303) || took > time.Second {
				t.Errorf("%s, POST %s = %d after %v; want 400 or 413, soon", name, path, a.status, took)
			}
			if len(c.body) > 16<<10 && a.status != 413 {
				t.Errorf("%s, POST %s of %d bytes = %d; want 413", name, path, len(c.body), a.status)
			}
			if len(a.body) > 64<<10 {
				t.Errorf("%s, POST %s: %d bytes came back", name, path, len(a.body))
			}
		}
	}
	// A form of a visitor who isn't signed in is kept up to 64 KiB, with its fields.
	for _, c := range []struct {
		body string
		held bool
	}{{"note=" + strings.Repeat("x", 60<<10), true}, {"note=" + strings.Repeat("x", 64<<10), false}, {strings.Repeat("a=b&", 2_500), false}} {
		a := h.post("/x", c.body, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: navigate")
		if a.status != 401 || strings.Contains(a.body, "Your form is kept") != c.held {
			t.Errorf("a form of %d bytes to the portal = %d, held %t; want 401, and %t", len(c.body), a.status, strings.Contains(a.body, "Your form is kept"), c.held)
		}
	}
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("f%d=", i))
	}
	return all
}

// A browser that disconnects at any point leaves the gate unchanged.
func TestD14_DisconnectsLeaveTheGateUnchanged(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	for i := range 60 {
		conn := h.dial()
		request := h.message("POST", "/-/sign-in", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23") + "email=ann%40example.com"
		io.WriteString(conn, request[:len(request)*(i+1)/60])
		conn.(*net.TCPConn).SetLinger(0) // sends a reset
		conn.Close()
	}
	b := h.browser()
	b.signIn("bob@example.com")
	if a := b.open("/x"); a.StatusCode != 200 {
		t.Errorf("GET after that = %d; want 200", a.StatusCode)
	}
}
