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

// Browsers silently drop cookies whose name and value have more than 4,096 bytes. Frameworks that
// keep their session in a cookie use up to that size. So a large cookie is sent to the browser as
// the portal has set it, and its seal goes into a separate owner cookie. The owner cookie's name
// contains hashes of the other cookie's name and value, so that simultaneous responses with
// different values don't overwrite each other's owner.

// maxSealed is the maximum length of a Set-Cookie line including the seal. Safari counts the whole
// line.
const maxSealed = 4000

// ownerTags returns the parts of an owner cookie's name after Gate.Owner.
func ownerTags(name, value string) (ofName, ofValue string) {
	tag := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return base64.RawURLEncoding.EncodeToString(sum[:6])
	}
	return tag(name), tag(value)
}

// ownerCookie returns the Set-Cookie line of the owner cookie for a cookie with these attributes.
// It has the same lifetime and scope.
func (b *PortalCookies) ownerCookie(name, value, seal, attributes string) string {
	ofName, ofValue := ownerTags(name, value)
	c := &http.Cookie{Name: b.Gate.Owner + ofName + ofValue, Value: seal, Path: "/", Secure: b.Gate.Secure, HttpOnly: true}
	if like, err := http.ParseSetCookie("x=x;" + attributes); err == nil {
		c.MaxAge, c.Expires, c.SameSite = like.MaxAge, like.Expires, like.SameSite
		c.Partitioned = like.Partitioned && c.Secure
	}
	return c.String()
}

// owners maps the names of a request's owner cookies to their seals. The first of several counts.
type owners map[string]string

// ownersIn returns the owner cookies in a request's Cookie lines; nil if there are none, as in most
// requests. They are parsed once for all cookies, because a request may have thousands.
func (b *PortalCookies) ownersIn(lines []string) (all owners) {
	for _, line := range lines {
		if !strings.Contains(line, b.Gate.Owner) {
			continue
		}
		for pair := range strings.SplitSeq(line, ";") {
			name, seal, _ := strings.Cut(textproto.TrimString(pair), "=")
			if !strings.HasPrefix(name, b.Gate.Owner) {
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

// ownerOf returns the seal in the owner cookie of a cookie, or "".
func (b *PortalCookies) ownerOf(of owners, name, value string) string {
	if len(of) == 0 {
		return ""
	}
	ofName, ofValue := ownerTags(name, value)
	return of[b.Gate.Owner+ofName+ofValue]
}

// ObsoleteOwners returns Set-Cookie lines that remove owner cookies which the request sent and
// which are no longer needed, because the portal's Set-Cookie lines replace or delete the cookie
// they belong to.
func (b *PortalCookies) ObsoleteOwners(sent, set []string) (gone []string) {
	if !slices.ContainsFunc(sent, func(line string) bool { return strings.Contains(line, b.Gate.Owner) }) {
		return nil
	}
	removed := func(owner string) {
		c := b.Gate.New(owner, "", -time.Second)
		if line := c.String(); !slices.Contains(gone, line) {
			gone = append(gone, line)
		}
	}
	for _, line := range set {
		pair, attributes, _ := strings.Cut(line, ";")
		name, value, _ := strings.Cut(pair, "=")
		name, value = textproto.TrimString(name), textproto.TrimString(value)
		ofName, ofNew := ownerTags(name, value)
		var owners, values []string // tags of the values
		for _, line := range sent {
			for pair := range strings.SplitSeq(line, ";") {
				is, value, _ := strings.Cut(textproto.TrimString(pair), "=")
				if ofValue, ok := strings.CutPrefix(is, b.Gate.Owner+ofName); ok {
					owners = append(owners, ofValue)
				} else if is == name {
					_, ofValue := ownerTags(name, value)
					values = append(values, ofValue)
				}
			}
		}
		for _, owner := range owners {
			used := slices.Contains(values, owner)
			if !used && owner != ofNew || used && len(values) == 1 && isRemoval(value, attributes) {
				removed(b.Gate.Owner + ofName + owner)
			}
		}
	}
	return gone
}

// isRemoval reports whether a Set-Cookie line with this value and these attributes deletes the
// cookie.
func isRemoval(value, attributes string) bool {
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
