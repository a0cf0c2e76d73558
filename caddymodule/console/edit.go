package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// formField is a field of the form that changes a contact.
type formField struct {
	name   string // in the form
	column string // in an admin.Error
	label  string
	of     func(directory.Contact) string
	set    func(*directory.Change, string)
}

var formFields = []formField{
	{"first", "first_name", "First name", func(c directory.Contact) string { return c.FirstName }, func(d *directory.Change, v string) { d.FirstName = &v }},
	{"last", "last_name", "Last name", func(c directory.Contact) string { return c.LastName }, func(d *directory.Change, v string) { d.LastName = &v }},
	{"email", "email", "Main email address", func(c directory.Contact) string { return c.Email().Display() }, func(d *directory.Change, v string) { d.Email = &v }},
	{"phone", "phone", "Phone", func(c directory.Contact) string { return c.Phone }, func(d *directory.Change, v string) { d.Phone = &v }},
	{"texts", "texts", "Text messages", textsOf, func(d *directory.Change, v string) { d.Texts = &v }},
	{"locale", "locale", "Language", func(c directory.Contact) string { return c.Locale }, func(d *directory.Change, v string) { d.Locale = &v }},
	{"role", "role", "Role", func(c directory.Contact) string { return string(c.Role) }, func(d *directory.Change, v string) { d.Role = (*directory.Role)(&v) }},
}

func textsOf(c directory.Contact) string {
	if c.NoTexts {
		return "off"
	}
	return "on"
}

// errGone is the answer where a contact was removed since the page before was shown.
var errGone = &web.Failure{Status: http.StatusNotFound, Page: web.MessagePage{Title: "This contact isn’t there any more",
	Text: "Somebody has removed them meanwhile, so nothing was changed.", Link: "See the contacts"}}

// contact returns the contact with an ID.
func (h *Handlers) contact(ctx context.Context, id string) (directory.Contact, error) {
	c, err := h.Firm.Directory.ByID(ctx, id)
	if errors.Is(err, directory.ErrUnknown) {
		gone := *errGone
		gone.Page.URL = h.Answers.Prefix + "/staff/contacts"
		return c, &gone
	}
	return c, err
}

// savedAs maps the parameter done of the page's URL to the message after a change.
var savedAs = map[string]string{
	"save":           "The changes are saved.",
	"add-email":      "They can sign in with that address now.",
	"remove-email":   "That address is taken away, and they are signed out everywhere.",
	"add-company":    "They belong to that company now.",
	"remove-company": "They don’t belong to that company any more.",
}

// GetEdit shows the form that changes a contact.
func (h *Handlers) GetEdit(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	query := r.URL.Query()
	c, err := h.contact(r.Context(), web.OnlyValue(query["id"]))
	if err != nil {
		return err
	}
	page, err := h.editPage(r.Context(), c)
	if err != nil {
		return err
	}
	page.Done = savedAs[web.OnlyValue(query["done"])]
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// editPage is the form with a contact's values.
func (h *Handlers) editPage(ctx context.Context, c directory.Contact) (web.StaffEditPage, error) {
	was := map[string]string{}
	for _, f := range formFields {
		was[f.name] = f.of(c)
	}
	kept, err := json.Marshal(was)
	if err != nil {
		return web.StaffEditPage{}, err
	}
	page := web.StaffEditPage{ID: c.ID, Name: cmp.Or(c.Name(), c.Email().Display()), Version: c.Version(), Was: string(kept), RoleFixed: slices.ContainsFunc(c.Emails, h.Firm.Directory.NamesStaff)}
	h.fill(&page, was)
	for _, a := range c.Emails[1:] {
		page.Others = append(page.Others, a.Display())
	}
	page.Companies, err = h.companiesOf(ctx, c)
	return page, err
}

// fill puts the values of the fields into the form.
func (h *Handlers) fill(page *web.StaffEditPage, values map[string]string) {
	page.First, page.Last, page.Email, page.Phone = values["first"], values["last"], values["email"], values["phone"]
	page.CanText, page.NoTexts = h.Firm.SendsTexts(), values["texts"] == "off"
	page.Staff, page.Locales = values["role"] == string(directory.Staff), h.locales(values["locale"])
}

var languageNames = map[string]string{"": "As their browser asks", "en": "English", "es": "Español", "fr": "Français"}

// locales lists the languages that a contact may choose from.
func (h *Handlers) locales(chosen string) (rows []web.LocaleRow) {
	tags := append([]string{""}, h.Answers.Pages.Languages()...)
	if !slices.Contains(tags, chosen) {
		tags = append(tags, chosen)
	}
	for _, tag := range tags {
		rows = append(rows, web.LocaleRow{Tag: tag, Name: cmp.Or(languageNames[tag], tag), Chosen: tag == chosen})
	}
	return rows
}

// companiesOf returns the companies that a contact belongs to.
func (h *Handlers) companiesOf(ctx context.Context, c directory.Contact) (rows []web.CompanyNameRow, err error) {
	for _, id := range c.Companies {
		company, err := h.Firm.Directory.Company(ctx, id)
		if errors.Is(err, directory.ErrUnknown) {
			continue
		} else if err != nil {
			return nil, err
		}
		rows = append(rows, web.CompanyNameRow{ID: id, Name: cmp.Or(company.Name, id)})
	}
	return rows, nil
}

// PostEdit changes a contact. What was typed into fields that the visitor left as they were is no change.
func (h *Handlers) PostEdit(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	ctx, do, value := r.Context(), get("do"), strings.TrimSpace(get("value"))
	c, err := h.contact(ctx, get("id"))
	if err != nil {
		return err
	}
	var change directory.Change
	typed, wrong := map[string]string{}, ""
	switch do {
	case "save":
		var was map[string]string
		if err := json.Unmarshal([]byte(get("was")), &was); err != nil {
			return web.ErrBadForm
		}
		if typed, change = edited(get, was); len(typed) == 0 {
			return h.Answers.SeeOwn(w, "/staff/contact?id="+c.ID)
		}
		change.Version = get("version")
	case "add-email":
		change.AddEmails, wrong = []string{value}, "other"
	case "remove-email":
		change.RemoveEmails, wrong = []string{value}, "other"
	case "add-company":
		change.AddCompanies, wrong = []string{value}, "company"
	case "remove-company":
		change.RemoveCompanies, wrong = []string{value}, "company"
	default:
		return web.ErrBadForm
	}
	_, err = admin.Do(ctx, h.Firm, by, "contacts/set", admin.Firm.SetContact, admin.SetContact{Email: string(c.Email()), Change: change})
	switch {
	case err == nil && do == "save":
		return h.Answers.SeeOwn(w, "/staff/contact?id="+c.ID+"&done=save")
	case err == nil:
		return h.Answers.SeeOwn(w, "/staff/edit?id="+c.ID+"&done="+do)
	}
	return h.editAgain(w, r, c.ID, get, typed, wrong, err)
}

// edited returns the values that the visitor has changed, by the field's name, and the change that they make.
func edited(get func(string) string, was map[string]string) (typed map[string]string, change directory.Change) {
	typed = map[string]string{}
	for _, f := range formFields {
		v := strings.TrimSpace(get(f.name))
		if f.name == "role" {
			v = cmp.Or(v, string(directory.Client)) // a box that isn't checked isn't sent
		}
		if f.name == "texts" {
			v = cmp.Or(v, was[f.name]) // the form has it only where texts are sent
		}
		if v != was[f.name] {
			typed[f.name] = v
			f.set(&change, v)
		}
	}
	return typed, change
}

// editAgain shows the form again, with what was typed: why it wasn't saved, or what somebody else has changed meanwhile.
func (h *Handlers) editAgain(w http.ResponseWriter, r *http.Request, id string, get func(string) string, typed map[string]string, wrong string, failed error) error {
	problem, err := problemOf(failed)
	if err != nil {
		return err
	}
	e := admin.ErrorOf(failed)
	c, err := h.contact(r.Context(), id)
	if err != nil {
		return err
	}
	page, err := h.editPage(r.Context(), c)
	if err != nil {
		return err
	}
	values := map[string]string{}
	for _, f := range formFields {
		values[f.name] = f.of(c)
		if v, ok := typed[f.name]; ok {
			values[f.name] = v
		}
		if wrong == "" && f.column == e.Field {
			page.Wrong = f.name
		}
	}
	h.fill(&page, values)
	if e.Code != "changed" {
		page.Problem, page.Wrong, page.Value = problem, cmp.Or(wrong, page.Wrong), get("value")
		if get("version") != "" { // what was seen hasn't changed by this
			page.Version, page.Was = get("version"), get("was")
		}
		h.Answers.Page(w, r, http.StatusConflict, page)
		return nil
	}
	var was map[string]string
	if err := json.Unmarshal([]byte(get("was")), &was); err != nil {
		return web.ErrBadForm
	}
	for _, f := range formFields {
		if now := f.of(c); now != was[f.name] {
			page.Changed = append(page.Changed, web.ChangedRow{Label: f.label, Was: was[f.name], Now: now, Typed: typed[f.name]})
		}
	}
	if len(page.Changed) == 0 {
		page.Changed = []web.ChangedRow{{Label: "Their addresses, companies or state", Now: "as shown here"}}
	}
	h.Answers.Page(w, r, http.StatusConflict, page)
	return nil
}
