package web

import (
	"net/http"
	"net/http/httptest"
	"testing"
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
		want    Reader
	}{
		{"a page load", navigation, Window},
		{"a page load of a browser without Sec-Fetch", []string{"Accept", acceptHTML, "Upgrade-Insecure-Requests", "1"}, Window},
		{"a page load of a browser without either", []string{"Accept", acceptHTML}, Window},
		{"a page load in a frame", with("Sec-Fetch-Dest", "iframe"), Framed},
		{"a page load that a service worker passes on", with("Sec-Fetch-Dest", "empty"), Window},
		{"… of a browser without Upgrade-Insecure-Requests", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty"}, Window},
		{"… that a service worker passes on with options", with("Sec-Fetch-Dest", "empty", "Sec-Fetch-Mode", "same-origin"), Window},
		{"a page load in an app on Android", with("X-Requested-With", "com.google.android.gm"), Window},
		{"a prefetch", with("Sec-Purpose", "prefetch;prerender"), Program},
		{"a preview", with("X-Purpose", "preview"), Program},

		{"curl", []string{"Accept", "*/*"}, Program},
		{"nothing accepted", nil, Program},
		{"HTML refused", []string{"Accept", "text/html;q=0,application/json"}, Program},
		{"a client of an API that copies Sec-Fetch", []string{"Accept", "application/json", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, Program},
		{"fetch", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, Program},
		{"fetch that accepts HTML", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, Program},
		{"fetch that accepts HTML, of this origin", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "empty"}, Program},
		{"XHR of a browser without Sec-Fetch", []string{"Accept", acceptHTML, "X-Requested-With", "XMLHttpRequest"}, Program},
		{"a script in an app on Android", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "X-Requested-With", "com.google.android.gm"}, Program},
		{"an image", []string{"Accept", "image/avif,*/*", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, Program},
		{"an image, HTML accepted", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"}, Program},
		{"a worker's script", []string{"Accept", "*/*", "Sec-Fetch-Mode", "same-origin", "Sec-Fetch-Dest", "serviceworker", "Service-Worker", "script"}, Program},
		{"a WebSocket", with("Upgrade", "websocket"), Program},
		{"a page load with another wish", with("Upgrade", "h2c"), Program},
	} {
		if got := ReaderOf(headerOf(c.headers...)); got != c.want {
			t.Errorf("readerOf(%s) = %d; want %d", c.name, got, c.want)
		}
	}
}

// If a service worker, an extension or a privacy proxy changes one header, a person's page load
// still counts as one, and a script's request as a script's.
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
		want    Reader
	}{
		{"a page load", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "none", "Sec-Fetch-User", "?1", "Upgrade-Insecure-Requests", "1"}, Window},
		{"a form", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document", "Sec-Fetch-Site", "same-origin", "Upgrade-Insecure-Requests", "1"}, Window},
		{"a page load that a service worker passes on", []string{"Accept", acceptHTML, "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin", "Upgrade-Insecure-Requests", "1"}, Window},
		{"fetch", []string{"Accept", "*/*", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}, Program},
		{"fetch of JSON", []string{"Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty", "Sec-Fetch-Site", "same-origin"}, Program},
		{"jQuery", []string{"Accept", "application/json, text/javascript, */*; q=0.01", "X-Requested-With", "XMLHttpRequest", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, Program},
	} {
		for name, values := range changes {
			for _, value := range values {
				h := headerOf(c.headers...)
				if h.Set(name, value); value == "" {
					h.Del(name)
				}
				if got := ReaderOf(h); got != c.want {
					t.Errorf("readerOf(%s, %s: %q) = %d; want %d", c.name, name, value, got, c.want)
				}
			}
		}
	}
}

// Only a page load spends a link or sets a cookie, according to the browser's headers.
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
		if got := IsPageLoad(r); got != c.want {
			t.Errorf("pageLoad(%s, %v) = %t; want %t", c.method, r.Header, got, c.want)
		}
	}
}
