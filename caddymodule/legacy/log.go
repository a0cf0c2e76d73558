package legacy

import (
	"net/http"
	"net/url"
	"strings"
)

// Secret reports whether a URL may hold a token, of whomever, by itself or as the way back
// in its query: no log may keep it, nor may a Referer.
func (r *Rules) Secret(u *url.URL) bool { return r.HasLinks() && r.secret(u, 2) }

func (r *Rules) secret(u *url.URL, depth int) bool {
	v := r.Match(u)
	return v.Kind == Bad || v.Kind == Old || len(v.Strays) > 0 || depth > 0 && r.nestedSecret(u.RawQuery, depth-1)
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

// SecretIn reports whether a header of the answer to a request for page may hold a token.
func (r *Rules) SecretIn(h http.Header, page *url.URL) bool {
	if !r.HasLinks() {
		return false
	}
	for name, values := range h {
		for _, v := range values {
			if name == "Location" || name == "Content-Location" {
				if u, err := page.Parse(asBrowsersRead(v)); err == nil && r.Secret(u) {
					return true
				}
			}
			if strings.Contains(v, "/") && r.secretWithin(v) {
				return true
			}
		}
	}
	return false
}

// secretWithin is Secret for the URLs with a path from the root that stand in a text.
func (r *Rules) secretWithin(text string) bool {
	const around = "<>\"'=, \t;"
	for i := 0; i < len(text); i++ {
		if text[i] != '/' || i > 0 && strings.IndexByte(around, text[i-1]) < 0 && text[i-1] != ':' {
			continue
		}
		end := i + 1
		for end < len(text) && strings.IndexByte("<>\"', \t", text[end]) < 0 {
			end++
		}
		if u, err := url.Parse(asBrowsersRead(text[i:end])); err == nil && r.Secret(u) {
			return true
		}
		i = end
	}
	return false
}
