package account

import (
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/visitor"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// ReportsPath is the page that lists reports, under the prefix. A report is at its ID behind that.
const ReportsPath = "/reports/"

// ToReports leads to the list of reports.
func (h *Handlers) ToReports(w http.ResponseWriter, _ *http.Request) error {
	return h.Answers.SeeOwn(w, ReportsPath)
}

// GetReports lists the reports of the visitor's companies, the newest first; for staff, those of all companies.
func (h *Handlers) GetReports(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	h.Sessions.Seen(r.Context(), v.Live)
	ctx, after := r.Context(), web.OnlyValue(r.URL.Query()["after"])
	list, next, err := h.reportsOf(ctx, v, after)
	if err != nil {
		return err
	}
	page := web.ReportsPage{Email: v.Contact.Emails[0].Display(), Staff: v.IsStaff(), Next: next, Later: after != ""}
	names := companyNames{book: h.Directory}
	for _, rep := range list {
		row := web.ReportRow{URL: h.Answers.Prefix + ReportsPath + rep.ID, Title: rep.Title, Kind: kindOf(rep.Name), Size: web.SizeInWords(rep.Size), Published: rep.Published.Local()}
		if v.IsStaff() || len(v.Contact.Companies) > 1 {
			if row.Company, err = names.of(ctx, rep.Company); err != nil {
				return err
			}
		}
		if !v.IsStaff() {
			has, err := h.Reports.HasRead(ctx, rep.ID, v.Contact.ID)
			if err != nil {
				return err
			}
			row.Unread = !has
		}
		page.Reports = append(page.Reports, row)
	}
	h.Answers.Page(w, r, http.StatusOK, page)
	return nil
}

// reportsOf returns one page of the reports that a visitor may download.
func (h *Handlers) reportsOf(ctx context.Context, v *visitor.Visitor, after string) (list []reports.Report, next string, err error) {
	if v.IsStaff() {
		return h.Reports.ListAll(ctx, after, maxShown)
	}
	var companies []reports.Company
	for _, id := range v.Contact.Companies {
		s, err := h.Directory.StatusOf(ctx, id)
		switch {
		case errors.Is(err, directory.ErrUnknown):
		case err != nil:
			return nil, "", err
		default:
			companies = append(companies, reports.Company{ID: id, AddedAs: s.AddedAs})
		}
	}
	return h.Reports.List(ctx, companies, after, maxShown)
}

// reportsLink returns the data about a visitor's reports for other pages.
func (h *Handlers) reportsLink(ctx context.Context, v *visitor.Visitor) (web.ReportsLink, error) {
	list, _, err := h.reportsOf(ctx, v, "")
	link := web.ReportsLink{There: len(list) > 0}
	if err == nil && !v.IsStaff() {
		link.Unread, err = h.Reports.Unread(ctx, list, v.Contact.ID)
	}
	return link, err
}

// report returns a report that the visitor may download; an unknown report and another company's get the same error.
func (h *Handlers) report(ctx context.Context, v *visitor.Visitor, id string) (reports.Report, error) {
	rep, err := h.Reports.Get(ctx, id)
	switch {
	case errors.Is(err, reports.ErrUnknown):
		return rep, web.ErrNotFound
	case err != nil || v.IsStaff():
		return rep, err
	case !v.Reaches(rep.Company.ID):
		return rep, web.ErrNotFound
	}
	s, err := h.Directory.StatusOf(ctx, rep.Company.ID)
	if errors.Is(err, directory.ErrUnknown) || err == nil && s.AddedAs != rep.Company.AddedAs {
		return rep, web.ErrNotFound
	}
	return rep, err
}

// errNoFile: the record of a report is there, and its file can't be read.
var errNoFile = &web.Failure{Status: http.StatusServiceUnavailable, Page: web.MessagePage{Title: "This file can’t be opened right now",
	Text: "The file is listed, but we can’t read it at the moment. Please try again in a few minutes. If it stays like this, please tell us."}}

// GetReport downloads a report.
func (h *Handlers) GetReport(w http.ResponseWriter, r *http.Request) error {
	v, err := h.Visitors.Of(r)
	if err != nil {
		return err
	}
	rep, err := h.report(r.Context(), v, strings.TrimPrefix(r.URL.Path, h.Answers.Prefix+ReportsPath))
	if err != nil {
		return err
	}
	content, err := h.Reports.Open(rep)
	if errors.Is(err, reports.ErrFolder) {
		h.Answers.Log.ErrorContext(r.Context(), "the file of a report can't be read", "report", rep.ID, "folder", h.Reports.Dir, "error", err,
			"what_to_do", "see whether the folder is mounted and Caddy's user may read it; where a backup was put back, put the folder's back, too, or remove the report")
		return errNoFile
	} else if err != nil {
		return err
	}
	defer content.Close()
	h.Sessions.Seen(r.Context(), v.Live)
	setReportHeaders(w.Header(), rep, v.Live.Shared)

	ctx, done := h.whileAllowed(r.Context(), v, rep)
	defer done()
	out := newDownload(ctx, w, content, func() {
		if r.Method == http.MethodGet {
			h.noteDownload(r, v, rep)
		}
	})
	http.ServeContent(out, r, "", rep.Published, out)
	if out.end(); ctx.Err() != nil && r.Context().Err() == nil {
		panic(http.ErrAbortHandler) // what the browser has is a part, and isn't to look like the whole
	}
	return nil
}

// setReportHeaders has browsers save a report, and show nothing of it as a page of this site. Their caches ask before
// they use what they keep.
func setReportHeaders(to http.Header, rep reports.Report, shared bool) {
	to["Cache-Control"] = []string{"no-transform"} // which stays: a proxy that compresses would break ranges
	web.KeepPersonal(to, shared)
	for name, value := range map[string]string{
		"Content-Type": rep.Type, "Content-Disposition": web.Attachment(rep.Name), "Etag": `"` + rep.ID + `"`,
		"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
		"X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin", "Referrer-Policy": "strict-origin", "X-Robots-Tag": "noindex",
	} {
		to[name] = []string{value}
	}
}

// noteDownload marks a report as read, and tells the history who downloads it.
func (h *Handlers) noteDownload(r *http.Request, v *visitor.Visitor, rep reports.Report) {
	begins, err := h.Reports.Read(r.Context(), rep.ID, v.Contact.ID, v.Live.Handle)
	if begins || err != nil {
		h.Audit.Record(r.Context(), audit.Event{Kind: audit.Fetched, Contact: v.Contact.ID, Session: v.Live.Handle, Company: rep.Company.ID,
			Report: rep.ID, Title: rep.Title, Agent: web.AgentOf(r), IP: h.Visitors.ClientIP(r)})
	}
}

// whileAllowed returns a context that is cancelled within a second of the end of the session, or of the report, or of
// the contact's belonging to its company. Call done when the download is over.
func (h *Handlers) whileAllowed(parent context.Context, v *visitor.Visitor, rep reports.Report) (_ context.Context, done func()) {
	ctx, flight := h.Sessions.Attach(parent, v.Live, rep.Company.ID)
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(session.SweepInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if _, err := h.Reports.Get(ctx, rep.ID); errors.Is(err, reports.ErrUnknown) {
				cancel() // where the store can't tell, the download goes on
				return
			}
		}
	})
	return ctx, func() { cancel(); looking.Wait(); flight.Done() }
}

// download sends the content of a report: as fast as the browser takes it, and no longer than ctx lasts.
type download struct {
	http.ResponseWriter
	io.ReadSeeker
	ctx    context.Context
	begins func() // called before the first byte goes out

	server *http.ResponseController
	stop   func() bool
	mu     sync.Mutex
	ended  bool
}

func newDownload(ctx context.Context, w http.ResponseWriter, content io.ReadSeeker, begins func()) *download {
	d := &download{ResponseWriter: w, ReadSeeker: content, ctx: ctx, begins: begins, server: http.NewResponseController(w)}
	d.stop = context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if !d.ended {
			d.ended = true
			_ = d.server.SetWriteDeadline(time.Now()) // a browser that takes nothing doesn't hold it
		}
	})
	return d
}

// WriteHeader has the download noted that begins.
func (d *download) WriteHeader(status int) {
	if status == http.StatusOK || status == http.StatusPartialContent {
		d.begins()
	}
	d.ResponseWriter.WriteHeader(status)
}

// Read extends the browser's deadline for the next bytes, whatever the server's limit for the whole response.
func (d *download) Read(p []byte) (int, error) {
	d.mu.Lock()
	ended := d.ended
	if !ended {
		_ = d.server.SetWriteDeadline(time.Now().Add(web.AnswerTime))
	}
	d.mu.Unlock()
	if ended {
		return 0, context.Cause(d.ctx)
	}
	return d.ReadSeeker.Read(p)
}

// end takes the limit from the connection, whose next answer may be the portal's.
func (d *download) end() {
	d.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended {
		d.ended = true
		_ = d.server.SetWriteDeadline(time.Time{})
	}
}

// companyNames remembers the names of companies.
type companyNames struct {
	book  *directory.Directory
	known map[reports.Company]string
}

// of returns the name of the company whose report it is.
func (n *companyNames) of(ctx context.Context, company reports.Company) (string, error) {
	if name, ok := n.known[company]; ok {
		return name, nil
	}
	if n.known == nil {
		n.known = map[reports.Company]string{}
	}
	c, err := n.book.Company(ctx, company.ID)
	switch {
	case errors.Is(err, directory.ErrUnknown) || err == nil && c.AddedAs != company.AddedAs:
		n.known[company] = company.ID + " (removed)"
	case err != nil:
		return "", err
	default:
		n.known[company] = c.Name
	}
	return n.known[company], nil
}

// kindOf says what a file is, by its extension.
func kindOf(name string) string {
	if ext := strings.TrimPrefix(path.Ext(name), "."); ext != "" && len(ext) <= 5 {
		return strings.ToUpper(ext)
	}
	return "File"
}
