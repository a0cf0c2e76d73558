package web

import (
	"net/http"
	"net/textproto"
	"strings"
)

// Cache-Control of our own pages: nobody keeps them, and no proxy rewrites them, since their
// Content-Security-Policy lets the browser run and style the bytes that we sent and no others (RFC
// 9111, 5.2.2.5 and 5.2.2.6). A CDN that hides email addresses until its script has run would hide them
// for good.
const neverCached = "no-store, no-transform"

// SetNeverCached marks an answer of the gate's own. What a handler in front of the gate has told
// caches, for the whole site, doesn't hold for it.
func SetNeverCached(h http.Header) {
	dropCachePolicies(h)
	h["Cache-Control"] = []string{neverCached}
}

// KeepPersonal makes an answer to one person, or to one visit, theirs alone, whatever the portal
// says: no shared cache keeps it, and the browser's own asks the gate each time before it shows it
// (RFC 9111, 3.5 and 5.2.2). With shared, for a computer that others use, no cache keeps it at all. Of
// the portal's own directives no-store and no-transform stay.
//
// What the portal lets a cache do by other headers goes: a cache that reads one of those would
// prefer it to Cache-Control (RFC 9213, 2.2).
func KeepPersonal(h http.Header, shared bool) {
	noStore, noTransform := shared, false
	for _, line := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			directive = textproto.TrimString(directive)
			noStore = noStore || strings.EqualFold(directive, "no-store")
			noTransform = noTransform || strings.EqualFold(directive, "no-transform")
		}
	}
	dropCachePolicies(h)
	policy := "private, no-cache"
	switch {
	case noStore && noTransform:
		policy = "private, no-store, no-transform"
	case noStore:
		policy = "private, no-store"
	case noTransform:
		policy = "private, no-cache, no-transform"
	}
	h["Cache-Control"] = []string{policy} // not shared: Caddy's header handler may change a value in place
}

// dropCachePolicies removes or empties every header but Cache-Control by which a cache is told to
// keep an answer.
func dropCachePolicies(h http.Header) {
	for name := range h {
		switch {
		case name == "Cache-Control":
		case name == "Expires":
			h[name] = []string{"0"} // for caches of HTTP/1.0: it is stale
		case name == "Pragma":
			h[name] = []string{"no-cache"}
		case IsCachePolicy(name):
			delete(h, name)
		}
	}
}

// IsCacheHeader is IsCachePolicy, and Cache-Control as well.
func IsCacheHeader(name string) bool { return name == "Cache-Control" || IsCachePolicy(name) }

// IsCachePolicy reports whether caches read in that header, too, how long they may keep an answer: the
// standard's, those for a CDN (RFC 9213), whose names end alike, and those of Varnish, Akamai
// and nginx.
func IsCachePolicy(name string) bool {
	if len(name) < len("Pragma") {
		return false
	}
	switch name[0] | 0x20 {
	case 'e':
		return strings.EqualFold(name, "Expires") || strings.EqualFold(name, "Edge-Control")
	case 'p':
		return strings.EqualFold(name, "Pragma")
	case 's':
		if strings.EqualFold(name, "Surrogate-Control") {
			return true
		}
	case 'x':
		if strings.EqualFold(name, "X-Accel-Expires") {
			return true
		}
	}
	const suffix = "Cache-Control"
	return len(name) > len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix)
}
