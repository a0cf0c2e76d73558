package legacy

import (
	"slices"
	"strings"
)

// A path that names a program, such as /index.php/one-click/t, leads to the same page without the
// program's extension, as Apache's MultiViews find it, and often without the program, as most front
// controllers are set up: /index/one-click/t, /one-click/t. Whoever holds a link tries that.

// kinOf returns the shapes of those paths: what they fit may be what the shape is about, to the portal.
func (s *shape) kinOf() (all []*shape) {
	if s.open < 0 || !s.known {
		return nil
	}
	for i, g := range s.segs[:s.open] {
		stem, ext, dot := cutExtension(g.pre)
		if !dot || stem == "" || !isProgram(ext) && !strings.HasPrefix(strings.ToLower(ext), "htm") {
			continue
		}
		bare := *s
		bare.segs = slices.Clone(s.segs)
		bare.segs[i].pre = stem
		all = append(append(all, &bare), bare.kinOf()...)
		without := *s
		without.segs = slices.Delete(slices.Clone(s.segs), i, i+1)
		without.open--
		if isProgram(ext) && (without.open > 0 || isIndex(g.pre)) { // else any path would be one
			all = append(append(all, &without), without.kinOf()...)
		}
	}
	return all
}

// addKin adds what a plain path has where a kin has its slot, if there is such a token or company. A kin
// may begin with the company: then almost any path is one.
func (r *Rules) addKin(v *Verdict, p string) {
	if v.Kind == Bad {
		return
	}
	for _, s := range r.kin {
		if s.slot == tokenSlot {
			s.addBeside(v, p)
			continue
		}
		if v.Kind != None {
			continue
		}
		if m := s.matchCompany(p); m.Kind == Company {
			v.Kind, v.Company, v.Loose, v.Behind, v.Unlikely, v.Stems = Company, m.Company, true, true, m.Unlikely || s.open == 0, m.Stems
		}
	}
}

// addOddKin is addKin for an odd path.
func (r *Rules) addOddKin(v *Verdict, all []segment) {
	for _, s := range r.kin {
		n, fills := s.begins(all)
		switch {
		case n == far:
		case s.slot == tokenSlot || s.open > 0:
			addFills(v, s, fills)
		case v.Kind == None:
			for _, fill := range fills {
				if id := trimID(fill); isID(id) {
					v.Kind, v.Company, v.Loose, v.Behind, v.Unlikely = Company, id, true, true, true
				}
			}
		}
	}
}
