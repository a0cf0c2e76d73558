package session

import (
	"cmp"
	"errors"
	"net/http"
	"strings"

	"github.com/gorilla/sessions"
)

// Cookies is the gorilla/sessions Store over Sessions, for handlers that speak that
// interface: one cookie, whose value is opaque, and whose session is read-only but
// for its beginning and its end. (gorilla's own CookieStore trusts what the browser
// sends back, and decodes it anew for every request.)
type Cookies struct {
	Sessions *Sessions
	// Options of the cookie. MaxAge 0 makes it end with the browser. It is HttpOnly
	// always, SameSite=Lax and for the path / unless something else is set, and what
	// a `__Host-` in its name asks for.
	Options sessions.Options
}

var _ sessions.Store = (*Cookies)(nil)

// Names of the Values in a gorilla session.
const (
	ValueContact = "contact" // string: the contact's ID; what Save begins a session for
	ValueMethod  = "method"  // string: how they proved who they are
	ValueAgent   = "agent"   // string: the browser in words
	ValueLive    = "live"    // *Live: the session itself, on one that isn't new

	ValueGeneration = "generation" // uint64: the contact's, see Session.Generation
)

const maxCookies = 4 // of one name that are looked up

// Get returns the session of the request's cookie. Look-ups are cached by Sessions,
// so the request needs no registry of its own.
func (c *Cookies) Get(r *http.Request, name string) (*sessions.Session, error) {
	return c.New(r, name)
}

// New returns the session of the request's cookie, or an empty one with IsNew. It
// never returns nil; an error is the store's. A browser may hold several cookies of
// one name, put there by another site of the domain: the first that is a session counts.
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

// Save begins a session for the contact in Values, or, where the browser has one of
// the same contact and method, lets that one go on; either way under a new ID. With
// Options.MaxAge below zero it ends the session instead. It sets the cookie, and
// nothing when the store fails.
func (c *Cookies) Save(r *http.Request, w http.ResponseWriter, g *sessions.Session) error {
	old, _ := g.Values[ValueLive].(*Live)
	if g.Options == nil { // made by hand
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
		return errors.New("session: a session is somebody's: set its contact")
	}
	begin := c.Sessions.Begin
	if old != nil && old.Contact == as.Contact && old.Method == as.Method {
		begin = c.Sessions.goOn
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

// fill makes g the session l.
func fill(g *sessions.Session, l *Live) {
	g.ID, g.IsNew = l.ID, false
	g.Values[ValueContact], g.Values[ValueMethod], g.Values[ValueAgent] = l.Contact, l.Method, l.Agent
	g.Values[ValueLive], g.Values[ValueGeneration] = l, l.generation.Load()
}

func cookieOf(g *sessions.Session, value string) *http.Cookie {
	cookie := sessions.NewCookie(g.Name(), value, g.Options)
	cookie.HttpOnly = true
	cookie.SameSite = cmp.Or(cookie.SameSite, http.SameSiteLaxMode)
	cookie.Path = cmp.Or(cookie.Path, "/")
	if strings.HasPrefix(g.Name(), "__Host-") { // else browsers refuse it (RFC 6265bis, 4.1.3.2)
		cookie.Secure, cookie.Path, cookie.Domain = true, "/", ""
	}
	return cookie
}
