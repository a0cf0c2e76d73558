package signin

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetLink serves the link in a mail. Mail scanners also open it, run its scripts and press its
// buttons. So it signs in directly only in the browser that requested the mail; in other browsers
// it asks for the address, which scanners don't know.
func (h *Handlers) GetLink(w http.ResponseWriter, r *http.Request) error {
	t := linkSecret(r.URL)
	link, err := h.Tokens.Peek(r.Context(), t)
	by := h.Visitors.Browser(r)
	flow := by.FlowID()
	if err != nil && !errors.Is(err, token.ErrInactive) {
		return h.linkError(w, r, t, link, err)
	}
	v, verr := h.Visitors.Of(r)
	if verr != nil && !errors.Is(verr, visitor.ErrNone) {
		return verr
	}
	mine := verr == nil && v.Contact.ID == link.Contact
	asking := flow != "" && flow == link.Browser && web.IsPageLoad(r)
	switch {
	case err == nil && asking && (verr != nil || mine):
		return h.enter(w, r, by, t, link)
	case mine && web.IsPageLoad(r):
		return h.seeOther(w, link.To) // already signed in, and the link is for the same contact
	case err != nil && asking && verr != nil && h.replay(w, r, by, link):
		return h.seeOther(w, link.To)
	case err != nil && asking && verr != nil:
		return h.linkNotSpent(w, r, by, t, link, err)
	case err != nil:
		return h.linkError(w, r, t, link, err)
	}
	h.Audit.Record(r.Context(), h.openingEvent(r, audit.Opened, link))
	page := web.LinkPage{T: t, Masked: web.MaskedAddress(link.Address)}
	if verr == nil {
		page.SignedInAs = v.Contact.Emails[0].Display()
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// PostLink spends a link in a browser that didn't request it, after the visitor has typed the
// address again.
func (h *Handlers) PostLink(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	if !h.checkCookies(w, r, f) {
		return nil
	}
	t := f.Get("t")
	typed, badAddress := address.Parse(f.Get("email"))
	try := h.Tokens.Try // counts the attempt before the comparison
	if badAddress != nil {
		try = h.Tokens.Peek // text that isn't an address isn't a guess: scanners also fill in forms
	}
	link, err := try(r.Context(), t)
	if err != nil {
		return h.linkError(w, r, t, link, err)
	}
	ok := badAddress == nil
	if ok {
		if ok, err = h.isLinkAddress(r, link, typed); err != nil {
			return err
		}
	}
	if !ok {
		if badAddress == nil {
			h.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongAddress, Contact: link.Contact, Agent: web.AgentOf(r), IP: h.Visitors.ClientIP(r)})
		}
		page := web.LinkPage{T: t, Masked: web.MaskedAddress(link.Address), Email: f.Get("email"),
			Problem: problemOf(f.Get("email"), "That isn’t the address we sent this email to. Please enter the whole address that starts as shown above.")}
		if v, err := h.Visitors.Of(r); err == nil {
			page.SignedInAs = v.Contact.Emails[0].Display()
		}
		h.Answers.Page(w, r, http.StatusForbidden, page)
		return nil
	}
	return h.enter(w, r, h.Visitors.Browser(r), t, link)
}

// isLinkAddress reports whether the typed address is the link's. After too many wrong attempts from
// the network it returns false, except on a device on which the contact has signed in before.
func (h *Handlers) isLinkAddress(r *http.Request, link token.Link, typed address.Address) (bool, error) {
	ip := h.Visitors.ClientIP(r)
	if !h.Networks.Allow(limit.Failure, ip) { // counted before the comparison
		known, err := h.Devices.Knows(r.Context(), h.Visitors.Browser(r).Device, link.Contact)
		return known && typed == link.Address, err
	}
	if typed != link.Address {
		return false, nil
	}
	h.Networks.Refund(limit.Failure, ip)
	return true, nil
}

// enter spends the link and begins the session, once for all clicks of a browser: people
// double-click, and the browser shows only the second response.
func (h *Handlers) enter(w http.ResponseWriter, r *http.Request, by action.Browser, t string, link token.Link) error {
	for by.Flow != "" {
		click, first := h.clicks.begin(link.ID, by.FlowID(), h.Now())
		if first {
			cookie := ""
			defer func() { h.clicks.end(link.ID, by.FlowID(), click, cookie) }()
			var err error
			cookie, err = h.spend(w, r, by, t)
			return err
		}
		if h.replay(w, r, by, link) {
			return h.seeOther(w, link.To)
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
	}
	_, err := h.spend(w, r, by, t)
	return err
}

// spendTries limits the attempts to sign in when records change concurrently: other readers of the
// same mailbox may sign in at the same time, and each of them may win once.
const spendTries = 8

// spend answers the request. It returns the session's cookie, or "" if no session began.
func (h *Handlers) spend(w http.ResponseWriter, r *http.Request, by action.Browser, t string) (cookie string, err error) {
	moved := false
	for range spendTries {
		grant, err := h.Tokens.Spend(r.Context(), t, by.FlowID())
		if err != nil {
			link, _ := h.Tokens.Peek(r.Context(), t)
			return "", h.linkNotSpent(w, r, by, t, link, err)
		}
		cookie, err := h.beginSession(w, r, by, grant)
		if errors.Is(err, token.ErrInactive) {
			moved = errors.Is(err, action.ErrOvertaken)
			continue // another sign-in was faster, or the mail of another link was just handed over
		} else if err != nil {
			return "", err
		}
		return cookie, h.seeOther(w, grant.To)
	}
	link, err := h.Tokens.Peek(r.Context(), t)
	if moved && err == nil {
		return "", web.ErrConflict // the link is still valid
	}
	return "", h.linkNotSpent(w, r, by, t, link, token.ErrInactive)
}

// linkNotSpent answers for a link that this browser couldn't spend although it seemed valid before.
func (h *Handlers) linkNotSpent(w http.ResponseWriter, r *http.Request, by action.Browser, t string, link token.Link, err error) error {
	if errors.Is(err, token.ErrInactive) {
		in, err := h.replayStored(w, r, by, link)
		if err != nil {
			return err
		}
		if in {
			return h.seeOther(w, link.To)
		}
	}
	return h.linkError(w, r, t, link, err)
}

// linkError answers for a link that doesn't work. For an unknown link it says no more. For an
// inactive link it offers to send a new one to the same address; only somebody with the whole link
// can request that.
func (h *Handlers) linkError(w http.ResponseWriter, r *http.Request, t string, link token.Link, err error) error {
	switch {
	case errors.Is(err, token.ErrInactive) && link.Address != "":
		h.Audit.Record(r.Context(), h.openingEvent(r, audit.OpenedOld, link))
		h.Answers.Page(w, r, http.StatusGone, web.SpentLinkPage{T: t, Masked: web.MaskedAddress(link.Address), To: link.To, Shared: link.Shared})
	case errors.Is(err, token.ErrUnknown), errors.Is(err, token.ErrInactive):
		h.Audit.Record(r.Context(), h.openingEvent(r, audit.UnknownLink, token.Link{}))
		h.Answers.Page(w, r, http.StatusBadRequest, web.UnknownLinkPage{To: "/"})
	default:
		return err
	}
	return nil
}

// openingEvent returns the event for an opened link that signed nobody in.
func (h *Handlers) openingEvent(r *http.Request, kind audit.Kind, link token.Link) audit.Event {
	return audit.Event{Kind: kind, Contact: link.Contact, What: action.EventOf(link.Purpose), Agent: web.AgentOf(r), IP: h.Visitors.ClientIP(r),
		Automatic: audit.Automatic(r.Method, r.UserAgent(), r.Header.Get("Sec-Fetch-Mode") != "")}
}

// linkSecret returns the secret in the URL of a link, or "". A semicolon after it, as in "&gt;",
// would make the parser drop the whole query.
func linkSecret(u *url.URL) string {
	query, _ := url.ParseQuery(strings.TrimRight(u.RawQuery, ";"))
	return web.OnlyValue(query["t"])
}
