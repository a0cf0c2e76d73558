package caddymodule_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
)

// The ways in which an app shows a web page.
var inApps = map[string][]string{
	"a browser's tab":           {"Sec-Fetch-Site", "cross-site"},
	"Gmail on Android":          {"User-Agent", "Mozilla/5.0 (Linux; Android 15; Pixel 8 Build/AP4A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/138.0.7204.63 Mobile Safari/537.36", "X-Requested-With", "com.google.android.gm"},
	"Facebook on Android":       {"User-Agent", "Mozilla/5.0 (Linux; Android 14; SM-S911B Build/UP1A; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/138.0.7204.63 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/520.0.0.45.98;]", "X-Requested-With", "com.facebook.katana", "Sec-Fetch-Site", "cross-site"},
	"Instagram on an iPhone":    {"User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Instagram 390.0.0.28.85 (iPhone16,2; iOS 18_5; en_US)"},
	"LinkedIn on an old iPhone": {"User-Agent", "Mozilla/5.0 (iPhone; CPU iPhone OS 15_8 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 [LinkedInApp]", "Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""},
	"Outlook on Windows":        {"User-Agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0 OneOutlook/1.2025"},
}

// The portal's base address is the only link that the firm's website needs. Old links work as well:
// people see a page wherever the link opens.
func TestTheWebsiteButton(t *testing.T) {
	h := openOldHouse(t, "birch")
	bob, ann, owner := h.in("bob@example.com"), h.in("ann@example.com"), h.in("owner@example.com")
	for name, headers := range inApps {
		if a := h.browser().open("/", headers...); a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) {
			t.Errorf("%s: / = %d; want the prompt\n%s", name, a.StatusCode, a.body)
		}
		if a := bob.open("/", headers...); a.StatusCode != 303 || goes(a) != "/portal/acme/" {
			t.Errorf("%s: / for a contact of one company = %d to %q", name, a.StatusCode, goes(a))
		}
		if a := ann.open("/", headers...); a.StatusCode != 303 || goes(a) != "/-/companies" {
			t.Errorf("%s: / for a contact of two = %d to %q", name, a.StatusCode, goes(a))
		}
		if a := owner.open("/", headers...); a.StatusCode != 200 {
			t.Errorf("%s: / for staff = %d", name, a.StatusCode)
		}
		b := h.browser()
		if a := b.open("/one-click/acme-secret-token-1/", headers...); a.StatusCode != 200 || b.cookie("portal-visit") == "" {
			t.Errorf("%s: an open company's old link = %d, with the visit %q", name, a.StatusCode, b.cookie("portal-visit"))
		}
		b = h.browser()
		a := b.open("/one-click/birch-secret-token/", headers...)
		if a.StatusCode != 302 || !goneForm.MatchString(goes(a)) {
			t.Errorf("%s: an upgraded company's old link = %d to %q", name, a.StatusCode, goes(a))
			continue
		}
		if a := b.open(goes(a), headers...); a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) {
			t.Errorf("%s: /-/go = %d; want the prompt\n%s", name, a.StatusCode, a.body)
		}
	}

	// In a frame of the firm's website browsers don't send the gate's cookies.
	framed := []string{"Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "cross-site"}
	links := regexp.MustCompile(`(?:href|action)="([^"]*)"([^>]*)`)
	for path, leads := range map[string]string{"/": "/", "/one-click/birch-secret-token/x": "/-/go", "/one-click/nobodys-token/": "/-/go", "/portal/birch/": "/portal/birch/"} {
		a := h.browser().open(path, framed...)
		var found []string
		for _, m := range links.FindAllStringSubmatch(a.body[strings.Index(a.body, "<main>")+1:strings.Index(a.body, "</main>")+1], -1) {
			found = append(found, m[0])
			if !strings.HasPrefix(m[1], leads) || strings.Contains(m[1], "token") || !strings.Contains(m[2], `target="_top"`) {
				t.Errorf("%s in a frame has the link %s; want it to lead to %s in the whole window", path, m[0], leads)
			}
		}
		if a.StatusCode != 401 || len(found) != 1 || strings.Contains(a.body, "secret-token") || len(a.Cookies()) != 0 || a.Header.Get("X-Frame-Options") != "" {
			t.Errorf("%s in a frame = %d, %v, with links %q; want one link out", path, a.StatusCode, a.Header, found)
		}
	}
}

// oldStreams is a portal behind old links: a WebSocket, events, a large file, uploads.
func oldStreams(t *testing.T) (address string, file []byte) {
	file = bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	mux := http.NewServeMux()
	mux.HandleFunc("/one-click/acme-secret-token-1/file", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/pdf")
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "file", time.Time{}, bytes.NewReader(file))
	})
	mux.HandleFunc("/one-click/acme-secret-token-1/upload", func(w http.ResponseWriter, r *http.Request) {
		first := make([]byte, 1)
		if _, err := io.ReadFull(r.Body, first); err != nil {
			t.Errorf("an upload's first byte: %v", err)
		}
		sum := sha256.New()
		sum.Write(first)
		n, err := io.Copy(sum, r.Body)
		fmt.Fprintf(w, "%d %x %v", n+1, sum.Sum(nil), err)
	})
	inner := streams(t)
	mux.Handle("/one-click/acme-secret-token-1/", http.StripPrefix("/one-click/acme-secret-token-1", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: inner})))
	s := httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return strings.TrimPrefix(s.URL, "http://"), file
}

// Requests of the portal's own pages to old URLs, and their responses, pass unchanged: for a member
// of an upgraded company, and in a visit to an open one.
func TestOldURLsStream(t *testing.T) {
	address, file := oldStreams(t)
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), site: "reverse_proxy " + address})
	m.moveInto(h)
	const old = "/one-click/acme-secret-token-1/"
	visitor := h.browser()
	if a := visitor.open(old + "x"); a.StatusCode != 200 || visitor.cookie("portal-visit") == "" {
		t.Fatalf("an old link before the upgrade = %d", a.StatusCode)
	}
	streamsAt(t, visitor, "portal-visit", old, file)
	var open []*stream
	for kind := range kindsOfStream {
		_, s := visitor.tries(kind, old, "portal-visit")
		open = append(open, s)
	}
	time.Sleep(2 * session.SweepInterval)
	goOn(t, "in a visit", open)
	h.upgrade("acme")
	endBy(t, "upgraded", open, time.Now())
	for kind := range kindsOfStream {
		if status, _ := visitor.tries(kind, old, "portal-visit"); status != 401 && status != 302 {
			t.Errorf("%s with a visit from before the upgrade = %d; want none", kind, status)
		}
	}
	member := h.in("bob@example.com")
	streamsAt(t, member, "portal", old, file)
	streamsAt(t, member, "portal", "/portal/acme/", file)
	stays := []*stream{}
	for kind := range kindsOfStream {
		_, s := member.tries(kind, old, "portal")
		stays = append(stays, s)
	}
	other := h.in("nameless@example.com")
	for kind := range kindsOfStream {
		if status, _ := other.tries(kind, old, "portal"); status != 404 {
			t.Errorf("%s by an old URL for somebody else = %d; want 404", kind, status)
		}
	}
	ended := time.Now()
	member.send("/-/sign-out", nil)
	endBy(t, "signed out", stays, ended)
}

// streamsAt sends and receives all kinds of large or lasting content below a path.
func streamsAt(t *testing.T, b *browser, cookie, path string, file []byte) {
	t.Helper()
	for kind := range kindsOfStream {
		if status, s := b.tries(kind, path, cookie); s == nil {
			t.Errorf("%s at %s with %s = %d; want an answer that goes on", kind, path, cookie, status)
		}
	}
	picture := []string{"Accept", "*/*", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "embed", "Sec-Fetch-Site", "same-origin"}
	if a := b.open(path+"file", append(picture, "Range", "bytes=16-47")...); a.StatusCode != 206 || a.body != string(file[16:48]) || a.Header.Get("Content-Range") != fmt.Sprintf("bytes 16-47/%d", len(file)) {
		t.Errorf("a range of %sfile = %d, %v", path, a.StatusCode, a.Header)
	}
	if a := b.open(path+"file", append(picture, "If-None-Match", `"v1"`)...); a.StatusCode != 304 {
		t.Errorf("%sfile if it has changed = %d; want 304", path, a.StatusCode)
	}
	if a := b.do(b.request("HEAD", path+"file", nil, picture...)); a.StatusCode != 200 || a.ContentLength != int64(len(file)) {
		t.Errorf("HEAD %sfile = %d with %d bytes", path, a.StatusCode, a.ContentLength)
	}
	if a := b.open(path+"file", picture...); a.body != string(file) {
		t.Errorf("%sfile has %d bytes; want the file", path, len(a.body))
	}
	r, w := io.Pipe() // of unknown length
	sum := sha256.New()
	go func() {
		for range 4 {
			sum.Write(file)
			w.Write(file)
		}
		w.Close()
	}()
	a := b.do(b.request("POST", path+"upload", r, "Content-Type", "application/octet-stream", "Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin", "Origin", b.h.url))
	if want := fmt.Sprintf("%d %s <nil>", 4*len(file), hex.EncodeToString(sum.Sum(nil))); a.body != want {
		t.Errorf("an upload to %s = %d %q; want %q", path, a.StatusCode, a.body, want)
	}
}

// tries opens a stream below a path, as a script of the portal's pages does. If there is none, it
// returns only the status.
func (b *browser) tries(kind, path, cookie string) (status int, s *stream) {
	b.h.t.Helper()
	conn := b.h.dial()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	upgrade := "Accept: */*\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nConnection: close\r\n"
	if kind == "websocket" {
		upgrade = "Sec-Fetch-Mode: websocket\r\nSec-Fetch-Dest: empty\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\n%s\r\n", strings.TrimSuffix(path, "/")+kindsOfStream[kind], b.h.host(), cookie, b.cookie(cookie), upgrade)
	s = &stream{kind, conn, bufio.NewReader(conn), make(chan end, 1)}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil {
		b.h.t.Fatalf("%s: %v", kind, err)
	}
	first, body := make([]byte, 5), io.Reader(resp.Body)
	switch resp.StatusCode {
	default:
		return resp.StatusCode, nil
	case http.StatusSwitchingProtocols:
		body = s.in
	case http.StatusOK:
	}
	if _, err := io.ReadFull(body, first); err != nil {
		b.h.t.Fatalf("%s: its first bytes: %v", kind, err)
	}
	conn.SetDeadline(time.Time{})
	go func() {
		rest, _ := io.ReadAll(s.in)
		s.end <- end{time.Now(), kind != "websocket" && bytes.HasSuffix(rest, []byte("0\r\n\r\n"))}
	}()
	return resp.StatusCode, s
}

// openTLSHouse returns a house whose firm is at an https url, with a site there and two others
// without TLS: one at the house's own address, and one as in the manual.
func openTLSHouse(t *testing.T, log logFile) (h *house, secure, manual string) {
	t.Helper()
	lender := httptest.NewTLSServer(nil) // of a certificate for 127.0.0.1
	defer lender.Close()
	pair := lender.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	secure, manual = "https://"+freeAddress(t), "http://"+freeAddress(t)
	m := startMailServer(t)
	p := newPortal(t)
	dir := t.TempDir()
	files := &house{t: t, dir: dir}
	files.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})))
	files.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	h = openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), url: secure,
		global: log.global, site: log.site + "respond never",
		more: fmt.Sprintf(`%s {
	tls %s %s
	%s
	doorpost example
	reverse_proxy %s
}
%s {
	%s
	doorpost example
	redir %s{uri}
}
`, secure, files.path("cert.pem"), files.path("key.pem"), log.site, strings.TrimPrefix(p.URL, "http://"), manual, log.site, secure)})
	m.moveInto(h)
	h.portal = p
	return h, secure, manual
}

// secureBrowser returns a browser that accepts the house's certificate.
func (h *house) secureBrowser() *browser {
	lender := httptest.NewTLSServer(nil)
	defer lender.Close()
	b := h.browser()
	client := lender.Client()
	jar, _ := cookiejar.New(nil)
	client.Jar, client.CheckRedirect = jar, b.client.CheckRedirect
	return &browser{h, client}
}

// An old link without TLS leads to the same page with TLS, and its token appears nowhere on the
// way.
func TestOldLinksWithoutTLS(t *testing.T) {
	log := newLogFile(t)
	h, secure, manual := openTLSHouse(t, log)
	b := h.secureBrowser()
	clear := h.browser // without the cookies that browsers send only over TLS, or in this test also to this machine
	const old = "/one-click/acme-secret-token-1/orders/7?tab=2"
	a := clear().open(h.url + old)
	gone := goes(a)
	if a.StatusCode != 302 || !strings.HasPrefix(gone, secure+"/-/go?x=") || len(a.Cookies()) != 0 || h.portal.count() != 0 {
		t.Fatalf("an old link without TLS = %d to %q; want its way with TLS", a.StatusCode, gone)
	}
	for _, link := range []string{old, "/ONE-CLICK/acme-secret-token-1/", "/view?client=acme-secret-token-2", "/one-click/nobodys-token/"} {
		if a := clear().open(manual + link); a.StatusCode != 302 || !strings.HasPrefix(goes(a), secure+"/-/go?x=") {
			t.Errorf("%s, as the manual has it, = %d to %q; want its way with TLS", link, a.StatusCode, goes(a))
		}
	}
	b.open(secure + "/") // from here on the gate knows that TLS ends here
	for _, page := range []string{"/", "/dashboard.php?x=1", "/-/companies"} {
		a := clear().open(manual + page)
		if a.StatusCode != 302 || !strings.HasPrefix(goes(a), secure+"/-/go?x=") {
			t.Errorf("%s, as the manual has it, = %d to %q; want it with TLS", page, a.StatusCode, goes(a))
		} else if a := b.open(goes(a)); goes(a) != page {
			t.Errorf("%s leads to %q with TLS; want the page", page, goes(a))
		}
	}
	if a := clear().open(manual+"/assets/x.css?y", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "style", "Accept", "text/css"); goes(a) != secure+"/assets/x.css?y" {
		t.Errorf("what is open, as the manual has it, = %d to %q; want it with TLS", a.StatusCode, goes(a))
	}
	if a := b.open(gone); a.StatusCode != 302 || goes(a) != old {
		t.Errorf("it leads to %q (%d); want the page, since nobody is asked yet", goes(a), a.StatusCode)
	}
	if a := b.open(secure + old); a.StatusCode != 200 {
		t.Errorf("the page = %d", a.StatusCode)
	}
	if a := clear().send(h.url+old, form("a", "b")); a.StatusCode != 400 {
		t.Errorf("a form sent to an old link without TLS = %d; want 400", a.StatusCode)
	}
	h.upgrade("acme")
	var sizes []int
	for _, link := range []string{old, "/one-click/nobodys-token-at-all/orders/7?tab=2", "/view?client=acme-secret-token-1", "/view?client=nothing"} {
		a := clear().open(h.url + link)
		if a.StatusCode != 302 || !strings.HasPrefix(goes(a), secure+"/-/go?x=") {
			t.Errorf("%s without TLS = %d to %q", link, a.StatusCode, goes(a))
		}
		sizes = append(sizes, len(goes(a)))
		if a := b.open(goes(a)); a.StatusCode != 401 || !strings.Contains(a.body, `name="email"`) {
			t.Errorf("%s leads to %d; want the prompt", link, a.StatusCode)
		}
	}
	if sizes[0] != sizes[1] || sizes[2] != sizes[3] || sizes[0] != sizes[2] {
		t.Errorf("the ways of real links and others have %v characters; want the same", sizes)
	}
	if a := clear().open(h.url+old, "X-Forwarded-Proto", "https"); a.StatusCode != 302 || !goneForm.MatchString(goes(a)) {
		t.Errorf("behind who ends TLS, and says so, an old link = %d to %q; want /-/go on this site", a.StatusCode, goes(a))
	}
	// A client that uses the TLS route but omits TLS doesn't make the gate assume that TLS ends
	// elsewhere.
	clear().open(strings.Replace(gone, secure, h.url, 1))
	if a := clear().open(h.url + old); !strings.HasPrefix(goes(a), secure) {
		t.Errorf("after that an old link without TLS leads to %q; want its way with TLS", goes(a))
	}
	text := log.text(t)
	for line := range strings.Lines(text) {
		if strings.Contains(line, "secret-token") {
			t.Errorf("a log line has the token: %s", line)
		}
	}
	if !strings.Contains(text, `"uri":"/one-click/{token}/*"`) {
		t.Error("the log doesn't tell of old links")
	}
}

// Behind a proxy that ends TLS without saying so, old links redirect once, not forever.
func TestOldLinksBehindAProxyThatEndsTLS(t *testing.T) {
	m := startMailServer(t)
	h := openHouse(t, layout{app: m.app(), firm: oldLinks, companies: oldCompanies, admin: freeAddress(t), url: "https://portal.example"})
	m.moveInto(h)
	b := h.browser()
	const old = "/one-click/acme-secret-token-1/x"
	path := old
	for i := range 4 {
		a := b.open(path)
		if a.StatusCode == 200 {
			break
		}
		if i == 3 {
			t.Fatalf("%s = %d to %q, after three ways round", path, a.StatusCode, goes(a))
		}
		path = strings.TrimPrefix(goes(a), "https://portal.example") // the load balancer sends it without TLS
	}
	if got, _ := h.portal.last(); got.URI != old {
		t.Errorf("the portal got %s; want %s", got.URI, old)
	}
	if a := h.browser().open(old); a.StatusCode != 200 {
		t.Errorf("from then on an old link = %d to %q; want the page at once", a.StatusCode, goes(a))
	}
}
