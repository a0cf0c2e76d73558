package web

import (
	"net/http"
	"strings"
)

// Reader is the kind of client that reads a response. The zero value gets the least information.
type Reader uint8

// The kinds of clients.
const (
	Program Reader = iota // a script, a WebSocket, a prefetch, a client without pages: it gets JSON
	Window                // a person who sees the response in a window
	Framed                // a person who sees the response in a frame of another page
)

// ReaderOf returns the kind of client from the headers of its request. It doesn't affect access,
// only the form of the response.
func ReaderOf(h http.Header) Reader {
	if h.Get("Upgrade") != "" || IsPrefetch(h) {
		return Program
	}
	person := 0
	mode := h.Get("Sec-Fetch-Mode")
	switch mode {
	case "":
	case "navigate":
		person += 2
	default:
		person -= 2
	}
	framed := false
	switch h.Get("Sec-Fetch-Dest") {
	case "":
	case "document":
		person += 2
	case "iframe", "frame", "embed", "object", "fencedframe":
		person, framed = person+2, true
	case "empty":
		if mode != "navigate" { // else a service worker passes it on
			person--
		}
	default: // an image, a script, a style sheet
		person -= 3
	}
	if h.Get("Upgrade-Insecure-Requests") == "1" {
		person += 3
	}
	if acceptsHTML(h) {
		person++
	} else {
		person -= 4
	}
	if by := h.Get("X-Requested-With"); by != "" && !strings.Contains(by, ".") { // no name of an app
		person -= 2
	}
	switch {
	case person <= 0:
		return Program
	case framed:
		return Framed
	}
	return Window
}

func acceptsHTML(h http.Header) bool {
	for _, accept := range h["Accept"] {
		for one := range strings.SplitSeq(accept, ",") {
			kind, params, _ := strings.Cut(one, ";")
			kind = strings.ToLower(strings.TrimSpace(kind))
			if kind == "text/html" || kind == "application/xhtml+xml" {
				q := strings.ReplaceAll(strings.ToLower(params), " ", "")
				return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
			}
		}
	}
	return false
}

// IsPrefetch reports whether a browser loads something before the visitor asks for it.
func IsPrefetch(h http.Header) bool {
	for _, name := range [...]string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		lines := h[name]
		if len(lines) == 0 {
			continue
		}
		v := strings.ToLower(strings.Join(lines, ","))
		if strings.Contains(v, "prefetch") || strings.Contains(v, "prerender") || strings.Contains(v, "preview") {
			return true
		}
	}
	return false
}

// IsPageLoad reports whether a person opened this URL in a window: a GET at top level. It is
// stricter than ReaderOf, because a page load may set cookies and, in the requesting browser, spend
// a link: a request that a service worker passes on isn't one.
func IsPageLoad(r *http.Request) bool {
	mode, dest := r.Header.Get("Sec-Fetch-Mode"), r.Header.Get("Sec-Fetch-Dest")
	navigates := mode == "navigate" || mode == "" && r.Header.Get("X-Requested-With") == "" // the preview of a mail app has its name there
	return r.Method == http.MethodGet && navigates && (dest == "" || dest == "document") && ReaderOf(r.Header) == Window
}

// OpensPage reports whether a person opens a page, or a client requests its headers (HEAD).
func OpensPage(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && ReaderOf(r.Header) == Window
}
