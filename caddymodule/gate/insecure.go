package gate

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// insecure detects requests without TLS to a site with TLS. TLS may end in front of this Caddy.
type insecure struct {
	sites   *site.Sites
	ways    *wayback.Ways
	cookies web.Cookies

	terminatedUpstream atomic.Bool // TLS ends in front of this Caddy, as learned from a request
	terminatedHere     atomic.Bool // a request came with TLS that ends here, so terminatedUpstream says nothing
}

// is reports whether a request came without TLS to a site with TLS.
func (i *insecure) is(r *http.Request) bool {
	if i.sites.URL.Scheme != "https" {
		return false
	}
	if r.TLS != nil {
		if !i.terminatedHere.Load() {
			i.terminatedHere.Store(true)
		}
		return false
	}
	for _, line := range r.Header["Cookie"] {
		if strings.Contains(line, i.cookies.Session) {
			return false // browsers send the gate's cookies only over TLS: it ends in front of the gate
		}
	}
	return !strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") && (i.terminatedHere.Load() || !i.terminatedUpstream.Load())
}

// opensPage reports whether a person opens a page without TLS although other requests came with TLS
// that ends here. If TLS may end in front of the gate, visitors get the prompt directly, as before.
func (i *insecure) opensPage(r *http.Request) bool {
	return i.terminatedHere.Load() && i.is(r) && web.OpensPage(r)
}

// redirect redirects a visitor who opens a page or an old link without TLS, before a redirect by
// Caddy would repeat its token. The redirect leads through /go, which detects whether TLS ends in
// front of the gate, so that there is no redirect loop.
func (i *insecure) redirect(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errUnclear
	}
	origin := i.sites.Of(r)
	return found(w, origin.Scheme+"://"+origin.Host+i.ways.SealPath(i.ways.Shortened(r.URL, wayback.MaxMoved)))
}
