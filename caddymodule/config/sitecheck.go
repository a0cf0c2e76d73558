package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/fileserver"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// Checks of what a site block does with requests before doorpost, or instead of it. The grammar
// sees one directive only, so these checks use the provisioned routes.

// siteRoute is a caddyhttp.Route as in its JSON.
type siteRoute struct {
	Group  string                       `json:"group"`
	Match  []map[string]json.RawMessage `json:"match"`
	Handle []siteHandler                `json:"handle"`
}

// siteHandler has the facts about a handler that the checks need.
type siteHandler struct {
	Handler  string
	Firm     string
	Config   *Firm
	Routes   []siteRoute
	PassThru bool
	URI      string // of rewrite
	FastCGI  bool   // of reverse_proxy

	Upstreams []string // of reverse_proxy: HOST:PORT, or another address of Caddy's
}

// UnmarshalJSON reads a handler of any kind. It ignores fields whose names match but whose types
// don't.
func (h *siteHandler) UnmarshalJSON(data []byte) error {
	var in struct {
		Handler  string          `json:"handler"`
		Firm     string          `json:"firm"`
		Config   json.RawMessage `json:"config"`
		Routes   json.RawMessage `json:"routes"`
		PassThru bool            `json:"pass_thru"`
		URI      string          `json:"uri"`
		Through  struct {
			Protocol string `json:"protocol"`
		} `json:"transport"`
		Upstreams []struct {
			Dial string `json:"dial"`
		} `json:"upstreams"`
	}
	_ = json.Unmarshal(data, &in) // the other fields are read even after an error
	*h = siteHandler{Handler: in.Handler, Firm: in.Firm, PassThru: in.PassThru, URI: in.URI, FastCGI: in.Through.Protocol == "fastcgi"}
	for _, u := range in.Upstreams {
		h.Upstreams = append(h.Upstreams, u.Dial)
	}
	switch {
	case h.Handler == "subroute":
		return json.Unmarshal(in.Routes, &h.Routes)
	case h.Handler == "doorpost" && len(in.Config) > 0:
		return json.Unmarshal(in.Config, &h.Config)
	}
	return nil
}

// answers reports whether the handler answers requests itself, so that handlers after it don't see
// them.
func (h siteHandler) answers() bool {
	switch h.Handler {
	case "reverse_proxy", "static_response", "error", "metrics", "acme_server":
		return true
	case "file_server":
		return !h.PassThru
	}
	return false
}

// directive returns the handler's name in the Caddyfile.
func (h siteHandler) directive() string {
	switch {
	case h.Handler == "static_response":
		return "respond or redir"
	case h.FastCGI:
		return "php_fastcgi"
	}
	return h.Handler
}

// certainty says whether a statement is true for a request of which only method and path are known.
type certainty uint8

const (
	never certainty = iota
	perhaps
	surely
)

// routeTrace traces a request with a given method and path through the routes of a site.
type routeTrace struct {
	method   string
	path     string   // as rewritten by the routes so far
	firms    []string // firms whose doorpost gets it, surely or perhaps, before it is answered
	answered string   // the directive that surely answers it, or ""
	behind   []string // firms whose doorpost would get it if it weren't answered
	unknown  bool     // a part of the route can't be evaluated
}

// traceOf traces a request for the path through the routes.
func traceOf(routes []siteRoute, method, path string) routeTrace {
	t := routeTrace{method: method, path: path}
	t.follow(routes, surely)
	return t
}

func (t *routeTrace) follow(routes []siteRoute, how certainty) {
	taken := map[string]bool{}
	for _, r := range routes {
		if r.Group != "" && taken[r.Group] {
			continue
		}
		match := min(how, t.matchSets(r.Match))
		if match == never {
			continue
		}
		if match == surely {
			taken[r.Group] = true
		}
		for _, h := range r.Handle {
			switch {
			case h.Handler == "doorpost" && t.answered == "":
				t.firms = append(t.firms, h.Firm)
			case h.Handler == "doorpost":
				t.behind = append(t.behind, h.Firm)
			case h.Handler == "subroute":
				t.follow(h.Routes, match)
			case h.Handler == "invoke":
				t.unknown = true
			case h.Handler == "rewrite" && match == surely && h.URI == foundFile:
				if index := fallbackFile(r.Match); index != "" {
					t.path = index
				}
			case match == surely && h.answers() && t.answered == "":
				t.answered = h.directive()
			}
		}
	}
}

// matchSets evaluates a route's matcher sets; one of them has to match.
func (t *routeTrace) matchSets(sets []map[string]json.RawMessage) certainty {
	if len(sets) == 0 {
		return surely
	}
	best := never
	for _, set := range sets {
		best = max(best, t.matchAll(set))
	}
	return best
}

func (t *routeTrace) matchAll(set map[string]json.RawMessage) certainty {
	all := surely
	for name, raw := range set {
		one := perhaps
		switch name {
		case "host":
			one = surely // of the site, whatever the name
		case "path":
			one = matchPath(raw, t.path)
		case "method":
			var methods []string
			switch {
			case json.Unmarshal(raw, &methods) != nil:
			case slices.Contains(methods, t.method):
				one = surely
			default:
				one = never
			}
		case "file":
			if fallbackFile([]map[string]json.RawMessage{set}) != "" {
				one = surely
			}
		case "not":
			var sets []map[string]json.RawMessage
			if json.Unmarshal(raw, &sets) == nil {
				one = surely - t.matchSets(sets)
			}
		}
		all = min(all, one)
	}
	return all
}

// foundFile is the target of a rewrite to the file that a file matcher has found.
const foundFile = "{http.matchers.file.relative}"

// fallbackFile returns the path of the file that the matchers use if none of the others exists,
// such as index.php with php_fastcgi, or "" if there is none.
func fallbackFile(sets []map[string]json.RawMessage) string {
	for _, set := range sets {
		var file struct {
			TryFiles  []string `json:"try_files"`
			TryPolicy string   `json:"try_policy"`
		}
		if json.Unmarshal(set["file"], &file) == nil && file.TryPolicy == "first_exist_fallback" && len(file.TryFiles) > 0 {
			return "/" + strings.TrimPrefix(file.TryFiles[len(file.TryFiles)-1], "/")
		}
	}
	return ""
}

// matchPath evaluates a path matcher like Caddy: ignoring case, with * at the beginning, at the end
// or in between.
func matchPath(raw json.RawMessage, p string) certainty {
	var patterns []string
	if json.Unmarshal(raw, &patterns) != nil {
		return perhaps
	}
	p = strings.ToLower(p)
	for _, pattern := range patterns {
		pattern = strings.ToLower(pattern)
		if strings.ContainsAny(pattern, "{%") {
			return perhaps
		}
		plain := strings.Trim(pattern, "*")
		switch before, after := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*"); {
		case strings.ContainsAny(plain, "*?["):
			if ok, err := path.Match(pattern, p); ok || err != nil {
				return surely
			}
		case before && after && strings.Contains(p, plain), before && !after && strings.HasSuffix(p, plain),
			after && !before && strings.HasPrefix(p, plain), p == pattern:
			return surely
		}
	}
	return never
}

// onlyHealth reports whether a site block is for health probes: health is the only path that
// reaches the firm's doorpost.
func onlyHealth(routes []siteRoute, firm, prefix string) bool {
	reaches := func(path string) bool { return slices.Contains(traceOf(routes, http.MethodGet, path).firms, firm) }
	return reaches(prefix+"/health") && !reaches(prefix+"/sign-in") && !reaches("/")
}

// checkSite checks that the firm's own pages and the paths that it protects reach the firm's
// doorpost in one site block.
func checkSite(routes []siteRoute, firm string, cfg *Firm, prefix string) error {
	own := traceOf(routes, http.MethodGet, prefix+"/sign-in")
	forms := traceOf(routes, http.MethodPost, prefix+"/sign-in")
	switch {
	case own.unknown:
		return nil
	case !slices.Contains(own.firms, firm) && slices.Contains(own.behind, firm):
		return fmt.Errorf("%s stands before doorpost and answers every request, so that the portal is open to everyone; put doorpost above it, or both outside of route, where doorpost comes first by itself", own.answered)
	case !slices.Contains(own.firms, firm):
		return fmt.Errorf("the sign-in pages under %s/ don't reach doorpost, since it stands in a handle or route for other paths; write doorpost outside of it, directly in the site's block, and open what everyone may see with public", prefix)
	case !slices.Contains(forms.firms, firm):
		return fmt.Errorf("the forms of the sign-in pages under %s/ don't reach doorpost, since it stands in a handle or route for other methods than POST; write doorpost outside of it, directly in the site's block, and open what everyone may see with public", prefix)
	}
	for _, other := range own.firms {
		if other != firm {
			return fmt.Errorf("one site block has doorpost for two firms, %s and %s, and the second would guard nothing; give each firm a site block of its own", own.firms[0], firstOther(own.firms))
		}
	}
	if cfg == nil {
		return nil
	}
	for _, guarded := range cfg.guardedPaths() {
		for _, method := range []string{http.MethodGet, http.MethodPost} {
			t := traceOf(routes, method, guarded.path)
			if t.answered != "" && !t.unknown && !slices.Contains(t.firms, firm) {
				return fmt.Errorf("%s %s: %s answers such requests and doorpost never sees them, so that they are open to everyone; write doorpost outside of handle and route, directly in the site's block",
					guarded.setting, guarded.pattern, t.answered)
			}
		}
	}
	return nil
}

func firstOther(firms []string) string {
	for _, f := range firms {
		if f != firms[0] {
			return f
		}
	}
	return ""
}

// settingPath is an example of a path that a setting protects, with its variable parts filled in.
type settingPath struct{ setting, pattern, path string }

func (c *Firm) guardedPaths() (all []settingPath) {
	add := func(setting, pattern string) {
		p, _, _ := strings.Cut(pattern, "?")
		p = strings.NewReplacer("{token}", "x", "{company}", "x").Replace(p)
		all = append(all, settingPath{setting, pattern, strings.TrimSuffix(p, "*")})
	}
	for _, l := range c.LegacyLinks {
		add("legacy_link", l.Old)
		add("legacy_link", l.New)
	}
	for _, p := range c.CompanyPaths {
		add("company_path", p)
	}
	return all
}

// answeredBefore returns the directives that answer some requests before the firm's doorpost gets
// them, with their matchers. Mutually exclusive branches of a handle don't count.
func answeredBefore(routes []siteRoute, firm string) (all []string) {
	var before []siteRoute
	for _, r := range routes {
		if r.hasFirm(firm) {
			for _, b := range before {
				if name := b.portal(); name != "" && (b.Group == "" || b.Group != r.Group) {
					all = append(all, name+b.paths())
				}
			}
		}
		for _, h := range r.Handle {
			all = append(all, answeredBefore(h.Routes, firm)...)
		}
		before = append(before, r)
	}
	return all
}

// portal returns the directive of the route that serves pages, or "".
func (r siteRoute) portal() string {
	for _, h := range r.Handle {
		for _, inner := range h.Routes {
			if name := inner.portal(); name != "" {
				return name
			}
		}
		if h.answers() && (h.Handler == "reverse_proxy" || h.Handler == "file_server") {
			return h.directive()
		}
	}
	return ""
}

// paths returns the patterns of the route's path matchers for a message.
func (r siteRoute) paths() string {
	var all []string
	for _, set := range r.Match {
		var some []string
		if json.Unmarshal(set["path"], &some) == nil {
			all = append(all, some...)
		}
	}
	if len(all) == 0 {
		return ""
	}
	return " " + strings.Join(all, " ")
}

// hasFirm reports whether the route contains the firm's doorpost.
func (r siteRoute) hasFirm(firm string) bool {
	for _, h := range r.Handle {
		if h.Handler == "doorpost" && h.Firm == firm {
			return true
		}
		for _, inner := range h.Routes {
			if inner.hasFirm(firm) {
				return true
			}
		}
	}
	return false
}

// definition returns the firm's settings as written in the route, or nil if they are elsewhere.
func (r siteRoute) definition(firm string) *Firm {
	for _, h := range r.Handle {
		if h.Handler == "doorpost" && h.Firm == firm && h.Config != nil {
			return h.Config
		}
		for _, inner := range h.Routes {
			if c := inner.definition(firm); c != nil {
				return c
			}
		}
	}
	return nil
}

// siteBlock is a site block with its host names; without any it serves every name.
type siteBlock struct {
	hosts  []string
	routes []siteRoute
}

// siteBlocks returns the site blocks that contain the firm's doorpost. When a handler calls this,
// some routes are provisioned and others aren't yet.
func siteBlocks(app *caddyhttp.App, firm string) (all []siteBlock) {
	for _, srv := range app.Servers {
		var nameless siteBlock
		for _, r := range srv.Routes {
			hosts := hostsOf(r)
			if len(hosts) == 0 {
				nameless.routes = append(nameless.routes, readRoute(r))
			} else if mayHaveFirm(r, firm) {
				if route := readRoute(r); route.hasFirm(firm) {
					all = append(all, siteBlock{hosts, []siteRoute{route}})
				}
			}
		}
		if slices.ContainsFunc(nameless.routes, func(r siteRoute) bool { return r.hasFirm(firm) }) {
			all = append(all, nameless)
		}
	}
	return all
}

// mayHaveFirm reports whether the route must be read: most routes belong to other firms.
func mayHaveFirm(r caddyhttp.Route, firm string) bool {
	return len(r.HandlersRaw) == 0 || slices.ContainsFunc(r.HandlersRaw, func(raw json.RawMessage) bool { return bytes.Contains(raw, []byte(`"`+firm+`"`)) })
}

func hostsOf(r caddyhttp.Route) (hosts []string) {
	for _, set := range r.MatcherSets {
		for _, m := range set {
			if h, ok := m.(*caddyhttp.MatchHost); ok {
				hosts = append(hosts, *h...)
			}
		}
	}
	return hosts
}

// readRoute returns a route, whether it is provisioned or not.
func readRoute(r caddyhttp.Route) siteRoute {
	out := siteRoute{Group: r.Group}
	for _, set := range r.MatcherSetsRaw {
		out.Match = append(out.Match, set)
	}
	for _, set := range r.MatcherSets {
		one := map[string]json.RawMessage{}
		for _, m := range set {
			name, raw := moduleName(m), json.RawMessage(nil)
			switch m := m.(type) {
			case *caddyhttp.MatchPath, *caddyhttp.MatchMethod, *fileserver.MatchFile, fileserver.MatchFile:
				raw, _ = json.Marshal(m) // as it was read
			case *caddyhttp.MatchHost:
			default:
				name += " provisioned" // unknown JSON name; approximate
			}
			one[name] = raw
		}
		out.Match = append(out.Match, one)
	}
	for _, raw := range r.HandlersRaw {
		var h siteHandler
		if json.Unmarshal(raw, &h) == nil {
			out.Handle = append(out.Handle, h)
		}
	}
	if len(r.HandlersRaw) > 0 {
		return out
	}
	for _, m := range r.Handlers {
		h := siteHandler{Handler: moduleName(m)}
		switch m := m.(type) {
		case interface{ site() Site }: // a type that embeds Site
			h.Firm, h.Config = m.site().Firm, m.site().Config
		case *caddyhttp.Subroute:
			for _, inner := range m.Routes {
				h.Routes = append(h.Routes, readRoute(inner))
			}
		case *rewrite.Rewrite:
			h.URI = m.URI
		case *reverseproxy.Handler:
			h.FastCGI = moduleName(m.Transport) == "fastcgi"
			for _, u := range m.Upstreams {
				h.Upstreams = append(h.Upstreams, u.Dial)
			}
		default:
			if h.Handler == "file_server" {
				raw, _ := json.Marshal(m) // as it was read
				_ = json.Unmarshal(raw, &h)
				h.Handler = "file_server"
			}
		}
		out.Handle = append(out.Handle, h)
	}
	return out
}

// moduleName returns the last part of a module's id.
func moduleName(m any) string {
	if module, ok := m.(caddy.Module); ok {
		return module.CaddyModule().ID.Name()
	}
	return ""
}

// CheckSites checks the site blocks that contain the firm's doorpost. cfg is nil if the calling
// handler only names the firm; prefix is then the firm's prefix, if known. warn is called for
// problems that aren't errors.
func CheckSites(app *caddyhttp.App, firm string, cfg *Firm, prefix string, warn func(msg string, args ...any)) error {
	blocks := siteBlocks(app, firm)
	if prefix == "" {
		prefix = DefaultPrefix
		for _, b := range blocks {
			for _, r := range b.routes {
				if def := r.definition(firm); def != nil {
					prefix = def.withDefaults().Prefix
				}
			}
		}
	}
	var hosts []string
	everyHost := false
	for _, b := range blocks {
		defines := cfg
		if !slices.ContainsFunc(b.routes, func(r siteRoute) bool { return r.definition(firm) != nil }) {
			defines = nil
		}
		if defines == nil && onlyHealth(b.routes, firm, prefix) {
			continue
		}
		if err := checkSite(b.routes, firm, defines, prefix); err != nil {
			return err
		}
		for _, open := range answeredBefore(b.routes, firm) {
			warn("requests that are answered before doorpost are open to everyone; put it below doorpost, and open what everyone may see with public",
				"directive", open)
		}
		hosts, everyHost = append(hosts, b.hosts...), everyHost || len(b.hosts) == 0
	}
	if cfg == nil || everyHost {
		return nil
	}
	return checkSiteHost(cfg.URL, hosts, warn)
}

// checkSiteHost reports that mails would lead to a host that no site block of the firm has. Behind
// a proxy that changes the Host header this may be right, so it is an error only if the host looks
// like a misspelling of one of theirs.
func checkSiteHost(origin string, hosts []string, warn func(msg string, args ...any)) error {
	u, err := url.Parse(origin)
	if err != nil || len(hosts) == 0 {
		return nil
	}
	host := strings.ToLower(u.Hostname())
	for i, h := range hosts {
		h = strings.ToLower(h)
		hosts[i] = h
		rest, wildcard := strings.CutPrefix(h, "*.")
		_, parent, _ := strings.Cut(host, ".")
		if strings.Contains(h, "{") || h == host || wildcard && rest == parent {
			return nil
		}
	}
	if meant := nearest(host, hosts); meant != "" {
		return atPath("url", fmt.Errorf("no site block is for %s; did you mean %s? Mails lead to url, so write the name of the site block there", host, meant))
	}
	warn("no site block with doorpost has the name in url, to which mails lead; unless a proxy in front changes the Host, write the site block's name there",
		"url", origin, "names", hosts)
	return nil
}

// Defined reports whether a route of the app defines the firm.
func Defined(app *caddyhttp.App, firm string) bool {
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
				if defines(raw, firm) {
					return true
				}
			}
		}
	}
	return false
}

// defines reports whether a handler's JSON is or contains a definition of the firm.
func defines(raw json.RawMessage, firm string) bool {
	if !bytes.Contains(raw, []byte(`"doorpost"`)) {
		return false // fast check: most routes have none, and may be large
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

// Upstreams returns where the portals of the firm's site blocks are, as Caddy dials them: such as
// localhost:8000.
func Upstreams(app *caddyhttp.App, firm string) (all []string) {
	var visit func(routes []siteRoute)
	visit = func(routes []siteRoute) {
		for _, r := range routes {
			for _, h := range r.Handle {
				all = append(all, h.Upstreams...)
				visit(h.Routes)
			}
		}
	}
	for _, block := range siteBlocks(app, firm) {
		visit(block.routes)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
