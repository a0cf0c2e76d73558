package web

import (
	"io"
	"net/http"
	"time"
)

const (
	// BodyTime limits how long the body of a request to the gate's own pages may take to arrive.
	BodyTime = 10 * time.Second
	// AnswerTime limits how long a client may take to read a response of the gate over HTTP/2 and
	// later.
	AnswerTime = time.Minute
	// maxDrained and drainTime limit Drain.
	maxDrained = 192 << 10
	drainTime  = 5 * time.Second
)

// LeaveBody closes the connection after a response to a request whose body isn't read. Otherwise
// the server would first wait for the body, even if the client waits for the response. The server
// still reads the rest of the body after the response, so the body gets a deadline too.
func LeaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(BodyTime))
	}
}

// EndSoon sets a deadline for a response of the gate that a client doesn't read. Over HTTP/2 and
// later, such a client could keep many responses per connection in memory for any time. Over
// HTTP/1.1 there is only one, most of which the operating system buffers, and a deadline would also
// apply to the connection's next response, which may be the portal's.
func EndSoon(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor > 1 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(AnswerTime))
	}
}

// Drain continues to read the body for a while after the response was written: a browser that is
// still sending shows the response only if the connection isn't reset. It reads no more than the
// server itself would, and nothing from a client that waits for "100 Continue".
func Drain(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Header.Get("Expect") != "" {
		return // HTTP/2 and later can answer early without a reset
	}
	c := http.NewResponseController(w)
	if c.Flush() != nil || c.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, maxDrained)
}
