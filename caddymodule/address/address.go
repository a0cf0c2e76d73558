// Package address defines the one syntax of email addresses in Doorpost, for all input: forms,
// CSV files, the Caddyfile, the admin API.
//
// It is deliberately much narrower than RFC 5322. Parsers disagree about quoted local parts,
// comments, groups, routes and address literals, so a mail could go to another address than
// the one checked; and no client of a firm has such an address.
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

// Address is an email address in canonical form: NFKC, lower case, a dot-atom local part, a
// domain of A-labels. Two addresses are the same exactly if their strings are equal; a `+tag`
// makes another address. The zero value is no address.
type Address string

// ErrInvalid: the text is not an address, or not of a kind that Doorpost sends mail to. Every
// error of Parse wraps it and gives the reason. It doesn't contain the text, so that it may be
// logged.
var ErrInvalid = errors.New("not an email address")

// Limits of RFC 5321, section 4.5.3.1, in bytes of the canonical form.
const (
	maxLocal  = 64
	maxAll    = 254
	maxLabel  = 63
	maxInput  = 1024 // limit for input, since normalization takes time
	mailtoURL = "mailto:"
)

// Parse returns the canonical form of s.
//
// It removes what keyboards, address books and mail programs add around an address: spaces and
// tabs, zero-width characters, `mailto:`. It accepts or rejects the rest, and never repairs
// it.
func Parse(s string) (Address, error) {
	if len(s) > maxInput {
		return "", invalid("it is too long")
	}
	if !utf8.ValidString(s) { // IDNA would turn it into a domain with U+FFFD
		return "", invalid("it is not UTF-8")
	}
	// Normalize first: NFKC turns a full-width ＠ into an @, so an earlier check would see
	// another address than the one used later.
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

// Domain returns the part after the @, in A-labels; "" for the zero value.
func (a Address) Domain() string {
	_, domain, _ := strings.Cut(string(a), "@")
	return domain
}

// Display returns the address as people write it, with a domain in its own script, if Parse
// returns the same address for it and it can't be mistaken for another domain: all its letters
// are Latin, with or without accents, or all are of one other script that the top-level domain
// uses too. Otherwise it returns the address unchanged.
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

// plainScript reports whether the letters of a domain can't be mistaken for those of another
// script.
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

// Masked returns the part of the address that pages and logs may show: its first character,
// dots that hide its length, and the domain.
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

// trim removes invisible characters at both ends. Line breaks and other control characters
// stay and are rejected later: keyboards don't add them, but header injection does.
func trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		return r == '\t' || unicode.Is(unicode.Zs, r) || unicode.Is(unicode.Cf, r)
	})
}

// encodedWord is =?charset?encoding?text?= of RFC 2047.
var encodedWord = regexp.MustCompile(`=\?[^?]+\?[^?]+\?[^?]*\?=`)

// parseLocal accepts a dot-atom of RFC 5322, section 3.2.3, and lowers only A-Z: lowering
// other capitals of Unicode (İ) would make another person's address.
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
		// Valid, but a mail program may show, or an application may use, the decoded text.
		return "", invalid("before the @ there is an encoded word (RFC 2047)")
	case len(b) > maxLocal:
		return "", invalid("more than %d characters stand before the @", maxLocal)
	}
	return string(b), nil
}

func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// parseDomain returns the domain in A-labels. IDNA decides which letters are valid; the other
// checks require a domain that can receive mail from anywhere.
func parseDomain(s string) (string, error) {
	for _, r := range s {
		// IDNA would silently drop invisible characters, so that two spellings mean one
		// domain. The two joiners are part of some scripts, and IDNA checks their position.
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
		// This includes what some resolvers accept as an IP address: 127.0.0.1, 127.0.0.0x1.
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
