package console

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetAdd shows the form that adds a contact.
func (h *Handlers) GetAdd(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	h.Answers.Page(w, r, http.StatusOK, web.StaffAddPage{})
	return nil
}

// PostAdd adds a contact, and leads to its page.
func (h *Handlers) PostAdd(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	page := web.StaffAddPage{Address: strings.TrimSpace(get("email")), First: strings.TrimSpace(get("first")), Last: strings.TrimSpace(get("last")), Company: strings.TrimSpace(get("company"))}
	change := directory.Change{Email: &page.Address, FirstName: &page.First, LastName: &page.Last}
	if page.Company != "" {
		change.Companies = &[]string{page.Company}
	}
	out, err := admin.Do(r.Context(), h.Firm, by, "contacts/add", admin.Firm.AddContact, change)
	if err != nil {
		switch admin.ErrorOf(err).Field {
		case "email":
			page.Wrong = "email"
		case "companies":
			page.Wrong = "company"
		}
		if page.Problem, err = problemOf(err); err != nil {
			return err
		}
		h.Answers.Page(w, r, http.StatusConflict, page)
		return nil
	}
	return h.Answers.SeeOwn(w, "/staff/contact?id="+out.Contact.ID+"&done=add")
}
