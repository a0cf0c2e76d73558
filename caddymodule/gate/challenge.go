package gate

import (
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Answer is how a request is told that it needs a sign-in.
type Answer uint8

// The answers to a request of a visitor who isn't signed in.
const (
	Bare          Answer = iota // a 401 without a page, for programs
	Prompt                      // the prompt, at the very URL that was asked for
	Frame                       // a page in a frame: one link that opens the whole window
	Held                        // a form that was being sent: it is kept for its sender
	NotSent                     // a page: nothing was sent, and how to send it again
	NotSentFramed               // the same in a frame
)

// answerFor returns how the request is told that it needs a sign-in.
func (g *Gate) answerFor(r *http.Request) Answer {
	reader := web.ReaderOf(r.Header)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		switch reader {
		case web.Window:
			return Prompt
		case web.Framed:
			return Frame
		}
	case http.MethodPost: // no window sends anything by another method
		switch {
		case reader == web.Framed:
			return NotSentFramed
		case reader == web.Window && urlencoded(r.Header) && g.fromOurPages(r) && r.ContentLength >= 0 && r.ContentLength <= maxHeld:
			return Held
		case reader == web.Window:
			return NotSent
		}
	}
	return Bare
}
