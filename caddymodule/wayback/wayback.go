// Package wayback turns an untrusted URL into a path on this site that is safe to redirect to after
// sign-in. It also seals URLs that may contain the token of an old link, so that no page, form or
// Location header of the gate repeats a token.
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
	maxTo = 4 << 10 // bytes of the parameter to
	// MaxSignIn is the number of bytes of an old link that are kept during sign-in; sealed, they
	// fit into the parameter to.
	MaxSignIn = 2900
	// MaxMoved is the number of bytes of a page's URL that are kept during a redirect to another
	// origin of the site, such as the one with TLS.
	MaxMoved = 4096

	// goPath is the path of sealed URLs, under the prefix.
	goPath  = "/go"
	purpose = "old-link" // of sealed text
)

// Ways handles the return URLs of one firm. Set the fields in one literal before use.
type Ways struct {
	Firm   string
	Prefix string // of the gate's own pages, such as "/-"
	// AllowedPages are the gate's own pages, as paths under the prefix, that a return URL may name. An
	// entry that ends with "/*" allows any one further segment of lower-case letters and digits.
	AllowedPages []string
	Legacy       *legacy.Rules // nil if there are no old links
	Keys         *secret.Keyring
}

// Safe returns an untrusted return URL as a path that is safe to redirect to: never on another
// origin, and of the gate's own pages only AllowedPages and old links sealed by this package. It
// returns "/" for everything else.
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
	// Some readers decode before they resolve, so the decoded text must be safe too.
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
		if w.isReserved(decoded) && (u.Path != w.Prefix+goPath || !w.isSealed(u.RawQuery)) {
			return home
		}
		next, err := url.PathUnescape(decoded)
		if err != nil || next == decoded {
			break
		}
		decoded = next
	}
	if to = u.String(); len(to) > maxTo { // escaping may have made it longer
		return home
	}
	return to
}

// SafeSealed is Safe for return URLs that pages, forms and Location headers repeat: a URL that may
// contain a token is sealed.
func (w *Ways) SafeSealed(to string) string {
	to = w.Safe(to)
	u, err := url.Parse(to)
	if err != nil || !w.Legacy.MayHoldToken(u) {
		return to
	}
	fragment := u.EscapedFragment()
	sealed := w.Seal(u)
	if fragment != "" && len(sealed)+len("#")+len(fragment) <= maxTo {
		sealed += "#" + fragment
	}
	return sealed
}

// isReserved reports whether a path is one of the gate's own pages other than AllowedPages.
func (w *Ways) isReserved(p string) bool {
	prefix := strings.ToLower(w.Prefix)
	return AnyReading(p, func(read string) bool {
		return Below(prefix, read) && !slices.ContainsFunc(w.AllowedPages, func(page string) bool { return isPage(page, read[len(prefix):]) })
	})
}

// isPage reports whether p matches page, an entry of AllowedPages.
func isPage(page, p string) bool {
	folder, many := strings.CutSuffix(page, "*")
	if !many {
		return p == page
	}
	last, below := strings.CutPrefix(p, folder)
	return below && last != "" && !strings.ContainsFunc(last, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

// Below reports whether a path is the prefix or below it.
func Below(prefix, p string) bool {
	return strings.HasPrefix(p, prefix) && (len(p) == len(prefix) || p[len(prefix)] == '/')
}

// AnyReading reports whether is returns true for any lenient reading of a path: cleaned, in lower
// case, with slashes for backslashes, and without the text after semicolons, removed before or
// after cleaning. These readings are only for comparison.
func AnyReading(p string, is func(string) bool) bool {
	p = strings.ToLower(p)
	if strings.Contains(p, `\`) {
		p = strings.ReplaceAll(p, `\`, "/")
	}
	clean := path.Clean(p)
	return is(clean) || strings.Contains(p, ";") && (is(withoutParameters(p)) || is(withoutParameters(clean)))
}

// withoutParameters returns a path without the text after a semicolon in each segment, cleaned.
func withoutParameters(p string) string {
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return path.Clean(strings.Join(segments, "/"))
}

// Seal returns the URL to which a visitor who opened u, which may contain a token, is sent to sign
// in. Its length depends only roughly on that of u.
func (w *Ways) Seal(u *url.URL) string { return w.SealPath(w.Shortened(u, MaxSignIn)) }

// SealPath is Seal for a path with its query.
func (w *Ways) SealPath(plain string) string {
	size := 256
	for size < len(plain) {
		size *= 2
	}
	if size == 4096 && len(plain) <= MaxSignIn {
		size = MaxSignIn
	}
	padded := make([]byte, size) // padded with NULs, which no URL contains
	copy(padded, plain)
	return w.Prefix + goPath + "?x=" + w.Keys.SealText(purpose, w.Firm, padded)
}

// IsSealedPath reports whether a path with a query, returned by Safe or SafeSealed, is a sealed
// one.
func (w *Ways) IsSealedPath(to string) bool { return strings.HasPrefix(to, w.Prefix+goPath+"?") }

// Shortened returns path and query of u in at most max bytes. From a longer old link it removes
// first the query, then the part after the token.
func (w *Ways) Shortened(u *url.URL, max int) string {
	whole := (&url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}).RequestURI()
	if len(whole) <= max {
		return whole
	}
	shorter := []string{u.EscapedPath()}
	if v := w.Legacy.Match(u); v.Kind == legacy.Old {
		shorter = w.Legacy.Shorter(v)
	}
	for _, one := range shorter {
		if one != "" && len(one) <= max {
			return one
		}
	}
	return "/"
}

// isSealed reports whether a query was made by SealPath.
func (w *Ways) isSealed(query string) bool {
	values, err := url.ParseQuery(query)
	if err != nil || len(values) != 1 {
		return false
	}
	_, ok := w.Open(values)
	return ok
}

// Open returns the URL that was sealed into a query; ok is false if this package didn't seal it.
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
