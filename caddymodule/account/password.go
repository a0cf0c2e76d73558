package account

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// notChanged is the error for a password that wasn't changed.
type notChanged struct {
	status  int
	problem web.Text
	field   string        // the field with the problem, see AccountPage.Wrong
	wait    time.Duration // until the next attempt is allowed; 0 if unknown
}

func (n *notChanged) Error() string { return "account: password not changed: " + n.problem.String() }

const (
	notCurrent = "That is not your current password. Please check it, or have us email you a link to set a new one."
	noCurrent  = "Please enter your current password, too. Or have us email you a link to set a new one."
	// nothingToType is for contacts without a current password: only a mailed link can set one.
	nothingToType = "To set a password, please use a link that we email you."
	notChosen     = "Your password comes from our earlier portal. To change or remove it, please set a new one with a link that we email you."
	manyChanges   = "Your password was changed many times today. Please wait an hour, then try again."
)

// PostChange sets the password of a signed-in visitor.
func (h *Handlers) PostChange(w http.ResponseWriter, r *http.Request) error {
	return h.change(w, r, "current", "set", func(by action.Browser, change action.PasswordChange, plain string) error {
		return h.Changes.Set(r.Context(), by, change, plain)
	})
}

// PostRemove removes the password of a signed-in visitor.
func (h *Handlers) PostRemove(w http.ResponseWriter, r *http.Request) error {
	return h.change(w, r, "gone", "removed", func(by action.Browser, change action.PasswordChange, _ string) error {
		return h.Changes.Remove(r.Context(), by, change)
	})
}

// change calls do for the visitor and shows the account page, either with done or with the problem
// beside its field.
func (h *Handlers) change(w http.ResponseWriter, r *http.Request, field, done string, do func(action.Browser, action.PasswordChange, string) error) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	by := h.Visitors.Browser(r)
	err = h.changeIf(r.Context(), by, v, f.Get("current"), field, func(change action.PasswordChange) error { return do(by, change, f.Get("password")) })
	if not, ok := errors.AsType[*notChanged](err); ok {
		if not.wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(not.wait/time.Second)))
		}
		return h.showAccount(w, r, v, not.status, web.AccountPage{Problem: not.problem, Wrong: not.field})
	} else if err != nil {
		return err
	}
	return h.Answers.SeeOwn(w, "/account?done="+done)
}

// changeIf calls do if the visitor has typed their current password, however recently they signed
// in; otherwise it returns a notChanged. A stolen session, or a script on a page of the portal,
// which has the same origin, must not be enough to set a password that outlives the session.
func (h *Handlers) changeIf(ctx context.Context, by action.Browser, v *visitor.Visitor, current, field string, do func(action.PasswordChange) error) error {
	if err := h.checkCurrent(ctx, by, v, current, field); err != nil {
		return err
	}
	end, err := h.Tokens.RevokeAll(v.Contact.ID)
	if err != nil {
		return err
	}
	for range 3 {
		// A concurrent password change has ended this session, so it can't be kept.
		err = do(action.PasswordChange{Contact: v.Contact, Proof: []store.Op{end}, Method: action.ByPassword, Spare: v.Live.ID})
		if !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if refused, ok := errors.AsType[password.PolicyError](err); ok {
		return &notChanged{http.StatusBadRequest, refused.Message(), "password", 0}
	} else if errors.Is(err, limit.ErrOver) {
		return &notChanged{http.StatusTooManyRequests, manyChanges, "", time.Hour}
	} else if errors.Is(err, password.ErrBusy) {
		return web.ErrPasswordsBusy
	} else if errors.Is(err, store.ErrConflict) {
		return web.ErrConflict
	}
	return err
}

// checkCurrent checks the current password that a signed-in visitor has typed in field, and returns
// a notChanged if it is wrong. It counts as a sign-in attempt.
func (h *Handlers) checkCurrent(ctx context.Context, by action.Browser, v *visitor.Visitor, plain, field string) error {
	state, err := h.Passwords.State(ctx, v.Contact.ID)
	switch {
	case err != nil:
		return err
	case !state.Has():
		return &notChanged{http.StatusForbidden, nothingToType, "", 0}
	case !state.Chosen:
		// Only somebody who has read a mail from us may set the visitor's own password, which later
		// imports don't change: anybody who knew the imported one may be signed in here.
		return &notChanged{http.StatusForbidden, notChosen, "", 0}
	case plain == "":
		return &notChanged{http.StatusForbidden, noCurrent, field, 0}
	}
	attempt, err := h.Attempts.Begin(ctx, by, v.Contact.Emails[0], plain)
	var match password.Match
	if err == nil {
		match, err = attempt.Check(ctx)
	}
	switch {
	case errors.Is(err, action.ErrNetworkLimited):
		return &notChanged{http.StatusTooManyRequests, web.NetworkLimited, "", action.NetworkWait}
	case errors.Is(err, password.ErrBusy):
		return web.ErrPasswordsBusy
	case errors.Is(err, password.ErrWrong):
		h.Audit.Record(ctx, audit.Event{Kind: audit.WrongPassword, Contact: v.Contact.ID, Session: v.Live.Handle, Agent: by.Agent, IP: by.IP})
		return &notChanged{http.StatusForbidden, notCurrent, field, 0}
	case err != nil:
		return err
	}
	// Not together with the change: a visitor who tries several new passwords isn't guessing.
	err = h.Sessions.Store.Apply(ctx, match.Ops...)
	if errors.Is(err, store.ErrConflict) {
		return web.ErrConflict // the password may have changed in between
	}
	return err
}
