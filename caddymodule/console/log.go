package console

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// eventsAtOnce is how many events the log shows on a page.
const eventsAtOnce = 100

// GetLog shows what happened, perhaps only to a contact or a company, given by their IDs.
func (h *Handlers) GetLog(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	return h.showLog(w, r, web.StaffLogPage{Contact: web.OnlyValue(query["contact"]), Company: web.OnlyValue(query["company"]), Days: "30"}, "")
}

// PostLog shows what happened that fits a filter, which may hold an address and is in no URL.
func (h *Handlers) PostLog(w http.ResponseWriter, r *http.Request) error {
	page, before, err := h.readFilter(w, r)
	if err != nil {
		return err
	}
	return h.showLog(w, r, page, before)
}

func (h *Handlers) readFilter(w http.ResponseWriter, r *http.Request) (page web.StaffLogPage, before string, err error) {
	f, err := h.read(w, r)
	if err != nil {
		return page, "", err
	}
	return web.StaffLogPage{Who: strings.TrimSpace(f.Get("who")), Topic: f.Get("topic"), Days: f.Get("days"), Company: f.Get("company"), Contact: f.Get("contact")}, f.Get("before"), nil
}

// search makes a search of a filter, and names in the page what it is about. A filter that can't be is said in page.Failed.
func (h *Handlers) search(ctx context.Context, page *web.StaffLogPage) (in admin.SearchEvents, err error) {
	in = admin.SearchEvents{Contact: page.Contact, Company: page.Company, Limit: eventsAtOnce}
	for _, t := range explain.Topics {
		page.Topics = append(page.Topics, web.Option{Value: t.ID, Label: t.Name})
		if t.ID == page.Topic {
			in.Kinds = t.Kinds
		}
	}
	if days, err := strconv.Atoi(page.Days); err == nil && days > 0 && days <= 90 {
		in.Since = h.Now().AddDate(0, 0, -days)
	}
	if page.Company != "" {
		c, err := h.Firm.Directory.Company(ctx, page.Company)
		if err != nil && !errors.Is(err, directory.ErrUnknown) {
			return in, err
		}
		page.CompanyName = cmp.Or(c.Name, page.Company) // of one that was removed, its events are there still
	}
	switch {
	case page.Who != "":
		page.Contact = ""
		a, err := address.Parse(page.Who)
		if err != nil {
			page.Failed = "Write it as name@example.com."
			return in, nil
		}
		c, err := h.Firm.Directory.ByEmail(ctx, a)
		if errors.Is(err, directory.ErrUnknown) {
			page.Failed = "No contact has this address. What became of it is on the page “Why can’t they get in?”."
			return in, nil
		} else if err != nil {
			return in, err
		}
		in.Contact = c.ID
	case page.Contact != "":
		c, err := h.Firm.Directory.ByID(ctx, page.Contact)
		if errors.Is(err, directory.ErrUnknown) {
			page.ContactName = "a contact who was removed"
		} else if err != nil {
			return in, err
		} else {
			page.ContactName = nameOf(c)
		}
	}
	return in, nil
}

func nameOf(c directory.Contact) string { return cmp.Or(c.Name(), c.Email().Display()) }

func (h *Handlers) showLog(w http.ResponseWriter, r *http.Request, page web.StaffLogPage, before string) error {
	if _, err := h.staff(r); err != nil {
		return err
	}
	ctx := r.Context()
	in, err := h.search(ctx, &page)
	if err != nil {
		return err
	}
	if page.Failed != "" {
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	in.Before = before
	found, err := h.Firm.SearchEvents(ctx, in)
	if err != nil {
		return err
	}
	page.Next, page.Back = found.Next, localTime(found.Back)
	people := people{book: h.Firm.Directory}
	for _, e := range found.Events {
		row := web.LogRow{At: e.Time.Local()}
		if row.ID, row.Who, row.What, err = people.of(ctx, e); err != nil {
			return err
		}
		if e.IP.IsValid() {
			row.From = e.IP.String()
		}
		page.Events = append(page.Events, row)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// people knows the contacts of events.
type people struct {
	book *directory.Directory
	by   map[string]string // name by ID; "": there is none any more
}

func (p *people) name(ctx context.Context, id string) (string, error) {
	name, known := p.by[id]
	if known || id == "" {
		return name, nil
	}
	c, err := p.book.ByID(ctx, id)
	switch {
	case err == nil:
		name = nameOf(c)
	case !errors.Is(err, directory.ErrUnknown):
		return "", err
	}
	if p.by == nil || len(p.by) >= 10_000 {
		p.by = map[string]string{}
	}
	p.by[id] = name
	return name, nil
}

// of says whom an event is about, and what it is, in plain words. id is that of a contact whose page there is.
func (p *people) of(ctx context.Context, e admin.Event) (id, who, what string, err error) {
	if who, err = p.name(ctx, e.Contact); err != nil {
		return "", "", "", err
	}
	if who != "" {
		id = e.Contact
	}
	staff, err := p.name(ctx, e.Staff)
	return id, cmp.Or(who, e.Address), explain.InWordsBy(e, staff), err
}

// PostLogFile downloads the events that fit a filter, in the order of time, as a table.
func (h *Handlers) PostLogFile(w http.ResponseWriter, r *http.Request) error {
	page, _, err := h.readFilter(w, r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	in, err := h.search(ctx, &page)
	if err != nil {
		return err
	}
	if page.Failed != "" {
		h.Answers.Page(w, r, http.StatusBadRequest, page)
		return nil
	}
	header := w.Header()
	header.Set("Content-Type", "text/csv; charset=utf-8")
	header.Set("Content-Disposition", web.Attachment("log-"+h.Now().Local().Format(time.DateOnly)+".csv"))
	header.Set("X-Content-Type-Options", "nosniff")
	web.SetNeverCached(header)
	server, out, rows := http.NewResponseController(w), csv.NewWriter(w), 0
	_, _ = w.Write([]byte("\ufeff")) // without it, spreadsheets take UTF-8 for something else
	people := people{book: h.Firm.Directory}
	_ = out.Write([]string{"Time", "Who", "What", "From", "Kind"})
	err = h.Firm.EachEvent(ctx, in, func(e admin.Event) error {
		_, who, what, err := people.of(ctx, e)
		if err != nil {
			return err
		}
		from := ""
		if e.IP.IsValid() {
			from = e.IP.String()
		}
		if rows++; rows%500 == 0 && r.ProtoMajor > 1 {
			_ = server.SetWriteDeadline(time.Now().Add(web.AnswerTime))
		}
		return out.Write([]string{e.Time.Local().Format("2006-01-02 15:04:05"), web.Cell(who), web.Cell(what), from, string(e.Kind)})
	})
	out.Flush()
	if err == nil {
		err = out.Error()
	}
	if err != nil {
		h.Answers.Log.ErrorContext(ctx, "a download of the log broke off", "error", err)
		panic(http.ErrAbortHandler) // a part isn't to look like the whole
	}
	return nil
}
