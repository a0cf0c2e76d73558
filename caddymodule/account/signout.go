package account

import (
	"errors"
	"net/http"
	"net/url"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetSignOut asks whether to sign out.
func (h *Handlers) GetSignOut(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if errors.Is(err, visitor.ErrNone) {
		h.Answers.Page(w, r, http.StatusOK, web.SignedOutPage{})
		return nil
	} else if err != nil {
		return err
	}
	h.Answers.Page(w, r, http.StatusOK, web.SignOutPage{Email: v.Contact.Emails[0].Display()})
	return nil
}

// PostSignOut ends the session of this browser.
func (h *Handlers) PostSignOut(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil && !errors.Is(err, visitor.ErrNone) {
		return err
	}
	if err == nil {
		if err := h.Sessions.End(r.Context(), v.Contact.ID, v.Live.ID); err != nil {
			return err
		}
		h.Audit.Record(r.Context(), audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Session: v.Live.Handle,
			Address: v.Contact.Emails[0].Masked(), Agent: web.AgentOf(r), IP: h.Visitors.ClientIP(r)})
	}
	h.Answers.ClearSite(w.Header())
	h.Cookies.Remove(w, h.Cookies.Session)
	if _, err := r.Cookie(h.Cookies.Visit); err == nil { // the next user of the browser must not get the visit either
		h.Cookies.Remove(w, h.Cookies.Visit)
	}
	if to, switches := h.switchesTo(w, r); switches {
		if to == "/" {
			return h.Answers.SeeOwn(w, "/sign-in")
		}
		return h.Answers.SeeOwn(w, "/sign-in?"+url.Values{"to": {to}}.Encode())
	}
	return h.Answers.SeeOwn(w, "/sign-out")
}

// switchesTo reports whether the sign-out form asks for the prompt for another address, and the URL
// after that sign-in. The URL is sealed if it may contain a token. A portal's own sign-out button
// may send no form at all.
func (h *Handlers) switchesTo(w http.ResponseWriter, r *http.Request) (to string, switches bool) {
	if r.ContentLength == 0 {
		return "", false
	}
	f, err := web.ReadForm(w, r)
	if err != nil || f.Get("switch") == "" {
		return "", false
	}
	return h.Ways.SafeSealed(f.Get("to")), true
}
