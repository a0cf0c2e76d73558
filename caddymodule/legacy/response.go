package legacy

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Outgoing rewrites old links to new ones in the headers of one response of the portal. Set all
// fields in one literal.
type Outgoing struct {
	Rules *Rules
	Hosts []string // of the site: host, or host:port if it isn't the scheme's default port
	Seen  *url.URL // the request's URL as the portal received it; the base of relative links
	Moved bool     // whether the browser has another URL: an old link was put back for the portal

	// Root changes only the Location and Refresh headers that lead to the site's root, to a
	// different spelling of it, /? or /?&x=1.
	Root bool

	// Company returns the id of the company that has the token, if its old links are to be
	// replaced. If the id is "", they are replaced by the result of Hide, because the visitor may
	// not learn the company.
	Company func(token string) (id string, ok bool)

	// Hide returns the path and query of a page that leads on to an old link. It may be nil if
	// Company never returns "" with true.
	Hide func(old *url.URL) string
}

// Header rewrites Location, Content-Location, Refresh and the paths of cookies, in place. It
// changes no other headers.
func (o *Outgoing) Header(h http.Header) {
	for _, name := range []string{"Location", "Content-Location"} {
		for i, v := range h[name] {
			h[name][i] = o.URL(v)
		}
	}
	for i, v := range h["Refresh"] {
		h["Refresh"][i] = o.refresh(v)
	}
	for i, v := range h["Set-Cookie"] {
		h["Set-Cookie"][i] = o.cookie(v)
	}
}

// URL returns a reference in the portal's response for use in the browser. An old link becomes the
// new one in the same form (with scheme and host, with a host, from the root). A reference relative
// to the page becomes one from the root if the browser has another URL for the page. Any other
// reference is returned as it is.
func (o *Outgoing) URL(ref string) string {
	if o.Root {
		return o.atRoot(ref)
	}
	return o.rewrite(ref, 2)
}

// atRoot returns another spelling of a reference to the site's root, and any other reference as it
// is.
func (o *Outgoing) atRoot(ref string) string {
	trimmed := strings.Trim(ref, " \t")
	u, err := url.Parse(asBrowsersRead(trimmed))
	if err != nil || trimmed == "" || u.Opaque != "" || u.User != nil || u.Host != "" && !o.isSite(u) || u.Scheme != "" && u.Host == "" {
		return ref
	}
	to := o.Seen.ResolveReference(u)
	if to.Path != "/" && (to.Path != "" || u.Host == "") {
		return ref
	}
	rest, fragment, marked := strings.Cut(trimmed, "#")
	if marked {
		fragment = "#" + fragment
	}
	head, query, _ := strings.Cut(rest, "?")
	if head == "" {
		head = "/"
	}
	if query != "" && !strings.HasPrefix(query, "&") {
		query = "&" + query
	}
	return head + "?" + query + fragment
}

func (o *Outgoing) rewrite(ref string, depth int) string {
	trimmed := strings.Trim(ref, " \t")
	u, err := url.Parse(asBrowsersRead(trimmed))
	if err != nil || trimmed == "" || u.Opaque != "" || u.User != nil {
		return ref
	}
	if u.Host != "" && !o.isSite(u) || u.Scheme != "" && u.Host == "" {
		return ref
	}
	to := o.Seen.ResolveReference(&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery})
	if u.Path == "" && u.Host != "" {
		to = &url.URL{Path: "/", RawQuery: u.RawQuery}
	}
	tidy(to)
	relative := u.Host == "" && !strings.HasPrefix(u.Path, "/")
	next, fragment := "", ""
	if i := strings.IndexByte(trimmed, '#'); i >= 0 {
		fragment = trimmed[i:]
	}
	if v, company := o.classify(to); v.Kind == Old {
		if company == "" {
			next = o.Hide(to)
		} else {
			v.Query = o.rewriteQuery(v.Query, depth)
			next = o.Rules.NewURL(v, company)
		}
		if containsToken(fragment, v.Token) {
			fragment = ""
		}
	} else {
		query := o.rewriteQuery(to.RawQuery, depth)
		if query == to.RawQuery && !(relative && o.Moved) {
			return ref
		}
		next = join(to.EscapedPath(), query)
	}
	if u.Host != "" {
		next = "//" + u.Host + next
	}
	if u.Scheme != "" {
		next = u.Scheme + ":" + next
	}
	return next + fragment
}

// classify returns the verdict for a URL of the portal and the company, if it is an old link to
// replace. It grants no access, so it hides the token even if portals disagree on the link's tail.
func (o *Outgoing) classify(u *url.URL) (Verdict, string) {
	v := o.Rules.Match(u)
	if v.Kind == Bad && strings.HasPrefix(u.Path, "/") {
		v = o.Rules.matchPlain(u.Path, u)
	}
	if v.Kind != Old {
		return none, ""
	}
	if company, ok := o.Company(v.Token); ok {
		return v, company
	}
	return none, ""
}

// rewriteQuery rewrites old links in the values of a query, such as next=/one-click/t.
func (o *Outgoing) rewriteQuery(query string, depth int) string {
	if depth == 0 || query == "" {
		return query
	}
	parts := strings.Split(query, "&")
	for i, p := range parts {
		name, value, has := strings.Cut(p, "=")
		plain, whole := unescape(value, true)
		if !has || !whole || !strings.HasPrefix(plain, "/") && !strings.Contains(plain, "://") {
			continue
		}
		if is := o.rewrite(plain, depth-1); is != plain {
			parts[i] = name + "=" + escape(is)
		}
	}
	return strings.Join(parts, "&")
}

// isSite reports whether an absolute URL leads to the site.
func (o *Outgoing) isSite(u *url.URL) bool {
	if u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return false
	}
	host := bareHost(u.Host)
	return slices.ContainsFunc(o.Hosts, func(h string) bool { return strings.EqualFold(bareHost(h), host) })
}

func bareHost(h string) string {
	h = strings.TrimSuffix(strings.TrimSuffix(h, ":443"), ":80")
	return strings.TrimSuffix(strings.TrimSuffix(h, ":"), ".")
}

// asBrowsersRead returns a reference as browsers parse it: before the query, a backslash is a
// slash; tabs are ignored; an invalid escape is a literal percent sign.
func asBrowsersRead(ref string) string {
	ref = strings.ReplaceAll(ref, "\t", "")
	end := strings.IndexAny(ref, "?#")
	if end < 0 {
		end = len(ref)
	}
	var b strings.Builder
	for i := range len(ref) {
		switch c := ref[i]; {
		case c == '\\' && i < end:
			b.WriteByte('/')
		case c == '%' && (i+2 >= len(ref) || hex(ref[i+1]) < 0 || hex(ref[i+2]) < 0):
			b.WriteString("%25")
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// tidy removes duplicate slashes: portals often join paths carelessly, and accept the result.
func tidy(u *url.URL) {
	if !strings.Contains(u.Path, "//") {
		return
	}
	clean := path.Clean(u.Path)
	if strings.HasSuffix(u.Path, "/") && clean != "/" {
		clean += "/"
	}
	raw := path.Clean(u.EscapedPath())
	if strings.HasSuffix(clean, "/") && raw != "/" {
		raw += "/"
	}
	if p, err := url.PathUnescape(raw); err == nil && p == clean {
		u.Path, u.RawPath = p, raw
	}
}

// refresh rewrites a Refresh header such as `5; url=/one-click/t`, in all forms that browsers
// accept (HTML Standard, "shared declarative refresh steps").
func (o *Outgoing) refresh(v string) string {
	i := strings.IndexFunc(v, func(r rune) bool { return r != ' ' && r != '\t' && r != '.' && (r < '0' || r > '9') })
	if i < 0 || v[i] != ';' && v[i] != ',' && v[i-min(i, 1)] != ' ' {
		return v
	}
	at := i + 1
	if v[i] != ';' && v[i] != ',' {
		at = i
	}
	rest := v[at:]
	trimmed := strings.TrimLeft(rest, " \t")
	if len(trimmed) >= 3 && strings.EqualFold(trimmed[:3], "url") {
		if after, ok := strings.CutPrefix(strings.TrimLeft(trimmed[3:], " \t"), "="); ok {
			trimmed = strings.TrimLeft(after, " \t")
		}
	}
	head, ref, end := v[:len(v)-len(trimmed)], trimmed, ""
	if trimmed != "" && (trimmed[0] == '\'' || trimmed[0] == '"') {
		if close := strings.IndexByte(trimmed[1:], trimmed[0]); close >= 0 {
			head, ref, end = head+trimmed[:1], trimmed[1:1+close], trimmed[1+close:]
		} else {
			head, ref = head+trimmed[:1], trimmed[1:]
		}
	}
	if ref == "" {
		return v
	}
	return head + o.URL(ref) + end
}

// cookie rewrites the path of a Set-Cookie header. A cookie without a path gets the default path of
// the page's URL in the portal (RFC 6265, 5.1.4), if the browser has another URL.
func (o *Outgoing) cookie(v string) string {
	parts := strings.Split(v, ";")
	last := -1 // browsers use the last of several (RFC 6265, 5.3)
	for i, p := range parts[1:] {
		if name, _, _ := strings.Cut(p, "="); strings.EqualFold(strings.Trim(name, " \t"), "path") {
			last = i + 1
		}
	}
	was := ""
	if last >= 0 {
		_, was, _ = strings.Cut(parts[last], "=")
		was = strings.Trim(was, " \t")
	}
	byPage := !strings.HasPrefix(was, "/")
	if byPage && !o.Moved {
		return v
	}
	if byPage {
		was = defaultPath(o.Seen.EscapedPath())
	}
	is := o.cookiePath(was)
	switch {
	case is == was && !byPage:
		return v
	case last >= 0:
		parts[last] = " Path=" + is
	default:
		parts = append(parts, " Path="+is)
	}
	return strings.Join(parts, ";")
}

func defaultPath(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	}
	return "/"
}

// cookiePath returns the new path of a cookie. A path below a company's old link moves below its
// new link; a path above all old links of a pattern moves up until it includes the new links.
func (o *Outgoing) cookiePath(p string) string {
	decoded, err := url.PathUnescape(p)
	if err != nil || traitsOf(decoded, p).shifts {
		return p
	}
	u := &url.URL{Path: decoded, RawPath: p}
	for _, l := range o.Rules.links {
		if l.old.name != "" {
			continue
		}
		token, at, f := l.old.match(decoded)
		if f < lenient || isOdd(token) {
			continue
		}
		company, ok := o.Company(token)
		if !ok || company == "" {
			continue
		}
		tail := ""
		if f == exact {
			tail = l.old.tailOf(u, at)
		}
		is := l.to.path(company, tail)
		if !strings.HasSuffix(decoded, "/") && is != "/" {
			is = strings.TrimSuffix(is, "/")
		}
		return is
	}
	is := p
	for _, l := range o.Rules.links {
		if l.old.beneath(decoded) {
			is = commonPath(is, l.to.fixedPrefix())
		}
	}
	return is
}

// beneath reports whether all old links of the pattern are at or below a path that holds none of
// their tokens.
func (s *pattern) beneath(p string) bool {
	segs := strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
	if len(segs) > len(s.segments) {
		return false
	}
	for i, text := range segs {
		if s.segments[i].hasSlot || !strings.EqualFold(s.segments[i].pre, text) {
			return false
		}
	}
	return true
}

// fixedPrefix returns the part of the path before the slot, which all companies share.
func (s *pattern) fixedPrefix() string {
	var b strings.Builder
	for _, g := range s.segments[:s.slotIndex] {
		b.WriteString("/" + url.PathEscape(g.pre))
	}
	return b.String() + "/"
}

// commonPath returns the longest path that contains both.
func commonPath(a, b string) string {
	x, y := strings.Split(strings.Trim(a, "/"), "/"), strings.Split(strings.Trim(b, "/"), "/")
	n := 0
	for n < len(x) && n < len(y) && x[n] == y[n] {
		n++
	}
	if n == len(x) {
		return a
	}
	return "/" + strings.Join(x[:n], "/")
}
