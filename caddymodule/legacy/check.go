package legacy

import (
	"fmt"
	"slices"
	"strings"
)

// checkPair judges one link's two patterns together.
func checkPair(old, to *shape) error {
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

// place is a pattern among all, as an error names it.
type place struct {
	*shape
	setting string
	index   int
	new     bool // of a legacy_link: the second one
}

// check judges the patterns against each other and against the prefix.
func (r *Rules) check(prefix string) error {
	var all []place
	for i, l := range r.links {
		all = append(all, place{l.old, "legacy_link", i, false}, place{l.to, "legacy_link", i, true})
	}
	for i, s := range r.companies {
		all = append(all, place{s, "company_path", i, false})
	}
	if r.home != nil { // the last one, see clash
		all = append(all, place{r.home, "home", 0, false})
	}
	for _, p := range all {
		switch under, company := hidden(prefix, p.shape); {
		case company != "":
			return &Error{p.setting, p.index, fmt.Sprintf("%s: the gate's own pages, under %s, are where those of a company called %s would be; write a path that begins otherwise", p.text, prefix, company)}
		case under:
			return &Error{p.setting, p.index, fmt.Sprintf("%s is under %s, where the gate's own pages are; write another path, or another prefix", p.text, prefix)}
		}
	}
	for i, b := range all {
		for _, a := range all[:i] {
			if reason := r.clash(a, b); reason != "" {
				return &Error{b.setting, b.index, reason}
			}
		}
	}
	return nil
}

// hidden reports whether the gate's own pages would be in the place of a path of the
// shape, and of which company alone, if so. A token that is like the prefix isn't feared.
func hidden(prefix string, s *shape) (under bool, company string) {
	names := strings.Split(strings.TrimPrefix(prefix, "/"), "/")
	if prefix == "" || len(s.segs) < len(names) {
		return false, ""
	}
	for i, name := range names {
		switch g := s.segs[i]; {
		case g.open && s.slot == companySlot && isID(name):
			company = strings.ToLower(name)
		case g.open || !strings.EqualFold(g.pre, name):
			return false, ""
		}
	}
	return true, company
}

// clash returns why two patterns can't stand together, or "". b is the later one.
func (r *Rules) clash(a, b place) string {
	if !overlap(a.shape, b.shape) {
		return ""
	}
	switch {
	case b.setting == "home":
		if a.slot == tokenSlot && a.name == "" {
			return fmt.Sprintf("%s could be an old link, %s, which would lead in a circle; write a new link or another page of the company", b.text, a.text)
		}
		return "" // home is a page of a company: what it leads to is meant
	case a.slot == tokenSlot && b.slot == tokenSlot:
		return fmt.Sprintf("%s and %s match the same links, and only one of them can; %s", a.text, b.text, apartBy(a, b))
	case a.setting == "legacy_link" && b.setting == "legacy_link" && a.slot != b.slot:
		old, to := a, b
		if b.slot == tokenSlot {
			old, to = b, a
		}
		return fmt.Sprintf("the new link %s could match the old one %s, which would lead in a circle; write a new link that begins otherwise, such as /portal%s", to.text, old.text, to.text)
	case a.setting == "legacy_link" && b.setting == "legacy_link":
		if r.links[a.index].forwardNew && r.links[b.index].forwardNew && a.text == b.text {
			return "" // nothing has to be put back
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

func apartBy(a, b place) string {
	if a.text == b.text {
		return "write it once"
	}
	return "remove the narrower one, or write one that begins otherwise"
}

// overlap reports whether some URL matches both shapes.
func overlap(a, b *shape) bool {
	if !pathsOverlap(a, b) {
		return false
	}
	// Two old links at one path are told apart by another parameter, or by the value
	// of one that both fix.
	for _, p := range a.fixed {
		if slices.ContainsFunc(b.fixed, func(q param) bool { return p.name == q.name && !strings.EqualFold(p.value, q.value) }) {
			return false
		}
	}
	return a.name == "" || b.name == "" || canonical(a.name) == canonical(b.name)
}

func pathsOverlap(a, b *shape) bool {
	if len(a.segs) > len(b.segs) {
		a, b = b, a
	}
	for i, g := range a.segs {
		if !segsOverlap(g, a.slot, b.segs[i], b.slot) {
			return false
		}
	}
	switch more := len(b.segs) - len(a.segs); {
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

func segsOverlap(g seg, gs slot, h seg, hs slot) bool {
	switch {
	case !g.open && !h.open:
		return strings.EqualFold(g.pre, h.pre)
	case !g.open:
		return fills(h, hs, g.pre)
	case !h.open:
		return fills(g, gs, h.pre)
	}
	return beginsAlike(g.pre, h.pre, strings.HasPrefix) && beginsAlike(g.suf, h.suf, strings.HasSuffix)
}

// fills reports whether the text could stand for the segment with a slot.
func fills(g seg, s slot, text string) bool {
	if s == companySlot {
		return isID(text)
	}
	text = strings.ToLower(text)
	return len(text) > len(g.pre)+len(g.suf) && strings.HasPrefix(text, strings.ToLower(g.pre)) && strings.HasSuffix(text, strings.ToLower(g.suf))
}

func beginsAlike(a, b string, begins func(s, part string) bool) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	return begins(a, b) || begins(b, a)
}

// Opens returns the pattern whose links a public path, such as "/assets/*", would leave
// unjudged, or "". A path that says itself what is in the place of a slot is meant so:
// /portal/help beside /portal/{company}.
func (r *Rules) Opens(public string) string {
	if r == nil {
		return ""
	}
	s := &shape{text: public, slot: tokenSlot, open: -1}
	if err := s.parsePath(public); err != nil {
		return ""
	}
	all := slices.Clone(r.companies)
	for _, l := range r.links {
		all = append(all, l.old, l.to)
	}
	for _, one := range all {
		if pathsOverlap(s, one) && (one.name != "" || len(s.segs) <= one.open) {
			return one.text
		}
	}
	return ""
}
