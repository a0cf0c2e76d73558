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

// StripIdentity removes all headers of a visitor that the portal could take for the gate's, in any
// spelling. It must run for every request, signed in or not.
func StripIdentity(r *http.Request) {
	h := r.Header
	for name := range h {
		if isReserved(name) {
			delete(h, name)
		}
	}
	if lines := h["Authorization"]; len(lines) > 0 && slices.ContainsFunc(lines, isServiceToken) {
		delete(h, "Authorization") // meant for the gate's own pages; the portal's log must not contain it
	}
	// Caddy deletes the headers that Connection names, including ours, after we set them: visitors
	// could remove their own identity (CVE-2024-45410).
	if lines := h["Connection"]; len(lines) > 0 {
		stripConnection(h, lines)
	}
	if upgrade := h["Upgrade"]; len(upgrade) > 0 && !(len(upgrade) == 1 && strings.EqualFold(upgrade[0], "websocket")) {
		// A portal that switches to HTTP/2 or TLS would accept further requests past the gate.
		delete(h, "Upgrade")
		delete(h, "Http2-Settings")
	}
	// Trailers arrive after this check and reach the portal like headers. Browsers don't send any,
	// so all are removed.
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
			if !httpguts.ValidHeaderFieldName(option) || isReserved(option) || isProtectedOption(option) {
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

// isProtectedOption reports whether Connection must not name this header, although visitors may
// send it, because the portal relies on it.
func isProtectedOption(option string) bool {
	option = strings.ToLower(option)
	return foldedPrefix(option, "x-forwarded-") || option == "cookie" || option == "host" ||
		option == "content-length" || option == "transfer-encoding"
}

// isReserved reports whether only the gate may set a header. Applications fold case and characters
// such as "_" and "." (CGI does), so all of these are folded.
func isReserved(name string) bool {
	if len(name) < len("proxy") {
		return false
	}
	switch name[0] | 0x20 {
	case 'p':
		return foldedPrefix(name, "portal-") || SameName(name, "proxy") || SameName(name, "path-info")
	case 's':
		return SameName(name, "script-name") // Gunicorn removes it from the front of the path
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
			"x-sendfile-type", "x-accel-mapping", // Rack finds files by these
			"x-original-url", "x-rewrite-url", "x-original-uri", "x-remote-user",
			"x-script-name", "x-forwarded-script-name", "x-forwarded-path", "x-forwarded-pathbase", "x-traversal-path", "x-vhm-root", "x-vhm-host"} { // Python and Perl portals change paths by these
			if SameName(name, bad) {
				return true
			}
		}
		// X_Forwarded_For and the like: Caddy rebuilds only the form with hyphens.
		return foldedPrefix(name, "x-forwarded-") && strings.ContainsFunc(name, func(c rune) bool {
			return c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z')
		})
	}
	return false
}

// SameName reports whether a header's name is want, compared as in isReserved. want must be in
// lower case with hyphens.
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

// IdentityHeaders are the headers that tell the portal who is signed in. Portal-Groups-Omitted may
// take the place of Remote-Groups.
var IdentityHeaders = [...]string{"Remote-User", "Remote-Email", "Remote-Name", "Remote-Groups",
	"Portal-Role", "Portal-Firm", "Portal-Company", "Portal-Assertion"}

// Wanted are the IdentityHeaders that the portal receives; empty means all of them.
type Wanted []string

// Has reports whether the portal receives the header.
func (w Wanted) Has(name string) bool { return len(w) == 0 || slices.Contains(w, name) }

// Identity is a list of headers about a visitor, built once and used for all of their requests.
// Names are in canonical form, each with one value; headers without a value are left out.
type Identity []struct{ name, value string }

// Add adds a header, unless its value is empty after HeaderValue.
func (id *Identity) Add(name, value string) {
	if value = HeaderValue(value); value != "" {
		*id = append(*id, struct{ name, value string }{name, value})
	}
}

// SetOn writes the identity into a request's header, together with the assertion and the request's
// company if they aren't empty. The values belong to the request: later handlers may change them in
// place.
func (id Identity) SetOn(h http.Header, assertion, company string) {
	values := make([]string, len(id)+2) // one allocation for all
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

// MaxIdentity is the limit in bytes of a request's identity headers together, with their names and
// the assertion: the space that remains beside an ordinary request in a server with a limit of 8
// KiB for all headers, such as Tomcat. (Node allows 16 KiB, Apache and nginx 8 KiB per line.)
const MaxIdentity = 6 << 10

// LongestID is a company id of the maximum length.
var LongestID = strings.Repeat("x", 63)

// Without returns the identity without the given header.
func (id Identity) Without(name string) Identity {
	return slices.DeleteFunc(id, func(one struct{ name, value string }) bool { return one.name == name })
}

// Size returns the size of the headers in bytes.
func (id Identity) Size() (n int) {
	for _, one := range id {
		n += len(one.name) + len(": ") + len(one.value) + len("\r\n")
	}
	return n
}

// HeaderValue returns s without characters that aren't allowed in a header: only UTF-8 without
// control characters remains. (A line break would begin another header.) It doesn't limit the
// length; the directory limits names.
func HeaderValue(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
}
