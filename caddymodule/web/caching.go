package web

import (
	"net/http"
	"net/textproto"
	"strings"
)

// neverCached is the Cache-Control of the gate's own pages: no cache stores them, and no proxy
// rewrites them, because their Content-Security-Policy allows exactly the scripts and styles that
// were sent (RFC 9111, 5.2.2.5 and 5.2.2.6). A CDN that hides email addresses until its script has
// run would hide them forever.
const neverCached = "no-store, no-transform"

// SetNeverCached marks a response of the gate's own. It overrides cache headers that an earlier
// handler has set for the whole site.
func SetNeverCached(h http.Header) {
	dropCachePolicies(h)
	h["Cache-Control"] = []string{neverCached}
}

// KeepPersonal limits the caching of a response to one person or visit, whatever the portal says:
// no shared cache stores it, and the browser's cache revalidates it with the gate before each use
// (RFC 9111, 3.5 and 5.2.2). With shared, for a shared computer, no cache stores it at all. The
// portal's own no-store and no-transform stay.
//
// It removes the portal's other cache headers: a cache that reads one of them would prefer it to
// Cache-Control (RFC 9213, 2.2).
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
	h["Cache-Control"] = []string{policy} // a new slice: Caddy's header handler may change a value in place
}

// dropCachePolicies removes or clears all headers other than Cache-Control that allow caches to
// store a response.
func dropCachePolicies(h http.Header) {
	for name := range h {
		switch {
		case name == "Cache-Control":
		case name == "Expires":
			h[name] = []string{"0"} // for HTTP/1.0 caches: the response is stale
		case name == "Pragma":
			h[name] = []string{"no-cache"}
		case IsCachePolicy(name):
			delete(h, name)
		}
	}
}

// IsCacheHeader reports whether the header is Cache-Control or a cache policy.
func IsCacheHeader(name string) bool { return name == "Cache-Control" || IsCachePolicy(name) }

// IsCachePolicy reports whether the header, other than Cache-Control, tells some cache how long it
// may store a response: the standard's, those for CDNs (RFC 9213), which share a suffix, and those
// of Varnish, Akamai and nginx.
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
