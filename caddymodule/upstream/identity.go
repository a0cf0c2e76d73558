package upstream

import (
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// StripIdentity removes whatever a visitor sends under a name that the portal could
// take for the gate's word, in any spelling, on every request, signed in or not.
func StripIdentity(r *http.Request) {
	h := r.Header
	for name := range h {
		if reserved(name) {
			delete(h, name)
		}
	}
	if lines := h["Authorization"]; len(lines) > 0 && slices.ContainsFunc(lines, isServiceToken) {
		delete(h, "Authorization") // it is for our own pages, and the portal's log isn't to have it
	}
	// Caddy deletes the headers that Connection names, ours among them, after we set
	// them: a visitor could make their own identity vanish (CVE-2024-45410).
	if lines := h["Connection"]; len(lines) > 0 {
		stripConnection(h, lines)
	}
	if upgrade := h["Upgrade"]; len(upgrade) > 0 && !(len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket")) {
		// A portal that switches to HTTP/2 or to TLS would take further requests unseen.
		delete(h, "Upgrade")
		delete(h, "Http2-Settings")
	}
	// Trailers come after we have looked, and reach the portal as headers do. No
	// browser sends any, so none goes on.
	r.Trailer = nil
	delete(h, "Trailer")
}

// isServiceToken reports whether a header's value is a service token of ours.
func isServiceToken(value string) bool {
	_, text, _ := strings.Cut(value, " ")
	return strings.HasPrefix(strings.TrimSpace(text), serviceTokenPrefix)
}

// serviceTokenPrefix is servicetoken.Prefix.
const serviceTokenPrefix = "doorpost_"

func stripConnection(h http.Header, lines []string) {
	var keep []string
	for _, line := range lines {
		for option := range strings.SplitSeq(line, ",") {
			option = textproto.TrimString(option)
			if !httpguts.ValidHeaderFieldName(option) || reserved(option) || protectedOption(option) {
				continue
			}
			keep = append(keep, option)
		}
	}
	if keep == nil {
		delete(h, "Connection")
		return
	}
	h["Connection"] = []string{strings.Join(keep, ", ")}
}

// protectedOption names further headers that the portal relies on and that Connection
// must not take away.
func protectedOption(option string) bool {
	option = strings.ToLower(option)
	return foldedPrefix(option, "x-forwarded-") || option == "cookie" || option == "host" ||
		option == "content-length" || option == "transfer-encoding"
}

// reserved reports whether a header is the gate's alone to set. Applications fold
// case, and characters such as "_" and ".", into one (CGI does), so we fold them all.
func reserved(name string) bool {
	if len(name) < len("proxy") {
		return false
	}
	switch name[0] | 0x20 {
	case 'p':
		return foldedPrefix(name, "portal-") || SameName(name, "proxy") || SameName(name, "path-info")
	case 's':
		return SameName(name, "script-name") // which Gunicorn takes off the front of the path
	case 'd':
		return SameName(name, "daphne-root-path")
	case 'r':
		return foldedPrefix(name, "remote-") &&
			(SameName(name, "remote-user") || SameName(name, "remote-email") || SameName(name, "remote-name") || SameName(name, "remote-groups"))
	case 'f':
		return SameName(name, "forwarded")
	case 'x':
		if !foldedPrefix(name, "x-") {
			return false
		}
		if foldedPrefix(name, "x-auth-request-") {
			return true
		}
		for _, bad := range [...]string{"x-forwarded-user", "x-forwarded-email", "x-forwarded-prefix", "x-forwarded-uri",
			"x-forwarded-method", "x-forwarded-groups", "x-forwarded-preferred-username", "x-forwarded-access-token",
			"x-sendfile-type", "x-accel-mapping", // by which Rack finds files
			"x-original-url", "x-rewrite-url", "x-original-uri", "x-remote-user",
			"x-script-name", "x-forwarded-script-name", "x-forwarded-path", "x-forwarded-pathbase", "x-traversal-path", "x-vhm-root", "x-vhm-host"} { // by which Python's and Perl's portals move paths
			if SameName(name, bad) {
				return true
			}
		}
		// X_Forwarded_For and the like: only the hyphen form is Caddy's to rebuild.
		return foldedPrefix(name, "x-forwarded-") && strings.ContainsFunc(name, func(c rune) bool {
			return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
		})
	}
	return false
}

// SameName reports whether a header's name is the wanted one, as reserved compares them; want is in small
// letters, with hyphens.
func SameName(name, want string) bool { return len(name) == len(want) && foldedPrefix(name, want) }

func foldedPrefix(name, want string) bool {
	if len(name) < len(want) {
		return false
	}
	for i := range len(want) {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		default:
			c = '-'
		}
		if c != want[i] {
			return false
		}
	}
	return true
}

// IdentityHeaders are the headers that tell the portal who is signed in. Besides these there is
// Portal-Groups-Omitted, in the place of Remote-Groups.
var IdentityHeaders = [...]string{"Remote-User", "Remote-Email", "Remote-Name", "Remote-Groups",
	"Portal-Role", "Portal-Firm", "Portal-Company", "Portal-Assertion"}

// Wanted are the names of those IdentityHeaders that the portal gets; none: all of them.
type Wanted []string

// Has reports whether the portal gets the header.
func (w Wanted) Has(name string) bool { return len(w) == 0 || slices.Contains(w, name) }

// Identity is what the portal is told about a visitor, made once and used for every
// request of theirs: header names in canonical form, each with its one value. A value
// that the contact doesn't have is no entry.
type Identity []struct{ name, value string }

// Add adds a header, unless nothing of its value may stand in one.
func (id *Identity) Add(name, value string) {
	if value = HeaderValue(value); value != "" {
		*id = append(*id, struct{ name, value string }{name, value})
	}
}

// SetOn writes the identity into a request's header, with the assertion and the
// company that the request is about, where there are such. The values are the request's own: handlers behind us
// may change a value in place.
func (id Identity) SetOn(h http.Header, assertion, company string) {
	values := make([]string, len(id)+2) // one piece of memory for all
	for i, one := range id {
		values[i] = one.value
		h[one.name] = values[i : i+1 : i+1]
	}
	values = values[len(id):]
	values[0], values[1] = assertion, company
	for i, name := range [...]string{"Portal-Assertion", "Portal-Company"} {
		if values[i] != "" {
			h[name] = values[i : i+1 : i+1]
		}
	}
}

// MaxIdentity is how many bytes the identity headers of a request may have together, with their
// names and the assertion: what a server takes beside an ordinary request where all headers
// may have 8 KiB, as with Tomcat. (Node takes 16 KiB, Apache and nginx 8 KiB a line.)
const MaxIdentity = 6 << 10

// LongestID is as long as a company's id can be.
var LongestID = strings.Repeat("x", 63)

// Without returns the identity without one of its headers.
func (id Identity) Without(name string) Identity {
	return slices.DeleteFunc(id, func(one struct{ name, value string }) bool { return one.name == name })
}

// Size is how many bytes the headers have.
func (id Identity) Size() (n int) {
	for _, one := range id {
		n += len(one.name) + len(": ") + len(one.value) + len("\r\n")
	}
	return n
}

// HeaderValue keeps what may stand in a header: UTF-8 without control characters. (A line break
// would begin a header of its own.) It is as long as s: what a contact may be called is limited
// where it comes in.
func HeaderValue(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
}
