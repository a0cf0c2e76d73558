package gate

import (
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// site is the site that a request came to, by its Host: one of Sites, else the firm's URL. The
// origin is always one of the configuration.
func (g *Gate) site(r *http.Request) *url.URL { return g.siteAt(r.Host) }

// siteAt is site for that Host.
func (g *Gate) siteAt(host string) *url.URL {
	if len(g.Sites) == 0 || strings.EqualFold(host, g.URL.Host) {
		return g.URL
	}
	for _, s := range g.Sites {
		if strings.EqualFold(host, s.Host) {
			return s
		}
	}
	name := hostname(host)
	if name == g.URL.Hostname() {
		return g.URL
	}
	for _, s := range g.Sites {
		if name == s.Hostname() {
			return s
		}
	}
	return g.URL
}

// siteNamed is the site that a request for a mail came to, if there is still one, else the firm's
// URL.
func (g *Gate) siteNamed(origin string) *url.URL {
	for _, s := range g.Sites {
		if s.String() == origin {
			return s
		}
	}
	return g.URL
}

// Knows reports whether a Host is one of those of the configuration.
func (g *Gate) Knows(host string) bool {
	name := hostname(host)
	return name == hostname(g.URL.Host) || slices.Contains(g.Names, name) || slices.ContainsFunc(g.Sites, func(s *url.URL) bool { return s.Hostname() == name })
}

func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.Trim(host, "[]"))
}

// toURL answers who opens a page by a further name of the same portal: it is at the firm's URL,
// where cookies and mailed links are good. Not so what may be a sign-in link.
func (g *Gate) toURL(w http.ResponseWriter, r *http.Request, kind Kind) (done bool) {
	if len(g.Names) == 0 || !slices.Contains(g.Names, hostname(r.Host)) || !web.OpensPage(r) || kind == Refused || kind == Own && (r.URL.RawQuery != "" || !plain(r.URL)) {
		return false
	}
	to := g.remembered(r.URL, mostMoved)
	if kind != Own && g.Legacy.Secret(r.URL) {
		to = g.sealedURL(to)
	}
	_ = found(w, g.URL.Scheme+"://"+g.URL.Host+to)
	return true
}
