// Package tokensearch finds the tokens of old links in whatever text they stand in: a URL, a header, a
// body. It looks for the tokens themselves, so it needn't know where a portal would look for one.
//
//	Index    the tokens of a firm's companies
//	Find     the tokens that a text holds, escaped or not
//	Of       the companies that have one very token
//	Body     a request's body without the tokens that its sender may not use
//	Fold     a text as the most lenient of portals and databases compares it
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
	Bits   float64 // of chance in it
	Common bool    // texts that have nothing to do with it have it, too: Find doesn't look for it
}

// LeastLength is how many bytes a token has, folded, that Find looks for: shorter ones stand in many texts
// that have nothing to do with them.
const LeastLength = 8

// SureBits is how many bits a token needs so that nobody guesses it: whoever opens old links from a
// thousand networks has less than 2^30 tries a year.
const SureBits = 64

// Index knows the tokens of companies. The zero value is empty and ready. It is safe for use by many
// goroutines; readers never wait.
type Index struct {
	mu  sync.Mutex // of writers
	now atomic.Pointer[snapshot]
}

// snapshot is the index at one time. What recent has counts before what base has.
type snapshot struct {
	base, recent *table
	spaces       bool               // some token has a space or a plus sign
	signs        bool               // some token has what begins an escape
	longest      int                // bytes of the longest that Find looks for
	companies    map[string][]Token // of each company; only for writers

	words func(word string) (companies []string) // further ones; nil: there are none
}

func newSnapshot(base, recent *table, companies map[string][]Token, words func(string) []string) *snapshot {
	s := &snapshot{base: base, recent: recent, companies: companies, words: words}
	for _, t := range []*table{base, recent} {
		if t != nil {
			s.spaces, s.signs, s.longest = s.spaces || t.spaces, s.signs || t.signs, max(s.longest, t.longest)
		}
	}
	return s
}

// mostRecent is how many tokens are kept beside the base until they are merged into it.
const mostRecent = 1000

// owners are the companies that have a token.
type owners struct {
	ids  []string
	bits float64
}

// table is never changed once readers have it.
type table struct {
	owners map[string]owners // by folded token; none: it is nobody's any more

	// Of the tokens that Find looks for:
	starts  map[uint64][]string // lowered first eight bytes → folded tokens
	grams   bitset              // of each four bytes within the first eight
	heads   bitset              // of the first four bytes
	sorted  []string
	longest int
	spaces  bool // one has a space or a plus sign
	signs   bool // one has what begins an escape
}

// Replace makes the index anew. Of tokens that nobody can list any more, words says whose a word is, written
// as it is; nil: there are none.
func (x *Index) Replace(companies map[string][]Token, words func(word string) (companies []string)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now.Store(newSnapshot(tableOf(ownersOf(companies), companies), nil, companies, words))
}

// Tokens returns the tokens of a company.
func (x *Index) Tokens(company string) []Token {
	x.mu.Lock()
	defer x.mu.Unlock()
	if s := x.now.Load(); s != nil {
		return s.companies[company]
	}
	return nil
}

// Set makes these the tokens of a company; none: it has none any more.
func (x *Index) Set(company string, tokens []Token) {
	x.mu.Lock()
	defer x.mu.Unlock()
	was := x.now.Load()
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
	if len(recent) > mostRecent {
		x.now.Store(newSnapshot(tableOf(ownersOf(was.companies), was.companies), nil, was.companies, was.words))
		return
	}
	x.now.Store(newSnapshot(was.base, tableOf(recent, map[string][]Token{company: tokens}, was.recent), was.companies, was.words))
}

// with returns them and one more.
func (o owners) with(company string, bits float64) owners {
	if len(o.ids) == 0 || bits < o.bits {
		o.bits = bits
	}
	if !slices.Contains(o.ids, company) {
		o.ids = append(slices.Clone(o.ids), company)
	}
	return o
}

// Of returns the companies one of whose tokens a portal may take the text for.
func (x *Index) Of(token string) []string {
	s := x.now.Load()
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

// tableOf makes a table. Find looks for those of the companies' tokens that aren't common, and for what it
// looked for in the tables before.
func tableOf(all map[string]owners, companies map[string][]Token, before ...*table) *table {
	t := &table{owners: all, starts: map[uint64][]string{}}
	for _, tokens := range companies {
		for _, token := range tokens {
			if folded := key(token.Text); !token.Common && len(folded) >= LeastLength {
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
	t.grams, t.heads = newBitset(len(t.sorted)*gramsOf), newBitset(len(t.sorted))
	for _, token := range t.sorted {
		first := lowered64(token, 0)
		t.starts[first] = append(t.starts[first], token)
		for i := range gramsOf {
			t.grams.add(lowered32(token, i))
		}
		t.heads.add(lowered32(token, 0))
		t.longest = max(t.longest, len(token))
		t.spaces = t.spaces || strings.Contains(token, " ")
		t.signs = t.signs || strings.ContainsAny(token, `%\&`)
	}
	return t
}

// key is what a token is compared by.
func key(token string) string { return strings.ReplaceAll(Fold(token), "+", " ") }

// bitset is a set of hashes, in which some are by chance.
type bitset struct {
	words []uint64
	shift int
}

func newBitset(n int) bitset {
	size := bits.Len(uint(max(n*32, 1<<10) - 1)) // in bits, as a power of two
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
