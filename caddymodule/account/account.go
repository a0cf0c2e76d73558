// Package account has the pages on which signed-in visitors manage their own access: the account
// page with their devices (account.go), their password (password.go), their companies
// (companies.go), the reports that were published for them (reports.go) and signing out
// (signout.go).
//
// The gate's route table names the handlers. The gate turns the errors that they return into pages;
// visitor.ErrNone becomes the prompt.
package account

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/notice"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/wayback"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// Handlers serves one firm's pages for signed-in visitors. Set its fields in one literal before
// use.
type Handlers struct {
	Answers  *web.Answers
	Ways     *wayback.Ways
	Visitors *visitor.Visitors
	Cookies  web.Cookies

	Directory *directory.Directory
	Legacy    *legacy.Rules // has the pages of companies; nil if there are none
	Sessions  *session.Sessions
	Tokens    *token.Tokens
	Passwords *password.Passwords // nil if the firm has no passwords
	Reports   *reports.Reports
	Audit     *audit.Log
	Unread    *notice.Unread // nil if contacts get no notices
	Now       func() time.Time

	Attempts *action.PasswordAttempts // nil without Passwords
	Changes  *action.PasswordChanges  // nil without Passwords
}

// ToAccount redirects a tab that is reloaded after a form of the account page back to that page.
func (h *Handlers) ToAccount(w http.ResponseWriter, _ *http.Request) error {
	return h.Answers.SeeOwn(w, "/account")
}

// justSet is how long the account page reports that a password was set.
const justSet = 5 * time.Minute

// done maps the parameter done of the account page's URL to the message after a change.
var done = map[string]web.Text{
	"set":     "Your password is set. You’re signed out everywhere else.",
	"removed": "Your password is removed. You now sign in with a link we email you. You’re signed out everywhere else.",
	"out":     "That device is signed out.",
	"others":  "You’re signed out everywhere else.",
}

// GetAccount shows visitors their own data and devices.
func (h *Handlers) GetAccount(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	said, err := h.doneMessage(r.Context(), v, web.OnlyValue(r.URL.Query()["done"]))
	if err != nil {
		return err
	}
	return h.showAccount(w, r, v, http.StatusOK, web.AccountPage{Done: said})
}

// doneMessage returns the message for the parameter done. Anybody can link to that URL, so messages
// about a password appear only if they are true.
func (h *Handlers) doneMessage(ctx context.Context, v *visitor.Visitor, word string) (web.Text, error) {
	if word != "set" && word != "removed" {
		return done[word], nil
	}
	if h.Passwords == nil {
		return "", nil
	}
	state, err := h.Passwords.State(ctx, v.Contact.ID)
	if err != nil || state.Has() != (word == "set") || state.Has() && h.Now().Sub(state.Since).Abs() > justSet {
		return "", err
	}
	return done[word], nil
}

// showAccount shows the account page with the messages in page.
func (h *Handlers) showAccount(w http.ResponseWriter, r *http.Request, v *visitor.Visitor, status int, page web.AccountPage) error {
	ctx := r.Context()
	page.Name, page.Staff = v.Contact.Name(), v.IsStaff()
	for _, a := range v.Contact.Emails {
		page.Emails = append(page.Emails, a.Display())
	}
	if v.Contact.Role != directory.Staff { // staff reach all of them
		companies, _, err := h.companiesOf(r, v, "")
		if err != nil {
			return err
		}
		page.More = len(companies) > maxShown
		for _, c := range companies[:min(len(companies), maxShown)] {
			page.Companies = append(page.Companies, web.CompanyRow{Name: c.Name, URL: h.Legacy.Page(c.ID)})
		}
	}
	var err error
	if page.Reports, err = h.reportsLink(ctx, v); err != nil {
		return err
	}
	sessions, err := h.Sessions.List(ctx, v.Contact.ID, v.Contact.Generation)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		page.Devices = append(page.Devices, web.DeviceRow{Handle: s.Handle, Agent: s.Agent, First: s.Begun.Local(), Last: s.Seen.Local(), Here: s.ID == v.Live.ID})
	}
	if h.Passwords != nil {
		state, err := h.Passwords.State(ctx, v.Contact.ID)
		if err != nil {
			return err
		}
		page.Since, page.Least = state.Since, h.Passwords.RequiredLength()
		page.ByLink = state.Has() && !state.Chosen
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

// PostDevices signs out one device, or all others.
func (h *Handlers) PostDevices(w http.ResponseWriter, r *http.Request) error {
	f, err := web.ReadForm(w, r)
	if err != nil {
		return err
	}
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	if f.Get("others") != "" {
		n, err := action.RevokeOthers(ctx, h.Directory, h.Sessions, v.Contact.ID, v.Live.ID)
		if errors.Is(err, store.ErrConflict) {
			return web.ErrConflict
		} else if err != nil {
			return err
		}
		if n > 0 {
			h.Audit.Record(ctx, audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Agent: web.AgentOf(r), IP: h.Visitors.ClientIP(r), Count: n})
		}
		return h.Answers.SeeOwn(w, "/account?done=others")
	}
	sessions, err := h.Sessions.List(ctx, v.Contact.ID, v.Contact.Generation) // only this contact's, so nobody can sign out others
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Handle != f.Get("handle") {
			continue
		}
		if err := h.Sessions.End(ctx, v.Contact.ID, s.ID); err != nil {
			return err
		}
		h.Audit.Record(ctx, audit.Event{Kind: audit.SignedOut, Contact: v.Contact.ID, Session: s.Handle, Agent: s.Agent, IP: h.Visitors.ClientIP(r)})
		if s.ID == v.Live.ID {
			h.Answers.ClearSite(w.Header())
		}
	}
	return h.Answers.SeeOwn(w, "/account?done=out")
}
