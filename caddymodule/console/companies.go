package console

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetCompanies lists companies with the state of their old links.
func (h *Handlers) GetCompanies(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	query := r.URL.Query()
	return h.listCompanies(w, r, http.StatusOK, web.StaffCompaniesPage{Query: strings.TrimSpace(web.OnlyValue(query["q"]))},
		web.OnlyValue(query["after"]))
}

func (h *Handlers) listCompanies(w http.ResponseWriter, r *http.Request, status int, page web.StaffCompaniesPage, after string) error {
	in := admin.ListRequest{Text: page.Query, After: after, Limit: atOnce}
	list, err := h.Firm.ListCompanies(r.Context(), in)
	if err != nil {
		return err
	}
	used := map[string]admin.Used{}
	if h.Firm.Usage != nil {
		usage, err := h.Firm.LegacyUsage(r.Context(), in)
		if err != nil {
			return err
		}
		for _, u := range usage.Companies {
			used[u.ID] = u.Used
		}
	}
	page.Next = list.Next
	for _, c := range list.Companies {
		page.Companies = append(page.Companies, web.StaffCompanyRow{ID: c.ID, Name: c.Name, Links: c.LegacyLinks, Upgraded: c.State == upgradedState, Used: used[c.ID].Last.Local()})
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

// PostCompanies adds a company, and leads to its page.
func (h *Handlers) PostCompanies(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	page := web.StaffCompaniesPage{NewName: strings.TrimSpace(get("name")), NewID: strings.TrimSpace(get("id"))}
	if page.NewName == "" {
		page.Failed = "Please enter the company’s name."
		return h.listCompanies(w, r, http.StatusConflict, page, "")
	}
	out, err := admin.Do(r.Context(), h.Firm, by, "companies/add", admin.Firm.AddCompany, admin.AddCompany{ID: page.NewID, CompanyChange: directory.CompanyChange{Name: &page.NewName}})
	if page.Failed, err = problemOf(err); err != nil {
		return err
	}
	if page.Failed != "" {
		return h.listCompanies(w, r, http.StatusConflict, page, "")
	}
	return h.Answers.SeeOwn(w, "/staff/company?id="+out.Company.ID+"&done=add")
}

// upgradePage says what the upgrade of a company would do.
func upgradePage(id string, out admin.Upgraded) web.StaffUpgradePage {
	page := web.StaffUpgradePage{ID: id, Refused: len(out.Refused) > 0}
	for _, c := range append(out.Changed, out.Refused...) {
		page.ID, page.Name, page.Asked = c.ID, c.Name, c.Contacts
		if c.Used != nil {
			page.Recent, page.Programs = c.Recent.Hits, c.Recent.NotBrowsers
		}
	}
	return page
}
