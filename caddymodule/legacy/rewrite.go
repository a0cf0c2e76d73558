package legacy

import (
	"net/url"
	"strings"
)

// minSearchable is the number of bytes from which a token is unlikely to occur in other text by
// chance.
const minSearchable = 8

// NewURL returns path and query of the new link that replaces an old one, for a Location header. It
// leaves out the tail and those parameters that contain the token again, however it is escaped. v
// must be Old.
func (r *Rules) NewURL(v Verdict, company string) string {
	tail := v.Tail
	if containsToken(tail, v.Token) {
		tail = ""
	}
	session := v.Session
	if containsToken(session, v.Token) {
		session = ""
	}
	return join(r.links[v.link].to.path(company, tail)+session, withoutToken(v.Query, v.Token))
}

// OldURL returns the URL for the portal in place of a new link: u with the path and query of the
// company's old link. v must be New, from u. ok is false if a path can't hold the token so that all
// portals read it alike (it contains a slash, or ends with a dot).
func (r *Rules) OldURL(u *url.URL, v Verdict, token string) (old *url.URL, ok bool) {
	s := r.links[v.link].old
	raw := s.path(token, v.Tail) + v.Session
	p, err := url.PathUnescape(raw)
	if err != nil || token == "" || s.name == "" && (isOdd(token) || traitsOf("/"+token, url.PathEscape(token)).shifts) {
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

// Shorter returns shorter versions of an old link, as path and query: first without its query, then
// also without the tail. v must be Old.
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

// withoutToken returns a raw query without the parameters that contain the token.
func withoutToken(query, token string) string {
	if !containsToken(query, token) {
		return query
	}
	var kept []string
	for p := range strings.SplitSeq(query, "&") {
		if !containsToken(p, token) {
			kept = append(kept, p)
		}
	}
	if query = strings.Join(kept, "&"); containsToken(query, token) {
		return "" // the token itself contains an &
	}
	return query
}

// containsToken reports whether a text contains a token, literally or escaped.
func containsToken(text, token string) bool {
	if len(token) < minSearchable || text == "" {
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
