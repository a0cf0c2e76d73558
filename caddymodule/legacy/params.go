package legacy

import (
	"slices"
	"strings"
)

// Many portals don't tell a part of the path from a parameter. Servers rewrite /one-click/t to a program with
// the token in a parameter, and hand on what else there is in the query, of which PHP takes the last: /one-click/t?token=u.
// Frameworks fill the parameters of a page from its path (/view/u for /view?client=u in ASP.NET's and Grails'
// default routes, /view/client/u in Yii and Zend Framework, /view/client:u in CakePHP) and the other way around.

const (
	mostParams = 8 * maxStrays // how many values of a query are looked up, where they are
	maxValue   = 2048          // longer ones are no tokens
)

// addParams adds what could be a token to such portals.
func (r *Rules) addParams(v *Verdict, p, query string) {
	if v.Kind == Bad || !r.HasLinks() || p == "" {
		return
	}
	segments := strings.FieldsFunc(p, func(c rune) bool { return c == '/' || c == '\\' })
	for i := range r.links {
		r.links[i].old.addFromPath(v, segments)
	}
	read := 0
	if query != "" && r.atOldPath(v, p) {
		for one := range pieces(query) {
			if len(v.Params) > mostParams || read > maxParams {
				break
			}
			readings := r.otherReadings(one.text)
			if readings != nil {
				read++
			}
			for _, value := range readings {
				if !slices.Contains(v.Params, value) {
					v.Params = append(v.Params, value)
				}
			}
		}
	}
	if len(v.Params) > mostParams || read > maxParams {
		*v = Verdict{} // nobody sends so many
	}
}

// addFromPath adds the segments that could be the parameter with the token.
func (s *shape) addFromPath(v *Verdict, segments []string) {
	if s.name == "" {
		return
	}
	add := func(segment string) {
		for _, read := range readingsOf(segment) {
			for _, token := range append(stemsOf(read), read) {
				if token, _ = s.inSlot(token); token != "" && !slices.Contains(v.Params, token) {
					v.Params = append(v.Params, token)
				}
			}
		}
	}
	mine, n := s.words, 0 // how many of mine are at the beginning of the path
	for i, segment := range segments {
		if len(v.Params) > mostParams {
			return
		}
		if name, value, found := strings.Cut(segment, ":"); found && s.isName(name) {
			add(value)
		}
		if name, value, found := strings.Cut(segment, "="); found && s.isName(name) {
			add(value)
		}
		if i > 0 && s.isName(segments[i-1]) {
			add(segment)
		}
		if n < 0 {
			continue // apart
		}
		_, ext, dot := cutExtension(segment)
		fixed := func(f param) bool { return fold(f.value) == fold(segment) }
		switch these := stems(segment); {
		case len(these) == 0: // an index page
		case n == 0 && i == 0 && dot && isProgram(ext) && (len(mine) == 0 || these[0] != mine[0]): // which gets the rest
		case n == len(mine) && slices.ContainsFunc(s.fixed, fixed):
		case n < len(mine) && these[0] == mine[n]:
			n++
		case n == len(mine) && (n > 0 || i > 0):
			add(segment)
			n = -1
		default:
			n = -1
		}
	}
}

func (s *shape) isName(text string) bool {
	_, near := sameName(text, s.name)
	return near
}

// atOldPath reports whether a URL is an old or a new link, or begins with what an old one has in its path, as far as
// the token.
func (r *Rules) atOldPath(v *Verdict, p string) bool {
	if v.Kind == Old || v.Kind == New {
		return true
	}
	theirs := stems(p)
	begins := func(mine []string) bool {
		return len(mine) > 0 && len(theirs) >= len(mine) && slices.Equal(theirs[:len(mine)], mine)
	}
	return slices.ContainsFunc(r.links, func(l link) bool {
		if l.forwardNew && (begins(l.to.words) && len(theirs) > len(l.to.words) || p[0] == '/' && l.to.matchCompany(p).Kind == Company) {
			return true // a new link, as the portal knows it
		}
		return begins(l.old.words) || len(l.old.words) == 0 && l.old.name != "" && len(theirs) == 0
	})
}

// otherReadings returns what portals take for a token in a parameter, whatever its name is; also behind another
// equals sign, since a RewriteCond for client=(.*) doesn't look at what is in front. Lists, such as
// columns[0][name], have none.
func (r *Rules) otherReadings(parameter string) []string {
	name, value, found := strings.Cut(parameter, "=")
	if !found {
		value = parameter
	} else if isList(name) {
		return nil
	}
	if len(value) < minSecret || len(value) > maxValue {
		return nil
	}
	all := (&shape{}).readings(value)
	if i := strings.LastIndexByte(value, '='); i >= 0 {
		all = append(all, (&shape{}).readings(value[i+1:])...)
	}
	for _, read := range all[:len(all):len(all)] {
		for i := range r.links {
			for _, token := range r.links[i].old.within(read) {
				if !slices.Contains(all, token) {
					all = append(all, token)
				}
			}
		}
	}
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < minSecret || strings.Contains(s, " ") })
}

// isList reports whether a parameter's raw name is that of a list; to PHP it ends at a NUL.
func isList(name string) bool {
	name, _ = unescape(name, true)
	name, _, _ = strings.Cut(name, "\x00")
	return strings.IndexByte(name, '[') > 0 && strings.Contains(name, "]")
}

func notProgram(g seg) bool {
	_, ext, dot := cutExtension(g.pre)
	return !dot || !isProgram(ext)
}

// within returns what a parameter's value has in the place of the slot, where a server puts a part of an old
// link's path into the parameter: /one-click/t/orders as ?path=t/orders, /c/inv-t.html as ?page=inv-t.
func (s *shape) within(value string) (all []string) {
	add := func(text, pre, suf string) {
		if len(text) > len(pre) && strings.EqualFold(text[:len(pre)], pre) {
			text = text[len(pre):]
		}
		all = append(all, text)
		if n := len(text) - len(suf); n > 0 && suf != "" && strings.EqualFold(text[n:], suf) {
			all = append(all, text[:n])
		}
	}
	if s.open < 0 {
		add(value, s.pre, s.suf)
		return all
	}
	slot := s.segs[s.open]
	segments := strings.FieldsFunc(value, func(c rune) bool { return c == '/' || c == '\\' })
	for n := 0; n < max(s.open, 1) && n < len(segments); n++ { // of the segments before the slot; of all, addRoutes
		isThere := n == 0 || slices.ContainsFunc(s.segs[:s.open-n], notProgram) // a kin's path is a route, too
		for i, g := range s.segs[s.open-n : s.open] {
			isThere = isThere && strings.EqualFold(segments[i], g.pre)
		}
		if isThere {
			add(segments[n], slot.pre, slot.suf)
		}
	}
	return all
}
