package legacy

import (
	"net/url"
	"strings"
)

// Most URLs of a portal have nothing to do with its old links. Match can find something only if
// some portal would see the fixed part of a pattern, or the name of its parameter. So a URL of
// plain characters that contains no literal of the patterns matches nothing; a fast search for the
// literals finds that out.

// literals are substrings of the patterns, of lower-case letters and digits, which all portals read
// alike. If they aren't known, every URL needs the full match.
type literals struct {
	known   bool
	token   []string // a URL with a token contains one of these
	company []string // a company's path contains one of these before the company
}

// literalsOf returns the literals of the patterns. They aren't known if one pattern matches almost
// any path.
func literalsOf(patterns []*pattern) (a literals) {
	for _, s := range patterns {
		to := &a.token
		if s.slot == companySlot {
			to = &a.company
		}
		word := ""
		fixed := s.segments
		if s.slotIndex >= 0 {
			fixed = s.segments[:s.slotIndex]
		}
		for _, g := range fixed {
			for _, stem := range stems(g.pre) {
				word = longer(word, longestRun(stem))
			}
		}
		if word == "" {
			return literals{}
		}
		*to = append(*to, word)
		if s.name != "" {
			name := longestRun(canonical(s.name))
			if name == "" {
				return literals{}
			}
			*to = append(*to, name)
		}
	}
	a.known = len(patterns) > 0
	return a
}

// longestRun returns the longest run of ASCII letters and digits in a folded text.
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

// maxQuickLength limits the path and the query for quickMatch.
const maxQuickLength = 256

// quickMatch is match for URLs that the literals can classify; otherwise ok is false.
func (r *Rules) quickMatch(u *url.URL) (v Verdict, ok bool) {
	if !r.literals.known || u.RawPath != "" || len(u.Path) > maxQuickLength || len(u.RawQuery) > maxQuickLength || !isPlainPath(u.Path) {
		return none, false
	}
	var buf [maxQuickLength]byte
	p, plain := lower(buf[:], u.Path)
	if !plain {
		return none, false
	}
	var queryBuf [maxQuickLength]byte
	query, plain := lower(queryBuf[:], u.RawQuery)
	if !plain || hasAny(p, r.literals.token) || hasAny(query, r.literals.token) || hasAny(query, r.literals.company) {
		return none, false
	}
	where := p[:strings.LastIndexByte(strings.TrimSuffix(p, "/"), '/')+1] // the company's segment comes after the literal
	switch {
	case !hasAny(where, r.literals.company):
		return none, true
	case len(query) > 0:
		return none, false // there may be a token under another name
	}
	return r.quickMatchCompany(u)
}

// quickMatchCompany classifies a path that matches a company pattern exactly and contains no
// literal of a token: the text after the company then changes nothing.
func (r *Rules) quickMatchCompany(u *url.URL) (Verdict, bool) {
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

// isPlainPath reports whether all portals split the path into the same segments.
func isPlainPath(p string) bool {
	return strings.HasPrefix(p, "/") && !strings.Contains(p, "//") && !strings.Contains(p, "/.") && !strings.Contains(p, "./") && !strings.HasSuffix(p, ".")
}

// lower writes a text in lower case into buf, and reports whether all its characters stand for
// themselves in every portal's reading of a path or query.
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
