package token

import (
	"crypto/rand"
	"strings"
	"unicode"
)

const (
	// LinkLength is the number of characters of a link's secret: 130 random bits in lower-case
	// letters and digits, so that a link fits on a line of 76 characters, and no program takes
	// its end for punctuation.
	LinkLength = 26
	// longLinkLength is the length of secrets mailed by earlier releases.
	longLinkLength = 43
)

const linkAlphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648, base 32

func newLinkSecret() string { return strings.ToLower(rand.Text()) }

// Clean undoes the usual changes to a link's secret between mail and browser: spaces and line
// breaks inside, a bracket or full stop behind it, and a "3D" left over from quoted-printable.
// All spellings of a link give the same secret.
func Clean(s string) string {
	if len(s) == longLinkLength || len(s) > 4*LinkLength {
		return s
	}
	clean := strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || strings.ContainsRune("<>()[]{}\"'`.,;:!?=“”‘’«»\u200b\u200c\u200d\ufeff", r) {
			return -1
		}
		return r
	}, s)
	if len(clean) == LinkLength+2 && strings.EqualFold(clean[:2], "3d") {
		clean = clean[2:]
	}
	if len(clean) != LinkLength || strings.Trim(clean, linkAlphabet) != "" {
		return s
	}
	return clean
}
