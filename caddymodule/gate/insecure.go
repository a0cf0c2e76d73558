package gate

import (
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// insecure knows which requests come without TLS, though people are to come with it. TLS may end
// in front of this Caddy.
type insecure struct {
	sites   *site.Sites
	ways    *wayback.Ways
	cookies web.Cookies

	terminatedUpstream atomic.Bool // TLS ends in front of this Caddy, which we learned from a request
	terminatedHere     atomic.Bool // a request came with TLS that ends here, so that the other says nothing
}

// is reports whether a request came without TLS, though people are to come with it.
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
			return false // browsers send cookies of ours with TLS alone: it ends in front of us
		}
	}
	return !strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") && (i.terminatedHere.Load() || !i.terminatedUpstream.Load())
}

// opensPage reports whether a person opens a page without TLS, where others have come
// with TLS that ends here. Where it may end in front of us, they are asked at once, as before.
func (i *insecure) opensPage(r *http.Request) bool {
	return i.terminatedHere.Load() && i.is(r) && web.OpensPage(r)
}

// redirect answers a visitor who opens a page without TLS, or an old link, before a redirect of
// Caddy's would repeat its token. They come by /go, which sees whether TLS ends in front of us, so
// that nobody is redirected back and forth.
func (i *insecure) redirect(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return errUnclear
	}
	origin := i.sites.Of(r)
	return found(w, origin.Scheme+"://"+origin.Host+i.ways.SealPath(i.ways.Shortened(r.URL, wayback.MaxMoved)))
}
