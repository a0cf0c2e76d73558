package password

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// How long a password may be, in characters (code points in the form of NFKC).
const (
	DefaultLength = 15  // NIST SP 800-63B-4, section 3.1.1.2, for one that stands alone
	LeastLength   = 8   // OWASP ASVS 5.0, 6.2.1
	MaxLength     = 256 // at most 1 KiB, so nothing is cut off anywhere
)

// About is what others know of a contact: no password may contain it.
type About struct {
	Names     []string          // first and last
	Emails    []address.Address // all of them
	Companies []string          // names and ids; none for staff, who reach all
}

// Reason is why a password may not be chosen.
type Reason string

// The reasons.
const (
	TooShort   Reason = "too short"
	TooLong    Reason = "too long"
	NoText     Reason = "not text"                 // it isn't UTF-8
	Common     Reason = "common"                   // among those that are tried first, or a few characters over and over
	HasFirm    Reason = "has the firm's name"      // or a word of it
	HasName    Reason = "has the person's name"    // or a word of it
	HasAddress Reason = "has the person's address" // or a part of it
	HasCompany Reason = "has a company's name"     // or a word of it
)

const (
	longEnough   = 4 // characters that a word must have to be looked for
	fewDifferent = 4 // characters, of which nothing good is made
)

// Refused is a password that may not be chosen. Its Error has no part of the password,
// its Words may.
type Refused struct {
	Why  Reason
	Has  int    // characters; of TooShort and TooLong
	Min  int    // characters; of TooShort
	Word string // of HasFirm, HasName, HasAddress, HasCompany: what to leave out
}

func (r Refused) Error() string { return "password: refused: " + string(r.Why) }

// Words says it to the person who chose the password, on a page.
func (r Refused) Words() string {
	leaveOut := func(what string) string {
		return fmt.Sprintf("Please leave out “%s”: it is part of %s, and that is tried first by who wants to get in.", r.Word, what)
	}
	switch r.Why {
	case TooShort:
		return fmt.Sprintf("Please use at least %d characters; so far there %s. Four or five words in a row make a good password.", r.Min, are(r.Has))
	case TooLong:
		return fmt.Sprintf("Please use at most %d characters; there are %d.", MaxLength, r.Has)
	case NoText:
		return "This has a character that can’t be read. Please type it once more, or choose another one."
	case Common:
		return "This is a password that many people use, or one like it. Please choose something that only you would think of."
	case HasFirm:
		return leaveOut("our name")
	case HasName:
		return leaveOut("your name")
	case HasAddress:
		return leaveOut("your email address")
	case HasCompany:
		return leaveOut("your company’s name")
	}
	return "Please choose another password."
}

func are(n int) string {
	if n == 1 {
		return "is 1"
	}
	return fmt.Sprintf("are %d", n)
}

// Judge decides whether somebody may have the password: nil, or a Refused with the first
// thing that is wrong. It asks for no digits, capitals or signs, nor does it count what
// can't be seen differently from what can.
func (p *Passwords) Judge(password string, about About) error {
	if !utf8.ValidString(password) {
		return Refused{Why: NoText}
	}
	if len(password) > maxTyped {
		return Refused{Why: TooLong, Has: utf8.RuneCountInString(password)}
	}
	has, least := utf8.RuneCountInString(normal(password)), p.Least()
	switch {
	case has < least:
		return Refused{Why: TooShort, Has: has, Min: least}
	case has > MaxLength:
		return Refused{Why: TooLong, Has: has}
	}
	folded := fold(password)
	if isCommon(folded) || different(folded) <= fewDifferent {
		return Refused{Why: Common}
	}
	plain := squash(folded)
	for _, one := range p.known(about) {
		if word := contained(plain, one.words); word != "" {
			return Refused{Why: one.why, Word: word}
		}
	}
	return nil
}

// Least is how many characters a password needs.
func (p *Passwords) Least() int {
	if p.MinLength == 0 {
		return DefaultLength
	}
	return min(max(p.MinLength, LeastLength), MaxLength)
}

// known is what must not be in a password, folded, in the order in which it is told.
func (p *Passwords) known(about About) []struct {
	why   Reason
	words []string
} {
	var emails []string
	for _, a := range about.Emails {
		local, domain, _ := strings.Cut(string(a), "@")
		if i := strings.LastIndexByte(domain, '.'); i >= 0 {
			domain = domain[:i] // com and the like say nothing about anybody
		}
		emails = append(emails, wordsOf(local, domain)...)
		emails = append(emails, fold(string(a))) // all of it, where its parts are too short to be looked for
	}
	return []struct {
		why   Reason
		words []string
	}{
		{HasName, append(wordsOf(strings.Join(about.Names, " ")), wordsOf(about.Names...)...)},
		{HasAddress, emails},
		{HasFirm, wordsOf(p.Name)},
		{HasCompany, wordsOf(about.Companies...)},
	}
}

// everybodys are words of names that are in so many names that they say nothing.
var everybodys = map[string]bool{
	"company": true, "corporation": true, "group": true, "holding": true, "holdings": true,
	"gmbh": true, "incorporated": true, "limited": true, "services": true, "with": true,
}

// wordsOf returns each text, folded, with its words behind it.
func wordsOf(texts ...string) (words []string) {
	for _, text := range texts {
		folded := fold(text)
		words = append(words, folded)
		words = append(words, strings.FieldsFunc(folded, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })...)
	}
	return words
}

// contained returns the first of the words that is in a squashed password, and long enough
// to count; else "".
func contained(plain string, words []string) string {
	for _, word := range words {
		w := squash(word)
		if utf8.RuneCountInString(w) >= longEnough && !everybodys[w] && strings.Contains(plain, w) {
			return word
		}
	}
	return ""
}

// fold takes away what guessers vary first: capitals, accents, forms of the same letter.
func fold(s string) string {
	return norm.NFC.String(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFKD.String(s)))
}

// squash leaves letters and digits.
func squash(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			return r
		}
		return -1
	}, s)
}

// different returns how many different characters a text has.
func different(s string) int {
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	return len(seen)
}
