// Package site knows the origins of a firm's portal.
package site

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Sites are the configured origins of a firm's portal. Further and Names may be nil.
type Sites struct {
	URL     *url.URL   // links in mails begin with it: scheme and host, no path
	Further []*url.URL // further sites of the firm, each with its own portal
	Names   []string   // further hosts of the portal at URL, in lower case
}

// Of returns the site of a request by its Host: one of Further, otherwise URL. It is always a
// configured origin.
func (s *Sites) Of(r *http.Request) *url.URL { return s.At(r.Host) }

// At is Of for a Host.
func (s *Sites) At(host string) *url.URL {
	if len(s.Further) == 0 || strings.EqualFold(host, s.URL.Host) {
		return s.URL
	}
	for _, further := range s.Further {
		if strings.EqualFold(host, further.Host) {
			return further
		}
	}
	name := hostname(host)
	if name == s.URL.Hostname() {
		return s.URL
	}
	for _, further := range s.Further {
		if name == further.Hostname() {
			return further
		}
	}
	return s.URL
}

// Named returns the site with the origin, such as the one stored with a mail request, or URL if
// it is no longer configured.
func (s *Sites) Named(origin string) *url.URL {
	for _, further := range s.Further {
		if further.String() == origin {
			return further
		}
	}
	return s.URL
}

// Knows reports whether a Host is configured.
func (s *Sites) Knows(host string) bool {
	name := hostname(host)
	return name == hostname(s.URL.Host) || s.IsName(host) ||
		slices.ContainsFunc(s.Further, func(further *url.URL) bool { return further.Hostname() == name })
}

// IsName reports whether a Host is one of Names.
func (s *Sites) IsName(host string) bool {
	return len(s.Names) > 0 && slices.Contains(s.Names, hostname(host))
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// SentByOwnPage reports whether the browser says that a page of the same origin sent the
// request. It returns false if the browser doesn't say.
func (s *Sites) SentByOwnPage(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	site := s.Of(r)
	return strings.EqualFold(r.Header.Get("Origin"), site.Scheme+"://"+site.Host)
}
