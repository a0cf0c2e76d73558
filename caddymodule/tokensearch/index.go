// Package tokensearch finds the tokens of old links in any text: a URL, a header, a body. It
// searches for the tokens themselves, so it doesn't need to know where a portal reads them.
//
//	Index    the tokens of a firm's companies
//	Find     the tokens in a text, escaped or not
//	Of       the companies that have one given token
//	Body     a request body without the tokens that its sender may not use
//	Fold     a text in the form in which the most lenient portals and databases compare it
package tokensearch

import (
	"maps"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Token is the secret of an old link, as the portal decodes it.
type Token struct {
	Text   string
	Bits   float64 // its entropy
	Common bool    // unrelated texts contain it too, so Find ignores it
}

// MinLength is the number of bytes that a folded token needs for Find to search for it: shorter
// ones occur in many unrelated texts.
const MinLength = 8

// SureBits is the entropy from which a token can't be guessed: an attacker with addresses in a
// thousand networks has less than 2^30 attempts a year.
const SureBits = 64

// Index knows the tokens of companies. The zero value is empty and ready to use. It is safe for
// concurrent use; readers never wait.
type Index struct {
	mu      sync.Mutex // held by writers
	current atomic.Pointer[snapshot]
}

// snapshot is one state of the index. Entries of recent override those of base.
type snapshot struct {
	base, recent *table
	spaces       bool               // a token has a space or a plus sign
	escapes      bool               // a token has a character that begins an escape
	longest      int                // length of the longest token that Find searches for
	companies    map[string][]Token // tokens of each company; used only by writers

	words func(word string) (companies []string) // finds further tokens; nil if there are none
}

func newSnapshot(base, recent *table, companies map[string][]Token, words func(string) []string) *snapshot {
	s := &snapshot{base: base, recent: recent, companies: companies, words: words}
	for _, t := range []*table{base, recent} {
		if t != nil {
			s.spaces, s.escapes, s.longest = s.spaces || t.spaces, s.escapes || t.escapes, max(s.longest, t.longest)
		}
	}
	return s
}

// maxRecent is the number of tokens beside base from which they are merged into it.
const maxRecent = 1000

// owners are the companies that have a token.
type owners struct {
	ids  []string
	bits float64
}

// table isn't modified once readers can access it.
type table struct {
	owners map[string]owners // by folded token; empty if no company has it any more

	// Companies the tokens that Find searches for:
	starts  map[uint64][]string // lowered first eight bytes → folded tokens
	grams   bitset              // all grams in the first eight bytes
	heads   bitset              // the first four bytes
	sorted  []string
	longest int
	spaces  bool // a token has a space or a plus sign
	escapes bool // a token has a character that begins an escape
}

// Replace replaces the whole index. words returns the companies of a token that can't be listed any
// more, written exactly as given; nil means that there are no such tokens.
func (x *Index) Replace(companies map[string][]Token, words func(word string) (companies []string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.current.Store(newSnapshot(tableOf(ownersOf(companies), companies), nil, companies, words))
}

// Tokens returns the tokens of a company.
func (x *Index) Tokens(company string) []Token {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.current.Load(); s != nil {
		return s.companies[company]
	}
	return nil
}

// Set replaces the tokens of a company; with none it removes the company.
func (x *Index) Set(company string, tokens []Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := x.current.Load()
	if was == nil {
		was = &snapshot{companies: map[string][]Token{}}
	}
	if slices.Equal(was.companies[company], tokens) {
		return
	}
	recent := map[string]owners{}
	if was.recent != nil {
		maps.Copy(recent, was.recent.owners)
	}
	for _, t := range was.companies[company] {
		folded := key(t.Text)
		o := was.ownersOf(folded)
		o.ids = slices.DeleteFunc(slices.Clone(o.ids), func(id string) bool { return id == company })
		recent[folded] = o
	}
	for _, t := range tokens {
		folded := key(t.Text)
		o, changed := recent[folded]
		if !changed {
			o = was.ownersOf(folded)
		}
		recent[folded] = o.with(company, t.Bits)
	}
	if was.companies[company] = tokens; len(tokens) == 0 {
		delete(was.companies, company)
	}
	if len(recent) > maxRecent {
		x.current.Store(newSnapshot(tableOf(ownersOf(was.companies), was.companies), nil, was.companies, was.words))
		return
	}
	x.current.Store(newSnapshot(was.base, tableOf(recent, map[string][]Token{company: tokens}, was.recent), was.companies, was.words))
}

// with returns o with one more company.
func (o owners) with(company string, bits float64) owners {
	if len(o.ids) == 0 || bits < o.bits {
		o.bits = bits
	}
	if !slices.Contains(o.ids, company) {
		o.ids = append(slices.Clone(o.ids), company)
	}
	return o
}

// Companies returns the companies with a token that a portal may read in the text as a whole.
func (x *Index) Companies(token string) []string {
	s := x.current.Load()
	if s == nil || token == "" {
		return nil
	}
	if ids := s.ownersOf(key(token)).ids; len(ids) > 0 || s.words == nil {
		return ids
	}
	return s.words(token)
}

func (s *snapshot) ownersOf(folded string) owners {
	if s.recent != nil {
		if o, changed := s.recent.owners[folded]; changed {
			return o
		}
	}
	if s.base == nil {
		return owners{}
	}
	return s.base.owners[folded]
}

func ownersOf(companies map[string][]Token) map[string]owners {
	all := make(map[string]owners, len(companies))
	for id, tokens := range companies {
		for _, t := range tokens {
			folded := key(t.Text)
			all[folded] = all[folded].with(id, t.Bits)
		}
	}
	return all
}

// tableOf builds a table. Find will search for the companies' tokens that aren't common, and for
// the tokens that it searched for in the tables before.
func tableOf(all map[string]owners, companies map[string][]Token, before ...*table) *table {
	t := &table{owners: all, starts: map[uint64][]string{}}
	for _, tokens := range companies {
		for _, token := range tokens {
			if folded := key(token.Text); !token.Common && len(folded) >= MinLength {
				t.sorted = append(t.sorted, folded)
			}
		}
	}
	for _, one := range before {
		if one != nil {
			t.sorted = append(t.sorted, one.sorted...)
		}
	}
	slices.Sort(t.sorted)
	t.sorted = slices.Compact(t.sorted)
	t.grams, t.heads = newBitset(len(t.sorted)*gramsPerToken), newBitset(len(t.sorted))
	for _, token := range t.sorted {
		first := lowered64(token, 0)
		t.starts[first] = append(t.starts[first], token)
		for i := range gramsPerToken {
			t.grams.add(lowered32(token, i))
		}
		t.heads.add(lowered32(token, 0))
		t.longest = max(t.longest, len(token))
		t.spaces = t.spaces || strings.Contains(token, " ")
		t.escapes = t.escapes || strings.ContainsAny(token, `%\&`)
	}
	return t
}

// key returns the form in which tokens are compared.
func key(token string) string { return strings.ReplaceAll(Fold(token), "+", " ") }

// bitset is a set of hashes with false positives.
type bitset struct {
	words []uint64
	shift int
}

func newBitset(n int) bitset {
	size := bits.Len(uint(max(n*32, 1<<10) - 1)) // in bits, a power of two
	return bitset{make([]uint64, 1<<(size-6)), 32 - size}
}

func (b *bitset) at(gram uint32) (word int, bit uint64) {
	h := gram * 0x9e3779b1 >> max(b.shift, 0)
	return int(h>>6) & (len(b.words) - 1), 1 << (h & 63)
}

func (b *bitset) add(gram uint32) {
	word, bit := b.at(gram)
	b.words[word] |= bit
}

func (b *bitset) has(gram uint32) bool {
	word, bit := b.at(gram)
	return b.words[word]&bit != 0
}
