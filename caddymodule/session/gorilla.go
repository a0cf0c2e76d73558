package session

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"github.com/gorilla/sessions"
)

// Cookies is the gorilla/sessions Store over Sessions, for handlers that use that
// interface. It has one cookie with an opaque value. Sessions can only be begun and
// ended, not changed. (gorilla's own CookieStore trusts the values that the browser sends
// and decodes them on every request.)
type Cookies struct {
	Sessions *Sessions
	// Options of the cookie. MaxAge 0 makes it end with the browser. The cookie is always
	// HttpOnly. Unless set otherwise, it has SameSite=Lax and the path /. A name that
	// begins with `__Host-` also sets what that prefix requires.
	Options sessions.Options
}

var _ sessions.Store = (*Cookies)(nil)

// Keys of Values in a gorilla session.
const (
	ValueContact = "contact" // string: the contact's ID; Save begins a session for this contact
	ValueMethod  = "method"  // string: how the contact signed in
	ValueAgent   = "agent"   // string: the browser in plain words
	ValueLive    = "live"    // *Live: the session itself; missing if the session is new

	ValueGeneration = "generation" // uint64: the contact's generation; see Session.Generation
)

const maxCookies = 4 // maximum number of cookies of one name that are looked up

// Get returns the session of the request's cookie. Sessions caches lookups, so the
// request needs no registry of its own.
func (c *Cookies) Get(r *http.Request, name string) (*sessions.Session, error) {
	return c.New(r, name)
}

// New returns the session of the request's cookie, or an empty session with IsNew. It
// never returns nil; an error is the store's. A browser may send several cookies of one
// name, some set by another site of the domain: New uses the first that belongs to a
// session.
func (c *Cookies) New(r *http.Request, name string) (*sessions.Session, error) {
	g := sessions.NewSession(c, name)
	options := c.Options
	g.Options, g.IsNew = &options, true
	var failed error
	for i, cookie := range r.CookiesNamed(name) {
		if i == maxCookies {
			break
		}
		l, err := c.Sessions.Lookup(r.Context(), cookie.Value)
		switch {
		case err == nil:
			fill(g, l)
			return g, nil
		case !errors.Is(err, ErrNone):
			failed = err
		}
	}
	return g, failed
}

// Save begins a session for the contact in Values. If the browser has a session of the
// same contact and method, that session continues under a new ID. If Options.MaxAge is
// below zero, Save ends the session instead. It sets the cookie, unless the store fails.
func (c *Cookies) Save(r *http.Request, w http.ResponseWriter, g *sessions.Session) error {
	old, _ := g.Values[ValueLive].(*Cached)
	if g.Options == nil { // created without New
		options := c.Options
		g.Options = &options
	}
	if g.Options.MaxAge < 0 {
		if old != nil {
			if err := c.Sessions.End(r.Context(), old.Contact, old.ID); err != nil {
				return err
			}
			delete(g.Values, ValueLive)
		}
		http.SetCookie(w, cookieOf(g, ""))
		return nil
	}
	as := Session{Shared: g.Options.MaxAge == 0}
	as.Contact, _ = g.Values[ValueContact].(string)
	as.Method, _ = g.Values[ValueMethod].(string)
	as.Agent, _ = g.Values[ValueAgent].(string)
	as.Generation, _ = g.Values[ValueGeneration].(uint64)
	if as.Contact == "" {
		return errors.New("session: cannot save without a contact; set Values[ValueContact]")
	}
	begin := c.Sessions.Begin
	if old != nil && old.Contact == as.Contact && old.Method == as.Method {
		begin = c.Sessions.rotate
	}
	var b Beginning
	err := retry(r.Context(), func() (err error) {
		if b, err = begin(r.Context(), as, old); err == nil {
			err = c.Sessions.Store.Apply(r.Context(), b.Ops...)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.Sessions.Began(r.Context(), b)
	l, err := c.Sessions.Lookup(r.Context(), b.Cookie)
	if err != nil {
		return err
	}
	fill(g, l)
	http.SetCookie(w, cookieOf(g, b.Cookie))
	return nil
}

// fill copies l into g.
func fill(g *sessions.Session, l *Cached) {
	g.ID, g.IsNew = l.ID, false
	g.Values[ValueContact], g.Values[ValueMethod], g.Values[ValueAgent] = l.Contact, l.Method, l.Agent
	g.Values[ValueLive], g.Values[ValueGeneration] = l, l.generation.Load()
}

func cookieOf(g *sessions.Session, value string) *http.Cookie {
	cookie := sessions.NewCookie(g.Name(), value, g.Options)
	cookie.HttpOnly = true
	cookie.SameSite = cmp.Or(cookie.SameSite, http.SameSiteLaxMode)
	cookie.Path = cmp.Or(cookie.Path, "/")
	if strings.HasPrefix(g.Name(), "__Host-") { // otherwise browsers reject it (RFC 6265bis, 4.1.3.2)
		cookie.Secure, cookie.Path, cookie.Domain = true, "/", ""
	}
	return cookie
}
