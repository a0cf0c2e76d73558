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
	mostParams = 2 * maxStrays // how many values of a query are looked up, where they are
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
	if query != "" && r.atOldPath(v, p) {
		for one := range pieces(query) {
			if len(v.Params) > mostParams {
				break
			}
			for _, value := range otherReadings(one.text) {
				if !slices.Contains(v.Params, value) {
					v.Params = append(v.Params, value)
				}
			}
		}
	}
	if len(v.Params) > mostParams {
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
	return slices.ContainsFunc(r.links, func(l link) bool {
		mine := l.old.words
		if len(mine) == 0 {
			return l.old.name != "" && len(theirs) == 0
		}
		return len(theirs) >= len(mine) && slices.Equal(theirs[:len(mine)], mine)
	})
}

// otherReadings returns what portals take for a token in a parameter, whatever its name is; also behind another
// equals sign, since a RewriteCond for client=(.*) doesn't look at what is in front. Lists, such as
// columns[0][name], have none.
func otherReadings(parameter string) []string {
	name, value, found := strings.Cut(parameter, "=")
	if !found {
		value = parameter
	} else if name, _ = unescape(name, true); strings.IndexByte(name, '[') > 0 && strings.Contains(name, "]") {
		return nil
	}
	if len(value) < minSecret || len(value) > maxValue {
		return nil
	}
	all := (&shape{}).readings(value)
	if i := strings.LastIndexByte(value, '='); i >= 0 {
		all = append(all, (&shape{}).readings(value[i+1:])...)
	}
	return slices.DeleteFunc(all, func(s string) bool { return len(s) < minSecret || strings.Contains(s, " ") })
}

// maskOther is Masked for parameters of other names.
func maskOther(query, token, value string) string {
	var b strings.Builder
	for p := range pieces(query) {
		if b.Len() > 0 {
			b.WriteByte(p.after)
		}
		name, _, found := strings.Cut(p.text, "=")
		switch {
		case !slices.Contains(otherReadings(p.text), token):
			b.WriteString(p.text)
		case found:
			b.WriteString(name + "=" + escape(value))
		default:
			b.WriteString(escape(value))
		}
	}
	return b.String()
}
