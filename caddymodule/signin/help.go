package signin

import (
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetHelp is for visitors who have no password or have lost it.
func (h *Handlers) GetHelp(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	h.Answers.Page(w, r, http.StatusOK, web.HelpPage{To: h.Ways.SafeSealed(query.Get("to")), Email: h.prefilledAddress(r)})
	return nil
}

// PostHelp commits a request for a mail with a link to set a password. The response is the same for
// every valid address.
func (h *Handlers) PostHelp(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	ask := token.MailRequest{Purpose: token.SetPassword, To: h.Ways.SafeSealed(f.Get("to")), Again: f.Get("again") != ""}
	if t := f.Get("t"); t != "" && f.Get("email") == "" {
		link, err := h.Tokens.PeekPassword(r.Context(), t)
		if err != nil && !errors.Is(err, token.ErrInactive) {
			return h.passwordLinkError(w, r, t, link, err)
		}
		ask.Address, ask.Hidden, ask.Link, ask.To = link.Address, true, token.Clean(t), link.To
	} else if ask.Address, err = address.Parse(f.Get("email")); err != nil {
		h.Answers.Page(w, r, http.StatusBadRequest, web.HelpPage{To: ask.To, Email: f.Get("email"),
			Problem: problemOf(f.Get("email"), incompleteAddress)})
		return nil
	}
	return h.request(w, r, ask)
}
