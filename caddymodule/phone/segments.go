package phone

import (
	"strings"
	"unicode/utf16"
)

// The alphabet of GSM 03.38 (3GPP TS 23.038, section 6.2.1). A character of the extension table takes
// the place of two.
const (
	gsm7 = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?" +
		"¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
	gsm7Extension = "^{}\\[~]|€\f"
)

// MaxSegments is how many segments a text may have.
const MaxSegments = 3

// Segments returns how many text messages carry the text. In the GSM alphabet one has 160 characters, or
// 153 where there are several; any other character makes it UCS-2, with 70 or 67 UTF-16 units.
func Segments(text string) int {
	units, ok := septets(text)
	one, ofMany := 160, 153
	if !ok {
		units, one, ofMany = ucs2(text), 70, 67
	}
	switch n := sum(units); {
	case n == 0:
		return 0
	case n <= one:
		return 1
	}
	segments, room := 1, ofMany
	for _, n := range units { // a character isn't split over two of them
		if n > room {
			segments, room = segments+1, ofMany
		}
		room -= n
	}
	return segments
}

// septets returns the length of each character in the GSM alphabet; false: it doesn't have them all.
func septets(text string) (units []int, ok bool) {
	for _, r := range text {
		switch {
		case strings.ContainsRune(gsm7, r):
			units = append(units, 1)
		case strings.ContainsRune(gsm7Extension, r):
			units = append(units, 2)
		default:
			return nil, false
		}
	}
	return units, true
}

func ucs2(text string) (units []int) {
	for _, r := range text {
		units = append(units, utf16.RuneLen(r))
	}
	return units
}

func sum(all []int) (n int) {
	for _, one := range all {
		n += one
	}
	return n
}
