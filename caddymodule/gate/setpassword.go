package gate

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// getHelp is for who has no password, or has lost it.
func (g *Gate) getHelp(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	g.page(w, r, http.StatusOK, web.HelpPage{To: g.wayBack(query.Get("to")), Email: g.typed(r)})
	return nil
}

// postHelp commits a request for a mail with a link to set a password, and answers the
// same for every valid address.
func (g *Gate) postHelp(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	ask := token.Ask{Purpose: token.SetPassword, To: g.wayBack(f.Get("to")), Again: f.Get("again") != ""}
	if t := f.Get("t"); t != "" && f.Get("email") == "" {
		link, err := g.Tokens.PeekPassword(r.Context(), t)
		if err != nil && !errors.Is(err, token.ErrOver) {
			return g.passwordLinkError(w, r, t, link, err)
		}
		ask.Address, ask.Hidden, ask.Link, ask.To = link.Address, true, token.Clean(t), link.To
	} else if ask.Address, err = address.Parse(f.Get("email")); err != nil {
		g.page(w, r, http.StatusBadRequest, web.HelpPage{To: ask.To, Email: f.Get("email"),
			Problem: problemOf(f.Get("email"), incompleteAddress)})
		return nil
	}
	if err := g.commit(w, r, ask); err != nil {
		return err
	}
	return g.seeOwn(w, "/sent")
}

// getSetPassword shows where the link leads, and changes nothing: mail scanners open it, too.
func (g *Gate) getSetPassword(w http.ResponseWriter, r *http.Request) error {
	t := linkSecret(r.URL)
	link, err := g.Tokens.PeekPassword(r.Context(), t)
	if err != nil {
		return g.passwordLinkError(w, r, t, link, err)
	}
	g.Audit.Record(r.Context(), g.opening(r, audit.Opened, link))
	g.page(w, r, http.StatusOK, web.SetPasswordPage{T: t, Masked: shownInPart(link.Address), Least: g.Passwords.Least()})
	return nil
}

// postSetPassword spends the link, for a password that may be chosen. Its browser is then a
// device that the contact is known on: they have just read their mail, so whatever strangers
// have used up, the new password signs them in.
func (g *Gate) postSetPassword(w http.ResponseWriter, r *http.Request) error {
	f, err := readForm(w, r)
	if err != nil {
		return err
	}
	t, plain := f.Get("t"), f.Get("password")
	cookie, device := g.newestDevice(r)
	for range 3 {
		link, proof, err := g.Tokens.SpendPassword(r.Context(), t)
		if err != nil {
			return g.passwordLinkError(w, r, t, link, err)
		}
		c, err := g.Book.ByID(r.Context(), link.Contact)
		if errors.Is(err, directory.ErrUnknown) || err == nil && (c.Disabled || c.Generation != link.Generation || !slices.Contains(c.Emails, link.Address)) {
			return g.passwordLinkError(w, r, t, link, token.ErrOver)
		} else if err != nil {
			return err
		}
		change := passwordChange{contact: c, proof: proof, method: "link", device: device}
		mine := false
		if v, err := g.visitor(r); err == nil && v.Contact.ID == c.ID {
			mine, change.spare = true, v.Live.ID
		}
		err = g.setPassword(r, change, plain)
		if refused, ok := errors.AsType[password.Refused](err); ok {
			g.page(w, r, http.StatusBadRequest, web.SetPasswordPage{T: t, Masked: shownInPart(link.Address), Least: g.Passwords.Least(), Problem: refused.Words()})
			return nil
		} else if errors.Is(err, store.ErrConflict) {
			continue // somebody was faster, or asked for one more mail just now
		} else if err != nil {
			return err
		}
		g.setCookie(w, g.cookies.Device, cookie, limit.DeviceLife)
		if mine {
			return g.seeOwn(w, "/account?done=set")
		}
		return g.seeOwn(w, "/password"+g.formQuery(link.To, setPurpose, string(link.Address), false))
	}
	return errMoved
}

// passwordLinkError answers for a link that sets no password.
func (g *Gate) passwordLinkError(w http.ResponseWriter, r *http.Request, t string, link token.Link, err error) error {
	switch {
	case errors.Is(err, token.ErrOver) && link.Address != "":
		g.Audit.Record(r.Context(), g.opening(r, audit.OpenedOld, link))
		g.page(w, r, http.StatusGone, web.SpentPasswordPage{T: t, Masked: shownInPart(link.Address), To: link.To})
	case errors.Is(err, token.ErrUnknown), errors.Is(err, token.ErrOver):
		g.Audit.Record(r.Context(), g.opening(r, audit.NoLink, token.Link{}))
		g.page(w, r, http.StatusBadRequest, web.HelpPage{To: "/", NoLink: true})
	default:
		return err
	}
	return nil
}

// passwordChange is a password that is about to be set or removed.
type passwordChange struct {
	contact directory.Contact
	proof   []store.Op // by which it is spent that it is they who change it
	method  string     // what that was
	spare   string     // ID of the session that goes on; "": none does
	removed bool
	device  string     // ID of the one on which a link was spent that was mailed for this; "": there was none
	ops     []store.Op // the change itself
}

// setPassword judges and stores a password: a password.Refused, limit.ErrOver after too many
// changes, store.ErrConflict when something moved, or what it is shown as.
func (g *Gate) setPassword(r *http.Request, change passwordChange, plain string) error {
	about, err := g.about(r.Context(), change.contact)
	if err != nil {
		return err
	}
	change.ops, err = g.Passwords.Set(r.Context(), change.contact.ID, plain, about)
	if errors.Is(err, password.ErrBusy) {
		return errHashing
	} else if err != nil {
		return err
	}
	return g.applyChange(r, change)
}

// about is what no password of the contact may contain.
func (g *Gate) about(ctx context.Context, c directory.Contact) (password.About, error) {
	about := password.About{Names: []string{c.FirstName, c.LastName}, Emails: c.Emails}
	if c.Role == directory.Staff {
		return about, nil // they reach all of them
	}
	names, err := g.companyNames(ctx, c)
	about.Companies = slices.Concat(names, c.Companies)
	return about, err
}

// applyChange makes the change in one step, with the proof spent, the sessions but one ended,
// and the mail that tells of it on its way. A mailed link also makes its device the only one
// that the contact is known on, for whoever had the password before may have signed in on
// others. It is limit.ErrOver after too many changes; of mailed links there are few anyhow.
func (g *Gate) applyChange(r *http.Request, change passwordChange) error {
	ctx, c, now := r.Context(), change.contact, g.Now()
	kind := audit.PassSet
	if change.removed {
		kind = audit.PassGone
	}
	// Now that the record was read, who came in by the one before is among these, or has
	// changed it since, and that is a conflict.
	renewal, err := g.Book.Renew(ctx, c.ID)
	if err != nil {
		return err
	}
	end, err := g.Sessions.Ending(ctx, c.ID, change.spare, renewal.Generation)
	if err != nil {
		return err
	}
	news := news{Contact: c.ID, Removed: change.removed, At: now, Agent: web.AgentOf(r)}
	id, mail, err := g.tell(kindChanged, news)
	if err != nil {
		return err
	}
	var more []store.Op
	if change.device != "" {
		more, err = g.devices.LearnAlone(ctx, change.device, c.ID, now)
	} else {
		var spent limit.Spent
		spent, err = g.mails.Spend(ctx, limit.Purse{Contact: c.ID, Apart: kindChanged}, limit.ForChanges, limit.Request{ID: id}, now)
		more = spent.Ops
	}
	if err != nil {
		return err
	}
	event, stored := g.Audit.With(audit.Event{Kind: kind, Contact: c.ID, Method: change.method, Agent: news.Agent, IP: g.ClientIP(r)})
	err = g.Sessions.Store.Apply(ctx, slices.Concat(change.proof, change.ops, renewal.Ops, end.Ops, more, stored, []store.Op{mail})...)
	g.Sessions.Ended(ctx, end, err)
	g.Book.Renewed(ctx, err)
	if err != nil {
		return err
	}
	g.Audit.Record(ctx, event)
	g.Queue.Wake(id)
	return nil
}
