package legacy

import (
	"slices"
	"strings"
)

// A pattern whose path names a program, such as /index.php/one-click/t, has variants that lead to
// the same page: without the program's extension, as Apache's MultiViews resolve it, and often
// without the program, as most front controllers are set up: /index/one-click/t, /one-click/t.
// Anybody who has a link can try them.

// variants returns the patterns of those paths. A portal may treat a path that matches one of them
// like a path of p.
func (s *pattern) variants() (all []*pattern) {
	if s.slotIndex < 0 || !s.portalHas {
		return nil
	}
	for i, g := range s.segments[:s.slotIndex] {
		stem, ext, dot := cutExtension(g.pre)
		if !dot || stem == "" || !isProgram(ext) && !strings.HasPrefix(strings.ToLower(ext), "htm") {
			continue
		}
		bare := *s
		bare.segments = slices.Clone(s.segments)
		bare.segments[i].pre = stem
		all = append(append(all, &bare), bare.variants()...)
		without := *s
		without.segments = slices.Delete(slices.Clone(s.segments), i, i+1)
		without.slotIndex--
		if isProgram(ext) && (without.slotIndex > 0 || isIndex(g.pre)) { // otherwise any path would match
			all = append(append(all, &without), without.variants()...)
		}
	}
	return all
}

// addVariants adds tokens and companies from the slots of variants that a plain path matches. A
// variant may begin with the company; then almost any path matches.
func (r *Rules) addVariants(v *Verdict, p string) {
	if v.Kind == Bad {
		return
	}
	for _, s := range r.variants {
		if s.slot == tokenSlot {
			s.addBeside(v, p)
			continue
		}
		if v.Kind != None {
			continue
		}
		if m := s.matchCompany(p); m.Kind == Company {
			v.Kind, v.Company, v.Lenient, v.Behind, v.Unlikely, v.Stems = Company, m.Company, true, true, m.Unlikely || s.slotIndex == 0, m.Stems
		}
	}
}

// addOddVariants is addVariants for an odd path.
func (r *Rules) addOddVariants(v *Verdict, all []pathSegment) {
	for _, s := range r.variants {
		n, fills := s.matchPrefix(all)
		switch {
		case n == noPrefix:
		case s.slot == tokenSlot || s.slotIndex > 0:
			addFills(v, s, fills)
		case v.Kind == None:
			for _, fill := range fills {
				if id := trimID(fill); isID(id) {
					v.Kind, v.Company, v.Lenient, v.Behind, v.Unlikely = Company, id, true, true, true
				}
			}
		}
	}
}
