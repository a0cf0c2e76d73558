package gate

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const acceptHTML = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

func headerOf(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Set(pairs[i], pairs[i+1])
	}
	return h
}

func TestReaderOf(t *testing.T) {
	navigation := []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Upgrade-Insecure-Requests", "1"}
	with := func(pairs ...string) []string { return append(append([]string{}, navigation...), pairs...) }
	for _, c := range []struct {
		name    string
		headers []string
		want    web.Reader
	}{
		{"a page load", navigation, web.Window},
		{"a page load of a browser without Sec-Fetch", []string{"Accept", acceptHTML, "Upgrade-Insecure-Requests", "1"}, web.Window},
		{"a page load of a browser without either", []string{"Accept", acceptHTML}, web.Window},
		{"a page load in a frame", with("Sec-Fetch-Dest", "iframe"), web.Framed},
		{"a page load that a service worker passes on", with("Sec-Fetch-Dest", "empty"), web.Window},
		{"… of a browser without Upgrade-Insecure-Requests", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty"}, web.Window},
		{"… that a service worker passes on with options", with("Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "same-origin"), web.Window},
		{"a page load in an app on Android", with("X-Requested-With", "com.google.android.gm"), web.Window},
		{"a prefetch", with("Sec-Purpose", "prefetch;prerender"), web.Program},
		{"a preview", with("X-Purpose", "preview"), web.Program},

		{"curl", []string{"Accept", "*/*"}, web.Program},
		{"nothing accepted", nil, web.Program},
		{"HTML refused", []string{"Accept", "text/html;q=0,application/json"}, web.Program},
		{"a client of an API that copies Sec-Fetch", []string{"Accept", "application/json", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, web.Program},
		{"fetch", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, web.Program},
		{"fetch that accepts HTML", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, web.Program},
		{"fetch that accepts HTML, of this origin", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "empty"}, web.Program},
		{"XHR of a browser without Sec-Fetch", []string{"Accept", acceptHTML, "X-Requested-With", "XMLHttpRequest"}, web.Program},
		{"a script in an app on Android", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "X-Requested-With", "com.google.android.gm"}, web.Program},
		{"an image", []string{"Accept", "image/avif,*/*", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, web.Program},
		{"an image, HTML accepted", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, web.Program},
		{"a worker's script", []string{"Accept", "*/*", "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "serviceworker", "Service-Worker", "script"}, web.Program},
		{"a WebSocket", with("Upgrade", "websocket"), web.Program},
		{"a page load with another wish", with("Upgrade", "h2c"), web.Program},
	} {
		if got := web.ReaderOf(headerOf(c.headers...)); got != c.want {
			t.Errorf("readerOf(%s) = %d; want %d", c.name, got, c.want)
		}
	}
}

// Whatever becomes of one header on the way, of those that service workers, extensions and
// privacy proxies change, a person's page load stays one, and a script's request as well.
func TestReaderOf_NoSingleHeaderDecides(t *testing.T) {
	changes := map[string][]string{
		"Sec-Fetch-Mode":            {"", "navigate", "same-origin", "cors", "no-cors"},
		"Sec-Fetch-Dest":            {"", "document", "empty"},
		"Accept":                    {"", "*/*", acceptHTML, "application/json"},
		"Upgrade-Insecure-Requests": {"", "1"},
		"X-Requested-With":          {"", "com.example.app"},
		"Sec-Fetch-User":            {"", "?1"},
		"Sec-Fetch-Site":            {"", "none", "same-origin", "cross-site"},
	}
	for _, c := range []struct {
		name    string
		headers []string
		want    web.Reader
	}{
		{"a page load", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "none", "Sec-Fetch-User", "?1", "Upgrade-Insecure-Requests", "1"}, web.Window},
		{"a form", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "same-origin", "Upgrade-Insecure-Requests", "1"}, web.Window},
		{"a page load that a service worker passes on", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin", "Upgrade-Insecure-Requests", "1"}, web.Window},
		{"fetch", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}, web.Program},
		{"fetch of JSON", []string{"Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}, web.Program},
		{"jQuery", []string{"Accept", "application/json, text/javascript, */*; q=0.01", "X-Requested-With", "XMLHttpRequest", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, web.Program},
	} {
		for name, values := range changes {
			for _, value := range values {
				h := headerOf(c.headers...)
				if h.Set(name, value); value == "" {
					h.Del(name)
				}
				if got := web.ReaderOf(h); got != c.want {
					t.Errorf("readerOf(%s, %s: %q) = %d; want %d", c.name, name, value, got, c.want)
				}
			}
		}
	}
}

// A link is spent, and a cookie set, by a page load alone, as far as a browser says what it does.
func TestPageLoad_IsStricter(t *testing.T) {
	for _, c := range []struct {
		method  string
		headers []string
		want    bool
	}{
		{"GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, true},
		{"GET", []string{"Accept", acceptHTML}, true},
		{"GET", []string{"Accept", acceptHTML, "X-Requested-With", "com.example.mail"}, false},
		{"HEAD", []string{"Accept", acceptHTML}, false},
		{"POST", []string{"Accept", acceptHTML}, false},
		{"GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty", "Upgrade-Insecure-Requests", "1"}, false},
		{"GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "document", "Upgrade-Insecure-Requests", "1"}, false},
		{"GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, false},
	} {
		r := httptest.NewRequest(c.method, "/x", nil)
		r.Header = headerOf(c.headers...)
		if got := web.IsPageLoad(r); got != c.want {
			t.Errorf("pageLoad(%s, %v) = %t; want %t", c.method, r.Header, got, c.want)
		}
	}
}

func TestAnswerFor(t *testing.T) {
	origin, _ := url.Parse("https://portal.example")
	g := &Gate{URL: origin}
	const form = "application/x-www-form-urlencoded"
	page := []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	with := func(pairs ...string) []string { return append(append([]string{}, page...), pairs...) }
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		length  int64
		want    Answer
	}{
		{"a page load", "GET", page, 0, Prompt},
		{"the head of one", "HEAD", page, 0, Prompt},
		{"a page load in a frame", "GET", with("Sec-Fetch-Dest", "iframe"), 0, Frame},
		{"a script", "GET", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 0, Bare},
		{"a form", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), 9, Held},
		{"a form that a service worker passes on", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "empty"), 9, Held},
		{"a form of a browser without Sec-Fetch", "POST", []string{"Accept", acceptHTML, "Content-Type", form, "Origin", "https://portal.example"}, 9, Held},
		{"as large a form as is kept", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), maxHeld, Held},
		{"a larger form", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), maxHeld + 1, NotSent},
		{"a form of unknown length", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin"), -1, NotSent},
		{"a form from another site", "POST", with("Content-Type", form, "Sec-Fetch-Site", "cross-site", "Origin", "https://portal.example"), 9, NotSent},
		{"a form from a sibling", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-site"), 9, NotSent},
		{"a form from an unknown page", "POST", []string{"Accept", acceptHTML, "Content-Type", form}, 9, NotSent},
		{"an upload", "POST", with("Content-Type", "multipart/form-data; boundary=x", "Sec-Fetch-Site", "same-origin"), 9, NotSent},
		{"a text form", "POST", with("Content-Type", "text/plain", "Sec-Fetch-Site", "same-origin"), 9, NotSent},
		{"a form in a frame", "POST", with("Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", "iframe"), 9, NotSentFramed},
		{"a form that a script sends", "POST", []string{"Accept", "*/*", "Content-Type", form, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 9, Bare},
		{"a program's form", "POST", []string{"Accept", "*/*", "Content-Type", form}, 9, Bare},
		{"a PUT", "PUT", []string{"Accept", acceptHTML}, 9, Bare},
	} {
		r := httptest.NewRequest(c.method, "/x", nil)
		r.Header, r.ContentLength = headerOf(c.headers...), c.length
		if got := g.answerFor(r); got != c.want {
			t.Errorf("answerFor(%s) = %d; want %d", c.name, got, c.want)
		}
	}
}
