package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"
)

// Browsers keep no cookie whose name and value have more than 4,096 bytes, and tell nobody.
// Frameworks that keep their session in a cookie fill it up to that. So a large cookie goes to the
// browser as the portal has set it, and its seal in an owner cookie beside it. The owner cookie's
// name has hashes of the other's name and value: answers that come at the same time, each with
// another value, don't overwrite each other's owner.

// maxSealed is how long a Set-Cookie line may be with the seal in it. Safari counts the whole line.
const maxSealed = 4000

// ownerTags are the parts of an owner cookie's name behind cookies.owner.
func ownerTags(name, value string) (ofName, ofValue string) {
	tag := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return base64.RawURLEncoding.EncodeToString(sum[:6])
	}
	return tag(name), tag(value)
}

// ownerCookie returns the Set-Cookie line of the owner of a cookie with these attributes, which
// lives as long and goes where that does.
func (b *PortalCookies) ownerCookie(name, value, seal, attributes string) string {
	ofName, ofValue := ownerTags(name, value)
	c := &http.Cookie{Name: b.Own.Owner + ofName + ofValue, Value: seal, Path: "/", Secure: b.Own.Secure, HttpOnly: true}
	if like, err := http.ParseSetCookie("x=x;" + attributes); err == nil {
		c.MaxAge, c.Expires, c.SameSite = like.MaxAge, like.Expires, like.SameSite
		c.Partitioned = like.Partitioned && c.Secure
	}
	return c.String()
}

// owners are the seals of a request's owner cookies by their names, of each the first.
type owners map[string]string

// ownersIn returns the owners in a request's lines of cookies; nil where there are none, as in
// most. They are read once for all cookies, since a request may have thousands.
func (b *PortalCookies) ownersIn(lines []string) (all owners) {
	for _, line := range lines {
		if !strings.Contains(line, b.Own.Owner) {
			continue
		}
		for pair := range strings.SplitSeq(line, ";") {
			name, seal, _ := strings.Cut(textproto.TrimString(pair), "=")
			if !strings.HasPrefix(name, b.Own.Owner) {
				continue
			}
			if all == nil {
				all = make(owners)
			}
			if _, before := all[name]; !before {
				all[name] = seal
			}
		}
	}
	return all
}

// ownerOf returns the seal of the owner of a cookie, or "".
func (b *PortalCookies) ownerOf(of owners, name, value string) string {
	if len(of) == 0 {
		return ""
	}
	ofName, ofValue := ownerTags(name, value)
	return of[b.Own.Owner+ofName+ofValue]
}

// OwnersGone returns Set-Cookie lines that remove the owners, of the cookies that the portal has set in
// these lines, of which the request sent one that is of no use any more: the cookie has another
// value by now, or the portal takes it away.
func (b *PortalCookies) OwnersGone(sent, set []string) (gone []string) {
	if !slices.ContainsFunc(sent, func(line string) bool { return strings.Contains(line, b.Own.Owner) }) {
		return nil
	}
	removed := func(owner string) {
		c := b.Own.New(owner, "", -time.Second)
		if line := c.String(); !slices.Contains(gone, line) {
			gone = append(gone, line)
		}
	}
	for _, line := range set {
		pair, attributes, _ := strings.Cut(line, ";")
		name, value, _ := strings.Cut(pair, "=")
		name, value = textproto.TrimString(name), textproto.TrimString(value)
		ofName, ofNew := ownerTags(name, value)
		var owners, values []string // by the tags of the values
		for _, line := range sent {
			for pair := range strings.SplitSeq(line, ";") {
				is, value, _ := strings.Cut(textproto.TrimString(pair), "=")
				if ofValue, ok := strings.CutPrefix(is, b.Own.Owner+ofName); ok {
					owners = append(owners, ofValue)
				} else if is == name {
					_, ofValue := ownerTags(name, value)
					values = append(values, ofValue)
				}
			}
		}
		for _, owner := range owners {
			used := slices.Contains(values, owner)
			if !used && owner != ofNew || used && len(values) == 1 && removes(value, attributes) {
				removed(b.Own.Owner + ofName + owner)
			}
		}
	}
	return gone
}

// removes reports whether a browser forgets a cookie by a Set-Cookie line with this value and these
// attributes.
func removes(value, attributes string) bool {
	c, err := http.ParseSetCookie("x=x;" + attributes)
	switch {
	case value == "":
		return true
	case err != nil:
		return false
	case c.MaxAge != 0:
		return c.MaxAge < 0
	}
	return !c.Expires.IsZero() && c.Expires.Before(time.Now())
}
