// Package address is the one grammar of an email address in Doorpost, wherever an
// address comes in: a form, a CSV, the Caddyfile, the admin API.
//
// It is far narrower than RFC 5322, on purpose. Quoted local parts, comments, groups,
// routes and address literals are where two parsers disagree on whom a mail goes to,
// and no client of a firm has such an address.
package address

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Address is an email address in its one canonical form: NFKC, lower case, a
// dot-atom local part, a domain of A-labels. Two addresses are the same if, and only
// if, they are equal as strings; a `+tag` makes another address. The zero value is no
// address.
type Address string

// ErrInvalid: the text is no address, or none of the kind that Doorpost mails to.
// Every error of Parse wraps it; the message says why and doesn't repeat the text, so
// that it may be logged.
var ErrInvalid = errors.New("not an email address")

// The limits of RFC 5321, section 4.5.3.1, in bytes of the canonical form.
const (
	maxLocal  = 64
	maxAll    = 254
	maxLabel  = 63
	maxTyped  = 1024 // of what is looked at at all: normalising costs time by length
	mailtoURL = "mailto:"
)

// Parse returns the canonical form of s.
//
// What keyboards, address books and mail programs put around an address is taken off:
// spaces and tabs, zero-width characters, `mailto:`. The rest is
// taken as it is or refused, never repaired.
func Parse(s string) (Address, error) {
	if len(s) > maxTyped {
		return "", invalid("it is too long")
	}
	if !utf8.ValidString(s) { // IDNA would make a domain of U+FFFD out of it
		return "", invalid("it is not UTF-8")
	}
	// NFKC before everything else: it turns a full-width ＠ into an @, and a check that
	// ran before it would have seen another address than the one that is used.
	s = trim(norm.NFKC.String(s))
	if len(s) >= len(mailtoURL) && strings.EqualFold(s[:len(mailtoURL)], mailtoURL) {
		s = trim(s[len(mailtoURL):])
	}
	local, domain, found := strings.Cut(s, "@")
	switch {
	case s == "":
		return "", invalid("it is empty")
	case !found:
		return "", invalid("it has no @")
	case strings.Contains(domain, "@"):
		return "", invalid("it has more than one @; one address is wanted, without a name")
	}
	local, err := parseLocal(local)
	if err != nil {
		return "", err
	}
	if domain, err = parseDomain(domain); err != nil {
		return "", err
	}
	if len(local)+1+len(domain) > maxAll {
		return "", invalid("it is longer than %d bytes", maxAll)
	}
	return Address(local + "@" + domain), nil
}

// Domain returns what stands after the @, in A-labels; nothing for the zero value.
func (a Address) Domain() string {
	_, domain, _ := strings.Cut(string(a), "@")
	return domain
}

// Display returns the address as people write it: with the domain in its own letters, if Parse
// makes the same address of that, and if nobody could take it for another domain. So the
// letters are Latin ones with or without a mark, or they are of one other script that the
// top-level domain is written in, too. Otherwise it is the address as it is.
func (a Address) Display() string {
	local, domain, _ := strings.Cut(string(a), "@")
	if !strings.Contains(domain, "xn--") {
		return string(a)
	}
	unicoded, err := idna.Display.ToUnicode(domain)
	if err != nil || !plainScript(unicoded) {
		return string(a)
	}
	display := local + "@" + unicoded
	if back, err := Parse(display); err != nil || back != a {
		return string(a)
	}
	return display
}

// plainScript reports whether a domain is in letters that can't be taken for others of
// another script.
func plainScript(domain string) bool {
	latin := true
	for _, r := range norm.NFD.String(domain) {
		switch {
		case r < 0x80, unicode.Is(unicode.Mn, r), strings.ContainsRune("ßæœøłđðþ", r):
		default:
			latin = false
		}
	}
	if latin {
		return true
	}
	top := domain[strings.LastIndexByte(domain, '.')+1:]
	for _, script := range []*unicode.RangeTable{unicode.Cyrillic, unicode.Greek, unicode.Arabic, unicode.Hebrew, unicode.Han, unicode.Hangul, unicode.Thai, unicode.Devanagari} {
		if strings.IndexFunc(top, func(r rune) bool { return !unicode.Is(script, r) }) < 0 {
			return strings.IndexFunc(domain, func(r rune) bool { return unicode.IsLetter(r) && !unicode.Is(script, r) }) < 0
		}
	}
	return false
}

// Masked returns as much of the address as a page or a log may show: its first
// character, dots that don't tell its length, and the domain.
func (a Address) Masked() string {
	if a == "" {
		return ""
	}
	return string(a[:1]) + "•••@" + a.Domain()
}

// UnmarshalText makes decoders as strict as Parse.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = Parse(string(text))
	return err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}

// trim takes off what can't be seen at either end. Line ends and other controls stay,
// and are refused later: no keyboard adds them, but who tries header lines does.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		return r == '\t' || unicode.Is(unicode.Zs, r) || unicode.Is(unicode.Cf, r)
	})
}

// encodedWord is =?charset?encoding?text?= of RFC 2047.
var encodedWord = regexp.MustCompile(`=\?[^?]+\?[^?]+\?[^?]*\?=`)

// parseLocal takes a dot-atom of RFC 5322, section 3.2.3, and folds A-Z only: what
// else Unicode calls a capital letter (İ) would become another person's address.
func parseLocal(s string) (string, error) {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c >= 'A' && c <= 'Z':
			b[i] = c + 'a' - 'A'
		case c == '.':
			if i == 0 || i == len(b)-1 || b[i-1] == '.' {
				return "", invalid("a dot before the @ must stand between two other characters")
			}
		case c >= 0x80:
			r, _ := utf8.DecodeRuneInString(s[i:])
			return "", invalid("before the @ there is %q, and only letters without accents can be used there", r)
		case !isAtext(c):
			return "", invalid("before the @ there is %q, which can't be there", c)
		}
	}
	switch {
	case len(b) == 0:
		return "", invalid("nothing stands before the @")
	case encodedWord.MatchString(s):
		// Legal, but a mail program may show, or an application read, what it stands for.
		return "", invalid("before the @ there is an encoded word (RFC 2047)")
	case len(b) > maxLocal:
		return "", invalid("more than %d characters stand before the @", maxLocal)
	}
	return string(b), nil
}

func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// parseDomain returns the domain in A-labels. IDNA decides what letters a name may
// have; the rest is what a mail can be sent to from anywhere.
func parseDomain(s string) (string, error) {
	for _, r := range s {
		// IDNA would drop the invisible ones without a word: two spellings, one name.
		// The two joiners are letters in some scripts, and IDNA checks where they stand.
		if unicode.Is(unicode.Cf, r) && r != '\u200c' && r != '\u200d' {
			return "", invalid("an invisible character stands after the @")
		}
	}
	ascii, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", invalid("after the @ there is no valid domain")
	}
	labels := strings.Split(ascii, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return "", invalid("after the @ there is no valid domain")
		}
	}
	top := labels[len(labels)-1]
	switch {
	case len(labels) == 1:
		return "", invalid("what stands after the @ needs a dot, as in example.com")
	case top[0] < 'a' || top == "localhost":
		// Also what some resolvers read as an IP address: 127.0.0.1, 127.0.0.0x1.
		return "", invalid("after the @ there must be a public domain, as in example.com")
	}
	return ascii, nil
}

func isLabel(s string) bool {
	if len(s) == 0 || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
