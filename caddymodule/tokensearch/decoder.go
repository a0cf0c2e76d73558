package tokensearch

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// decoder decodes the escapes of a text layer by layer and folds the result. Its memory is reused.
type decoder struct {
	layer      int
	text, next []byte
	at, nextAt []int32 // start of each byte in the original text, and the end of the last one
	open       []int32 // indexes in the original text where the end of a layer may begin an escape

	folded   []byte
	foldedAt []int32
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// maxLayers limits the layers of escapes that are decoded.
const maxLayers = 5

// begin starts with the original text.
func (v *decoder) begin(text string) {
	v.layer, v.text, v.at, v.open = 0, append(v.text[:0], text...), v.at[:0], v.open[:0]
	for i := range len(text) + 1 {
		v.at = append(v.at, int32(i))
	}
}

// decode decodes one layer of escapes and reports whether there were any. With only, it decodes URL
// escapes only, and the original text counts as the first layer.
func (v *decoder) decode(only bool) (had bool) {
	if v.layer++; only && v.layer == 1 {
		return true
	}
	v.next, v.nextAt = v.next[:0], v.nextAt[:0]
	open := int32(-1)
	for i := 0; i < len(v.text); {
		c, start := v.text[i], v.at[i]
		if c != '%' && c != '\\' && c != '&' {
			v.next, v.nextAt = append(v.next, c), append(v.nextAt, start)
			i++
			continue
		}
		r, size, is := escapeAt(v.text[i:], !only)
		if open = -1; r < 0 || is == noEscape {
			open = start
		}
		i += size
		had = had || is != noEscape
		switch {
		case r < 0: // some readers drop a character that begins an invalid escape
		case is == charEscape:
			n := len(v.next)
			v.next = utf8.AppendRune(v.next, r)
			for ; n < len(v.next); n++ {
				v.nextAt = append(v.nextAt, start)
			}
		default:
			v.next, v.nextAt = append(v.next, byte(r)), append(v.nextAt, start)
		}
	}
	end := v.at[len(v.text)]
	if open >= 0 && int(end-open) < longestEscape {
		v.open = append(v.open, open)
	}
	v.nextAt = append(v.nextAt, end)
	v.text, v.next, v.at, v.nextAt = v.next, v.text, v.nextAt, v.at
	return had
}

// longestEscape is more than the number of bytes of a nested escape.
const longestEscape = 128

// ends returns the indexes in the original text that may be the end of complete text: its end, and
// the beginning of a possibly incomplete escape or character.
func (v *decoder) ends() []int32 {
	n := len(v.text)
	end := v.at[n]
	for n > 0 && len(v.text)-n < utf8.UTFMax+2 && v.text[n-1] >= utf8.RuneSelf {
		n--
	}
	sign := bytes.LastIndexAny(v.text[max(0, len(v.text)-16):], `%\&`) // of the next layer
	ends := append(v.open, end, v.at[n])
	if sign >= 0 {
		ends = append(ends, v.at[max(0, len(v.text)-16)+sign])
	}
	return ends
}

// fold is Fold for the text, but keeps line breaks and tabs and turns plus signs into spaces. The
// result is valid until the next call.
func (v *decoder) fold() string {
	v.folded, v.foldedAt = v.folded[:0], v.foldedAt[:0]
	for i := 0; i < len(v.text); {
		c, size := v.text[i], 1
		switch {
		case c == '+':
			c = ' '
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= ' ' && c < 0x7f, isSpacing(c):
		case c < utf8.RuneSelf:
			i++
			continue
		default:
			var text string
			if text, size = foldAt(v.text[i:]); len(text) != 1 {
				for j := range len(text) {
					v.folded, v.foldedAt = append(v.folded, text[j]), append(v.foldedAt, v.at[i])
				}
				i += size
				continue
			}
			c = text[0]
		}
		v.folded, v.foldedAt = append(v.folded, c), append(v.foldedAt, v.at[i])
		i += size
	}
	v.foldedAt = append(v.foldedAt, v.at[len(v.text)])
	return unsafe.String(unsafe.SliceData(v.folded), len(v.folded))
}

// before returns the index in the original text of the character at cut or just before it, and up
// to most bytes of the folded text before it. The text is that of the last layer.
func (v *decoder) before(cut, most int) (begins int, folded []byte) {
	i, _ := slices.BinarySearch(v.at, int32(cut+1))
	for i--; i > 0 && v.text[i]&0xc0 == 0x80; i-- {
	}
	begins = int(v.at[i])
	n, _ := slices.BinarySearch(v.foldedAt, int32(begins))
	return begins, v.folded[max(0, n-most):n]
}

type escape uint8

const (
	noEscape   escape = iota // not an escape
	urlEscape                // a byte, %61
	charEscape               // a character: %u0061, \u0061, \x61, \/, &#97; &#x61;
)

// escapeAt returns the character of an escape at the beginning of a text, and the escape's size.
// With all, it accepts escapes other than those of URLs, and returns -1 for a character that begins
// an invalid one.
func escapeAt(s []byte, all bool) (r rune, size int, is escape) {
	if s[0] == '%' && len(s) > 2 {
		if n := number(s[1:3], 16); n >= 0 {
			return n, 3, urlEscape
		}
	}
	if !all {
		return rune(s[0]), 1, noEscape
	}
	second := byte(0)
	if len(s) > 1 {
		second = s[1]
	}
	switch s[0] {
	case '%', '\\':
		switch {
		case second|0x20 == 'u' && len(s) > 5 && number(s[2:6], 16) >= 0:
			return number(s[2:6], 16), 6, charEscape
		case s[0] == '\\' && second == 'x' && len(s) > 3 && number(s[2:4], 16) >= 0:
			return number(s[2:4], 16), 4, charEscape
		case s[0] == '\\' && second == 'u' && len(s) > 3 && s[2] == '{':
			if n, end := numberUntil(s[3:], '}', 16); n >= 0 {
				return n, 3 + end, charEscape
			}
		}
		return -1, 1, charEscape
	default:
		if second == '#' && len(s) > 3 {
			if n, end := numberUntil(s[2:], ';', 10); n >= 0 {
				return n, 2 + end, charEscape
			}
			if n, end := numberUntil(s[3:], ';', 16); s[2]|0x20 == 'x' && n >= 0 {
				return n, 3 + end, charEscape
			}
		}
		return '&', 1, noEscape
	}
}

// numberUntil parses a number that is followed by end, or returns -1. size includes end.
func numberUntil(s []byte, end byte, base int) (n rune, size int) {
	const most = 8 // digits, including leading zeros
	for i := 1; i < len(s) && i <= most; i++ {
		if s[i] == end {
			return number(s[:i], base), i + 1
		}
	}
	return -1, 0
}

func number(s []byte, base int) rune {
	n, err := strconv.ParseUint(string(s), base, 21)
	if err != nil || s[0] == '+' {
		return -1
	}
	return rune(n)
}
