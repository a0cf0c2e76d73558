package legacy

import (
	"fmt"
	"slices"
	"strings"
)

// checkPair checks the two patterns of one link against each other.
func checkPair(old, to *pattern) error {
	switch {
	case old.tail && !to.tail:
		return fmt.Errorf("%s goes on with /* and %s doesn't, so all that follows would be lost; write %s/*", old.text, to.text, strings.TrimSuffix(to.text, "/"))
	case to.tail && !old.tail:
		p, query, has := strings.Cut(old.text, "?")
		if has {
			query = "?" + query
		}
		return fmt.Errorf("%s goes on with /* and %s doesn't; write %s/*%s, or %s without the *", to.text, old.text, strings.TrimSuffix(p, "/"), query, to.text)
	}
	return nil
}

// placedPattern is a pattern with its setting and index, for error messages.
type placedPattern struct {
	*pattern
	setting string
	index   int
	new     bool // the second pattern of a legacy_link
}

// check checks the patterns against each other and against the prefix.
func (r *Rules) check(prefix string) error {
	var all []placedPattern
	for i, l := range r.links {
		all = append(all, placedPattern{l.old, "legacy_link", i, false}, placedPattern{l.to, "legacy_link", i, true})
	}
	for i, s := range r.companies {
		all = append(all, placedPattern{s, "company_path", i, false})
	}
	if r.home != nil { // must be last, see conflict
		all = append(all, placedPattern{r.home, "home", 0, false})
	}
	for _, p := range all {
		switch under, company := shadowedBy(prefix, p.pattern); {
		case company != "":
			return &Error{p.setting, p.index, fmt.Sprintf("%s: the gate's own pages, under %s, are where those of a company called %s would be; write a path that begins otherwise", p.text, prefix, company)}
		case under:
			return &Error{p.setting, p.index, fmt.Sprintf("%s is under %s, where the gate's own pages are; write another path, or another prefix", p.text, prefix)}
		}
	}
	for i, b := range all {
		for _, a := range all[:i] {
			if reason := r.conflict(a, b); reason != "" {
				return &Error{b.setting, b.index, reason}
			}
		}
	}
	return nil
}

// shadowedBy reports whether the gate's own pages hide paths of the pattern. company is set if they
// hide only the paths of that company. A token that equals the prefix is too unlikely to check.
func shadowedBy(prefix string, s *pattern) (under bool, company string) {
	names := strings.Split(strings.TrimPrefix(prefix, "/"), "/")
	if prefix == "" || len(s.segments) < len(names) {
		return false, ""
	}
	for i, name := range names {
		switch g := s.segments[i]; {
		case g.hasSlot && s.slot == companySlot && isID(name):
			company = strings.ToLower(name)
		case g.hasSlot || !strings.EqualFold(g.pre, name):
			return false, ""
		}
	}
	return true, company
}

// conflict returns why two patterns can't be used together, or "". b is the later one.
func (r *Rules) conflict(a, b placedPattern) string {
	if !overlap(a.pattern, b.pattern) {
		return ""
	}
	switch {
	case b.setting == "home":
		if a.slot == tokenSlot && a.name == "" {
			return fmt.Sprintf("%s could be an old link, %s, which would lead in a circle; write a new link or another page of the company", b.text, a.text)
		}
		return "" // home is a page of a company, so it may match that company's other patterns
	case a.slot == tokenSlot && b.slot == tokenSlot:
		return fmt.Sprintf("%s and %s match the same links, and only one of them can; %s", a.text, b.text, separationAdvice(a, b))
	case a.setting == "legacy_link" && b.setting == "legacy_link" && a.slot != b.slot:
		old, to := a, b
		if b.slot == tokenSlot {
			old, to = b, a
		}
		return fmt.Sprintf("the new link %s could match the old one %s, which would lead in a circle; write a new link that begins otherwise, such as /portal%s", to.text, old.text, to.text)
	case a.setting == "legacy_link" && b.setting == "legacy_link":
		if r.links[a.index].forwardNew && r.links[b.index].forwardNew && a.text == b.text {
			return "" // no old link has to be restored
		}
		if a.text == b.text {
			return fmt.Sprintf("two old links have the new link %s, so which of them to put back can't be said; write another one here", b.text)
		}
		return fmt.Sprintf("%s and %s match the same links, so which old link to put back can't be said; write another new link for one of them", a.text, b.text)
	case a.slot == tokenSlot || b.slot == tokenSlot:
		return fmt.Sprintf("%s could match the old link %s, whose tokens would be taken for companies; write a path that begins otherwise", b.text, a.text)
	case a.setting == "legacy_link":
		return fmt.Sprintf("%s and the new link %s match the same paths; remove it where it adds nothing, or write a path that begins otherwise", b.text, a.text)
	default:
		return fmt.Sprintf("%s and %s match the same paths; write the wider one alone", a.text, b.text)
	}
}

func separationAdvice(a, b placedPattern) string {
	if a.text == b.text {
		return "write it once"
	}
	return "remove the narrower one, or write one that begins otherwise"
}

// overlap reports whether any URL matches both patterns.
func overlap(a, b *pattern) bool {
	if !pathsOverlap(a, b) {
		return false
	}
	// Two old links at the same path are distinguished by different parameters, or by different
	// fixed values of the same parameter.
	for _, p := range a.fixed {
		if slices.ContainsFunc(b.fixed, func(q param) bool { return p.name == q.name && !strings.EqualFold(p.value, q.value) }) {
			return false
		}
	}
	return a.name == "" || b.name == "" || canonical(a.name) == canonical(b.name)
}

func pathsOverlap(a, b *pattern) bool {
	if len(a.segments) > len(b.segments) {
		a, b = b, a
	}
	for i, g := range a.segments {
		if !segsOverlap(g, a.slot, b.segments[i], b.slot) {
			return false
		}
	}
	switch more := len(b.segments) - len(a.segments); {
	case more > 0:
		return a.tail
	case a.tail:
		return b.tail || b.slash
	case b.tail:
		return a.slash
	default:
		return a.slash == b.slash
	}
}

func segsOverlap(g patternSegment, gs slot, h patternSegment, hs slot) bool {
	switch {
	case !g.hasSlot && !h.hasSlot:
		return strings.EqualFold(g.pre, h.pre)
	case !g.hasSlot:
		return fills(h, hs, g.pre)
	case !h.hasSlot:
		return fills(g, gs, h.pre)
	}
	return onePrefixesOther(g.pre, h.pre, strings.HasPrefix) && onePrefixesOther(g.suf, h.suf, strings.HasSuffix)
}

// fills reports whether text can be the segment g, which has a slot.
func fills(g patternSegment, s slot, text string) bool {
	if s == companySlot {
		return isID(text)
	}
	text = strings.ToLower(text)
	return len(text) > len(g.pre)+len(g.suf) && strings.HasPrefix(text, strings.ToLower(g.pre)) && strings.HasSuffix(text, strings.ToLower(g.suf))
}

func onePrefixesOther(a, b string, begins func(s, part string) bool) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return begins(a, b) || begins(b, a)
}

// OpenedBy returns the text of a pattern some of whose links would be served unchecked under a
// public path such as "/assets/*", or "". A public path with a literal segment in place of a slot
// is taken as intended: /portal/help beside /portal/{company}.
func (r *Rules) OpenedBy(public string) string {
	if r == nil {
		return ""
	}
	s := &pattern{text: public, slot: tokenSlot, slotIndex: -1}
	if err := s.parsePath(public); err != nil {
		return ""
	}
	all := slices.Clone(r.companies)
	for _, l := range r.links {
		all = append(all, l.old, l.to)
	}
	for _, one := range all {
		if pathsOverlap(s, one) && (one.name != "" || len(s.segments) <= one.slotIndex) {
			return one.text
		}
	}
	return ""
}
