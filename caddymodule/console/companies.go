package console

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// doneTo says what was done with a company's old links, by the word in the URL.
var doneTo = map[string]string{
	"upgrade": "Its old links ask who is there from now on.",
	"undo":    "Its old links open without asking again.",
}

// GetCompanies lists companies with the state of their old links.
func (h *Handlers) GetCompanies(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	query := r.URL.Query()
	return h.listCompanies(w, r, http.StatusOK, web.StaffCompaniesPage{Query: strings.TrimSpace(web.OnlyValue(query["q"])), Done: doneTo[web.OnlyValue(query["done"])]},
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

// PostCompanies shows what an upgrade would do, does it, or undoes it.
func (h *Handlers) PostCompanies(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	ctx, do := r.Context(), get("do")
	in := admin.Upgrade{Companies: []string{get("id")}, Undo: do == "undo", DryRun: do == "look"}
	switch do {
	case "look", "upgrade", "undo":
	default:
		return web.ErrBadForm
	}
	out, err := admin.Do(ctx, h.Firm, by, "upgrade", admin.Firm.Upgrade, in)
	problem, err := problemOf(err)
	switch {
	case err != nil:
		return err
	case problem != "":
		return h.listCompanies(w, r, http.StatusConflict, web.StaffCompaniesPage{Failed: problem}, "")
	case do == "look":
		h.Answers.Page(w, r, http.StatusOK, upgradePage(get("id"), out))
		return nil
	case len(out.Refused) > 0:
		return h.listCompanies(w, r, http.StatusConflict, web.StaffCompaniesPage{Failed: "Nobody who may sign in belongs to this company, so it wasn’t upgraded. Add a contact first."}, "")
	}
	return h.Answers.SeeOwn(w, "/staff/companies?done="+do)
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
