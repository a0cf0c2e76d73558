package caddymodule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/gate"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

func init() { caddy.RegisterModule(new(Handler)) }

// Handler stands in front of a firm's portal. In the Caddyfile it is the directive
// `doorpost`. It judges the URL that the visitor asked for, so it comes before
// everything that changes the path, or the query of an old link.
type Handler struct {
	// Firm is the firm's id: 1 to 63 of a-z, 0-9 and the hyphen. It is in the name
	// of every record, so a new id is a new firm with an empty address book. Required.
	Firm string `json:"firm"`

	// Config defines the firm. Exactly one site block of a firm has it; null in the
	// others, which guard their site in the same way.
	Config *FirmConfig `json:"config,omitempty"`

	app   *App
	moved *sync.Once // around the log line on a URL that was changed
}

// FirmConfig is how a firm's portal is guarded. Its text settings may hold {env.NAME}
// and {file./PATH}. Relative paths begin at the folder that Caddy was started in.
type FirmConfig struct {
	// URL is what mails link to: scheme, host and perhaps a port. http:// only for
	// localhost. Required.
	URL string `json:"url"`

	// Brand is how the firm looks and speaks. Its name and from are required.
	Brand brand.Brand `json:"brand"`

	// Contacts and Companies are CSV files, loaded at start and within seconds of a
	// change. A row that says something else than at the last load replaces what it
	// names; nothing is deleted. Default: none.
	Contacts  string `json:"contacts,omitempty"`
	Companies string `json:"companies,omitempty"`

	// Staff are addresses that are always staff, even with an empty address book.
	Staff []string `json:"staff,omitempty"`

	// LegacyLinks are the old one-click links of the portal, and the new ones in their
	// place. Default: none.
	LegacyLinks []legacy.Link `json:"legacy_links,omitempty"`

	// CompanyPaths are further paths that belong to one company, with {company} as a
	// segment, such as "/files/{company}/*". Default: none.
	CompanyPaths []string `json:"company_paths,omitempty"`

	// Upgraded are companies whose old links ask for sign-in whatever the store says, also
	// when it is lost with everything else. Default: what `upgrade` has done counts alone.
	Upgraded Upgraded `json:"upgraded,omitzero"`

	// Home is where `/` leads a contact, with {company} as a segment, such as
	// "/portal/{company}". Default: `/` is the portal's.
	Home string `json:"home,omitempty"`

	// PortalSession are cookies of the portal's whose binding is set here. Default: HttpOnly
	// cookies are bound as those named here without more, and all others are left alone.
	PortalSession []PortalCookie `json:"portal_session,omitempty"`

	// ClearSiteData is what browsers clear of this site at sign-out, and when another person signs
	// in, beside their cache: "storage", for portals whose scripts keep who is signed in
	// outside of cookies. Default: nothing more.
	ClearSiteData []string `json:"clear_site_data,omitempty"`

	// Public is what is open to everyone. Default: nothing.
	Public []PublicRule `json:"public,omitempty"`

	// Session is how long people stay signed in.
	Session Session `json:"session,omitzero"`

	// LinkLifetime is how long a link and its code are good for, from the moment
	// the mail server took the mail. Default 10m, at most 60m.
	LinkLifetime caddy.Duration `json:"link_lifetime,omitempty"`

	// Passwords are what people may sign in with instead of a mail, if they set one.
	Passwords Passwords `json:"passwords,omitzero"`

	// NewDeviceMail tells contacts of a sign-in on a device that they haven't signed in on
	// before. The zero value tells them.
	NewDeviceMail NewDeviceMail `json:"new_device_mail,omitzero"`

	// Templates is a folder whose files take the place of the mails and pages of
	// the same name. Default: none.
	Templates string `json:"templates,omitempty"`

	// Prefix is where Doorpost's own pages are: a slash and a plain path without a
	// slash at its end. Default "/-".
	Prefix string `json:"prefix,omitempty"`

	rules        *legacy.Rules // of LegacyLinks, CompanyPaths and Home, once they are filled in
	sites        sites         // where the firm's portals are reached, once it is provisioned
	placeholders []namedFile   // the files of placeholders, once they are filled in
}

// PortalCookie is a cookie of the portal's. The zero value names none.
type PortalCookie struct {
	// Name is the cookie's name, as the portal sets it. Required.
	Name string `json:"name"`

	// To is whom the cookie is bound to, who alone brings it back to the portal. Default: the
	// person and the company that it was set for, or the visit by an old link. "person": the person
	// alone, at every company's pages; for portals with a login of their own. "off": nobody,
	// it is left alone; for cookies that other sites or scripts set.
	To string `json:"to,omitempty"`
}

// PublicRule opens paths to everyone. The zero value opens nothing.
type PublicRule struct {
	// Methods the rule is for, in capitals. Default: all.
	Methods []string `json:"methods,omitempty"`

	// Paths, decoded, from the root: "/favicon.ico" that path alone, "/assets/*"
	// what is under it. Compared with case: what isn't written isn't open. Required.
	Paths []string `json:"paths"`
}

// Session is how long people stay signed in.
type Session struct {
	// Idle is how long without a request. Default 45d (longer than a month of
	// bookkeeping), or Max where that is less.
	Idle caddy.Duration `json:"idle,omitempty"`

	// Max is how long at most. Default 180d, at most 400d.
	Max caddy.Duration `json:"max,omitempty"`
}

// Upgraded are companies whose old links ask for sign-in. The zero value has none.
type Upgraded struct {
	// All stands for every company, also later ones.
	All bool `json:"all,omitempty"`

	// Companies are ids. None with All.
	Companies []string `json:"companies,omitempty"`
}

// closed is what the directory wants to know of it.
func (u Upgraded) closed() anchor.Closed {
	return anchor.Closed{All: u.All, IDs: slices.Sorted(slices.Values(u.Companies))}
}

// NewDeviceMail is a mail about a sign-in on a new device.
type NewDeviceMail struct {
	// Off sends none.
	Off bool `json:"off,omitempty"`
}

// Passwords are what people may sign in with instead of a mail. The zero value allows
// them, at their default length.
type Passwords struct {
	// Off leaves links and codes as the only ways in.
	Off bool `json:"off,omitempty"`

	// MinLength is how many characters a password needs. Default 15, at least 8, at most 64.
	MinLength int `json:"min_length,omitempty"`
}

const (
	day                 = 24 * time.Hour
	defaultIdle         = 45 * day
	defaultMax          = 180 * day
	maxSession          = 400 * day // RFC 6265bis: browsers keep no cookie longer
	defaultLinkLifetime = 10 * time.Minute
	maxLinkLifetime     = 60 * time.Minute
	defaultPrefix       = "/-"
)

// CaddyModule names the handler to Caddy.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.doorpost", New: func() caddy.Module { return new(Handler) }}
}

// Provision judges the firm's settings and the files they name, and tells the app
// of the firm. It opens nothing.
func (h *Handler) Provision(ctx caddy.Context) error {
	if err := checkFirmID(h.Firm); err != nil {
		return err
	}
	v, err := ctx.AppIfConfigured("doorpost")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return errNoGlobal
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
	cfg, err := h.Config.filledIn()
	if err == nil {
		err = checkFirm(cfg)
	}
	if err == nil {
		cfg.sites = h.sites(ctx, cfg.URL)
		err = h.app.name(h.Firm, &cfg)
	}
	if err == nil {
		err = h.checkSites(ctx, &cfg)
	}
	if err == nil {
		err = h.app.checkAnchor(h.Firm)
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
func (h *Handler) sites(ctx caddy.Context, origin string) sites {
	v, err := ctx.AppIfConfigured("http")
	app, ok := v.(*caddyhttp.App)
	if err != nil || !ok {
		return sites{}
	}
	return sitesOf(app, h.Firm, origin)
}

// checkSites judges the site block that the handler stands in. cfg is nil where another
// one defines the firm.
func (h *Handler) checkSites(ctx caddy.Context, cfg *FirmConfig) error {
	v, err := ctx.AppIfConfigured("http")
	app, ok := v.(*caddyhttp.App)
	if err != nil || !ok {
		return nil
	}
	prefix := ""
	if cfg != nil {
		prefix = cfg.Prefix
	}
	return checkSites(app, h.Firm, cfg, prefix, func(msg string, args ...any) {
		h.app.warnOnce(h.Firm, msg, args...)
	})
}

var errNoGlobal = errors.New(`doorpost needs its global option; begin the Caddyfile with a block that holds "doorpost {", a line "mail smtp HOST:PORT" or "mail folder ./mail", and "}"`)

// filledIn returns the settings with placeholders and defaults filled in, or what
// is wrong with them.
func (c FirmConfig) filledIn() (FirmConfig, error) {
	c.Staff = slices.Clone(c.Staff)
	for _, t := range c.texts() {
		if err := checkFixed(*t.value); err != nil {
			return c, at(t.path, err)
		}
		filled, err := fillIn(*t.value)
		if err != nil {
			return c, at(t.path, err)
		}
		c.placeholders = append(c.placeholders, filesIn(words(t.path), *t.value)...)
		*t.value = filled
	}
	if err := c.Validate(); err != nil {
		return c, err
	}
	c = c.withDefaults()
	var err error
	c.rules, err = c.legacyRules()
	return c, err
}

// texts are the settings that may hold placeholders.
func (c *FirmConfig) texts() []text {
	all := []text{
		{"url", &c.URL},
		{"brand.name", &c.Brand.Name}, {"brand.from", &c.Brand.From}, {"brand.reply_to", &c.Brand.ReplyTo},
		{"brand.logo", &c.Brand.Logo}, {"brand.accent", &c.Brand.Accent}, {"brand.support", &c.Brand.Support},
		{"contacts", &c.Contacts}, {"companies", &c.Companies}, {"templates", &c.Templates},
	}
	for i := range c.Staff {
		all = append(all, text{fmt.Sprintf("staff[%d]", i), &c.Staff[i]})
	}
	return all
}

// withDefaults returns the settings with what wasn't given, and with URL as an origin.
func (c FirmConfig) withDefaults() FirmConfig {
	if c.Prefix == "" {
		c.Prefix = defaultPrefix
	}
	if c.LinkLifetime == 0 {
		c.LinkLifetime = caddy.Duration(defaultLinkLifetime)
	}
	if c.Session.Max == 0 {
		c.Session.Max = caddy.Duration(defaultMax)
	}
	if c.Session.Idle == 0 {
		c.Session.Idle = min(caddy.Duration(defaultIdle), c.Session.Max)
	}
	c.URL = origin(c.URL)
	return c
}

// origin returns the origin of a URL as browsers write it (RFC 6454): small letters,
// no default port, no slash at the end. What is no URL comes back as it is.
func origin(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return s
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}

func (c FirmConfig) equal(d FirmConfig) bool { return reflect.DeepEqual(c, d) }

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
	for _, srv := range app.Servers {
		routes := slices.Clone(srv.Routes)
		if srv.Errors != nil {
			routes = append(routes, srv.Errors.Routes...)
		}
		for _, r := range srv.NamedRoutes {
			routes = append(routes, *r)
		}
		for _, r := range routes {
			for _, raw := range r.HandlersRaw {
				if defines(raw, h.Firm) {
					return nil
				}
			}
		}
	}
	return undefined(h.Firm)
}

// defines reports whether a handler's JSON is, or holds, a definition of the firm.
func defines(raw json.RawMessage, firm string) bool {
	if !bytes.Contains(raw, []byte(`"doorpost"`)) {
		return false // most are none of ours, and large
	}
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return false
	}
	var search func(v any) bool
	search = func(v any) bool {
		switch v := v.(type) {
		case []any:
			return slices.ContainsFunc(v, search)
		case map[string]any:
			if v["handler"] == "doorpost" && v["firm"] == firm && v["config"] != nil {
				return true
			}
			for _, inner := range v {
				if search(inner) {
					return true
				}
			}
		}
		return false
	}
	return search(v)
}

// ServeHTTP hands the request to its firm. What keeps it from doing so is answered
// here and never returned: Caddy logs a returned error with the URL, and the URL may
// be a sign-in link.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	prefix, rules := h.app.shape(h.Firm)
	asked := askedURL(r)
	hidden, passed := gate.Hides(rules, asked, r.Header), false
	if gate.Secret(prefix, asked, r.Header) {
		// The access log would keep the URL, whatever comes of the request.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	} else if hidden {
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
		defer func(began time.Time) { h.logHidden(w, r, asked, rules, began, passed) }(time.Now())
	} else if rules.HasLinks() {
		defer h.hideAnswer(w, r, asked, rules, time.Now())
	}
	w = keepHeaders(w)
	if urlChanged(r, rules) {
		h.moved.Do(func() {
			h.app.log.Error("something changed the path or the query before doorpost saw it, so it can't judge the URL that was asked for; "+
				"put doorpost first, outside of handle_path and before rewrite, uri and try_files", "firm", h.Firm)
		})
		refuse(w, http.StatusInternalServerError, "This site is misconfigured; its log says how.")
		return nil
	}
	f, leave, err := h.app.enter(r.Context(), h.Firm)
	if err != nil {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusServiceUnavailable, "This site is starting. Please try again in a moment.")
		return nil
	}
	defer leave()
	return f.ServeHTTP(w, r, countedPortal{next, &passed}, hidden)
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

// hideAnswer keeps an answer from the access log whose header has a company's token in it:
// what an open company's portal leads to.
func (h *Handler) hideAnswer(w http.ResponseWriter, r *http.Request, asked *url.URL, rules *legacy.Rules, began time.Time) {
	if !rules.SecretIn(w.Header(), asked) {
		return
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	h.logHidden(w, r, asked, rules, began, true)
}

// logHidden writes, in the place of the access log, what can be said of a request where the
// URL, the Referer or the answer has a company's token in it; nothing where there is no access
// log. What hasn't reached the portal, which anybody can send, is sampled.
func (h *Handler) logHidden(w http.ResponseWriter, r *http.Request, asked *url.URL, rules *legacy.Rules, began time.Time, passed bool) {
	recorder := accessRecorder(w)
	if recorder == nil {
		return
	}
	uri := rules.Pattern(rules.Match(asked))
	switch {
	case uri == "" && rules.Secret(asked):
		uri = "(hidden)"
	case uri == "":
		uri = asked.RequestURI()
	}
	log := h.app.log
	if passed {
		log = h.app.events
	}
	log.Info("request with an old link", "firm", h.Firm, "method", audit.Cut(r.Method), "uri", audit.Cut(uri), "status", recorder.Status(), "size", recorder.Size(),
		"duration", time.Since(began).Seconds(), "client_ip", clientIP(r).String(), "agent", audit.Cut(r.UserAgent()))
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
		return def.Prefix, def.rules
	}
	return defaultPrefix, nil
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

func refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store, no-transform")
	http.Error(w, text, status)
}
