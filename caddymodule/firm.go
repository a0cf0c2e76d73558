package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
)

// firm is a firm that is open, and how Caddy's requests get to its gate.
type firm struct {
	*runtime.Firm
	stranger sync.Once // around the log line on a name that isn't url's
	proxies  proxies
}

// ServeHTTP serves one request; next is the portal. It returns the portal's errors
// alone: what goes wrong at the gate is answered there, since Caddy logs a returned
// error with the URL, which may be a sign-in link.
// hidden says that no log may keep its URL or headers because they may be those of an old link, and
// holdsToken because they hold a token elsewhere.
func (f *firm) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, hidden, holdsToken bool) error {
	if !strings.EqualFold(r.Host, f.Sites.URL.Host) && !f.Sites.Knows(r.Host) {
		f.strangeName(r)
	}
	if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, f.Config.Prefix+"/") {
		f.proxies.look(r, f.Log)
	}
	var err error
	asked := *r.URL
	f.Gate.ServeHTTP(w, r, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		old := *r.URL != asked
		if old {
			r = asIfAsked(r)
		}
		setPlaceholders(r, gate.PassedOf(r.Context()))
		if (hidden || holdsToken) && r.RequestURI == asked.RequestURI() && (f.Config.Rules.MayHoldToken(&asked) || f.Gate.HoldsToken(&asked)) { // its query has a way back with a token
			line := r.RequestURI
			r.RequestURI = "/" // for logs alone
			defer func() { r.RequestURI = line }()
		}
		switch err = next.ServeHTTP(w, r); {
		case errors.Is(err, legacy.ErrForm):
			f.Gate.Refuse(w, r, http.StatusBadRequest)
			err = nil
		case err != nil && (old || hidden || holdsToken && (gate.PassedOf(r.Context()).Visitor != nil || !f.Gate.PassesGuesses(r))):
			f.unanswered(w, r, err)
			err = nil
		}
	}))
	return err
}

// asIfAsked has a request look as if its URL had been asked for: PHP is told of that one.
func asIfAsked(r *http.Request) *http.Request {
	asked, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
	if !ok {
		return r
	}
	asked.URL = new(*r.URL)
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, asked))
}

// unanswered answers for a portal that doesn't, where Caddy would log the URL: there is a
// company's token in it.
func (f *firm) unanswered(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusBadGateway
	if he, ok := errors.AsType[caddyhttp.HandlerError](err); ok && he.StatusCode >= 400 {
		status = he.StatusCode
	}
	if status < http.StatusInternalServerError { // such as a file that isn't there: an answer
		f.Gate.Refuse(w, r, status)
		return
	}
	f.Log.Error("the portal doesn't answer an old link", "status", status, "error", scrubbed(err, r.URL), "method", audit.Cut(r.Method))
	f.Gate.Refuse(w, r, status)
}

// scrubbed is the text of an error without what a URL has in it.
func scrubbed(err error, u *url.URL) string {
	text := err.Error()
	for _, part := range []string{u.RequestURI(), u.EscapedPath(), u.Path, u.RawQuery} {
		if len(part) > 1 {
			text = strings.ReplaceAll(text, part, "…")
		}
	}
	return text
}

// strangeName tells once that the site is reached by a name that isn't that of its url:
// mails lead to the url, so a typo there would go unseen until nobody can get in.
func (f *firm) strangeName(r *http.Request) {
	f.stranger.Do(func() {
		f.Log.Warn("people come by another name than that of url, to which mails lead; if it is the portal's, write it as url",
			"name", audit.Cut(r.Host), "url", f.Config.URL)
	})
}

// setPlaceholders sets the placeholders of Caddy's own authentication to the signed-in contact, for
// the rest of the Caddyfile. user.id appears in access logs, so it is opaque.
func setPlaceholders(r *http.Request, p gate.Passed) {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return
	}
	repl.Map(p.Placeholder)
}

// clientIP is the visitor's address as Caddy sees it: the peer, or, behind proxies that
// the server trusts, what they say.
func clientIP(r *http.Request) netip.Addr {
	s, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap()
}
