package console

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// reportsAtOnce is how many reports the page of a company lists.
const reportsAtOnce = 20

// doneToCompany says what was done with a company, by the word in the URL.
var doneToCompany = map[string]string{
	"add":            "The company is added.",
	"upgrade":        "Its old links ask who is there from now on.",
	"undo":           "Its old links open without asking again.",
	"rename":         "The name is changed.",
	"notify":         "The emails are on their way.",
	"notify-nobody":  "Nobody was told: none of them may sign in.",
	"publish":        "The report is published. Its contacts find it under Reports.",
	"publish-told":   "The report is published, and the emails about it are on their way.",
	"publish-untold": "The report is published, but the emails about it couldn’t be made. Tell them with the form above.",
	"remove-report":  "The report is removed.",
}

// GetCompany shows a company.
func (h *Handlers) GetCompany(w http.ResponseWriter, r *http.Request) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	query := r.URL.Query()
	return h.showCompany(w, r, web.OnlyValue(query["id"]), web.StaffCompanyPage{Done: doneToCompany[web.OnlyValue(query["done"])]})
}

// showCompany shows a company. page has what is to be said about the last action.
func (h *Handlers) showCompany(w http.ResponseWriter, r *http.Request, id string, page web.StaffCompanyPage) error {
	ctx := r.Context()
	c, err := h.Firm.ShowCompany(ctx, admin.ByID{ID: id})
	if err != nil {
		if admin.ErrorOf(err).Status == http.StatusNotFound {
			return web.ErrNotFound
		}
		return err
	}
	page.ID, page.Name, page.Version, page.Links, page.Upgraded = c.Company.ID, c.Company.Name, c.Company.Version, c.Company.LegacyLinks, c.Company.State == upgradedState
	if page.NewName == "" {
		page.NewName = page.Name
	}
	page.Use = web.OldLinkUse{Recent: c.Recent.Hits, Browsers: c.Recent.Browsers, AtLeast: c.Recent.MoreBrowsers, Programs: c.Recent.NotBrowsers,
		Last: localTime(c.Last), Since: localTime(c.CountedSince), Weeks: chartOf(c.Weeks)}
	for _, m := range c.Contacts {
		row := web.CompanyContactRow{ContactRow: web.ContactRow{ID: m.ID, Name: m.Name(), Email: m.Email().Display(), Disabled: m.Disabled}}
		if m.Unread != nil {
			row.Told = localTime(m.Unread.At)
		}
		page.Contacts = append(page.Contacts, row)
	}
	page.More = c.More
	if page.CanNotify = h.Firm.Notices != nil; page.CanNotify {
		page.Key, page.CanText = "staff-"+rand.Text(), h.Firm.SendsTexts()
		for _, name := range h.Firm.Notices.Messages.NoticeTemplates() {
			if name != "new-questions" {
				page.Templates = append(page.Templates, name)
			}
		}
	}
	list, err := h.Firm.ListReports(ctx, admin.ListReports{Company: c.Company.ID, Limit: reportsAtOnce})
	if err != nil {
		return err
	}
	page.MoreReports = list.Next != ""
	for _, rep := range list.Reports {
		page.Reports = append(page.Reports, web.StaffReportRow{ID: rep.ID, ReportRow: web.ReportRow{URL: h.Answers.Prefix + "/reports/" + rep.ID, Title: rep.Title,
			Kind: strings.ToUpper(strings.TrimPrefix(path.Ext(rep.File), ".")), Size: web.SizeInWords(rep.Size), Published: rep.PublishedAt.Local()}})
	}
	status := http.StatusOK
	if page.Failed != "" {
		status = http.StatusConflict
	}
	h.Answers.Page(w, r, status, page)
	return nil
}

// localTime is a time in the server's zone; the zero time stays what it is.
func localTime(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.Local()
}

func chartOf(weeks []usage.Week) web.WeekChart {
	var chart web.WeekChart
	for _, w := range weeks {
		chart = append(chart, web.WeekUse{Begin: w.Begin, People: max(0, w.Hits-w.NotBrowsers), Programs: w.NotBrowsers})
	}
	return chart
}

// PostCompany does what a button on a company's page says.
func (h *Handlers) PostCompany(w http.ResponseWriter, r *http.Request) error {
	by, get, err := h.mayChange(w, r)
	if err != nil {
		return err
	}
	ctx, id, do := r.Context(), get("id"), get("do")
	done := do
	page := web.StaffCompanyPage{}
	switch do {
	case "look", "upgrade", "undo":
		var out admin.Upgraded
		out, err = admin.Do(ctx, h.Firm, by, "upgrade", admin.Firm.Upgrade, admin.Upgrade{Companies: []string{id}, Undo: do == "undo", DryRun: do == "look"})
		switch {
		case err != nil:
		case do == "look":
			h.Answers.Page(w, r, http.StatusOK, upgradePage(id, out))
			return nil
		case len(out.Refused) > 0:
			page.Failed = "Nobody who may sign in belongs to this company, so it wasn’t upgraded. Add a contact first."
		}
	case "rename":
		page.NewName = strings.TrimSpace(get("name"))
		_, err = admin.Do(ctx, h.Firm, by, "companies/set", admin.Firm.SetCompany, admin.SetCompany{ID: id, Change: directory.CompanyChange{Name: &page.NewName, Version: get("version")}})
		if errors.Is(err, directory.ErrChanged) {
			page.Failed, err = "Somebody else has changed this company meanwhile. This is how it is now. If it shall have your name, press the button again.", nil
		}
	case "notify":
		var out admin.Notified
		if out, err = h.notify(ctx, by, id, get); err == nil && len(out.Queued) == 0 {
			done = "notify-nobody"
		}
	case "remove-report":
		_, err = admin.Do(ctx, h.Firm, by, "reports/remove", admin.Firm.RemoveReport, admin.ByReport{ID: get("report")})
	default:
		return web.ErrBadForm
	}
	if err != nil {
		if page.Failed, err = problemOf(err); err != nil {
			return err
		}
	}
	if page.Failed != "" {
		return h.showCompany(w, r, id, page)
	}
	return h.Answers.SeeOwn(w, "/staff/company?id="+id+"&done="+done)
}

// notify has contacts of a company told by email.
func (h *Handlers) notify(ctx context.Context, by admin.By, company string, get func(string) string) (admin.Notified, error) {
	in := admin.Notify{Company: company, Template: get("template"), Key: get("key"), Data: admin.NoticeData{}}
	if get("text") == "too" {
		in.Text = "too"
	}
	for _, name := range []string{"count", "due", "note"} {
		if value := strings.TrimSpace(get(name)); value != "" {
			in.Data[name] = value
		}
	}
	if id := get("to"); id != "" {
		email, err := h.emailOf(ctx, id)
		if err != nil {
			return admin.Notified{}, err
		}
		in.To = []string{email}
	}
	return admin.Do(ctx, h.Firm, by, "notify", admin.Firm.Notify, in)
}

// PostReport publishes a report for a company's contacts. The file goes to the disk as it comes.
func (h *Handlers) PostReport(w http.ResponseWriter, r *http.Request) error {
	by, err := h.changes(r)
	if err != nil {
		return err
	}
	prove := func(context.Context) ([]store.Op, error) { // an upload may take long
		_, err := h.changes(r)
		return nil, err
	}
	out, err := h.Firm.PublishFrom(w, r, by, prove)
	if err != nil {
		problem, err := problemOf(err)
		if err == nil {
			err = h.showCompany(w, r, out.Report.Company, web.StaffCompanyPage{Failed: problem})
		}
		if err == nil {
			web.Drain(w, r)
		}
		return err
	}
	w.Header().Del("Connection") // all of the body was read
	done := "publish"
	switch {
	case out.NotTold != nil:
		done = "publish-untold"
	case out.Told != nil:
		done = "publish-told"
	}
	return h.Answers.SeeOwn(w, "/staff/company?id="+out.Report.Company+"&done="+done)
}
