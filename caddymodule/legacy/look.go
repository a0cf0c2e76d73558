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

// Portals read one path in different ways: they decode it once more, cut off what is behind a
// semicolon, drop a dot at the end of a name, climb up for two dots. Two kinds of path differ:
//
//   - A path shifts if some reader takes a segment of it for none or for several. What it is
//     about can't be said.
//   - A path is odd if it doesn't shift, and some reader sees less in a segment than was sent,
//     such as `Report #7.pdf`, `5%25 off.pdf`, `orders;v=1` or `Smith & Co.`. Every reader finds
//     each segment in the same place, so the company is clear where its own segment is plain.

// look is what a path's characters tell.
type look struct {
	shifts  bool // readers part its segments in different ways
	odd     bool // readers differ on what is in a segment
	foreign bool // it has characters beyond ASCII
	script  bool // some segment but the last could be a program, with more behind it
	bracket bool // it has an opening bracket
}

// lookAt looks at a path, which is decoded once; raw is how it was sent, or "".
func lookAt(p, raw string) look {
	l := lookOnce(p)
	if !l.shifts && raw != "" && hasEscapedSlash(raw) {
		l.shifts = true
	}
	if l.foreign && !l.shifts {
		like := lookForeign(p)
		l.shifts, l.odd = like.shifts, l.odd || like.odd
	}
	if l.odd && !l.shifts && strings.Contains(p, "%") {
		l.shifts = shiftsDecoded(p)
	}
	return l
}

func lookOnce(p string) (l look) {
	dots := false  // the segment has a dot
	solid := false // the segment has something but dots and spaces
	from := 1      // where the segment begins
	cut := false   // what follows in the segment is what some readers cut off
	for i := range len(p) {
		switch c := p[i]; {
		case c < 0x20 || c == 0x7f || c == '\\':
			return look{shifts: true}
		case c == '/' && i > 0:
			if i == from || !solid && !cut {
				return look{shifts: true}
			}
			l.odd = l.odd || p[i-1] == '.' || p[i-1] == ' '
			l.script = l.script || dots
			dots, solid, cut, from = false, false, false, i+1
		case c == '/': // the root
		case c == ';' || c == ':' && (p[i-1] == ':' || i+1 < len(p) && p[i+1] == '$'): // a stream of NTFS: file.php::$DATA, folder:$I30:$INDEX_ALLOCATION
			if !solid && !cut {
				return look{shifts: true}
			}
			l.odd, cut = true, true
		case c == '?' || c == '#': // where a URL ends for who decodes before parsing
			if !solid && !cut && i > from {
				return look{shifts: true}
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
		case c == ':' && i+1 < len(p) && p[i+1] == ':': // the second one says what it is
		default:
			solid = true
		}
	}
	if len(p) > from && !solid && !cut {
		return look{shifts: true}
	}
	if last := p[len(p)-1]; last == '.' || last == ' ' {
		l.odd = true
	}
	return l
}

// isOdd reports whether readers differ on a segment.
func isOdd(segment string) bool {
	segment = like(segment)
	return strings.ContainsAny(segment, ";?#%") || isStream(segment) || strings.HasSuffix(segment, ".") || strings.HasSuffix(segment, " ")
}

// isStream reports whether a segment could name a stream of NTFS, which is the file or folder
// itself where it is the default one.
func isStream(segment string) bool {
	return strings.Contains(segment, "::") || strings.Contains(segment, ":$")
}

// like returns a text as it is to a reader that takes characters for the ASCII ones that they
// look like (best fit, as Windows does it), and UTF-8 which is longer than it may be.
func like(s string) string {
	if isASCII(s) {
		return s
	}
	return norm.NFKD.String(shortest(s))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// shortest returns a text with UTF-8 that is longer than it may be as lenient readers decode it.
func shortest(s string) string {
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

// won takes the characters for a backslash that code pages of Windows have in its place.
var won = strings.NewReplacer("¥", `\`, "₩", `\`)

// lookForeign looks at a path as best fit has it, and as a reader does that takes UTF-8 which is
// longer than it may be.
func lookForeign(p string) look {
	for i := range len(p) {
		if n, _ := tokensearch.Overlong(p[i:]); n > 0 {
			return look{shifts: true}
		}
	}
	q := like(p)
	l := lookOnce(q)
	l.shifts = l.shifts || strings.Count(q, "/") != strings.Count(p, "/") || climbs(q)
	return l
}

// climbs reports whether a path leads elsewhere where a sign for a currency is a backslash. By
// itself, as in `¥100.pdf`, it leads nowhere.
func climbs(p string) bool {
	q := won.Replace(p)
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

// IsPlain reports whether every reader takes the characters beyond ASCII in a decoded path for
// what they are, and none of them for one that parts segments, ends them or leads up.
func IsPlain(p string) bool {
	if isASCII(p) {
		return true
	}
	for i := range len(p) {
		if p[i] == 0xc0 || p[i] == 0xc1 { // never in UTF-8, and lenient readers take the next byte, whatever it is, for a part of it
			return false
		}
	}
	l := lookForeign(p)
	return !l.shifts && !l.odd && won.Replace(like(p)) == like(p)
}

// shiftsDecoded reports whether a path shifts for a reader that decodes it once more, or
// several times.
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
		if strings.Count(p, "/") != slashes || lookOnce(p).shifts || lookForeign(p).shifts || strings.Contains(p, "(") && cookieless.MatchString(p) {
			return true
		}
	}
	return true // nobody sends so many
}

// wideEscapes are escapes of ASP.NET's, %u002e.
var wideEscapes = regexp.MustCompile(`%[uU][0-9a-fA-F]{4}`)

// mayHaveWide reports whether it is worth to look for such an escape.
func mayHaveWide(s string) bool { return strings.Contains(s, "%u") || strings.Contains(s, "%U") }

func unescapeWide(s string) string {
	if !mayHaveWide(s) {
		return s
	}
	return wideEscapes.ReplaceAllStringFunc(s, func(escape string) string {
		n, _ := strconv.ParseUint(escape[2:], 16, 16) // four digits, as the expression has it
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

// Servlet containers append a session's id to the path of every link and redirect of its
// first answer, since they don't know yet whether the browser takes cookies (Jakarta Servlet
// 6.0, 7.1.3).
const sessionName = ";jsessionid="

// cutSession returns the URL without a session id at the end of its path, and the id as it was
// sent, with its name. Without one it returns u and "".
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

// WithoutSession returns a URL without the session id of a servlet container at the end of its
// path, and the URL itself where there is none.
func WithoutSession(u *url.URL) *url.URL {
	bare, _ := cutSession(u)
	return bare
}

// isSession reports whether a text can be a session's id: with the names of servers behind it,
// as they write them.
func isSession(id string) bool {
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.!:+~", rune(c)) {
			return false
		}
	}
	return len(id) > 0 && len(id) <= 256
}

// cookieless is what ASP.NET takes out of paths wherever it stands: the id of a session, or a
// ticket, of who takes no cookies, /(S(abc))/ and, before version 2, /(abc)/.
var cookieless = regexp.MustCompile(`\((?:[A-Za-z]\([^()/]*\))+\)|/\([a-z0-9]{24}\)(?:/|$)`)

// withoutCookieless judges a path once more as ASP.NET reads it. v is what it is to others.
func (r *Rules) withoutCookieless(v Verdict, u *url.URL) Verdict {
	found := cookieless.FindAllStringIndex(u.Path, 2)
	switch len(found) {
	case 0:
		return v
	case 2:
		return Verdict{} // there is one in a URL, and readers needn't agree on which
	}
	before, behind := u.Path[:found[0][0]], u.Path[found[0][1]:]
	for _, p := range []string{before + "/" + behind, before + behind, strings.TrimSuffix(before, "/") + behind} {
		for strings.Contains(p, "//") {
			p = strings.ReplaceAll(p, "//", "/")
		}
		read := r.matchPath(&url.URL{Path: "/" + strings.TrimPrefix(p, "/"), RawQuery: u.RawQuery})
		if read.Kind != v.Kind || read.Token != v.Token || read.Company != v.Company || read.Loose != v.Loose || read.link != v.link {
			return Verdict{}
		}
		v.Strays = append(v.Strays, read.Strays...)
		v.Routes = append(v.Routes, read.Routes...)
	}
	return v
}

// segment is one of an odd path.
type segment struct {
	text     string
	readings []string // what readers take it for, text among them
}

// segmentsOf returns the segments of an odd path, without an empty one at the end.
func segmentsOf(p string) (all []segment) {
	for text := range strings.SplitSeq(strings.TrimSuffix(p[1:], "/"), "/") {
		all = append(all, segment{text, readingsOf(text)})
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
		for _, text := range []string{text, like(text)} {
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
func (g *segment) isProgram() bool {
	return slices.ContainsFunc(g.readings, func(s string) bool { _, ext, dot := cutExtension(s); return dot && isProgram(ext) })
}

// nearness is how a shape's path stands to the beginning of an odd path.
type nearness uint8

const (
	far  nearness = iota // no reader sees it there
	near                 // some reader does
	here                 // every reader does
)

// begins compares the segments of an odd path with the shape's. fills are what readers take for
// the slot, if that is in the path.
func (s *shape) begins(all []segment) (n nearness, fills []string) {
	if len(all) < len(s.segs) {
		return far, nil
	}
	n = here
	for i, g := range s.segs {
		one := all[i]
		if !g.open {
			switch {
			case strings.EqualFold(one.text, g.pre):
			case slices.ContainsFunc(one.readings, func(r string) bool { return fold(r) == fold(g.pre) }):
				n = near
			default:
				return far, nil
			}
			continue
		}
		for _, r := range one.readings {
			if len(r) > len(g.pre)+len(g.suf) && strings.EqualFold(r[:len(g.pre)], g.pre) && strings.EqualFold(r[len(r)-len(g.suf):], g.suf) {
				fills = append(fills, r[len(g.pre):len(r)-len(g.suf)])
			}
		}
		if s.slot == companySlot && s.tail && len(all) == len(s.segs) {
			// The pattern wants the slash, so it is a company only if one has that name.
			fills = slices.DeleteFunc(fills, func(id string) bool { return !isID(trimID(id)) })
		}
		if len(fills) == 0 {
			return far, nil
		}
		if isOdd(one.text) {
			n = near
		}
	}
	return n, fills
}

// trimID returns what a database may take for the id of a company.
func trimID(text string) string {
	return strings.TrimFunc(fold(text), func(r rune) bool { return r == '+' || trimmed(r) }) // some portals decode a plus to a space
}

// matchOdd judges an odd path.
func (r *Rules) matchOdd(p string, u *url.URL) Verdict {
	all := segmentsOf(p)
	for _, s := range r.all {
		switch n, _ := s.begins(all); {
		case s.name != "" && !s.names(u.RawQuery):
		case s.name != "" && n != here && s.resemblesOdd(all), s.name == "" && n == near:
			return Verdict{}
		}
	}
	v := r.matchPlain(p, u)
	if v.Kind == Bad {
		return v
	}
	both := slices.Concat(r.all, r.kin)
	for at := 1; at < len(all); at++ {
		for i, s := range both {
			n, fills := s.begins(all[at:])
			if n == far || s.open < 0 {
				continue
			}
			if v.Kind == None && all[at-1].isProgram() && (i < len(r.all) || s.open > 0) {
				return Verdict{}
			}
			if s.open > 0 && (s.slot == tokenSlot || at <= mostBefore) {
				addFills(&v, s, fills)
			}
		}
	}
	r.addOddKin(&v, all)
	for range 5 { // who decodes before parsing finds a query in the path
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
	if len(v.Strays) >= maxStrays || len(v.Beside) >= maxStrays || len(v.Routes) >= maxStrays {
		return Verdict{}
	}
	return v
}

// addFills adds what stands for the slot of a shape, where that isn't at the beginning.
func addFills(v *Verdict, s *shape, fills []string) {
	for _, fill := range fills {
		switch id := trimID(fill); {
		case s.slot == tokenSlot:
			v.addBeside(fill)
		case s.known && isID(id) && id != v.Company && !slices.Contains(v.Routes, id):
			v.Routes = append(v.Routes, id)
		}
	}
}

// resemblesOdd is resembles for an odd path.
func (s *shape) resemblesOdd(all []segment) bool {
	index := func(one segment) bool {
		return slices.ContainsFunc(one.readings, func(r string) bool { return len(stems(r)) == 0 })
	}
	rest := slices.DeleteFunc(slices.Clone(all), index)
	for _, want := range stems(s.path("", "")) {
		if len(rest) == 0 || !slices.ContainsFunc(rest[0].readings, func(r string) bool { return slices.Equal(stems(r), []string{want}) }) {
			return false
		}
		rest = rest[1:]
	}
	return len(s.segs) > 0 || len(rest) == 0
}
