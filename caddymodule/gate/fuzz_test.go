package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"net/url"
	"path"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// The checks here parse visitors' input independently of the gate: as the most lenient application,
// browser or proxy would.

// still is a store that accepts every change and makes none: each input finds the gate in the same
// state.
type still struct{ store.Store }

func (still) Apply(context.Context, ...store.Op) error { return nil }

// forgery returns a header left in the request that the portal could take for the gate's, or "".
// want are the gate's own headers.
func forgery(h http.Header, want map[string]string) string {
	told := map[string][]string{}
	for name, values := range h {
		folded := foldName(name)
		for _, mine := range []string{"remote-user", "remote-email", "remote-name", "remote-groups", "forwarded", "proxy", "x-forwarded-user", "x-forwarded-email",
			"x-forwarded-prefix", "x-forwarded-uri", "x-forwarded-method", "x-original-url", "x-rewrite-url"} {
			if folded == mine {
				told[folded] = append(told[folded], values...)
			}
		}
		if strings.HasPrefix(folded, "portal-") || strings.HasPrefix(folded, "x-auth-request-") {
			told[folded] = append(told[folded], values...)
		}
	}
	if _, ok := want["portal-assertion"]; ok && len(told["portal-assertion"]) == 1 && strings.Count(told["portal-assertion"][0], ".") == 2 {
		told["portal-assertion"] = []string{want["portal-assertion"]} // changes each minute
	}
	for name, value := range want {
		if !slices.Equal(told[name], []string{value}) {
			return fmt.Sprintf("%s: %q; want %q", name, told[name], value)
		}
		delete(told, name)
	}
	for name, values := range told {
		return fmt.Sprintf("%s: %q", name, values)
	}
	for _, line := range h["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			folded := foldName(strings.TrimSpace(option))
			if _, ok := want[folded]; ok || strings.HasPrefix(folded, "x-forwarded-") || folded == "cookie" {
				return "Connection: " + line
			}
		}
	}
	if strings.Contains(strings.ToLower(strings.Join(h["Upgrade"], ",")), "h2c") {
		return "Upgrade: h2c"
	}
	if len(h["Trailer"]) > 0 {
		return "Trailer"
	}
	return ""
}

// foldName reads a header's name like CGI: letters and digits, and one symbol for all other
// characters.
func foldName(name string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(name))
}

var toldOfAnn = map[string]string{"remote-user": "ann@example.com", "remote-email": "ann@example.com", "remote-name": "Ann Baker",
	"portal-role": "client", "portal-firm": "example", "portal-assertion": "JWT"}

// readings returns all possible readings of a request's path: decoded up to three times, with and
// without parameters and backslashes, cleaned, in lower case.
func readings(target string) (all []string) {
	p, _, _ := strings.Cut(target, "?")
	if scheme, rest, ok := strings.Cut(p, "://"); ok && !strings.Contains(scheme, "/") {
		_, p, _ = strings.Cut(rest, "/") // the request line has a host
		p = "/" + p
	}
	for range 4 {
		for _, read := range []string{p, strings.ReplaceAll(p, `\`, "/"), cutParameters(p), cutParameters(strings.ReplaceAll(p, `\`, "/"))} {
			read, _, _ = strings.Cut(read, "\x00")
			all = append(all, strings.ToLower(path.Clean(read)), strings.ToLower(path.Clean(bestFit(read))))
		}
		next, err := url.PathUnescape(p)
		if err != nil || next == p {
			break
		}
		p = next
	}
	return all
}

// bestFit returns a path as seen by readers of similar characters and of overlong UTF-8.
func bestFit(p string) string {
	var b []byte
	for i := 0; i < len(p); i++ {
		if p[i]&0xe0 == 0xc0 && i+1 < len(p) {
			b = utf8.AppendRune(b, rune(p[i]&0x1f)<<6|rune(p[i+1]&0x3f))
			i++
			continue
		}
		b = append(b, p[i])
	}
	p = norm.NFKD.String(string(b))
	return strings.NewReplacer(`\`, "/", "¥", "/", "₩", "/").Replace(p)
}

func cutParameters(p string) string {
	var b strings.Builder
	for segment := range strings.SplitAfterSeq(p, "/") {
		cut, _, found := strings.Cut(segment, ";")
		b.WriteString(cut)
		if found && strings.HasSuffix(segment, "/") {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// fuzzHouse is a gate that keeps no state after a request. In its input, SESSION, FLOW, TOKEN and
// CODE stand for valid values.
type fuzzHouse struct {
	*awayHouse
	secrets *strings.Replacer
	cookies [2]string // the values of the session and flow cookies
}

func openFuzzHouse(f *testing.F) *fuzzHouse {
	h := &fuzzHouse{awayHouse: openAwayHouse(f)}
	h.store.Store = still{h.store.Store}
	_, h.cookies[0], _ = strings.Cut(h.session, "=")
	_, h.cookies[1], _ = strings.Cut(h.flow, "=")
	h.secrets = strings.NewReplacer("SESSION", h.cookies[0], "FLOW", h.cookies[1], "TOKEN", h.token, "CODE", h.code)
	return h
}

// read parses bytes like Go's server; it returns nil if that would refuse them.
func (h *fuzzHouse) read(raw string) *http.Request {
	raw = h.secrets.Replace(raw)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil || !httpguts.ValidHostHeader(r.Host) {
		return nil
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return nil
		}
	}
	r.RemoteAddr = "192.0.2.1:1234"
	return r
}

// For any bytes on the wire: a request without a session reaches the portal only on an open path,
// no visitor gets another identity, no page of the gate reaches the portal, nothing crashes, and no
// response contains a secret.
func FuzzServeHTTP(f *testing.F) {
	h := openFuzzHouse(f)
	const browser = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
	const form = browser + "Sec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n"
	host := "HTTP/1.1\r\nHost: portal.example\r\n"
	for _, seed := range []string{
		"GET / " + host + "\r\n", "GET /orders?a=1 " + host + browser + "Cookie: a=1; __Host-portal=SESSION; b=2\r\nRemote-User: evil\r\nPortal_Role: staff\r\n\r\n",
		"GET /public/x " + host + "X-Auth-Request-User: evil\r\nConnection: Remote-User, close\r\n\r\n", "GET /public/..%2fadmin " + host + "\r\n",
		"GET /public/%C0%AE%C0%AE/admin " + host + "\r\n", "GET /public/%EF%BC%8E%EF%BC%8E%EF%BC%8Fadmin " + host + "\r\n",
		"GET /public/%252e%252e/admin;x " + host + "\r\n", "GET //-/link?t=TOKEN " + host + "\r\n", "GET /%2d/link " + host + "Cookie: __Host-portal=SESSION\r\n\r\n",
		"GET /-/link?t=TOKEN " + host + browser + "Cookie: __Host-portal-flow=FLOW\r\n\r\n", "HEAD /-/link?t=TOKEN " + host + browser + "\r\n",
		"GET /-/link?t=TOKEN " + host + browser + "Sec-Purpose: prefetch\r\nCookie: __Host-portal-flow=FLOW\r\n\r\n",
		"POST /-/link " + host + form + "Content-Length: 69\r\n\r\nt=TOKEN&email=ann%40example.com", "POST /-/code " + host + form + "Cookie: __Host-portal-flow=FLOW\r\nContent-Length: 14\r\n\r\ncode=CODE",
		"POST /-/sign-in " + host + form + "Content-Length: 37\r\n\r\nemail=ann%40example.com&to=//evil&t=xx", "POST /-/sign-out " + host + form + "Cookie: __Host-portal=SESSION\r\nContent-Length: 0\r\n\r\n",
		"POST /-/sign-out " + host + "Origin: https://evil.example\r\nCookie: __Host-portal=SESSION\r\n\r\n", "GET /-/sign-in?to=/%09/evil " + host + browser + "\r\n",
		"GET /-/me " + host + "Cookie: __Host-portal=\"SESSION\"\r\n\r\n", "POST /orders " + host + form + "Content-Length: 11\r\n\r\n<zq=<zq&b=c", "GET /<zq?<zq " + host + browser + "Sec-Fetch-Dest: iframe\r\n\r\n",
		"CONNECT /public/x " + host + "\r\n", "OPTIONS * " + host + "\r\n", "TRACE /public/x " + host + "\r\n", "PRI * HTTP/2.0\r\n\r\n", "GET http://evil.example/public/x " + host + "\r\n",
		"POST /x " + host + "Cookie: __Host-portal=SESSION\r\nTransfer-Encoding: chunked\r\nTrailer: Remote-User\r\n\r\n3\r\nabc\r\n0\r\nRemote-User: evil\r\n\r\n",
		"GET /ws " + host + "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\nHttp2-Settings: AA\r\nCookie: __Host-portal=SESSION\r\n\r\n", "GET /-/mailbox/../../x.eml " + host + "\r\n",
		"GET /-/health HTTP/1.0\r\n\r\n", "GET /-/logo " + host + "Range: bytes=0-1\r\nIf-None-Match: *\r\n\r\n", "PUT /-/sent " + host + "\r\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := h.read(raw)
		if r == nil {
			return
		}
		target, method, header := r.RequestURI, r.Method, r.Header.Clone()
		signedIn := false
		for _, c := range r.CookiesNamed("__Host-portal") {
			signedIn = signedIn || c.Value == h.cookies[0]
		}
		asked := strings.Join(header["Cookie"], "; ") + r.Host + target
		h.log.Reset()
		w := httptest.NewRecorder()
		reached := false
		h.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reached = true
			h.wantAtPortal(t, r, target, signedIn)
			fmt.Fprint(w, "portal")
		}))
		resp := w.Result()
		body, _ := io.ReadAll(resp.Body)
		what := fmt.Sprintf("%q = %d", raw, resp.StatusCode)
		if resp.StatusCode >= 500 {
			t.Fatalf("%s; want no 5xx\n%s", what, h.log)
		}
		if !reached && bytes.Contains(body, []byte("<zq")) {
			t.Fatalf("%s: a page has what was sent as it was sent: %s", what, body)
		}
		h.wantAnswer(t, what, method, header, resp, reached)
		for _, secret := range append(h.cookies[:], h.token) {
			if strings.Contains(h.log.String(), secret) {
				t.Fatalf("%s: the log has a secret: %s", what, h.log)
			}
			if secret != h.token && !strings.Contains(asked, secret) && strings.Contains(string(body), secret) {
				t.Fatalf("%s: the page has a cookie that nobody sent", what)
			}
		}
	})
}

// wantAtPortal checks the request that the portal receives.
func (h *fuzzHouse) wantAtPortal(t *testing.T, r *http.Request, target string, signedIn bool) {
	t.Helper()
	var want map[string]string
	if signedIn {
		want = toldOfAnn
	}
	if f := forgery(r.Header, want); f != "" {
		t.Fatalf("%q: the portal was told %s", target, f)
	}
	if len(r.Trailer) > 0 {
		t.Fatalf("%q: the portal gets the trailer %v", target, r.Trailer)
	}
	for _, name := range []string{"__Host-portal", "__Host-portal-flow", "__Host-portal-device", "__Host-portal-visit"} {
		if got := r.CookiesNamed(name); len(got) > 0 {
			t.Fatalf("%q: the portal gets %v", target, got)
		}
	}
	for _, p := range append(readings(target), readings(r.URL.EscapedPath())...) {
		if p == "/-" || strings.HasPrefix(p, "/-/") {
			t.Fatalf("%q: a page of ours, %q, went to the portal", target, p)
		}
		if !signedIn && !strings.HasPrefix(p, "/public") {
			t.Fatalf("%q: the portal serves who isn't signed in, and could read %q", target, p)
		}
	}
	switch r.Method {
	case http.MethodConnect, http.MethodTrace:
		t.Fatalf("the portal gets a %s", r.Method)
	}
}

// wantAnswer checks the redirect and the cookies of a response.
func (h *fuzzHouse) wantAnswer(t *testing.T, what, method string, asked http.Header, resp *http.Response, reached bool) {
	t.Helper()
	if to := resp.Header.Get("Location"); to != "" {
		base := &url.URL{Scheme: "https", Host: "portal.example"}
		u, err := base.Parse(strings.NewReplacer("\t", "", `\`, "/").Replace(to))
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || to[0] != '/' {
			t.Fatalf("%s: Location: %s", what, to)
		}
	}
	cookies := resp.Header["Set-Cookie"]
	for _, line := range cookies {
		name, _, _ := strings.Cut(line, "=")
		if !slices.Contains([]string{"__Host-portal", "__Host-portal-flow", "__Host-portal-device"}, name) || !strings.Contains(line, "; Path=/") || !strings.Contains(line, "; HttpOnly; Secure; SameSite=Lax") || strings.Contains(line, "Domain") {
			t.Fatalf("%s: Set-Cookie: %s", what, line)
		}
		if name != "__Host-portal-flow" && !strings.HasPrefix(line, name+"=;") && resp.StatusCode != http.StatusSeeOther {
			t.Fatalf("%s: a session without the way on", what)
		}
	}
	if len(cookies) > 0 && (reached || method != http.MethodGet && method != http.MethodPost || web.IsPrefetch(asked)) {
		t.Fatalf("%s: Set-Cookie %q on what is no page load and no form", what, cookies)
	}
	if cc := resp.Header.Get("Cache-Control"); !reached && cc != "no-store, no-transform" && !strings.HasPrefix(cc, "public, max-age=") {
		t.Fatalf("%s: Cache-Control: %q", what, cc)
	}
}

// No header of a visitor passes for the gate's, in any spelling and wherever it is named.
func FuzzIdentityHeaders(f *testing.F) {
	for _, seed := range [][4]string{{"Remote-User", "admin", "close", "a=1"}, {"remote_user", "admin", "Remote-User", ""}, {"Portal.Role", "staff", "portal-role,,X", "__Host-portal=x"},
		{"X-Forwarded_For", "1.2.3.4", "x-forwarded-for", ""}, {"Upgrade", "h2c, websocket", "Upgrade", ""}, {"Trailer", "Remote-User", "trailer", ""}, {"X-Auth-Request-", "x", "", ""},
		{"Rem\u00f6te-User", "x", "", ""}, {"Remote\u2010User", "x", "", ""}, {"\u017f", "x", "", ""}, {"X~Original!URL", "/x", "", ""}, {"Connection", "Remote-Name", "", ""},
		{"0", "0", "\fX forwArded!", ""}, {"0", "0", "x_forwarded.for", ""}} {
		f.Add(seed[0], seed[1], seed[2], seed[3], true)
	}
	var told upstream.Identity
	for _, name := range slices.Sorted(maps.Keys(toldOfAnn)) {
		told.Add(textproto.CanonicalMIMEHeaderKey(name), toldOfAnn[name])
	}
	f.Fuzz(func(t *testing.T, name, value, connection, cookie string, signedIn bool) {
		if !httpguts.ValidHeaderFieldName(name) {
			return // refused by every server: see TestH01_InvalidHeaderNamesAreRejected
		}
		r := &http.Request{Header: http.Header{"Accept": {"*/*"}}, Trailer: http.Header{name: nil}}
		for _, n := range []string{name, strings.ToLower(name), textproto.CanonicalMIMEHeaderKey(name)} {
			r.Header[n] = append(r.Header[n], value)
		}
		r.Header["Connection"] = append(r.Header["Connection"], connection)
		r.Header["Cookie"] = append(r.Header["Cookie"], cookie)
		upstream.StripIdentity(r)
		var want map[string]string
		if signedIn {
			want = toldOfAnn
			told.SetOn(r.Header, "", "")
		}
		if f := forgery(r.Header, want); f != "" {
			t.Fatalf("%q: %q, Connection: %q, leave the portal with %s", name, value, connection, f)
		}
		if r.Trailer != nil {
			t.Fatalf("the trailer %v is left", r.Trailer)
		}
	})
}

// Any name of a contact becomes one header with one value.
func FuzzHeaderValue(f *testing.F) {
	for _, seed := range []string{"Ann Baker", "Ann\r\nPortal-Role: staff", "\x00", "\u2028", strings.Repeat("é", 1000), "\xff\xfe", "\u202eAnn", " Ann ", "\u0085", "\x1b[2J", strings.Repeat("é", 511) + " é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var id upstream.Identity
		id.Add("Remote-Name", s)
		h := http.Header{}
		id.SetOn(h, "", "")
		for _, v := range h["Remote-Name"] {
			if v == "" || len(v) > len(s) || !utf8.ValidString(v) || !httpguts.ValidHeaderFieldValue(v) || v != strings.TrimSpace(v) || upstream.HeaderValue(v) != v {
				t.Fatalf("headerValue(%q) = %q", s, v)
			}
		}
	})
}

// FuzzSetCookie checks that no Set-Cookie line of the portal sets or deletes a cookie of the gate.
func FuzzSetCookie(f *testing.F) {
	tied := portalCookies(f)
	for _, seed := range []string{"a=1; __Host-portal=x; b=2", "__Host-portal-flow=x", "__HOST-PORTAL=x;;", " __Host-portal =x", "=__Host-portal=x", "==__Host-portal=x", "__Host-portal", `a="; __Host-portal=x"`,
		"a=1;\t__Host-portal-device=x; Path=/", "__Host-portal=x; Domain=portal.example", "\x00__Host-portal=x", "__Host-portal\x00=x", ";__Host-portal=x", "a,__Host-portal=x", " = __Host-portal = x", "=\t__Host-portal=x; Path=/", "theme ", "\ttheme", "a=1; __Host-portal "} {
		f.Add(seed)
	}
	site := &url.URL{Scheme: "https", Host: "portal.example"}
	c := web.CookiesFor(site)
	ours := func(r *http.Request) bool {
		return slices.ContainsFunc(r.Cookies(), func(one *http.Cookie) bool {
			return strings.HasPrefix(strings.ToLower(one.Name), "__host-portal") && c.IsOurs(one.Name)
		})
	}
	f.Fuzz(func(t *testing.T, line string) {
		w := httptest.NewRecorder()
		w.Header()["Set-Cookie"] = []string{line, "z=9"}
		p := &portalWriter{ResponseWriter: w, gate: portalGate(site, tied), ctx: t.Context()}
		p.WriteHeader(http.StatusOK)
		back := &http.Request{Header: http.Header{}}
		for _, set := range w.Header()["Set-Cookie"] {
			if sent := sentBack(set); sent != "" {
				back.Header.Add("Cookie", sent)
			}
		}
		if ours(back) {
			t.Fatalf("Set-Cookie: %q comes back as %q", line, back.Header["Cookie"])
		}
		if !slices.Contains(w.Header()["Set-Cookie"], "z=9") {
			t.Fatalf("Set-Cookie: z=9 is gone beside %q", line)
		}
	})
}

// sentBack returns the Cookie line of a browser that received the Set-Cookie line (RFC 6265bis, 5.6
// and 5.8.3), or "" if it rejects it. It ignores the order of attributes and has no origin: it
// keeps every cookie that some origin could keep.
func sentBack(set string) string {
	pair, _, _ := strings.Cut(set, ";")
	if strings.ContainsFunc(pair, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
		return ""
	}
	name, value, found := strings.Cut(pair, "=")
	if !found {
		name, value = "", pair
	}
	name, value = strings.Trim(name, " \t"), strings.Trim(value, " \t")
	if name == "" {
		return value
	}
	return name + "=" + value
}

// The fields of a portal's form are the same in the page that holds it, with the same target;
// otherwise the form isn't held at all.
func FuzzHeldForm(f *testing.F) {
	h := openFuzzHouse(f)
	for _, seed := range [][2]string{{"/orders?a=1", "note=hello&b="}, {"/x", "a=%22%3E%3Cscript%3E&%3Cb%3E=1"}, {"/x", "a=%e9&b=%ff%81"}, {"//evil.example", "a=b"}, {"/-/sign-out", "a=b"}, {"/x", "a=1&a=2&a"},
		{"/x", "%zz=1"}, {"/x", "a=%0d%0ab"}, {"/x", "&&=&=x"}, {"/x?<zq", "{{.Firm}}=x&a={{.}}"}, {"/é", "é=é"}, {`/\evil`, "a=b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, target, body string) {
		r := h.read("POST " + target + " HTTP/1.1\r\nHost: portal.example\r\nAccept: text/html\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n" +
			fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(h.secrets.Replace(body)), body))
		if r == nil {
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r, http.NotFoundHandler())
		page := w.Body.String()
		if w.Code != http.StatusUnauthorized || !strings.Contains(page, "Your form is kept") {
			return
		}
		action, charset, fields := heldIn(t, page)
		u, err := (&url.URL{Scheme: "https", Host: "portal.example"}).Parse(action)
		if err != nil || u.Host != "portal.example" || u.Scheme != "https" || !strings.HasPrefix(action, "/") {
			t.Fatalf("the form for %q goes to %q", target, action)
		}
		want, err := url.ParseQuery(strings.ReplaceAll(h.secrets.Replace(body), ";", "%3B"))
		if err != nil {
			t.Fatalf("%q is held; %v", body, err)
		}
		if charset != "" || strings.ContainsAny(want.Encode(), "\r") || strings.Contains(want.Encode(), "%0D") || strings.Contains(want.Encode(), "%00") {
			return // bytes that aren't UTF-8, and line endings, are covered in pages_test.go
		}
		if fields.Encode() != want.Encode() {
			t.Fatalf("%q is held as %q", body, fields.Encode())
		}
	})
}

// heldIn reads the form with the hidden fields from a page, like a browser.
func heldIn(t *testing.T, page string) (action, charset string, fields url.Values) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	fields = url.Values{}
	for n := range doc.Descendants() {
		attr := map[string]string{}
		for _, a := range n.Attr {
			attr[a.Key] = a.Val
		}
		switch {
		case n.Type == html.ElementNode && n.Data == "form":
			action, charset = attr["action"], attr["accept-charset"]
		case n.Type == html.ElementNode && n.Data == "input" && attr["type"] == "hidden":
			fields.Add(attr["name"], attr["value"])
		case n.Type == html.ElementNode && n.Data == "script" && n.Parent.Data != "body" && n.Parent.Data != "head":
			t.Fatalf("a script in %s", n.Parent.Data)
		}
	}
	return action, charset, fields
}
