package gate

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// justSet is how long the account page says that a password was set.
const justSet = 5 * time.Minute

// done is what the account page says after a change, by the word in its URL.
var done = map[string]string{
	"set":     "Your password is set. You’re signed out everywhere else.",
	"removed": "Your password is removed. You now sign in with a link we email you. You’re signed out everywhere else.",
	"out":     "That device is signed out.",
	"others":  "You’re signed out everywhere else.",
}

// getAccount shows who is signed in what they can change of themselves.
func (g *Gate) getAccount(w http.ResponseWriter, r *http.Request) error {
	v, err := g.visitor(r)
	if err != nil {
		return g.needSignIn(w, r, err)
	}
	said, err := g.doneTo(r.Context(), v, one(r.URL.Query()["done"]))
	if err != nil {
		return err
	}
	return g.showAccount(w, r, v, http.StatusOK, web.AccountPage{Done: said})
}

// doneTo returns what the page says of the word in its URL. Anybody can link to that, so of
// a password it says only what is so.
func (g *Gate) doneTo(ctx context.Context, v *Visitor, word string) (string, error) {
	if word != "set" && word != "removed" {
		return done[word], nil
	}
	if g.Passwords == nil {
		return "", nil
	}
	state, err := g.Passwords.State(ctx, v.Contact.ID)
	if err != nil || state.Has() != (word == "set") || state.Has() && g.Now().Sub(state.Since).Abs() > justSet {
		return "", err
	}
	return done[word], nil
}

// toAccount is for a tab that is loaded again after a form of the account page.
func (g *Gate) toAccount(w http.ResponseWriter, _ *http.Request) error {
	return g.seeOwn(w, "/account")
}

// showAccount shows the page, with what it is to say beside who they are.
func (g *Gate) showAccount(w http.ResponseWriter, r *http.Request, v *Visitor, status int, page web.AccountPage) error {
	ctx := r.Context()
	page.Name = v.Contact.Name()
	for _, a := range v.Contact.Emails {
		page.Emails = append(page.Emails, shown(a))
	}
	if v.Contact.Role != directory.Staff { // these reach all of them
		companies, _, err := g.companiesOf(r, v, "")
		if err != nil {
			return err
		}
		page.More = len(companies) > shownAtOnce
		for _, c := range companies[:min(len(companies), shownAtOnce)] {
			page.Companies = append(page.Companies, web.CompanyRow{Name: c.Name, URL: g.Legacy.Page(c.ID)})
		}
	}
	sessions, err := g.Sessions.List(ctx, v.Contact.ID, v.Contact.Generation)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		page.Devices = append(page.Devices, web.DeviceRow{Handle: s.Handle, Agent: s.Agent, First: s.Begun.Local(), Last: s.Seen.Local(), Here: s.ID == v.Live.ID})
	}
	if g.Passwords != nil {
		state, err := g.Passwords.State(ctx, v.Contact.ID)
		if err != nil {
			return err
		}
		page.Since, page.Least = state.Since, g.Passwords.Least()
		page.ByLink = state.Has() && !state.Chosen
	}
	g.page(w, r, status, page)
	return nil
}

// postDevices signs out one device, or all others.
func (g *Gate) postDevices(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	v, err := g.visitor(r)
	if err != nil {
		return g.needSignIn(w, r, err)
	}
	ctx := r.Context()
	if f.Get("others") != "" {
		n, err := g.endOthers(ctx, v)
		if err != nil {
			return err
		}
		if n > 0 {
			g.Audit.Record(ctx, audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Agent: web.AgentOf(r), IP: g.ClientIP(r), Count: n})
		}
		return g.seeOwn(w, "/account?done=others")
	}
	sessions, err := g.Sessions.List(ctx, v.Contact.ID, v.Contact.Generation) // of this contact: nobody signs out others
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Handle != f.Get("handle") {
			continue
		}
		if err := g.Sessions.End(ctx, v.Contact.ID, s.ID); err != nil {
			return err
		}
		g.Audit.Record(ctx, audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Session: s.Handle, Agent: s.Agent, IP: g.ClientIP(r)})
		if s.ID == v.Live.ID {
			g.clearSite(w.Header())
		}
	}
	return g.seeOwn(w, "/account?done=out")
}

// endOthers ends all sessions of the visitor but this one, and returns how many these were.
func (g *Gate) endOthers(ctx context.Context, v *Visitor) (ended int, err error) {
	for range 3 {
		renewal, err := g.Book.Renew(ctx, v.Contact.ID)
		if err != nil {
			return 0, err
		}
		end, err := g.Sessions.Ending(ctx, v.Contact.ID, v.Live.ID, renewal.Generation)
		if err == nil {
			err = g.Sessions.Store.Apply(ctx, slices.Concat(renewal.Ops, end.Ops)...)
			g.Sessions.Ended(ctx, end, err)
			g.Book.Renewed(ctx, err)
		}
		if !errors.Is(err, store.ErrConflict) {
			return end.Count, err
		}
	}
	return 0, errMoved
}

// notChanged is why the password of who is signed in stays as it is.
type notChanged struct {
	status  int
	problem string
	field   string        // that the problem is about, see AccountPage.Wrong
	wait    time.Duration // until it may be tried again; 0: that isn't said
}

func (n *notChanged) Error() string { return "gate: the password isn't changed: " + n.problem }

const (
	notCurrent = "That is not your current password. Please check it, or have us email you a link to set a new one."
	noCurrent  = "Please enter your current password, too. Or have us email you a link to set a new one."
	// nothingToType: there is no current password, so only a mailed link sets one.
	nothingToType = "To set a password, please use a link that we email you."
	notChosen     = "Your password comes from our earlier portal. To change or remove it, please set a new one with a link that we email you."
	manyChanges   = "Your password was changed many times today. Please wait an hour, then try again."
)

// postChange sets the password of who is signed in.
func (g *Gate) postChange(w http.ResponseWriter, r *http.Request) error {
	return g.change(w, r, "current", "set", func(change passwordChange, plain string) error { return g.setPassword(r, change, plain) })
}

// postRemove removes it.
func (g *Gate) postRemove(w http.ResponseWriter, r *http.Request) error {
	return g.change(w, r, "gone", "removed", func(change passwordChange, _ string) (err error) {
		change.removed = true
		if change.ops, err = g.Passwords.Remove(r.Context(), change.contact.ID); err != nil || change.ops == nil {
			return err
		}
		return g.applyChange(r, change)
	})
}

// change does what somebody signed in asks for, and shows the account page: with done, or
// with what is wrong, at the field of the current password where it is that.
func (g *Gate) change(w http.ResponseWriter, r *http.Request, field, done string, do func(passwordChange, string) error) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	v, err := g.visitor(r)
	if err != nil {
		return g.needSignIn(w, r, err)
	}
	err = g.changeIf(r, v, f.Get("current"), field, func(change passwordChange) error { return do(change, f.Get("password")) })
	if not, ok := errors.AsType[*notChanged](err); ok {
		if not.wait > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(not.wait/time.Second)))
		}
		return g.showAccount(w, r, v, not.status, web.AccountPage{Problem: not.problem, Wrong: not.field})
	} else if err != nil {
		return err
	}
	return g.seeOwn(w, "/account?done="+done)
}

// changeIf does it for a visitor who has typed their current password, however recently they
// signed in: a session that somebody else got hold of, or a script on a page of the portal,
// which shares our origin, must not be enough to set a password that outlives it. Else it is a
// notChanged.
func (g *Gate) changeIf(r *http.Request, v *Visitor, current, field string, do func(passwordChange) error) error {
	if err := g.isCurrent(r, v, current, field); err != nil {
		return err
	}
	end, err := g.Tokens.EndAll(v.Contact.ID)
	if err != nil {
		return err
	}
	for range 3 {
		// Whoever has changed the password meanwhile has ended this session, so it can't be spared.
		err = do(passwordChange{contact: v.Contact, proof: []store.Op{end}, method: byPassword, spare: v.Live.ID})
		if !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if refused, ok := errors.AsType[password.Refused](err); ok {
		return &notChanged{http.StatusBadRequest, refused.Words(), "password", 0}
	} else if errors.Is(err, limit.ErrOver) {
		return &notChanged{http.StatusTooManyRequests, manyChanges, "", time.Hour}
	} else if errors.Is(err, store.ErrConflict) {
		return errMoved
	}
	return err
}

// isCurrent compares the current password that somebody signed in has typed, in that field:
// a notChanged where it isn't. It counts as any other try.
func (g *Gate) isCurrent(r *http.Request, v *Visitor, plain, field string) error {
	ctx := r.Context()
	state, err := g.Passwords.State(ctx, v.Contact.ID)
	switch {
	case err != nil:
		return err
	case !state.Has():
		return &notChanged{http.StatusForbidden, nothingToType, "", 0}
	case !state.Chosen:
		// One of their own, which no import touches any more, takes somebody who has read a
		// mail of ours: whoever knew this one elsewhere may have got in by it.
		return &notChanged{http.StatusForbidden, notChosen, "", 0}
	case plain == "":
		return &notChanged{http.StatusForbidden, noCurrent, field, 0}
	}
	t, err := g.tryFor(r, v.Contact.Emails[0], plain)
	var match password.Match
	if err == nil {
		match, err = t.check(r)
	}
	switch {
	case errors.Is(err, errCrowded):
		return &notChanged{http.StatusTooManyRequests, crowdedNetwork, "", crowdedFor}
	case errors.Is(err, password.ErrWrong):
		g.Audit.Record(ctx, audit.Event{Kind: audit.WrongPass, Contact: v.Contact.ID, Session: v.Live.Handle, Agent: web.AgentOf(r), IP: t.ip})
		return &notChanged{http.StatusForbidden, notCurrent, field, 0}
	case err != nil:
		return err
	}
	// Now, not with the change: who looks for a new one that may be chosen isn't guessing.
	err = g.Sessions.Store.Apply(ctx, match.Ops...)
	if errors.Is(err, store.ErrConflict) {
		return errMoved // it may be another one by now
	}
	return err
}
