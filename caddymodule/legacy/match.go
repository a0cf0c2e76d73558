package legacy

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Kind is what a URL is by the patterns. The zero value is the safe one.
type Kind uint8

// The kinds of URL.
const (
	Bad     Kind = iota // some reader would see an old link or a company where another doesn't: 400
	None                // no pattern has to do with it
	Old                 // an old link
	New                 // a new link, in whose place the portal gets the old one
	Company             // a path of a company, which the portal gets as it was sent
)

// Verdict is what Match finds. What it doesn't name for a Kind is empty.
type Verdict struct {
	Kind    Kind
	Token   string // Old: decoded; perhaps empty, unknown or very long
	Company string // New, Company: an id, in small letters; perhaps of no company
	Tail    string // Old, New: what stands for the *, escaped as it was sent
	Query   string // Old, New: the raw query but for what the pattern names
	Session string // ;jsessionid=A1 at the end of the path, which is judged without it: no token has one in it

	// Strays (every Kind but Bad) stand where a pattern has its token, or under the name of its
	// parameter, decoded, though the URL isn't one of the pattern's. Where one is a token of a company
	// that the visitor doesn't reach, the request is not to reach the portal.
	Strays []string

	// Beside (every Kind but Bad) are further Strays, where the URL is an ordinary one unless such a token
	// is a real one: what stands where a pattern has its token, behind another path or in a query.
	Beside []string

	// Routes (every Kind but Bad) are the companies whose paths some portal could find in
	// the query, ids in small letters; perhaps of no company. Where the visitor doesn't reach
	// one, the request is not to reach the portal, whether there is such a company or not.
	Routes []string

	// Loose (Old, Company): the path lacks the slash that the pattern's /* needs. An Old one
	// is what Kind says only if there is such a token, else None.
	Loose bool

	// Behind (Company, Loose): the company's path stands behind another.
	Behind bool

	// Unlikely (Old, Company; Loose): it is more likely a page of the portal's, such as /files/help.html,
	// or /login where a pattern begins with the company; an Old one also a file where a pattern begins
	// with the token, such as /style.css. It is what Kind says only if there is such a company, else None.
	Unlikely bool

	// Stems (Company, Loose): what a portal takes for the ID that takes a format off the end of a path,
	// such as /files/acme.json: Rails, Spring before 5.3, CodeIgniter's url_suffix.
	Stems []string

	link int // which of the links: Old, New
}

var none = Verdict{Kind: None}

// Match judges the path and the query of a URL as a server reads it from a request.
func (r *Rules) Match(u *url.URL) Verdict {
	if r == nil || len(r.links) == 0 && len(r.companies) == 0 {
		return none
	}
	if v, ok := r.quick(u); ok {
		return v
	}
	return r.match(u)
}

// match is Match by a close look.
func (r *Rules) match(u *url.URL) Verdict {
	bare, session := cutSession(u)
	v := r.matchPath(bare)
	if v.Kind == Bad {
		return v
	}
	v.Session = session
	if u.RawQuery != "" {
		r.addStrays(&v, u.RawQuery)
		r.addRoutes(&v, u.RawQuery)
	}
	return v
}

// matchPath is Match without what only the query has.
func (r *Rules) matchPath(u *url.URL) Verdict {
	p := u.Path
	if p == "" {
		p = "/" // as it goes to the portal
	}
	if p[0] != '/' {
		return none
	}
	look := lookAt(p, u.RawPath)
	v := none
	switch {
	case look.shifts:
		if r.nearShifted(p, u.RawQuery) {
			return Verdict{}
		}
	case look.odd:
		v = r.matchOdd(p, u)
	default:
		v = r.matchPlain(p, u)
		if v.Kind == None && (look.foreign && r.nearForeign(p) || look.script && r.nearProgram(p)) {
			return Verdict{}
		}
		if read := asWindows(p); look.foreign && read != p && v.Kind != Bad {
			v.Strays = append(v.Strays, r.matchPlain(read, &url.URL{}).Strays...)
			r.addKin(&v, read)
			r.addBehind(&v, read)
		}
		r.addKin(&v, p)
		if look.foreign {
			r.addKin(&v, path.Clean("/"+fold(p)))
		}
		r.addBehind(&v, p)
	}
	if look.bracket && v.Kind != Bad {
		return r.withoutCookieless(v, u)
	}
	return v
}

// Pattern returns the pattern by which a URL was judged, for a log in the place of the
// URL: it holds no token. v is Old or New; else it is "".
func (r *Rules) Pattern(v Verdict) string {
	switch v.Kind {
	case Old:
		return r.links[v.link].old.text
	case New:
		return r.links[v.link].to.text
	}
	return ""
}

// addStrays adds what the query has under the name of a parameter with a token, where
// that isn't the token which was judged.
func (r *Rules) addStrays(v *Verdict, query string) {
	for i := range r.links {
		s := r.links[i].old
		if s.name == "" || v.Kind == Old && canonical(s.name) == canonical(r.links[v.link].old.name) || !s.names(query) {
			continue
		}
		for p := range pieces(query) {
			name, value, _ := strings.Cut(p.text, "=")
			if _, near := sameName(name, s.name); near && len(v.Strays) < maxStrays {
				v.Strays = append(v.Strays, s.readings(value)...)
			}
		}
	}
	if len(v.Strays) >= maxStrays {
		*v = Verdict{} // nobody sends so many
	}
}

// addRoutes adds what stands in a query where some portals look for a path, or for a URL:
// /?/one-click/t, /index.php?q=/one-click/t, ?r=index/one-click/t, ?q=/files/acme.
func (r *Rules) addRoutes(v *Verdict, query string) {
	if v.Kind == Bad || !strings.ContainsAny(query, `/\%`) && isASCII(query) {
		return
	}
	for piece := range pieces(query) {
		text := piece.text
		for range 3 {
			text = unescapeWide(text)
			_, value, _ := strings.Cut(text, "=")
			r.addRoute(v, text)
			r.addRoute(v, value)
			next, _ := unescape(text, true)
			if next == text {
				break
			}
			text = next
		}
	}
	if len(v.Beside) >= maxStrays || len(v.Routes) >= maxStrays {
		*v = Verdict{}
	}
}

func (r *Rules) addRoute(v *Verdict, route string) {
	if !strings.ContainsAny(route, `/\`) && isASCII(route) {
		return
	}
	p := path.Clean("/" + strings.ReplaceAll(route, "?", "/"))
	r.addRouteAt(v, p)
	if read := leniently(p); read != p {
		r.addRouteAt(v, read)
	}
}

// leniently returns a path as Windows takes it, and whoever takes letters for others: with a
// backslash for a slash, without dots and spaces at the end of a segment, and without what a
// parameter or a stream has behind it.
func leniently(p string) string {
	if isASCII(p) && !strings.ContainsAny(p, `\;: .`) {
		return p
	}
	segments := strings.Split(strings.ReplaceAll(won.Replace(like(p)), `\`, "/"), "/")
	for i, s := range segments {
		s, _, _ = strings.Cut(s, ";")
		if isStream(s) {
			s, _, _ = strings.Cut(s, ":")
		}
		if s != "." && s != ".." {
			s = strings.TrimRight(s, ". ")
		}
		if !isASCII(s) {
			s = fold(s)
		}
		segments[i] = s
	}
	return path.Clean("/" + strings.Join(segments, "/"))
}

// addRouteAt adds what a cleaned path has behind each of its slashes.
func (r *Rules) addRouteAt(v *Verdict, p string) {
	for at, c := range []byte(p) {
		if c != '/' {
			continue
		}
		for _, all := range [][]*shape{r.all, r.kin} {
			for _, s := range all {
				if s.slot == companySlot {
					s.addRoute(v, p[at:])
				} else if s.open > 0 {
					s.addBeside(v, p[at:])
				}
			}
		}
	}
}

// addBeside adds the token of an old link whose path p is.
func (s *shape) addBeside(v *Verdict, p string) {
	if fill, _, f := s.match(p); f != apart {
		v.addBeside(fill)
	}
}

// addBeside adds what is no token of the verdict's yet.
func (v *Verdict) addBeside(fill string) {
	for _, token := range append([]string{fill}, stemsOf(fill)...) {
		if len(v.Beside) < maxStrays && !slices.Contains(v.Beside, token) && !(v.Kind == Old && token == v.Token) {
			v.Beside = append(v.Beside, token)
		}
	}
}

// addRoute adds the company whose path p is, where it stands in a query. What a database may
// take for its id counts as that.
func (s *shape) addRoute(v *Verdict, p string) {
	fill, _, f := s.match(p)
	if f == apart || s.open < 1 { // or any path would be one
		return
	}
	id := strings.TrimFunc(fold(fill), trimmed)
	if isID(id) && len(v.Routes) < maxStrays && !slices.Contains(v.Routes, id) {
		v.Routes = append(v.Routes, id)
	}
}

// addBehind adds what a program could find behind its own name, where that stands in the
// path without an extension: Apache's MultiViews takes /index/one-click/t for
// /index.php/one-click/t. It may as well be a page of the portal's.
func (r *Rules) addBehind(v *Verdict, p string) {
	if v.Kind == Bad {
		return
	}
	at := 1
	for n := 1; ; n++ {
		end := strings.IndexByte(p[at:], '/')
		if end < 0 {
			return
		}
		at += end
		for _, all := range [][]*shape{r.all, r.kin} {
			for _, s := range all {
				switch {
				case s.open < 1:
				case s.slot == tokenSlot:
					s.addBeside(v, p[at:])
				case s.known && n <= mostBefore:
					s.addCompany(v, p[at:])
				}
			}
		}
		at++
	}
}

// mostBefore is how many segments a program's own path may have, such as /cgi-bin/portal, whose
// other path is that of companies.
const mostBefore = 2

// addCompany makes None a company's, if there is such a company.
func (s *shape) addCompany(v *Verdict, p string) {
	if v.Kind != None || s.open < 1 {
		return
	}
	if m := s.matchCompany(p); m.Kind == Company {
		v.Kind, v.Company, v.Loose, v.Behind, v.Unlikely, v.Stems = Company, m.Company, true, true, m.Unlikely, m.Stems
	}
}

// maxStrays is how many of them a request may cost to look up.
const maxStrays = 32

// matchPlain judges a plain path. A pattern that fits exactly wins over one that fits
// but for a slash.
func (r *Rules) matchPlain(p string, u *url.URL) Verdict {
	found := none
	for i := range r.links {
		l := &r.links[i]
		if v := r.matchOld(i, p, u); v.Kind == Bad || v.Kind == Old && !v.Loose {
			return v
		} else if v.Kind != None || v.Strays != nil {
			found = better(found, v)
		}
		if v := l.to.matchCompany(p); v.Kind == Company && v.exact && !l.forwardNew {
			if l.old.hasAny(u.RawQuery) {
				return Verdict{} // two tokens, or what tells two links apart twice
			}
			return Verdict{Kind: New, Company: v.Company, Tail: l.to.tailOf(u, v.at), Query: u.RawQuery, link: i}
		} else if v.Kind != None {
			if v.Kind == Bad || v.exact {
				return v.Verdict
			}
			found = better(found, v.Verdict)
		}
	}
	for _, s := range r.companies {
		if v := s.matchCompany(p); v.Kind != None {
			if v.Kind == Bad || v.exact {
				return v.Verdict
			}
			found = better(found, v.Verdict)
		}
	}
	return found
}

// better returns the one that says more: what depends on a look-up comes behind what
// doesn't.
func better(a, b Verdict) Verdict {
	strays := append(slices.Clip(a.Strays), b.Strays...)
	if a.Kind == None || b.Kind != None && a.Loose && !b.Loose {
		a = b
	}
	a.Strays = strays
	return a
}

// matchOld judges a plain path as one link's old form.
func (r *Rules) matchOld(i int, p string, u *url.URL) Verdict {
	s := r.links[i].old
	if s.name != "" {
		return r.matchParam(i, p, u)
	}
	fill, at, f := s.match(p)
	if f == apart {
		return none
	}
	if isOdd(fill) {
		return Verdict{}
	}
	stray := Verdict{Kind: None, Strays: []string{fill}}
	if f == below {
		return stray
	}
	_, rest, is := "", u.RawQuery, present
	if len(s.fixed) > 0 {
		_, rest, is = s.readQuery(u.RawQuery)
	}
	switch is {
	case mangled:
		return Verdict{}
	case other:
		return stray
	}
	v := Verdict{Kind: Old, Token: fill, Query: rest, Loose: f == loose && s.tail, link: i}
	if v.Loose {
		v.Unlikely = s.open == 0 && IsFile(fill)
	}
	if f == exact {
		v.Tail = s.tailOf(u, at)
	}
	return v
}

// stemsOf returns what is left of a segment where a portal takes a format off its end: what is
// before the first dot, before the last one, and within plus signs, which some portals decode to
// spaces and trim.
func stemsOf(segment string) (all []string) {
	first, _, dot := strings.Cut(segment, ".")
	last, _, _ := cutExtension(segment)
	if !dot {
		first = segment
	}
	for _, stem := range []string{first, last, strings.Trim(first, "+ "), strings.Trim(last, "+ ")} {
		if stem != "" && stem != segment && !slices.Contains(all, stem) {
			all = append(all, stem)
		}
	}
	return all
}

// endsNear reports whether what a path has behind the slot may be to some portals what a shape has
// there, perhaps with more behind it: without a format, and without an index page.
func endsNear(want []seg, have []string) bool {
	if n := len(want); n > 0 && isIndex(want[n-1].pre) {
		want = want[:n-1]
		if len(have) == n && isIndex(have[n-1]) {
			have = have[:n-1]
		}
	}
	if len(have) < len(want) {
		return false
	}
	for i, g := range want {
		var theirs []string
		for _, read := range readingsOf(fold(have[i])) {
			theirs = append(append(theirs, read), stemsOf(read)...)
		}
		mine := fold(g.pre)
		if !slices.ContainsFunc(append(stemsOf(mine), mine), func(s string) bool { return slices.Contains(theirs, s) }) {
			return false
		}
	}
	return true
}

// isIndex reports whether a segment is the page that a folder is shown by.
func isIndex(segment string) bool { return len(stems(segment)) == 0 }

// matchParam is matchOld for a link whose token is in the query.
func (r *Rules) matchParam(i int, p string, u *url.URL) Verdict {
	s := r.links[i].old
	if u.RawQuery == "" || !s.names(u.RawQuery) {
		return none
	}
	_, at, f := s.match(p)
	switch {
	case f == exact, f == loose && !s.tail:
	case s.resembles(p):
		return Verdict{}
	default:
		return none // addStrays finds the token
	}
	token, rest, is := s.readQuery(u.RawQuery)
	switch is {
	case mangled:
		return Verdict{}
	case other, absent:
		return none
	}
	v := Verdict{Kind: Old, Token: token, Query: rest, link: i}
	if f == exact {
		v.Tail = s.tailOf(u, at)
	}
	return v
}

// names reports whether a query has the parameter with the slot, or nearly.
func (s *shape) names(query string) bool {
	for p := range pieces(query) {
		name, _, _ := strings.Cut(p.text, "=")
		if _, near := sameName(name, s.name); near {
			return true
		}
	}
	return false
}

type companyMatch struct {
	Verdict
	exact bool
	at    int
}

// matchCompany judges a plain path as one of a company. What stands where the id belongs
// and is none is Bad: a database may yet take it for one.
func (s *shape) matchCompany(p string) companyMatch {
	fill, at, f := s.match(p)
	if f == loose && s.tail {
		fill = cmp.Or(strings.Trim(fill, "+ "), fill) // which some portals decode to spaces, and trim
	}
	switch {
	case f == apart:
		return companyMatch{Verdict: s.companyNear(p)}
	case f == below:
		return companyMatch{Verdict: none}
	case !isID(fill) && s.tail && f == loose:
		return companyMatch{Verdict: none} // the pattern wants the slash, and no company has that name
	case !isID(fill) || strings.HasSuffix(fill, "."):
		return companyMatch{}
	}
	m := companyMatch{Verdict{Kind: Company, Company: strings.ToLower(fill), Loose: s.tail && f == loose}, f == exact, at}
	if m.Loose {
		m.Stems, m.Unlikely = stemsOf(m.Company), s.open == 0 || IsFile(fill)
	}
	return m
}

// companyNear judges a plain path as one that a portal may take for one of a company, as it takes a
// format or an index page off its end.
func (s *shape) companyNear(p string) Verdict {
	all := strings.Split(strings.TrimSuffix(p[1:], "/"), "/")
	if !s.known || s.open < 0 || s.open == len(s.segs)-1 || len(all) <= s.open || !isID(all[s.open]) || !endsNear(s.segs[s.open+1:], all[s.open+1:]) {
		return none
	}
	for i, g := range s.segs[:s.open] {
		if !strings.EqualFold(all[i], g.pre) {
			return none
		}
	}
	v := Verdict{Kind: Company, Company: strings.ToLower(all[s.open]), Loose: true}
	if len(all) == s.open+1 {
		v.Stems, v.Unlikely = stemsOf(v.Company), IsFile(v.Company)
	}
	return v
}

// IsFile reports whether an id could well be the name of a file: help.html.
func IsFile(id string) bool {
	_, ext, dot := cutExtension(strings.ToLower(id))
	switch ext {
	case "html", "htm", "xhtml", "css", "js", "mjs", "map", "json", "xml", "txt", "md", "pdf", "csv", "xls", "xlsx", "doc", "docx", "odt", "ods", "rtf", "zip",
		"png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "bmp", "tif", "tiff", "woff", "woff2", "ttf", "webmanifest", "mp3", "mp4":
		return dot
	}
	return dot && isProgram(ext)
}

// IsDocument reports whether an ID could well be the name of a file that no portal takes for a page
// in a format: report.pdf, but not help.html.
func IsDocument(id string) bool {
	_, ext, _ := cutExtension(strings.ToLower(id))
	return IsFile(id) && !isProgram(ext) && !slices.Contains([]string{"html", "htm", "xhtml", "json", "xml"}, ext)
}

// isID reports whether s is the id of a company, in any case.
func isID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 63
}

// tailOf returns what stands for the * of a plain path, escaped as it was sent: in a
// plain path the raw form has the same slashes.
func (s *shape) tailOf(u *url.URL, at int) string {
	if !s.tail || at >= len(u.Path) {
		return ""
	}
	raw := u.EscapedPath()
	if len(raw) == len(u.Path) {
		return raw[at:]
	}
	for range strings.Count(u.Path[:at], "/") {
		_, raw, _ = strings.Cut(raw, "/")
	}
	return raw
}

// nearForeign reports whether a path that matches nothing would match something for a
// reader that takes letters for others.
func (r *Rules) nearForeign(p string) bool {
	near := func(p string) bool { return r.matchPlain(path.Clean("/"+fold(p)), &url.URL{}).Kind != None }
	return near(p) || near(asWindows(p))
}

// asWindows returns a path as code pages of Windows have it, with every backslash a slash.
func asWindows(p string) string {
	if isASCII(p) {
		return p
	}
	return path.Clean("/" + strings.ReplaceAll(won.Replace(like(p)), `\`, "/"))
}

// nearProgram reports whether a path that matches nothing would match something for a
// portal that runs a program with the rest of the path: /index.php/one-click/t,
// /files.php/acme.
func (r *Rules) nearProgram(p string) bool {
	programs := 0
	for at := 1; ; {
		end := strings.IndexByte(p[at:], '/')
		if end < 0 {
			return false
		}
		end += at
		if stem, ext, dot := cutExtension(p[at:end]); dot && isProgram(ext) {
			if programs++; programs > mostPrograms {
				return true // each costs as much as the path is long
			}
			for _, reading := range []string{p[end:], p[:at] + stem + p[end:]} {
				v := r.matchPlain(reading, &url.URL{})
				if v.Kind != None || len(v.Strays) > 0 {
					return true
				}
			}
		}
		at = end + 1
	}
}

// mostPrograms is how many segments of a path may be programs.
const mostPrograms = 8

func cutExtension(s string) (stem, ext string, dot bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// isProgram reports whether files of this extension are run, and get the rest of the
// path.
func isProgram(ext string) bool {
	ext = strings.ToLower(ext)
	switch ext {
	case "phtml", "phar", "cgi", "fcgi", "pl", "py", "rb", "lua", "exe", "dll", "asp", "aspx", "ashx", "asmx", "cfm", "cfc", "jsp", "jspx", "do", "action":
		return true
	}
	return strings.HasPrefix(ext, "php")
}

// nearShifted reports whether some reader of a path whose segments don't stand still could
// see a pattern's path in it: however it is decoded, it holds the pattern's longest word.
func (r *Rules) nearShifted(p, query string) bool {
	words, queries := map[string]bool{}, []string{query}
	for range 5 {
		if strings.Contains(p, "(") && cookieless.MatchString(p) { // whatever stands around it, ASP.NET reads as one
			return true
		}
		p = won.Replace(like(unescapeWide(p)))
		if _, query, found := strings.Cut(p, "?"); found { // who decodes before parsing finds a query in the path
			queries = append(queries, query)
		}
		for w := range strings.FieldsFuncSeq(fold(p), func(r rune) bool { return strings.ContainsRune(`/\;:?#`, r) }) {
			w = strings.Trim(w, ". ")
			words[w] = true
			if stem, ext, dot := cutExtension(w); dot && isProgram(ext) {
				words[stem] = true
			}
		}
		next, _ := unescape(p, false)
		if next == p {
			break
		}
		p = next
	}
	for _, l := range r.links {
		if l.to.isIn(words) || l.old.isIn(words) && (l.old.name == "" || slices.ContainsFunc(queries, l.old.names)) {
			return true
		}
	}
	return slices.ContainsFunc(r.companies, func(s *shape) bool { return s.isIn(words) })
}

// isIn reports whether the words of a path, folded, have the longest of the shape's that
// is the whole of a segment; where it has none, any that its slot could be in.
func (s *shape) isIn(words map[string]bool) bool {
	longest := ""
	for _, g := range s.segs {
		text := fold(g.pre)
		if stem, ext, dot := cutExtension(text); dot && isProgram(ext) {
			text = stem
		}
		if !g.open && len(text) > len(longest) && text != "index" && text != "default" {
			longest = text
		}
	}
	if longest != "" {
		return words[longest]
	}
	if s.open < 0 || s.segs[s.open].pre+s.segs[s.open].suf == "" {
		return true
	}
	// What cuts words may be in the token, so one end of it is enough.
	pre, suf := fold(s.segs[s.open].pre), fold(s.segs[s.open].suf)
	for w := range words {
		if pre != "" && strings.HasPrefix(w, pre) || pre == "" && strings.HasSuffix(w, suf) {
			return true
		}
	}
	return false
}

// resembles reports whether a plain path may lead to the same page as the shape's,
// whose token is in the query: by an index page, an extension or what a program gets as
// the rest of the path.
func (s *shape) resembles(p string) bool {
	mine, theirs := stems(s.path("", "")), stems(p)
	if len(mine) == 0 {
		return len(theirs) == 0
	}
	return len(theirs) >= len(mine) && slices.Equal(theirs[:len(mine)], mine)
}

// stems are the segments of a path, folded, without extensions, index pages and the
// names of programs at the root.
func stems(p string) []string {
	var all []string
	for s := range strings.SplitSeq(fold(p), "/") {
		if stem, ext, dot := cutExtension(s); dot && (isProgram(ext) || strings.HasPrefix(ext, "htm")) {
			s = stem
		}
		if s != "" && s != "index" && s != "default" {
			all = append(all, s)
		}
	}
	return all
}
