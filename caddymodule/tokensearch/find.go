package tokensearch

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
)

// Hit is a token found in a text.
type Hit struct {
	Companies  []string // companies with such a token
	Bits       float64  // its entropy
	Start, End int      // byte range in the text that was passed

	token string // folded
}

// Find returns the tokens in a text: literally, in the form of Fold, and behind up to five layers
// of escapes as in URLs, JSON, JavaScript, XML, HTML and ASP.NET. It ignores tokens that are short
// or common, see MinLength and Token. It doesn't allocate for a plain text without tokens.
func (x *Index) Find(text string) []Hit {
	s := x.current.Load()
	if s == nil {
		return nil
	}
	return s.find(text)
}

// Mask returns the text with tokens overwritten by random letters if hides returns true for them.
// All other bytes stay in place.
func (x *Index) Mask(text string, hides func(Hit) bool) string {
	var masked []byte
	for _, h := range x.Find(text) {
		if hides(h) {
			if masked == nil {
				masked = []byte(text)
			}
			fillRandom(masked[h.Start:h.End], h.token)
		}
	}
	if masked == nil {
		return text
	}
	return string(masked)
}

// fillRandom overwrites b with random letters and digits. Together with the text before b, such as
// a part of the token or of an escape, they don't form the token again.
func fillRandom(b []byte, token string) {
	for rest := b; len(rest) > 0; {
		rest = rest[copy(rest, strings.ToLower(rand.Text())):]
	}
	const ofNoEscape = "ghijklmopqswyz"
	for pass := range 2 {
		for _, c := range []byte(ofNoEscape) {
			if last := token[len(token)-1]; strings.IndexByte(token, c) < 0 || pass == 1 && c != last && !strings.Contains(token, string([]byte{c, c})) {
				copy(b, []byte{c, c})
				return
			}
		}
	}
}

func (s *snapshot) find(text string) []Hit {
	if isPlain(text, s.spaces) {
		return s.findWords(text, nil, s.scan(text, nil, nil))
	}
	v := decoders.Get().(*decoder)
	defer decoders.Put(v)
	hits, _ := s.search(v, text)
	return hits
}

// search finds the tokens in a text that isn't plain. unfinished is the index of text at the end
// that may be the beginning of a token, or the length of the text.
func (s *snapshot) search(v *decoder, text string) (hits []Hit, unfinished int) {
	unfinished = len(text)
	for _, only := range [...]bool{true, false} {
		if only && !s.escapes {
			continue // portals that decode only URL escapes see no other tokens
		}
		v.begin(text)
		for more := true; more; {
			if more = v.decode(only); !more && v.layer > 1 {
				break // the text is the same as before
			}
			folded := v.fold()
			hits = s.scan(folded, v.foldedAt, hits)
			if s.words != nil {
				hits = s.findWords(string(v.text), v.at, hits)
			}
			unfinished = min(unfinished, s.unfinishedIn(v, folded))
			if v.layer > maxLayers {
				break
			}
		}
	}
	return hits, unfinished
}

// scan adds the tokens in a text to hits. at maps each byte to its index in the original text; nil
// means that they are the same.
func (s *snapshot) scan(text string, at []int32, hits []Hit) []Hit {
	for _, t := range [...]*table{s.base, s.recent} {
		if t == nil || len(t.sorted) == 0 {
			continue
		}
		// A token that covers this place has one of its first grams here.
		for p := gramsPerToken - 1; p+gramSize <= len(text); p += gramsPerToken {
			if !t.grams.has(lowered32(text, p)) {
				continue
			}
			for start := p - gramsPerToken + 1; start <= p && start+MinLength <= len(text); start++ {
				if !t.heads.has(lowered32(text, start)) {
					continue
				}
				for _, token := range t.starts[lowered64(text, start)] {
					end := start + len(token)
					if end > len(text) || !equalsLowered(text[start:end], token) {
						continue
					}
					o := s.ownersOf(token)
					h := Hit{o.ids, o.bits, start, end, token}
					if at != nil {
						h.Start, h.End = int(at[start]), int(at[end])
					}
					if len(h.Companies) > 0 {
						hits = append(hits, h)
					}
				}
			}
		}
	}
	return dedupe(hits)
}

// findWords adds further tokens that are words of the text, such as in a file name or after a
// prefix. at is as in scan.
func (s *snapshot) findWords(text string, at []int32, hits []Hit) []Hit {
	if s.words == nil {
		return hits
	}
	for _, signs := range [...]string{"-_.~", "-_", ""} { // characters of words besides letters and digits
		for start, end := 0, 0; end < len(text); start = end + 1 {
			for end = start; end < len(text) && isOfWord(text[end], signs); {
				end++
			}
			if end-start < MinLength {
				continue
			}
			if ids := s.words(text[start:end]); len(ids) > 0 {
				h := Hit{ids, SureBits, start, end, strings.ToLower(text[start:end])}
				if at != nil {
					h.Start, h.End = int(at[start]), int(at[end])
				}
				hits = append(hits, h)
			}
		}
	}
	return dedupe(hits)
}

func isOfWord(c byte, signs string) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(signs, c) >= 0
}

// dedupe returns the distinct hits, sorted by start. A text may have tens of thousands of hits.
func dedupe(hits []Hit) []Hit {
	if len(hits) < 2 {
		return hits
	}
	compare := func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), slices.Compare(a.Companies, b.Companies))
	}
	slices.SortFunc(hits, compare)
	return slices.CompactFunc(hits, func(a, b Hit) bool { return compare(a, b) == 0 })
}

// A gram is four bytes. Of the grams that begin in the first five bytes of a token, one is at a
// multiple of five in every text that contains the token (as in the algorithm of Wu and Manber,
// 1994).
const (
	gramSize      = 4
	gramsPerToken = MinLength - gramSize + 1
)

// lowered32 returns four bytes of a text with letters in lower case; lowered64 returns eight. Some
// other characters become equal too.
func lowered32(s string, i int) uint32 {
	_ = s[i+3]
	return (uint32(s[i]) | uint32(s[i+1])<<8 | uint32(s[i+2])<<16 | uint32(s[i+3])<<24) | 0x20202020
}

func lowered64(s string, i int) uint64 { return load64(s, i) | spaces64 }

func load64(s string, i int) uint64 {
	_ = s[i+7]
	return uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
		uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
}

// equalsLowered reports whether an ASCII text in lower case equals the token, which is in lower
// case.
func equalsLowered(text, token string) bool {
	for i := range len(token) {
		c := text[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != token[i] {
			return false
		}
	}
	return true
}

// isPlain reports whether all characters of a text stand for themselves to every reader, except for
// case.
func isPlain(text string, spaces bool) bool {
	if strings.IndexByte(text, '%') >= 0 || strings.IndexByte(text, '\\') >= 0 || strings.Contains(text, "&#") || spaces && strings.IndexByte(text, '+') >= 0 {
		return false
	}
	i := 0
	for ; i+8 <= len(text); i += 8 {
		if x := load64(text, i); (x|(x-spaces64)|(x+ones64))&highs64 != 0 && !isPrintable(text[i:i+8]) {
			return false
		}
	}
	return isPrintable(text[i:])
}

const (
	ones64   = 0x0101010101010101
	spaces64 = ' ' * ones64
	highs64  = 0x80 * ones64
)

// isPrintable reports whether a text is printable ASCII or white space that separates words.
func isPrintable(text string) bool {
	for i := range len(text) {
		if c := text[i]; c >= 0x7f || c < ' ' && !isSpacing(c) {
			return false
		}
	}
	return true
}

// isSpacing reports whether a byte is a control character that separates words.
func isSpacing(c byte) bool { return c == '\n' || c == '\r' || c == '\t' }
