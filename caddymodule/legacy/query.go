package legacy

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

// maxParams limits the parameters of a query besides a token's: PHP parses at most 1,000 by
// default, other portals have other limits.
const maxParams = 1000

// presence tells whether a query has the parameters of a pattern.
type presence uint8

const (
	absent    presence = iota
	present            // once, and all portals read the same
	ambiguous          // portals disagree on whether it is present, or on its value
	different          // the slot is present, but a fixed parameter is missing or has another value
)

// readQuery looks for the pattern's parameters in a raw query. token is the decoded value of the
// slot; rest is the query without the pattern's parameters.
func (s *pattern) readQuery(query string) (token, rest string, is presence) {
	if query == "" && len(s.fixed) > 0 {
		return "", "", different
	}
	names := 0 // number of parameters with the slot's name, or with one that may be read as it
	isFixed := make([]int, len(s.fixed))
	bad, wrong, n := false, false, 0
	var kept strings.Builder
	for p := range pieces(query) {
		if n++; n > maxParams {
			bad = true
		}
		name, value, _ := strings.Cut(p.text, "=")
		same, near := sameName(name, s.name)
		if s.name != "" && near {
			names++
			value, whole := s.slotOf(value)
			token = value
			bad = bad || !same || p.semicolon
			wrong = wrong || !whole
			continue
		}
		i := s.fixedBy(name)
		if i < 0 {
			if kept.Len() > 0 {
				kept.WriteByte(p.after)
			}
			kept.WriteString(p.text)
			continue
		}
		isFixed[i]++
		same, _ = sameName(name, s.fixed[i].name)
		decoded, _ := unescape(value, true)
		if decoded != s.fixed[i].value {
			wrong = true
			same = same && canonical(decoded) != canonical(s.fixed[i].value)
		}
		bad = bad || !same || p.semicolon || isFixed[i] > 1
	}
	for _, n := range isFixed {
		wrong = wrong || n == 0
	}
	switch {
	case s.name != "" && names == 0:
		return "", "", absent
	case bad || names > 1:
		return token, "", ambiguous
	case wrong:
		return token, "", different
	}
	return token, kept.String(), present
}

// Masked returns a raw query with the tokens replaced by other values, under every name that may be
// read as that of a token parameter.
func (r *Rules) Masked(query string, tokens []string, value func(token string) string) string {
	var b strings.Builder
	for p := range pieces(query) {
		if b.Len() > 0 {
			b.WriteByte(p.after)
		}
		b.WriteString(r.masked(p.text, tokens, value))
	}
	return b.String()
}

// masked is Masked for one parameter.
func (r *Rules) masked(text string, tokens []string, value func(token string) string) string {
	name, was, _ := strings.Cut(text, "=")
	for i := range r.links {
		s := r.links[i].old
		if s.name == "" {
			continue
		}
		if _, near := sameName(name, s.name); !near {
			continue
		}
		readings := s.readings(was)
		at := slices.IndexFunc(readings, func(read string) bool { return slices.Contains(tokens, read) })
		if at < 0 {
			continue
		}
		with := value(readings[at])
		if _, whole := s.slotOf(was); whole {
			with = s.pre + with + s.suf
		}
		return name + "=" + escape(with)
	}
	return text
}

// hasAny reports whether a query has a parameter of the pattern, or one that may be read as it: it
// would conflict with the parameter that is put back.
func (s *pattern) hasAny(query string) bool {
	n := 0
	for p := range pieces(query) {
		n++
		name, _, _ := strings.Cut(p.text, "=")
		if _, near := sameName(name, s.name); s.name != "" && near || s.fixedBy(name) >= 0 {
			return true
		}
	}
	return n > maxParams && (s.name != "" || len(s.fixed) > 0)
}

func (s *pattern) fixedBy(name string) int {
	for i, f := range s.fixed {
		if _, near := sameName(name, f.name); near {
			return i
		}
	}
	return -1
}

// slotOf returns the part of a parameter's raw value in the slot, and whether the pattern's text
// around the slot is there.
func (s *pattern) slotOf(value string) (string, bool) {
	v, _ := unescape(value, false)
	return s.inSlot(v)
}

// inSlot is slotOf for a decoded value.
func (s *pattern) inSlot(v string) (string, bool) {
	if len(v) < len(s.pre)+len(s.suf) || !strings.HasPrefix(v, s.pre) || !strings.HasSuffix(v, s.suf) {
		return v, false
	}
	return v[len(s.pre) : len(v)-len(s.suf)], true
}

// readings returns what portals may read as the token in a parameter's raw value, where no pattern
// has one: some decode twice, some replace a plus by a space or a space by a plus; ASP.NET has its
// own escapes; many trim values, and a database ignores spaces at the end.
func (s *pattern) readings(value string) []string {
	first, _ := s.slotOf(value)
	if !strings.ContainsFunc(value, func(r rune) bool { return r == '%' || r == '+' || r <= ' ' || r > '~' }) {
		return []string{first}
	}
	all := []string{first}
	add := func(v string) {
		if v, _ := s.inSlot(v); !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	decode := func(v string) string {
		if mayHaveWide(v) { // a value encoded several times is decoded as often
			v = wideEscape.ReplaceAllString(v, "%$1")
		}
		v, _ = unescape(v, false)
		return v
	}
	for v, last := decode(value), ""; v != last && len(all) < maxTokens; v, last = decode(v), v {
		for _, v := range []string{v, strings.ReplaceAll(v, "+", " "), strings.ReplaceAll(v, " ", "+")} {
			add(v)
			add(strings.TrimRight(v, " "))
			add(strings.TrimFunc(v, trimmed))
		}
	}
	return all
}

// trimmed reports whether some language trims the character; JavaScript also trims invisible ones.
func trimmed(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

// wideEscape matches ASP.NET's escapes of ASCII characters, such as %u0061.
var wideEscape = regexp.MustCompile(`%[uU]00([0-9a-fA-F]{2})`)

// query returns the raw query with the token put back, before the rest.
func (s *pattern) query(token, rest string) string {
	if s.name == "" && len(s.fixed) == 0 {
		return rest
	}
	var b strings.Builder
	add := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(name + "=" + escape(value))
	}
	for _, f := range s.fixed {
		add(f.name, f.value)
	}
	if s.name != "" {
		add(s.name, s.pre+token+s.suf)
	}
	if rest != "" {
		b.WriteString("&" + rest)
	}
	return b.String()
}

// piece is one parameter as sent. Some portals also split at semicolons, so with a semicolon beside
// it they read another value than the others.
type piece struct {
	text      string
	after     byte // separator before it: & or ;
	semicolon bool
}

// pieces yields the parameters of a raw query, including empty ones.
func pieces(query string) func(yield func(piece) bool) {
	return func(yield func(piece) bool) {
		after := byte('&')
		for rest := query; rest != ""; {
			end := strings.IndexAny(rest, "&;")
			if end < 0 {
				yield(piece{rest, after, after == ';'})
				return
			}
			if !yield(piece{rest[:end], after, after == ';' || rest[end] == ';'}) {
				return
			}
			after, rest = rest[end], rest[end+1:]
		}
	}
}

// sameName compares the raw name of a parameter with the name in a pattern. same means that all
// portals read it as that name, near that some do.
func sameName(raw, want string) (same, near bool) {
	if raw == want {
		return true, true
	}
	if isPlainName(raw) && (len(raw) != len(want) || isPlainName(want)) {
		return false, len(raw) == len(want) && samePlainName(raw, want)
	}
	name, whole := unescape(raw, true)
	if whole && name == want {
		return true, true
	}
	want = canonical(want)
	for range 4 {
		name = unescapeWide(name)
		// PHP reads an unclosed bracket as an underscore.
		if canonical(name) == want || strings.Contains(name, "[") && canonical(strings.ReplaceAll(name, "[", "_")) == want {
			return false, true
		}
		next, _ := unescape(name, true)
		if next == name {
			break
		}
		name = next
	}
	return false, false
}

// samePlainName reports whether canonical returns the same for two plain names of the same length.
func samePlainName(a, b string) bool {
	for i := range len(a) {
		c, d := a[i]|0x20, b[i]|0x20
		if a[i] == '-' || a[i] == '_' {
			c = '_'
		}
		if b[i] == '-' || b[i] == '_' {
			d = '_'
		}
		if c != d {
			return false
		}
	}
	return true
}

// isPlainName reports whether all portals read a raw name as a name of the same length.
func isPlainName(raw string) bool {
	for i := range len(raw) {
		c := raw[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// canonical returns the name of a parameter as the most lenient portal reads it: PHP drops leading
// spaces, cuts it off at NUL and at a bracket, and replaces dots and spaces by underscores; Rack
// and qs drop leading brackets; others ignore case or accents.
func canonical(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	name = strings.TrimFunc(fold(name), func(r rune) bool { return r <= ' ' || r == '?' || r == '&' })
	name = strings.TrimLeft(name, "[]")
	if i := strings.IndexAny(name, "[]"); i > 0 {
		name = name[:i]
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case ' ', '.', '-', '+':
			return '_'
		}
		return r
	}, name)
}

// fold returns a text in the form in which the most lenient portal compares it.
func fold(s string) string { return tokensearch.Fold(s) }

// unescape decodes all valid escapes once. whole reports whether all escapes were valid.
func unescape(s string, plus bool) (out string, whole bool) {
	if !strings.Contains(s, "%") && (!plus || !strings.Contains(s, "+")) {
		return s, true
	}
	whole = true
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%' && i+2 < len(s) && hex(s[i+1]) >= 0 && hex(s[i+2]) >= 0:
			b = append(b, byte(hex(s[i+1])<<4|hex(s[i+2])))
			i += 2
		case c == '+' && plus:
			b = append(b, ' ')
		default:
			whole = whole && c != '%'
			b = append(b, c)
		}
	}
	return string(b), whole
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// escape escapes a value so that all query parsers read it back.
func escape(s string) string {
	const digits = "0123456789ABCDEF"
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b = append(b, c)
			continue
		}
		b = append(b, '%', digits[c>>4], digits[c&15])
	}
	return string(b)
}
