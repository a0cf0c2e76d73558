package legacy

import (
	"net/http"
	"net/url"
	"strings"
)

// MayHoldToken reports whether a URL may hold a token of any company, in the URL itself or in a URL in
// its query. Such a URL must not appear in a log or a Referer.
func (r *Rules) MayHoldToken(u *url.URL) bool { return r.HasLinks() && r.mayHoldToken(u, 2) }

// PathForLog returns a URL's path for a log, or "(hidden)" if it may hold a token.
func (r *Rules) PathForLog(u *url.URL) string {
	if r.MayHoldToken(u) {
		return "(hidden)"
	}
	return u.EscapedPath()
}

func (r *Rules) mayHoldToken(u *url.URL, depth int) bool {
	v := r.Match(u)
	return v.Kind == Bad || v.Kind == Old || len(v.MisplacedTokens) > 0 || len(v.PossibleTokens) > 0 || depth > 0 && r.queryMayHoldToken(u.RawQuery, depth-1)
}

// queryMayHoldToken is mayHoldToken for URLs in the values of a query, such as next=/one-click/t.
func (r *Rules) queryMayHoldToken(query string, depth int) bool {
	if !strings.Contains(query, "/") && !strings.Contains(query, "%2") { // no value is a path
		return false
	}
	for p := range pieces(query) {
		_, value, _ := strings.Cut(p.text, "=")
		value, _ = unescape(value, true)
		if !strings.HasPrefix(value, "/") && !strings.Contains(value, "://") {
			continue
		}
		if u, err := url.Parse(asBrowsersRead(value)); err == nil && r.mayHoldToken(u, depth) {
			return true
		}
	}
	return false
}

// HeaderMayHoldToken reports whether a header may hold a token. The header belongs to a request for page or
// to its response. It ignores headers that logs hide anyway, and Referer, which is a single URL:
// check it with Secret.
func (r *Rules) HeaderMayHoldToken(h http.Header, page *url.URL) bool {
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
				if u, err := page.Parse(asBrowsersRead(v)); err == nil && r.MayHoldToken(u) {
					return true
				}
			}
			if r.textMayHoldToken(v) {
				return true
			}
		}
	}
	return false
}

// textMayHoldToken is Secret for all URLs in a text that begin with a path from the root.
func (r *Rules) textMayHoldToken(text string) bool {
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
			continue // only a host, such as in Origin
		}
		if u, err := url.Parse(asBrowsersRead(one)); err == nil && r.MayHoldToken(u) {
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
