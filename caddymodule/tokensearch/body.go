package tokensearch

import (
	"io"
	"slices"
	"strings"
)

// Body returns a body in which tokens are overwritten with random letters if hides returns true for
// them. It has as many bytes as before, and is streamed: only bytes that may belong to an
// unfinished token are held back.
func (x *Index) Body(body io.ReadCloser, hides func(Hit) bool) io.ReadCloser {
	s := x.current.Load()
	if s == nil {
		return body
	}
	return &stream{Closer: body, from: body, tokens: s, shouldHide: hides}
}

const (
	maxHeld       = 64 << 10 // bytes that may belong to an unfinished token
	overlap       = 512      // bytes already returned that are searched again together with the next ones; no word is longer
	minRead       = 16 << 10 // minimum free space for a read
	minHeldPrefix = 4        // a shorter beginning of a token isn't held back
)

// stream searches a body while it is read. Like any body, it isn't safe for concurrent use.
type stream struct {
	io.Closer
	from       io.Reader
	tokens     *snapshot
	shouldHide func(Hit) bool

	buf      []byte // read from the body, after a kept part of the text before
	returned int    // bytes of buf returned to the caller
	searched int    // bytes of buf that were searched and may be returned
	err      error  // returned after buf
	plain    bool   // buf was plain at the last search; otherwise decoder holds its last layer
	decoder  decoder
}

func (s *stream) Read(p []byte) (n int, err error) {
	for s.returned == s.searched && s.err == nil && len(p) > 0 {
		s.fetch()
	}
	n = copy(p, s.buf[s.returned:s.searched])
	if s.returned += n; s.returned == s.searched && s.err != nil && n == 0 {
		return 0, s.err
	}
	return n, nil
}

// fetch reads more of the body and searches it.
func (s *stream) fetch() {
	s.forget()
	s.buf = slices.Grow(s.buf, minRead)
	held := len(s.buf) - s.searched // searched again, so don't search for each few bytes
	for had := len(s.buf); s.err == nil && (len(s.buf) == had || len(s.buf)-had < held/4); {
		s.buf = slices.Grow(s.buf, 1)
		var n int
		n, s.err = s.from.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
	}
	hits, unfinished := s.search(string(s.buf))
	for _, h := range hits {
		if at := max(h.Start, s.returned); at < h.End && s.shouldHide(h) {
			fillRandom(s.buf[at:h.End], h.token)
		}
	}
	s.searched = len(s.buf)
	if held = len(s.buf) - max(unfinished, s.returned); s.err == nil && held <= maxHeld {
		s.searched -= held
	}
}

// forget drops returned bytes. It keeps the last of them and the visible characters before these:
// any number of invisible characters may separate those of a token.
func (s *stream) forget() {
	longest := s.tokens.longest
	cut := s.returned - overlap
	if cut <= longest {
		return
	}
	var head []byte
	if s.plain {
		head = s.buf[cut-longest : cut]
	} else if cut, head = s.decoder.before(cut, longest); cut <= len(head) {
		return
	}
	n := copy(s.buf, head)
	s.returned, s.searched = s.returned-cut+n, s.searched-cut+n
	s.buf = s.buf[:n+copy(s.buf[n:], s.buf[cut:])]
}

func (s *stream) search(text string) (hits []Hit, unfinished int) {
	if s.plain = isPlain(text, s.tokens.spaces); s.plain {
		return s.tokens.findWords(text, nil, s.tokens.scan(text, nil, nil)), s.tokens.unfinishedAt(text)
	}
	return s.tokens.search(&s.decoder, text)
}

// unfinishedIn is unfinishedAt for a text that isn't plain. Its end may be in the middle of an
// escape or of a character.
func (s *snapshot) unfinishedIn(v *decoder, folded string) int {
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
		if begun := s.unfinishedAt(folded[:n]); begun < n {
			first = min(first, int(v.foldedAt[begun]))
		}
	}
	return first
}

// unfinishedAt returns the index of a beginning of a token at the end of the text, or the length of
// the text.
func (s *snapshot) unfinishedAt(text string) int {
	for i := max(0, len(text)-s.longest); i+minHeldPrefix <= len(text); i++ {
		for _, t := range [...]*table{s.base, s.recent} {
			if t != nil && len(t.sorted) > 0 && t.heads.has(lowered32(text, i)) && t.begins(strings.ToLower(text[i:])) {
				return i
			}
		}
	}
	return len(text)
}

// begins reports whether text is a proper prefix of a token.
func (t *table) begins(text string) bool {
	i, _ := slices.BinarySearch(t.sorted, text)
	for ; i < len(t.sorted) && strings.HasPrefix(t.sorted[i], text); i++ {
		if len(t.sorted[i]) > len(text) {
			return true
		}
	}
	return false
}
