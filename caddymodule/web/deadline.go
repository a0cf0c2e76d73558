package web

import (
	"io"
	"net/http"
	"time"
)

const (
	// BodyTime is how long the body of a request to our own pages may take to arrive.
	BodyTime = 10 * time.Second
	// AnswerTime is how long an answer of ours may take to be read over HTTP/2 and later.
	AnswerTime = time.Minute
	// maxDrained and drainTime bound what Drain reads.
	maxDrained = 192 << 10
	drainTime  = 5 * time.Second
)

// LeaveBody closes the connection after an answer for which nobody reads the body:
// the server would first wait for it, even where the client waits for the answer. After the answer
// it reads what comes of the body all the same, so that has to come soon, too.
func LeaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(BodyTime))
	}
}

// EndSoon ends an answer of ours that nobody reads: over HTTP/2 and later, a client that takes
// nothing holds each of the many answers of a connection in memory, for as long as it likes. Over
// HTTP/1.1 it holds one, most of which lies with the system, and a deadline would be that of the
// connection's next answer, too, which may be the portal's.
func EndSoon(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor > 1 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(AnswerTime))
	}
}

// Drain goes on reading for a while after the answer was written: a browser that is still
// sending shows an answer only if the connection isn't reset under it. It reads no more than
// the server itself would, and nothing for a client that waits to be asked for the body.
func Drain(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Header.Get("Expect") != "" {
		return // HTTP/2 and later say so without a reset
	}
	c := http.NewResponseController(w)
	if c.Flush() != nil || c.SetReadDeadline(time.Now().Add(drainTime)) != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, r.Body, maxDrained)
}
