package gate

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/account"
	"github.com/doorpost-auth/doorpost/caddymodule/api"
	"github.com/doorpost-auth/doorpost/caddymodule/mailbox"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// route is a page of the gate: its handlers by method. Gate.finish handles their errors.
type route struct {
	get, post func(http.ResponseWriter, *http.Request) error // nil if the method isn't allowed
}

// allow returns the page's Allow header.
func (o route) allow() string {
	switch {
	case o.post == nil:
		return "GET, HEAD"
	case o.get == nil:
		return "POST"
	}
	return "GET, HEAD, POST"
}

// serveOwn serves a page of the gate. The path must match literally: a path that needs decoding or
// cleaning isn't one. Forms are accepted only from the gate's own pages.
func (g *Gate) serveOwn(w http.ResponseWriter, r *http.Request) error {
	if !plain(r.URL) || !wayback.Below(g.rules.prefix, r.URL.Path) {
		return web.ErrNotFound
	}
	name := r.URL.Path[len(g.rules.prefix):]
	if path, ok := strings.CutPrefix(name, api.Path); ok && g.api != nil {
		r.Pattern = api.Path
		g.api.ServeHTTP(w, r, path)
		return nil
	}
	page, ok := g.routes[name]
	switch {
	case ok:
		r.Pattern = name
	case strings.HasPrefix(name, account.ReportsPath):
		r.Pattern, page = account.ReportsPath, route{get: g.account.GetReport}
	case strings.HasPrefix(name, mailbox.Path) && g.mailbox.OpensFor(r):
		page = route{get: g.mailbox.Get}
	default:
		g.warnTaken(r)
		return web.ErrNotFound
	}
	do := page.get
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPost:
		do = page.post
	default:
		do = nil
	}
	if do == nil {
		w.Header().Set("Allow", page.allow())
		return web.ErrMethod
	}
	if r.URL.RawQuery == "" && g.insecure.opensPage(r) { // with a query it may be a sign-in link, which must not appear in a Location header
		return g.insecure.redirect(w, r)
	}
	if err := g.origins.Check(r); err != nil {
		return web.ErrCrossOrigin
	}
	return do(w, r)
}

// warnTaken logs once that a page of this site requests a path under the prefix that isn't one of
// the gate's: the portal uses such paths, and never receives these requests.
func (g *Gate) warnTaken(r *http.Request) {
	if r.Header.Get("Sec-Fetch-Site") != "same-origin" || !g.warnedTaken.CompareAndSwap(false, true) {
		return // visitors who try paths must not write to the log
	}
	path := r.URL.Path
	if len(path) > maxLoggedPath {
		path = path[:maxLoggedPath] + "…"
	}
	g.answers.Log.Warn("a page of the site asks for a path under the prefix, which is for Doorpost's own pages; if the portal has URLs there, choose another prefix",
		"path", path, "prefix", g.rules.prefix, "what_to_do", "write, for example: prefix /-signin")
}

// maxLoggedPath limits the logged part of a path.
const maxLoggedPath = 200
