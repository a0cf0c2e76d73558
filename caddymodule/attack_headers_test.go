package caddymodule_test

// Class H: a visitor's identity headers never reach the portal as the gate's.
//
// Not here: H07 (our headers' names can't be configured); further spellings as unit tests in
// upstream/strip_test.go; H17's ends of streams in stream_test.go.

import (
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// forged returns a line for every identity header, in the spelling of spell.
func forged(spell func(string) string) (lines []string) {
	for _, name := range identityNames {
		lines = append(lines, spell(name)+": admin")
	}
	return lines
}

func plainly(name string) string { return name }

// GHSA-7r4p-vjf4-gxv4: the contact's values replace the visitor's, and headers without a value of
// the contact are absent.
func TestH01_CVE_2026_30851_IdentityHeadersAreReplaced(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob, nameless := h.in("bob@example.com"), h.in("nameless@example.com")
	for _, path := range []string{"/", "/public/x"} {
		for _, c := range []struct {
			who  *browser
			want map[string]string
		}{{bob, toldOfBob}, {nameless, toldOfNameless}} {
			h.get(path, append(forged(plainly), c.who.session())...)
			got, _ := h.portal.last()
			wantTold(t, path, got.Header, c.want)
			// Twice in one request, in two cases: Go merges them, other software may not.
			h.get(path, append(forged(strings.ToLower), append(forged(strings.ToUpper), c.who.session())...)...)
			got, _ = h.portal.last()
			wantTold(t, path+", twice", got.Header, c.want)
		}
	}
}

// The portal gets the headers that the firm has configured, and no other identity header, whoever
// sends it.
func TestH01_ThePortalGetsOnlyConfiguredIdentityHeaders(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*\n\t\tidentity Remote-Email Portal-Company\n\t\tcompany_path /files/{company}/*"})
	bob := h.in("bob@example.com")
	for _, path := range []string{"/", "/public/x", "/files/acme/x"} {
		if a := h.get(path, append(forged(plainly), bob.session())...); a.status != 200 {
			t.Fatalf("GET %s = %d; want 200", path, a.status)
		}
		got, _ := h.portal.last()
		want := map[string]string{"remote-email": toldOfBob["remote-email"]}
		if strings.HasPrefix(path, "/files/") {
			want["portal-company"] = "acme"
		}
		if got := told(got.Header); !maps.Equal(got, want) {
			t.Errorf("%s: the portal got %v; want %v", path, got, want)
		}
	}
}

func TestH02_IdentityHeadersAreRemovedOnOpenPaths(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	for _, cookie := range []string{"A: b", "Cookie: portal=" + strings.Repeat("x", 43)} {
		if a := h.get("/public/x", append(forged(plainly), cookie)...); a.status != 200 {
			t.Fatalf("GET /public/x = %d; want the portal's 200", a.status)
		}
		got, _ := h.portal.last()
		wantTold(t, "signed out", got.Header, nil)
	}
}

// CVE-2025-64484, CVE-2026-52845, CVE-2026-54763: spellings that an application folds into our
// names. Caddy drops most of them, unless it is configured to expect them.
func TestH03_CVE_2025_64484_UnderscoresAndDots(t *testing.T) {
	spellings := map[string]func(string) string{
		"underscores":     func(s string) string { return strings.ReplaceAll(s, "-", "_") },
		"small":           func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) },
		"capitals":        func(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) },
		"dots":            func(s string) string { return strings.ReplaceAll(s, "-", ".") },
		"first one only":  func(s string) string { return strings.Replace(s, "-", "_", 1) },
		"other character": func(s string) string { return strings.ReplaceAll(s, "-", "~") },
	}
	var expected []string
	for _, name := range identityNames {
		if strings.Contains(name, "-") {
			expected = append(expected, strings.ReplaceAll(name, "-", "_"))
		}
	}
	for what, global := range map[string]string{
		"as Caddy is":        "",
		"Caddy expects them": "servers {\n\t\texpected_underscore_headers " + strings.Join(expected, " ") + "\n\t}",
	} {
		t.Run(what, func(t *testing.T) {
			h := openHouse(t, layout{firm: "public /public/*", global: global})
			bob := h.in("bob@example.com")
			for name, spell := range spellings {
				h.get("/public/x", forged(spell)...)
				got, _ := h.portal.last()
				wantTold(t, name+", signed out", got.Header, nil)
				h.get("/", append(forged(spell), bob.session())...)
				got, _ = h.portal.last()
				wantTold(t, name, got.Header, toldOfBob)
				h.get("/", append(forged(spell), append(forged(plainly), bob.session())...)...)
				got, _ = h.portal.last()
				wantTold(t, name+", beside the plain ones", got.Header, toldOfBob)
			}
		})
	}
}

// CVE-2024-45410, CVE-2025-48865: proxies drop headers named in Connection, which must not remove
// ours.
func TestH05_CVE_2024_45410_ConnectionRemovesNoIdentityHeader(t *testing.T) {
	h := openHouse(t, layout{})
	bob := h.in("bob@example.com")
	all := strings.Join(identityNames, ", ")
	for _, connection := range []string{
		"Connection: close, " + all + ", X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Cookie",
		"Connection: " + strings.ToLower(all) + ",x-forwarded-for,x-forwarded-proto,x-forwarded-host",
		"Connection: close\r\nConnection: Remote-User\r\nConnection:\tRemote-Groups ,,Portal-Assertion\r\nConnection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host",
	} {
		h.raw("GET / HTTP/1.1\r\nHost: " + h.host() + "\r\nCookie: sid=7; portal=" + bob.cookie("portal") + "\r\n" + connection + "\r\n\r\n")
		got, _ := h.portal.last()
		wantTold(t, connection, got.Header, toldOfBob)
		for name, want := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": h.host(), "Cookie": "sid=7"} {
			if g := got.Header.Get(name); g != want {
				t.Errorf("%s: the portal got %s: %q; want %q", connection, name, g, want)
			}
		}
	}
}

// A trailer arrives after the gate has checked the headers.
func TestH09_NoTrailerGetsThrough(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	for _, c := range []struct{ announced, sent string }{
		{"Trailer: Remote-User", "Remote-User: evil"},
		{"Trailer: Foo", "Remote-User: evil"},
		{"Trailer: Foo, Portal-Role", "Foo: a\r\nPortal-Role: staff\r\nRemote_User: evil"},
		{"A: b", "Remote-User: evil\r\nX-Forwarded-For: 1.2.3.4"},
	} {
		for path, want := range map[string]map[string]string{"/": toldOfBob, "/public/x": toldOfBob} {
			h.raw("POST " + path + " HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n" +
				c.announced + "\r\n" + bob.session() + "\r\n\r\n3\r\nabc\r\n0\r\n" + c.sent + "\r\n\r\n")
			got, _ := h.portal.last()
			if got.Method != "POST" || got.Body != "abc" {
				t.Fatalf("the portal got %s with %q; want the POST", got.Method, got.Body)
			}
			if len(got.Trailer) != 0 || got.Header.Get("Trailer") != "" {
				t.Errorf("%s, %q: the portal got the trailer %v", c.announced, c.sent, got.Trailer)
			}
			wantTold(t, c.announced, got.Header, want)
		}
	}
}

// CVE-2026-35051 and oauth2-proxy's X-Forwarded-Uri: headers that give an application another path,
// method or person. Headers that Caddy sets are Caddy's.
func TestH10_CVE_2026_35051_HeadersWithAnotherPathAreRemoved(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	lines := []string{"X-Forwarded-Prefix: /evil", "X-Forwarded-Uri: /evil", "X-Forwarded-Method: GET", "X-Original-URL: /admin",
		"X-Rewrite-URL: /admin", "X-Forwarded-User: evil", "X-Forwarded-Email: evil@x", "Forwarded: for=1.2.3.4;host=evil", "Proxy: http://evil",
		"X-Forwarded-Host: evil.example", "X-Forwarded-Proto: javascript", "X-Forwarded-For: 1.2.3.4",
		"X-Sendfile-Type: X-Accel-Redirect", "X-Accel-Mapping: /srv/files=/public", "X_Accel_Mapping: /srv/files=/public"}
	h.get("/public/x", lines...)
	got, _ := h.portal.last()
	for _, name := range []string{"X-Sendfile-Type", "X-Accel-Mapping", "X_Accel_Mapping"} {
		if len(got.Header[name]) > 0 {
			t.Errorf("the portal got %s: %q; want none", name, got.Header[name])
		}
	}
	wantTold(t, "signed out", got.Header, nil)
	for name, want := range map[string]string{"X-Forwarded-Host": h.host(), "X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1"} {
		if g := got.Header.Get(name); g != want {
			t.Errorf("the portal got %s: %q; want %q", name, g, want)
		}
	}
	h.raw("GET /switched HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n" +
		h.in("bob@example.com").session() + "\r\n\r\n")
	if got, _ = h.portal.last(); got.URI != "/switched" {
		t.Fatalf("the portal got %s; want /switched", got.URI)
	}
	if got.Header.Get("Upgrade") != "" || got.Header.Get("Http2-Settings") != "" {
		t.Errorf("the portal got Upgrade: %q, HTTP2-Settings: %q; want none", got.Header.Get("Upgrade"), got.Header.Get("Http2-Settings"))
	}
}

// CVE-2026-41181: our cookies don't reach the portal, other cookies do unchanged, also if another
// handler serves the error page.
func TestH12_CVE_2026_41181_OurCookiesStayHere(t *testing.T) {
	errorPages := newPortal(t)
	portal := newPortal(t)
	h := openHouse(t, layout{site: "handle_errors {\n\t\treverse_proxy " + strings.TrimPrefix(errorPages.URL, "http://") + "\n\t}\n\t" +
		"reverse_proxy /dead " + freeAddress(t) + "\n\treverse_proxy " + strings.TrimPrefix(portal.URL, "http://")})
	bob := h.in("bob@example.com")
	s := bob.cookie("portal")
	for in, want := range map[string]string{
		`a=1; portal=` + s + `; b="x y"; portal-flow=z; c`: `a=1; b="x y"; c`,
		`portal=` + s: "",
		`sid=ü;portal=` + s + `;  t=3;portal-device=d`:              `sid=ü;  t=3`,
		`portal=` + s + `; t =2; "b"=3; c=4; portal =x; %70ortal=y`: `c=4`,
		`portal-visit=v; portal=` + s + `; xportal=1; portal2`:      `xportal=1; portal2`,
		`PORTAL=x; portal=` + s + `; a=portal`:                      `a=portal`,
	} {
		if a := h.get("/alive", "Cookie: "+in); a.status != 200 {
			t.Fatalf("GET with Cookie: %s = %d; want 200", in, a.status)
		}
		got, _ := portal.last()
		if g := strings.Join(got.Header["Cookie"], "|"); g != want {
			t.Errorf("Cookie: %s: the portal got %q; want %q", in, g, want)
		}
	}
	h.get("/alive", "Cookie: a=1", "Cookie: portal="+s, "Cookie: b=2; portal-flow=f")
	if got, _ := portal.last(); !slices.Equal(got.Header["Cookie"], []string{"a=1", "b=2"}) {
		t.Errorf("three Cookie lines: the portal got %q; want a=1 and b=2", got.Header["Cookie"])
	}
	h.get("/dead", "Cookie: a=1; portal="+s)
	if got, n := errorPages.last(); n != 1 || got.Header.Get("Cookie") != "a=1" {
		t.Errorf("the error page's server saw %d requests, Cookie: %q; want one with a=1", n, got.Header.Get("Cookie"))
	}
}

// The portal can't set, replace or delete our cookies, in any spelling.
func TestH13_ThePortalCantSetOurCookies(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		for _, line := range []string{"portal=x; Path=/", "portal=; Max-Age=0; Path=/", "PORTAL=x", " portal =x", "=portal=x; Path=/", "portal",
			"portal-flow=x", "Portal-Device=x", "portal-visit=x", "sid=7; Path=/", "portals=1"} {
			w.Header().Add("Set-Cookie", line)
		}
		w.Header().Set("Remote-User", "evil")
		if r.URL.Query().Has("early") {
			w.WriteHeader(http.StatusEarlyHints)
		}
		io.WriteString(w, "ok")
	}
	bob := h.in("bob@example.com")
	for _, path := range []string{"/", "/public/x", "/?early"} {
		for _, who := range []string{bob.session(), "A: b"} {
			if who == "A: b" && path != "/public/x" {
				continue
			}
			a := h.get(path, who)
			if path == "/?early" { // read past the 103
				conn := h.dial()
				io.WriteString(conn, h.message("GET", path, who))
				all, _ := io.ReadAll(conn)
				if !strings.Contains(string(all), "103 Early Hints") {
					t.Fatalf("no early hints in %q", all)
				}
				for line := range strings.SplitSeq(string(all), "\r\n") {
					if name, value, _ := strings.Cut(line, ":"); strings.EqualFold(name, "Set-Cookie") && !strings.HasPrefix(value, " sid=") && !strings.HasPrefix(value, " portals=") {
						t.Errorf("with early hints: %s", line)
					}
				}
				continue
			}
			if got := a.header["Set-Cookie"]; !slices.Equal(got, []string{"sid=7; Path=/", "portals=1"}) {
				t.Errorf("GET %s: Set-Cookie = %q; want the portal's own alone", path, got)
			}
		}
	}
	if bob.open("/"); bob.me() == nil {
		t.Error("the portal has signed somebody out")
	}
}

// Nor with trailers, announced or not: browsers ignore cookies in trailers, but a proxy in front
// may turn them into headers. The portal's other trailers stay. (Clear-Site-Data stays, too: a
// portal may make a browser forget everything, which signs out only that browser.)
func TestH13_ThePortalCantSetOurCookiesInTrailers(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	for _, announced := range []string{"", "Set-Cookie", "X-Sum, set-cookie", "X-Sum"} {
		h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
			if announced != "" {
				w.Header().Set("Trailer", announced)
			}
			io.WriteString(w, "ok")
			w.(http.Flusher).Flush()
			for _, name := range []string{"Set-Cookie", http.TrailerPrefix + "Set-Cookie"} {
				w.Header().Set(name, "portal=x; Path=/")
			}
			w.Header().Set("X-Sum", "7")
		}
		for _, who := range []string{"A: b", h.in("bob@example.com").session()} {
			conn := h.dial()
			io.WriteString(conn, h.message("GET", "/public/x", who, "TE: trailers"))
			all, _ := io.ReadAll(conn)
			if answer := strings.ToLower(string(all)); strings.Contains(answer, "portal=x") || !strings.Contains(answer, "200 ok") || strings.Contains(announced, "X-Sum") && !strings.Contains(answer, "x-sum: 7") {
				t.Errorf("announced %q: %q; want no cookie of ours, and the rest", announced, all)
			}
		}
	}
}

// Text in a name adds no header, and breaks no request.
func TestH14_NamesMakeNoHeaders(t *testing.T) {
	long := strings.Repeat("é", 100)
	h, _ := openFastHouse(t, layout{contacts: "email,first_name,last_name\n" +
		"a@example.com,Zoë,D’Arcy \U0001F600\n" +
		"b@example.com," + long + "," + long + "\n" +
		"c@example.com,{env.HOME},{http.request.header.Cookie}\n" +
		"d@example.com,\"Ann: x, y\",\"; portal=z\"\n"})
	for email, want := range map[string]string{
		"a@example.com": "Zoë D’Arcy \U0001F600",
		"b@example.com": long + " " + long,
		"c@example.com": "{env.HOME} {http.request.header.Cookie}",
		"d@example.com": "Ann: x, y ; portal=z",
	} {
		b := h.in(email)
		if a := b.open("/x"); a.StatusCode != 200 {
			t.Errorf("GET as %.40s = %d; want 200", want, a.StatusCode)
		}
		got, _ := h.portal.last()
		if g := got.Header["Remote-Name"]; len(g) != 1 || g[0] != want {
			t.Errorf("Remote-Name = %q; want %q", g, want)
		}
		if got.Header.Get("Remote-User") != email {
			t.Errorf("Remote-User = %q; want %q", got.Header.Get("Remote-User"), email)
		}
	}
	// Line breaks are rejected at input, together with everything else in the request.
	for _, name := range []string{"\"Ann\r\nPortal-Role: staff\"", "Ann\x00", "\u202eAnn", "Ann\u2028B"} {
		h.write("contacts.csv", "email,first_name\nx@example.com,"+name+"\n")
		if err := h.load(); err == nil {
			t.Errorf("a file with the name %q was loaded", name)
		}
	}
	b := h.browser()
	b.send("/-/sign-in", form("email", "x@example.com"))
	b.ask("a@example.com", "/")
	if letters := h.letters("x@example.com"); len(letters) > 0 {
		t.Errorf("%d mails to a contact whose name is four attacks; want none", len(letters))
	}
}

// CVE-2026-71324: a tunnel is refused, and later requests on the connection, or on others, work as
// usual.
func TestH16_CVE_2026_71324_NoTunnels(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	bob := h.in("bob@example.com")
	h.portal.unseen(t, "CONNECT", func() {
		for _, target := range []string{h.host(), "evil.example:443", "/", "/public/x", "http://" + h.host() + "/public/x"} {
			for _, who := range []string{"A: b", bob.session()} {
				a := h.raw("CONNECT " + target + " HTTP/1.1\r\nHost: " + h.host() + "\r\n" + who + "\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: " + h.host() + "\r\n\r\n")
				if a.status == 200 && a.body == "" && (target == "evil.example:443" || strings.HasPrefix(target, "http:")) {
					continue // Caddy's answer for an unknown site: the host is "evil.example", or "http:"
				}
				if a.status != 405 && a.status != 400 {
					t.Errorf("CONNECT %s = %d; want 405 or 400", target, a.status)
				}
			}
		}
	})
	if a := bob.open("/x"); a.body != "portal: GET /x for bob@example.com" {
		t.Errorf("the request after it = %q", a.body)
	}
}

// The same over HTTP/2, where CONNECT also opens WebSockets.
func TestH16_NoTunnelsOverHTTP2(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*", global: "servers {\n\t\tprotocols h1 h2c\n\t}"})
	bob := h.in("bob@example.com")
	for name, fields := range map[string][]string{
		"a tunnel":               {":method", "CONNECT", ":authority", h.host()},
		"a tunnel, signed in":    {":method", "CONNECT", ":authority", h.host(), "cookie", "portal=" + bob.cookie("portal")},
		"a tunnel with a path":   {":method", "CONNECT", ":authority", h.host(), ":scheme", "http", ":path", "/public/x"},
		"a socket, unannounced":  {":method", "CONNECT", ":protocol", "websocket", ":authority", h.host(), ":scheme", "http", ":path", "/public/x"},
		"a socket by its header": {":method", "CONNECT", ":authority", h.host(), "protocol", "websocket"},
	} {
		h.portal.unseen(t, name, func() {
			if status := h.http2(t, fields); status != "405" && status != "400" && status != "reset" {
				t.Errorf("%s = %s; want 405, 400 or a reset stream", name, status)
			}
		})
	}
	if status := h.http2(t, []string{":method", "GET", ":authority", h.host(), ":scheme", "http", ":path", "/x", "cookie", "portal=" + bob.cookie("portal")}); status != "200" {
		t.Errorf("GET /x by the same means = %s; want 200", status)
	}
}

// http2 sends one request with prior knowledge, and returns the status or "reset".
func (h *house) http2(t *testing.T, fields []string) string {
	t.Helper()
	conn := h.dial()
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings()
	var block strings.Builder
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true})
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%v: %v", fields, err)
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return "reset"
		}
	}
}

const upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

// Visitors who aren't signed in can't open a WebSocket to the portal; for others it has the gate's
// identity headers.
func TestH17_WebSocketIdentity(t *testing.T) {
	address, connections := listener(t)
	h := openHouse(t, layout{site: "reverse_proxy " + address})
	for _, accept := range []string{"Accept: */*", "Accept: text/html", "Sec-Fetch-Mode: navigate\r\nAccept: text/html"} {
		a := h.raw("GET /ws HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: Upgrade\r\n" + accept + "\r\n" + upgrade + "\r\n\r\n")
		if a.status != 401 || !strings.HasPrefix(a.header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("a WebSocket, signed out = %d, %s; want a bare 401", a.status, a.header.Get("Content-Type"))
		}
	}
	if n := connections(); n != 0 {
		t.Errorf("%d connections to the portal; want none", n)
	}

	h = openHouse(t, layout{})
	h.portal.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Set-Cookie", "portal=x")
		w.WriteHeader(http.StatusSwitchingProtocols)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	bob := h.in("bob@example.com")
	a := h.raw("GET /ws HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: Upgrade, Remote-User\r\n" + upgrade + "\r\nOrigin: https://evil.example\r\n" +
		strings.Join(append(forged(plainly), bob.session()), "\r\n") + "\r\n\r\n")
	got, _ := h.portal.last()
	if a.status != 101 || got.Header.Get("Upgrade") != "websocket" || len(a.header["Set-Cookie"]) != 0 {
		t.Fatalf("a WebSocket, signed in = %d, the portal got Upgrade: %q, Set-Cookie: %q", a.status, got.Header.Get("Upgrade"), a.header["Set-Cookie"])
	}
	wantTold(t, "a WebSocket", got.Header, toldOfBob)
}

// W11: the portal checks which page opens a WebSocket, so it must get the Origin.
func TestW11_TheOriginOfASocketStays(t *testing.T) {
	h := openHouse(t, layout{})
	bob := h.in("bob@example.com")
	h.raw("GET /ws HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: Upgrade\r\n" + upgrade + "\r\nOrigin: https://evil.example\r\n" + bob.session() + "\r\n\r\n")
	if got, _ := h.portal.last(); got.Header.Get("Origin") != "https://evil.example" {
		t.Errorf("the portal got Origin: %q; want https://evil.example", got.Header.Get("Origin"))
	}
}

// Some servers remove a prefix from the path because of a header. So /public/admin would be /admin
// to the portal, and /files/acme/files/birch/ birch's page.
func TestH10_HeadersThatRemoveAPathPrefixAreRemoved(t *testing.T) {
	h := openHouse(t, layout{firm: "public /public/*"})
	names := []string{"SCRIPT_NAME", "Script-Name", "PATH_INFO", "Daphne-Root-Path", "X-Script-Name", "X_SCRIPT_NAME", "X-Forwarded-Script-Name", "X-Forwarded-Path",
		"X-Forwarded-PathBase", "X-Traversal-Path", "X-Vhm-Root"}
	var lines []string
	for _, name := range names {
		lines = append(lines, name+": /public")
	}
	for who, session := range map[string]string{"nobody": "X-Nothing: x", "a client": h.in("bob@example.com").session()} {
		if a := h.get("/public/admin", append(lines, session)...); a.status != 200 {
			t.Fatalf("a public page for %s = %d; want 200", who, a.status)
		}
		got, _ := h.portal.last()
		for name, values := range got.Header {
			if slices.Contains(values, "/public") {
				t.Errorf("of %s, the portal got %s: %q; want none", who, name, values)
			}
		}
	}
}
