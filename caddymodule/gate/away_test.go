package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// moody is a store that can be unavailable or full.
type moody struct {
	store.Store
	away, full atomic.Bool
}

func (m *moody) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if m.away.Load() {
		return store.Record{}, fmt.Errorf("reading: %w", store.ErrUnavailable)
	}
	return m.Store.Get(ctx, k)
}

func (m *moody) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if m.away.Load() {
		return nil, fmt.Errorf("scanning: %w", store.ErrUnavailable)
	}
	return m.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

func (m *moody) Apply(ctx context.Context, ops ...store.Op) error {
	if m.away.Load() || m.full.Load() {
		return fmt.Errorf("writing: %w", store.ErrUnavailable)
	}
	return m.Store.Apply(ctx, ops...)
}

// awayHouse is a gate on such a store, with a contact who is signed in and has an active link in
// the requesting browser.
type awayHouse struct {
	*madeGate
	t       testing.TB
	store   *moody
	log     *bytes.Buffer
	session string // a Cookie line
	flow    string // a Cookie line
	token   string
	code    string
	portal  int // requests that it received
}

func openAwayHouse(t testing.TB) *awayHouse {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h := &awayHouse{t: t, store: &moody{Store: db}, log: new(bytes.Buffer)}
	log := slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h.madeGate = makeGate(t, h.store, log, "/public/*")
	ctx := t.Context()
	first, last, companies := "Ann", "Baker", []string{}
	c, err := h.Directory.AddContact(ctx, "ann@example.com", directory.Change{FirstName: &first, LastName: &last, Companies: &companies})
	if err != nil {
		t.Fatal(err)
	}
	begun, err := h.Sessions.Begin(ctx, session.Session{Contact: c.ID, Method: "link"}, nil)
	if err == nil {
		err = h.store.Apply(ctx, begun.Ops...)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.session = "__Host-portal=" + begun.Cookie
	cookie := secret.Random()
	browser := token.BrowserOf(cookie)
	h.flow = "__Host-portal-flow=" + cookie
	ask := token.MailRequest{ID: "1", Address: "ann@example.com", To: "/orders", Browser: browser, At: time.Now()}
	if err := h.Tokens.Request(ctx, ask); err != nil {
		t.Fatal(err)
	}
	issued, err := h.Tokens.Issue(ctx, ask, token.Recipient{Contact: c.ID, Address: "ann@example.com"})
	if err == nil {
		err = h.store.Apply(ctx, issued.Ops...)
	}
	if err != nil {
		t.Fatal(err)
	}
	handed, err := h.Tokens.HandOver(ctx, issued.ID, time.Now(), true)
	if err == nil {
		err = h.store.Apply(ctx, handed...)
	}
	if err != nil {
		t.Fatal(err)
	}
	h.token, h.code = issued.Token, issued.Code
	return h
}

// do sends a browser's request, a POST if there is a form.
func (h *awayHouse) do(target, form, cookie string) *http.Response {
	h.t.Helper()
	method, body := http.MethodGet, http.NoBody
	r := httptest.NewRequest(method, "https://portal.example"+target, body)
	if form != "" {
		r = httptest.NewRequest(http.MethodPost, "https://portal.example"+target, strings.NewReader(form))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.portal++
		fmt.Fprint(w, "portal for ", r.Header.Get("Remote-User"))
	}))
	return rec.Result()
}

// wantAway checks the responses while the store is unavailable.
func (h *awayHouse) wantAway(what string, resp *http.Response) {
	h.t.Helper()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || len(resp.Header["Set-Cookie"]) != 0 {
		h.t.Errorf("%s = %d, Retry-After %q, Set-Cookie %q; want 503, some seconds, and the cookies as they are", what,
			resp.StatusCode, resp.Header.Get("Retry-After"), resp.Header["Set-Cookie"])
	}
}

// K02, K12: nobody gets access, nobody is reported as signed out, and requests that need no store
// work. Afterwards everything is as before.
func TestK02_WhileTheStoreIsAway(t *testing.T) {
	h := openAwayHouse(t)
	const email = "email=ann%40example.com"
	needs := []struct{ what, target, form, cookie string }{
		{"the portal", "/orders", "", h.session},
		{"the portal, with a cookie of nobody", "/orders", "", "__Host-portal=" + strings.Repeat("x", 43)},
		{"the portal, a form", "/orders", "a=b", h.session},
		{"the prompt", "/-/sign-in", "", h.session},
		{"asking", "/-/sign-in", email, ""},
		{"asking again", "/-/sign-in", email, h.flow},
		{"a link's button", "/-/sign-in", "t=" + h.token, h.flow},
		{"the sent page", "/-/sent", "", h.flow},
		{"a code", "/-/code", "code=" + h.code, h.flow},
		{"a wrong code", "/-/code", "code=0000-0000", h.flow},
		{"a link", "/-/link?t=" + h.token, "", h.flow},
		{"a link elsewhere", "/-/link?t=" + h.token, "", ""},
		{"a link's form", "/-/link", "t=" + h.token + "&" + email, ""},
		{"a link's form, wrong", "/-/link", "t=" + h.token + "&email=x%40example.com", ""},
		{"a link of nobody", "/-/link?t=" + strings.Repeat("x", 43), "", ""},
		{"the sign-out page", "/-/sign-out", "", h.session},
		{"signing out", "/-/sign-out", "a=b", h.session},
		{"me", "/-/me", "", h.session},
		{"health", "/-/health", "", ""},
	}
	h.store.away.Store(true)
	for _, c := range needs {
		h.wantAway(c.what, h.do(c.target, c.form, c.cookie))
	}
	if h.portal != 0 {
		t.Errorf("the portal saw %d requests; want none", h.portal)
	}
	if strings.Contains(h.log.String(), h.token) || strings.Contains(h.log.String(), h.code) || strings.Contains(h.log.String(), "ann@") || !strings.Contains(h.log.String(), "the gate can't serve") {
		t.Errorf("the log: %s", h.log)
	}
	for _, c := range []struct {
		what, target, cookie string
		status               int
	}{
		{"an open path", "/public/x", "", 200}, {"an open path, signed in", "/public/x", h.session, 200}, {"the portal, without a cookie", "/orders", "", 401},
		{"the prompt, without a cookie", "/-/sign-in", "", 200}, {"nothing", "/-/nothing", "", 404}, {"the sent page of a browser without cookies", "/-/sent", "", 200},
	} {
		if resp := h.do(c.target, "", c.cookie); resp.StatusCode != c.status || len(resp.Header["Set-Cookie"]) != 0 {
			t.Errorf("%s = %d, Set-Cookie %q; want %d", c.what, resp.StatusCode, resp.Header["Set-Cookie"], c.status)
		}
	}
	h.store.away.Store(false)
	if resp := h.do("/orders", "", h.session); resp.StatusCode != 200 {
		t.Errorf("the portal, when it is back = %d; want 200", resp.StatusCode)
	}
	// A recent visitor is cached and isn't affected at all.
	h.store.away.Store(true)
	if resp := h.do("/orders", "", h.session); resp.StatusCode != 200 {
		t.Errorf("the portal, for who was here a moment ago = %d; want 200", resp.StatusCode)
	}
	// A cookie that can't be read beside one of an ended session: neither is deleted.
	h.wantAway("two cookies", h.do("/orders", "", "__Host-portal="+strings.Repeat("y", 43)+"; __Host-portal="+strings.Repeat("z", 43)))
	h.store.away.Store(false)
	if resp := h.do("/-/link?t="+h.token, "", h.flow); resp.StatusCode != 303 || resp.Header.Get("Location") != "/orders" {
		t.Errorf("the link, when it is back = %d to %q; want 303 to /orders", resp.StatusCode, resp.Header.Get("Location"))
	}
}

func TestK12_WhileTheDiskIsFull(t *testing.T) {
	h := openAwayHouse(t)
	const email = "email=ann%40example.com"
	h.store.full.Store(true)
	for _, c := range []struct{ what, target, form, cookie string }{
		{"asking", "/-/sign-in", email, ""},
		{"a code", "/-/code", "code=" + h.code, h.flow},
		{"a link", "/-/link?t=" + h.token, "", h.flow},
		{"a link's form", "/-/link", "t=" + h.token + "&" + email, ""},
		{"signing out", "/-/sign-out", "a=b", h.session},
	} {
		h.wantAway(c.what, h.do(c.target, c.form, c.cookie))
	}
	h.store.full.Store(false)
	if resp := h.do("/orders", "", h.session); resp.StatusCode != 200 { // creates the signing key
		t.Errorf("the portal = %d; want 200", resp.StatusCode)
	}
	h.store.full.Store(true)
	for _, c := range []struct{ what, target, cookie string }{{"the portal", "/orders", h.session}, {"me", "/-/me", h.session}, {"the sent page", "/-/sent", h.flow}, {"a link elsewhere", "/-/link?t=" + h.token, ""}} {
		if resp := h.do(c.target, "", c.cookie); resp.StatusCode != 200 {
			t.Errorf("%s, while nothing can be written = %d; want 200", c.what, resp.StatusCode)
		}
	}
	h.store.full.Store(false)
	if resp := h.do("/-/code", "code="+h.code, h.flow); resp.StatusCode != 303 || resp.Header.Get("Location") != "/orders" {
		t.Errorf("the code, when there is room = %d to %q; want 303 to /orders", resp.StatusCode, resp.Header.Get("Location"))
	}
}

// D14: a form that arrives very slowly is refused after ten seconds. The test uses the server of
// real requests with its own connection and clock.
func TestD14_FormsThatDrip(t *testing.T) {
	heads := map[string]string{
		"a form of ours": "POST /-/sign-in HTTP/1.1\r\nHost: portal.example\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nemail=",
		"in chunks":      "POST /-/code HTTP/1.1\r\nHost: portal.example\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ncode=\r\n",
		"a held form":    "POST /x HTTP/1.1\r\nHost: portal.example\r\nAccept: text/html\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\na=",
	}
	for name, head := range heads {
		synctest.Test(t, func(t *testing.T) {
			h := openAwayHouse(t)
			l := &oneConn{conns: make(chan net.Conn, 1)}
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				h.ServeHTTP(w, r, http.NotFoundHandler())
			})}
			var running sync.WaitGroup
			running.Go(func() { server.Serve(l) })
			ours, theirs := net.Pipe()
			l.conns <- theirs
			began := time.Now()
			running.Go(func() {
				io.WriteString(ours, head)
				for range 60 {
					drop := "x"
					if name == "in chunks" {
						drop = "1\r\nx\r\n"
					}
					if _, err := io.WriteString(ours, drop); err != nil {
						return
					}
					time.Sleep(500 * time.Millisecond)
				}
			})
			resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
			if err != nil {
				t.Fatalf("%s that drips, after %v: %v", name, time.Since(began), err)
			}
			if took := time.Since(began); took != web.BodyTime || resp.StatusCode != 408 && resp.StatusCode != 401 {
				t.Errorf("%s that drips = %d after %v; want it given up after %v", name, resp.StatusCode, took, web.BodyTime)
			}
			ours.Close()
			server.Close()
			running.Wait()
		})
	}
}

// oneConn is a listener that returns one existing connection.
type oneConn struct {
	conns chan net.Conn
	once  sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.conns) })
	return nil
}

func (*oneConn) Addr() net.Addr { return &net.TCPAddr{} }
