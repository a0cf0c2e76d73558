package admin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// Client speaks to a Handler. Where the server refuses, the error is an *Error; else
// it is of the way there.
type Client struct {
	Base string       // scheme and host, such as http://localhost:2019
	HTTP *http.Client // how to get there
}

// Firms returns the firms of the server, by id.
func (c *Client) Firms(ctx context.Context) ([]FirmInfo, error) {
	var out FirmList
	err := c.do(ctx, http.MethodGet, "/doorpost/", nil, &out)
	return out.Firms, err
}

// Contacts returns one page of contacts.
func (c *Client) Contacts(ctx context.Context, firm string, in ListContacts) (ContactList, error) {
	return post[ContactList](ctx, c, firm, "contacts/list", in)
}

// AddContact adds the contact that in describes; in.Email is needed.
func (c *Client) AddContact(ctx context.Context, firm string, in directory.Change) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "contacts/add", in)
}

// SetContact changes a contact.
func (c *Client) SetContact(ctx context.Context, firm, email string, change directory.Change) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "contacts/set", SetContact{email, change})
}

// DisableContact keeps a contact from signing in, and shows it out.
func (c *Client) DisableContact(ctx context.Context, firm, email string) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "contacts/disable", ByEmail{email})
}

// EnableContact undoes DisableContact; who was shown out signs in again.
func (c *Client) EnableContact(ctx context.Context, firm, email string) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "contacts/enable", ByEmail{email})
}

// RemoveContact removes a contact, and shows it out.
func (c *Client) RemoveContact(ctx context.Context, firm, email string) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "contacts/remove", ByEmail{email})
}

// Companies returns one page of companies.
func (c *Client) Companies(ctx context.Context, firm string, in ListRequest) (CompanyList, error) {
	return post[CompanyList](ctx, c, firm, "companies/list", in)
}

// AddCompany adds a company.
func (c *Client) AddCompany(ctx context.Context, firm, id string, change directory.CompanyChange) (CompanyChanged, error) {
	return post[CompanyChanged](ctx, c, firm, "companies/add", AddCompany{id, change})
}

// SetCompany changes a company.
func (c *Client) SetCompany(ctx context.Context, firm, id string, change directory.CompanyChange) (CompanyChanged, error) {
	return post[CompanyChanged](ctx, c, firm, "companies/set", SetCompany{id, change})
}

// RemoveCompany removes a company and takes it from its contacts.
func (c *Client) RemoveCompany(ctx context.Context, firm, id string) (CompanyChanged, error) {
	return post[CompanyChanged](ctx, c, firm, "companies/remove", ByID{id})
}

// RestoreCompany undoes the removal of a company.
func (c *Client) RestoreCompany(ctx context.Context, firm, id string) (CompanyChanged, error) {
	return post[CompanyChanged](ctx, c, firm, "companies/restore", ByID{id})
}

// Upgrade makes old links ask for sign-in, or undoes that.
func (c *Client) Upgrade(ctx context.Context, firm string, in Upgrade) (Upgraded, error) {
	return post[Upgraded](ctx, c, firm, "upgrade", in)
}

// Notify tells contacts by mail that something waits for them.
func (c *Client) Notify(ctx context.Context, firm string, in Notify) (Notified, error) {
	return post[Notified](ctx, c, firm, "notify", in)
}

// Announce tells contacts by email that old links ask for sign-in.
func (c *Client) Announce(ctx context.Context, firm string, in Announce) (Announced, error) {
	return post[Announced](ctx, c, firm, "announce", in)
}

// Preview returns emails as clients get them, with made-up data, and sends one.
func (c *Client) Preview(ctx context.Context, firm string, in PreviewMails) (Previewed, error) {
	return post[Previewed](ctx, c, firm, "preview", in)
}

// AnnounceStatus returns how far the latest announcement is.
func (c *Client) AnnounceStatus(ctx context.Context, firm string) (AnnouncementStatus, error) {
	return post[AnnouncementStatus](ctx, c, firm, "announce/status", struct{}{})
}

// AnnounceStop ends the announcement that is running.
func (c *Client) AnnounceStop(ctx context.Context, firm string) (AnnouncementStopped, error) {
	return post[AnnouncementStopped](ctx, c, firm, "announce/stop", struct{}{})
}

// CreateToken makes a service token.
func (c *Client) CreateToken(ctx context.Context, firm string, in CreateToken) (TokenCreated, error) {
	return post[TokenCreated](ctx, c, firm, "tokens/create", in)
}

// ServiceTokens returns the service tokens.
func (c *Client) ServiceTokens(ctx context.Context, firm string) (TokenList, error) {
	return post[TokenList](ctx, c, firm, "tokens/list", struct{}{})
}

// RevokeToken ends a service token.
func (c *Client) RevokeToken(ctx context.Context, firm, id string) (TokenRevoked, error) {
	return post[TokenRevoked](ctx, c, firm, "tokens/revoke", RevokeToken{id})
}

// AcceptStore has the firm use the store from now on.
func (c *Client) AcceptStore(ctx context.Context, firm string, in AcceptStore) (StoreAccepted, error) {
	return post[StoreAccepted](ctx, c, firm, "store/accept", in)
}

// Doctor returns what the server finds when it looks at itself.
func (c *Client) Doctor(ctx context.Context) (Diagnosis, error) {
	var out Diagnosis
	err := c.do(ctx, http.MethodGet, "/doorpost/doctor", nil, &out)
	return out, err
}

// LegacyUsage returns one page of companies whose old links are still used.
func (c *Client) LegacyUsage(ctx context.Context, firm string, in ListRequest) (UsageList, error) {
	return post[UsageList](ctx, c, firm, "legacy/usage", in)
}

// Sessions returns the sessions of a contact, or one page of everybody's.
func (c *Client) Sessions(ctx context.Context, firm string, in ListSessions) (SessionList, error) {
	return post[SessionList](ctx, c, firm, "sessions/list", in)
}

// RevokeSessions ends the sessions of a contact, and the links on their way to it.
func (c *Client) RevokeSessions(ctx context.Context, firm, email string) (ContactChanged, error) {
	return post[ContactChanged](ctx, c, firm, "sessions/revoke", ByEmail{email})
}

// WaitingBrowsers returns the browsers that wait for a sign-in email to the contact.
func (c *Client) WaitingBrowsers(ctx context.Context, firm, email string) (WaitingBrowsers, error) {
	return post[WaitingBrowsers](ctx, c, firm, "contacts/waiting", ByEmail{email})
}

// PhoneCode makes a code to read to the contact over the phone.
func (c *Client) PhoneCode(ctx context.Context, firm string, in PhoneCode) (PhoneCodeMade, error) {
	return post[PhoneCodeMade](ctx, c, firm, "contacts/phone-code", in)
}

// ResetLink mails the contact a link to set a password.
func (c *Client) ResetLink(ctx context.Context, firm, email string) (ResetLinkSent, error) {
	return post[ResetLinkSent](ctx, c, firm, "reset-link", ByEmail{email})
}

// MailLink has a contact's lasting link mailed to them.
func (c *Client) MailLink(ctx context.Context, firm, email string) (LinkMailed, error) {
	return post[LinkMailed](ctx, c, firm, "contacts/link", ByEmail{email})
}

// Mails returns one page of the emails that wait, or of those that failed.
func (c *Client) Mails(ctx context.Context, firm string, in ListMail) (MailList, error) {
	return post[MailList](ctx, c, firm, "mail/list", in)
}

// RetryMail has an email tried again now.
func (c *Client) RetryMail(ctx context.Context, firm, id string) (MailRetried, error) {
	return post[MailRetried](ctx, c, firm, "mail/retry", RetryMail{id})
}

// TestMail sends an email that says only that it is a test, and returns the dialogue with the mail
// server.
func (c *Client) TestMail(ctx context.Context, firm, email string) (MailTested, error) {
	return post[MailTested](ctx, c, firm, "mail/test", TestMail{email})
}

// Timeline returns what happened around an address.
func (c *Client) Timeline(ctx context.Context, firm string, in TimelineOf) (Timeline, error) {
	return post[Timeline](ctx, c, firm, "contacts/timeline", in)
}

// Events returns one page of events.
func (c *Client) Events(ctx context.Context, firm string, in ListEvents) (EventList, error) {
	return post[EventList](ctx, c, firm, "audit/list", in)
}

// Files returns the files of a firm that the Caddyfile names, with their states.
func (c *Client) Files(ctx context.Context, firm string) (FileList, error) {
	return post[FileList](ctx, c, firm, "files/list", struct{}{})
}

// Strangers returns the addresses without a contact for which a mail was requested.
func (c *Client) Strangers(ctx context.Context, firm string) (StrangerList, error) {
	return post[StrangerList](ctx, c, firm, "audit/unknown", struct{}{})
}

// PublishReport sends a report's file, in.Body, as it is read.
func (c *Client) PublishReport(ctx context.Context, firm string, in PublishReport) (ReportChanged, error) {
	body, pipe := io.Pipe()
	form := multipart.NewWriter(pipe)
	go func() {
		err := form.WriteField("company", in.Company)
		if err == nil && in.Title != "" {
			err = form.WriteField("title", in.Title)
		}
		if err == nil && in.Notify {
			err = form.WriteField("notify", "true")
		}
		var file io.Writer
		if err == nil {
			file, err = form.CreateFormFile("file", in.Name)
		}
		if err == nil {
			_, err = io.Copy(file, in.Body)
		}
		if err == nil {
			err = form.Close()
		}
		pipe.CloseWithError(err) // nil: all was sent
	}()
	defer body.Close() // which ends the goroutine where the server has heard enough
	var out ReportChanged
	resp, err := c.send(ctx, http.MethodPost, "/doorpost/"+url.PathEscape(firm)+"/reports/publish", body, map[string]string{"Content-Type": form.FormDataContentType()})
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("reading the server's answer: %w", err)
	}
	return out, nil
}

// Reports returns one page of reports, the newest first.
func (c *Client) Reports(ctx context.Context, firm string, in ListReports) (ReportList, error) {
	return post[ReportList](ctx, c, firm, "reports/list", in)
}

// RemoveReport removes a report.
func (c *Client) RemoveReport(ctx context.Context, firm, id string) (ReportChanged, error) {
	return post[ReportChanged](ctx, c, firm, "reports/remove", ByReport{id})
}

// ImportOptions are how a CSV file is imported.
type ImportOptions struct {
	DryRun bool // change nothing
	directory.ImportOptions
}

// Import sends a CSV file of contacts or companies, and tells progress, if any, how
// much of it is written.
func (c *Client) Import(ctx context.Context, firm string, kind directory.Kind, file io.Reader, options ImportOptions, progress func(Progress)) (Imported, error) {
	query := url.Values{"dry_run": {strconv.FormatBool(options.DryRun)}}
	if options.IgnoreColumns {
		query.Set("ignore_columns", "true")
	}
	if options.SkipBadRows {
		query.Set("skip_bad_rows", "true")
	}
	for from, to := range options.Columns {
		query.Add("column", from+"="+to)
	}
	path := fmt.Sprintf("/doorpost/%s/%s/import?%s", url.PathEscape(firm), kind, query.Encode())
	resp, err := c.send(ctx, http.MethodPost, path, file, map[string]string{"Content-Type": "text/csv", "Accept": ndjson})
	if err != nil {
		return Imported{}, err
	}
	defer resp.Body.Close()
	lines := json.NewDecoder(resp.Body)
	for {
		var line importLine
		switch err := lines.Decode(&line); {
		case err != nil:
			return Imported{}, fmt.Errorf("the answer broke off, so it isn't known whether the file was imported: %w", err)
		case line.Error != nil:
			return Imported{}, line.Error
		case line.Result != nil:
			return *line.Result, nil
		case line.Progress != nil && progress != nil:
			progress(*line.Progress)
		}
	}
}

// Backup writes a copy of the store to w and returns its length in bytes. With an
// error, what was written is no copy.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	resp, err := c.send(ctx, http.MethodPost, "/doorpost/backup", strings.NewReader("{}"), map[string]string{"Content-Type": "application/json"})
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		err = fmt.Errorf("the backup broke off after %d bytes: %w", n, err)
	}
	return n, err
}

func post[Out any](ctx context.Context, c *Client, firm, action string, in any) (out Out, err error) {
	err = c.do(ctx, http.MethodPost, "/doorpost/"+url.PathEscape(firm)+"/"+action, in, &out)
	return out, err
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	body, header := io.Reader(nil), map[string]string{}
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body, header["Content-Type"] = bytes.NewReader(b), "application/json"
	}
	resp, err := c.send(ctx, method, path, body, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	return nil
}

// send returns an answer of status 200, whose body the caller closes.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader, header map[string]string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.Base+path, body)
	if err != nil {
		return nil, err
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, refusal(resp)
}

// refusal makes an Error of an answer. Caddy itself refuses too, with the "error" alone
// or in plain text.
func refusal(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return fmt.Errorf("reading the server's answer: %w", err)
	}
	out := &Error{}
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if kind != "application/json" || json.Unmarshal(body, out) != nil || out.Reason == "" {
		text, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		out = &Error{Reason: cmp.Or(text, resp.Status)}
	}
	out.Status = resp.StatusCode
	return out
}

// Code returns the code of an *Error, or "" for every other error.
func Code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}
