package legacy

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

// maxParams is how many parameters a query may have beside a token's: PHP reads no more
// than 1,000 by default, others stop elsewhere.
const maxParams = 1000

// presence is how a query holds the parameters of a shape.
type presence uint8

const (
	absent  presence = iota
	present          // once, and every reader sees the same
	mangled          // some readers see one, or another value
	other            // the slot is there, and a fixed parameter isn't or says something else
)

// readQuery finds what the shape's parameters are in a raw query. token is the slot's
// value, decoded; rest is the query without what the shape names.
func (s *shape) readQuery(query string) (token, rest string, is presence) {
	if query == "" && len(s.fixed) > 0 {
		return "", "", other
	}
	names := 0 // how often the name of the slot is there, or near
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
		return token, "", mangled
	case wrong:
		return token, "", other
	}
	return token, kept.String(), present
}

// Masked returns a raw query in which other values stand in the place of tokens, under every name
// that could be that of a parameter with a token.
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

// hasAny reports whether a query has, or nearly has, a parameter that the shape names:
// it would come before or behind the one that is put back.
func (s *shape) hasAny(query string) bool {
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

func (s *shape) fixedBy(name string) int {
	for i, f := range s.fixed {
		if _, near := sameName(name, f.name); near {
			return i
		}
	}
	return -1
}

// slotOf returns what of a parameter's raw value is in the place of the slot, and
// whether what the pattern has around it is there.
func (s *shape) slotOf(value string) (string, bool) {
	v, _ := unescape(value, false)
	return s.inSlot(v)
}

// inSlot is slotOf for a decoded value.
func (s *shape) inSlot(v string) (string, bool) {
	if len(v) < len(s.pre)+len(s.suf) || !strings.HasPrefix(v, s.pre) || !strings.HasSuffix(v, s.suf) {
		return v, false
	}
	return v[len(s.pre) : len(v)-len(s.suf)], true
}

// readings returns what portals take for the token in a parameter's raw value, where no
// pattern expects one: some decode twice, some have spaces for what was a plus, and make
// a plus of a space; ASP.NET knows escapes of its own; many trim what they get, and a
// database doesn't see spaces at the end.
func (s *shape) readings(value string) []string {
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
		if mayHaveWide(v) { // what is encoded many times over is decoded as often
			v = wideEscape.ReplaceAllString(v, "%$1")
		}
		v, _ = unescape(v, false)
		return v
	}
	for v, last := decode(value), ""; v != last && len(all) < maxStrays; v, last = decode(v), v {
		for _, v := range []string{v, strings.ReplaceAll(v, "+", " "), strings.ReplaceAll(v, " ", "+")} {
			add(v)
			add(strings.TrimRight(v, " "))
			add(strings.TrimFunc(v, trimmed))
		}
	}
	return all
}

// trimmed reports whether some language trims a character: JavaScript also what can't be seen.
func trimmed(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

// wideEscape is an escape of ASP.NET's for a character of ASCII, %u0061.
var wideEscape = regexp.MustCompile(`%[uU]00([0-9a-fA-F]{2})`)

// query returns the raw query with the token put back, before what else there is.
func (s *shape) query(token, rest string) string {
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

// piece is one parameter as it was sent. Some readers split at a semicolon too: where
// one is beside it, they don't see the same as the others.
type piece struct {
	text      string
	after     byte // what separates it from the one before: & or ;
	semicolon bool
}

// pieces yields the parameters of a raw query; empty ones too.
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

// sameName compares the raw name of a parameter with that of a pattern. same: every
// reader takes it for that. near: some reader does.
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
		// PHP takes a bracket that isn't closed for an underscore.
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

// samePlainName reports whether canonical returns the same for two plain names of one length.
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

// isPlainName reports whether a raw name can only be taken for one of its own length.
func isPlainName(raw string) bool {
	for i := range len(raw) {
		c := raw[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// canonical returns the name of a parameter as the most lenient reader takes it: PHP
// drops spaces before it, ends it at NUL and at a bracket, and takes dots and spaces for
// underscores; Rack and qs drop brackets before it; others compare without case, or
// without accents.
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

// fold returns a text as the most lenient reader compares it.
func fold(s string) string { return tokensearch.Fold(s) }

// unescape decodes what escapes there are, once; whole: there were no broken ones.
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

// escape writes a value so that every reader of queries reads it back.
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
