package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler stands in front of a firm's portal. In the Caddyfile it is the directive
// `doorpost`. It judges the URL that the visitor asked for, so it comes before
// everything that changes the path, or the query of an old link.
type Handler struct {
	config.Site

	app   *App
	moved *sync.Once // around the log line on a URL that was changed
}

// CaddyModule names the handler to Caddy.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doorpost", New: func() caddy.Module { return new(Handler) }}
}

// Provision judges the firm's settings and the files they name, and tells the app
// of the firm. It opens nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := config.CheckFirmID(h.Firm); err != nil {
		return err
	}
	v, err := ctx.AppIfConfigured("doorpost")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return config.ErrNoGlobal
	}
	if err != nil {
		return err
	}
	h.app, h.moved = v.(*App), new(sync.Once)
	if h.Config == nil {
		if err := h.app.name(h.Firm, nil); err != nil {
			return err
		}
		if err := h.findDefinition(ctx); err != nil {
			return err
		}
		return h.checkSites(ctx, nil)
	}
	cfg, err := h.Config.Resolve(h.app.log)
	if err == nil {
		err = cfg.CheckFiles()
	}
	if err == nil {
		_, _, _, err = runtime.Look(cfg)
	}
	if err == nil {
		cfg.Sites = h.sites(ctx, cfg.URL)
		err = h.app.name(h.Firm, &cfg)
	}
	if err == nil {
		err = h.checkSites(ctx, &cfg)
	}
	if err == nil {
		err = runtime.CheckAnchor(h.app.resolved, h.Firm)
	}
	if err == nil && cfg.Contacts == "" && len(cfg.Staff) == 0 {
		h.app.warnOnce(h.Firm, "the Caddyfile names no contacts and no staff, so that only those can sign in who were added with caddy doorpost contacts add", "what_to_do", `write "staff owner@example.com", with your own address`)
	}
	if err != nil {
		return fmt.Errorf("firm %s: %w", h.Firm, err)
	}
	return nil
}

// sites are those of the firm, whose url is origin.
func (h *Handler) sites(ctx caddy.Context, origin string) config.Sites {
	v, err := ctx.AppIfConfigured("http")
	app, ok := v.(*caddyhttp.App)
	if err != nil || !ok {
		return config.Sites{}
	}
	return config.SitesOf(app, h.Firm, origin)
}

// checkSites judges the site block that the handler stands in. cfg is nil where another
// one defines the firm.
func (h *Handler) checkSites(ctx caddy.Context, cfg *config.Firm) error {
	v, err := ctx.AppIfConfigured("http")
	app, ok := v.(*caddyhttp.App)
	if err != nil || !ok {
		return nil
	}
	prefix := ""
	if cfg != nil {
		prefix = cfg.Prefix
	}
	return config.CheckSites(app, h.Firm, cfg, prefix, func(msg string, args ...any) {
		h.app.warnOnce(h.Firm, msg, args...)
	})
}

// findDefinition is for a handler that only names its firm: somewhere in the http
// app there has to be one that defines it. Those that come later in Caddy's random
// order aren't provisioned yet, but then their routes still hold the JSON.
func (h *Handler) findDefinition(ctx caddy.Context) error {
	h.app.mu.Lock()
	known := h.app.named[h.Firm] != nil
	h.app.mu.Unlock()
	v, err := ctx.AppIfConfigured("http")
	app, ok := v.(*caddyhttp.App)
	if known || err != nil || !ok {
		return nil // without an http app, Start is the judge
	}
	if config.Defined(app, h.Firm) {
		return nil
	}
	return undefined(h.Firm)
}

// ServeHTTP passes the request to its firm. It answers its own errors and never returns them: Caddy
// logs a returned error with the URL, and the URL may be a sign-in link.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	prefix, rules := h.app.shape(h.Firm)
	asked := askedURL(r)
	hidden, inURL, passed := gate.Hides(rules, asked, r.Header), false, false
	if gate.Secret(prefix, asked, r.Header) {
		// The access log would keep the URL, whatever comes of the request.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	} else if rules.HasLinks() {
		defer func(w http.ResponseWriter, began time.Time) {
			if answers := !hidden && rules.HeaderMayHoldToken(w.Header(), asked); hidden || answers {
				caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
				h.logHidden(w, r, shownURI(asked, rules, inURL), began, passed || answers)
			}
		}(w, time.Now())
	}
	w = keepHeaders(w)
	if urlChanged(r, rules) {
		h.moved.Do(func() {
			h.app.log.Error("something changed the path or the query before doorpost saw it, so it can't judge the URL that was asked for; "+
				"put doorpost first, outside of handle_path and before rewrite, uri and try_files", "firm", h.Firm)
		})
		refuse(w, r, http.StatusInternalServerError, "This site is misconfigured; its log says how.")
		return nil
	}
	f, leave, err := h.app.enter(r.Context(), h.Firm)
	if err != nil {
		w.Header().Set("Retry-After", "1")
		refuse(w, r, http.StatusServiceUnavailable, "This site is starting. Please try again in a moment.")
		return nil
	}
	defer leave()
	inURL = f.Gate.HoldsToken(asked)
	byForm, holdsToken := hidden, inURL || f.Gate.HoldTokens(r.Header)
	hidden = hidden || holdsToken
	return f.ServeHTTP(w, r, countedPortal{next, &passed}, byForm, holdsToken)
}

// countedPortal notes that a request has reached the portal.
type countedPortal struct {
	caddyhttp.Handler
	reached *bool
}

func (p countedPortal) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	*p.reached = true
	return p.Handler.ServeHTTP(w, r)
}

// logHidden writes, in the place of the access log, what can be said of a request where the
// URL, the Referer or the answer has a company's token in it; nothing where there is no access
// log. What hasn't reached the portal, which anybody can send, is sampled.
func (h *Handler) logHidden(w http.ResponseWriter, r *http.Request, uri string, began time.Time, passed bool) {
	recorder := accessRecorder(w)
	if recorder == nil {
		return
	}
	log := h.app.log
	if passed {
		log = h.app.events
	}
	log.Info("request with an old link", "firm", h.Firm, "method", audit.Cut(r.Method), "uri", audit.Cut(uri), "status", recorder.Status(), "size", recorder.Size(),
		"duration", time.Since(began).Seconds(), "client_ip", clientIP(r).String(), "agent", audit.Cut(r.UserAgent()))
}

// shownURI is what a log may have of the URL that was asked for: of one with a token, the pattern that it is by.
func shownURI(asked *url.URL, rules *legacy.Rules, holdsToken bool) string {
	switch pattern := rules.Pattern(rules.Match(asked)); {
	case pattern != "":
		return pattern
	case holdsToken || rules.MayHoldToken(asked):
		return "(hidden)"
	}
	return asked.RequestURI()
}

// accessRecorder returns what the access log learns of an answer from, or nil where there is no
// access log.
func accessRecorder(w http.ResponseWriter) caddyhttp.ResponseRecorder {
	for {
		switch is := w.(type) {
		case caddyhttp.ResponseRecorder:
			return is
		case interface{ Unwrap() http.ResponseWriter }:
			w = is.Unwrap()
		default:
			return nil
		}
	}
}

// shape is where the firm's own pages are, and its old links. It is known as soon as all
// handlers are provisioned, which is before the first request.
func (a *App) shape(firm string) (prefix string, rules *legacy.Rules) {
	if def := a.named[firm]; def != nil {
		return def.Prefix, def.Rules
	}
	return config.DefaultPrefix, nil
}

// urlChanged reports whether the request's path isn't the one that was asked for; nor its
// query, where that may hold a token: the portal gets to know the one that was asked for,
// such as in REQUEST_URI.
func urlChanged(r *http.Request, rules *legacy.Rules) bool {
	asked := askedURL(r)
	return asked.EscapedPath() != r.URL.EscapedPath() || rules.HasLinks() && asked.RawQuery != r.URL.RawQuery
}

// askedURL is the URL that the visitor asked for, which is the one that logs show.
func askedURL(r *http.Request) *url.URL {
	if asked, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return asked.URL
	}
	return r.URL
}

func refuse(w http.ResponseWriter, r *http.Request, status int, text string) {
	web.LeaveBody(w, r)
	web.EndSoon(w, r)
	w.Header().Set("Cache-Control", "no-store, no-transform")
	http.Error(w, text, status)
}
