package token

import (
	"crypto/rand"
	"strings"
	"unicode"
)

const (
	// LinkLength is how many characters the secret of a link has: 130 random bits in small
	// letters and digits, so that a link fits on a line of 76 characters, and no program on
	// its way takes the end of it for punctuation.
	LinkLength = 26
	// longLinkLength is that of links that were mailed by earlier versions.
	longLinkLength = 43
)

const linkAlphabet = "abcdefghijklmnopqrstuvwxyz234567" // RFC 4648, base 32

func newLinkSecret() string { return strings.ToLower(rand.Text()) }

// Clean undoes what programs and people do to a link's secret between a mail and a browser:
// blanks and line ends inside, the bracket or full stop behind it, and a "3D" from
// quoted-printable that was decoded in part. All spellings that stand for one link become one.
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
