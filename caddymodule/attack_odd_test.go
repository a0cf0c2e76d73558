package caddymodule_test

// Classes H, S, E, W, X and T in spellings that no client library writes: names, cookies,
// forms, framing and conditions as bytes on a socket.

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

// A header's name is an ASCII token. A request with a name that Unicode folds into ours (the
// long s, the Kelvin sign, another hyphen) is refused, or its header can't be mistaken for
// ours.
func TestH01_InvalidHeaderNamesAreRejected(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	for _, name := range []string{"Remote\u2010User", "Remote\u2011User", "Remote\u00adUser", "Remote\uff0dUser", "Remote-U\u017fer", "\u1d3fEMOTE-USER", "Remote-\uff35ser", "Portal-\u212aind", "Portal-As\u017fertion",
		"Remote-User\u200b", "\ufeffRemote-User", "Remote User", "Remote-User\x0b", "Remote-User\x00", "Remote-User\x01", "\"Remote-User\"", "Remote-User[]", "Remote/User", "(Remote-User)", "Remote-User,X", "", "\xff",
		"Remote-User\x7f", "Remote\xa0User", "Remote--User", "-Remote-User", "Remote-User-", "Remote_-User", "Http-Remote-User", "remote+user", "remote*user", "remote|user", "remote#user", "remote$user", "remote^user", "remote`user", "remote'user"} {
		for path, want := range map[string]map[string]string{"/x": toldOfBob, "/public/x": nil} {
			who := "A: b"
			if want != nil {
				who = bob.session()
			}
			before := h.portal.count()
			a := h.get(path, name+": admin", who)
			got, n := h.portal.last()
			if n == before {
				if a.status != 400 && a.status != 0 {
					t.Errorf("%q: %s = %d; want 400, or the portal's answer", name, path, a.status)
				}
				continue
			}
			header := got.Header.Clone()
			for _, other := range []string{"Remote--User", "-Remote-User", "Remote-User-", "Remote_-User", "Http-Remote-User"} {
				header.Del(other) // not mistaken for ours by any software
			}
			wantTold(t, fmt.Sprintf("%q %s", name, path), header, want)
		}
	}
}

// In every spelling of cookies: the portal gets none of ours, other cookies stay, and nobody
// is signed in without a session.
func TestS01_CookiesInEverySpelling(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	s := bob.cookie("portal")
	for name, lines := range map[string][]string{
		"a hundred lines":            append(slices.Repeat([]string{"Cookie: a=1"}, 100), "Cookie: portal="+s),
		"a hundred of ours":          append(slices.Repeat([]string{"Cookie: portal=" + strings.Repeat("y", 43)}, 100), "Cookie: portal="+s),
		"versions":                   {`Cookie: $Version=1; portal=` + s + `; $Path="/"; $Domain="x"`},
		"space around":               {"Cookie: portal = " + s},
		"tabs":                       {"Cookie: \tportal\t=\t" + s + "\t;\ta=1"},
		"no value":                   {"Cookie: portal=; portal=" + s},
		"equals signs":               {"Cookie: portal==" + s + "; portal=" + s + "="},
		"in quotes of another":       {`Cookie: a="b; portal=` + s + `"`},
		"escaped":                    {"Cookie: portal=%22" + s + "%22; p%6frtal=" + s},
		"behind a comma":             {"Cookie: a=1, portal=" + s},
		"in two encodings":           {"Cookie: a=\xff\xfe; portal=" + s + "; b=\u00e9"},
		"in brackets":                {"Cookie: portal[]=" + s + "; portal[0]=" + s},
		"another's name around ours": {"Cookie: xportal=1; portal=" + s + "; portalx=2; por=tal"},
		"nothing but semicolons":     {"Cookie: " + strings.Repeat(";", 5000) + "portal=" + s},
		"in a second line":           {"Cookie: a=1", "cookie: portal=" + s, "COOKIE: b=2"},
		"as another header":          {"Cookie2: portal=" + s, "X-Cookie: portal=" + s},
		"as credentials":             {"Authorization: Bearer " + s, "Proxy-Authorization: " + s},
		"in the long s of Unicode":   {"Cookie: portal=" + strings.ReplaceAll(s, "s", "\u017f")},
		"64 KiB in one":              {"Cookie: portal=" + s + "; a=" + strings.Repeat("x", 64<<10)},
		"64 KiB in many":             append(slices.Repeat([]string{"Cookie: a=" + strings.Repeat("x", 1000)}, 64), "Cookie: portal="+s),
	} {
		for _, path := range []string{"/x", "/public/x", "/-/me"} {
			before := h.portal.count()
			a := h.get(path, lines...)
			if !slices.Contains([]int{200, 400, 401, 431}, a.status) {
				t.Errorf("%s: GET %s = %d", name, path, a.status)
			}
			got, n := h.portal.last()
			if n == before {
				continue
			}
			if path == "/x" && got.Header.Get("Remote-User") != "bob@example.com" {
				t.Errorf("%s: the portal serves %q", name, got.Header.Get("Remote-User"))
			}
			for _, line := range got.Header["Cookie"] {
				for pair := range strings.SplitSeq(line, ";") {
					if of, _, _ := strings.Cut(pair, "="); strings.EqualFold(strings.Trim(of, " \t"), "portal") {
						t.Errorf("%s: the portal got Cookie: %.100q", name, line)
					}
				}
			}
		}
	}
}

// Only one kind of form, in one encoding, is accepted.
func TestE05_FormsInOtherEncodings(t *testing.T) {
	h, m := openFastHouse(t, layout{})
	wide := func(s string) string {
		b := []byte{0xff, 0xfe}
		for _, u := range utf16.Encode([]rune(s)) {
			b = append(b, byte(u), byte(u>>8))
		}
		return string(b)
	}
	const plain = "email=ann%40example.com"
	kind := "Content-Type: application/x-www-form-urlencoded"
	for name, c := range map[string]struct {
		lines []string
		body  string
	}{
		"UTF-16":                  {[]string{kind + "; charset=utf-16"}, wide(plain)},
		"UTF-7":                   {[]string{kind + "; charset=utf-7"}, "email+AD0-ann+AEA-example.com"},
		"EBCDIC":                  {[]string{kind + "; charset=ibm037"}, "\x85\x94\x81\x89\x93~\x81\x95\x95|\x85\xa7"},
		"two kinds in one line":   {[]string{kind + ", text/plain"}, plain},
		"two lines, ours second":  {[]string{"Content-Type: text/plain", kind}, plain},
		"compressed":              {[]string{kind, "Content-Encoding: gzip"}, "\x1f\x8b\x08\x00\x00\x00\x00\x00"},
		"a name that hides one":   {[]string{kind}, "x=1%26" + plain},
		"a name with a space":     {[]string{kind}, "+" + plain},
		"a name with a zero":      {[]string{kind}, "email%00=ann%40example.com"},
		"a name in full width":    {[]string{kind}, "%EF%BD%85mail=ann%40example.com"},
		"an array by a dot":       {[]string{kind}, "email.0=ann%40example.com"},
		"an object":               {[]string{kind}, "email[a]=ann%40example.com"},
		"double encoding":         {[]string{kind}, "email=ann%2540example.com"},
		"semicolons":              {[]string{kind}, "x=1;" + plain},
		"lines":                   {[]string{kind}, "x=1\r\n" + plain},
		"a byte order mark":       {[]string{kind}, "\xef\xbb\xbf" + plain},
		"text that looks like it": {[]string{"Content-Type: text/plain; application/x-www-form-urlencoded"}, plain},
		"XML":                     {[]string{"Content-Type: text/xml"}, `<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><email>&e;</email>`},
		"overlong UTF-8":          {[]string{kind}, "email=ann%C1%80example.com"},
	} {
		lines := append(slices.Clone(c.lines), "Sec-Fetch-Site: same-origin", fmt.Sprintf("Content-Length: %d", len(c.body)))
		if a := h.raw(h.message("POST", "/-/sign-in", lines...) + c.body); a.status != 400 || len(a.header["Set-Cookie"]) != 0 {
			t.Errorf("%s = %d, Set-Cookie %q; want 400", name, a.status, a.header["Set-Cookie"])
		}
	}
	h.browser().ask("bob@example.com", "/")
	if got := m.recipients(); !slices.Equal(got, []string{"bob@example.com"}) {
		t.Errorf("RCPT TO %q; want bob alone", got)
	}
}

// A request ends where its length says, in every spelling; the bytes after it are another
// request of the same client, never part of the next client's.
func TestW04_LengthsInEverySpelling(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	host := "Host: " + h.host()
	hidden := "GET /x?hidden HTTP/1.1\r\n" + host + "\r\n\r\n"
	for _, path := range []string{"/public/x", "/-/sign-in", "/x"} {
		for _, who := range []string{"A: b", bob.session()} {
			for _, framing := range []string{"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: chunked, chunked",
				"Transfer-Encoding: Chunked\r\nContent-Length: 4", "Transfer-Encoding: identity\r\nContent-Length: 4", "transfer_encoding: chunked\r\nContent-Length: 4", "X: y\r\n Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked",
				"Content-Length: +4", "Content-Length: 4, 4", "Content-Length: 4,5", "Content-Length: -4", "Content-Length: 0x4", "Content-Length: 4 ", "Content-Length:\r\n 4", "Content-Length: 99999999999999999999", "Content-Length: 4\r\ncontent-length: 0",
				"Content_Length: 4", "Content-Length: \u0664", "Expect: 100-continue\r\nContent-Length: 4", "Expect: something\r\nContent-Length: 4", "Connection: content-length\r\nContent-Length: 4", "Connection: transfer-encoding\r\nTransfer-Encoding: chunked"} {
				conn := h.dial()
				conn.SetDeadline(time.Now().Add(60 * time.Millisecond)) // some wait for more
				before := h.portal.count()
				io.WriteString(conn, "POST "+path+" HTTP/1.1\r\n"+host+"\r\n"+who+"\r\nContent-Type: application/x-www-form-urlencoded\r\n"+framing+"\r\n\r\n0\r\n\r\n"+hidden)
				in := bufio.NewReader(conn)
				var statuses []int
				for {
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						break
					}
					io.Copy(io.Discard, resp.Body)
					statuses = append(statuses, resp.StatusCode)
				}
				conn.Close()
				if slices.ContainsFunc(statuses, func(s int) bool { return s >= 500 && s != 501 }) {
					t.Errorf("POST %s, %q = %d", path, framing, statuses)
				}
				h.portal.mu.Lock()
				for _, got := range h.portal.seen[before:] {
					if strings.Contains(got.URI, "hidden") {
						t.Errorf("POST %s, %q: the portal got %s %s, which had no session", path, framing, got.Method, got.URI)
					}
					if who == "A: b" && got.URI != "/public/x" || strings.Contains(got.Body, "hidden") && !strings.Contains(framing, "Content-Length") {
						t.Errorf("POST %s, %q: the portal got %s %s with %q", path, framing, got.Method, got.URI, got.Body)
					}
				}
				h.portal.mu.Unlock()
			}
		}
	}
	h.portal.unseen(t, "HTTP/2's preface", func() { h.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden) })
}

// GO-2023-2382's class: chunks that are nearly all extensions, and clients that start HTTP/2
// and stop, are cut off; no other client waits.
func TestW08_FloodsInPieces(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*", global: clearHTTP2})
	bob := h.in("bob@example.com")
	for _, path := range []string{"/-/sign-in", "/-/code", "/x"} {
		conn := h.dial()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: "+h.host()+"\r\nSec-Fetch-Site: same-origin\r\nAccept: text/html\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n")
		go io.Copy(io.Discard, conn)
		sent, piece := 0, []byte("1;"+strings.Repeat("e", 4000)+"\r\na\r\n")
		for sent < 16<<20 {
			n, err := conn.Write(piece)
			if sent += n; err != nil {
				break
			}
		}
		if sent >= 16<<20 {
			t.Errorf("POST %s: 16 MiB of chunk extensions were taken", path)
		}
	}
	for i := range 50 {
		conn := h.dial()
		io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[:i%24])
	}
	if a := bob.open("/x"); a.StatusCode != 200 {
		t.Errorf("a request meanwhile = %d; want 200", a.StatusCode)
	}
}

// Conditional and range requests get complete answers, so that no cache or browser combines
// our pages from parts.
func TestS14_ConditionalAndRangeRequestsGetCompletePages(t *testing.T) {
	h := openHouse(t, layout{})
	for _, path := range []string{"/x", "/-/sign-in", "/-/sign-out", "/-/nothing", "/-/me", "/-/link?t=x"} {
		want := h.get(path)
		for _, line := range []string{"Range: bytes=0-10", "Range: bytes=0-0,2-3", "Range: bytes=-5", "If-None-Match: *", `If-None-Match: "x", W/"y"`, "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",
			"If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT", `If-Match: "x"`, "If-Range: x", "Cache-Control: only-if-cached", "Accept-Encoding: gzip;q=1, *", "TE: trailers", "Prefer: return=minimal"} {
			a := h.get(path, line)
			if a.status != want.status || a.body != want.body || a.header.Get("Cache-Control") != "no-store, no-transform" || a.header.Get("ETag")+a.header.Get("Last-Modified")+a.header.Get("Content-Range")+a.header.Get("Content-Encoding") != "" {
				t.Errorf("GET %s with %s = %d of %d bytes, %v; want %d of %d", path, line, a.status, len(a.body), a.header, want.status, len(want.body))
			}
		}
	}
}

// CVE-2024-21496: no page shows the Referer.
func TestX02_CVE_2024_21496_TheRefererIsOnNoPage(t *testing.T) {
	h := openHouse(t, layout{})
	b := h.browser()
	b.ask("ann@example.com", "/")
	for _, referer := range []string{"javascript:alert(document.domain)//X", "https://evil.example/\"><img src=x>", "data:text/html,<script>alert(1)</script>", "vbscript:x", "//evil.example", "evil.example"} {
		for status, r := range map[int]*http.Request{
			200: b.request("GET", "/-/sent", nil), 400: b.request("GET", "/-/link?t=x", nil), 401: b.request("GET", "/x", nil), 403: b.request("POST", "/-/code", nil, "Sec-Fetch-Site", "cross-site"),
			404: b.request("GET", "/-/nothing", nil), 405: b.request("PUT", "/-/sent", nil), 413: b.request("POST", "/-/code", strings.NewReader(strings.Repeat("x", 20_000)), "Sec-Fetch-Site", "same-origin", "Content-Type", "application/x-www-form-urlencoded"),
		} {
			r.Header.Set("Referer", referer)
			a := b.do(r)
			if a.StatusCode != status || strings.Contains(a.body, "javascript:") || strings.Contains(a.body, "evil.example") || strings.Contains(a.body, "alert(") || strings.Contains(a.body, "vbscript") {
				t.Errorf("%s %s from %s = %d; want %d, and nothing of it on the page", r.Method, r.URL.Path, referer, a.StatusCode, status)
			}
		}
	}
}

// Only a page load consumes a link, in whichever way a browser or proxy marks other
// requests.
func TestT01_PrefetchesInEverySpelling(t *testing.T) {
	h, _ := openFastHouse(t, layout{})
	asking := h.browser()
	l := asking.ask("ann@example.com", "/orders")
	flow := "Cookie: portal-flow=" + asking.cookie("portal-flow")
	target := strings.TrimPrefix(l.link, h.url)
	for _, lines := range [][]string{{"Sec-Purpose: PREFETCH"}, {"sec-purpose: prefetch;anonymous-client-ip"}, {"Sec-Purpose: \"prefetch\""}, {"Sec-Purpose: x", "Sec-Purpose: prefetch"}, {"Sec-Purpose: prerender"}, {"Purpose: x", "Purpose: Prerender"},
		{"X-Moz: Prefetch"}, {"X-Purpose: Preview"}, {"X-Requested-With: com.mail.app"}, {"Sec-Fetch-Dest: empty"}, {"Sec-Fetch-Dest: iframe", "Sec-Fetch-Mode: navigate"}, {"Sec-Fetch-Mode: no-cors"}, {"Sec-Fetch-Dest: fencedframe"}, {"Sec-Fetch-Dest: Document"}} {
		if a := h.get(target, append(lines, flow)...); a.status == 303 || len(a.header["Set-Cookie"]) != 0 {
			t.Errorf("GET link with %q = %d, Set-Cookie %q; want nothing spent", lines, a.status, a.header["Set-Cookie"])
		}
	}
	for _, method := range []string{"HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "PROPFIND", "get", "SEARCH"} {
		a := h.raw(h.message(method, target, "Accept: text/html", flow, "X-HTTP-Method-Override: GET"))
		if a.status == 303 || len(a.header["Set-Cookie"]) != 0 {
			t.Errorf("%s link = %d, Set-Cookie %q; want nothing spent", method, a.status, a.header["Set-Cookie"])
		}
	}
	if a := h.get(target, flow); a.status != 303 {
		t.Errorf("GET link after all that = %d; want 303", a.status)
	}
}
