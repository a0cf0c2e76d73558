package caddymodule_test

// Classes H, P, R, L and S over HTTP/2, where names, hosts and paths arrive differently, and
// the HTTP/2 parts of class W.
//
// HTTP/2 itself is Go's: W07 (h2spec) would test Caddy. Here: the gate makes nothing worse.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// clearHTTP2 allows HTTP/2 without TLS.
const clearHTTP2 = "servers {\n\t\tprotocols h1 h2c\n\t}"

// http2Conn is an HTTP/2 connection on which frames are written unchanged.
type http2Conn struct {
	t      *testing.T
	conn   net.Conn
	framer *http2.Framer
	block  bytes.Buffer
	coder  *hpack.Encoder
	next   uint32 // ID of the next stream
}

func (h *house) overHTTP2(t *testing.T) *http2Conn {
	t.Helper()
	conn := h.dial()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	w := &http2Conn{t: t, conn: conn, framer: http2.NewFramer(conn, conn), next: 1}
	w.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	w.framer.AllowIllegalWrites = true
	w.coder = hpack.NewEncoder(&w.block)
	io.WriteString(conn, http2.ClientPreface)
	w.framer.WriteSettings()
	return w
}

// fields encodes pairs of name and value unchanged, in order.
func (w *http2Conn) fields(pairs ...string) []byte {
	w.block.Reset()
	for i := 0; i+1 < len(pairs); i += 2 {
		w.coder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return bytes.Clone(w.block.Bytes())
}

// ask sends a request and reads its answer; the status is "reset" if the stream or
// connection was closed instead.
func (w *http2Conn) ask(body string, trailers []string, pairs ...string) (status, header, answer string) {
	w.t.Helper()
	id := w.next
	w.next += 2
	none := body == "" && trailers == nil
	w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.fields(pairs...), EndHeaders: true, EndStream: none})
	if !none {
		w.framer.WriteData(id, trailers == nil, []byte(body))
	}
	if trailers != nil {
		w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.fields(trailers...), EndHeaders: true, EndStream: true})
	}
	for {
		frame, err := w.framer.ReadFrame()
		var wrong http2.StreamError
		if errors.As(err, &wrong) {
			continue
		} else if err != nil {
			return "reset", header, answer
		}
		if frame.Header().StreamID != id && frame.Header().Type != http2.FrameGoAway {
			if s, ok := frame.(*http2.SettingsFrame); ok && !s.IsAck() {
				w.framer.WriteSettingsAck()
			}
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			if s := frame.PseudoValue("status"); s != "" {
				status = s
			}
			for _, f := range frame.RegularFields() {
				header += f.Name + ": " + f.Value + "\n"
			}
		case *http2.DataFrame:
			answer += string(frame.Data())
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			if status != "" {
				return status, header, answer // the answer is complete; the rest of the request isn't needed
			}
			return "reset", header, answer
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return status, header, answer
		}
	}
}

// fields returns the fields of a browser's GET.
func (h *house) fields(path string, more ...string) []string {
	return append([]string{":method", "GET", ":scheme", "http", ":authority", h.host(), ":path", path, "accept", "text/html"}, more...)
}

// H01, H03, H05, H09, H10, H12: names in any spelling, in headers and trailers, and split
// cookies.
func TestH01_HTTP2_IdentityHeadersAreReplaced(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*", global: clearHTTP2})
	bob := h.in("bob@example.com")
	session := "portal=" + bob.cookie("portal")
	spellings := map[string]func(string) string{"small": strings.ToLower,
		"underscores": func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) },
		"dots":        func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", ".")) }}
	var announced []string
	for _, name := range identityNames {
		announced = append(announced, strings.ToLower(name))
	}
	for name, spell := range spellings {
		var lines []string
		for _, id := range identityNames {
			lines = append(lines, spell(id), "admin", spell(id), "root")
		}
		for path, want := range map[string]map[string]string{"/x": toldOfBob, "/public/x": nil} {
			cookie := session
			if want == nil {
				cookie = "portal=" + strings.Repeat("x", 43)
			}
			before := h.portal.count()
			status, _, _ := h.overHTTP2(t).ask("", nil, h.fields(path, append(lines, "cookie", "a=1", "cookie", cookie, "cookie", "portal-flow=f; b=2")...)...)
			if got, n := h.portal.last(); status != "200" || n != before+1 {
				t.Errorf("%s, %s = %s; want the portal's 200", name, path, status)
			} else {
				wantTold(t, name+" "+path, got.Header, want)
				if c := strings.Join(got.Header["Cookie"], "|"); c != "a=1; b=2" {
					t.Errorf("%s, %s: the portal got Cookie: %q; want a=1; b=2", name, path, c)
				}
			}
			post := h.fields(path, "cookie", cookie, "trailer", strings.Join(announced, ", "))
			post[1] = "POST"
			before = h.portal.count()
			status, _, _ = h.overHTTP2(t).ask("abc", lines, post...)
			got, n := h.portal.last()
			if status == "reset" && n == before {
				continue // an invalid name for headers
			}
			if status != "200" || n != before+1 || got.Body != "abc" || len(got.Trailer) != 0 || got.Header.Get("Trailer") != "" {
				t.Errorf("%s, %s with trailers = %s, the portal got %q and the trailer %v", name, path, status, got.Body, got.Trailer)
				continue
			}
			wantTold(t, name+" "+path+" with trailers", got.Header, want)
		}
	}
	// Fields that HTTP/2 doesn't allow, and invalid names.
	for _, line := range [][]string{{"connection", "remote-user"}, {"Remote-User", "evil"}, {"remote-user ", "evil"}, {"\u017fec-fetch-site", "same-origin"}, {"remote-\u017fer", "evil"},
		{"x-a\r\nremote-user", "evil"}, {"x-a", "b\r\nremote-user: evil"}, {"x-a", "b\x00"}, {":remote-user", "evil"}, {"", "evil"}, {"transfer-encoding", "chunked"}, {"upgrade", "h2c"},
		{"proxy-connection", "remote-user"}, {"keep-alive", "remote-user"}, {"te", "trailers, remote-user"}} {
		before := h.portal.count()
		status, _, _ := h.overHTTP2(t).ask("", nil, h.fields("/x", append(line, "cookie", session)...)...)
		if got, n := h.portal.last(); n > before {
			wantTold(t, fmt.Sprintf("%q", line), got.Header, toldOfBob)
		} else if status == "200" {
			t.Errorf("%q = 200, and not of the portal", line)
		}
	}
}

// P01, P06, P07, P12, P14, R07: a path is a field here, and needn't look like one.
func TestP06_HTTP2_OpenPathsInDisguise(t *testing.T) {
	h := openHouse(t, layout{firm: someOpen, global: clearHTTP2})
	bob := h.in("bob@example.com")
	for _, path := range []string{"/secret?/public/x", "/public/..%2fadmin", "/public/../admin", "/public/%2e%2e/admin", "/public/..;/admin", `/public/..\admin`, "//public/x", "/public//x",
		"/public/x#/../admin", "/secret#/public/x", "/public/x\x00", "/public/x y/../z", "/public", "public/x", "", "*", "?/public/x", "http://evil.example/public/../secret", "/%70ublic/x",
		"/public/x%0d%0aA:b", "/-/nothing", "\\public\\x", "/public/x\r\nremote-user: evil", "/ſecret", "/public/x\xff/.."} {
		h.portal.unseen(t, path, func() {
			status, header, body := h.overHTTP2(t).ask("", nil, h.fields(path)...)
			if status != "reset" && status[0] != '4' || strings.Contains(body, "portal:") {
				t.Errorf("%q = %s %.60q; want the gate's 4xx", path, status, body)
			}
			if to := valueOf(body, "to"); strings.Contains(header, "location:") || strings.Contains(body, `name="to"`) && !stays(to) {
				t.Errorf("%q leads on to %q, %s", path, to, header)
			}
		})
	}
	// If the path contains a host, the portal gets the path that was checked.
	for _, path := range []string{"http://evil.example/public/x", "https://evil.example/x", "//evil.example/x", "http:/public/x", "foo:/public/x", "foo:bar"} {
		for _, cookie := range []string{"a=b", "portal=" + bob.cookie("portal")} {
			before := h.portal.count()
			status, _, body := h.overHTTP2(t).ask("", nil, h.fields(path, "cookie", cookie)...)
			got, n := h.portal.last()
			if n > before && !strings.HasPrefix(got.URI, "/") {
				t.Errorf("%q: the portal got %s", path, got.URI)
			}
			if n > before && cookie == "a=b" && !strings.HasPrefix(got.URI, "/public/") {
				t.Errorf("%q, signed out: the portal got %s", path, got.URI)
			}
			if strings.Contains(body, `name="to"`) && !stays(valueOf(body, "to")) {
				t.Errorf("%q = %s, and on to %q", path, status, valueOf(body, "to"))
			}
		}
	}
	for _, method := range []string{"TRACE", "track", "CONNECT", "PRI", "get", "G T", "", "GET\r\n"} {
		fields := h.fields("/x", "x-http-method-override", "GET")
		fields[1] = method
		h.portal.unseen(t, method, func() {
			if status, _, body := h.overHTTP2(t).ask("", nil, fields...); status != "reset" && status[0] != '4' {
				t.Errorf("%q = %s %.60q; want 4xx or a reset stream", method, status, body)
			}
		})
	}
}

// L04, P10: the host arrives as :authority, as Host, as both, not at all, or several times.
func TestL04_HTTP2_ThePoisonedHost(t *testing.T) {
	h, m := openFastHouse(t, layout{global: clearHTTP2})
	const body = "email=ann%40example.com"
	post := []string{":method", "POST", ":path", "/-/sign-in", "content-type", "application/x-www-form-urlencoded", "accept", "text/html"}
	for _, hosts := range [][]string{{":authority", "evil.example"}, {":authority", h.host() + "@evil.example"}, {":authority", "evil.example@" + h.host()}, {":authority", ""},
		{}, {"host", "evil.example"}, {":authority", h.host(), ":authority", "evil.example"}, {":authority", "evil.example", "host", h.host()}, {":authority", h.host() + "/evil"},
		{":authority", "evil.example\r\nx: y"}, {":authority", h.host() + "\x00.evil.example"}, {":authority", "ev\u0131l.example"}} {
		var fields []string
		for i := 0; i < len(hosts); i += 2 {
			if strings.HasPrefix(hosts[i], ":") {
				fields = append(fields, hosts[i:i+2]...)
			}
		}
		fields = append(append(fields, ":scheme", "http"), post...)
		for i := 0; i < len(hosts); i += 2 {
			if !strings.HasPrefix(hosts[i], ":") {
				fields = append(fields, hosts[i:i+2]...)
			}
		}
		if status, header, _ := h.overHTTP2(t).ask(body, nil, fields...); status == "303" {
			t.Errorf("%q = 303 %s; want no mail for a host that isn't ours", hosts, header)
		}
	}
	fields := append([]string{":authority", h.host(), ":scheme", "javascript"}, append(post, "host", "evil.example", "x-forwarded-host", "evil.example", "x-forwarded-proto", "javascript")...)
	status, header, _ := h.overHTTP2(t).ask(body, nil, fields...)
	if status == "303" {
		if l := h.nextLetter("ann@example.com", 0); !strings.HasPrefix(l.link, h.url+"/-/link?t=") || strings.Contains(l.text+l.html, "evil") || strings.Contains(header, "evil") {
			t.Errorf("the mail's link is %q, the answer has %s; want %s alone", l.link, header, h.url)
		}
	}
	h.browser().ask("bob@example.com", "/")
	want := 1
	if status == "303" {
		want = 2
	}
	if got := m.recipients(); len(got) != want {
		t.Errorf("status %s: RCPT TO %q; want %d", status, got, want)
	}
}

// S09: forms from other sites are recognized by the same fields.
func TestS09_HTTP2_FormsFromElsewhere(t *testing.T) {
	h := openHouse(t, layout{global: clearHTTP2})
	bob := h.in("bob@example.com")
	for _, more := range [][]string{{"origin", "https://evil.example"}, {"sec-fetch-site", "cross-site"}, {"sec-fetch-site", "same-site"}, {"origin", "null"}, {}} {
		fields := append([]string{":method", "POST", ":scheme", "http", ":authority", h.host(), ":path", "/-/sign-out", "cookie", "portal=" + bob.cookie("portal"),
			"content-type", "application/x-www-form-urlencoded"}, more...)
		if status, _, _ := h.overHTTP2(t).ask("a=b", nil, fields...); status != "403" || bob.me() == nil {
			t.Errorf("POST /-/sign-out, %q = %s, still in: %t; want 403", more, status, bob.me() != nil)
		}
	}
}

// W06: CVE-2023-44487 (streams reset right after their request), CVE-2023-45288 (endless
// headers), and W08's settings: the connection is closed or served, others don't notice, and
// nothing remains.
func TestW06_CVE_2023_44487_FloodsOfFrames(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*", global: clearHTTP2})
	bob := h.in("bob@example.com")
	bob.open("/x")
	before, heap := runtime.NumGoroutine(), heapInUse()
	floods := map[string]func(w *http2Conn, i int) error{
		"streams that are reset": func(w *http2Conn, i int) error {
			w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: w.next, BlockFragment: w.fields(h.fields("/x", "cookie", "portal="+bob.cookie("portal"))...), EndHeaders: true, EndStream: true})
			err := w.framer.WriteRSTStream(w.next, http2.ErrCodeCancel)
			w.next += 2
			return err
		},
		"prompts that are reset": func(w *http2Conn, i int) error {
			w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: w.next, BlockFragment: w.fields(h.fields("/x")...), EndHeaders: true, EndStream: true})
			err := w.framer.WriteRSTStream(w.next, http2.ErrCodeCancel)
			w.next += 2
			return err
		},
		"headers without an end": func(w *http2Conn, i int) error {
			block := w.fields(fmt.Sprintf("x-%d", i), strings.Repeat("a", 1000))
			if i == 0 {
				return w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(h.fields("/x")...)})
			}
			return w.framer.WriteContinuation(1, false, block)
		},
		"settings": func(w *http2Conn, i int) error {
			return w.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
		},
		"pings": func(w *http2Conn, i int) error { return w.framer.WritePing(false, [8]byte{byte(i)}) },
		"frames of no size": func(w *http2Conn, i int) error {
			return w.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: uint32(i % 16384)})
		},
		"empty data": func(w *http2Conn, i int) error {
			if i == 0 {
				post := h.fields("/x")
				post[1] = "POST"
				return w.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: w.fields(post...), EndHeaders: true})
			}
			return w.framer.WriteData(1, false, nil)
		},
	}
	for name, flood := range floods {
		w := h.overHTTP2(t)
		go io.Copy(io.Discard, w.conn)
		for i := range 10_000 {
			if flood(w, i) != nil {
				break // it was closed
			}
			if i == 5_000 {
				if a := bob.open("/x"); a.StatusCode != 200 {
					t.Errorf("%s: somebody else's request meanwhile = %d; want 200", name, a.StatusCode)
				}
			}
		}
		w.conn.Close()
	}
	h.eventually("the goroutines of the floods end", func() bool {
		h.portal.CloseClientConnections() // Caddy keeps some of them for later requests
		return runtime.NumGoroutine() < before+20
	})
	if now := heapInUse(); now > heap+64<<20 {
		t.Errorf("%d MiB of memory more than before", (now-heap)>>20)
	}
	h.eventually("a request after the floods is served", func() bool { return bob.open("/x").StatusCode == 200 }) // at once, unless a connection was just closed
}

func heapInUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
