package legacy

import (
	"cmp"
	"net/url"
	"path"
	"slices"
	"strings"
)

// Kind is the classification of a URL. The zero value is the safe one.
type Kind uint8

// The kinds of URL.
const (
	Bad     Kind = iota // portals disagree on whether it is an old link or a company's path: answer 400
	None                // no pattern matches
	Old                 // an old link
	New                 // a new link; the portal receives the old one
	Company             // a path of a company; the portal receives it as sent
)

// Verdict is the result of Match. Fields that don't apply to its Kind are empty.
type Verdict struct {
	Kind    Kind
	Token   string // Old: decoded; may be empty, unknown or very long
	Company string // New, Company: an id in lower case; the company may not exist
	Tail    string // Old, New: the part that matches the *, escaped as sent
	Query   string // Old, New: the raw query without the pattern's parameters
	Session string // ;jsessionid=A1 at the end of the path, which is classified without it: tokens never contain one

	// MisplacedTokens (every Kind except Bad) are decoded values in the place of a pattern's token, or under
	// the name of its parameter, although the URL isn't one of the pattern's. If one is a token of
	// a company that the visitor may not reach, the request must not reach the portal.
	MisplacedTokens []string

	// PossibleTokens (every Kind except Bad) are further possible tokens: text in the place of a pattern's
	// token, after another path or in a query. If none of them is a real token, the URL is an
	// ordinary one.
	PossibleTokens []string

	// Routes (every Kind except Bad) are companies whose paths some portal could find in the query:
	// ids in lower case, perhaps of no company. If the visitor may not reach one of them, the
	// request must not reach the portal, whether that company exists or not.
	Routes []string

	// Lenient (Old, Company) means that the path lacks the slash that the pattern's /* needs. Kind
	// Old then applies only if the token exists; otherwise the kind is None.
	Lenient bool

	// Behind (Company, Lenient) means that the company's path follows another path.
	Behind bool

	// Unlikely (Old, Company; Lenient) means that the URL is more likely a page of the portal: such
	// as /files/help.html, or /login if a pattern begins with the company. With Old it may also be
	// a file, such as /style.css if a pattern begins with the token. Kind applies only if the
	// company exists; otherwise the kind is None.
	Unlikely bool

	// Stems (Company, Lenient) are the possible ids for portals that remove a format from the end of
	// a path, such as /files/acme.json: Rails, Spring before 5.3, CodeIgniter's url_suffix.
	Stems []string

	link int // Old, New: index of the link
}

var none = Verdict{Kind: None}

// Match classifies the path and the query of a URL as a server parses it from a request.
func (r *Rules) Match(u *url.URL) Verdict {
	if r == nil || len(r.links) == 0 && len(r.companies) == 0 {
		return none
	}
	if v, ok := r.quickMatch(u); ok {
		return v
	}
	return r.match(u)
}

// match is Match without the fast path.
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

// matchPath is Match without the parameters that only the query can have.
func (r *Rules) matchPath(u *url.URL) Verdict {
	p := u.Path
	if p == "" {
		p = "/" // as it is sent to the portal
	}
	if p[0] != '/' {
		return none
	}
	look := traitsOf(p, u.RawPath)
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
			v.MisplacedTokens = append(v.MisplacedTokens, r.matchPlain(read, &url.URL{}).MisplacedTokens...)
			r.addVariants(&v, read)
			r.addBehind(&v, read)
		}
		r.addVariants(&v, p)
		if look.foreign {
			r.addVariants(&v, path.Clean("/"+fold(p)))
		}
		r.addBehind(&v, p)
	}
	if look.bracket && v.Kind != Bad {
		return r.withoutCookieless(v, u)
	}
	return v
}

// Pattern returns the pattern that classified the URL, for logging it in place of the URL: it holds
// no token. v must be Old or New; otherwise it returns "".
func (r *Rules) Pattern(v Verdict) string {
	switch v.Kind {
	case Old:
		return r.links[v.link].old.text
	case New:
		return r.links[v.link].to.text
	}
	return ""
}

// addStrays adds the values of the query under the name of a token parameter, except the token of
// the verdict.
func (r *Rules) addStrays(v *Verdict, query string) {
	for i := range r.links {
		s := r.links[i].old
		if s.name == "" || v.Kind == Old && canonical(s.name) == canonical(r.links[v.link].old.name) || !s.names(query) {
			continue
		}
		for p := range pieces(query) {
			name, value, _ := strings.Cut(p.text, "=")
			if _, near := sameName(name, s.name); near && len(v.MisplacedTokens) < maxTokens {
				v.MisplacedTokens = append(v.MisplacedTokens, s.readings(value)...)
			}
		}
	}
	if len(v.MisplacedTokens) >= maxTokens {
		*v = Verdict{} // no real query has so many
	}
}

// addRoutes adds paths and URLs in the query, where some portals take their route from:
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
	if len(v.PossibleTokens) >= maxTokens || len(v.Routes) >= maxTokens {
		*v = Verdict{}
	}
}

func (r *Rules) addRoute(v *Verdict, route string) {
	if !strings.ContainsAny(route, `/\`) && isASCII(route) {
		return
	}
	p := path.Clean("/" + strings.ReplaceAll(route, "?", "/"))
	r.addRouteAt(v, p)
	if read := lenientPath(p); read != p {
		r.addRouteAt(v, read)
	}
}

// lenientPath returns a path as read by Windows and by portals that replace letters by similar
// ones: backslashes become slashes, and segments lose dots and spaces at their end, parameters and
// NTFS streams.
func lenientPath(p string) string {
	if isASCII(p) && !strings.ContainsAny(p, `\;: .`) {
		return p
	}
	segments := strings.Split(strings.ReplaceAll(currencyAsBackslash.Replace(bestFit(p)), `\`, "/"), "/")
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

// addRouteAt adds tokens and companies after each slash of a cleaned path.
func (r *Rules) addRouteAt(v *Verdict, p string) {
	for at, c := range []byte(p) {
		if c != '/' {
			continue
		}
		for _, all := range [][]*pattern{r.all, r.variants} {
			for _, s := range all {
				if s.slot == companySlot {
					s.addRoute(v, p[at:])
				} else if s.slotIndex > 0 {
					s.addBeside(v, p[at:])
				}
			}
		}
	}
}

// addBeside adds the token if p is the path of an old link.
func (s *pattern) addBeside(v *Verdict, p string) {
	if fill, _, f := s.match(p); f != noFit {
		v.addBeside(fill)
	}
}

// addBeside adds a possible token that the verdict doesn't have yet.
func (v *Verdict) addBeside(fill string) {
	for _, token := range append([]string{fill}, stemsOf(fill)...) {
		if len(v.PossibleTokens) < maxTokens && !slices.Contains(v.PossibleTokens, token) && !(v.Kind == Old && token == v.Token) {
			v.PossibleTokens = append(v.PossibleTokens, token)
		}
	}
}

// addRoute adds the company if p, which is in a query, is the path of one. Text that a database may
// read as an id counts as the id.
func (s *pattern) addRoute(v *Verdict, p string) {
	fill, _, f := s.match(p)
	if f == noFit || s.slotIndex < 1 { // otherwise any path would match
		return
	}
	id := strings.TrimFunc(fold(fill), trimmed)
	if isID(id) && len(v.Routes) < maxTokens && !slices.Contains(v.Routes, id) {
		v.Routes = append(v.Routes, id)
	}
}

// addBehind adds tokens and companies after the name of a program that is written without its
// extension: Apache's MultiViews resolves /index/one-click/t to /index.php/one-click/t. The path
// may just as well be a page of the portal.
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
		for _, all := range [][]*pattern{r.all, r.variants} {
			for _, s := range all {
				switch {
				case s.slotIndex < 1:
				case s.slot == tokenSlot:
					s.addBeside(v, p[at:])
				case s.portalHas && n <= maxSegmentsBefore:
					s.addCompany(v, p[at:])
				}
			}
		}
		at++
	}
}

// maxSegmentsBefore limits the segments of a program's own path, such as /cgi-bin/portal, that may
// precede a company's path.
const maxSegmentsBefore = 2

// addCompany classifies p as a company's path if the verdict is still None. It counts only if the
// company exists.
func (s *pattern) addCompany(v *Verdict, p string) {
	if v.Kind != None || s.slotIndex < 1 {
		return
	}
	if m := s.matchCompany(p); m.Kind == Company {
		v.Kind, v.Company, v.Lenient, v.Behind, v.Unlikely, v.Stems = Company, m.Company, true, true, m.Unlikely, m.Stems
	}
}

// maxTokens limits how many possible tokens of one request are looked up.
const maxTokens = 32

// matchPlain classifies a plain path. An exact match takes precedence over one that differs only in
// a slash.
func (r *Rules) matchPlain(p string, u *url.URL) Verdict {
	found := none
	for i := range r.links {
		l := &r.links[i]
		if v := r.matchOld(i, p, u); v.Kind == Bad || v.Kind == Old && !v.Lenient {
			return v
		} else if v.Kind != None || v.MisplacedTokens != nil {
			found = preferred(found, v)
		}
		if v := l.to.matchCompany(p); v.Kind == Company && v.exact && !l.forwardNew {
			if l.old.hasAny(u.RawQuery) {
				return Verdict{} // two tokens, or two values of the parameter that distinguishes two links
			}
			return Verdict{Kind: New, Company: v.Company, Tail: l.to.tailOf(u, v.at), Query: u.RawQuery, link: i}
		} else if v.Kind != None {
			if v.Kind == Bad || v.exact {
				return v.Verdict
			}
			found = preferred(found, v.Verdict)
		}
	}
	for _, s := range r.companies {
		if v := s.matchCompany(p); v.Kind != None {
			if v.Kind == Bad || v.exact {
				return v.Verdict
			}
			found = preferred(found, v.Verdict)
		}
	}
	return found
}

// preferred returns the more specific verdict. One that depends on a look-up comes second.
func preferred(a, b Verdict) Verdict {
	strays := append(slices.Clip(a.MisplacedTokens), b.MisplacedTokens...)
	if a.Kind == None || b.Kind != None && a.Lenient && !b.Lenient {
		a = b
	}
	a.MisplacedTokens = strays
	return a
}

// matchOld classifies a plain path by the old form of one link.
func (r *Rules) matchOld(i int, p string, u *url.URL) Verdict {
	s := r.links[i].old
	if s.name != "" {
		return r.matchParam(i, p, u)
	}
	fill, at, f := s.match(p)
	if f == noFit {
		return none
	}
	if isOdd(fill) {
		return Verdict{}
	}
	stray := Verdict{Kind: None, MisplacedTokens: []string{fill}}
	if f == deeper {
		return stray
	}
	_, rest, is := "", u.RawQuery, present
	if len(s.fixed) > 0 {
		_, rest, is = s.readQuery(u.RawQuery)
	}
	switch is {
	case ambiguous:
		return Verdict{}
	case different:
		return stray
	}
	v := Verdict{Kind: Old, Token: fill, Query: rest, Lenient: f == lenient && s.tail, link: i}
	if v.Lenient {
		v.Unlikely = s.slotIndex == 0 && IsFile(fill)
	}
	if f == exact {
		v.Tail = s.tailOf(u, at)
	}
	return v
}

// stemsOf returns the possible readings of a segment for portals that remove a format from its end:
// the text before the first dot, before the last dot, and the same without plus signs around it,
// which some portals decode to spaces and trim.
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

// endsNear reports whether some portals may read the segments after the slot as those of a pattern,
// perhaps with more after them: without a format, and without an index page.
func endsNear(want []patternSegment, have []string) bool {
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

// isIndex reports whether a segment is an index page, which portals serve for its folder.
func isIndex(segment string) bool { return len(stems(segment)) == 0 }

// matchParam is matchOld for a link with the token in the query.
func (r *Rules) matchParam(i int, p string, u *url.URL) Verdict {
	s := r.links[i].old
	if u.RawQuery == "" || !s.names(u.RawQuery) {
		return none
	}
	_, at, f := s.match(p)
	switch {
	case f == exact, f == lenient && !s.tail:
	case s.resembles(p):
		return Verdict{}
	default:
		return none // addStrays finds the token
	}
	token, rest, is := s.readQuery(u.RawQuery)
	switch is {
	case ambiguous:
		return Verdict{}
	case different, absent:
		return none
	}
	v := Verdict{Kind: Old, Token: token, Query: rest, link: i}
	if f == exact {
		v.Tail = s.tailOf(u, at)
	}
	return v
}

// names reports whether a query has the parameter with the slot, or one that may be read as it.
func (s *pattern) names(query string) bool {
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

// matchCompany classifies a plain path by a company pattern. It returns Bad if the text in the
// place of the id isn't a valid id: a database may still match it.
func (s *pattern) matchCompany(p string) companyMatch {
	fill, at, f := s.match(p)
	if f == lenient && s.tail {
		fill = cmp.Or(strings.Trim(fill, "+ "), fill) // some portals decode plus signs to spaces and trim
	}
	switch {
	case f == noFit:
		return companyMatch{Verdict: s.companyNear(p)}
	case f == deeper:
		return companyMatch{Verdict: none}
	case !isID(fill) && s.tail && f == lenient:
		return companyMatch{Verdict: none} // the pattern needs the slash, and no company has that name
	case !isID(fill) || strings.HasSuffix(fill, "."):
		return companyMatch{}
	}
	m := companyMatch{Verdict{Kind: Company, Company: strings.ToLower(fill), Lenient: s.tail && f == lenient}, f == exact, at}
	if m.Lenient {
		m.Stems, m.Unlikely = stemsOf(m.Company), s.slotIndex == 0 || IsFile(fill)
	}
	return m
}

// companyNear classifies a plain path that a portal may read as a company's because it removes a
// format or an index page from the end.
func (s *pattern) companyNear(p string) Verdict {
	all := strings.Split(strings.TrimSuffix(p[1:], "/"), "/")
	if !s.portalHas || s.slotIndex < 0 || s.slotIndex == len(s.segments)-1 || len(all) <= s.slotIndex || !isID(all[s.slotIndex]) || !endsNear(s.segments[s.slotIndex+1:], all[s.slotIndex+1:]) {
		return none
	}
	for i, g := range s.segments[:s.slotIndex] {
		if !strings.EqualFold(all[i], g.pre) {
			return none
		}
	}
	v := Verdict{Kind: Company, Company: strings.ToLower(all[s.slotIndex]), Lenient: true}
	if len(all) == s.slotIndex+1 {
		v.Stems, v.Unlikely = stemsOf(v.Company), IsFile(v.Company)
	}
	return v
}

// IsFile reports whether an id looks like the name of a file: help.html.
func IsFile(id string) bool {
	_, ext, dot := cutExtension(strings.ToLower(id))
	switch ext {
	case "html", "htm", "xhtml", "css", "js", "mjs", "map", "json", "xml", "txt", "md", "pdf", "csv", "xls", "xlsx", "doc", "docx", "odt", "ods", "rtf", "zip",
		"png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "bmp", "tif", "tiff", "woff", "woff2", "ttf", "webmanifest", "mp3", "mp4":
		return dot
	}
	return dot && isProgram(ext)
}

// IsDocument reports whether an id looks like the name of a file that no portal treats as a page in
// a format: report.pdf, but not help.html.
func IsDocument(id string) bool {
	_, ext, _ := cutExtension(strings.ToLower(id))
	return IsFile(id) && !isProgram(ext) && !slices.Contains([]string{"html", "htm", "xhtml", "json", "xml"}, ext)
}

// isID reports whether s has the form of a company id, in any case.
func isID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return len(s) >= 1 && len(s) <= 63
}

// tailOf returns the part of a plain path that matches the *, escaped as sent. The raw form of a
// plain path has the same slashes.
func (s *pattern) tailOf(u *url.URL, at int) string {
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

// nearForeign reports whether a path without a match would match for a portal that replaces letters
// by similar ones.
func (r *Rules) nearForeign(p string) bool {
	near := func(p string) bool { return r.matchPlain(path.Clean("/"+fold(p)), &url.URL{}).Kind != None }
	return near(p) || near(asWindows(p))
}

// asWindows returns a path as Windows code pages read it, with backslashes replaced by slashes.
func asWindows(p string) string {
	if isASCII(p) {
		return p
	}
	return path.Clean("/" + strings.ReplaceAll(currencyAsBackslash.Replace(bestFit(p)), `\`, "/"))
}

// nearProgram reports whether a path without a match would match for a portal that runs a program
// with the rest of the path: /index.php/one-click/t, /files.php/acme.
func (r *Rules) nearProgram(p string) bool {
	programs := 0
	for at := 1; ; {
		end := strings.IndexByte(p[at:], '/')
		if end < 0 {
			return false
		}
		end += at
		if stem, ext, dot := cutExtension(p[at:end]); dot && isProgram(ext) {
			if programs++; programs > maxPrograms {
				return true // checking each costs time proportional to the length of the path
			}
			for _, reading := range []string{p[end:], p[:at] + stem + p[end:]} {
				v := r.matchPlain(reading, &url.URL{})
				if v.Kind != None || len(v.MisplacedTokens) > 0 {
					return true
				}
			}
		}
		at = end + 1
	}
}

// maxPrograms limits the segments of a path that may be programs.
const maxPrograms = 8

func cutExtension(s string) (stem, ext string, dot bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// isProgram reports whether servers run files with this extension and pass them the rest of the
// path.
func isProgram(ext string) bool {
	ext = strings.ToLower(ext)
	switch ext {
	case "phtml", "phar", "cgi", "fcgi", "pl", "py", "rb", "lua", "exe", "dll", "asp", "aspx", "ashx", "asmx", "cfm", "cfc", "jsp", "jspx", "do", "action":
		return true
	}
	return strings.HasPrefix(ext, "php")
}

// nearShifted reports whether some portal could find a pattern's path in a path that shifts:
// however it is decoded, it contains the pattern's longest word.
func (r *Rules) nearShifted(p, query string) bool {
	words, queries := map[string]bool{}, []string{query}
	for range 5 {
		if strings.Contains(p, "(") && cookieless.MatchString(p) { // ASP.NET joins the text around it
			return true
		}
		p = currencyAsBackslash.Replace(bestFit(unescapeWide(p)))
		if _, query, found := strings.Cut(p, "?"); found { // portals that decode before parsing find a query in the path
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
		if l.to.matchesWords(words) || l.old.matchesWords(words) && (l.old.name == "" || slices.ContainsFunc(queries, l.old.names)) {
			return true
		}
	}
	return slices.ContainsFunc(r.companies, func(s *pattern) bool { return s.matchesWords(words) })
}

// matchesWords reports whether the folded words of a path contain the longest word that is a whole
// segment of the pattern. For a pattern without such a word, it reports whether a word could
// contain its slot.
func (s *pattern) matchesWords(words map[string]bool) bool {
	longest := ""
	for _, g := range s.segments {
		text := fold(g.pre)
		if stem, ext, dot := cutExtension(text); dot && isProgram(ext) {
			text = stem
		}
		if !g.hasSlot && len(text) > len(longest) && text != "index" && text != "default" {
			longest = text
		}
	}
	if longest != "" {
		return words[longest]
	}
	if s.slotIndex < 0 || s.segments[s.slotIndex].pre+s.segments[s.slotIndex].suf == "" {
		return true
	}
	// A token may contain characters that split words, so one end of the segment is enough.
	pre, suf := fold(s.segments[s.slotIndex].pre), fold(s.segments[s.slotIndex].suf)
	for w := range words {
		if pre != "" && strings.HasPrefix(w, pre) || pre == "" && strings.HasSuffix(w, suf) {
			return true
		}
	}
	return false
}

// resembles reports whether a plain path may lead to the same page as the pattern's path, whose
// token is in the query: through an index page, an extension, or a program that gets the rest of
// the path.
func (s *pattern) resembles(p string) bool {
	mine, theirs := stems(s.path("", "")), stems(p)
	if len(mine) == 0 {
		return len(theirs) == 0
	}
	return len(theirs) >= len(mine) && slices.Equal(theirs[:len(mine)], mine)
}

// stems returns the folded segments of a path without extensions, index pages and names of programs
// at the root.
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
