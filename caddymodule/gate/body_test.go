package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// timed is a connection that records its read and write deadlines.
type timed struct {
	*httptest.ResponseRecorder
	until, read time.Time
}

func (w *timed) SetReadDeadline(t time.Time) error  { w.until = t; return nil }
func (w *timed) SetWriteDeadline(t time.Time) error { w.read = t; return nil }

// D14: after a response that needs no body, the server still reads the body before it closes the
// connection. A client that never sends it doesn't keep the connection open.
func TestABodyThatNobodyReadsHoldsNoConnection(t *testing.T) {
	g, _, _ := benchGate(t)
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		method, path, contentType string
		length                    int64
		status                    int
	}{
		{"POST", "/-/nothing", form, 1000, 404},
		{"POST", "/-/me", form, 1000, 405},
		{"GET", "/-/me", form, 1000, 401},
		{"POST", "/-/me", form, -1, 405},
		{"PUT", "/-/sign-in", form, 1000, 405},
		{"POST", "/-/sign-in", "text/plain", 1000, 400},
		{"POST", "/-/sign-in", form, 1 << 30, 413},
		{"POST", "/orders/7", "application/json", 1000, 401},
		{"PUT", "/orders/7", form, 1000, 401},
		{"TRACE", "/orders/7", form, 1000, 405},
	} {
		r := httptest.NewRequest(c.method, "https://portal.example"+c.path, strings.NewReader("never sent"))
		r.ContentLength = c.length
		r.Header.Set("Content-Type", c.contentType)
		w := &timed{ResponseRecorder: httptest.NewRecorder()}
		g.ServeHTTP(w, r, http.NotFoundHandler())
		if w.Code != c.status || w.Header().Get("Connection") != "close" || w.until.IsZero() || time.Until(w.until) > web.BodyTime {
			t.Errorf("%s %s = %d, Connection %q, and the body is waited for until %v; want %d, and for %v at most", c.method, c.path, w.Code, w.Header().Get("Connection"), w.until, c.status, web.BodyTime)
		}
	}
}

// D14: over HTTP/2 a connection may have many responses that the client doesn't read. The gate's
// responses have a deadline. The portal's don't, because they may be streams; nor do those of
// HTTP/1.1, where the deadline would also apply to the portal's next response.
func TestAnAnswerOverHTTP2ThatNobodyReadsEnds(t *testing.T) {
	g, cookie, _ := benchGate(t)
	portals := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	page := []string{"Accept", "text/html", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "same-origin"}
	form := append([]string{"Content-Type", "application/x-www-form-urlencoded", "Origin", "https://portal.example"}, page...)
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
	}{
		{"GET", "/-/sign-in", "", page, 200},
		{"GET", "/-/nothing", "", page, 404},
		{"GET", "/-/me", "", nil, 401},
		{"GET", "/-/jwks.json", "", nil, 200},
		{"GET", "/orders/7", "", nil, 401},
		{"GET", "/orders/7", "", page, 401},
		{"GET", "/worker.js", "", []string{"Service-Worker", "script"}, 200},
		{"POST", "/orders/7", "note=hello", form, 401},
		{"POST", "/-/sign-in", "email=nobody", form, 400},
		{"TRACE", "/orders/7", "", nil, 405},
		{"GET", "/orders/7", "", []string{"Cookie", "__Host-portal=" + cookie}, 202},
		{"GET", "/assets/portal.css", "", nil, 202},
	} {
		for _, major := range []int{1, 2, 3} {
			r := httptest.NewRequest(c.method, "https://portal.example"+c.path, strings.NewReader(c.body))
			r.ProtoMajor = major
			for i := 0; i < len(c.header); i += 2 {
				r.Header.Set(c.header[i], c.header[i+1])
			}
			w := &timed{ResponseRecorder: httptest.NewRecorder()}
			g.ServeHTTP(w, r, portals)
			want := major > 1 && c.status != http.StatusAccepted
			if ends := !w.read.IsZero() && time.Until(w.read) <= web.AnswerTime; w.Code != c.status || ends != want {
				t.Errorf("HTTP/%d: %s %s = %d, to be read until %v; want %d, and that it ends within %v: %v", major, c.method, c.path, w.Code, w.read, c.status, web.AnswerTime, want)
			}
		}
	}
}
