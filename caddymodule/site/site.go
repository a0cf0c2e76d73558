// Package site knows under which origins people come to a firm's portal.
package site

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Sites are the origins under which people come to a firm's portal, as the configuration names
// them. A nil Further or Names means that there are none.
type Sites struct {
	URL     *url.URL   // what mails link to: scheme and host, no path
	Further []*url.URL // further sites of the firm, each with a portal of its own
	Names   []string   // further hosts of the portal at URL, in small letters
}

// Of returns the site that a request came to, by its Host: one of Further, else URL. The origin
// is always one of the configuration.
func (s *Sites) Of(r *http.Request) *url.URL { return s.At(r.Host) }

// At is Of for that Host.
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

// Named returns the site of that origin, such as the one that a request for a mail came to; if
// there is none any more, URL.
func (s *Sites) Named(origin string) *url.URL {
	for _, further := range s.Further {
		if further.String() == origin {
			return further
		}
	}
	return s.URL
}

// Knows reports whether a Host is one of those of the configuration.
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

// SentByOwnPage reports whether a page of the same origin sent the request, as the browser says.
// It is false where the browser doesn't say.
func (s *Sites) SentByOwnPage(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	site := s.Of(r)
	return strings.EqualFold(r.Header.Get("Origin"), site.Scheme+"://"+site.Host)
}
