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

// Failure is an error with its own page for the visitor.
type Failure struct {
	Status     int
	Page       MessagePage
	RetryAfter time.Duration // when to try again; 0 means ten seconds if the status is 503
}

// Error implements error.
func (f *Failure) Error() string { return f.Page.Title.String() }

// Errors of requests for the gate's own pages.
var (
	ErrNotFound    = &Failure{Status: http.StatusNotFound, Page: MessageFor(http.StatusNotFound)}
	ErrCrossOrigin = &Failure{Status: http.StatusForbidden, Page: MessageFor(http.StatusForbidden)}
	ErrBadForm     = &Failure{Status: http.StatusBadRequest, Page: MessageFor(http.StatusBadRequest)}
	ErrTooLarge    = &Failure{Status: http.StatusRequestEntityTooLarge, Page: MessageFor(http.StatusRequestEntityTooLarge)}
	ErrTooSlow     = &Failure{Status: http.StatusRequestTimeout, Page: MessageFor(http.StatusBadRequest)}
	ErrMethod      = &Failure{Status: http.StatusMethodNotAllowed, Page: MessageFor(http.StatusMethodNotAllowed)}
	// ErrConflict means that other requests changed a record at each attempt to write it.
	ErrConflict = &Failure{Status: http.StatusServiceUnavailable, Page: MessageFor(http.StatusServiceUnavailable)}
	// ErrPasswordsBusy means that too many passwords are being hashed at the moment.
	ErrPasswordsBusy = &Failure{Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Second, Page: MessagePage{Title: "Please try again in a moment",
		Text: "Many people are signing in with a password right now. Please wait a few seconds, go back, and try again. Or have us email you a link."}}

	// errInternal is for unexpected errors other than the store's.
	errInternal = &Failure{Status: http.StatusInternalServerError, Page: MessageFor(http.StatusInternalServerError)}
	// errStore means that the store can't tell who the visitor is or what they may see.
	errStore = &Failure{Status: http.StatusServiceUnavailable, Page: MessagePage{Title: "Please try again in a minute",
		Text: "We can’t check who is signed in right now. You aren’t signed out, and nothing is lost. Please wait a minute, then reload this page."}}
)

// Answers writes the gate's own responses: pages, problem details for programs, and the page,
// status and log line for each error. Set its fields in one literal before use.
type Answers struct {
	Pages        *Pages
	Log          *slog.Logger
	Sites        *site.Sites
	Prefix       string  // of the gate's own pages, such as "/-"
	ClearStorage bool    // browsers clear script storage at sign-out and when another person signs in
	StoreErrors  []error // errors that mean, like store.ErrUnavailable, that records can't be read

	storeLine, internalLine sampledLine // log lines about the store and about all other errors
}

// sampledLine allows ten log lines, and then one per second. The zero value is ready to use.
type sampledLine struct {
	once sync.Once
	rate.Sometimes
}

func (l *sampledLine) log(write func()) {
	l.once.Do(func() { l.First, l.Interval = 10, time.Second })
	l.Do(write)
}

// Page answers with one of the gate's pages.
func (a *Answers) Page(w http.ResponseWriter, r *http.Request, status int, page Page) {
	EndSoon(w, r)
	if status == http.StatusUnauthorized {
		setChallenge(w.Header())
	}
	if err := a.Pages.Write(w, r, status, page); err != nil {
		a.Log.ErrorContext(r.Context(), "a page couldn't be made", "error", err)
	}
}

// setChallenge sets the challenge that RFC 9110, 15.5.2, requires for a 401.
func setChallenge(h http.Header) { h.Set("WWW-Authenticate", `Cookie realm="portal"`) }

// Fail answers with the status and page for an error, and logs it. All errors of handlers end here.
// Programs get JSON.
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

// FailProgram answers a failure with JSON.
func FailProgram(w http.ResponseWriter, r *http.Request, f *Failure) {
	EndSoon(w, r)
	_ = writeProblem(w, f.Status, problem{Title: f.Page.Title.String(), Detail: f.Page.Text.String()})
}

// unexpected logs an error without a page of its own, and returns the page. The log lines are
// sampled. They contain no URL, only the pattern of the gate's page (http.Request.Pattern, set by
// the gate).
func (a *Answers) unexpected(r *http.Request, err error) *Failure {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return errStore // the client has disconnected
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

// VarySignedOut sets the Vary header of answers to visitors who aren't signed in.
func VarySignedOut(w http.ResponseWriter) {
	w.Header().Set("Vary", "Cookie, Accept, Accept-Language, Sec-Fetch-Mode, Sec-Fetch-Dest, Upgrade-Insecure-Requests, X-Requested-With")
}

// ClearSite makes the browser delete its cached pages of this site, and script storage if the firm
// wants that. Use it when the person at the browser changes.
func (a *Answers) ClearSite(h http.Header) {
	kinds := `"cache"`
	if a.ClearStorage {
		kinds = `"cache", "storage"`
	}
	h.Set("Clear-Site-Data", kinds)
}

// SeeOwn redirects to a page of the gate, given by its path under the prefix. The error is always
// nil.
func (a *Answers) SeeOwn(w http.ResponseWriter, name string) error {
	return Redirect(w, a.Prefix+name, http.StatusSeeOther)
}

// Redirect redirects to a URL that is known to be safe. The error is always nil.
func Redirect(w http.ResponseWriter, to string, status int) error {
	h := w.Header()
	h.Set("Location", to)
	SetNeverCached(h)
	h.Set("Referrer-Policy", "strict-origin")
	w.WriteHeader(status)
	return nil
}

// problem is the body of a response to a program (RFC 9457).
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

// WriteJSON answers with v as JSON of the given media type. A disconnected client isn't an error.
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
