package gate

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

var testRules = rules{prefix: "/-", public: []Public{
	{Paths: []string{"/assets/*", "/favicon.ico"}},
	{Methods: []string{"POST"}, Paths: []string{"/webhooks/*"}},
}}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		method, target string
		want           Kind
	}{
		{"GET", "/", Protected},
		{"GET", "/assets/a.css", Open},
		{"GET", "/assets/", Open},
		{"GET", "/assets", Protected},
		{"GET", "/assetsx/a", Protected},
		{"GET", "/ASSETS/a.css", Protected},
		{"GET", "/favicon.ico", Open},
		{"GET", "/favicon.ico/", Protected},
		{"GET", "/favicon.ico/x", Protected},
		{"POST", "/webhooks/stripe", Open},
		{"GET", "/webhooks/stripe", Protected},
		{"post", "/webhooks/stripe", Protected},
		{"GET", "/-", Own},
		{"GET", "/-/sign-in", Own},
		{"GET", "/-x", Protected},
		{"GET", "/x?path=/assets/a", Protected},
		{"GET", "/x?/assets/a", Protected},
		{"GET", "/private;/assets/a", Protected},
		{"GET", "/assets/a(1)!'*.png", Open},
		{"GET", "/assets/%5Bslug%5D.js", Open},
		{"OPTIONS", "*", Refused},
		{"GET", "mailto:ann@example.com", Refused},
		{"GET", "http://example.com", Protected},
		{"TRACE", "/", Refused},
		{"TRACK", "/assets/a", Refused},
		{"CONNECT", "/assets/a", Refused},
		{"FOO", "/x", Protected},
	} {
		u, err := url.ParseRequestURI(c.target)
		if c.target == "*" {
			u, err = &url.URL{Path: "*"}, nil // as in net/http
		}
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: c.method, URL: u, Header: http.Header{}}
		if got := testRules.classify(r); got != c.want {
			t.Errorf("classify(%s %s) = %d; want %d", c.method, c.target, got, c.want)
		}
	}
}

// RFC 8441, RFC 9220: CONNECT opens a WebSocket over HTTP/2 and HTTP/3, and nothing else.
func TestH16_ConnectIsForWebSocketsAlone(t *testing.T) {
	for _, c := range []struct {
		major           int
		proto, protocol string
		want            Kind
	}{
		{1, "HTTP/1.1", "", Refused},
		{1, "HTTP/1.1", "websocket", Refused},
		{2, "HTTP/2.0", "", Refused},
		{2, "HTTP/2.0", "connect-udp", Refused},
		{2, "HTTP/2.0", "websocket", Protected},
		{3, "HTTP/3.0", "", Refused},
		{3, "connect-ip", "", Refused},
		{3, "websocket", "", Protected},
	} {
		r := &http.Request{Method: "CONNECT", ProtoMajor: c.major, Proto: c.proto, URL: &url.URL{Path: "/ws"}, Header: http.Header{}}
		if c.protocol != "" {
			r.Header[":protocol"] = []string{c.protocol}
		}
		if got := testRules.classify(r); got != c.want {
			t.Errorf("classify(CONNECT, HTTP/%d, %s, %s) = %d; want %d", c.major, c.proto, c.protocol, got, c.want)
		}
	}
}

// A mangled link reaches neither the portal nor a log.
func TestT10_AMangledLinkIsOursAndASecret(t *testing.T) {
	ru := rules{prefix: "/door"}
	const token = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF-"
	for _, c := range []struct {
		target       string
		near, secret bool
	}{
		{"/door/link?t=" + token, true, true},
		{"/door/link?t=x", true, true},
		{"/door/link?", true, true},
		{"/door/?t=x", true, true},
		{"/door?t=x", true, true},
		{"/DOOR/link?t=x", true, true},
		{"/Door/Link?t=x", true, true},
		{"/%64oor/link?t=x", true, true},
		{"/%2564oor/link?t=x", true, true},
		{"//door/link?t=x", true, true},
		{"/door//link?t=x", true, true},
		{"/./door/link?t=x", true, true},
		{"/x/../door/link?t=x", true, true},
		{"/x/%2e%2e/door/link?t=x", true, true},
		{"/door;v=1/link?t=x", true, true},
		{"/door/link;t=x", true, true},
		{"/\\door/link?t=x", true, true},
		{"/%5cdoor/link?t=x", true, true},
		{"/door%2flink?t=x", true, true},
		{"/door/link%3ft=" + token, true, true},
		{"/door/link%3Ft%3D" + token, true, true},
		{"/door/link/" + token, true, true},
		{"/door/link" + token, true, true},
		{"/door/sign-in?to=/a", true, true},
		{"/door/link", true, false},
		{"/door/sent", true, false},
		{"/door", true, false},
		{"/doors/link?t=x", false, false},
		{"/a/door/link?t=x", false, false},
		{"/orders?t=" + token, false, false},
		{"/orders/" + token, false, false},
		{"/orders?to=/door/link", false, false},
	} {
		u, err := url.ParseRequestURI(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := ru.near(u.Path); got != c.near {
			t.Errorf("near(%s) = %t; want %t", c.target, got, c.near)
		}
		if got := Secret("/door", u, nil); got != c.secret {
			t.Errorf("Secret(%s) = %t; want %t", c.target, got, c.secret)
		}
		r := &http.Request{Method: "GET", URL: u, Header: http.Header{}}
		if got := ru.classify(r) == Own; got != c.near {
			t.Errorf("classify(%s) = Own is %t; want %t", c.target, got, c.near)
		}
	}
}

// A browser that ignores the gate's Referrer-Policy: no log of the gate's pages and no portal gets
// the link. Nobody can hide a request for the portal from its log in this way.
func TestT19_ALinkInTheReferer(t *testing.T) {
	own, _ := url.Parse("/-/logo")
	portals, _ := url.Parse("/orders")
	for referer, want := range map[string]string{
		"":                                      "",
		"https://portal.example/":               "https://portal.example/",
		"https://portal.example/orders?t=1":     "https://portal.example/orders?t=1",
		"https://portal.example/-/link?t=TOKEN": "https://portal.example/",
		"https://portal.example/-/LINK?t=TOKEN": "https://portal.example/",
		"https://portal.example//-/link?t=TOKE": "https://portal.example/",
		"/-/link?t=TOKEN":                       "",
		"https://portal.example/%zz/-/link?t=T": "",
	} {
		h := http.Header{}
		if referer != "" {
			h.Set("Referer", referer)
		}
		if got := Secret("/-", own, h); got != (referer != want) {
			t.Errorf("Secret(/-/logo, Referer %q) = %t; want %t", referer, got, referer != want)
		}
		if Secret("/-", portals, h) {
			t.Errorf("Secret(/orders, Referer %q) = true; want false", referer)
		}
		(&forwarder{rules: testRules, Directory: &directory.Directory{}}).hideReferer(h, Protected)
		if got := h.Get("Referer"); got != want {
			t.Errorf("Referer %q becomes %q; want %q", referer, got, want)
		}
	}
}

// CVE-2025-54576, CVE-2026-40575, CVE-2025-66490 and similar: a path that some reader could take
// for another one is never open.
func TestP06_OnlyAPathThatAllReadAlikeIsOpen(t *testing.T) {
	tails := []string{"..%2fadmin", "%2e%2e/admin", "..;/admin", "%252e%252e/admin", "/../admin", "..%5cadmin", ".%2e/admin",
		"..\\admin", "./admin", "../admin", "a/../../admin", "%2e/admin", "a%2fb", "a%5cb", "a;v=1", "a%3bv=1", "a%00", "a%0a", "a%7f",
		"%c0%ae%c0%ae/admin/..", "a./b", "a../b", ".../b", "a%20/b", "a%252fb", "..%252fadmin", "..%c0%afadmin/..", "//admin", "a//b", "%25",
		// Overlong or invalid UTF-8, and characters that resemble ASCII.
		"%C1%A1.css", "%E0%81%A1.css", "%F0%80%81%A1.css", "%C0x", "a%EF%BC%8Fb", "a%EF%BC%BCb", "%E2%80%A5", "%EF%BC%8E/b", "a%EF%BC%9Bb", "a%EF%BC%8E/b", "a%C2%A5b", "a%E2%82%A9b"}
	for _, tail := range tails {
		u, err := url.ParseRequestURI("/assets/" + tail)
		if err != nil {
			continue // refused by the server before the gate
		}
		r := &http.Request{Method: "GET", URL: u, Header: http.Header{}}
		if got := testRules.classify(r); got != Protected {
			t.Errorf("classify(GET /assets/%s) = %d; want Protected", tail, got)
		}
	}
}

// Names in other scripts are as open as others, in UTF-8 and in Latin-1.
func TestPathsBeyondASCIIAreOpen(t *testing.T) {
	for _, tail := range []string{"caf%C3%A9.css", "caf%E9.css", "%E8%AA%AC%E6%98%8E.pdf", "%D7%A9.png", "a%E2%80%93b.jpg", "%EF%BD%81.css"} {
		u, err := url.ParseRequestURI("/assets/" + tail)
		if err != nil {
			t.Fatal(err)
		}
		if got := testRules.classify(&http.Request{Method: "GET", URL: u, Header: http.Header{}}); got != Open {
			t.Errorf("classify(GET /assets/%s) = %d; want Open", tail, got)
		}
	}
}
