package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// MailJobs prepares the mails of a firm and counts them. The workers of the outbox call it. Set its
// fields in one literal before use.
type MailJobs struct {
	Directory   *directory.Directory
	Tokens      *token.Tokens
	Devices     *limit.Devices
	Mails       *limit.Mails
	Networks    *limit.Networks
	Messages    *brand.Messages
	Audit       *audit.Log
	Sites       *site.Sites
	Legacy      *legacy.Rules // where the pages of companies are; nil: there are none
	Prefix      string        // of our own pages, such as "/-"
	NoPasswords bool          // the firm has no passwords
	Now         func() time.Time

	Announcements *Announcements
}

// Prepare makes the mail of a committed request, in a worker, long after the visitor
// has had their answer: who is it, may they have a link, which one. A request that
// comes to nothing just ends.
func (j *MailJobs) Prepare(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	if r.Kind == kindChanged || r.Kind == kindNewDevice {
		return j.prepareNotification(ctx, r)
	}
	if brand.IsNotice(r.Kind) {
		return j.prepareNotice(ctx, r)
	}
	switch r.Kind {
	case kindAnnouncement:
		return j.Announcements.feed(ctx, r)
	case brand.KindPortalUpdate:
		return j.prepareAnnouncement(ctx, r)
	case kindPreview:
		return j.preparePreview(ctx, r)
	}
	var ask token.MailRequest
	if err := json.Unmarshal(r.Payload, &ask); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	event := audit.Event{Address: ask.Address.Masked(), Request: ask.ID, What: EventOf(ask.Purpose), Agent: ask.Agent, IP: ask.IP, Whole: ask.Address}
	note := func(kind audit.Kind) func() {
		event.Kind = kind
		return func() { j.Audit.Record(ctx, event) }
	}
	nothing := func(kind audit.Kind) (outbox.Prepared, error) {
		return outbox.Prepared{Done: note(kind)}, nil
	}
	if ask.Purpose == token.SetPassword && j.NoPasswords {
		return outbox.Prepared{}, nil // they were switched off since
	}
	c, err := j.Directory.ByEmail(ctx, ask.Address)
	if errors.Is(err, directory.ErrUnknown) {
		return nothing(audit.Unknown)
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	event.Contact = c.ID
	if c.Disabled {
		return nothing(audit.Disabled)
	}
	// To the stored address that matched, never to the typed one.
	i := slices.Index(c.Emails, ask.Address)
	if i < 0 {
		return nothing(audit.Unknown)
	}
	if ask.Known, err = j.Devices.Knows(ctx, ask.Device, c.ID); err != nil {
		return outbox.Prepared{}, err
	}
	var ready time.Time
	issued, err := j.Tokens.Issue(ctx, ask, token.Recipient{Contact: c.ID, Generation: c.Generation, Address: c.Emails[i]})
	if errors.Is(err, token.ErrTooMany) {
		ready = j.Now().Add(fullWait) // with others that wait, until one of the links is over
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	spent, err := j.spendMail(ctx, ask, c, ready)
	switch {
	case errors.Is(err, limit.ErrOver):
		return nothing(audit.Limited)
	case err != nil:
		return outbox.Prepared{}, err
	case spent.Again:
		return outbox.Prepared{Later: spent.Later, Ops: spent.Ops}, nil
	case !spent.Later.IsZero():
		return outbox.Prepared{Later: spent.Later, Ops: spent.Ops, Done: note(audit.Delayed)}, nil
	}
	message, err := j.write(ctx, ask, c, c.Emails[i], issued)
	if err != nil {
		return outbox.Prepared{}, err
	}
	// A device is known as such before it is known whose it is: on one of somebody else's, the request
	// has had room in the queue, but its mail goes out in its turn.
	return outbox.Prepared{Message: message, Ops: append(issued.Ops, spent.Ops...), Ref: ask.ID + " " + issued.ID,
		Common: ask.LimitKey() == "", Done: note(audit.Queued)}, nil
}

// fullWait is after how long it is looked again whether another link of a contact may be made.
const fullWait = time.Minute

// spendMail counts one more mail to the contact, under the key of the request, not to be made
// before it may be.
func (j *MailJobs) spendMail(ctx context.Context, ask token.MailRequest, c directory.Contact, ready time.Time) (limit.Spent, error) {
	purse, budget := limit.Key{Contact: c.ID, Scope: ask.LimitKey()}, limit.ForClients
	if c.Role == directory.Staff {
		budget = limit.ForStaff
	}
	return j.Mails.Spend(ctx, purse, budget, limit.Request{
		ID: ask.ID, Network: j.Networks.Pseudonym(ask.IP), Ready: ready, Until: ask.At.Add(token.MaxMailDelay),
	}, j.Now())
}

// Attempt is called before each hand-over of a mail: its link's life begins anew, if it
// has one. The mail of an announcement that was stopped is dropped.
func (j *MailJobs) Attempt(ctx context.Context, ref string, at time.Time) ([]store.Op, error) {
	if id, _, ok := parseAnnouncementRef(ref); ok {
		wanted, err := j.Announcements.wanted(ctx, id)
		if err == nil && !wanted {
			err = outbox.ErrDrop
		}
		return nil, err
	}
	_, link, ok := strings.Cut(ref, " ")
	if !ok {
		return nil, nil
	}
	ops, err := j.Tokens.HandOver(ctx, link, at, false)
	if errors.Is(err, token.ErrInactive) || errors.Is(err, token.ErrUnknown) {
		return nil, outbox.ErrDrop
	}
	return ops, err
}

// Sent is called when the mail server has accepted a mail.
func (j *MailJobs) Sent(ctx context.Context, ref string, at time.Time) ([]store.Op, error) {
	_, link, ok := strings.Cut(ref, " ")
	if !ok {
		return nil, nil
	}
	return j.Tokens.HandOver(ctx, link, at, true)
}

// Failed is called when a mail ends unsent: refused for good, too late, or dropped by Attempt.
func (j *MailJobs) Failed(ctx context.Context, ref string, _ time.Time, why error) ([]store.Op, error) {
	if id, contact, ok := parseAnnouncementRef(ref); ok {
		code := UnsentLate
		switch {
		case errors.Is(why, outbox.ErrDrop):
			code = UnsentStopped
		case errors.Is(why, outbox.ErrRefused):
			code = UnsentRefused
		}
		return j.Announcements.end(ctx, id, contact, code, outbox.Reason(why))
	}
	_, link, ok := strings.Cut(ref, " ")
	if !ok || errors.Is(why, outbox.ErrDrop) {
		return nil, nil
	}
	if errors.Is(why, outbox.ErrRefused) {
		return j.Tokens.Refused(ctx, link)
	}
	return j.Tokens.GiveUp(ctx, link)
}

// Ended is called once a mail has left the outbox: sent, or, with why, unsent.
func (j *MailJobs) Ended(ctx context.Context, request string, why error) {
	j.ended(ctx, "", request, why)
}

func (j *MailJobs) ended(ctx context.Context, method, request string, why error) {
	event := audit.Event{Kind: audit.Sent, Method: method, Request: request}
	switch {
	case errors.Is(why, outbox.ErrRefused):
		event.Kind, event.Reason = audit.Refused, outbox.Reason(why)
	case why != nil:
		event.Kind = audit.Late
		if reason := outbox.Reason(why); why.Error() != outbox.ErrLate.Error() {
			event.Reason = reason
		}
	}
	j.Audit.Record(ctx, event)
}

// Waiting is called when a try to send a mail failed and it will be tried again: at first,
// and when the reason changes.
func (j *MailJobs) Waiting(ctx context.Context, request, reason string) {
	j.Audit.Record(ctx, audit.Event{Kind: audit.Waiting, Request: request, Reason: reason})
}

// write makes the mail that was asked for.
func (j *MailJobs) write(ctx context.Context, ask token.MailRequest, c directory.Contact, to address.Address, issued token.Issued) (*outbox.Message, error) {
	mail, err := j.mailTo(ctx, c, to, ask.Languages)
	if err != nil {
		return nil, err
	}
	origin := j.Sites.Named(ask.Site)
	link := origin.JoinPath(j.Prefix, "link")
	if ask.Purpose == token.SetPassword {
		link = origin.JoinPath(j.Prefix, "password", "set")
	}
	link.RawQuery = "t=" + issued.Token
	mail.Link, mail.Code, mail.Life, mail.AskedAt, mail.Agent = link.String(), issued.Code, j.Tokens.Life, ask.At.Local(), ask.Agent
	if ask.Staff {
		mail.Life = token.StaffLife
	}
	var letter brand.Message
	if ask.Purpose == token.SetPassword {
		letter, err = j.Messages.SetPassword(brand.SetPassword{Mail: mail, ByStaff: ask.Staff})
	} else {
		letter, err = j.Messages.SignIn(brand.SignIn(mail))
	}
	if err != nil {
		return nil, fmt.Errorf("writing a mail with a link: %w", err)
	}
	return messageOf(letter, ask.At)
}

// prepareNotification makes a mail that tells of something, to the main address.
func (j *MailJobs) prepareNotification(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	var n notification
	if err := json.Unmarshal(r.Payload, &n); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	c, err := j.Directory.ByID(ctx, n.Contact)
	if errors.Is(err, directory.ErrUnknown) {
		return outbox.Prepared{}, nil
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	help := "help"
	switch {
	case r.Kind == kindNewDevice && !n.Password:
		help = "account" // where they sign out others
	case j.NoPasswords:
		help = "sign-in"
	}
	mail, err := j.mailTo(ctx, c, c.Emails[0], n.Languages)
	if err != nil {
		return outbox.Prepared{}, err
	}
	mail.Link, mail.AskedAt, mail.Agent = j.Sites.URL.JoinPath(j.Prefix, help).String(), n.At.Local(), n.Agent
	var letter brand.Message
	if r.Kind == kindNewDevice {
		letter, err = j.Messages.NewDevice(brand.NewDevice{Mail: mail, ByPassword: n.Password})
	} else {
		letter, err = j.Messages.PasswordChanged(brand.PasswordChanged{Mail: mail, Removed: n.Removed})
	}
	if err != nil {
		return outbox.Prepared{}, fmt.Errorf("writing a mail about what was done: %w", err)
	}
	message, err := messageOf(letter, n.At)
	return outbox.Prepared{Message: message, Ref: r.ID}, err
}

// recipientOf returns who gets a notice, and the company that it is about. A kind of event says that the contact
// may not see any more what it is about, so that the notice ends.
func (j *MailJobs) recipientOf(ctx context.Context, n noticeRequest) (c directory.Contact, company directory.Company, ended audit.Kind, err error) {
	c, err = j.Directory.ByID(ctx, n.Contact)
	if err == nil {
		company, err = j.Directory.Company(ctx, n.Company)
	}
	switch {
	case errors.Is(err, directory.ErrUnknown):
		return c, company, audit.Dropped, nil
	case err == nil && c.Disabled:
		return c, company, audit.Disabled, nil
	case err == nil && !reaches(c, n.Company):
		return c, company, audit.Dropped, nil
	}
	return c, company, "", err
}

// prepareNotice makes the mail of a notice, unless the contact may not see any more what it is about.
func (j *MailJobs) prepareNotice(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	var n noticeRequest
	if err := json.Unmarshal(r.Payload, &n); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	c, company, ended, err := j.recipientOf(ctx, n)
	if err != nil {
		return outbox.Prepared{}, err
	}
	if ended != "" {
		return outbox.Prepared{Done: func() {
			j.Audit.Record(ctx, audit.Event{Kind: ended, Contact: n.Contact, Address: n.Email.Masked(), Request: r.ID, What: r.Kind, Company: n.Company})
		}}, nil
	}
	to := n.Email
	if !slices.Contains(c.Emails, to) {
		to = c.Email() // it isn't theirs any more
	}
	mail, err := j.mailTo(ctx, c, to, "")
	if err != nil {
		return outbox.Prepared{}, err
	}
	mail.Link, mail.AskedAt = j.pageLink(n.Path, n.Company), n.At.Local()
	letter, err := j.Messages.Notice(brand.Notice{Mail: mail, Kind: r.Kind, Template: n.Template, Company: company.Name, Data: n.Data})
	if errors.Is(err, brand.ErrTemplate) { // it was there when the notice was accepted
		letter, err = j.Messages.Notice(brand.Notice{Mail: mail, Kind: r.Kind, Company: company.Name, Data: n.Data})
	}
	if err != nil {
		return outbox.Prepared{}, fmt.Errorf("writing a notice: %w", err)
	}
	message, err := messageOf(letter, n.At)
	return outbox.Prepared{Message: message, Ref: r.ID}, err
}

// prepareAnnouncement makes the mail of an announcement to one contact, unless it isn't wanted any more.
func (j *MailJobs) prepareAnnouncement(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	var n announcementRequest
	if err := json.Unmarshal(r.Payload, &n); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	alone := n.Announcement == "" // staff have had the link mailed to this contact
	wanted, err := alone, error(nil)
	if !alone {
		wanted, err = j.Announcements.wanted(ctx, n.Announcement)
	}
	if err != nil {
		return outbox.Prepared{}, err
	}
	c, err := j.Directory.ByID(ctx, n.Contact)
	if err != nil && !errors.Is(err, directory.ErrUnknown) {
		return outbox.Prepared{}, err
	}
	gone := err != nil || c.Disabled || len(c.Companies) == 0
	if !wanted || gone {
		code, event := UnsentStopped, audit.Event{Kind: audit.Dropped, Contact: n.Contact, Request: r.ID, What: r.Kind}
		if alone {
			return outbox.Prepared{Done: func() { j.Audit.Record(ctx, event) }}, nil
		}
		if gone {
			code = UnsentGone
		}
		ops, err := j.Announcements.end(ctx, n.Announcement, n.Contact, code, "")
		return outbox.Prepared{Ops: ops, Done: func() { j.Audit.Record(ctx, event) }}, err
	}
	var ops []store.Op
	ref := r.ID
	if !alone {
		ref = announcementRef(n.Announcement, n.Contact)
		if ops, wanted, err = j.Announcements.retried(ctx, n, r.ID); err != nil || !wanted {
			return outbox.Prepared{}, err
		}
	}
	mail, err := j.mailTo(ctx, c, c.Email(), "")
	if err != nil {
		return outbox.Prepared{}, err
	}
	mail.Link, mail.AskedAt = j.homeLink(c), n.At.Local()
	open := false
	for _, id := range c.Companies {
		status, err := j.Directory.StatusOf(ctx, id)
		if err != nil && !errors.Is(err, directory.ErrUnknown) {
			return outbox.Prepared{}, err
		}
		open = open || status.Token != "" && !status.Upgraded
	}
	letter, err := j.Messages.PortalUpdate(brand.PortalUpdate{Mail: mail, Open: open})
	if err != nil {
		return outbox.Prepared{}, fmt.Errorf("writing a mail of an announcement: %w", err)
	}
	message, err := messageOf(letter, n.At)
	return outbox.Prepared{Message: message, Ops: ops, Ref: ref}, err
}

// homeLink is the lasting link for a contact: of their only company's page, or of the list of their companies.
func (j *MailJobs) homeLink(c directory.Contact) string {
	if len(c.Companies) == 1 {
		return j.pageLink("", c.Companies[0])
	}
	return j.Sites.URL.Scheme + "://" + j.Sites.URL.Host + j.Prefix + "/companies"
}

// pageLink is the lasting link of a path on this site, or ("") of the company's page. Where the Caddyfile knows
// no page of companies, or mail programs would break its link, it is that of the list of companies.
func (j *MailJobs) pageLink(path, company string) string {
	origin := j.Sites.URL.Scheme + "://" + j.Sites.URL.Host
	if path == "" {
		path = j.Legacy.Page(company)
	}
	if link := origin + path; path != "" && brand.LeavesWhole(link) {
		return link
	}
	return origin + j.Prefix + "/companies"
}

// mailTo begins a mail to an address of the contact, in their language. accept are the languages of their browser, where one
// has asked for the mail.
func (j *MailJobs) mailTo(ctx context.Context, c directory.Contact, to address.Address, accept string) (brand.Mail, error) {
	companies, err := companyNames(ctx, j.Directory, c)
	return brand.Mail{To: string(to), FirstName: c.FirstName, LastName: c.LastName, Companies: companies, Language: j.Messages.Language(c.Locale, accept)}, err
}

func messageOf(letter brand.Message, at time.Time) (*outbox.Message, error) {
	data, err := letter.Bytes(at)
	if err != nil {
		return nil, fmt.Errorf("writing a mail: %w", err)
	}
	return &outbox.Message{From: letter.From, To: letter.To, Data: data}, nil
}

// companyNames returns the names of the contact's companies, as far as there are such.
func companyNames(ctx context.Context, book *directory.Directory, c directory.Contact) ([]string, error) {
	var names []string
	for _, id := range c.Companies {
		company, err := book.Company(ctx, id)
		if errors.Is(err, directory.ErrUnknown) {
			continue
		} else if err != nil {
			return nil, err
		}
		names = append(names, company.Name)
	}
	return names, nil
}
