package console

import (
	"crypto/rand"
	"net/http"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// GetAnnounce shows how far the latest announcement is, and the form that begins one, perhaps for the contacts of a company.
func (h *Handlers) GetAnnounce(w http.ResponseWriter, r *http.Request) error {
	return h.showAnnounce(w, r, web.StaffAnnouncePage{Company: web.OnlyValue(r.URL.Query()["company"])})
}

func (h *Handlers) showAnnounce(w http.ResponseWriter, r *http.Request, page web.StaffAnnouncePage) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	ctx := r.Context()
	status, err := h.Firm.AnnounceStatus(ctx, struct{}{})
	if err != nil {
		return err
	}
	if a := status.Announcement; a != nil {
		page.State, page.Progress, page.Left, page.Begun = a.State, explain.Progress(*a), explain.TimeLeft(*a, h.Now()), a.Begun.Local()
		page.Sent, page.All = a.Sent, a.Queued+a.Remaining
		for _, u := range a.Unsent {
			page.Unsent = append(page.Unsent, web.UnsentRow{ID: u.Contact, Text: explain.NotSent(u)})
		}
	}
	if page.Company != "" {
		c, err := h.Firm.Directory.Company(ctx, page.Company)
		if err != nil {
			return web.ErrNotFound
		}
		page.CompanyName = c.Name
	}
	code := http.StatusOK
	if page.Failed != "" {
		code = http.StatusConflict
	}
	h.Answers.Page(w, r, code, page)
	return nil
}

// PostAnnounce shows who would be told, begins an announcement, stops it, or goes on with it.
func (h *Handlers) PostAnnounce(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	page := web.StaffAnnouncePage{Company: get("company")}
	in := admin.Announce{Again: get("again") != "", Key: get("key"), DryRun: get("do") == "look", Resume: get("do") == "resume"}
	if page.Company != "" && !in.Resume {
		in.Companies = []string{page.Company}
	}
	switch get("do") {
	case "look", "begin", "resume":
		var out admin.Announced
		out, err = admin.Do(ctx, h.Firm, by, "announce", admin.Firm.Announce, in)
		if err == nil && out.Plan != nil {
			page.Plan = planOf(out.Plan)
			page.Plan.Again, page.Plan.Key = in.Again, "staff-"+rand.Text()
			return h.showAnnounce(w, r, page)
		}
	case "stop":
		_, err = admin.Do(ctx, h.Firm, by, "announce/stop", admin.Firm.AnnounceStop, struct{}{})
	default:
		return web.ErrBadForm
	}
	if page.Failed, err = problemOf(err); err != nil {
		return err
	}
	if page.Failed != "" {
		return h.showAnnounce(w, r, page)
	}
	return h.Answers.SeeOwn(w, "/staff/announce")
}

func planOf(p *admin.Plan) *web.AnnouncePlan {
	out := &web.AnnouncePlan{Contacts: p.Contacts, Skipped: explain.SkippedContacts(p.Skipped)}
	for _, c := range p.First {
		out.First = append(out.First, strings.TrimSpace(c.Name+" "+c.Email))
	}
	return out
}
