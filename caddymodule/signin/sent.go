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
	// resendAfter is how long the page asks visitors to wait before another mail, the shortest time
	// between two mails to one address.
	resendAfter = time.Minute
	// offerHelpAfter is when the page offers other ways to sign in.
	offerHelpAfter = 2 * time.Minute
)

// GetSent shows the page that waits for the mail and takes the code.
func (h *Handlers) GetSent(w http.ResponseWriter, r *http.Request) error {
	ask, err := h.lastMailRequest(r)
	if errors.Is(err, token.ErrUnknown) {
		return h.notWaiting(w, r)
	} else if err != nil {
		return err
	}
	if v, err := h.Visitors.Of(r); err == nil && v.Live.Begun.After(ask.At) {
		return h.seeOther(w, ask.To) // already signed in, from another tab
	}
	if ask.Purpose == token.SetPassword {
		if h.Passwords == nil {
			return h.Answers.SeeOwn(w, "/sign-in") // passwords were switched off since then, so the link doesn't work
		}
		h.Answers.Page(w, r, http.StatusOK, h.helpSentPage(ask))
		return nil
	}
	h.Answers.Page(w, r, http.StatusOK, h.sentPage(ask, "", ""))
	return nil
}

// notWaiting answers a tab that waits for a mail in a browser without a mail request. If the
// visitor signed in in another tab, this tab's return URL still counts. If the browser sent no
// cookie for a request, it may not accept cookies at all: the prompt would only return.
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
		return h.Answers.SeeOwn(w, "/sent") // a code works only once, but the tab goes on
	case err == nil && in.Contact == v.Contact.ID:
		return h.seeOther(w, in.To)
	case err != nil && !errors.Is(err, token.ErrUnknown):
		return err
	}
	return h.Answers.SeeOwn(w, "/sign-in")
}

// cookieWasSet is the query of a form that is sent again, see checkCookies.
const cookieWasSet = "cookie=set"

// checkCookies reports whether the browser keeps cookies, so that nothing is spent on a session
// that the browser forgets. The gate's own forms have a field that asks for this check. If the
// browser has sent no cookie of the gate yet, it gets one and sends the form again (307);
// checkCookies then returns false, with the request answered.
func (h *Handlers) checkCookies(w http.ResponseWriter, r *http.Request, f url.Values) bool {
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

// helpSentPage returns the page for a visitor who requested a link to set a password.
func (h *Handlers) helpSentPage(ask token.MailRequest) web.HelpSentPage {
	p := h.sentPage(ask, "", "")
	return web.HelpSentPage{Address: p.Address, Masked: p.Masked, To: p.To, T: p.T, ResendIn: p.ResendIn, Again: p.Again}
}

// lastMailRequest returns the browser's latest mail request, or token.ErrUnknown.
func (h *Handlers) lastMailRequest(r *http.Request) (token.MailRequest, error) {
	flow := h.Cookies.FlowOf(r)
	if flow == "" {
		return token.MailRequest{}, token.ErrUnknown
	}
	return h.Tokens.LastRequest(r.Context(), token.BrowserOf(flow))
}

// sentPage returns the page of a tab that waits for the mail, with the code typed so far and its
// problem.
func (h *Handlers) sentPage(ask token.MailRequest, code string, problem web.Text) web.SentPage {
	p := web.SentPage{Address: ask.Address.Display(), To: ask.To, Shared: ask.Shared, Again: ask.Again, Code: code, Problem: problem}
	if ask.Hidden {
		p.Address, p.Masked, p.T = web.MaskedAddress(ask.Address), true, ask.Link
	}
	since := h.Now().Sub(ask.At)
	p.ResendIn = max(0, int((resendAfter-since)/time.Second))
	p.HelpIn = max(1, int((offerHelpAfter-since)/time.Second))
	p.Waited = since >= offerHelpAfter
	return p
}

// SignedInPath is the target of a sign-in that was begun beside a form in another tab.
const SignedInPath = "/signed-in"

// GetSignedIn tells a visitor who signed in beside a form to return to it.
func (h *Handlers) GetSignedIn(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	h.Answers.Page(w, r, http.StatusOK, web.SignedInPage{Email: v.Contact.Emails[0].Display()})
	return nil
}
