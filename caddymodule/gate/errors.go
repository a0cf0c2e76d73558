package gate

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// failure is an error with a page of its own, whose words are the visitor's.
type failure struct {
	status int
	page   web.MessagePage
}

func (f *failure) Error() string { return f.page.Title }

// What a page of ours can end in.
var (
	errNothing     = &failure{http.StatusNotFound, web.MessageFor(http.StatusNotFound)}
	errCrossOrigin = &failure{http.StatusForbidden, web.MessageFor(http.StatusForbidden)}
	errNotAForm    = &failure{http.StatusBadRequest, web.MessageFor(http.StatusBadRequest)}
	errTooLarge    = &failure{http.StatusRequestEntityTooLarge, web.MessageFor(http.StatusRequestEntityTooLarge)}
	errTooSlow     = &failure{http.StatusRequestTimeout, web.MessageFor(http.StatusBadRequest)}
	errMethod      = &failure{http.StatusMethodNotAllowed, web.MessageFor(http.StatusMethodNotAllowed)}
	errBusy        = &failure{http.StatusServiceUnavailable, web.MessagePage{Title: "Please try again in a minute",
		Text: "Many people are asking for a sign-in email right now. Please wait a minute, then try again."}}
	errHashing = &failure{http.StatusServiceUnavailable, web.MessagePage{Title: "Please try again in a moment",
		Text: "Many people are signing in with a password right now. Please wait a few seconds, go back, and try again. Or have us email you a link."}}
	// errMoved: a record was changed by others each time that it was to be written.
	errMoved = &failure{http.StatusServiceUnavailable, web.MessageFor(http.StatusServiceUnavailable)}
	// errOurs: what nobody expected, in which the store has no part.
	errOurs = &failure{http.StatusInternalServerError, web.MessageFor(http.StatusInternalServerError)}
	// errAway: the store can't say who it is, or what they may see.
	errAway = &failure{http.StatusServiceUnavailable, web.MessagePage{Title: "Please try again in a minute",
		Text: "We can’t check who is signed in right now. You aren’t signed out, and nothing is lost. Please wait a minute, then reload this page."}}
)

// fail makes status, page and log line of an error: the one place where that happens.
func (g *Gate) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		f = g.unexpected(r, err)
	}
	if f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "10")
		if f == errHashing {
			w.Header().Set("Retry-After", strconv.Itoa(int(password.RetryAfter/time.Second)))
		}
	}
	if web.ReaderOf(r.Header) == web.Program {
		web.EndSoon(w, r)
		_ = writeProblem(w, f.status, problem{Title: f.page.Title, Detail: f.page.Text})
		return
	}
	g.page(w, r, f.status, f.page)
}

// unexpected logs an error that has no page of its own, and returns the page. There isn't a line for
// each of the many who meet it.
func (g *Gate) unexpected(r *http.Request, err error) *failure {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return errAway // nobody is there any more to hear it
	}
	switch {
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, secret.ErrSealed), errors.Is(err, directory.ErrFormat): // away, or damaged
		g.away.Do(func() {
			g.Log.ErrorContext(r.Context(), "the gate can't serve", "error", err, "store", errors.Is(err, store.ErrUnavailable), "page", g.pageOf(r))
		})
		return errAway
	case errors.Is(err, store.ErrConflict):
		g.away.Do(func() {
			g.Log.ErrorContext(r.Context(), "a record was changed by others each time that it was to be written", "error", err, "page", g.pageOf(r))
		})
		return errMoved
	}
	g.broken.Do(func() {
		g.Log.ErrorContext(r.Context(), "an unexpected error kept the gate from serving", "error", err, "page", g.pageOf(r))
	})
	return errOurs
}

// Refuse answers a request that Caddy or the portal couldn't serve, where neither may say it itself:
// a person at a window gets a page, a program JSON. What may be logged of it is the caller's to log.
func (g *Gate) Refuse(w http.ResponseWriter, r *http.Request, status int) {
	g.fail(w, r, &failure{status, web.MessageFor(status)})
}

// pageOf is what a log may hold of a request's URL: which page of ours it is, and
// nothing of the portal's, nor of a link that was mangled on its way.
func (g *Gate) pageOf(r *http.Request) string {
	if name, ok := strings.CutPrefix(r.URL.Path, g.Prefix); ok {
		if _, ok := g.own[name]; ok {
			return name
		}
	}
	return ""
}

// refuse answers what no portal should see.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	web.LeaveBody(w, r)
	w.Header().Set("Connection", "close")
	web.EndSoon(w, r)
	_ = writeProblem(w, errMethod.status, problem{Title: errMethod.page.Title, Detail: errMethod.page.Text})
}

// problem is the body of an answer for programs (RFC 9457).
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	SignIn string `json:"sign_in_url,omitempty"`
}

func writeProblem(w http.ResponseWriter, status int, p problem) error {
	p.Status = status
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Cookie realm="portal"`) // RFC 9110, 15.5.2 wants a challenge
	}
	return writeJSON(w, status, "application/problem+json", p)
}

// ignoreGone drops the error of a write to a browser that has gone: the answer was
// given, and there is nobody to tell.
func ignoreGone(error) error { return nil }

// page shows one of our pages.
func (g *Gate) page(w http.ResponseWriter, r *http.Request, status int, page web.Page) {
	web.EndSoon(w, r)
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Cookie realm="portal"`)
	}
	if err := g.Pages.Write(w, status, page); err != nil {
		g.Log.ErrorContext(r.Context(), "a page couldn't be made", "firm", g.Firm, "error", err)
	}
}
