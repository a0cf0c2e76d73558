package signin

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	// resendAfter is how long the page asks people to wait before another mail; it is
	// the least time between two mails to one address.
	resendAfter = time.Minute
	// waited is when the page offers other ways to get in.
	waited = 2 * time.Minute
)

// GetSent waits for the mail, and takes the code that is in it.
func (h *Handlers) GetSent(w http.ResponseWriter, r *http.Request) error {
	ask, err := h.asked(r)
	if errors.Is(err, token.ErrUnknown) {
		return h.notWaiting(w, r)
	} else if err != nil {
		return err
	}
	if v, err := h.Visitors.Of(r); err == nil && v.Live.Begun.After(ask.At) {
		return h.seeOther(w, ask.To) // already in, from another tab
	}
	if ask.Purpose == token.SetPassword {
		if h.Passwords == nil {
			return h.Answers.SeeOwn(w, "/sign-in") // they were switched off since, so its link leads nowhere
		}
		h.Answers.Page(w, r, http.StatusOK, h.helpSentPage(ask))
		return nil
	}
	h.Answers.Page(w, r, http.StatusOK, h.sentPage(ask, "", ""))
	return nil
}

// notWaiting answers a tab that seems to wait for a mail, in a browser that doesn't. Where its
// person signed in in another tab, the way that this one wanted to go still counts. Where the
// browser has no cookie that says what it asked for, it may not keep any: the prompt would
// only come back.
func (h *Handlers) notWaiting(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil && !errors.Is(err, visitor.ErrNone) {
		return err
	}
	flow := h.Cookies.FlowOf(r)
	switch {
	case flow == "" && v == nil && r.Method == http.MethodPost:
		return h.Answers.SeeOwn(w, "/sent")
	case flow == "" && v == nil:
		h.Answers.Page(w, r, http.StatusOK, web.NoCookiesPage{})
		return nil
	case flow == "" || v == nil:
		return h.Answers.SeeOwn(w, "/sign-in")
	}
	in, err := h.Tokens.Entered(r.Context(), token.BrowserOf(flow))
	switch {
	case err == nil && in.Contact == v.Contact.ID && in.ByCode && r.Method == http.MethodPost:
		return h.Answers.SeeOwn(w, "/sent") // no code works twice; the tab goes on all the same
	case err == nil && in.Contact == v.Contact.ID:
		return h.seeOther(w, in.To)
	case err != nil && !errors.Is(err, token.ErrUnknown):
		return err
	}
	return h.Answers.SeeOwn(w, "/sign-in")
}

// cookieWasSet is the query of a form that is sent a second time, see keepsCookies.
const cookieWasSet = "cookie=set"

// keepsCookies reports whether the browser keeps cookies, before something is spent on a
// session that it would forget. The forms of our own pages have a field that asks for it.
// Where the browser has shown no cookie of ours yet, it gets one and sends the form once more
// (307); false: the request was answered.
func (h *Handlers) keepsCookies(w http.ResponseWriter, r *http.Request, f url.Values) bool {
	if f.Get("cookies") == "" || h.Cookies.FlowOf(r) != "" || h.Visitors.HasSessionCookie(r) || len(r.CookiesNamed(h.Cookies.Device)) > 0 {
		return true
	}
	if r.URL.RawQuery == cookieWasSet {
		h.Answers.Page(w, r, http.StatusOK, web.NoCookiesPage{})
		return false
	}
	h.setFlow(w, secret.Random())
	_ = web.Redirect(w, r.URL.Path+"?"+cookieWasSet, http.StatusTemporaryRedirect)
	return false
}

// helpSentPage is the page of a visitor who asked for a link to set a password.
func (h *Handlers) helpSentPage(ask token.Ask) web.HelpSentPage {
	p := h.sentPage(ask, "", "")
	return web.HelpSentPage{Address: p.Address, Masked: p.Masked, To: p.To, T: p.T, ResendIn: p.ResendIn, Again: p.Again}
}

// asked returns what the browser asked for last, or token.ErrUnknown.
func (h *Handlers) asked(r *http.Request) (token.Ask, error) {
	flow := h.Cookies.FlowOf(r)
	if flow == "" {
		return token.Ask{}, token.ErrUnknown
	}
	return h.Tokens.Asked(r.Context(), token.BrowserOf(flow))
}

// sentPage is the page of a tab that waits for the email, with what was typed as the code so
// far and what is wrong with it.
func (h *Handlers) sentPage(ask token.Ask, code, problem string) web.SentPage {
	p := web.SentPage{Address: ask.Address.Display(), To: ask.To, Shared: ask.Shared, Again: ask.Again, Code: code, Problem: problem}
	if ask.Hidden {
		p.Address, p.Masked, p.T = web.MaskedAddress(ask.Address), true, ask.Link
	}
	since := h.Now().Sub(ask.At)
	p.ResendIn = max(0, int((resendAfter-since)/time.Second))
	p.HelpIn = max(1, int((waited-since)/time.Second))
	p.Waited = since >= waited
	return p
}

// SignedInPath is where a sign-in leads that was begun beside a form in another tab.
const SignedInPath = "/signed-in"

// GetSignedIn tells somebody who signed in beside a form to go back to it.
func (h *Handlers) GetSignedIn(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	h.Answers.Page(w, r, http.StatusOK, web.SignedInPage{Email: v.Contact.Emails[0].Display()})
	return nil
}
