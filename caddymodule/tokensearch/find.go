package tokensearch

import (
	"cmp"
	"crypto/rand"
	"slices"
	"strings"
)

// Hit is a token in a text.
type Hit struct {
	Companies  []string // that have such a token
	Bits       float64  // of chance in it
	Start, End int      // bytes of the text, as it was given

	token string // folded
}

// Find returns the tokens that a text holds: as they are, as Fold has them, and behind up to five layers
// of the escapes of URLs, JSON, JavaScript, XML, HTML and ASP.NET. It doesn't look for short or
// common ones, see LeastLength and Token. An ordinary text without any costs no allocation.
func (x *Index) Find(text string) []Hit {
	s := x.now.Load()
	if s == nil {
		return nil
	}
	return s.find(text)
}

// Mask returns the text with letters by chance in the place of the tokens that hides is true of. The
// rest keeps its place.
func (x *Index) Mask(text string, hides func(Hit) bool) string {
	var masked []byte
	for _, h := range x.Find(text) {
		if hides(h) {
			if masked == nil {
				masked = []byte(text)
			}
			fill(masked[h.Start:h.End], h.token)
		}
	}
	if masked == nil {
		return text
	}
	return string(masked)
}

// fill writes letters and digits by chance, which are no token's. They are none of the token's behind what stands
// before them either, such as a part of it or of an escape.
func fill(b []byte, token string) {
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
	v := views.Get().(*reading)
	defer views.Put(v)
	hits, _ := s.search(v, text)
	return hits
}

// search finds the tokens in a text that isn't plain, and where in it what follows may yet make one: its
// length, if nowhere.
func (s *snapshot) search(v *reading, text string) (hits []Hit, unfinished int) {
	unfinished = len(text)
	for _, only := range [...]bool{true, false} {
		if only && !s.signs {
			continue // who knows the escapes of URLs alone sees no other token
		}
		v.begin(text)
		for more := true; more; {
			more = v.decode(only)
			folded := v.fold()
			hits = s.scan(folded, v.foldedAt, hits)
			if s.words != nil {
				hits = s.findWords(string(v.text), v.at, hits)
			}
			unfinished = min(unfinished, s.begunIn(v, folded))
			if v.layer > mostLayers {
				break
			}
		}
	}
	return hits, unfinished
}

// scan adds the tokens in a text to the hits. at says where each byte was in the text that was given;
// nil: where it is.
func (s *snapshot) scan(text string, at []int32, hits []Hit) []Hit {
	for _, t := range [...]*table{s.base, s.recent} {
		if t == nil || len(t.sorted) == 0 {
			continue
		}
		// One of the first few grams of a token is at each of these places.
		for p := gramsOf - 1; p+gramSize <= len(text); p += gramsOf {
			if !t.grams.has(lowered32(text, p)) {
				continue
			}
			for start := p - gramsOf + 1; start <= p && start+LeastLength <= len(text); start++ {
				if !t.heads.has(lowered32(text, start)) {
					continue
				}
				for _, token := range t.starts[lowered64(text, start)] {
					end := start + len(token)
					if end > len(text) || !isLowered(text[start:end], token) {
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
	return once(hits)
}

// findWords adds the further tokens that stand in a text as words, such as in a file's name or behind a prefix.
// at is as in scan.
func (s *snapshot) findWords(text string, at []int32, hits []Hit) []Hit {
	if s.words == nil {
		return hits
	}
	for _, signs := range [...]string{"-_.~", "-_", ""} { // that words may have, beside letters and digits
		for start, end := 0, 0; end < len(text); start = end + 1 {
			for end = start; end < len(text) && isOfWord(text[end], signs); {
				end++
			}
			if end-start < LeastLength {
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
	return once(hits)
}

func isOfWord(c byte, signs string) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(signs, c) >= 0
}

// once returns each of the hits once, in order of where they begin. A text may have tens of thousands.
func once(hits []Hit) []Hit {
	if len(hits) < 2 {
		return hits
	}
	compare := func(a, b Hit) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End), slices.Compare(a.Companies, b.Companies))
	}
	slices.SortFunc(hits, compare)
	return slices.CompactFunc(hits, func(a, b Hit) bool { return compare(a, b) == 0 })
}

// A gram is four bytes. Of those that begin in the first five bytes of a token, one is at every fifth
// place of a text that holds it (as in the algorithm of Wu and Manber, 1994).
const (
	gramSize = 4
	gramsOf  = LeastLength - gramSize + 1
)

// lowered32 returns four bytes of a text, and lowered64 eight, with letters made small; some other
// characters look like others then.
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

// isLowered reports whether a text of ASCII is the token, which is in small letters.
func isLowered(text, token string) bool {
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

// isPlain reports whether every reader takes the characters of a text for what they are, but for
// capital letters.
func isPlain(text string, spaces bool) bool {
	if strings.IndexByte(text, '%') >= 0 || strings.IndexByte(text, '\\') >= 0 || strings.Contains(text, "&#") || spaces && strings.IndexByte(text, '+') >= 0 {
		return false
	}
	i := 0
	for ; i+8 <= len(text); i += 8 {
		if x := load64(text, i); (x|(x-spaces64)|(x+ones64))&highs64 != 0 && !isSeen(text[i:i+8]) {
			return false
		}
	}
	return isSeen(text[i:])
}

const (
	ones64   = 0x0101010101010101
	spaces64 = ' ' * ones64
	highs64  = 0x80 * ones64
)

// isSeen reports whether a text is of ASCII without controls, but for those that part words.
func isSeen(text string) bool {
	for i := range len(text) {
		if c := text[i]; c >= 0x7f || c < ' ' && !isBreak(c) {
			return false
		}
	}
	return true
}

// isBreak reports whether a byte parts words although it can't be seen.
func isBreak(c byte) bool { return c == '\n' || c == '\r' || c == '\t' }
