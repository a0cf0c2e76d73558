package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// PublishReport asks for a report to be published. Over HTTP it is a form (multipart/form-data) with these
// fields ("true" or "false" in notify), and then the file.
type PublishReport struct {
	Company string `json:"company"`         // its id
	Title   string `json:"title,omitempty"` // "": the file's name without its extension
	Notify  bool   `json:"notify,omitempty"`

	Name string    `json:"-"` // of the file, as it was sent
	Body io.Reader `json:"-"` // everything in it

	// Prove is that of reports.New; nil: the caller may.
	Prove func(context.Context) ([]store.Op, error) `json:"-"`
}

// ByReport names a report.
type ByReport struct {
	ID string `json:"id"`
}

// ListReports asks for one page of reports.
type ListReports struct {
	Company string `json:"company,omitempty"` // its id; "": all companies
	After   string `json:"after,omitempty"`   // Next of the page before; "": the first page
	Limit   int    `json:"limit,omitempty"`   // 1 to 1000; 0: 100
}

// ReportList is one page of reports, the newest first.
type ReportList struct {
	Reports []ReportInfo `json:"reports"`
	Next    string       `json:"next,omitempty"` // where the next page begins; "": there is none
}

// ReportInfo is a published report.
type ReportInfo struct {
	ID          string    `json:"id"`
	Company     string    `json:"company"`
	CompanyName string    `json:"company_name,omitempty"` // "": the company was removed
	Title       string    `json:"title"`
	File        string    `json:"file"` // its name
	Type        string    `json:"type"`
	Size        int64     `json:"size"` // in bytes
	PublishedAt time.Time `json:"published_at"`
	URL         string    `json:"url"` // where its company's contacts download it
}

// ReportChanged answers a change of reports.
type ReportChanged struct {
	Report   ReportInfo `json:"report"`
	Contacts int        `json:"contacts"` // how many contacts may download it, of those who may sign in; with remove: 0

	Told    *action.NoticeSent `json:"told,omitempty"`     // with notify: who gets an email
	NotTold *Error             `json:"not_told,omitempty"` // with notify: why nobody does, though the report is published
}

func (r ReportChanged) changed() audit.Event {
	return audit.Event{Company: r.Report.Company, Report: r.Report.ID, Title: r.Report.Title}
}

// CompanyOf returns whose reports are the company's.
func CompanyOf(c directory.Company) reports.Company {
	return reports.Company{ID: c.ID, AddedAs: c.AddedAs}
}

func (f Firm) ListReports(ctx context.Context, in ListReports) (ReportList, error) {
	out := ReportList{Reports: []ReportInfo{}}
	limit, err := ListRequest{Limit: in.Limit}.limit()
	if err != nil {
		return out, err
	}
	var found []reports.Report
	if in.Company == "" {
		found, out.Next, err = f.Reports.ListAll(ctx, in.After, limit)
	} else {
		company, err2 := f.reportsCompany(ctx, in.Company)
		if err2 != nil {
			return out, err2
		}
		found, out.Next, err = f.Reports.List(ctx, []reports.Company{CompanyOf(company)}, in.After, limit)
	}
	if err != nil {
		return out, err
	}
	for _, rep := range found {
		info, err := f.reportInfo(ctx, rep)
		if err != nil {
			return out, err
		}
		out.Reports = append(out.Reports, info)
	}
	return out, nil
}

// reportsCompany returns the company that a request names.
func (f Firm) reportsCompany(ctx context.Context, id string) (directory.Company, error) {
	c, err := f.Directory.Company(ctx, id)
	if errors.Is(err, directory.ErrUnknown) {
		unknown := f.unknownCompany(ctx, id)
		unknown.Field = "company"
		return c, unknown
	}
	return c, err
}

func (f Firm) reportInfo(ctx context.Context, rep reports.Report) (ReportInfo, error) {
	out := ReportInfo{ID: rep.ID, Company: rep.Company.ID, Title: rep.Title, File: rep.Name, Type: rep.Type, Size: rep.Size, PublishedAt: rep.Published, URL: f.Reports.URL + rep.ID}
	c, err := f.Directory.Company(ctx, rep.Company.ID)
	switch {
	case errors.Is(err, directory.ErrUnknown):
		return out, nil
	case err != nil:
		return out, err
	case CompanyOf(c) == rep.Company:
		out.CompanyName = c.Name
	}
	return out, nil
}

func (f Firm) PublishReport(ctx context.Context, in PublishReport) (ReportChanged, error) {
	company, err := f.reportsCompany(ctx, in.Company)
	if err != nil {
		return ReportChanged{}, err
	}
	rep, err := f.Reports.Publish(ctx, reports.New{Company: CompanyOf(company), Title: in.Title, Name: in.Name, Prove: in.Prove}, in.Body)
	if err != nil {
		return ReportChanged{}, reportError(err)
	}
	out := ReportChanged{}
	if out.Report, err = f.reportInfo(ctx, rep); err == nil {
		out.Contacts, err = f.mayDownload(ctx, company.ID)
	}
	if in.Notify {
		told, err := f.tellOfReport(ctx, rep)
		if out.Told = &told; err != nil {
			out.Told, out.NotTold = nil, ErrorOf(err)
			out.NotTold.Remedy = "the report is published; to tell them: caddy doorpost notify " + rep.Company.ID
		}
	}
	return out, err
}

// tellOfReport emails the contacts of a report's company that it is there. The link leads to the list, where they
// see what it is before they download it.
func (f Firm) tellOfReport(ctx context.Context, rep reports.Report) (action.NoticeSent, error) {
	list, err := url.Parse(f.Reports.URL)
	if err != nil {
		return action.NoticeSent{}, err
	}
	return f.Notices.Send(ctx, action.Notice{Kind: brand.KindReportPublished, Company: rep.Company.ID, Path: list.Path, Data: map[string]string{"title": rep.Title}, Key: "report-published " + rep.ID})
}

// mayDownload counts the contacts of a company who may sign in.
func (f Firm) mayDownload(ctx context.Context, company string) (n int, err error) {
	members, err := f.Directory.ContactsOf(ctx, company)
	for _, c := range members {
		if !c.Disabled {
			n++
		}
	}
	return n, err
}

func (f Firm) RemoveReport(ctx context.Context, in ByReport) (ReportChanged, error) {
	rep, err := f.Reports.Remove(ctx, in.ID)
	if err != nil {
		return ReportChanged{}, reportError(err)
	}
	info, err := f.reportInfo(ctx, rep)
	return ReportChanged{Report: info}, err
}

// reportError says what to do about an error of package reports.
func reportError(err error) error {
	field, ok := errors.AsType[*reports.FieldError](err)
	switch {
	case ok:
		return &Error{Status: 400, Code: "invalid", Field: field.Field, Reason: field.Reason}
	case errors.Is(err, reports.ErrUnknown):
		return &Error{Status: 404, Code: "unknown", Field: "id", Reason: "there is no such report", Remedy: "look for the right one with reports list"}
	case errors.Is(err, reports.ErrTooLarge):
		return &Error{Status: 413, Code: "too_large", Reason: fmt.Sprintf("the file is larger than %d MiB, so it wasn't published", reports.MaxSize>>20), Remedy: "split it in two"}
	case errors.Is(err, reports.ErrNoFolder):
		return &Error{Status: 409, Code: "no_folder", Reason: "several machines may use this store, and the Caddyfile names no folder for reports that all of them share",
			Remedy: "write \"reports /srv/doorpost/reports\" into the firm's settings, with a folder that every machine reaches, and reload"}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Error{Status: 503, Code: "unavailable", Reason: "the disk with the folder for reports is full, so the file wasn't published", Remedy: "make room there, then try again"}
	case errors.Is(err, reports.ErrFolder):
		out := &Error{Status: 503, Code: "unavailable", Reason: err.Error(), Remedy: "let Caddy's user write to the folder that \"reports\" names in the Caddyfile, then try again"}
		if errors.Is(err, fs.ErrNotExist) {
			out.Remedy = "see whether the disk with the folder is mounted, then try again"
		}
		return out
	case errors.Is(err, errUpload):
		return &Error{Status: 400, Code: "bad_request", Reason: "the upload broke off, so nothing was published", Remedy: "send it again"}
	}
	return err
}

// errUpload: the file of a form didn't come whole.
var errUpload = errors.New("admin: the upload broke off")

// uploadPause is how long an upload may stand still.
const uploadPause = time.Minute

// publishReport takes a form whose last field is the file, which goes to the disk as it comes.
func (h *Handler) publishReport(w http.ResponseWriter, r *http.Request) {
	f, err := h.firm(r)
	// Web pages can send a form without a preflight request, so check its origin. Caddy checks it, too.
	if err == nil && http.NewCrossOriginProtection().Check(r) != nil {
		err = &Error{Status: 403, Code: "cross_origin", Reason: "a web page of another site sent this"}
	}
	var out ReportChanged
	if err == nil {
		out, err = f.PublishFrom(w, r, By{Who: "admin"}, nil)
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	writeJSON(w, http.StatusOK, out)
}

// PublishFrom publishes the report that a request sends: a form with the fields of PublishReport and, as the last one,
// "file". The file goes to the disk as it comes. After an error the rest isn't waited for. prove is that of PublishReport.
// After an error, out.Report.Company is the company that the form names, as far as it was read.
func (f Firm) PublishFrom(w http.ResponseWriter, r *http.Request, by By, prove func(context.Context) ([]store.Op, error)) (out ReportChanged, err error) {
	defer func() {
		if err != nil { // the server would read the rest before it takes the next request
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second))
		}
	}()
	if r.ContentLength > reports.MaxSize+maxBody {
		return out, reportError(reports.ErrTooLarge)
	}
	r.Body = &upload{ReadCloser: r.Body, server: http.NewResponseController(w), shared: r.ProtoMajor > 1}
	form, err := r.MultipartReader()
	if err != nil {
		return out, &Error{Status: 415, Code: "media_type", Reason: "the Content-Type isn't multipart/form-data",
			Remedy: "send a form whose last field is the file, such as: curl -F company=acme -F file=@report.pdf"}
	}
	in := PublishReport{Prove: prove}
	file, err := fieldsOf(form, &in)
	if err == nil && file.FileName() == "" { // as browsers send it where none was chosen
		err = &Error{Status: 400, Code: "invalid", Field: "file", Reason: "no file was chosen", Remedy: "send the file with its name"}
	}
	if err == nil {
		in.Name, in.Body = file.FileName(), &wholePart{form: form, part: file}
		out, err = Do(r.Context(), f, by, "reports/publish", Firm.PublishReport, in)
	}
	if err != nil {
		out.Report.Company = in.Company
	}
	return out, err
}

// upload is a body that may take long to come, but not stand still: Caddy's admin server would read none for more
// than ten seconds.
type upload struct {
	io.ReadCloser
	server *http.ResponseController
	shared bool // requests share the connection (HTTP/2 and later), each with limits of its own
}

func (u *upload) Read(p []byte) (int, error) {
	_ = u.server.SetReadDeadline(time.Now().Add(uploadPause)) // a connection without deadlines needs none
	if u.shared {
		_ = u.server.SetWriteDeadline(time.Now().Add(2 * uploadPause)) // the answer comes behind the last of it
	}
	return u.ReadCloser.Read(p)
}

// maxField is how many bytes a field before the file may have.
const maxField = 4 << 10

// fieldsOf reads the fields of a form up to the file, which it returns unread.
func fieldsOf(form *multipart.Reader, in *PublishReport) (file *multipart.Part, err error) {
	notify := ""
	known := map[string]*string{"company": &in.Company, "title": &in.Title, "notify": &notify}
	for {
		part, err := form.NextPart()
		switch {
		case errors.Is(err, io.EOF):
			return nil, &Error{Status: 400, Code: "invalid", Field: "file", Reason: "is missing", Remedy: "send the file as the last field of the form"}
		case err != nil:
			return nil, reportError(fmt.Errorf("%w: %w", errUpload, err))
		}
		if part.FormName() == "file" {
			return part, nil
		}
		to, ok := known[part.FormName()]
		if !ok {
			return nil, &Error{Status: 400, Code: "bad_request", Reason: fmt.Sprintf("the form has a field %q, which isn't known", audit.Cut(part.FormName())), Remedy: "send the fields company, title, notify and file"}
		}
		value, err := io.ReadAll(io.LimitReader(part, maxField+1))
		switch {
		case err != nil:
			return nil, reportError(fmt.Errorf("%w: %w", errUpload, err))
		case len(value) > maxField:
			return nil, &Error{Status: 400, Code: "invalid", Field: part.FormName(), Reason: "is too long"}
		}
		if *to = string(value); to == &notify {
			if in.Notify, err = strconv.ParseBool(notify); err != nil {
				return nil, &Error{Status: 400, Code: "invalid", Field: "notify", Reason: fmt.Sprintf("%q is neither true nor false", audit.Cut(notify))}
			}
		}
	}
}

// wholePart reads the last part of a form. It ends only where the form does.
type wholePart struct {
	form *multipart.Reader
	part *multipart.Part
}

func (p *wholePart) Read(b []byte) (int, error) {
	n, err := p.part.Read(b)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return n, fmt.Errorf("%w: %w", errUpload, err)
	}
	if _, err := p.form.NextPart(); errors.Is(err, io.EOF) {
		return n, io.EOF
	} else if err != nil {
		return n, fmt.Errorf("%w: %w", errUpload, err)
	}
	return n, &Error{Status: 400, Code: "bad_request", Reason: "the form goes on behind the file", Remedy: "send the file as the last field of the form"}
}
