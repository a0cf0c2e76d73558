package gate

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// getLink is where the link of a mail leads. Mail scanners open it too, run its
// scripts and press its buttons, so it signs in at once only in the browser that
// asked; any other is asked for the address, which no scanner knows.
func (g *Gate) getLink(w http.ResponseWriter, r *http.Request) error {
	t := one(r.URL.Query()["t"])
	link, err := g.Tokens.Peek(r.Context(), t)
	browser := g.browser(r)
	if err != nil && !errors.Is(err, token.ErrOver) {
		return g.linkError(w, r, t, link, err)
	}
	v, verr := g.visitor(r)
	if verr != nil && !errors.Is(verr, errNobody) {
		return verr
	}
	mine := verr == nil && v.Contact.ID == link.Contact
	asking := browser != "" && browser == link.Browser && pageLoad(r)
	switch {
	case err == nil && asking && (verr != nil || mine):
		return g.enter(w, r, t, browser)
	case mine && pageLoad(r):
		return g.seeOther(w, link.To) // they are in already, and the link is theirs
	case err != nil && asking && verr != nil && g.again(w, link, browser):
		return g.seeOther(w, link.To)
	case err != nil:
		return g.linkError(w, r, t, link, err)
	}
	g.Audit.Record(r.Context(), audit.Event{Kind: audit.Opened, Contact: link.Contact, Agent: agentOf(r), IP: g.ClientIP(r)})
	page := LinkPage{T: t, Masked: link.Address.Masked()}
	if verr == nil {
		page.SignedInAs = string(v.Contact.Emails[0])
	}
	g.page(w, r, http.StatusOK, page)
	return nil
}

// postLink spends a link in a browser that didn't ask for it, by the address typed
// once more.
func (g *Gate) postLink(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	t := f.Get("t")
	typed, badAddress := address.Parse(f.Get("email"))
	try := g.Tokens.Try // counts before we compare
	if badAddress != nil {
		try = g.Tokens.Peek // what is no address is no guess: scanners fill in forms, too
	}
	link, err := try(r.Context(), t)
	if err != nil {
		return g.linkError(w, r, t, link, err)
	}
	if badAddress != nil || typed != link.Address {
		g.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongMail, Contact: link.Contact, Agent: agentOf(r), IP: g.ClientIP(r)})
		page := LinkPage{T: t, Masked: link.Address.Masked(),
			Problem: "That isn’t the address this mail was sent to. Please type the whole address that begins as shown above."}
		if v, err := g.visitor(r); err == nil {
			page.SignedInAs = string(v.Contact.Emails[0])
		}
		g.page(w, r, http.StatusForbidden, page)
		return nil
	}
	return g.enter(w, r, t, g.browser(r))
}

// enter spends the link and begins the session.
func (g *Gate) enter(w http.ResponseWriter, r *http.Request, t, browser string) error {
	for range 3 {
		grant, err := g.Tokens.Spend(r.Context(), t, browser)
		if errors.Is(err, token.ErrOver) {
			break
		} else if err != nil {
			return g.linkError(w, r, t, token.Link{}, err)
		}
		cookie, err := g.signIn(w, r, grant)
		if errors.Is(err, token.ErrOver) {
			continue // somebody was faster, or the mail of another link was handed over just now
		} else if err != nil {
			return err
		}
		if link, err := g.Tokens.Peek(r.Context(), t); errors.Is(err, token.ErrOver) {
			g.doubles.add(link.ID, browser, cookie, g.Now())
		}
		return g.seeOther(w, grant.To)
	}
	link, err := g.Tokens.Peek(r.Context(), t)
	if err != nil && !errors.Is(err, token.ErrOver) {
		return g.linkError(w, r, t, link, err)
	}
	// Two clicks at once: the faster one is signed in, and about to say so.
	for range 20 {
		if browser == "" || browser != link.Browser || r.Context().Err() != nil {
			break
		}
		if g.again(w, link, browser) {
			return g.seeOther(w, link.To)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return g.linkError(w, r, t, link, token.ErrOver)
}

// again gives the browser that asked the session that it began by this link a moment
// ago: people double-click, and only the second answer is shown.
func (g *Gate) again(w http.ResponseWriter, link token.Link, browser string) bool {
	cookie, ok := g.doubles.find(link.ID, browser, g.Now())
	if ok {
		g.setSession(w, cookie, link.Shared)
	}
	return ok
}

// linkError answers for a link that doesn't work. One that never was says nothing; one
// that is over sends a new one by one press, to the same address, which only who holds
// the whole link can ask for.
func (g *Gate) linkError(w http.ResponseWriter, r *http.Request, t string, link token.Link, err error) error {
	switch {
	case errors.Is(err, token.ErrOver) && link.Address != "":
		g.page(w, r, http.StatusGone, SpentLinkPage{T: t, Masked: link.Address.Masked(), To: link.To, Shared: link.Shared})
	case errors.Is(err, token.ErrUnknown), errors.Is(err, token.ErrOver):
		g.page(w, r, http.StatusBadRequest, UnknownLinkPage{To: "/"})
	default:
		return err
	}
	return nil
}

// one returns the only value, or "" when there are none or several.
func one(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}

// doubles remembers for ten seconds who came in by which link, for the browser that
// asked: people double-click, and the second answer is the one they see. The zero
// value is ready.
type doubles struct {
	mu  sync.Mutex
	all map[string]double // link and browser → cookie
}

type double struct {
	cookie string
	at     time.Time
}

const doubleClick = 10 * time.Second

func (d *doubles) add(link, browser, cookie string, now time.Time) {
	if browser == "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, one := range d.all {
		if now.Sub(one.at) > doubleClick || len(d.all) > 10_000 {
			delete(d.all, k)
		}
	}
	if d.all == nil {
		d.all = make(map[string]double)
	}
	d.all[link+browser] = double{cookie, now}
}

func (d *doubles) find(link, browser string, now time.Time) (cookie string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one, ok := d.all[link+browser]
	return one.cookie, ok && now.Sub(one.at) <= doubleClick
}
