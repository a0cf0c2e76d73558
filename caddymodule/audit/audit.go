// Package audit records security-relevant events for operators. Each event is a line in the
// log, a record in the store, and a count.
//
// Events contain the opaque IDs of contacts and sessions, masked addresses, and never a token,
// code, cookie or password. Whole addresses are only in the list of addresses without a
// contact (see Log.UnknownAddresses), which is sealed and short.
//
// Start reading at Log.Record; trail.go stores events, flood.go drops events of floods,
// unknown.go is the list of unknown addresses, scanner.go detects programs that open links.
package audit

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Kind is the kind of an event, one of those in kinds.
type Kind string

const (
	Requested       Kind = "asked"          // a visitor requested a mail with a link
	Unknown         Kind = "unknown"        // … for an address without a contact
	Disabled        Kind = "disabled"       // … for a contact who is disabled
	Limited         Kind = "limited"        // … too often, or while enough links are active
	Delayed         Kind = "delayed"        // … too soon after the last mail, so this one is delayed
	Queued          Kind = "queued"         // a mail was queued
	Notified        Kind = "notified"       // a notice to the contact was queued
	Dropped         Kind = "dropped"        // … and not sent, because the contact was removed or left the company
	Waiting         Kind = "waiting"        // an attempt to send it failed; it is tried again
	Sent            Kind = "sent"           // the mail server accepted it
	Refused         Kind = "refused"        // … or rejected it for good
	Late            Kind = "late"           // … or didn't accept it in time
	Opened          Kind = "opened"         // a link was opened, without being used
	OpenedOld       Kind = "opened-old"     // … that was used, replaced or has expired
	UnknownLink     Kind = "unknown-link"   // … that never existed
	WrongCode       Kind = "wrong-code"     // a wrong code was entered
	WrongAddress    Kind = "wrong-mail"     // the address entered on a link's page wasn't the link's
	WrongPassword   Kind = "wrong-password" // a wrong password was entered
	SignedIn        Kind = "signed-in"
	SignedOut       Kind = "signed-out"
	Entered         Kind = "entered"          // a member of staff viewed a company's pages
	Fetched         Kind = "downloaded"       // a contact downloaded a report
	PasswordSet     Kind = "password-set"     // a contact set a password
	PasswordRemoved Kind = "password-removed" // … or no longer has one
	Changed         Kind = "changed"          // an operator, or a file of the Caddyfile, changed something
	Untrusted       Kind = "untrusted-record" // a record in the store was not sealed with any of the secrets
)

// Text is Event.Method of events about text messages.
const Text = "text"

// SetPassword is Event.What for links that set a password, and the mails with them.
const SetPassword = "set-password"

// kinds holds all kinds, each with whether floods of it are sampled: those that anybody can
// cause without effort. Sampled events without a contact have a history of their own, so that
// they don't push out those of contacts.
var kinds = map[Kind]bool{
	Requested: true, Unknown: true, Disabled: true, Limited: true, Delayed: true, Opened: true, OpenedOld: true, UnknownLink: true, WrongCode: true, WrongAddress: true, WrongPassword: true, Untrusted: true,
	Queued: false, Notified: false, Dropped: false, Waiting: false, Sent: false, Refused: false, Late: false, SignedIn: false, SignedOut: false, Entered: false, Fetched: false, PasswordSet: false, PasswordRemoved: false, Changed: false,
}

// sampled reports whether floods of the kind are sampled; unknown kinds are.
func (k Kind) sampled() bool {
	cheap, known := kinds[k]
	return cheap || !known
}

// messages are the log messages of the kinds.
var messages = map[Kind]string{
	Requested: "mail requested", Unknown: "mail requested for an unknown address", Disabled: "mail requested for a disabled contact",
	Limited: "mail refused: over the limit", Delayed: "mail delayed", Queued: "mail queued", Notified: "notice queued", Dropped: "notice dropped", Waiting: "mail could not be sent yet",
	Sent: "mail sent", Refused: "mail rejected", Late: "mail not sent in time",
	Opened: "link opened", OpenedOld: "inactive link opened", UnknownLink: "unknown link opened",
	WrongCode: "wrong code", WrongAddress: "wrong address on a link's page", WrongPassword: "wrong password",
	SignedIn: "signed in", SignedOut: "signed out", Entered: "company viewed by staff", Fetched: "report downloaded",
	PasswordSet: "password set", PasswordRemoved: "password removed", Changed: "change made", Untrusted: "untrusted record",
}

// message returns the log message of the kind.
func (k Kind) message() string { return cmp.Or(messages[k], string(k)) }

// Event is one event. Empty fields are left out.
type Event struct {
	ID   string    `json:"-"` // set by Record or With, ordered by time
	Time time.Time `json:"-"` // set with ID, in microseconds, UTC

	Kind      Kind       `json:"event"`
	Contact   string     `json:"contact,omitempty"` // ID
	Session   string     `json:"session,omitempty"` // the session's handle
	Address   string     `json:"address,omitempty"` // masked
	Method    string     `json:"method,omitempty"`  // of a sign-in, or of the proof for a change of the password; Text where it is about a text in place of a mail
	Agent     string     `json:"agent,omitempty"`   // the browser in plain words
	IP        netip.Addr `json:"ip,omitzero"`
	Request   string     `json:"request,omitempty"`   // ID of the mail request, the same in all its events
	Automatic bool       `json:"automatic,omitempty"` // see Automatic
	Reason    string     `json:"reason,omitempty"`    // why the mail server rejected it: its codes and text

	By      string   `json:"by,omitempty"`      // with Changed: "admin", "file" or "staff"
	Staff   string   `json:"staff,omitempty"`   // … with "staff": the contact's ID
	Token   string   `json:"token,omitempty"`   // … ID of the service token by which it was done, with By "token", or that was changed
	What    string   `json:"what,omitempty"`    // … the action, such as "contacts/disable". Also SetPassword; with Untrusted, the bucket; with Notified, the kind of mail
	Company string   `json:"company,omitempty"` // … ID of the company, if the action was about one. Also with Entered and Notified
	Fields  []string `json:"fields,omitempty"`  // … changed fields, without values
	Count   int      `json:"count,omitempty"`   // … number of rows changed or sessions ended

	// Report is the ID of a report that was published, removed or downloaded, and Title its title, which isn't logged.
	Report string `json:"report,omitempty"`
	Title  string `json:"title,omitempty"`

	More int `json:"more,omitempty"` // a summary of so many further events of the kind

	// Whole is the address as entered. It isn't logged or stored, except as a Mark, from which
	// the address can be recognized but not read (see Log.Marks), if Contact is empty. With
	// Unknown, it also goes into the list of unknown addresses.
	Whole address.Address `json:"-"`
	Mark  string          `json:"mark,omitempty"` // set when the event is stored

	// Lost holds the addresses that a change removed from the contact. Only their Marks are
	// stored, so that a search for such an address finds its former contact.
	Lost      []address.Address `json:"-"`
	LostMarks []string          `json:"lost,omitempty"`
}

// Log records the events of one firm for one configuration.
type Log struct {
	Logger   *slog.Logger    // adds the firm to its lines
	Keys     *secret.Keyring // seals stored events
	EventLog *EventLog       // stores and counts events; nil: only log lines
}

// Record records the event. It returns no error and never waits: the event is stored within a
// second, and a killed process loses the events of that second.
func (l *Log) Record(ctx context.Context, e Event) {
	if l.EventLog == nil || l.EventLog.add(l, &e) {
		l.line(ctx, e)
	}
}

// With returns the event and the Ops that store it, for events that must be stored exactly if
// a change is made: apply the Ops in the transaction of the change, then call Record with the
// returned event.
func (l *Log) With(e Event) (Event, []store.Op) {
	if l.EventLog == nil {
		return e, nil
	}
	return l.EventLog.with(l, e)
}

// Marks returns the possible Marks of an address, one for each secret.
func (l *Log) Marks(a address.Address) (all []string) {
	for _, mac := range l.Keys.MACs(markPurpose, string(a)) {
		all = append(all, mac[:markLength])
	}
	return all
}

// line logs the event.
func (l *Log) line(ctx context.Context, e Event) {
	attrs := make([]slog.Attr, 0, 12)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("event", string(e.Kind))
	add("contact", e.Contact)
	add("session", e.Session)
	add("address", e.Address)
	add("method", e.Method)
	add("agent", e.Agent)
	add("request", e.Request)
	if e.IP.IsValid() {
		add("ip", e.IP.String())
	}
	add("reason", e.Reason)
	add("by", e.By)
	add("staff", e.Staff)
	add("token", e.Token)
	add("what", e.What)
	add("company", e.Company)
	add("report", e.Report)
	add("fields", strings.Join(e.Fields, ","))
	if e.Automatic {
		attrs = append(attrs, slog.Bool("automatic", true))
	}
	if e.Count > 0 {
		attrs = append(attrs, slog.Int("count", e.Count))
	}
	message := e.Kind.message()
	if e.More > 0 {
		message += ": further events, not logged singly"
		attrs = append(attrs, slog.Int("more", e.More))
	}
	l.Logger.LogAttrs(ctx, slog.LevelInfo, message, attrs...)
}
