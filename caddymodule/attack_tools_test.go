package caddymodule_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// Helpers of the attack tests. Each attack test is named after its class and sends requests to a
// whole server; bytes that a client library would correct are written to a socket.

// host returns the house's host and port.
func (h *house) host() string { return strings.TrimPrefix(h.url, "http://") }

func (h *house) dial() net.Conn { h.t.Helper(); return h.dialTo(h.host()) }

func (h *house) dialTo(address string) net.Conn {
	h.t.Helper()
	conn, err := net.Dial("tcp", address)
	for range 3 { // during a reload Caddy may reset a connection that it has just accepted
		if err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
		conn, err = net.Dial("tcp", address)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return conn
}

// rawAnswer is an answer to bytes on a socket. Status 0 means no answer.
type rawAnswer struct {
	status int
	header http.Header
	body   string
}

// raw sends bytes unchanged and reads one answer.
func (h *house) raw(request string) rawAnswer { h.t.Helper(); return h.rawTo(h.host(), request) }

func (h *house) rawTo(address, request string) rawAnswer {
	h.t.Helper()
	a := h.rawOnce(address, request)
	if a.status == 0 && strings.HasPrefix(request, "GET ") { // as in dialTo; a GET may be repeated
		a = h.rawOnce(address, request)
	}
	return a
}

func (h *house) rawOnce(address, request string) rawAnswer {
	h.t.Helper()
	conn := h.dialTo(address)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	// A server that rejects a body may answer and close before all of it is written: only the
	// answer counts.
	io.WriteString(conn, request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return rawAnswer{}
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return rawAnswer{resp.StatusCode, resp.Header, string(body)}
}

// get sends a browser's GET with an unchanged request target and header lines.
func (h *house) get(target string, lines ...string) rawAnswer {
	h.t.Helper()
	return h.raw(h.message("GET", target, append(lines, "Accept: text/html")...))
}

// message returns a request of HTTP/1.1 that closes its connection.
func (h *house) message(method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: " + h.host() + "\r\nConnection: close\r\n" + strings.Join(append(lines, "\r\n"), "\r\n")
}

// count returns how many requests the portal has received.
func (p *portal) count() int {
	_, n := p.last()
	return n
}

// unseen fails the test if the portal received a request while do ran.
func (p *portal) unseen(t *testing.T, what string, do func()) {
	t.Helper()
	before := p.count()
	do()
	if got, n := p.last(); n != before {
		t.Errorf("%s: the portal saw %s %s; want nothing", what, got.Method, got.URI)
	}
}

// mailServer accepts all mails, at any rate, and puts them into the house's mail folder, where
// the house looks for them.
type mailServer struct {
	address string

	mu     sync.Mutex
	folder string
	to     []string
	mails  int           // begun
	held   chan struct{} // while not nil, replies wait until it closes
}

// startMailServer starts it; call moveInto once there is a house.
func startMailServer(t *testing.T) *mailServer {
	t.Helper()
	m := &mailServer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = l.Addr().String()
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &mailSession{m}, nil }))
	server.Domain, server.MaxRecipients = "localhost", 100
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return m
}

// app returns the setting of a house that sends its mail here.
func (m *mailServer) app() string {
	return fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t\trate 10000/s\n\t\t}", m.address)
}

func (m *mailServer) moveInto(h *house) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.folder = h.path("mail")
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		h.t.Fatal(err)
	}
}

// hold makes the server delay replies until release is called.
func (m *mailServer) hold() (release func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	held := make(chan struct{})
	m.held = held
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.held = nil
		close(held)
	}
}

// begun returns how many mails were begun.
func (m *mailServer) begun() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mails
}

// recipients returns the addresses of all RCPT TO so far.
func (m *mailServer) recipients() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.to)
}

type mailSession struct{ m *mailServer }

func (s *mailSession) wait() {
	s.m.mu.Lock()
	held := s.m.held
	s.m.mu.Unlock()
	if held != nil {
		<-held
	}
}

func (s *mailSession) Mail(string, *smtp.MailOptions) error {
	s.m.mu.Lock()
	s.m.mails++
	s.m.mu.Unlock()
	s.wait()
	return nil
}

func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.wait()
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.to = append(s.m.to, to)
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	name := filepath.Join(s.m.folder, fmt.Sprintf("%019d", time.Now().UnixNano()))
	if err := os.WriteFile(name, data, 0o600); err != nil {
		return err
	}
	return os.Rename(name, name+".eml")
}

func (*mailSession) Reset()        {}
func (*mailSession) Logout() error { return nil }

// openFastHouse is openHouse with a mail server that accepts all mails at once: by default,
// mails are sent at one a second, to the folder too.
func openFastHouse(t *testing.T, l layout) (*house, *mailServer) {
	t.Helper()
	m := startMailServer(t)
	l.app = m.app()
	h := openHouse(t, l)
	m.moveInto(h)
	return h, m
}

// secretOf returns the secret of a link.
func secretOf(link string) string {
	_, secret, _ := strings.Cut(link, "t=")
	return secret
}

// session returns the browser's session as a Cookie line for raw.
func (b *browser) session() string { return "Cookie: portal=" + b.cookie("portal") }

// in returns a browser in which the contact is signed in.
func (h *house) in(email string) *browser {
	h.t.Helper()
	b := h.browser()
	b.signIn(email)
	return b
}

// keyless are the headers of a client that isn't a browser: none about the request's origin.
var keyless = []string{"Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""}

// told returns everything in a header that an application could take for an identity.
func told(header http.Header) map[string]string {
	m := map[string]string{}
	for name, values := range header {
		folded := strings.Map(func(c rune) rune {
			if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
				return c
			}
			return '-'
		}, strings.ToLower(name))
		switch {
		case strings.HasPrefix(folded, "remote-"), strings.HasPrefix(folded, "portal-"), strings.HasPrefix(folded, "x-auth-request-"),
			slices.Contains(otherIdentityHeaders, folded):
			m[folded] = strings.TrimPrefix(m[folded]+"|"+strings.Join(values, "|"), "|")
		}
	}
	return m
}

// otherIdentityHeaders are identity headers that aren't ours and don't reach the portal either.
var otherIdentityHeaders = []string{"forwarded", "proxy", "x-forwarded-user", "x-forwarded-email", "x-forwarded-prefix", "x-forwarded-uri",
	"x-forwarded-method", "x-original-url", "x-rewrite-url"}

// identityNames are all names under which a visitor could claim an identity.
var identityNames = []string{"Remote-User", "Remote-Email", "Remote-Name", "Remote-Groups", "Portal-Company", "Portal-Role", "Portal-Firm",
	"Portal-Assertion", "Portal-Anything", "X-Auth-Request-User", "X-Auth-Request-Email", "X-Forwarded-User", "X-Forwarded-Email",
	"X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Method", "X-Original-Url", "X-Rewrite-Url", "Forwarded", "Proxy"}

// wantTold compares the portal's identity headers with the expected ones; if there are any,
// there must be an assertion.
func wantTold(t *testing.T, what string, header http.Header, want map[string]string) {
	t.Helper()
	got := told(header)
	jwt := got["portal-assertion"]
	delete(got, "portal-assertion")
	if (strings.Count(jwt, ".") == 2) != (len(want) > 0) || strings.Contains(jwt, "|") {
		t.Errorf("%s: the portal got Portal-Assertion: %q", what, jwt)
	}
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: the portal got %s: %q; want %q", what, name, got[name], want[name])
		}
	}
	for name, value := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: the portal got %s: %q; want no such header", what, name, value)
		}
	}
}

var (
	toldOfBob = map[string]string{"remote-user": "bob@example.com", "remote-email": "bob@example.com", "remote-name": "Bob Cole",
		"remote-groups": "acme", "portal-role": "client", "portal-firm": "example"}
	toldOfNameless = map[string]string{"remote-user": "nameless@example.com", "remote-email": "nameless@example.com",
		"portal-role": "client", "portal-firm": "example"}
)

// valueOf returns the value of a page's form field, unescaped.
func valueOf(body, field string) string {
	m := regexp.MustCompile(`name="` + field + `" value="([^"]*)"`).FindStringSubmatch(body)
	if m == nil {
		return ""
	}
	return unescape(m[1])
}

func unescape(s string) string {
	return strings.NewReplacer("&amp;", "&", "&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#39;", "'", "&#43;", "+").Replace(s)
}

// shape returns everything in an answer that could distinguish it from another, except new
// cookies' values and the time.
func (a answer) shape() string {
	var b bytes.Buffer
	header := a.Header.Clone()
	header.Del("Date")
	for i, line := range header["Set-Cookie"] {
		name, rest, _ := strings.Cut(line, "=")
		_, rest, _ = strings.Cut(rest, ";")
		header["Set-Cookie"][i] = name + "=;" + expiry.ReplaceAllString(rest, "")
	}
	fmt.Fprintf(&b, "%s\n", a.Status)
	header.Write(&b)
	fmt.Fprintf(&b, "\n%s", a.body)
	return b.String()
}

var expiry = regexp.MustCompile(` Expires=[^;]*;`)

// logFile is a log at the most verbose level: the access log, errors, and lines of Caddy's own
// handlers. global goes into the global options, site into a site block.
type logFile struct{ path, global, site string }

func newLogFile(t *testing.T) logFile {
	path := filepath.Join(t.TempDir(), "caddy.log")
	block := "log {\n\t\toutput file " + path + "\n\t\tformat json\n\t\tlevel DEBUG\n\t}\n"
	return logFile{path, "debug\n\t" + block, "log\n\t"}
}

func (l logFile) text(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// listener is a further portal that counts connections.
func listener(t *testing.T) (address string, connections func() int) {
	var mu sync.Mutex
	n := 0
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "portal") }))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			n++
			mu.Unlock()
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), func() int { mu.Lock(); defer mu.Unlock(); return n }
}

func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// in2 is in, for another prefix of our pages.
func (h *house) in2(email, prefix string) *browser {
	h.t.Helper()
	b := h.browser()
	b.send(prefix+"/sign-in", form("email", email))
	h.eventually("a mail to "+email, func() bool { return len(h.letters(email)) > 0 })
	link := regexp.MustCompile(`https?://\S+/link\?t=[a-z2-7]{26}`).FindString(h.letters(email)[0].text)
	if a := b.open(link); a.StatusCode != http.StatusSeeOther {
		h.t.Fatalf("GET %s = %d; want 303", link, a.StatusCode)
	}
	return b
}
