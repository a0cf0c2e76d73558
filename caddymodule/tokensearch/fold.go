package tokensearch

import (
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/collate"
	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

// Fold returns a text in the form in which the most lenient portal or database compares it, in
// printable ASCII: in lower case and without accents (many databases ignore both, such as MySQL by
// default), with wide and styled letters and the digits of other scripts replaced by plain ones,
// without invisible characters, and with overlong UTF-8 decoded as lenient readers do.
func Fold(s string) string {
	ascii, upper := true, false
	for i := range len(s) {
		ascii = ascii && s[i] >= ' ' && s[i] < 0x7f
		upper = upper || s[i] >= 'A' && s[i] <= 'Z'
	}
	switch {
	case ascii && !upper:
		return s
	case ascii:
		return strings.ToLower(s)
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		text, size := foldAt(s[i:])
		b = append(b, text...)
		i += size
	}
	return string(b)
}

// foldAt folds the first character of a non-empty text.
func foldAt[T string | []byte](s T) (folded string, size int) {
	if c := s[0]; c < utf8.RuneSelf {
		switch {
		case c < ' ' || c == 0x7f:
			return "", 1
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		}
		return printable[c : c+1], 1
	}
	if c := s[0]; c < 0xc0 {
		return foldTable().at(rune(c)), 1
	}
	head := string(s[:min(len(s), 6)])
	if n, r := Overlong(head); n > 0 {
		return foldTable().at(r), n
	}
	r, size := utf8.DecodeRuneInString(head)
	if r == utf8.RuneError && size == 1 {
		r = rune(head[0]) // as a reader of ISO 8859-1 sees it
	}
	return foldTable().at(r), size
}

// printable contains each ASCII character at its own index.
var printable = func() string {
	var b [utf8.RuneSelf]byte
	for i := range b {
		b[i] = byte(i)
	}
	return string(b[:])
}()

// folds maps characters to their folded text.
type folds struct {
	texts []string // distinct texts; the first one is empty
	of    []uint16 // by character: index in texts
}

func (f *folds) at(r rune) string {
	if int(r) >= len(f.of) {
		return ""
	}
	return f.texts[f.of[r]]
}

// foldTable takes some milliseconds to build, so it is built when the first text needs it.
var foldTable = sync.OnceValue(func() *folds {
	collated := newCollated()
	f := &folds{texts: []string{""}, of: make([]uint16, 0x20000)} // higher characters fold to ""
	places := map[string]uint16{"": 0}
	set := func(r rune, text string) {
		at, known := places[text]
		if !known {
			at = uint16(len(f.texts))
			places[text], f.texts = at, append(f.texts, text)
		}
		f.of[r] = at
	}
	for r := range rune(len(f.of)) {
		if r < 0x3400 || r >= 0xa640 && r < 0xac00 || r >= 0xd7b0 { // the characters in between fold to "" too
			text := foldASCII(norm.NFKD.String(string(unicode.ToLower(r))))
			if text == "" && unicode.In(r, unicode.Latin, enclosed) {
				text = collated(r)
			}
			set(r, text)
		}
	}
	digits := func(lo, hi uint32) {
		for r := lo; r <= hi && int(r) < len(f.of); r++ {
			set(rune(r), string(rune('0'+(r-lo)%10)))
		}
	}
	for _, all := range unicode.Nd.R16 {
		digits(uint32(all.Lo), uint32(all.Hi))
	}
	for _, all := range unicode.Nd.R32 {
		digits(all.Lo, all.Hi)
	}
	set('ı', "i")
	set('ß', "ss")
	set('ẞ', "ss")
	return f
})

// enclosed are circled and squared letters and digits, combining letters, and letter-like symbols.
var enclosed = &unicode.RangeTable{
	R16: []unicode.Range16{{Lo: 0x363, Hi: 0x36f, Stride: 1}, {Lo: 0x1dd3, Hi: 0x1df4, Stride: 1}, {Lo: 0x2100, Hi: 0x214f, Stride: 1}, {Lo: 0x2460, Hi: 0x24ff, Stride: 1}, {Lo: 0x2776, Hi: 0x2793, Stride: 1}},
	R32: []unicode.Range32{{Lo: 0x1f100, Hi: 0x1f18f, Stride: 1}},
}

// newCollated returns a function that returns the one or two ASCII letters or digits as which the
// Unicode Collation Algorithm (UTS 10) sorts a character if only base letters count, as in MySQL's
// utf8mb4_0900_ai_ci: ø is o, and æ is ae. It returns "" if there are none.
func newCollated() func(rune) string {
	c, buf := collate.New(language.Und, collate.Loose), new(collate.Buffer)
	key := func(s string) string {
		defer buf.Reset()
		return string(c.KeyFromString(buf, s))
	}
	texts := map[string]string{}
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789"
	for _, a := range letters {
		texts[key(string(a))] = string(a)
		for _, b := range letters {
			texts[key(string(a)+string(b))] = string(a) + string(b)
		}
	}
	return func(r rune) string { return texts[key(string(r))] }
}

func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// Overlong returns the length and value of an overlong UTF-8 character (RFC 3629, 3) at the
// beginning of a text, or 0.
func Overlong(s string) (n int, r rune) {
	if len(s) < 2 {
		return 0, 0
	}
	switch c, next := s[0], s[1]; {
	case next < 0x80 || next >= 0xc0:
	case c == 0xc0 || c == 0xc1:
		n, r = 2, rune(c&0x1f)
	case c == 0xe0 && next < 0xa0:
		n = 3
	case c == 0xf0 && next < 0x90:
		n = 4
	case c == 0xf8 && next < 0x88:
		n = 5
	case c == 0xfc && next < 0x84:
		n = 6
	}
	if len(s) < n {
		return 0, 0
	}
	for i := 1; i < n; i++ {
		if s[i] < 0x80 || s[i] >= 0xc0 {
			return 0, 0
		}
		r = r<<6 | rune(s[i]&0x3f)
	}
	return n, r
}
