package tokensearch

import (
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
	mostKept = 4 << 10  // bytes that were given, and are looked at again with those that follow
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

	buf   []byte // read from the body, behind what is kept of before
	given int    // of buf, given to the reader
	clean int    // of buf, searched and ready to be given
	err   error  // what comes after buf
	plain bool   // buf was when it was searched last; else views are of it
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
	s.forget()
	s.buf = slices.Grow(s.buf, leastNew)
	held := len(s.buf) - s.clean // is searched again, so not for each few bytes that come
	for had := len(s.buf); s.err == nil && (len(s.buf) == had || len(s.buf)-had < held/4); {
		s.buf = slices.Grow(s.buf, 1)
		var n int
		n, s.err = s.from.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
	}
	hits, unfinished := s.search(string(s.buf))
	for _, h := range hits {
		if at := max(h.Start, s.given); at < h.End && s.hides(h) {
			fill(s.buf[at:h.End], h.token)
		}
	}
	s.clean = len(s.buf)
	if held = len(s.buf) - max(unfinished, s.given); s.err == nil && held <= mostHeld {
		s.clean -= held
	}
}

// forget drops what was given, but for the last of it and, before that, the characters that can be seen: any number
// of others may stand between those of a token.
func (s *stream) forget() {
	longest := s.tokens.longest
	cut := s.given - mostKept
	if cut <= longest {
		return
	}
	var head []byte
	if s.plain {
		head = s.buf[cut-longest : cut]
	} else if cut, head = s.views.before(cut, longest); cut <= len(head) {
		return
	}
	n := copy(s.buf, head)
	s.given, s.clean = s.given-cut+n, s.clean-cut+n
	s.buf = s.buf[:n+copy(s.buf[n:], s.buf[cut:])]
}

func (s *stream) search(text string) (hits []Hit, unfinished int) {
	if s.plain = isPlain(text, s.tokens.spaces); s.plain {
		return s.tokens.findWords(text, nil, s.tokens.scan(text, nil, nil)), s.tokens.begun(text)
	}
	return s.tokens.search(&s.views, text)
}

// begunIn is begun for a text that isn't plain. Its end may be that of an escape or of a character which
// is still on its way.
func (s *snapshot) begunIn(v *reading, folded string) int {
	first, tried := int(v.at[len(v.text)]), int32(-1)
	for _, cut := range v.ends() {
		if cut == tried {
			continue
		}
		tried = cut
		n := len(folded)
		for n > 0 && v.foldedAt[n-1] >= cut {
			n--
		}
		if begun := s.begun(folded[:n]); begun < n {
			first = min(first, int(v.foldedAt[begun]))
		}
	}
	return first
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
