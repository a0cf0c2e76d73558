package signin

import (
	"errors"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/language"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// wrongCode is the message for every code that doesn't work, whether it is wrong, blocked after
// five attempts, expired or was never sent: the difference would help an attacker. So the message
// must help in all these cases, also after the right code at the sixth attempt.
const wrongCode = "That code doesn’t work. Please check it against the newest email. " +
	"You have five tries for each code. After that, use the link in the email, or press “Send the email again”."

// codeProblem returns the problem with text that can't be a code. It depends only on the text.
func codeProblem(e token.ShapeError) web.Text {
	switch {
	case e.Has == 0:
		return "Please enter the code from the email. It has eight letters and digits."
	case e.Has < token.CodeLength:
		return language.Say("The code has eight letters and digits; this has {1}. Please check it against the email.", strconv.Itoa(e.Has))
	case e.Has > token.CodeLength:
		return "The code has eight letters and digits; this is longer. Please enter only the code."
	}
	return "One of these characters is never in a code, such as “u” or “é”. Please check it against the email."
}

// GetCode redirects a tab that is reloaded after a wrong code; phones reload by themselves.
func (h *Handlers) GetCode(w http.ResponseWriter, _ *http.Request) error {
	return h.Answers.SeeOwn(w, "/sent")
}

// PostCode signs in the browser that requested the mail by the typed code.
func (h *Handlers) PostCode(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	ask, err := h.lastMailRequest(r)
	if errors.Is(err, token.ErrUnknown) {
		return h.notWaiting(w, r)
	} else if err != nil {
		return err
	}
	by := h.Visitors.Browser(r)
	ip := by.IP
	free, refund := h.allowGuess(ip) // counted before the comparison
	wrong := false
	defer func() {
		if !wrong {
			refund()
		}
	}()
	moved := false
	for range 3 { // each attempt counts as a guess
		grant, err := h.Tokens.Guess(anchor.Evenly(r.Context()), ask.Browser, f.Get("code"), !free)
		if shape, ok := errors.AsType[token.ShapeError](err); ok {
			h.Answers.Page(w, r, http.StatusBadRequest, h.sentPage(ask, f.Get("code"), codeProblem(shape)))
			return nil
		} else if errors.Is(err, token.ErrWrongCode) {
			wrong, moved = !errors.Is(err, token.ErrNoGuessesLeft), false
			break
		} else if err != nil {
			return err
		}
		_, err = h.beginSession(w, r, by, grant)
		if errors.Is(err, token.ErrInactive) {
			moved = errors.Is(err, action.ErrOvertaken)
			continue // the record changed in the meantime: try again
		} else if err != nil {
			return err
		}
		return h.seeOther(w, grant.To)
	}
	if moved {
		return web.ErrConflict // the code was right and may still be valid
	}
	h.Audit.Record(r.Context(), audit.Event{Kind: audit.WrongCode, Address: ask.Address.Masked(), Request: ask.ID,
		Agent: by.Agent, IP: ip, Whole: ask.Address})
	h.Answers.Page(w, r, http.StatusForbidden, h.sentPage(ask, f.Get("code"), wrongCode))
	return nil
}

// allowGuess counts a guess at a code for its network and for the firm, and reports whether it may
// succeed. refund undoes the count.
func (h *Handlers) allowGuess(ip netip.Addr) (free bool, refund func()) {
	if !h.Networks.Allow(limit.Guess, ip) {
		return false, func() {}
	}
	undo, free := h.Networks.AllowFirm(limit.Guess, ip)
	return free, func() {
		h.Networks.Refund(limit.Guess, ip)
		undo()
	}
}
