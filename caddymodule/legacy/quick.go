package legacy

import (
	"net/url"
	"strings"
)

// Most URLs of a portal have nothing to do with its old links. Whatever Match finds, it finds where some
// reader sees the fixed part of a pattern, or the name of its parameter. A URL of plain characters that
// has no piece of these anywhere is an ordinary one, and is known to be by a look for these pieces.

// anchors are pieces of the patterns: small letters and digits, which every reader takes for
// themselves. The zero value knows nothing, and every URL is looked at closely.
type anchors struct {
	known   bool
	token   []string // a token stands only in a URL that has one of these
	company []string // and a company only behind one of these
}

// anchorsOf returns those of the shapes; unknown where one of them takes almost any path.
func anchorsOf(shapes []*shape) (a anchors) {
	for _, s := range shapes {
		to := &a.token
		if s.slot == companySlot {
			to = &a.company
		}
		word := ""
		fixed := s.segs
		if s.open >= 0 {
			fixed = s.segs[:s.open]
		}
		for _, g := range fixed {
			for _, stem := range stems(g.pre) {
				word = longer(word, longestRun(stem))
			}
		}
		if word == "" {
			return anchors{}
		}
		*to = append(*to, word)
		if s.name != "" {
			name := longestRun(canonical(s.name))
			if name == "" {
				return anchors{}
			}
			*to = append(*to, name)
		}
	}
	a.known = len(shapes) > 0
	return a
}

// longestRun returns the longest run of letters and digits of ASCII in a folded text.
func longestRun(folded string) (run string) {
	for one := range strings.FieldsFuncSeq(folded, func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') }) {
		run = longer(run, one)
	}
	return run
}

func longer(a, b string) string {
	if len(b) > len(a) {
		return b
	}
	return a
}

// mostQuick is how long a path, and a query, may be for a quick look.
const mostQuick = 256

// quick is match for URLs that it can judge by their anchors; else ok is false.
func (r *Rules) quick(u *url.URL) (v Verdict, ok bool) {
	if !r.anchors.known || u.RawPath != "" || len(u.Path) > mostQuick || len(u.RawQuery) > mostQuick || !isPlainPath(u.Path) {
		return none, false
	}
	var buf [mostQuick]byte
	p, plain := lower(buf[:], u.Path)
	if !plain {
		return none, false
	}
	var queryBuf [mostQuick]byte
	query, plain := lower(queryBuf[:], u.RawQuery)
	if !plain || hasAny(p, r.anchors.token) || hasAny(query, r.anchors.token) || hasAny(query, r.anchors.company) {
		return none, false
	}
	where := p[:strings.LastIndexByte(strings.TrimSuffix(p, "/"), '/')+1] // a company stands in a segment behind its anchor
	switch {
	case !hasAny(where, r.anchors.company):
		return none, true
	case len(query) > 0:
		return none, false // there may be a token under another name
	}
	return r.quickCompany(u)
}

// quickCompany judges a path that fits the shape of a company exactly, and has no anchor of a token in
// it: what stands behind the company changes nothing then.
func (r *Rules) quickCompany(u *url.URL) (Verdict, bool) {
	for i := range r.links {
		l := &r.links[i]
		fill, at, f := l.to.match(u.Path)
		switch {
		case f != exact || !isID(fill) || strings.HasSuffix(fill, "."):
		case l.forwardNew:
			return Verdict{Kind: Company, Company: strings.ToLower(fill)}, true
		default:
			return Verdict{Kind: New, Company: strings.ToLower(fill), Tail: l.to.tailOf(u, at), link: i}, true
		}
	}
	for _, s := range r.companies {
		if fill, _, f := s.match(u.Path); f == exact && isID(fill) && !strings.HasSuffix(fill, ".") {
			return Verdict{Kind: Company, Company: strings.ToLower(fill)}, true
		}
	}
	return none, false
}

// isPlainPath reports whether every reader takes the path for the same segments.
func isPlainPath(p string) bool {
	return strings.HasPrefix(p, "/") && !strings.Contains(p, "//") && !strings.Contains(p, "/.") && !strings.Contains(p, "./") && !strings.HasSuffix(p, ".")
}

// lower writes a text in small letters into buf, and reports whether it has only characters that mean
// themselves to every reader of a path or query.
func lower(buf []byte, s string) (string, bool) {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '/', c == '-', c == '_', c == '.', c == '~', c == '=', c == '&', c == ',':
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		default:
			return "", false
		}
		buf[i] = c
	}
	return string(buf[:len(s)]), true
}

func hasAny(text string, all []string) bool {
	for _, one := range all {
		if strings.Contains(text, one) {
			return true
		}
	}
	return false
}
