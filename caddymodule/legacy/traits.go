package legacy

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

// Portals parse the same path in different ways: they decode it again, cut it off at a semicolon,
// drop a dot at the end of a name, or go up for two dots. This package distinguishes two kinds of
// such paths:
//
//   - A path shifts if some portals drop a segment or split it into several. It can't be classified.
//   - A path is odd if it doesn't shift, but some portals read less in a segment than was sent,
//     such as `Report #7.pdf`, `5%25 off.pdf`, `orders;v=1` or `Smith & Co.`. All portals find
//     each segment in the same place, so the company is certain if its own segment is plain.

// pathTraits are the traits of a path's characters.
type pathTraits struct {
	shifts  bool // portals split it into different segments
	odd     bool // portals disagree on the content of a segment
	foreign bool // it has non-ASCII characters
	script  bool // some segment other than the last could be a program that gets the rest of the path
	bracket bool // it has an opening parenthesis
}

// traitsOf returns the traits of a path that is decoded once. raw is the path as sent, or "".
func traitsOf(p, raw string) pathTraits {
	l := asciiTraits(p)
	if !l.shifts && raw != "" && hasEscapedSlash(raw) {
		l.shifts = true
	}
	if l.foreign && !l.shifts {
		like := foreignTraits(p)
		l.shifts, l.odd = like.shifts, l.odd || like.odd
	}
	if l.odd && !l.shifts && strings.Contains(p, "%") {
		l.shifts = shiftsDecoded(p)
	}
	return l
}

func asciiTraits(p string) (l pathTraits) {
	dots := false  // the segment has a dot
	solid := false // the segment has a character other than dot and space
	from := 1      // start of the segment
	cut := false   // some portals cut off the rest of the segment
	for i := range len(p) {
		switch c := p[i]; {
		case c < 0x20 || c == 0x7f || c == '\\':
			return pathTraits{shifts: true}
		case c == '/' && i > 0:
			if i == from || !solid && !cut {
				return pathTraits{shifts: true}
			}
			l.odd = l.odd || p[i-1] == '.' || p[i-1] == ' '
			l.script = l.script || dots
			dots, solid, cut, from = false, false, false, i+1
		case c == '/': // the root
		case c == ';' || c == ':' && (p[i-1] == ':' || i+1 < len(p) && p[i+1] == '$'): // an NTFS stream: file.php::$DATA, folder:$I30:$INDEX_ALLOCATION
			if !solid && !cut {
				return pathTraits{shifts: true}
			}
			l.odd, cut = true, true
		case c == '?' || c == '#': // for portals that decode before parsing, the path ends here
			if !solid && !cut && i > from {
				return pathTraits{shifts: true}
			}
			l.odd, cut = true, true
		case c == '%':
			l.odd, solid = true, true
		case c == '.':
			dots = true
		case c == ' ':
		case c == '(':
			l.bracket, solid = true, true
		case c >= 0x80:
			l.foreign, solid = true, true
		case c == ':' && i+1 < len(p) && p[i+1] == ':': // handled with the second colon
		default:
			solid = true
		}
	}
	if len(p) > from && !solid && !cut {
		return pathTraits{shifts: true}
	}
	if last := p[len(p)-1]; last == '.' || last == ' ' {
		l.odd = true
	}
	return l
}

// isOdd reports whether portals disagree on the content of a segment.
func isOdd(segment string) bool {
	segment = bestFit(segment)
	return strings.ContainsAny(segment, ";?#%") || isStream(segment) || strings.HasSuffix(segment, ".") || strings.HasSuffix(segment, " ")
}

// isStream reports whether a segment could name an NTFS stream. The default stream is the file or
// folder itself.
func isStream(segment string) bool {
	return strings.Contains(segment, "::") || strings.Contains(segment, ":$")
}

// bestFit returns a text as seen by portals that replace characters by similar ASCII characters
// (best fit, as on Windows) and accept overlong UTF-8.
func bestFit(s string) string {
	if isASCII(s) {
		return s
	}
	return norm.NFKD.String(decodeOverlong(s))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// decodeOverlong decodes overlong UTF-8 in a text, as lenient portals do.
func decodeOverlong(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if n, r := tokensearch.Overlong(s[i:]); n > 0 {
			b.WriteRune(r)
			i += n
			continue
		}
		b.WriteByte(s[i])
		i++
	}
	return b.String()
}

// currencyAsBackslash replaces the currency signs that some Windows code pages have in place of the
// backslash.
var currencyAsBackslash = strings.NewReplacer("¥", `\`, "₩", `\`)

// foreignTraits returns the traits of a path for portals that use best fit and for portals that
// accept overlong UTF-8.
func foreignTraits(p string) pathTraits {
	for i := range len(p) {
		if n, _ := tokensearch.Overlong(p[i:]); n > 0 {
			return pathTraits{shifts: true}
		}
	}
	q := bestFit(p)
	l := asciiTraits(q)
	l.shifts = l.shifts || strings.Count(q, "/") != strings.Count(p, "/") || climbsAfterCurrency(q)
	return l
}

// climbsAfterCurrency reports whether a path goes up for portals that read a currency sign as a
// backslash. The sign by itself, as in `¥100.pdf`, is harmless.
func climbsAfterCurrency(p string) bool {
	q := currencyAsBackslash.Replace(p)
	if q == p {
		return false
	}
	for name := range strings.FieldsFuncSeq(q, func(r rune) bool { return r == '/' || r == '\\' }) {
		if strings.Trim(name, ". ") == "" {
			return true
		}
	}
	return false
}

// IsPlain reports whether no portal reads a non-ASCII character of the decoded path as one that
// separates segments, ends them, or goes up.
func IsPlain(p string) bool {
	if isASCII(p) {
		return true
	}
	for i := range len(p) {
		if p[i] == 0xc0 || p[i] == 0xc1 { // never in UTF-8; lenient portals combine it with the next byte, whatever that is
			return false
		}
	}
	l := foreignTraits(p)
	return !l.shifts && !l.odd && currencyAsBackslash.Replace(bestFit(p)) == bestFit(p)
}

// shiftsDecoded reports whether a path shifts for portals that decode it once or several times
// more.
func shiftsDecoded(p string) bool {
	slashes := strings.Count(p, "/")
	for range 5 {
		if mayHaveWide(p) && wideEscapes.MatchString(p) {
			return true
		}
		next, _ := unescape(p, false)
		if next == p {
			return false
		}
		p = next
		if strings.Count(p, "/") != slashes || asciiTraits(p).shifts || foreignTraits(p).shifts || strings.Contains(p, "(") && cookieless.MatchString(p) {
			return true
		}
	}
	return true // no real path is encoded so many times
}

// wideEscapes matches ASP.NET's escapes, such as %u002e.
var wideEscapes = regexp.MustCompile(`%[uU][0-9a-fA-F]{4}`)

// mayHaveWide is a fast check for such escapes.
func mayHaveWide(s string) bool { return strings.Contains(s, "%u") || strings.Contains(s, "%U") }

func unescapeWide(s string) string {
	if !mayHaveWide(s) {
		return s
	}
	return wideEscapes.ReplaceAllStringFunc(s, func(escape string) string {
		n, _ := strconv.ParseUint(escape[2:], 16, 16) // the expression ensures four hex digits
		return string(rune(n))
	})
}

func hasEscapedSlash(raw string) bool {
	for i := strings.IndexByte(raw, '%'); i >= 0 && i+2 < len(raw); {
		if c := raw[i+2] | 0x20; raw[i+1] == '2' && c == 'f' || raw[i+1] == '5' && c == 'c' {
			return true
		}
		next := strings.IndexByte(raw[i+1:], '%')
		if next < 0 {
			break
		}
		i += next + 1
	}
	return false
}

// Servlet containers append a session's id to the path of every link and redirect of their first
// response, because they don't know yet whether the browser accepts cookies (Jakarta Servlet 6.0,
// 7.1.3).
const sessionName = ";jsessionid="

// cutSession returns the URL without a session id at the end of its path, and the id as sent, with
// its name. If there is none it returns u and "".
func cutSession(u *url.URL) (bare *url.URL, session string) {
	i := strings.LastIndexByte(u.Path, ';')
	if i < 0 || len(u.Path)-i <= len(sessionName) || !strings.EqualFold(u.Path[i:i+len(sessionName)], sessionName) {
		return u, ""
	}
	session = u.Path[i:]
	if !isSession(session[len(sessionName):]) || !strings.HasSuffix(u.EscapedPath(), session) {
		return u, ""
	}
	cut := *u
	cut.Path = u.Path[:i]
	if u.RawPath != "" {
		cut.RawPath = strings.TrimSuffix(u.RawPath, session)
	}
	return &cut, session
}

// WithoutSession returns the URL without a servlet container's session id at the end of its path.
// If there is none it returns u itself.
func WithoutSession(u *url.URL) *url.URL {
	bare, _ := cutSession(u)
	return bare
}

// isSession reports whether a text can be a session id, including the server names that containers
// append.
func isSession(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.!:+~", rune(c)) {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 256
}

// cookieless matches the parts that ASP.NET removes from any place in a path: a session id or
// ticket for browsers without cookies, /(S(abc))/ and, before version 2, /(abc)/.
var cookieless = regexp.MustCompile(`\((?:[A-Za-z]\([^()/]*\))+\)|/\([a-z0-9]{24}\)(?:/|$)`)

// withoutCookieless classifies a path again as ASP.NET reads it. v is the verdict for other
// portals.
func (r *Rules) withoutCookieless(v Verdict, u *url.URL) Verdict {
	found := cookieless.FindAllStringIndex(u.Path, 2)
	switch len(found) {
	case 0:
		return v
	case 2:
		return Verdict{} // a URL has at most one, and portals need not agree on which
	}
	before, behind := u.Path[:found[0][0]], u.Path[found[0][1]:]
	for _, p := range []string{before + "/" + behind, before + behind, strings.TrimSuffix(before, "/") + behind} {
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		read := r.matchPath(&url.URL{Path: "/" + strings.TrimPrefix(p, "/"), RawQuery: u.RawQuery})
		if read.Kind != v.Kind || read.Token != v.Token || read.Company != v.Company || read.Lenient != v.Lenient || read.link != v.link {
			return Verdict{}
		}
		v.MisplacedTokens = append(v.MisplacedTokens, read.MisplacedTokens...)
		v.Routes = append(v.Routes, read.Routes...)
	}
	return v
}

// pathSegment is a segment of an odd path.
type pathSegment struct {
	text     string
	readings []string // what portals read in it, including text
}

// segmentsOf returns the segments of an odd path, without an empty one at the end.
func segmentsOf(p string) (all []pathSegment) {
	for text := range strings.SplitSeq(strings.TrimSuffix(p[1:], "/"), "/") {
		all = append(all, pathSegment{text, readingsOf(text)})
	}
	return all
}

func readingsOf(text string) (all []string) {
	add := func(s string) {
		for _, s := range []string{s, strings.TrimRight(s, ". ")} {
			if !slices.Contains(all, s) {
				all = append(all, s)
			}
			if stem, ext, dot := cutExtension(s); dot && isProgram(ext) && !slices.Contains(all, stem) {
				all = append(all, stem)
			}
		}
	}
	for range 5 {
		for _, text := range []string{text, bestFit(text)} {
			add(text)
			for _, end := range []string{";", "?", "#"} {
				if before, _, found := strings.Cut(text, end); found {
					add(before)
				}
			}
			if isStream(text) {
				before, _, _ := strings.Cut(text, ":")
				add(before)
			}
		}
		next, _ := unescape(text, false)
		if next == text {
			break
		}
		text = next
	}
	return all
}

// isProgram reports whether the segment could be a program.
func (g *pathSegment) isProgram() bool {
	return slices.ContainsFunc(g.readings, func(s string) bool { _, ext, dot := cutExtension(s); return dot && isProgram(ext) })
}

// prefixMatch is the result of comparing a pattern with the beginning of an odd path.
type prefixMatch uint8

const (
	noPrefix     prefixMatch = iota // matches for no portal
	likelyPrefix                    // matches for some portals
	exactPrefix                     // matches for all portals
)

// matchPrefix compares the beginning of an odd path with the pattern. fills are the possible
// readings of the slot, if it is in the path.
func (s *pattern) matchPrefix(all []pathSegment) (n prefixMatch, fills []string) {
	if len(all) < len(s.segments) {
		return noPrefix, nil
	}
	n = exactPrefix
	for i, g := range s.segments {
		one := all[i]
		if !g.hasSlot {
			switch {
			case strings.EqualFold(one.text, g.pre):
			case slices.ContainsFunc(one.readings, func(r string) bool { return fold(r) == fold(g.pre) }):
				n = likelyPrefix
			default:
				return noPrefix, nil
			}
			continue
		}
		for _, r := range one.readings {
			if len(r) > len(g.pre)+len(g.suf) && strings.EqualFold(r[:len(g.pre)], g.pre) && strings.EqualFold(r[len(r)-len(g.suf):], g.suf) {
				fills = append(fills, r[len(g.pre):len(r)-len(g.suf)])
			}
		}
		if s.slot == companySlot && s.tail && len(all) == len(s.segments) {
			// The pattern needs the slash, so this is a company's path only if a company has that
			// name.
			fills = slices.DeleteFunc(fills, func(id string) bool { return !isID(trimID(id)) })
		}
		if len(fills) == 0 {
			return noPrefix, nil
		}
		if isOdd(one.text) {
			n = likelyPrefix
		}
	}
	return n, fills
}

// trimID returns what a database may read as a company's id.
func trimID(text string) string {
	return strings.TrimFunc(fold(text), func(r rune) bool { return r == '+' || trimmed(r) }) // some portals decode a plus to a space
}

// matchOdd classifies an odd path.
func (r *Rules) matchOdd(p string, u *url.URL) Verdict {
	all := segmentsOf(p)
	for _, s := range r.all {
		switch n, _ := s.matchPrefix(all); {
		case s.name != "" && !s.names(u.RawQuery):
		case s.name != "" && n != exactPrefix && s.resemblesOdd(all), s.name == "" && n == likelyPrefix:
			return Verdict{}
		}
	}
	v := r.matchPlain(p, u)
	if v.Kind == Bad {
		return v
	}
	both := slices.Concat(r.all, r.variants)
	for at := 1; at < len(all); at++ {
		for i, s := range both {
			n, fills := s.matchPrefix(all[at:])
			if n == noPrefix || s.slotIndex < 0 {
				continue
			}
			if v.Kind == None && all[at-1].isProgram() && (i < len(r.all) || s.slotIndex > 0) {
				return Verdict{}
			}
			if s.slotIndex > 0 && (s.slot == tokenSlot || at <= maxSegmentsBefore) {
				addFills(&v, s, fills)
			}
		}
	}
	r.addOddVariants(&v, all)
	for range 5 { // portals that decode before parsing find a query in the path
		if _, query, found := strings.Cut(p, "?"); found {
			r.addStrays(&v, query)
			r.addRoutes(&v, query)
		}
		next, _ := unescape(p, false)
		if next == p {
			break
		}
		p = next
	}
	if len(v.MisplacedTokens) >= maxTokens || len(v.PossibleTokens) >= maxTokens || len(v.Routes) >= maxTokens {
		return Verdict{}
	}
	return v
}

// addFills adds the readings of a pattern's slot, for a match that isn't at the beginning of the
// path.
func addFills(v *Verdict, s *pattern, fills []string) {
	for _, fill := range fills {
		switch id := trimID(fill); {
		case s.slot == tokenSlot:
			v.addBeside(fill)
		case s.portalHas && isID(id) && id != v.Company && !slices.Contains(v.Routes, id):
			v.Routes = append(v.Routes, id)
		}
	}
}

// resemblesOdd is resembles for an odd path.
func (s *pattern) resemblesOdd(all []pathSegment) bool {
	index := func(one pathSegment) bool {
		return slices.ContainsFunc(one.readings, func(r string) bool { return len(stems(r)) == 0 })
	}
	rest := slices.DeleteFunc(slices.Clone(all), index)
	for _, want := range stems(s.path("", "")) {
		if len(rest) == 0 || !slices.ContainsFunc(rest[0].readings, func(r string) bool { return slices.Equal(stems(r), []string{want}) }) {
			return false
		}
		rest = rest[1:]
	}
	return len(s.segments) > 0 || len(rest) == 0
}
