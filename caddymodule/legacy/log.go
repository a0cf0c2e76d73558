package legacy

import (
	"net/http"
	"net/url"
	"strings"
)

// Secret reports whether a URL may hold a token, of whomever, by itself or as the way back
// in its query: no log may keep it, nor may a Referer.
func (r *Rules) Secret(u *url.URL) bool { return r.HasLinks() && r.secret(u, 2) }

// Shown returns a URL's path for a log, or "(hidden)" where that may hold a token.
func (r *Rules) Shown(u *url.URL) string {
	if r.Secret(u) {
		return "(hidden)"
	}
	return u.EscapedPath()
}

func (r *Rules) secret(u *url.URL, depth int) bool {
	v := r.Match(u)
	return v.Kind == Bad || v.Kind == Old || len(v.Strays) > 0 || len(v.Beside) > 0 || depth > 0 && r.nestedSecret(u.RawQuery, depth-1)
}

// nestedSecret is secret for the URLs that are values in a query, such as next=/one-click/t.
func (r *Rules) nestedSecret(query string, depth int) bool {
	if !strings.Contains(query, "/") && !strings.Contains(query, "%2") { // no value is a path
		return false
	}
	for p := range pieces(query) {
		_, value, _ := strings.Cut(p.text, "=")
		value, _ = unescape(value, true)
		if !strings.HasPrefix(value, "/") && !strings.Contains(value, "://") {
			continue
		}
		if u, err := url.Parse(asBrowsersRead(value)); err == nil && r.secret(u, depth) {
			return true
		}
	}
	return false
}

// SecretIn reports whether a header, of a request for page or of the answer to it, may hold
// a token. It looks everywhere but where logs hide it all anyway, and not into Referer,
// which is one URL: that is for Secret.
func (r *Rules) SecretIn(h http.Header, page *url.URL) bool {
	if !r.HasLinks() {
		return false
	}
	for name, values := range h {
		switch name {
		case "Cookie", "Authorization", "Proxy-Authorization", "Referer":
			continue
		}
		for _, v := range values {
			if name == "Location" || name == "Content-Location" {
				if u, err := page.Parse(asBrowsersRead(v)); err == nil && r.Secret(u) {
					return true
				}
			}
			if r.secretWithin(v) {
				return true
			}
		}
	}
	return false
}

// secretWithin is Secret for the URLs with a path from the root that stand in a text.
func (r *Rules) secretWithin(text string) bool {
	for at := 0; ; {
		i := strings.IndexByte(text[at:], '/')
		if i < 0 {
			return false
		}
		if at += i; at > 0 && !beforeURL(text[at-1]) {
			at++
			continue
		}
		one := text[at:]
		if end := strings.IndexAny(one, "<>\"', \t"); end >= 0 {
			one = one[:end]
		}
		at += len(one)
		if strings.HasPrefix(one, "//") && !strings.ContainsAny(one[2:], `/\?`) {
			continue // no more than a host, such as an Origin
		}
		if u, err := url.Parse(asBrowsersRead(one)); err == nil && r.Secret(u) {
			return true
		}
	}
}

func beforeURL(c byte) bool {
	switch c {
	case '<', '>', '"', '\'', '=', ',', ' ', '\t', ';', ':', '(', '[':
		return true
	}
	return false
}
