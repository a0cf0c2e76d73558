package console

import (
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetDevices lists where contacts are signed in.
func (h *Handlers) GetDevices(w http.ResponseWriter, r *http.Request) error {
	done := ""
	if web.OnlyValue(r.URL.Query()["done"]) == "out" {
		done = "They are signed out."
	}
	return h.listDevices(w, r, web.StaffDevicesPage{Done: done})
}

// listDevices lists where the contacts that the page looks for are signed in.
func (h *Handlers) listDevices(w http.ResponseWriter, r *http.Request, page web.StaffDevicesPage) error {
	v, err := h.staff(r)
	if err != nil {
		return err
	}
	list, err := h.Firm.ListDevices(r.Context(), admin.ListRequest{Text: page.Query, After: page.After, Limit: atOnce})
	if err != nil {
		return err
	}
	page.Next = list.Next
	for _, c := range list.Contacts {
		owner := web.DeviceOwner{ID: c.Contact.ID, Name: c.Contact.Name(), Email: c.Contact.Email().Display(), Staff: c.Contact.Role == directory.Staff}
		for _, s := range c.Sessions {
			owner.Devices = append(owner.Devices, web.StaffDeviceRow{ID: s.ID, Agent: s.Agent, How: s.Method, Shared: s.Shared, Begun: s.BegunAt.Local(), Seen: s.SeenAt.Local(), Own: s.ID == v.Live.Handle})
		}
		page.Contacts = append(page.Contacts, owner)
	}
	status := http.StatusOK
	if page.Failed != "" {
		status = http.StatusConflict
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

// PostDevices looks for contacts, or signs out one browser or all browsers of a contact. What is looked for is in no URL:
// it may be an address.
func (h *Handlers) PostDevices(w http.ResponseWriter, r *http.Request) error {
	f, err := h.read(w, r)
	if err != nil {
		return err
	}
	page := web.StaffDevicesPage{Query: strings.TrimSpace(f.Get("q")), After: f.Get("after")}
	if f.Get("do") == "" {
		return h.listDevices(w, r, page)
	}
	by, err := h.changes(r)
	if err != nil {
		return err
	}
	ctx, id := r.Context(), f.Get("id")
	switch f.Get("do") {
	case "one":
		_, err = admin.Do(ctx, h.Firm, by, "sessions/revoke", admin.Firm.RevokeSession, admin.RevokeSession{Contact: id, Session: f.Get("session")})
	case "all":
		var email string
		if email, err = h.emailOf(ctx, id); err != nil {
			return err
		}
		_, err = admin.Do(ctx, h.Firm, by, "sessions/revoke", admin.Firm.RevokeSessions, admin.ByEmail{Email: email})
	default:
		return web.ErrBadForm
	}
	if err != nil {
		if page.Failed, err = problemOf(err); err != nil {
			return err
		}
		return h.listDevices(w, r, page)
	}
	if page.Query == "" && page.After == "" {
		return h.Answers.SeeOwn(w, "/staff/devices?done=out")
	}
	page.Done = "They are signed out."
	return h.listDevices(w, r, page)
}
