package gate

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// getLink is where the link of a mail leads. Mail scanners open it too, run its
// scripts and press its buttons, so it signs in at once only in the browser that
// asked; any other is asked for the address, which no scanner knows.
func (g *Gate) getLink(w http.ResponseWriter, r *http.Request) error {
	t := linkSecret(r.URL)
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
	asking := browser != "" && browser == link.Browser && web.IsPageLoad(r)
	switch {
	case err == nil && asking && (verr != nil || mine):
		return g.enter(w, r, t, link, browser)
	case mine && web.IsPageLoad(r):
		return g.seeOther(w, link.To) // they are in already, and the link is theirs
	case err != nil && asking && verr != nil && g.again(w, r, link, browser):
		return g.seeOther(w, link.To)
	case err != nil && asking && verr != nil:
		return g.spent(w, r, t, link, browser, err)
	case err != nil:
		return g.linkError(w, r, t, link, err)
	}
	g.Audit.Record(r.Context(), g.opening(r, audit.Opened, link))
	page := web.LinkPage{T: t, Masked: shownInPart(link.Address)}
	if verr == nil {
		page.SignedInAs = shown(v.Contact.Emails[0])
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
	if !g.keepsCookies(w, r, f) {
		return nil
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
	ok := badAddress == nil
	if ok {
		if ok, err = g.compare(r, link, typed); err != nil {
			return err
		}
	}
	if !ok {
		if badAddress == nil {
			g.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongMail, Contact: link.Contact, Agent: web.AgentOf(r), IP: g.ClientIP(r)})
		}
		page := web.LinkPage{T: t, Masked: shownInPart(link.Address), Email: f.Get("email"),
			Problem: problemOf(f.Get("email"), "That isn’t the address we sent this email to. Please enter the whole address that starts as shown above.")}
		if v, err := g.visitor(r); err == nil {
			page.SignedInAs = shown(v.Contact.Emails[0])
		}
		g.page(w, r, http.StatusForbidden, page)
		return nil
	}
	return g.enter(w, r, t, link, g.browser(r))
}

// compare reports whether the address typed is the link's. Where there were too many
// wrong ones it isn't, unless a device asks that the contact has signed in on.
func (g *Gate) compare(r *http.Request, link token.Link, typed address.Address) (bool, error) {
	ip := g.ClientIP(r)
	if !g.Networks.Take(limit.Failure, ip) { // counted before it is compared
		_, device := g.device(r)
		known, err := g.devices.Knows(r.Context(), device, link.Contact)
		return known && typed == link.Address, err
	}
	if typed != link.Address {
		return false, nil
	}
	g.Networks.GiveBack(limit.Failure, ip)
	return true, nil
}

// enter spends the link and begins the session, once for all the clicks of a browser:
// people double-click, and only the second answer is shown.
func (g *Gate) enter(w http.ResponseWriter, r *http.Request, t string, link token.Link, browser string) error {
	for browser != "" {
		click, first := g.doubles.begin(link.ID, browser, g.Now())
		if first {
			cookie := ""
			defer func() { g.doubles.end(link.ID, browser, click, cookie) }()
			var err error
			cookie, err = g.spend(w, r, t, browser)
			return err
		}
		if g.again(w, r, link, browser) {
			return g.seeOther(w, link.To)
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
	}
	_, err := g.spend(w, r, t, browser)
	return err
}

// spendTries is how often a sign-in is tried when records move under it: others who read the
// same mailbox may sign in at the same moment, each of whom is faster once.
const spendTries = 8

// spend answers the request. It returns the session's cookie, or "" where none began.
func (g *Gate) spend(w http.ResponseWriter, r *http.Request, t, browser string) (cookie string, err error) {
	moved := false
	for range spendTries {
		grant, err := g.Tokens.Spend(r.Context(), t, browser)
		if err != nil {
			link, _ := g.Tokens.Peek(r.Context(), t)
			return "", g.spent(w, r, t, link, browser, err)
		}
		cookie, err := g.signIn(w, r, grant)
		if errors.Is(err, token.ErrOver) {
			moved = errors.Is(err, errFaster)
			continue // somebody was faster, or the mail of another link was handed over just now
		} else if err != nil {
			return "", err
		}
		return cookie, g.seeOther(w, grant.To)
	}
	link, err := g.Tokens.Peek(r.Context(), t)
	if moved && err == nil {
		return "", errMoved // it is good yet
	}
	return "", g.spent(w, r, t, link, browser, token.ErrOver)
}

// spent answers for a link that could have been spent a moment ago, and by this browser.
func (g *Gate) spent(w http.ResponseWriter, r *http.Request, t string, link token.Link, browser string, err error) error {
	if errors.Is(err, token.ErrOver) {
		in, err := g.againElsewhere(w, r, link, browser)
		if err != nil {
			return err
		}
		if in {
			return g.seeOther(w, link.To)
		}
	}
	return g.linkError(w, r, t, link, err)
}

// linkError answers for a link that doesn't work. One that never was says nothing; one
// that is over sends a new one by one press, to the same address, which only who holds
// the whole link can ask for.
func (g *Gate) linkError(w http.ResponseWriter, r *http.Request, t string, link token.Link, err error) error {
	switch {
	case errors.Is(err, token.ErrOver) && link.Address != "":
		g.Audit.Record(r.Context(), g.opening(r, audit.OpenedOld, link))
		g.page(w, r, http.StatusGone, web.SpentLinkPage{T: t, Masked: shownInPart(link.Address), To: link.To, Shared: link.Shared})
	case errors.Is(err, token.ErrUnknown), errors.Is(err, token.ErrOver):
		g.Audit.Record(r.Context(), g.opening(r, audit.NoLink, token.Link{}))
		g.page(w, r, http.StatusBadRequest, web.UnknownLinkPage{To: "/"})
	default:
		return err
	}
	return nil
}

// opening is the event of a link that was opened and let nobody in.
func (g *Gate) opening(r *http.Request, kind audit.Kind, link token.Link) audit.Event {
	return audit.Event{Kind: kind, Contact: link.Contact, What: whatOf(link.Purpose), Agent: web.AgentOf(r), IP: g.ClientIP(r),
		Automatic: audit.Automatic(r.Method, r.UserAgent(), r.Header.Get("Sec-Fetch-Mode") != "")}
}

// whatOf says in an event what a link, or the mail with it, is for.
func whatOf(purpose string) string {
	if purpose == token.SetPassword {
		return audit.SetPassword
	}
	return ""
}

// linkSecret is the secret in the URL of a link; "" where there is none. A semicolon behind
// it, as of "&gt;", would have the whole query be thrown away.
func linkSecret(u *url.URL) string {
	query, _ := url.ParseQuery(strings.TrimRight(u.RawQuery, ";"))
	return one(query["t"])
}

// one returns the only value, or "" when there are none or several.
func one(values []string) string {
	if len(values) != 1 {
		return ""
	}
	return values[0]
}
