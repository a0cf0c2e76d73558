package gate

import (
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/legacy"

	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/upstream"
)

// Kind is what a request is to the gate. The zero value is the safe one.
type Kind uint8

// The kinds of request.
const (
	Protected Kind = iota // the portal, for who is signed in
	Open                  // the portal, for everyone
	Own                   // a page of ours
	Refused               // no request that a portal should see
)

// Public is one rule of what is open to everyone.
type Public struct {
	Methods []string // upper case; none: every method
	Paths   []string // "/favicon.ico" is that path alone, "/assets/*" all below it
}

type rules struct {
	prefix string
	public []Public
	sealed func(query string) bool // whether it is what /go takes, made by us; nil: nothing is
}

// classify judges the method and the path, and nothing else that a visitor could set: what
// is open for some methods is so for none that says it is another one.
func (ru rules) classify(r *http.Request) Kind {
	switch r.Method {
	case http.MethodConnect:
		if !webSocket(r) {
			return Refused
		}
	case http.MethodTrace, "TRACK":
		return Refused
	}
	p := r.URL.Path
	if r.URL.Opaque != "" || p == "*" {
		return Refused // no path, so there is nothing to judge
	}
	if p == "" {
		return Protected
	}
	if ru.near(p) {
		return Own
	}
	u := legacy.WithoutSession(r.URL)
	for _, rule := range ru.public {
		if len(rule.Methods) > 0 && (!slices.Contains(rule.Methods, r.Method) || overridden(r.Header)) {
			continue
		}
		for _, pattern := range rule.Paths {
			if matches(pattern, u.Path) && plain(u) {
				return Open
			}
		}
	}
	return Protected
}

// overridden reports whether a request has the application take it for one of another
// method, as many frameworks do.
func overridden(h http.Header) bool {
	for name := range h {
		if upstream.SameName(name, "x-http-method-override") || upstream.SameName(name, "x-http-method") || upstream.SameName(name, "x-method-override") {
			return true
		}
	}
	return false
}

// webSocket reports whether a CONNECT is how HTTP/2 and HTTP/3 open a WebSocket (RFC
// 8441, RFC 9220), in the two ways that Go's servers say so.
func webSocket(r *http.Request) bool {
	switch r.ProtoMajor {
	case 2:
		return slices.Equal(r.Header[":protocol"], []string{"websocket"})
	case 3:
		return r.Proto == "websocket"
	}
	return false
}

// near reports whether a path is a page of ours, or could be taken for one: a link from
// a mail that was mangled on its way is not for the portal, nor for a log.
func (ru rules) near(p string) bool {
	if below(ru.prefix, p) {
		return true
	}
	prefix := strings.ToLower(ru.prefix)
	for range 3 {
		if anyReading(p, func(read string) bool { return below(prefix, read) }) {
			return true
		}
		next, err := url.PathUnescape(p)
		if err != nil || next == p {
			return false
		}
		p = next
	}
	return false
}

// anyReading reports whether is is true of a path as one of the more lenient readers would
// take it: cleaned, in small letters, with a backslash for a slash; with what is behind a
// semicolon, without it, or first the one and then, behind a browser, the other. These are
// for comparing alone.
func anyReading(p string, is func(string) bool) bool {
	p = strings.ToLower(p)
	if strings.Contains(p, `\`) {
		p = strings.ReplaceAll(p, `\`, "/")
	}
	clean := path.Clean(p)
	return is(clean) || strings.Contains(p, ";") && (is(withoutParameters(p)) || is(withoutParameters(clean)))
}

// withoutParameters returns a path without what is behind a semicolon in its segments, cleaned.
func withoutParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return path.Clean(strings.Join(segments, "/"))
}

// Secret reports whether no log may keep a request, whose URL is u: it is for a page of
// ours below the prefix, and its URL, or that of the page it comes from, may hold the
// secret of a sign-in link, as it was mailed or mangled on its way. What is the
// portal's is logged whatever visitors send, so that nobody can hide there.
func Secret(prefix string, u *url.URL, h http.Header) bool {
	ru := rules{prefix: prefix}
	return ru.near(u.Path) && (ru.link(u) || slices.ContainsFunc(h["Referer"], ru.fromLink))
}

// link reports whether a URL may be that of a sign-in link.
func (ru rules) link(u *url.URL) bool {
	return ru.near(u.Path) && (u.RawQuery != "" || u.ForceQuery || !plain(u) || holdsToken(u.Path))
}

// fromLink is link for a Referer. What is no URL may be anything.
func (ru rules) fromLink(referer string) bool {
	if referer == "" {
		return false
	}
	u, err := url.Parse(referer)
	return err != nil || ru.link(u)
}

// holdsToken reports whether a path has a run of characters as long as a token of ours.
func holdsToken(p string) bool {
	run := 0
	for i := range len(p) {
		c := p[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			if run++; run >= tokenLength {
				return true
			}
			continue
		}
		run = 0
	}
	return false
}

const (
	tokenLength   = token.LinkLength // of the secret of a link, in characters
	browserLength = 43               // of that of an asking browser, which is longer
)

func below(prefix, p string) bool {
	return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
}

func matches(pattern, p string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(p, head)
	}
	return p == pattern
}

// plain reports whether everyone reads the path alike: us, a proxy, and an application
// that decodes once more, cuts off parameters or cleans dots. No other path is open.
func plain(u *url.URL) bool {
	p := u.Path
	if strings.ContainsAny(p, `\;%?#`) || u.RawPath != "" && u.RawPath != p {
		return false // a RawPath that is the Path is one with brackets and the like, which Go would escape
	}
	for i := range len(p) {
		if p[i] < 0x20 || p[i] == 0x7f {
			return false
		}
	}
	if !legacy.IsPlain(p) {
		return false
	}
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	if clean != p {
		return false
	}
	for segment := range strings.SplitSeq(p, "/") {
		if strings.HasSuffix(segment, ".") || strings.HasSuffix(segment, " ") {
			return false
		}
	}
	return true
}

func urlencoded(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded")
}

// fromOurPages wants the browser's word that a page of this origin sent the request;
// silence isn't enough.
func (g *Gate) fromOurPages(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	site := g.site(r)
	return strings.EqualFold(r.Header.Get("Origin"), site.Scheme+"://"+site.Host)
}

// returnPath makes of an untrusted `to` a path on this site that is safe to send
// people to: never another origin, never a page of ours but those that are places to
// be, and where an old link leads that we sealed. What isn't such a path becomes "/".
func (ru rules) returnPath(to string) string {
	const home = "/"
	if len(to) < 2 || len(to) > maxTo || to[0] != '/' || to[1] == '/' {
		return home
	}
	for i := range len(to) {
		if c := to[i]; c <= 0x20 || c == 0x7f || c == '\\' {
			return home
		}
	}
	u, err := url.Parse(to)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return home
	}
	// Some readers decode before they resolve, so what is behind the escapes counts too.
	decoded := u.Path
	for range 3 {
		for i := range len(decoded) {
			if c := decoded[i]; c < 0x20 || c == 0x7f || c == '\\' {
				return home
			}
		}
		if strings.Contains(decoded, "//") || strings.HasPrefix(path.Clean(decoded), "//") {
			return home
		}
		if ru.ours(decoded) && (u.Path != ru.prefix+"/go" || ru.sealed == nil || !ru.sealed(u.RawQuery)) {
			return home
		}
		next, err := url.PathUnescape(decoded)
		if err != nil || next == decoded {
			break
		}
		decoded = next
	}
	if to = u.String(); len(to) > maxTo { // escaping has made it longer
		return home
	}
	return to
}

// wayBack is returnPath for what our pages, their forms and Locations repeat: where it may have a
// token in it, it leads through /go, sealed.
func (g *Gate) wayBack(to string) string {
	to = g.rules.returnPath(to)
	u, err := url.Parse(to)
	if err != nil || !g.Legacy.Secret(u) {
		return to
	}
	hash := u.EscapedFragment()
	sealed := g.goURL(u)
	if hash != "" && len(sealed)+len("#")+len(hash) <= maxTo {
		sealed += "#" + hash
	}
	return sealed
}

// ours reports whether a path is a page of ours that is no place to be sent to.
func (ru rules) ours(p string) bool {
	prefix := strings.ToLower(ru.prefix)
	return anyReading(p, func(read string) bool {
		if !below(prefix, read) {
			return false
		}
		rest := read[len(prefix):]
		return rest != "/companies" && rest != "/account" && rest != signedInPath
	})
}

const (
	maxTo   = 4 << 10  // bytes of a `to`
	maxHeld = 64 << 10 // bytes of a form that is held for who isn't signed in
)
