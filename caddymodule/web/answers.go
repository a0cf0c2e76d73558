package web

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Failure is an error with a page of its own, whose words are the visitor's.
type Failure struct {
	Status     int
	Page       MessagePage
	RetryAfter time.Duration // when to try again; 0: after ten seconds, where the status is 503
}

// Error implements error.
func (f *Failure) Error() string { return f.Page.Title }

// How a request for a page of ours can fail.
var (
	ErrNotFound    = &Failure{Status: http.StatusNotFound, Page: MessageFor(http.StatusNotFound)}
	ErrCrossOrigin = &Failure{Status: http.StatusForbidden, Page: MessageFor(http.StatusForbidden)}
	ErrBadForm     = &Failure{Status: http.StatusBadRequest, Page: MessageFor(http.StatusBadRequest)}
	ErrTooLarge    = &Failure{Status: http.StatusRequestEntityTooLarge, Page: MessageFor(http.StatusRequestEntityTooLarge)}
	ErrTooSlow     = &Failure{Status: http.StatusRequestTimeout, Page: MessageFor(http.StatusBadRequest)}
	ErrMethod      = &Failure{Status: http.StatusMethodNotAllowed, Page: MessageFor(http.StatusMethodNotAllowed)}
	// ErrConflict: a record was changed by others each time that it was to be written.
	ErrConflict = &Failure{Status: http.StatusServiceUnavailable, Page: MessageFor(http.StatusServiceUnavailable)}
	// ErrPasswordsBusy: so many passwords are being hashed that no more are taken.
	ErrPasswordsBusy = &Failure{Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Second, Page: MessagePage{Title: "Please try again in a moment",
		Text: "Many people are signing in with a password right now. Please wait a few seconds, go back, and try again. Or have us email you a link."}}

	// errInternal: something that nobody expected, in which the store has no part.
	errInternal = &Failure{Status: http.StatusInternalServerError, Page: MessageFor(http.StatusInternalServerError)}
	// errStore: the store can't say who it is, or what they may see.
	errStore = &Failure{Status: http.StatusServiceUnavailable, Page: MessagePage{Title: "Please try again in a minute",
		Text: "We can’t check who is signed in right now. You aren’t signed out, and nothing is lost. Please wait a minute, then reload this page."}}
)

// Answers writes the answers that a firm's gate gives itself: pages, problems for programs, and
// the one translation of errors into status, page and log line. Set its fields in one literal.
type Answers struct {
	Pages        *Pages
	Log          *slog.Logger
	Sites        *site.Sites
	Prefix       string  // of our own pages, such as "/-"
	ClearStorage bool    // browsers clear what scripts have stored, at sign-out and at a change of person
	StoreErrors  []error // errors that say, as store.ErrUnavailable does, that records can't be read

	storeLine, internalLine sampledLine // log lines on a store that keeps the gate from serving, and on any other error
}

// sampledLine lets ten log lines through, and then one a second. The zero value is ready.
type sampledLine struct {
	once sync.Once
	rate.Sometimes
}

func (l *sampledLine) log(write func()) {
	l.once.Do(func() { l.First, l.Interval = 10, time.Second })
	l.Do(write)
}

// Page shows one of our pages.
func (a *Answers) Page(w http.ResponseWriter, r *http.Request, status int, page Page) {
	EndSoon(w, r)
	if status == http.StatusUnauthorized {
		setChallenge(w.Header())
	}
	if err := a.Pages.Write(w, status, page); err != nil {
		a.Log.ErrorContext(r.Context(), "a page couldn't be made", "error", err)
	}
}

// setChallenge sets the challenge that RFC 9110, 15.5.2, wants of a 401.
func setChallenge(h http.Header) { h.Set("WWW-Authenticate", `Cookie realm="portal"`) }

// Fail makes status, page and log line of an error: the one place where that happens. A program
// gets JSON.
func (a *Answers) Fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *Failure
	if !errors.As(err, &f) {
		f = a.unexpected(r, err)
	}
	if f.Status == http.StatusServiceUnavailable {
		retry := 10 * time.Second
		if f.RetryAfter > 0 {
			retry = f.RetryAfter
		}
		w.Header().Set("Retry-After", strconv.Itoa(int(retry/time.Second)))
	}
	if ReaderOf(r.Header) == Program {
		FailProgram(w, r, f)
		return
	}
	a.Page(w, r, f.Status, f.Page)
}

// FailProgram answers a failure with JSON, whoever reads it.
func FailProgram(w http.ResponseWriter, r *http.Request, f *Failure) {
	EndSoon(w, r)
	_ = writeProblem(w, f.Status, problem{Title: f.Page.Title, Detail: f.Page.Text})
}

// unexpected logs an error that has no page of its own, and returns the page. Not every visitor
// who meets the error adds a line to the log, and the line has nothing of a URL but which page
// of ours it is (http.Request.Pattern, set by the gate).
func (a *Answers) unexpected(r *http.Request, err error) *Failure {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return errStore // the client is gone
	}
	unreadable := func(is error) bool { return errors.Is(err, is) }
	switch {
	case errors.Is(err, store.ErrUnavailable), slices.ContainsFunc(a.StoreErrors, unreadable):
		a.storeLine.log(func() {
			a.Log.ErrorContext(r.Context(), "the gate can't serve", "error", err, "store", errors.Is(err, store.ErrUnavailable), "page", r.Pattern)
		})
		return errStore
	case errors.Is(err, store.ErrConflict):
		a.storeLine.log(func() {
			a.Log.ErrorContext(r.Context(), "a record was changed by others each time that it was to be written", "error", err, "page", r.Pattern)
		})
		return ErrConflict
	}
	a.internalLine.log(func() {
		a.Log.ErrorContext(r.Context(), "an unexpected error kept the gate from serving", "error", err, "page", r.Pattern)
	})
	return errInternal
}

// SignInNeeded answers a request without a session from a client that can't show a page.
func (a *Answers) SignInNeeded(w http.ResponseWriter, r *http.Request) {
	VarySignedOut(w)
	EndSoon(w, r)
	_ = writeProblem(w, http.StatusUnauthorized, problem{
		Title:  "Sign-in needed",
		Detail: "Open sign_in_url in a browser to sign in, then repeat the request.",
		SignIn: a.Sites.Of(r).JoinPath(a.Prefix, "sign-in").String(),
	})
}

// VarySignedOut says what the answer to a visitor who isn't signed in depends on.
func VarySignedOut(w http.ResponseWriter) {
	w.Header().Set("Vary", "Cookie, Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Upgrade-Insecure-Requests, X-Requested-With")
}

// ClearSite has the browser forget the pages that it has kept of this site, as the person at it
// changes, and what the portal's scripts have stored, where the firm wants that.
func (a *Answers) ClearSite(h http.Header) {
	kinds := `"cache"`
	if a.ClearStorage {
		kinds = `"cache", "storage"`
	}
	h.Set("Clear-Site-Data", kinds)
}

// SeeOwn sends the browser to a page of ours, by its path under the prefix. The error is nil.
func (a *Answers) SeeOwn(w http.ResponseWriter, name string) error {
	return Redirect(w, a.Prefix+name, http.StatusSeeOther)
}

// Redirect sends the browser to a URL that is known to be safe. The error is nil.
func Redirect(w http.ResponseWriter, to string, status int) error {
	h := w.Header()
	h.Set("Location", to)
	SetNeverCached(h)
	h.Set("Referrer-Policy", "strict-origin")
	w.WriteHeader(status)
	return nil
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
		setChallenge(w.Header())
	}
	return WriteJSON(w, status, "application/problem+json", p)
}

// WriteJSON answers with v as JSON, under that media type. That the client is gone is no error.
func WriteJSON(w http.ResponseWriter, status int, kind string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", kind)
	SetNeverCached(h)
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b)
	return nil
}
