package directory

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/tokensearch"
)

const (
	strongBits         = tokensearch.SureBits
	uncommonBits       = 40      // of a token that occurs in no text by chance, even if there are thousands of tokens
	rareBitsBesideName = 10      // the same for a mix of letters and other characters, not counting the company's name
	wordBits           = 11      // bits that a word of a language adds, whatever its length
	chancePrefix       = 4       // length of a prefix that two random tokens may share by chance
	triedNumbers       = 100_000 // numbers that are hashed and compared with tokens
)

// guessability rates the tokens of all companies together: everybody who has one token knows the
// part it shares with others. It is an estimate: an unguessable token is hardly ever reported, and
// some guessable ones are missed.
type guessability struct {
	sorted []string
	hashes map[string]bool // of numbers; made when the first token looks like a hash
}

func newGuessing(companies map[string]Company) *guessability {
	g := &guessability{}
	for _, c := range companies {
		g.sorted = append(g.sorted, c.LegacyTokens...)
	}
	slices.Sort(g.sorted)
	return g
}

// weakness returns why somebody could guess a token of the company, without repeating the token, or
// "" if nobody could.
func (g *guessability) weakness(token string, c Company) string {
	if g.isHash(token, c) {
		return "is computed from the company's id or name, or from a number"
	}
	rest := withoutName(token, c)
	named := len(rest) < len(token)
	switch alone := bitsOf(rest); {
	case alone < strongBits && named:
		return "has little in it but the company's id or name"
	case alone < strongBits && words(rest) > 0:
		return "is made of words"
	case alone < strongBits:
		return "is too short"
	}
	if prefix := g.sharedPrefix(token); prefix > chancePrefix && bitsOf(token[prefix-chancePrefix:]) < strongBits {
		return "differs from another one in a few characters"
	}
	return ""
}

// withoutName returns the token without the company's id and name.
func withoutName(token string, c Company) string {
	rest := strings.ToLower(token)
	for _, known := range []string{strings.ToLower(c.ID), strings.ToLower(c.Name), lettersAndDigits(c.ID), lettersAndDigits(c.Name)} {
		if len(known) >= 3 {
			rest = strings.Replace(rest, known, "", 1)
		}
	}
	if len(rest) == len(token) {
		return token
	}
	return rest
}

// isCommon reports whether the token may occur in unrelated texts: it is a number, a date, a word,
// or the company's name.
func isCommon(token string, c Company) bool {
	if bare := lettersAndDigits(token); bare == lettersAndDigits(c.ID) || bare == lettersAndDigits(c.Name) {
		return true
	}
	letters := strings.IndexFunc(token, unicode.IsLetter) >= 0
	others := strings.IndexFunc(token, func(r rune) bool { return !unicode.IsLetter(r) }) >= 0
	return bitsOf(token) < uncommonBits && !(letters && others && bitsOf(withoutName(token, c)) >= rareBitsBesideName)
}

// sharedPrefix returns the length of the longest prefix that the token shares with another one.
func (g *guessability) sharedPrefix(token string) (most int) {
	at, _ := slices.BinarySearch(g.sorted, token)
	for _, i := range []int{at - 1, at + 1} {
		if i < 0 || i >= len(g.sorted) || g.sorted[i] == token {
			continue
		}
		n := 0
		for n < min(len(token), len(g.sorted[i])) && token[n] == g.sorted[i][n] {
			n++
		}
		most = max(most, n)
	}
	return most
}

// isHash reports whether the token is an encoding or hash of the company's id or name or of a small
// number, as people make when they want a secret.
func (g *guessability) isHash(token string, c Company) bool {
	names := []string{c.ID, c.Name, strings.ToLower(c.Name), lettersAndDigits(c.Name)}
	encoded := strings.TrimRight(token, "=")
	if slices.ContainsFunc(names, func(of string) bool { return of != "" && encoded == base64.RawStdEncoding.EncodeToString([]byte(of)) }) {
		return true
	}
	if size := len(token); size != 2*md5.Size && size != 2*sha1.Size && size != 2*sha256.Size {
		return false
	}
	if _, err := hex.DecodeString(token); err != nil {
		return false
	}
	if slices.ContainsFunc(names, func(of string) bool { return slices.Contains(hashesOf(of), strings.ToLower(token)) }) {
		return true
	}
	if g.hashes == nil {
		g.hashes = make(map[string]bool, 3*triedNumbers)
		for i := range triedNumbers {
			for _, hash := range hashesOf(strconv.Itoa(i)) {
				g.hashes[hash] = true
			}
		}
	}
	return g.hashes[strings.ToLower(token)]
}

func hashesOf(of string) []string {
	a, b, c := md5.Sum([]byte(of)), sha1.Sum([]byte(of)), sha256.Sum256([]byte(of))
	return []string{hex.EncodeToString(a[:]), hex.EncodeToString(b[:]), hex.EncodeToString(c[:])}
}

// lettersAndDigits returns the name in lower case, with its letters and digits only.
func lettersAndDigits(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, name)
}

// words returns the number of words that make up the text, each of 3 to 12 letters, or 0 if it has
// other parts.
func words(text string) (n int) {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if len(word) < 3 || len(word) > 12 || strings.ContainsFunc(word, unicode.IsDigit) {
			return 0
		}
		n++
	}
	return n
}

// bitsOf estimates the entropy of a text in bits.
func bitsOf(text string) float64 {
	if n := words(text); n > 0 || text == "" {
		return float64(n * wordBits)
	}
	var digits, small, big, beyondHex, other, runes int
	different := map[rune]bool{}
	for _, r := range text {
		runes++
		different[r] = true
		switch {
		case '0' <= r && r <= '9':
			digits = 10
		case 'a' <= r && r <= 'f' || 'A' <= r && r <= 'F':
			small = 6
		case 'a' <= r && r <= 'z':
			beyondHex, small = 20, 6
		case 'A' <= r && r <= 'Z':
			big = 26
		default:
			other = 2
		}
	}
	size := float64(max(digits+small+beyondHex+big+other, 1))
	return float64(runes) * math.Log2(min(size, float64(2*len(different))))
}

// Guessable are the tokens of open companies that somebody could guess.
type Guessable struct {
	Tokens    int
	Companies []string // ids, sorted
}

// GuessableTokens returns the guessable tokens of open companies; those of upgraded companies give
// no access.
func (b *Directory) GuessableTokens(ctx context.Context) (found Guessable, err error) {
	all := map[string]Company{}
	if err = b.eachCompany(ctx, "", func(c Company) bool { all[c.ID] = c; return true }); err != nil {
		return found, err
	}
	g := newGuessing(all)
	for _, c := range all {
		if n := g.countWeak(c); n > 0 {
			found.Tokens += n
			found.Companies = append(found.Companies, c.ID)
		}
	}
	slices.Sort(found.Companies)
	return found, nil
}

// countWeak returns the number of guessable tokens of an open company.
func (g *guessability) countWeak(c Company) (n int) {
	for _, token := range c.LegacyTokens {
		if !c.Upgraded && g.weakness(token, c) != "" {
			n++
		}
	}
	return n
}

// guessabilityWarnings returns warnings for rows with guessable tokens. companies are those after
// the import.
func guessabilityWarnings(rows []CompanyRow, companies map[string]Company) (all []RowError) {
	g := newGuessing(companies)
	for _, row := range rows {
		c := companies[row.ID]
		for i, token := range row.tokens {
			if why := g.weakness(token, c); why != "" && !c.Upgraded {
				all = append(all, RowError{Line: row.Line, Column: "legacy_tokens", Reason: fmt.Sprintf("token %d can be guessed: it %s", i+1, why)})
			}
		}
	}
	return all
}
