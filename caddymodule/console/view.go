package console

import (
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	// searchFrom is the number of companies from which a contact's list has a search field.
	searchFrom = 10
	// companiesShown is how many companies a contact's list shows.
	companiesShown = 50
)

// views are the pages of a contact that staff can look at, by their name in the URL.
var views = []struct{ name, label string }{{"prompt", "The sign-in page"}, {"companies", "Their companies"}}

// GetView shows what a contact sees, in a frame.
func (h *Handlers) GetView(w http.ResponseWriter, r *http.Request) error {
	c, name, err := h.viewOf(r)
	if err != nil {
		return err
	}
	page := web.StaffViewPage{ID: c.Contact.ID, Name: nameOf(c.Contact), Shown: name}
	for _, v := range views {
		page.Views = append(page.Views, web.Option{Value: v.name, Label: v.label})
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// GetViewFrame shows a page as a contact sees it, without anything that can be pressed. Nobody is signed in by it.
func (h *Handlers) GetViewFrame(w http.ResponseWriter, r *http.Request) error {
	c, name, err := h.viewOf(r)
	if err != nil {
		return err
	}
	var page web.Page = web.PromptPage{Email: c.Contact.Email().Display()}
	if name == "companies" {
		page = companiesAs(c)
	}
	return h.Answers.Pages.WriteInert(w, page, c.Contact.Locale)
}

// viewOf returns what the contact sees whom the URL names, and which page of it is asked for.
func (h *Handlers) viewOf(r *http.Request) (c admin.ContactView, name string, err error) {
	if _, err := h.staff(r); err != nil {
		return c, "", err
	}
	query := r.URL.Query()
	c, err = h.Firm.ViewAs(r.Context(), web.OnlyValue(query["id"]))
	if err != nil && admin.ErrorOf(err).Status == http.StatusNotFound {
		err = web.ErrNotFound
	}
	name = views[0].name
	for _, v := range views {
		if v.name == web.OnlyValue(query["page"]) {
			name = v.name
		}
	}
	return c, name, err
}

// companiesAs is the list of companies as the contact sees it.
func companiesAs(c admin.ContactView) web.CompaniesPage {
	page := web.CompaniesPage{Email: c.Contact.Email().Display(), None: len(c.Companies) == 0, Search: len(c.Companies) >= searchFrom, More: len(c.Companies) > companiesShown,
		Reports: web.ReportsLink{There: c.Reports, Unread: c.Unread}}
	for _, one := range c.Companies[:min(len(c.Companies), companiesShown)] {
		row := web.CompanyRow{Name: one.Name, URL: "/"}
		if one.Notice != nil {
			row.Notice, row.NoticeAt = one.Notice.Kind, one.Notice.At.Local()
		}
		page.Companies = append(page.Companies, row)
	}
	return page
}
