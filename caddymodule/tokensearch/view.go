package tokensearch

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"unicode/utf8"
	"unsafe"
)

// reading is a text as some reader decodes it, layer by layer, and folded. Its memory is used again.
type reading struct {
	layer      int
	text, next []byte
	at, nextAt []int32 // where in the raw text each byte comes from, and where that ends
	open       []int32 // where in the raw text the end of a layer may begin an escape

	folded   []byte
	foldedAt []int32
}

var views = sync.Pool{New: func() any { return new(reading) }}

// mostLayers is how many times over escapes are decoded.
const mostLayers = 5

// begin begins with a text as it is.
func (v *reading) begin(text string) {
	v.layer, v.text, v.at, v.open = 0, append(v.text[:0], text...), v.at[:0], v.open[:0]
	for i := range len(text) + 1 {
		v.at = append(v.at, int32(i))
	}
}

// decode decodes escapes once: those of URLs, and unless only these, others. It reports whether there
// were any. The raw text isn't a layer of its own, unless only those of URLs count.
func (v *reading) decode(only bool) (had bool) {
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
		if open = -1; r < 0 || is == literal {
			open = start
		}
		i += size
		had = had || is != literal
		switch {
		case r < 0: // some readers leave out a sign that begins no escape
		case is == other:
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

// longestEscape is more than how many bytes a nested escape has.
const longestEscape = 128

// ends returns where in the raw text it may be taken to end: at its end, and before what may be the beginning of
// an escape or of a character.
func (v *reading) ends() []int32 {
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

// fold is Fold of the text, but that it keeps what parts lines and has spaces for plus signs. What it
// returns is good until the next call.
func (v *reading) fold() string {
	v.folded, v.foldedAt = v.folded[:0], v.foldedAt[:0]
	for i := 0; i < len(v.text); {
		c, size := v.text[i], 1
		switch {
		case c == '+':
			c = ' '
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= ' ' && c < 0x7f, isBreak(c):
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

// before returns where in the raw text a character begins, at the place cut or just before it, and up to most
// bytes of the folded text before it. The text is that of the last layer.
func (v *reading) before(cut, most int) (begins int, folded []byte) {
	i, _ := slices.BinarySearch(v.at, int32(cut+1))
	for i--; i > 0 && v.text[i]&0xc0 == 0x80; i-- {
	}
	begins = int(v.at[i])
	n, _ := slices.BinarySearch(v.foldedAt, int32(begins))
	return begins, v.folded[max(0, n-most):n]
}

type escape uint8

const (
	literal escape = iota // no escape
	byURL                 // a byte, %61
	other                 // a character: %u0061, \u0061, \x61, \/, &#97; &#x61;
)

// escapeAt returns the character that an escape at the beginning of a text stands for, and its size; of
// a sign that begins none -1, if others than those of URLs are known.
func escapeAt(s []byte, all bool) (r rune, size int, is escape) {
	if s[0] == '%' && len(s) > 2 {
		if n := number(s[1:3], 16); n >= 0 {
			return n, 3, byURL
		}
	}
	if !all {
		return rune(s[0]), 1, literal
	}
	second := byte(0)
	if len(s) > 1 {
		second = s[1]
	}
	switch s[0] {
	case '%', '\\':
		switch {
		case second|0x20 == 'u' && len(s) > 5 && number(s[2:6], 16) >= 0:
			return number(s[2:6], 16), 6, other
		case s[0] == '\\' && second == 'x' && len(s) > 3 && number(s[2:4], 16) >= 0:
			return number(s[2:4], 16), 4, other
		case s[0] == '\\' && second == 'u' && len(s) > 3 && s[2] == '{':
			if n, end := until(s[3:], '}', 16); n >= 0 {
				return n, 3 + end, other
			}
		}
		return -1, 1, other
	default:
		if second == '#' && len(s) > 3 {
			if n, end := until(s[2:], ';', 10); n >= 0 {
				return n, 2 + end, other
			}
			if n, end := until(s[3:], ';', 16); s[2]|0x20 == 'x' && n >= 0 {
				return n, 3 + end, other
			}
		}
		return '&', 1, literal
	}
}

// until reads a number that ends with a sign, or -1. size is that of both.
func until(s []byte, end byte, base int) (n rune, size int) {
	const most = 8 // digits, some of them zeros
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
