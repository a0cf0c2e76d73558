package signin

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
)

// People double-click a link, and the browser shows only the second response. So for
// action.ReplayTime the link signs in the same browser again: at this gate from memory, which waits
// for the first click's response; at other gates, or after a reload, from the store.

// beginSession begins a session in this browser for the contact of the grant, and returns its
// cookie. It returns the errors of action.SignIn.Begin.
func (h *Handlers) beginSession(w http.ResponseWriter, r *http.Request, by action.Browser, grant token.AuthResult) (cookie string, err error) {
	v, err := h.Visitors.Of(r)
	if err != nil {
		v = new(visitor.Visitor) // treat as nobody
	}
	begun, err := h.SignIn.Begin(r.Context(), by, v.Live, grant)
	if err != nil {
		return "", err
	}
	if !begun.SamePerson {
		h.Answers.ClearSite(w.Header()) // the browser's data may be of another person
	}
	h.setSession(w, begun.Cookie, grant.Shared)
	if begun.Device != "" {
		h.Cookies.Set(w, h.Cookies.Device, begun.Device, limit.DeviceLife)
	}
	return begun.Cookie, nil
}

// setSession sets the session cookie. It expires after the longest lifetime of a session, because
// the gate checks the exact limits; on a shared computer it ends with the browser.
func (h *Handlers) setSession(w http.ResponseWriter, cookie string, shared bool) {
	life := h.SignIn.Sessions.Max
	if shared {
		life = 0
	}
	h.Cookies.Set(w, h.Cookies.Session, cookie, life)
}

// replay sets the cookie of the session that this browser has just begun with the link at this
// gate, or is about to begin.
func (h *Handlers) replay(w http.ResponseWriter, r *http.Request, by action.Browser, link token.Link) bool {
	cookie := h.clicks.find(r.Context(), link.ID, by.FlowID(), h.Now())
	if cookie == "" {
		return false
	}
	h.Answers.ClearSite(w.Header()) // as in the first response, which the browser discarded
	h.setSession(w, cookie, link.Shared)
	return true
}

// replayStored is replay for a session that began at another gate, or before a reload.
func (h *Handlers) replayStored(w http.ResponseWriter, r *http.Request, by action.Browser, link token.Link) (bool, error) {
	cookie, err := h.SignIn.Replay.Find(r.Context(), link.ID, by.Flow)
	if cookie == "" || err != nil {
		return false, err
	}
	h.Answers.ClearSite(w.Header())
	h.setSession(w, cookie, link.Shared)
	return true, nil
}

// clicks is the in-memory part of the replay cache: recent sign-ins by link and browser. The zero
// value is ready to use.
type clicks struct {
	mu  sync.Mutex
	all map[string]*click // by link and browser
}

// click is one browser's sign-in by one link.
type click struct {
	done   chan struct{} // closed once cookie is known
	cookie string        // of the session; "" if none began. Read it only after done is closed
	at     time.Time
}

// begin returns a recent or pending sign-in, or begins one; the caller must call end for the
// latter.
func (c *clicks) begin(link, browser string, now time.Time) (one *click, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, old := range c.all {
		if now.Sub(old.at) > action.ReplayTime || len(c.all) > 10_000 {
			delete(c.all, k)
		}
	}
	if one = c.all[link+browser]; one != nil {
		return one, false
	}
	if c.all == nil {
		c.all = make(map[string]*click)
	}
	one = &click{done: make(chan struct{}), at: now}
	c.all[link+browser] = one
	return one, true
}

func (c *clicks) end(link, browser string, one *click, cookie string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.cookie = cookie
	close(one.done)
	if cookie == "" && c.all[link+browser] == one {
		delete(c.all, link+browser)
	}
}

// find returns the cookie of a browser that has recently signed in by the link, or "". It waits for
// a pending sign-in.
func (c *clicks) find(ctx context.Context, link, browser string, now time.Time) (cookie string) {
	c.mu.Lock()
	one := c.all[link+browser]
	c.mu.Unlock()
	if one == nil || now.Sub(one.at) > action.ReplayTime {
		return ""
	}
	select {
	case <-one.done:
		return one.cookie
	case <-ctx.Done():
		return ""
	}
}
