package gate

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// What comes without TLS, though people are to come with it.

// inTheClear reports whether a request came without TLS, though people are to come with it.
func (g *Gate) inTheClear(r *http.Request) bool {
	if g.URL.Scheme != "https" {
		return false
	}
	if r.TLS != nil {
		if !g.endsTLS.Load() {
			g.endsTLS.Store(true)
		}
		return false
	}
	for _, line := range r.Header["Cookie"] {
		if strings.Contains(line, g.cookies.Session) {
			return false // browsers send cookies of ours with TLS alone: it ends in front of us
		}
	}
	return !strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") && (g.endsTLS.Load() || !g.fronted.Load())
}

// opensInTheClear reports whether a person opens a page without TLS, where others have come
// with TLS that ends here. Where it may end in front of us, they are asked at once, as ever.
func (g *Gate) opensInTheClear(r *http.Request) bool {
	return g.endsTLS.Load() && g.inTheClear(r) && web.OpensPage(r)
}

// toTLS answers who opens a page without TLS, or an old link, before a redirect of Caddy's
// would repeat its token. They come by /go, which sees whether TLS ends in front of us, so
// that nobody goes round in a circle.
func (g *Gate) toTLS(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errUnclear
	}
	site := g.site(r)
	return found(w, site.Scheme+"://"+site.Host+g.sealedURL(g.remembered(r.URL, mostMoved)))
}
