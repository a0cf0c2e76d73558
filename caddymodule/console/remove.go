package console

import (
	"cmp"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetRemove asks whether a contact is to be removed, and says what that ends.
func (h *Handlers) GetRemove(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	return h.askRemove(w, r, web.OnlyValue(r.URL.Query()["id"]), nil)
}

// PostRemove removes a contact who is as the visitor saw them.
func (h *Handlers) PostRemove(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	c, err := h.contact(r.Context(), get("id"))
	if err != nil {
		return err
	}
	if get("version") == "" {
		return web.ErrBadForm
	}
	_, err = admin.Do(r.Context(), h.Firm, by, "contacts/remove", admin.Firm.RemoveContact, admin.RemoveContact{Email: string(c.Email()), Version: get("version")})
	if err != nil {
		return h.askRemove(w, r, c.ID, err)
	}
	return h.Answers.SeeOwn(w, "/staff/contacts?done=remove")
}

// askRemove shows the question. failed is why the contact wasn't removed; nil: they weren't to be yet.
func (h *Handlers) askRemove(w http.ResponseWriter, r *http.Request, id string, failed error) error {
	problem, err := problemOf(failed)
	if err != nil {
		return err
	}
	c, err := h.contact(r.Context(), id)
	if err != nil {
		return err
	}
	sessions, err := h.Firm.Sessions.List(r.Context(), c.ID, c.Generation)
	if err != nil {
		return err
	}
	companies, err := h.companiesOf(r.Context(), c)
	if err != nil {
		return err
	}
	page := web.StaffRemovePage{ID: c.ID, Name: cmp.Or(c.Name(), c.Email().Display()), Email: c.Email().Display(), Version: c.Version(), Sessions: len(sessions)}
	for _, company := range companies {
		page.Companies = append(page.Companies, company.Name)
	}
	status := http.StatusOK
	if failed != nil {
		status = http.StatusConflict
		if page.Changed = admin.ErrorOf(failed).Code == "changed"; !page.Changed {
			page.Failed = problem
		}
	}
	h.Answers.Page(w, r, status, page)
	return nil
}
