package legacy

import (
	"net/url"
	"strings"
)

// minSecret is from how many bytes on a token is told from other text by itself.
const minSecret = 8

// NewURL returns path and query of the new link in the place of an old one, for a
// Location. Of what the old link carried beside its token, that is left out which holds
// the token once more, however it is escaped. v is Old.
func (r *Rules) NewURL(v Verdict, company string) string {
	tail := v.Tail
	if holds(tail, v.Token) {
		tail = ""
	}
	session := v.Session
	if holds(session, v.Token) {
		session = ""
	}
	return join(r.links[v.link].to.path(company, tail)+session, without(v.Query, v.Token))
}

// OldURL returns what the portal gets in the place of a new link: u with the path and
// the query of the company's old link. v is New, of u. Not ok: a path can't hold the
// token so that every reader sees it (it has a slash, or ends with a dot).
func (r *Rules) OldURL(u *url.URL, v Verdict, token string) (old *url.URL, ok bool) {
	s := r.links[v.link].old
	raw := s.path(token, v.Tail) + v.Session
	p, err := url.PathUnescape(raw)
	if err != nil || token == "" || s.name == "" && (isOdd(token) || lookAt("/"+token, url.PathEscape(token)).shifts) {
		return nil, false
	}
	out := *u
	out.Path, out.RawPath = p, ""
	if out.EscapedPath() != raw {
		out.RawPath = raw
	}
	out.RawQuery = s.query(token, v.Query)
	out.ForceQuery = u.ForceQuery && out.RawQuery == ""
	return &out, true
}

// Shorter returns path and query of an old link without what it carries beside its token: first
// without its query, then also without what stands for the *. v is Old.
func (r *Rules) Shorter(v Verdict) []string {
	s := r.links[v.link].old
	query := s.query(v.Token, "")
	return []string{join(s.path(v.Token, v.Tail)+v.Session, query), join(s.path(v.Token, ""), query)}
}

func join(p, query string) string {
	if query == "" {
		return p
	}
	return p + "?" + query
}

// without returns a raw query without the parameters that hold the token.
func without(query, token string) string {
	if !holds(query, token) {
		return query
	}
	var kept []string
	for p := range strings.SplitSeq(query, "&") {
		if !holds(p, token) {
			kept = append(kept, p)
		}
	}
	if query = strings.Join(kept, "&"); holds(query, token) {
		return "" // the token itself has an & in it
	}
	return query
}

// holds reports whether a text holds a token, as it is or behind escapes.
func holds(text, token string) bool {
	if len(token) < minSecret || text == "" {
		return false
	}
	for range 4 {
		if strings.Contains(text, token) {
			return true
		}
		spaces, _ := unescape(text, true)
		if strings.Contains(spaces, token) {
			return true
		}
		next, _ := unescape(text, false)
		if next == text {
			return false
		}
		text = next
	}
	return false
}
