package session_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/sessions"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const name = "__Host-portal"

func request(cookies ...string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	for _, c := range cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: c})
	}
	return r
}

// saved returns the one cookie that Save set.
func saved(t *testing.T, c *session.Cookies, r *http.Request, g *sessions.Session) *http.Cookie {
	t.Helper()
	rec := httptest.NewRecorder()
	if err := c.Save(r, rec, g); err != nil {
		t.Fatal(err)
	}
	set := rec.Result().Cookies()
	if len(set) != 1 {
		t.Fatalf("Save set %d cookies; want 1", len(set))
	}
	return set[0]
}

func TestGorilla_SaveBeginsRenewsAndEndsASession(t *testing.T) {
	w := newWorld(t)
	c := &session.Cookies{Sessions: w.Sessions, Options: sessions.Options{MaxAge: int(most / time.Second)}}
	g, err := c.Get(request(), name)
	if err != nil || g == nil || !g.IsNew {
		t.Fatalf("Get without a cookie = %+v, %v; want a new session", g, err)
	}
	if err := c.Save(request(), httptest.NewRecorder(), g); err == nil {
		t.Error("Save of nobody's session succeeded")
	}
	g.Values[session.ValueContact], g.Values[session.ValueMethod] = "ann", "link"
	first := saved(t, c, request(), g)
	if g.IsNew || g.ID == "" {
		t.Errorf("after Save IsNew = %t, ID = %q", g.IsNew, g.ID)
	}
	if first.Name != name || !first.Secure || !first.HttpOnly || first.SameSite != http.SameSiteLaxMode || first.Path != "/" ||
		first.Domain != "" || first.MaxAge != int(most/time.Second) || len(first.Value) != 43 {
		t.Errorf("the cookie is %v", first)
	}

	// Save again: a new ID, the old one is ended, and no limit is extended.
	w.clock.move(time.Hour)
	g, err = c.Get(request(first.Value), name)
	if err != nil || g.IsNew || g.Values[session.ValueContact] != "ann" {
		t.Fatalf("Get = %+v, %v; want ann's session", g, err)
	}
	begun := g.Values[session.ValueLive].(*session.Cached).Begun
	second := saved(t, c, request(first.Value), g)
	third := saved(t, c, request(first.Value), g) // twice in one request
	for value, ended := range map[string]bool{first.Value: true, second.Value: true, third.Value: false} {
		g, err := c.Get(request(value), name)
		if err != nil || g.IsNew != ended {
			t.Errorf("Get = %+v, %v; want IsNew %t", g, err, ended)
		}
	}
	if l := w.live(third.Value); !l.Begun.Equal(begun) || l.ID != g.ID {
		t.Errorf("saved again, the session began %v; want %v", l.Begun, begun)
	}

	// Another contact signs in with the same browser.
	g, err = c.Get(request(third.Value), name)
	w.must(err)
	g.Values[session.ValueContact] = "bob"
	bobs := saved(t, c, request(third.Value), g)
	if l := w.live(bobs.Value); l.Contact != "bob" || !l.Begun.Equal(w.clock.now()) {
		t.Errorf("bob's session is %+v; want begun now", l.Session)
	}
	want(t, "ann's session", w.request(third.Value), session.ErrNone)

	g, err = c.Get(request(bobs.Value), name)
	w.must(err)
	g.Options.MaxAge = -1
	gone := saved(t, c, request(bobs.Value), g)
	if gone.Value != "" || gone.MaxAge >= 0 || !gone.Secure || !gone.HttpOnly || gone.Path != "/" {
		t.Errorf("the cookie that ends it is %v", gone)
	}
	want(t, "bob's session", w.request(bobs.Value), session.ErrNone)
	if c.Options.MaxAge < 0 {
		t.Error("the options of one session became everybody's")
	}
}

func TestGorilla_SaveRestoresNoEndedSession(t *testing.T) {
	w := newWorld(t)
	c := &session.Cookies{Sessions: w.Sessions}
	var l *session.Cached
	for when, end := range map[string]func(){
		"before Save": func() { w.must(w.End(t.Context(), "ann", l.ID)) },
		"during Save": func() {
			done := false
			w.store.afterGet = func(store.Key) {
				if !done {
					done = true
					w.must(w.End(t.Context(), "ann", l.ID))
				}
			}
		},
	} {
		cookie := w.signIn("ann", nil)
		l = w.live(cookie)
		g, err := c.Get(request(cookie), name)
		w.must(err)
		end()
		rec := httptest.NewRecorder()
		want(t, "Save of a session that ended "+when, c.Save(request(cookie), rec, g), session.ErrNone)
		if set := rec.Result().Cookies(); len(set) > 0 {
			t.Errorf("Save of a session that ended %s set %v", when, set)
		}
		w.store.afterGet = nil
		if all, err := w.List(t.Context(), "ann", 0); len(all) != 0 || err != nil {
			t.Errorf("ended %s: List = %d, %v; want none", when, len(all), err)
		}
	}
}

func TestGorilla_NewIsNeverNil(t *testing.T) {
	w := newWorld(t)
	c := &session.Cookies{Sessions: w.Sessions}
	cookie := w.signIn("ann", nil)
	bad := secret.Random()
	for _, r := range []*http.Request{request(), request(""), request(bad), request(bad, bad, bad, bad, cookie)} {
		g, err := c.New(r, name)
		if g == nil || err != nil || !g.IsNew || g.Options == nil || g.Name() != name {
			t.Errorf("New(%v) = %+v, %v; want an empty session", r.Header["Cookie"], g, err)
		}
	}
	if g, err := c.New(request(bad, cookie), name); err != nil || g.IsNew || g.Values[session.ValueContact] != "ann" {
		t.Errorf("New behind a tossed cookie = %+v, %v; want ann's", g, err)
	}
	w.store.away.Store(true)
	for _, r := range []*http.Request{request(bad), request(bad, bad)} {
		g, err := c.New(r, name)
		if g == nil || !g.IsNew {
			t.Errorf("New while the store is away = %+v; want an empty session", g)
		}
		want(t, "New while the store is away", err, store.ErrUnavailable)
	}
	g, _ := c.New(request(), name)
	g.Values[session.ValueContact] = "ann"
	rec := httptest.NewRecorder()
	want(t, "Save while the store is away", c.Save(request(), rec, g), store.ErrUnavailable)
	if set := rec.Result().Cookies(); len(set) != 0 {
		t.Errorf("Save set %v though the store failed", set)
	}
	w.store.away.Store(false)

	// On loopback http, the cookie has no prefix and no Secure; the rest is as before.
	g, err := c.New(request(), "portal")
	w.must(err)
	g.Values[session.ValueContact] = "ann"
	got := saved(t, c, request(), g)
	if got.Secure || !got.HttpOnly || got.SameSite != http.SameSiteLaxMode || got.Path != "/" || got.MaxAge != 0 || !got.Expires.IsZero() {
		t.Errorf("the cookie on loopback is %v", got)
	}
	if l := w.live(got.Value); !l.Shared {
		t.Error("a session whose cookie ends with the browser isn't Shared")
	}
	byHand := sessions.NewSession(c, name)
	byHand.Values[session.ValueContact] = "ann"
	saved(t, c, request(), byHand)
}
