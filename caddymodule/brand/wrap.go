package brand

import (
	"strings"
	"unicode/utf8"
)

// width is how many characters a line of a built-in mail's text has at most, unless one word is longer.
const width = 72

// wrapLines breaks lines that are longer than width, at spaces.
func wrapLines(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		at := 0
		for i, word := range strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\n' }) { // not at spaces that hold words together
			n := utf8.RuneCountInString(word)
			switch {
			case i == 0:
			case at+1+n > width:
				out.WriteByte('\n')
				at = 0
			default:
				out.WriteByte(' ')
				at++
			}
			out.WriteString(word)
			at += n
		}
		out.WriteByte('\n')
	}
	return out.String()
}
