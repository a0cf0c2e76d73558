package gate

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// People double-click a link, and only the second answer is shown. So for ten seconds
// the same browser is let in again by the link that it came in by: at this gate from
// memory, which waits for what is under way, and at others, or after a reload, from the
// store.

const doubleClick = 10 * time.Second

// doubleBucket has, by link and browser, the cookie of the session that began. It is
// sealed for the asking browser's cookie: neither the store nor the secret opens it.
const doubleBucket = "double"

const doubleVersion = 1 // first byte of a value

// again gives the browser the session that it began by this link a moment ago at this
// gate, or is about to.
func (g *Gate) again(w http.ResponseWriter, r *http.Request, link token.Link, browser string) bool {
	cookie := g.doubles.find(r.Context(), link.ID, browser, g.Now())
	if cookie == "" {
		return false
	}
	g.clearSite(w.Header()) // as the first answer may have done, which wasn't read
	g.setSession(w, cookie, link.Shared)
	return true
}

// againElsewhere is again for a session that began at another gate, or before a reload.
func (g *Gate) againElsewhere(w http.ResponseWriter, r *http.Request, link token.Link, browser string) (bool, error) {
	if browser == "" || link.ID == "" {
		return false, nil
	}
	k := g.doubleKey(link.ID, browser)
	rec, err := g.Sessions.Store.Get(r.Context(), k)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if len(rec.Value) == 0 || rec.Value[0] != doubleVersion {
		return false, nil // a newer gate's
	}
	cookie, err := g.keys.OpenFor(g.flowCookie(r), doubleBucket, k.ID, rec.Value[1:])
	if err != nil {
		return false, nil // closed with a secret that isn't ours any more
	}
	g.clearSite(w.Header())
	g.setSession(w, string(cookie), link.Shared)
	return true, nil
}

// doubleOps returns the Ops by which other gates know of a session that begins by a link
// (its ID; "": by something else).
func (g *Gate) doubleOps(r *http.Request, link, cookie string) []store.Op {
	browser := g.browser(r)
	if browser == "" || link == "" {
		return nil
	}
	k := g.doubleKey(link, browser)
	sealed := g.keys.SealFor(g.flowCookie(r), doubleBucket, k.ID, []byte(cookie))
	return []store.Op{store.Put(k, append([]byte{doubleVersion}, sealed...), g.Now().Add(doubleClick))}
}

func (g *Gate) doubleKey(link, browser string) store.Key {
	return store.Key{Firm: g.Firm, Bucket: doubleBucket, ID: g.keys.MAC(doubleBucket+"-id", g.Firm, link, browser)}
}

// doubles remembers for ten seconds which browser came in by which link. The zero value
// is ready.
type doubles struct {
	mu  sync.Mutex
	all map[string]*double // by link and browser
}

// double is one browser's way in by one link.
type double struct {
	done   chan struct{} // closed when it is known what came of it
	cookie string        // of the session; "" if none began. To be read after done
	at     time.Time
}

// begin returns the way in that is under way or was a moment ago, or else begins one,
// which the caller has to end.
func (d *doubles) begin(link, browser string, now time.Time) (one *double, first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, old := range d.all {
		if now.Sub(old.at) > doubleClick || len(d.all) > 10_000 {
			delete(d.all, k)
		}
	}
	if one = d.all[link+browser]; one != nil {
		return one, false
	}
	if d.all == nil {
		d.all = make(map[string]*double)
	}
	one = &double{done: make(chan struct{}), at: now}
	d.all[link+browser] = one
	return one, true
}

func (d *doubles) end(link, browser string, one *double, cookie string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one.cookie = cookie
	close(one.done)
	if cookie == "" && d.all[link+browser] == one {
		delete(d.all, link+browser)
	}
}

// find returns the cookie of who came in a moment ago, or "". It waits for what is under way.
func (d *doubles) find(ctx context.Context, link, browser string, now time.Time) (cookie string) {
	d.mu.Lock()
	one := d.all[link+browser]
	d.mu.Unlock()
	if one == nil || now.Sub(one.at) > doubleClick {
		return ""
	}
	select {
	case <-one.done:
		return one.cookie
	case <-ctx.Done():
		return ""
	}
}
