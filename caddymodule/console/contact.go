package console

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// looksBack is how far back the pages tell what happened, and how they say it.
const (
	looksBack      = 30 * 24 * time.Hour
	looksBackWords = "30 days"
)

// GetContact shows what happened to a contact, and what to do.
func (h *Handlers) GetContact(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	query := r.URL.Query()
	email, err := h.emailOf(r.Context(), web.OnlyValue(query["id"]))
	if err != nil {
		return err
	}
	return h.show(w, r, http.StatusOK, email, said[web.OnlyValue(query["done"])], nil)
}

// emailOf returns the main address of a contact.
func (h *Handlers) emailOf(ctx context.Context, id string) (string, error) {
	c, err := h.Firm.Directory.ByID(ctx, id)
	if errors.Is(err, directory.ErrUnknown) {
		return "", web.ErrNotFound
	}
	return string(c.Email()), err
}

// PostLook shows what is known of an address, which may be nobody's. It is in no URL.
func (h *Handlers) PostLook(w http.ResponseWriter, r *http.Request) error {
	f, err := h.read(w, r)
	if err != nil {
		return err
	}
	if _, err := h.staff(r); err != nil {
		return err
	}
	return h.show(w, r, http.StatusOK, f.Get("email"), "", nil)
}

// ToHome leads a tab that is loaded again after a form back to the home page.
func (h *Handlers) ToHome(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	return h.Answers.SeeOwn(w, "/staff/")
}

// show shows what happened around an address. failed is why what was to be done wasn't; nil: nothing failed.
func (h *Handlers) show(w http.ResponseWriter, r *http.Request, status int, email, done string, failed error) error {
	ctx, now := r.Context(), h.Now()
	page := web.StaffContactPage{Email: email, Done: done, Passwords: !h.Firm.NoPasswords}
	problem, err := problemOf(failed)
	if err != nil {
		return err
	}
	page.Failed = problem
	t, err := h.Firm.Timeline(ctx, admin.TimelineOf{Email: email, Since: now.Add(-looksBack)})
	if err != nil {
		if page.Failed, err = problemOf(err); err != nil { // such as what is no address
			return err
		}
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	page.Email, page.Story, page.Sessions = t.Email, explain.Story(t.Events, now), t.Sessions
	if t.Contact != nil {
		row, err := h.rowOf(ctx, *t.Contact)
		if err != nil {
			return err
		}
		page.Contact, page.Phone = &row, t.Contact.Phone
		link, err := h.Firm.LastingLink(ctx, admin.ByEmail{Email: t.Email})
		if err != nil {
			return err
		}
		page.Link = link.Link
		for _, a := range t.Contact.Emails {
			page.Emails = append(page.Emails, a.Display())
		}
	}
	for _, line := range explain.Advise(t, looksBackWords, now) {
		row, err := h.adviceRow(ctx, line)
		if err != nil {
			return err
		}
		page.Advice = append(page.Advice, row)
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

// buttons has the labels of the steps of an advice, and of their fields.
var buttons = map[explain.Action]struct{ button, field string }{
	explain.Enable:        {"Let them in again", ""},
	explain.GiveCompany:   {"Add them to this company", "The company’s name"},
	explain.AddAddress:    {"Add this address to the contact", ""},
	explain.ChangeAddress: {"Use this address instead", "Their new address"},
	explain.Add:           {"Make this address a new contact", ""},
	explain.Look:          {"Look", ""},
}

// adviceRow is a sentence of an advice with the button that does what it says.
func (h *Handlers) adviceRow(ctx context.Context, line explain.Line) (web.AdviceRow, error) {
	row := web.AdviceRow{Text: line.Text, Email: line.Step.Email}
	b, ok := buttons[line.Step.Do]
	if !ok {
		if line.Step.Do == explain.Find {
			row.Text = "To look for the person, search by name on the page of contacts."
		}
		return row, nil
	}
	if line.Step.Contact != "" {
		c, err := h.Firm.Directory.ByEmail(ctx, address.Address(line.Step.Contact))
		if errors.Is(err, directory.ErrUnknown) {
			return row, nil // gone meanwhile
		} else if err != nil {
			return row, err
		}
		row.ID = c.ID
	}
	row.Do, row.Button, row.Field = string(line.Step.Do), b.button, b.field
	return row, nil
}

// said maps the parameter done of the page's URL to the message after a change.
var said = map[string]string{
	"save":           "The changes are saved.",
	"enable":         "They can sign in again. Let them ask for a new email.",
	"disable":        "They are signed out everywhere, and kept out.",
	"give-company":   "They belong to that company now.",
	"add-address":    "They can sign in with that address now. Let them ask for an email with it.",
	"change-address": "They sign in with the new address now. Let them ask for an email with it.",
	"add":            "They are a contact now. Let them ask for an email.",
	"mail-link":      "An email with their lasting link is on its way to them.",
	"password-link":  "An email with a link to set a password is on its way to them. It is good for a day.",
	"sign-out":       "They are signed out everywhere.",
}

// PostContact does what a button says.
func (h *Handlers) PostContact(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	ctx, do := r.Context(), get("do")
	email := get("email")
	if id := get("id"); id != "" {
		if email, err = h.emailOf(ctx, id); err != nil {
			return err
		}
	}
	if do == string(explain.Look) {
		return h.Answers.SeeOwn(w, "/staff/contact?id="+get("id"))
	}
	id, err := h.carryOut(ctx, by, do, email, get("email"), get("value"))
	if err != nil {
		return h.show(w, r, http.StatusConflict, email, "", err)
	}
	return h.Answers.SeeOwn(w, "/staff/contact?id="+id+"&done="+do)
}

// carryOut does something to the contact that has the first address, and returns the contact's ID.
func (h *Handlers) carryOut(ctx context.Context, by admin.By, do, email, other, value string) (id string, err error) {
	named := admin.ByEmail{Email: email}
	var out admin.ContactChanged
	switch do {
	case "enable":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/enable", admin.Firm.EnableContact, named)
	case "disable":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/disable", admin.Firm.DisableContact, named)
	case "sign-out":
		out, err = admin.Do(ctx, h.Firm, by, "sessions/revoke", admin.Firm.RevokeSessions, named)
	case "add":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/add", admin.Firm.AddContact, directory.Change{Email: &email})
	case "give-company":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/set", admin.Firm.SetContact, admin.SetContact{Email: email, Change: directory.Change{AddCompanies: []string{value}}})
	case "add-address":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/set", admin.Firm.SetContact, admin.SetContact{Email: email, Change: directory.Change{AddEmails: []string{other}}})
	case "change-address":
		out, err = admin.Do(ctx, h.Firm, by, "contacts/set", admin.Firm.SetContact, admin.SetContact{Email: email, Change: directory.Change{Email: &value}})
	case "mail-link":
		sent, err := admin.Do(ctx, h.Firm, by, "contacts/link", admin.Firm.MailLink, named)
		return sent.Contact.ID, err
	case "password-link":
		sent, err := admin.Do(ctx, h.Firm, by, "reset-link", admin.Firm.ResetLink, named)
		return sent.Contact.ID, err
	default:
		return "", web.ErrBadForm
	}
	return out.Contact.ID, err
}
