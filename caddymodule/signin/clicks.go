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

// People double-click a link, and only the second answer is shown. So for action.ReplayTime
// the same browser is let in again by the link that it came in by: at this gate from
// memory, which waits for the first click if that isn't answered yet, and at others, or after a
// reload, from the store.

// begin begins a session in this browser for a contact whom the grant proves, and returns its
// cookie. The errors are those of action.SignIn.Begin.
func (h *Handlers) begin(w http.ResponseWriter, r *http.Request, by action.Browser, grant token.Grant) (cookie string, err error) {
	v, err := h.Visitors.Of(r)
	if err != nil {
		v = new(visitor.Visitor) // nobody, as far as can be told
	}
	begun, err := h.SignIn.Begin(r.Context(), by, v.Live, grant)
	if err != nil {
		return "", err
	}
	if !begun.SamePerson {
		h.Answers.ClearSite(w.Header()) // what the browser has kept may be another person's
	}
	h.setSession(w, begun.Cookie, grant.Shared)
	if begun.Device != "" {
		h.Cookies.Set(w, h.Cookies.Device, begun.Device, limit.DeviceLife)
	}
	return begun.Cookie, nil
}

// setSession gives the browser its session. The cookie lasts as long as a session may
// last at most, since the limits are judged here; on a shared computer it ends with
// the browser.
func (h *Handlers) setSession(w http.ResponseWriter, cookie string, shared bool) {
	life := h.SignIn.Sessions.Max
	if shared {
		life = 0
	}
	h.Cookies.Set(w, h.Cookies.Session, cookie, life)
}

// replay gives the browser the session that it began by this link a moment ago at this
// gate, or is about to.
func (h *Handlers) replay(w http.ResponseWriter, r *http.Request, by action.Browser, link token.Link) bool {
	cookie := h.clicks.find(r.Context(), link.ID, by.FlowID(), h.Now())
	if cookie == "" {
		return false
	}
	h.Answers.ClearSite(w.Header()) // as the first answer may have done, which wasn't read
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

// clicks is the memory's half of the replay cache: which browser came in by which link a moment
// ago. The zero value is ready.
type clicks struct {
	mu  sync.Mutex
	all map[string]*click // by link and browser
}

// click is one browser's sign-in by one link.
type click struct {
	done   chan struct{} // closed once cookie is known
	cookie string        // of the session; "" if none began. To be read after done
	at     time.Time
}

// begin returns the sign-in that isn't answered yet or was a moment ago, or else begins one,
// which the caller has to end.
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

// find returns the cookie of a browser that came in a moment ago, or "". It waits for a sign-in that
// isn't answered yet.
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
