package web

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	maxForm   = 16 << 10 // bytes of one of the gate's forms
	maxFields = 16
)

// IsForm reports whether a request's body is a URL-encoded form.
func IsForm(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded")
}

// ReadForm reads one of the gate's forms: URL-encoded, small, without repeated fields. Errors are
// *Failure.
func ReadForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if !IsForm(r.Header) {
		return nil, ErrBadForm
	}
	body, err := ReadBody(w, r, maxForm)
	if err != nil {
		return nil, err
	}
	if strings.Count(body, "&") >= maxFields {
		return nil, ErrBadForm
	}
	form, err := url.ParseQuery(body)
	if err != nil {
		return nil, ErrBadForm
	}
	for name, values := range form {
		// PHP and similar portals read "email[]" as a second "email".
		if len(values) > 1 || strings.ContainsAny(name, "[]") || strings.Contains(values[0], "\x00") {
			return nil, ErrBadForm
		}
	}
	return form, nil
}

// ReadBody reads a body of at most limit bytes, which must arrive within BodyTime, so that clients
// without a session can't occupy connections. Errors are *Failure.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) (string, error) {
	if r.ContentLength > limit {
		return "", ErrTooLarge // the client isn't asked to send it
	}
	// Some connections don't support deadlines; the server's own then apply.
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(BodyTime))
	defer func() { _ = deadline.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return "", ErrTooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "", ErrTooSlow
	case err != nil:
		return "", ErrBadForm
	}
	w.Header().Del("Connection") // see LeaveBody
	return string(body), nil
}

// OnlyValue returns the only value, or "" if there are none or several.
func OnlyValue(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}
