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
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
)

// Kind is the class of a request. The zero value is the safe one.
type Kind uint8

// The kinds of request.
const (
	Protected Kind = iota // for the portal, for signed-in visitors
	Open                  // for the portal, for everyone
	Own                   // a page of the gate
	Refused               // a request that the portal must not see
)

// Public is a rule for paths that are open to everyone.
type Public struct {
	Methods []string // upper case; none: every method
	Paths   []string // "/favicon.ico" is only that path, "/assets/*" is everything below it
}

type rules struct {
	prefix string
	public []Public
}

// classify classifies a request by its method and path only, because visitors control everything
// else. A rule for some methods doesn't open a request that overrides its method.
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
		return Refused // no path to classify
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

// overridden reports whether a request makes the application treat it as one with another method,
// as many frameworks do.
func overridden(h http.Header) bool {
	for name := range h {
		if upstream.SameName(name, "x-http-method-override") || upstream.SameName(name, "x-http-method") || upstream.SameName(name, "x-method-override") {
			return true
		}
	}
	return false
}

// webSocket reports whether a CONNECT opens a WebSocket over HTTP/2 or HTTP/3 (RFC 8441, RFC 9220),
// in the two forms of Go's servers.
func webSocket(r *http.Request) bool {
	switch r.ProtoMajor {
	case 2:
		return slices.Equal(r.Header[":protocol"], []string{"websocket"})
	case 3:
		return r.Proto == "websocket"
	}
	return false
}

// near reports whether a path is a page of the gate, or could be read as one: a mailed link that
// was mangled on its way must reach neither the portal nor a log.
func (ru rules) near(p string) bool {
	if wayback.Below(ru.prefix, p) {
		return true
	}
	prefix := strings.ToLower(ru.prefix)
	for range 3 {
		if wayback.AnyReading(p, func(read string) bool { return wayback.Below(prefix, read) }) {
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

// Secret reports whether no log may contain a request with the URL u: it is for a page below the
// prefix, and its URL or Referer may contain the secret of a sign-in link, as mailed or mangled.
// Requests for the portal are logged whatever visitors send, so that nobody can hide there.
func Secret(prefix string, u *url.URL, h http.Header) bool {
	ru := rules{prefix: prefix}
	return ru.near(u.Path) && (ru.link(u) || slices.ContainsFunc(h["Referer"], ru.fromLink))
}

// link reports whether a URL may be that of a sign-in link.
func (ru rules) link(u *url.URL) bool {
	return ru.near(u.Path) && (u.RawQuery != "" || u.ForceQuery || !plain(u) || holdsToken(u.Path))
}

// fromLink is link for a Referer. An invalid URL counts as one.
func (ru rules) fromLink(referer string) bool {
	if referer == "" {
		return false
	}
	u, err := url.Parse(referer)
	return err != nil || ru.link(u)
}

// holdsToken reports whether a path has a run of characters as long as a link's secret.
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

const tokenLength = token.LinkLength // of a link's secret, in characters

func matches(pattern, p string) bool {
	if head, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(p, head)
	}
	return p == pattern
}

// plain reports whether all readers parse the path alike: the gate, a proxy, and an application
// that decodes once more, removes parameters or cleans dots. No other path is open.
func plain(u *url.URL) bool {
	p := u.Path
	if strings.ContainsAny(p, `\;%?#`) || u.RawPath != "" && u.RawPath != p {
		return false // a RawPath that equals Path has brackets and the like, which Go would escape
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
