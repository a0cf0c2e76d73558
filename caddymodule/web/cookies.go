package web

import (
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/sessions"
)

// Cookies are the names of the gate's cookies under one origin.
type Cookies struct {
	Session, Flow, Device, Visit string
	Owner                        string // prefix of the names of owner cookies, see ownercookie.go
	Secure                       bool
}

// CookiesFor returns the cookie names: with the prefix that binds them to this host and to https
// (RFC 6265bis, 4.1.3.2), or without it on loopback http.
func CookiesFor(u *url.URL) Cookies {
	stem := "portal"
	if u.Scheme == "https" {
		stem = "__Host-portal"
	}
	return Cookies{stem, stem + "-flow", stem + "-device", stem + "-visit", stem + "-owner-", u.Scheme == "https"}
}

// IsOurs reports whether a cookie name is one of the gate's, ignoring case.
func (c Cookies) IsOurs(name string) bool {
	return len(name) >= len(c.Session) && strings.EqualFold(name[:len(c.Session)], c.Session) &&
		(strings.EqualFold(name, c.Session) || strings.EqualFold(name, c.Flow) ||
			strings.EqualFold(name, c.Device) || strings.EqualFold(name, c.Visit) || c.IsOwner(name))
}

// IsOwner reports whether a cookie name is that of an owner cookie.
func (c Cookies) IsOwner(name string) bool {
	return len(name) > len(c.Owner) && strings.EqualFold(name[:len(c.Owner)], c.Owner)
}

// New returns a cookie of the gate. life has a precision of seconds; with 0 the cookie ends with
// the browser.
func (c Cookies) New(name, value string, life time.Duration) *http.Cookie {
	return sessions.NewCookie(name, value, &sessions.Options{
		Path: "/", MaxAge: int(life / time.Second), Secure: c.Secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// Set sets a cookie of the gate; see New.
func (c Cookies) Set(w http.ResponseWriter, name, value string, life time.Duration) {
	http.SetCookie(w, c.New(name, value, life))
}

// Remove deletes a cookie of the gate.
func (c Cookies) Remove(w http.ResponseWriter, name string) { c.Set(w, name, "", -time.Second) }

// RemoveDeadSession deletes the request's session cookie, if it has one, after its session has
// ended.
func (c Cookies) RemoveDeadSession(w http.ResponseWriter, r *http.Request) {
	if _, err := r.Cookie(c.Session); err == nil {
		c.Remove(w, c.Session)
	}
}

// flowLength is the length of a flow cookie in characters.
const flowLength = 43

// FlowOf returns the request's flow cookie, which identifies the browser that requested a mail, or
// "".
func (c Cookies) FlowOf(r *http.Request) string {
	flow, err := r.Cookie(c.Flow)
	if err != nil || len(flow.Value) != flowLength {
		return ""
	}
	return flow.Value
}

// DropSet removes the gate's cookies from a portal's Set-Cookie headers.
func (c Cookies) DropSet(h http.Header) {
	if lines := h["Set-Cookie"]; len(lines) > 0 {
		if h["Set-Cookie"] = slices.DeleteFunc(lines, func(line string) bool { return c.IsOurs(setCookieName(line)) }); len(h["Set-Cookie"]) == 0 {
			delete(h, "Set-Cookie")
		}
	}
}

// setCookieName returns the name under which the cookie of a Set-Cookie line would be sent back. A
// cookie without a name is sent back as its value only, which may look like a name.
func setCookieName(line string) string {
	pair, _, _ := strings.Cut(line, ";")
	name, rest, _ := strings.Cut(pair, "=")
	if name = textproto.TrimString(name); name != "" {
		return name
	}
	name, _, _ = strings.Cut(rest, "=")
	return textproto.TrimString(name)
}
