package session

import (
	"errors"
	"net/http"

	"github.com/gorilla/sessions"
)

// Cookies is the gorilla/sessions Store over Sessions, for handlers that speak that
// interface: one cookie, whose value is opaque, and whose session is read-only but
// for its beginning and its end.
type Cookies struct {
	Sessions *Sessions
	Options  sessions.Options // of the cookie; MaxAge 0 makes it end with the browser
}

var _ sessions.Store = (*Cookies)(nil)

// Names of the Values in a gorilla session.
const (
	ValueContact = "contact" // string: the contact's ID; what Save begins a session for
	ValueMethod  = "method"  // string: how they proved who they are
	ValueAgent   = "agent"   // string: the browser in words
	ValueLive    = "live"    // *Live: the session itself, on one that isn't new
)

// Get returns the session of the request's cookie. Look-ups are cached by Sessions,
// so the request needs no registry of its own.
func (c *Cookies) Get(r *http.Request, name string) (*sessions.Session, error) {
	return c.New(r, name)
}

// New returns the session of the request's cookie, or an empty one with IsNew. It
// never returns nil; an error is the store's.
func (c *Cookies) New(r *http.Request, name string) (*sessions.Session, error) {
	g := sessions.NewSession(c, name)
	options := c.Options
	g.Options, g.IsNew = &options, true
	for _, cookie := range r.CookiesNamed(name) {
		l, err := c.Sessions.Lookup(r.Context(), cookie.Value)
		if errors.Is(err, ErrNone) {
			continue
		} else if err != nil {
			return g, err
		}
		g.ID, g.IsNew = l.ID, false
		g.Values[ValueContact], g.Values[ValueMethod], g.Values[ValueAgent] = l.Contact, l.Method, l.Agent
		g.Values[ValueLive] = l
		return g, nil
	}
	return g, nil
}

// Save begins a session for the contact in Values, under a new ID whatever the
// browser had before, or ends it when Options.MaxAge is below zero, and sets the
// cookie. Nothing is sent when the store fails.
func (c *Cookies) Save(r *http.Request, w http.ResponseWriter, g *sessions.Session) error {
	old, _ := g.Values[ValueLive].(*Live)
	if g.Options.MaxAge < 0 {
		if old != nil {
			if err := c.Sessions.End(r.Context(), old.Contact, old.ID); err != nil {
				return err
			}
		}
		http.SetCookie(w, sessions.NewCookie(g.Name(), "", g.Options))
		return nil
	}
	as := Session{Shared: g.Options.MaxAge == 0}
	as.Contact, _ = g.Values[ValueContact].(string)
	as.Method, _ = g.Values[ValueMethod].(string)
	as.Agent, _ = g.Values[ValueAgent].(string)
	if as.Contact == "" {
		return errors.New("session: a session is somebody's: set its contact")
	}
	b, err := c.Sessions.Begin(r.Context(), as, old)
	if err != nil {
		return err
	}
	if err := c.Sessions.Store.Apply(r.Context(), b.Ops...); err != nil {
		return err
	}
	c.Sessions.Began(b)
	g.ID, g.IsNew = b.ID, false
	http.SetCookie(w, sessions.NewCookie(g.Name(), b.Cookie, g.Options))
	return nil
}
