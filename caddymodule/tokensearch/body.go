package tokensearch

import (
	"bytes"
	"io"
	"slices"
	"strings"
)

// Body returns a body with letters by chance in the place of the tokens that hides is true of. It has
// as many bytes as before, and streams: only what may yet become a token is held back.
func (x *Index) Body(body io.ReadCloser, hides func(Hit) bool) io.ReadCloser {
	s := x.now.Load()
	if s == nil {
		return body
	}
	return &stream{Closer: body, from: body, tokens: s, hides: hides}
}

const (
	mostHeld = 64 << 10 // bytes that may yet become a token
	mostKept = 4 << 10  // bytes that were read, and are looked at again with those that follow
	leastNew = 16 << 10 // bytes that there is room for to read
	leastHad = 4        // bytes of a token that are held back
)

// stream is a body that is searched as it is read. It isn't safe for use by several goroutines, as no
// body is.
type stream struct {
	io.Closer
	from   io.Reader
	tokens *snapshot
	hides  func(Hit) bool

	buf   []byte // read from the body
	given int    // of buf, given to the reader
	clean int    // of buf, searched and ready to be given
	err   error  // what comes after buf
	views reading
}

func (s *stream) Read(p []byte) (n int, err error) {
	for s.given == s.clean && s.err == nil && len(p) > 0 {
		s.fetch()
	}
	n = copy(p, s.buf[s.given:s.clean])
	if s.given += n; s.given == s.clean && s.err != nil && n == 0 {
		return 0, s.err
	}
	return n, nil
}

// fetch reads on, and searches.
func (s *stream) fetch() {
	if drop := s.given - mostKept; drop > leastNew {
		s.buf = s.buf[:copy(s.buf, s.buf[drop:])]
		s.given, s.clean = s.given-drop, s.clean-drop
	}
	s.buf = slices.Grow(s.buf, leastNew)
	held := len(s.buf) - s.clean // is searched again, so not for each few bytes that come
	for had := len(s.buf); s.err == nil && (len(s.buf) == had || len(s.buf)-had < held/4); {
		s.buf = slices.Grow(s.buf, 1)
		var n int
		n, s.err = s.from.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
	}
	from := max(s.given-mostKept, 0)
	hits, unfinished := s.search(string(s.buf[from:]))
	for _, h := range hits {
		if at := max(from+h.Start, s.given); at < from+h.End && s.hides(h) {
			fill(s.buf[at : from+h.End])
		}
	}
	s.clean = len(s.buf)
	if held = len(s.buf) - max(from+unfinished, s.given); s.err == nil && held <= mostHeld {
		s.clean -= held
	}
}

func (s *stream) search(text string) (hits []Hit, unfinished int) {
	if isPlain(text, s.tokens.spaces) {
		return s.tokens.scan(text, nil, nil), s.tokens.begun(text)
	}
	return s.tokens.search(&s.views, text)
}

// begunIn is begun for a text that isn't plain. Its end may be that of an escape or of a character which
// is still on its way.
func (s *snapshot) begunIn(v *reading, folded string) int {
	first := int(v.at[len(v.text)])
	for _, cut := range endsOf(v.text) {
		n := len(folded)
		for n > 0 && v.foldedAt[n-1] >= v.at[cut] {
			n--
		}
		if begun := s.begun(folded[:n]); begun < n {
			first = min(first, int(v.foldedAt[begun]))
		}
	}
	return first
}

// endsOf returns where a text may be taken to end: at its end, and before what may be the beginning of
// an escape or of a character.
func endsOf(text []byte) [3]int {
	const longest = 16 // bytes of an escape
	from := max(0, len(text)-longest)
	ends := [3]int{len(text), len(text), len(text)}
	if i := bytes.LastIndexAny(text[from:], `%\&`); i >= 0 {
		ends[1] = from + i
	}
	n := len(text)
	for n > from && text[n-1] >= 0x80 {
		n--
	}
	ends[2] = n
	return ends
}

// begun returns where at the end of a text the first bytes of a token stand, or its length.
func (s *snapshot) begun(text string) int {
	for i := max(0, len(text)-s.longest); i+leastHad <= len(text); i++ {
		for _, t := range [...]*table{s.base, s.recent} {
			if t != nil && len(t.sorted) > 0 && t.heads.has(lowered32(text, i)) && t.begins(strings.ToLower(text[i:])) {
				return i
			}
		}
	}
	return len(text)
}

// begins reports whether a token begins with the text and goes on.
func (t *table) begins(text string) bool {
	i, _ := slices.BinarySearch(t.sorted, text)
	for ; i < len(t.sorted) && strings.HasPrefix(t.sorted[i], text); i++ {
		if len(t.sorted[i]) > len(text) {
			return true
		}
	}
	return false
}
