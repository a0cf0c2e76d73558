package web

import "strings"

// Cell returns a text as a cell of a CSV file that people open in a spreadsheet: one that would begin a formula there gets
// an apostrophe in front, and line breaks become spaces.
func Cell(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == '\u007f' || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s)
	if first := strings.TrimLeft(s, " \u00a0\ufeff\u200b\u3000"); first != "" && strings.ContainsAny(first[:firstRune(first)], "=+-@|%＝＋－＠") {
		return "'" + s
	}
	return s
}

func firstRune(s string) int {
	for i := range s {
		if i > 0 {
			return i
		}
	}
	return len(s)
}
