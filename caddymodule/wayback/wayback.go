// Package wayback makes of an untrusted URL a path that is safe to send people to once they have
// signed in, and seals the URLs that may hold the token of an old link, so that no page, form or
// Location of ours repeats one.
package wayback

import (
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
)

const (
	maxTo = 4 << 10 // bytes of a `to`
	// MaxSignIn is how many bytes of an old link are remembered while somebody signs in: sealed
	// they fit into a `to`.
	MaxSignIn = 2900
	// MaxMoved is how many bytes of a page's URL are remembered on the way to another origin of
	// ours, such as the one with TLS.
	MaxMoved = 4096

	// goPath is where sealed URLs lead, under the prefix.
	goPath  = "/go"
	purpose = "old-link" // of sealing
)

// Ways are the ways back of one firm. Set the fields in one literal before use.
type Ways struct {
	Firm   string
	Prefix string // of our own pages, such as "/-"
	// Places are the pages of ours, by their paths under the prefix, that a `to` may name.
	Places []string
	Legacy *legacy.Rules // nil: there are no old links
	Keys   *secret.Keyring
}

// Safe makes of an untrusted `to` a path on this site that is safe to send people to: never
// another origin, and of our own pages only Places and sealed old links of ours. Everything else
// becomes "/".
func (w *Ways) Safe(to string) string {
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
		if w.isOwn(decoded) && (u.Path != w.Prefix+goPath || !w.isSealed(u.RawQuery)) {
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

// Hidden is Safe for the ways back that our pages, their forms and Locations repeat: one that may
// have a token in it leads through a sealed URL.
func (w *Ways) Hidden(to string) string {
	to = w.Safe(to)
	u, err := url.Parse(to)
	if err != nil || !w.Legacy.Secret(u) {
		return to
	}
	fragment := u.EscapedFragment()
	sealed := w.Seal(u)
	if fragment != "" && len(sealed)+len("#")+len(fragment) <= maxTo {
		sealed += "#" + fragment
	}
	return sealed
}

// isOwn reports whether a path is that of a page of ours, but for Places.
func (w *Ways) isOwn(p string) bool {
	prefix := strings.ToLower(w.Prefix)
	return AnyReading(p, func(read string) bool {
		return Below(prefix, read) && !slices.Contains(w.Places, read[len(prefix):])
	})
}

// Below reports whether a path is the prefix or below it.
func Below(prefix, p string) bool {
	return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
}

// AnyReading reports whether is is true of a path as one of the more lenient readers would
// take it: cleaned, in small letters, with a backslash for a slash; with what is behind a
// semicolon, without it, or first the one and then, behind a browser, the other. These are
// for comparing alone.
func AnyReading(p string, is func(string) bool) bool {
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

// Seal returns the URL to which a visitor who opened u, which may have a token in it, is
// sent to sign in. It is as long as that of any other u of about this length.
func (w *Ways) Seal(u *url.URL) string { return w.SealPath(w.Remembered(u, MaxSignIn)) }

// SealPath is Seal for a path with its query.
func (w *Ways) SealPath(plain string) string {
	size := 256
	for size < len(plain) {
		size *= 2
	}
	if size == 4096 && len(plain) <= MaxSignIn {
		size = MaxSignIn
	}
	padded := make([]byte, size) // the rest are NULs, which no URL has
	copy(padded, plain)
	return w.Prefix + goPath + "?x=" + w.Keys.SealText(purpose, w.Firm, padded)
}

// IsSealedPath reports whether a path with a query, from Safe or Hidden, is a sealed one.
func (w *Ways) IsSealedPath(to string) bool { return strings.HasPrefix(to, w.Prefix+goPath+"?") }

// Remembered returns path and query as far as they fit into so many bytes: of a longer old link
// first its query is left out, then what it has behind the token.
func (w *Ways) Remembered(u *url.URL, most int) string {
	whole := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).RequestURI()
	if len(whole) <= most {
		return whole
	}
	shorter := []string{u.EscapedPath()}
	if v := w.Legacy.Match(u); v.Kind == legacy.Old {
		shorter = w.Legacy.Shorter(v)
	}
	for _, one := range shorter {
		if one != "" && len(one) <= most {
			return one
		}
	}
	return "/"
}

// isSealed reports whether a query is one that SealPath made.
func (w *Ways) isSealed(query string) bool {
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 {
		return false
	}
	_, ok := w.Open(values)
	return ok
}

// Open returns the URL that was sealed into a query, or false for one that we didn't seal.
func (w *Ways) Open(query url.Values) (*url.URL, bool) {
	if len(query["x"]) != 1 {
		return nil, false
	}
	padded, err := w.Keys.OpenText(purpose, w.Firm, query.Get("x"))
	if err != nil {
		return nil, false
	}
	u, err := url.ParseRequestURI(strings.TrimRight(string(padded), "\x00"))
	return u, err == nil
}
