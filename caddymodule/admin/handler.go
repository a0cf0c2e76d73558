package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/reports"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// maxBody is how much JSON is read: the longest change of one contact, many times over.
const maxBody = 1 << 20

// Firm has the actions on one firm.
type Firm struct {
	Directory *directory.Directory
	Sessions  *session.Sessions
	Tokens    *token.Tokens
	Queue     *outbox.Queue   // takes the mails that are asked for here
	Messages  *brand.Messages // writes them
	Audit     *audit.Log      // is told of every change
	Usage     *usage.Counter  // of old links; nil: they aren't counted
	Reports   *reports.Reports
	Anchor    *anchor.Store   // says whether the store is trusted; nil: it is
	Notices   *action.Notices // to contacts; nil: there are none

	Announcements *action.Announcements

	Portal *action.Portal // whose lasting links contacts get; nil: they aren't known

	Files []FileStatus // that the Caddyfile names, without their loads

	ServiceTokens *servicetoken.Tokens // by which the firm's programs call
	Proof         []store.Op           // conditions of what Notify writes, such as that the caller's token isn't revoked

	NoPasswords bool // the firm has switched them off
	NoOldLinks  bool // the Caddyfile has no legacy_link
}

// Handler answers the requests under /doorpost/ (see the package's doc). It holds
// nothing between two requests, so it may serve one or many.
type Handler struct {
	Firms  map[string]Firm       // by id; not changed while the Handler serves
	Backup func(io.Writer) error // writes a copy of the store; writes nothing where it can't

	// Doctor looks at the whole server; nil: there is nothing to look at.
	Doctor func(context.Context) []Finding

	Log *slog.Logger // what goes wrong; nil: nobody
}

// ServeHTTP is the table of all requests, and answers unknown ones.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	for pattern, do := range map[string]http.HandlerFunc{
		"GET /doorpost/{$}":                       h.getFirms,
		"POST /doorpost/backup":                   h.backup,
		"GET /doorpost/doctor":                    h.getDoctor,
		"POST /doorpost/{firm}/store/accept":      act(h, Firm.AcceptStore),
		"POST /doorpost/{firm}/contacts/list":     act(h, Firm.ListContacts),
		"POST /doorpost/{firm}/contacts/add":      act(h, Firm.AddContact),
		"POST /doorpost/{firm}/contacts/set":      act(h, Firm.SetContact),
		"POST /doorpost/{firm}/contacts/disable":  act(h, Firm.DisableContact),
		"POST /doorpost/{firm}/contacts/enable":   act(h, Firm.EnableContact),
		"POST /doorpost/{firm}/contacts/remove":   act(h, Firm.RemoveContact),
		"POST /doorpost/{firm}/contacts/import":   h.importFile(directory.Contacts),
		"POST /doorpost/{firm}/companies/list":    act(h, Firm.ListCompanies),
		"POST /doorpost/{firm}/companies/add":     act(h, Firm.AddCompany),
		"POST /doorpost/{firm}/companies/set":     act(h, Firm.SetCompany),
		"POST /doorpost/{firm}/companies/remove":  act(h, Firm.RemoveCompany),
		"POST /doorpost/{firm}/companies/restore": act(h, Firm.RestoreCompany),
		"POST /doorpost/{firm}/companies/import":  h.importFile(directory.Companies),
		"POST /doorpost/{firm}/notify":            act(h, Firm.Notify),
		"POST /doorpost/{firm}/announce":          act(h, Firm.Announce),
		"POST /doorpost/{firm}/announce/status":   act(h, Firm.AnnounceStatus),
		"POST /doorpost/{firm}/announce/stop":     act(h, Firm.AnnounceStop),
		"POST /doorpost/{firm}/preview":           act(h, Firm.Preview),
		"POST /doorpost/{firm}/contacts/upsert":   act(h, Firm.UpsertContact),
		"POST /doorpost/{firm}/companies/upsert":  act(h, Firm.UpsertCompany),
		"POST /doorpost/{firm}/tokens/create":     act(h, Firm.CreateToken),
		"POST /doorpost/{firm}/tokens/list":       act(h, Firm.ListTokens),
		"POST /doorpost/{firm}/tokens/revoke":     act(h, Firm.RevokeToken),
		"POST /doorpost/{firm}/upgrade":           act(h, Firm.Upgrade),
		"POST /doorpost/{firm}/legacy/usage":      act(h, Firm.LegacyUsage),
		"POST /doorpost/{firm}/contacts/timeline": act(h, Firm.Timeline),
		"POST /doorpost/{firm}/audit/list":        act(h, Firm.ListEvents),
		"POST /doorpost/{firm}/audit/unknown":     act(h, Firm.ListStrangers),
		"POST /doorpost/{firm}/files/list":        act(h, Firm.ListFiles),
		"POST /doorpost/{firm}/reset-link":        act(h, Firm.ResetLink),
		"POST /doorpost/{firm}/mail/list":         act(h, Firm.ListMail),
		"POST /doorpost/{firm}/mail/retry":        act(h, Firm.RetryMail),
		"POST /doorpost/{firm}/mail/test":         act(h, Firm.TestMail),
		"POST /doorpost/{firm}/sessions/list":     act(h, Firm.ListSessions),
		"POST /doorpost/{firm}/sessions/revoke":   act(h, Firm.RevokeSessions),
		"POST /doorpost/{firm}/reports/publish":   h.publishReport,
		"POST /doorpost/{firm}/reports/list":      act(h, Firm.ListReports),
		"POST /doorpost/{firm}/reports/remove":    act(h, Firm.RemoveReport),

		"POST /doorpost/{firm}/contacts/waiting":      act(h, Firm.WaitingBrowsers),
		"POST /doorpost/{firm}/contacts/lasting-link": act(h, Firm.LastingLink),
		"POST /doorpost/{firm}/contacts/link":         act(h, Firm.MailLink),
		"POST /doorpost/{firm}/contacts/phone-code":   act(h, Firm.PhoneCode),
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.Handle(pattern, do)
		mux.Handle(path, only(method))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&Error{Status: 404, Code: "not_found", Reason: "there is nothing under this path", Remedy: "caddy doorpost --help lists what can be done"}).Write(w)
	})
	mux.ServeHTTP(w, r)
}

func only(method string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", method)
		(&Error{Status: 405, Code: "method", Reason: fmt.Sprintf("%s isn't the method here", r.Method), Remedy: "use " + method}).Write(w)
	}
}

// changed is an answer that says what was changed: the contact or company, and how many
// lost something by it; nothing where nothing was changed.
type changed interface{ changed() audit.Event }

// fields is a request that says which fields it changes.
type fields interface{ fields() []string }

// By says who makes a change.
type By struct {
	Who   string // "admin": by a command or the admin API; "staff": on the staff pages; "token": by a program of the firm
	Staff string // the ID of the contact who does, with "staff"
	Token string // the ID of the service token, with "token"
}

// Do carries out an action of Firm, such as Firm.AddContact, and has the audit log tell who changed what:
// the action's path, such as "contacts/add", and which fields.
func Do[In, Out any](ctx context.Context, f Firm, by By, action string, do func(Firm, context.Context, In) (Out, error), in In) (Out, error) {
	if m, ok := any(&in).(interface{ madeBy(By) }); ok {
		m.madeBy(by)
	}
	out, err := do(f, ctx, in)
	if c, ok := any(out).(changed); ok { // also when what had to follow failed
		if e := c.changed(); e.Contact != "" || e.Company != "" || e.Token != "" || e.Count > 0 {
			if c, ok := any(in).(fields); ok {
				e.Fields = c.fields()
			}
			f.note(ctx, by, action, e)
		}
	}
	return out, err
}

// note tells what was changed.
func (f Firm) note(ctx context.Context, by By, action string, e audit.Event) {
	e.Kind, e.By, e.Staff, e.What = audit.Changed, by.Who, by.Staff, action
	if by.Token != "" {
		e.Token = by.Token
	}
	f.Audit.Record(ctx, e)
}

// actionOf is the end of a request's path, which holds no address.
func actionOf(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	return strings.Join(parts[min(len(parts)-1, 2):], "/")
}

// act makes a handler of an action: from JSON, for one firm, to JSON.
func act[In, Out any](h *Handler, do func(Firm, context.Context, In) (Out, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in In
		f, err := h.firm(r)
		if err == nil {
			err = decode(w, r, &in)
		}
		if keyed, ok := any(&in).(keyed); ok && err == nil {
			err = keyed.takeKey(r.Header)
		}
		var out Out
		if err == nil {
			out, err = Do(r.Context(), f, By{Who: "admin"}, actionOf(r), do, in)
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		writeJSON(w, http.StatusOK, out)
	}
}

// firm returns the firm that the path names.
func (h *Handler) firm(r *http.Request) (Firm, error) {
	id := r.PathValue("firm")
	f, ok := h.Firms[id]
	if !ok {
		return f, &Error{Status: 404, Code: "unknown_firm", Reason: fmt.Sprintf("there is no firm %q here", id),
			Remedy: "choose one of: " + strings.Join(slices.Sorted(maps.Keys(h.Firms)), ", ")}
	}
	return f, nil
}

// decode reads a body of JSON. That it has to say so keeps web pages out: a browser
// asks first before it sends this type across origins.
func decode(w http.ResponseWriter, r *http.Request, in any) error {
	if err := checkType(r, "application/json"); err != nil {
		return err
	}
	return strictly(http.MaxBytesReader(w, r.Body, maxBody), in)
}

// Decode reads a request's body, which is JSON, and its Idempotency-Key.
func Decode(r *http.Request, body []byte, in any) error {
	err := checkType(r, "application/json")
	if err == nil {
		err = strictly(bytes.NewReader(body), in)
	}
	if keyed, ok := in.(keyed); ok && err == nil {
		err = keyed.takeKey(r.Header)
	}
	return err
}

func strictly(body io.Reader, in any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(in)
	if err == nil {
		_, err = d.Token()
		if err == io.EOF {
			return nil
		}
		err = errors.New("there is something behind the JSON")
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return err
	}
	return &Error{Status: 400, Code: "bad_request", Reason: "the body can't be read: " + strings.TrimPrefix(err.Error(), "json: "),
		Remedy: "send JSON with the fields that this request knows"}
}

func checkType(r *http.Request, want string) error {
	if got, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && got == want {
		return nil
	}
	return &Error{Status: 415, Code: "media_type", Reason: "the Content-Type isn't " + want, Remedy: "send the header Content-Type: " + want}
}

func (h *Handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	out := ErrorOf(err)
	if out.Status >= 500 && h.Log != nil && r.Context().Err() == nil {
		h.Log.ErrorContext(r.Context(), "admin request failed", "path", r.URL.Path, "error", err)
	}
	out.Write(w)
}

// named returns the names of the fields that are set in a change.
func named(change any) (names []string) {
	b, err := json.Marshal(change)
	set := map[string]json.RawMessage{}
	if err == nil {
		err = json.Unmarshal(b, &set)
	}
	if err != nil {
		panic("admin: " + err.Error()) // it came in as JSON
	}
	return slices.Sorted(maps.Keys(set))
}

// FirmInfo is a firm in the list of them.
type FirmInfo struct {
	ID string `json:"id"`
}

// FirmList answers GET /doorpost/.
type FirmList struct {
	Firms []FirmInfo `json:"firms"` // by id
}

func (h *Handler) getFirms(w http.ResponseWriter, r *http.Request) {
	out := FirmList{Firms: []FirmInfo{}}
	for _, id := range slices.Sorted(maps.Keys(h.Firms)) {
		out.Firms = append(out.Firms, FirmInfo{id})
	}
	writeJSON(w, http.StatusOK, out)
}

// ListRequest asks for one page of a list.
type ListRequest struct {
	Text  string `json:"text,omitempty"`  // every word of it must be in what is listed; "": all
	After string `json:"after,omitempty"` // Next of the page before; "": the first page
	Limit int    `json:"limit,omitempty"` // 1 to 1000; 0: 100
}

func (l ListRequest) limit() (int, error) {
	switch {
	case l.Limit == 0:
		return 100, nil
	case l.Limit < 0 || l.Limit > 1000:
		return 0, &Error{Status: 400, Code: "invalid", Field: "limit", Reason: fmt.Sprintf("is %d", l.Limit), Remedy: "write a number from 1 to 1000"}
	}
	return l.Limit, nil
}
