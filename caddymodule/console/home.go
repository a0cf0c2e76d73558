package console

import (
	"fmt"
	"net/http"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

const (
	// strangersAtOnce is how many addresses that are nobody's the home page lists.
	strangersAtOnce = 20
	// overviewPatience is how long the home page waits for numbers.
	overviewPatience = 60 * time.Millisecond
)

// GetHome shows whom to help, what needs attention, and how far the move from old links is.
func (h *Handlers) GetHome(w http.ResponseWriter, r *http.Request) error {
	v, err := h.staff(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	page := web.StaffPage{Email: v.Contact.Email().Display()}
	o, err := h.Overviews.Get(ctx, overviewPatience)
	if o.At.IsZero() && err != nil {
		return err
	}
	if !o.At.IsZero() {
		page.Overview = overviewOf(o)
		page.Attention = attentionOf(o)
	}
	strangers, err := h.Firm.ListStrangers(ctx, struct{}{})
	if err != nil {
		return err
	}
	for _, s := range strangers.Addresses[:min(len(strangers.Addresses), strangersAtOnce)] {
		page.Strangers = append(page.Strangers, web.StrangerRow{Address: s.Address.Display(), Count: s.Count, Last: s.Last.Local()})
	}
	if down, ok := h.Firm.Queue.Outage(); ok {
		page.Waits, page.Advice = explain.Printable(down.Reason), outbox.Advice(down.Reason)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

func overviewOf(o admin.Overview) *web.StaffOverview {
	return &web.StaffOverview{At: o.At.Local(), Contacts: o.Contacts, SignedIn: o.SignedIn, Companies: o.Companies, Linked: o.Linked, Upgraded: o.Upgraded,
		Weeks: chartOf(o.Weeks), Sent: o.Sent, NotSent: o.NotSent}
}

// attentionOf returns what somebody ought to look after.
func attentionOf(o admin.Overview) (rows []web.AttentionRow) {
	if o.Unsent > 0 {
		rows = append(rows, web.AttentionRow{Text: explain.Count(o.Unsent, "email", "emails") + " failed in the last two days.", Links: []web.PageLink{{Path: "/staff/emails", Label: "See why"}}})
	}
	if o.Empty > 0 && o.Contacts > 0 {
		row := web.AttentionRow{Text: explain.Count(o.Empty, "company has", "companies have") + " no contact who may sign in, so nobody gets to " + explain.Plural(o.Empty, "its", "their") + " pages after a sign-in."}
		for _, c := range o.Some {
			row.Links = append(row.Links, web.PageLink{Path: "/staff/company?id=" + c.ID, Label: c.Name})
		}
		if more := o.Empty - len(o.Some); more > 0 {
			row.More = fmt.Sprintf("and %d more", more)
		}
		rows = append(rows, row)
	}
	return rows
}
