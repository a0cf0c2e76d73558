package web

import (
	"context"
	"net/http"
)

type localeKey struct{}

// WithLocale returns the request with a place where SetLocale puts the locale of its reader.
func WithLocale(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), localeKey{}, new(string)))
}

// SetLocale sets the locale (BCP 47) of the contact who reads the answer to a request, if the request
// has a place for it. It is for the goroutine that serves the request.
func SetLocale(ctx context.Context, locale string) {
	if at, ok := ctx.Value(localeKey{}).(*string); ok {
		*at = locale
	}
}

// localeOf returns the locale that was set; "": none.
func localeOf(ctx context.Context) string {
	if at, ok := ctx.Value(localeKey{}).(*string); ok {
		return *at
	}
	return ""
}
