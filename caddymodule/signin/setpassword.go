package signin

import (
	"errors"
	"net/http"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetSetPassword shows the page of the link without changing anything: mail scanners open it too.
func (h *Handlers) GetSetPassword(w http.ResponseWriter, r *http.Request) error {
	t := linkSecret(r.URL)
	link, err := h.Tokens.PeekPassword(r.Context(), t)
	if err != nil {
		return h.passwordLinkError(w, r, t, link, err)
	}
	h.Audit.Record(r.Context(), h.openingEvent(r, audit.Opened, link))
	h.Answers.Page(w, r, http.StatusOK, web.SetPasswordPage{T: t, Masked: web.MaskedAddress(link.Address), Least: h.Passwords.RequiredLength()})
	return nil
}

// PostSetPassword spends the link if the chosen password is acceptable. The browser becomes a known
// device of the contact, who has just read their mail: the new password then works there even after
// others have used up the attempts.
func (h *Handlers) PostSetPassword(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	t, plain := f.Get("t"), f.Get("password")
	by := h.Visitors.Browser(r)
	cookie, device := by.NewestDevice(h.Devices)
	for range 3 {
		link, proof, err := h.Tokens.SpendPassword(r.Context(), t)
		if err != nil {
			return h.passwordLinkError(w, r, t, link, err)
		}
		c, err := h.Directory.ByID(r.Context(), link.Contact)
		if errors.Is(err, directory.ErrUnknown) || err == nil && (c.Disabled || c.Generation != link.Generation || !slices.Contains(c.Emails, link.Address)) {
			return h.passwordLinkError(w, r, t, link, token.ErrInactive)
		} else if err != nil {
			return err
		}
		change := action.PasswordChange{Contact: c, Proof: proof, Method: "link", Device: device}
		mine := false
		if v, err := h.Visitors.Of(r); err == nil && v.Contact.ID == c.ID {
			mine, change.Spare = true, v.Live.ID
		}
		err = h.Changes.Set(r.Context(), by, change, plain)
		if refused, ok := errors.AsType[password.PolicyError](err); ok {
			h.Answers.Page(w, r, http.StatusBadRequest, web.SetPasswordPage{T: t, Masked: web.MaskedAddress(link.Address), Least: h.Passwords.RequiredLength(), Problem: refused.Message()})
			return nil
		} else if errors.Is(err, password.ErrBusy) {
			return web.ErrPasswordsBusy
		} else if errors.Is(err, store.ErrConflict) {
			continue // another request was faster, or another mail was just requested
		} else if err != nil {
			return err
		}
		h.Cookies.Set(w, h.Cookies.Device, cookie, limit.DeviceLife)
		if mine {
			return h.Answers.SeeOwn(w, "/account?done=set")
		}
		return h.Answers.SeeOwn(w, "/password"+h.formQuery(link.To, setPurpose, string(link.Address), false))
	}
	return web.ErrConflict
}

// passwordLinkError answers for a link that can't set a password.
func (h *Handlers) passwordLinkError(w http.ResponseWriter, r *http.Request, t string, link token.Link, err error) error {
	switch {
	case errors.Is(err, token.ErrInactive) && link.Address != "":
		h.Audit.Record(r.Context(), h.openingEvent(r, audit.OpenedOld, link))
		h.Answers.Page(w, r, http.StatusGone, web.SpentPasswordPage{T: t, Masked: web.MaskedAddress(link.Address), To: link.To})
	case errors.Is(err, token.ErrUnknown), errors.Is(err, token.ErrInactive):
		h.Audit.Record(r.Context(), h.openingEvent(r, audit.UnknownLink, token.Link{}))
		h.Answers.Page(w, r, http.StatusBadRequest, web.HelpPage{To: "/", NoLink: true})
	default:
		return err
	}
	return nil
}
