package account

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	minForSearch = 10 // number of companies from which there is a search field
	maxShown     = 50
)

// GetCompanies lists the visitor's companies with links to their pages.
func (h *Handlers) GetCompanies(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	query := strings.TrimSpace(r.URL.Query().Get("q"))
	all, total, err := h.companiesOf(r, v, query)
	if err != nil {
		return err
	}
	page := web.CompaniesPage{Email: v.Contact.Emails[0].Display(), Query: query, None: total == 0, More: len(all) > maxShown}
	page.Search = total >= minForSearch && (len(all) > 0 || query != "")
	unread, err := h.Unread.Of(r.Context(), v.Contact.ID)
	if err != nil {
		return err
	}
	for _, c := range all[:min(len(all), maxShown)] {
		row := web.CompanyRow{Name: c.Name, URL: h.Legacy.Page(c.ID)}
		if latest, ok := unread[c.ID]; ok {
			row.Notice, row.NoticeAt = latest.Kind, latest.At.Local()
		}
		page.Companies = append(page.Companies, row)
	}
	if page.Reports, err = h.reportsLink(r.Context(), v); err != nil {
		return err
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// companiesOf returns the companies that match the query, sorted by name, and the total number of
// the visitor's companies (for staff: a lower bound).
func (h *Handlers) companiesOf(r *http.Request, v *visitor.Visitor, query string) (found []directory.Company, total int, err error) {
	if v.Contact.Role == directory.Staff {
		found, err = h.Directory.Companies(r.Context(), query, "", maxShown+1)
		return found, max(len(found), minForSearch), err
	}
	for _, id := range v.Contact.Companies {
		c, err := h.Directory.Company(r.Context(), id)
		switch {
		case errors.Is(err, directory.ErrUnknown):
		case err != nil:
			return nil, 0, err
		case nameMatches(c.Name, query):
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b directory.Company) int {
		return strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return found, len(v.Contact.Companies), nil
}

// nameMatches reports whether a name contains each word of the query, in any case.
func nameMatches(name, query string) bool {
	name = strings.ToLower(name)
	for word := range strings.FieldsSeq(strings.ToLower(query)) {
		if !strings.Contains(name, word) {
			return false
		}
	}
	return true
}
