package password

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/language"
)

// Lengths of passwords in characters (code points after NFKC).
const (
	DefaultLength   = 15  // NIST SP 800-63B-4, section 3.1.1.2, for a password as the only factor
	LowestMinLength = 8   // OWASP ASVS 5.0, 6.2.1
	MaxLength       = 256 // at most 1 KiB, so nothing is ever truncated
)

// ContactInfo is information about a contact that others know. No password may contain it.
type ContactInfo struct {
	Names     []string          // first and last
	Emails    []address.Address // all of them
	Companies []string          // names and IDs; none for staff, who have access to all
}

// Reason is why the policy refuses a password.
type Reason string

const (
	TooShort   Reason = "too short"
	TooLong    Reason = "too long"
	NoText     Reason = "not text"                 // not UTF-8
	Common     Reason = "common"                   // on the list of common passwords, or only a few different characters
	HasFirm    Reason = "has the firm's name"      // or a word of it
	HasName    Reason = "has the person's name"    // or a word of it
	HasAddress Reason = "has the person's address" // or a part of it
	HasCompany Reason = "has a company's name"     // or a word of it
)

const (
	minWordLength = 4 // characters; shorter words aren't searched for
	minDistinct   = 4 // passwords with no more different characters are refused
)

// PolicyError is a password that the policy forbids. Error contains no part of the password; Words
// may.
type PolicyError struct {
	Why  Reason
	Has  int    // characters; for TooShort and TooLong
	Min  int    // characters; for TooShort
	Word string // for HasFirm, HasName, HasAddress and HasCompany: what to leave out
}

func (r PolicyError) Error() string { return "password: refused: " + string(r.Why) }

// Message returns the reason as text for the page where the contact chose the password.
func (r PolicyError) Message() language.Text {
	switch r.Why {
	case TooShort:
		if r.Has == 1 {
			return language.Say("Please use at least {1} characters; so far there is 1. Four or five words in a row make a good password.", strconv.Itoa(r.Min))
		}
		return language.Say("Please use at least {1} characters; so far there are {2}. Four or five words in a row make a good password.", strconv.Itoa(r.Min), strconv.Itoa(r.Has))
	case TooLong:
		return language.Say("Please use at most {1} characters; there are {2}.", strconv.Itoa(MaxLength), strconv.Itoa(r.Has))
	case NoText:
		return "This has a character that can’t be read. Please type it once more, or choose another one."
	case Common:
		return "This is a password that many people use, or one like it. Please choose something that only you would think of."
	case HasFirm:
		return language.Say("Please leave out “{1}”: it is part of our name, and attackers try that first.", r.Word)
	case HasName:
		return language.Say("Please leave out “{1}”: it is part of your name, and attackers try that first.", r.Word)
	case HasAddress:
		return language.Say("Please leave out “{1}”: it is part of your email address, and attackers try that first.", r.Word)
	case HasCompany:
		return language.Say("Please leave out “{1}”: it is part of your company’s name, and attackers try that first.", r.Word)
	}
	return "Please choose another password."
}

// CheckPolicy returns nil if the contact may choose the password, otherwise a Refused with the
// first reason. It requires no digits, capitals or symbols, and counts invisible characters
// like any other.
func (p *Passwords) CheckPolicy(password string, about ContactInfo) error {
	if !utf8.ValidString(password) {
		return PolicyError{Why: NoText}
	}
	if len(password) > maxInput {
		return PolicyError{Why: TooLong, Has: utf8.RuneCountInString(password)}
	}
	has, least := utf8.RuneCountInString(normalize(password)), p.RequiredLength()
	switch {
	case has < least:
		return PolicyError{Why: TooShort, Has: has, Min: least}
	case has > MaxLength:
		return PolicyError{Why: TooLong, Has: has}
	}
	folded := fold(password)
	if isCommon(folded) || countDistinct(folded) <= minDistinct {
		return PolicyError{Why: Common}
	}
	plain := squash(folded)
	for _, one := range p.forbiddenWords(about) {
		if word := contained(plain, one.words); word != "" {
			return PolicyError{Why: one.why, Word: word}
		}
	}
	return nil
}

// RequiredLength returns the minimum length of a password in characters.
func (p *Passwords) RequiredLength() int {
	if p.MinLength == 0 {
		return DefaultLength
	}
	return min(max(p.MinLength, LowestMinLength), MaxLength)
}

// forbiddenWords returns the texts that a password must not contain, folded, in the order in
// which they are reported.
func (p *Passwords) forbiddenWords(about ContactInfo) []struct {
	why   Reason
	words []string
} {
	var emails []string
	for _, a := range about.Emails {
		local, domain, _ := strings.Cut(string(a), "@")
		if i := strings.LastIndexByte(domain, '.'); i >= 0 {
			domain = domain[:i] // the top-level domain identifies nobody
		}
		emails = append(emails, wordsOf(local, domain)...)
		emails = append(emails, fold(string(a))) // the whole address, in case its parts are too short
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

// genericWords occur in so many names that they identify nobody.
var genericWords = map[string]bool{
	"company": true, "corporation": true, "group": true, "holding": true, "holdings": true,
	"gmbh": true, "incorporated": true, "limited": true, "services": true, "with": true,
}

// wordsOf returns each text, folded, followed by its words.
func wordsOf(texts ...string) (words []string) {
	for _, text := range texts {
		folded := fold(text)
		words = append(words, folded)
		words = append(words, strings.FieldsFunc(folded, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsNumber(r) })...)
	}
	return words
}

// contained returns the first of the words, of at least minWordLength, that the squashed
// password contains; or "".
func contained(plain string, words []string) string {
	for _, word := range words {
		w := squash(word)
		if utf8.RuneCountInString(w) >= minWordLength && !genericWords[w] && strings.Contains(plain, w) {
			return word
		}
	}
	return ""
}

// fold removes differences that guessing tools try first: capitals, accents, variants of a
// letter.
func fold(s string) string {
	return norm.NFC.String(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFKD.String(s)))
}

// squash keeps only letters and digits.
func squash(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsNumber(r) {
			return r
		}
		return -1
	}, s)
}

// countDistinct returns the number of different characters.
func countDistinct(s string) int {
	seen := map[rune]bool{}
	for _, r := range s {
		seen[r] = true
	}
	return len(seen)
}
