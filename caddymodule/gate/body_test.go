package gate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// timed is a connection that notes until when what the client sends is waited for.
type timed struct {
	*httptest.ResponseRecorder
	until time.Time
}

func (w *timed) SetReadDeadline(t time.Time) error { w.until = t; return nil }

// D14: after an answer that needs no body, the server reads it all the same before it closes the
// connection. A client that never sends it holds none.
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
		if w.Code != c.status || w.Header().Get("Connection") != "close" || w.until.IsZero() || time.Until(w.until) > bodyTime {
			t.Errorf("%s %s = %d, Connection %q, and the body is waited for until %v; want %d, and for %v at most", c.method, c.path, w.Code, w.Header().Get("Connection"), w.until, c.status, bodyTime)
		}
	}
}
