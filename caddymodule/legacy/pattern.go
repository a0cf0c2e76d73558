package legacy

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// slot is the placeholder in a pattern.
type slot string

const (
	tokenSlot   slot = "{token}"
	companySlot slot = "{company}"
)

// slotMeaning describes the slots for error messages.
var slotMeaning = map[slot]string{tokenSlot: "secret", companySlot: "id of the company"}

// pattern is a parsed pattern.
type pattern struct {
	text      string // as written
	slot      slot
	segments  []patternSegment // of the path, without the slash or * at its end
	slotIndex int              // index in segments; -1 if the slot is in the query
	slash     bool             // the path ends with a slash
	tail      bool             // the path ends with /*
	portalHas bool             // the portal itself has such paths; false for new links that it receives as old ones

	fixed    []param // parameters that the query must have besides the slot
	name     string  // of the parameter with the slot; "" if it is in the path
	pre, suf string  // text around the slot in the parameter's value, decoded
}

// patternSegment is one decoded segment. If it has a slot, pre and suf are the text around it;
// otherwise pre is the whole segment.
type patternSegment struct {
	pre, suf string
	hasSlot  bool
}

type param struct{ name, value string }

// parse parses a pattern with one slot.
func parse(text string, want slot) (*pattern, error) {
	s := &pattern{text: text, slot: want, slotIndex: -1}
	if err := checkText(text, want); err != nil {
		return nil, err
	}
	p, query, hasQuery := strings.Cut(text, "?")
	if err := s.parsePath(p); err != nil {
		return nil, err
	}
	if hasQuery && want == companySlot {
		return nil, fmt.Errorf("%s: %s stands in the path, and the query of an old link is carried over by itself; write %s", text, want, p)
	}
	if hasQuery {
		if err := s.parseQuery(query); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func checkText(text string, want slot) error {
	example := "/one-click/{token}/* or /view?client={token}"
	if want == companySlot {
		example = "/portal/{company}"
	}
	switch n := strings.Count(text, string(want)); {
	case !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//"):
		return fmt.Errorf("%q is no path; write it from the root, such as %s", text, example)
	case n == 0:
		return fmt.Errorf("%s has no %s; write it where the link has the %s, such as %s", text, want, slotMeaning[want], example)
	case n > 1:
		return fmt.Errorf("%s has %s %d times; write it once", text, want, n)
	case strings.ContainsAny(strings.Replace(text, string(want), "", 1), "{}"):
		return fmt.Errorf("%s: only %s has a meaning here; take the other braces out", text, want)
	case strings.ContainsAny(text, `\;%#`) || !utf8.ValidString(text) || strings.ContainsFunc(text, unseen):
		return fmt.Errorf(`%q: write it as it reads when decoded, without \ ; %% # or characters that can't be seen`, text)
	case len(text) > 1024:
		return fmt.Errorf("the pattern is longer than 1024 characters; write the part that all old links have in common, and /*")
	}
	return nil
}

func unseen(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) }

func (s *pattern) parsePath(p string) error {
	p, s.tail = strings.CutSuffix(p, "/*")
	if strings.Contains(p, "*") {
		return fmt.Errorf("%s: a * stands only at the end and after a slash, such as %s", s.text, path.Clean(strings.ReplaceAll(p, "*", ""))+"/*")
	}
	if !s.tail {
		p, s.slash = strings.CutSuffix(p, "/")
	}
	if p == "" {
		return nil // the root
	}
	if path.Clean(p) != p {
		return fmt.Errorf("%s isn't in its shortest form; write %s", s.text, path.Clean(p)+s.text[len(p):])
	}
	for text := range strings.SplitSeq(p[1:], "/") {
		pre, suf, open := strings.Cut(text, string(s.slot))
		if open {
			s.slotIndex = len(s.segments)
		}
		if open && s.slot == companySlot && text != string(s.slot) {
			return fmt.Errorf("%s: the id of a company may hold dots and hyphens, so it needs a segment of its own, such as /portal/%s", s.text, s.slot)
		}
		if strings.HasSuffix(text, ".") {
			return fmt.Errorf("%s: some systems drop a dot at the end of a segment; take it out", s.text)
		}
		s.segments = append(s.segments, patternSegment{pre, suf, open})
	}
	return nil
}

func (s *pattern) parseQuery(query string) error {
	seen := map[string]bool{}
	for text := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(text, "=")
		switch {
		case name == "" || strings.ContainsFunc(name, notName):
			return fmt.Errorf("%s: %q is no name of a parameter; write letters, digits, hyphen and underscore, such as ?client={token}", s.text, name)
		case seen[canonical(name)]:
			return fmt.Errorf("%s has the parameter %s twice; write it once", s.text, name)
		case strings.ContainsAny(value, "+?"):
			return fmt.Errorf("%s: some portals read a + in a value as a space; leave the parameter %s out", s.text, name)
		}
		seen[canonical(name)] = true
		pre, suf, open := strings.Cut(value, string(s.slot))
		if !open {
			s.fixed = append(s.fixed, param{name, value})
			continue
		}
		s.name, s.pre, s.suf = name, pre, suf
	}
	if s.name == "" && s.slotIndex < 0 {
		return fmt.Errorf("%s: %s stands in a parameter's value or in a segment; write ?client=%s", s.text, s.slot, s.slot)
	}
	return nil
}

func notName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// path returns the escaped path with the slot filled in. tail must already be escaped.
func (s *pattern) path(fill, tail string) string {
	var b strings.Builder
	for _, g := range s.segments {
		b.WriteByte('/')
		if g.hasSlot {
			b.WriteString(url.PathEscape(g.pre + fill + g.suf))
		} else {
			b.WriteString(url.PathEscape(g.pre))
		}
	}
	if s.tail || s.slash || b.Len() == 0 {
		b.WriteByte('/')
	}
	if s.tail {
		b.WriteString(tail)
	}
	return b.String()
}

// fit is how well a path matches a pattern, from worst to best.
type fit uint8

const (
	noFit   fit = iota
	deeper      // it continues after the pattern's end
	lenient     // it differs only in a slash at the end
	exact
)

// match compares a plain path with the pattern. fill is the text in the slot, and path[at:] matches
// the tail.
func (s *pattern) match(p string) (fill string, at int, f fit) {
	at = 1
	more := true // whether a slash precedes at
	for _, g := range s.segments {
		if !more {
			return "", 0, noFit
		}
		end := strings.IndexByte(p[at:], '/')
		if more = end >= 0; !more {
			end = len(p) - at
		}
		part := p[at : at+end]
		at = min(at+end+1, len(p))
		switch {
		case !g.hasSlot:
			if !strings.EqualFold(part, g.pre) {
				return "", 0, noFit
			}
		case len(part) <= len(g.pre)+len(g.suf) || !strings.EqualFold(part[:len(g.pre)], g.pre) || !strings.EqualFold(part[len(part)-len(g.suf):], g.suf):
			return "", 0, noFit
		default:
			fill = part[len(g.pre) : len(part)-len(g.suf)]
		}
	}
	switch ends := at == len(p); {
	case s.tail && more, s.slash && more && ends, !s.tail && !s.slash && !more:
		return fill, at, exact
	case len(s.segments) == 0 && !ends:
		return fill, at, deeper
	case !more || ends:
		return fill, at, lenient
	}
	return fill, at, deeper
}
