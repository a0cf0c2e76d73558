// Package audit tells the operator what happened at the door: one call, one event. An
// event is a line in the log, a record in the store, and a count.
//
// It names contacts and sessions by their opaque IDs, addresses in part, and never a
// token, code, cookie or password. The one place that holds whole addresses of visitors
// is the list of those that are no contact's (see Log.Strangers), sealed and short.
//
// Begin reading at Log.Record; trail.go keeps events, flood.go holds back floods,
// strangers.go is that list, scanner.go guesses who opened a link.
package audit

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Kind is what happened. The kinds are a closed set, see kinds.
type Kind string

// What happens at the door.
const (
	Asked     Kind = "asked"          // somebody asked for a mail with a link
	Unknown   Kind = "unknown"        // … with an address that is no contact's
	Disabled  Kind = "disabled"       // … with the address of a contact who is switched off
	Limited   Kind = "limited"        // … too often, or with enough links alive
	Delayed   Kind = "delayed"        // … too soon after the last mail: this one is put off for a while
	Queued    Kind = "queued"         // the mail was made
	Notified  Kind = "notified"       // a notice to the contact was accepted
	Dropped   Kind = "dropped"        // … and not sent: the contact was removed, or left the company, before
	Waiting   Kind = "waiting"        // a try to send it failed; it is tried again
	Sent      Kind = "sent"           // the mail server accepted it
	Refused   Kind = "refused"        // … or refused it for good
	Late      Kind = "late"           // … or couldn't take it in time
	Opened    Kind = "opened"         // a link was opened, without being spent
	OpenedOld Kind = "opened-old"     // … that was used, replaced or has run out
	NoLink    Kind = "unknown-link"   // … that never was one
	WrongCode Kind = "wrong-code"     // a code was tried that doesn't work
	WrongMail Kind = "wrong-mail"     // on a link's page, the address wasn't the link's
	WrongPass Kind = "wrong-password" // a password was tried that doesn't sign in
	SignedIn  Kind = "signed-in"
	SignedOut Kind = "signed-out"
	Entered   Kind = "entered"          // staff looked at a company's pages
	Fetched   Kind = "downloaded"       // a contact downloaded a report
	PassSet   Kind = "password-set"     // a contact chose a password
	PassGone  Kind = "password-removed" // … or has none any more
	Changed   Kind = "changed"          // an operator, or a file of the Caddyfile, changed something
	Untrusted Kind = "untrusted-record" // a record in the store was sealed by none of the secrets
)

// SetPassword is What an event is about that isn't about signing in: a link to set a password,
// or the mail with it.
const SetPassword = "set-password"

// kinds are all there are, each with whether it is cheap: it costs whoever is outside
// nothing. A flood of cheap events is written down in part (see flood), and those that
// know of no contact have a place of their own, where they push out none of a contact's.
var kinds = map[Kind]bool{
	Asked: true, Unknown: true, Disabled: true, Limited: true, Delayed: true, Opened: true, OpenedOld: true, NoLink: true, WrongCode: true, WrongMail: true, WrongPass: true, Untrusted: true,
	Queued: false, Notified: false, Dropped: false, Waiting: false, Sent: false, Refused: false, Late: false, SignedIn: false, SignedOut: false, Entered: false, Fetched: false, PassSet: false, PassGone: false, Changed: false,
}

// cheap is the word of kinds; what isn't known is cheap.
func (k Kind) cheap() bool {
	cheap, known := kinds[k]
	return cheap || !known
}

// Event is one thing that happened. Empty fields are left out.
type Event struct {
	ID   string    `json:"-"` // made by Record or With, in the order of time
	Time time.Time `json:"-"` // made with it, to the microsecond, UTC

	Kind      Kind       `json:"event"`
	Contact   string     `json:"contact,omitempty"` // ID
	Session   string     `json:"session,omitempty"` // handle
	Address   string     `json:"address,omitempty"` // in part
	Method    string     `json:"method,omitempty"`  // of a sign-in, or of the proof that a password was changed by
	Agent     string     `json:"agent,omitempty"`   // the browser, in our words
	IP        netip.Addr `json:"ip,omitzero"`
	Request   string     `json:"request,omitempty"`   // ID of the request for a mail, which ties its events together
	Automatic bool       `json:"automatic,omitempty"` // see Automatic
	Reason    string     `json:"reason,omitempty"`    // why the mail server didn't take it: its codes and words

	By      string   `json:"by,omitempty"`      // with Changed: who, "admin", "file" or "staff"
	Staff   string   `json:"staff,omitempty"`   // … ID of the contact who did, with "staff"
	What    string   `json:"what,omitempty"`    // … which action, such as "contacts/disable". Also SetPassword; with Untrusted, the bucket; with Notified, the kind of mail
	Company string   `json:"company,omitempty"` // … of which company, if it was one; its id. Also with Entered and Notified
	Fields  []string `json:"fields,omitempty"`  // … which fields, without their values
	Count   int      `json:"count,omitempty"`   // … how many rows were changed or sessions ended

	// Report is the ID of the report that was published, removed or downloaded, and Title its title, which is in no line.
	Report string `json:"report,omitempty"`
	Title  string `json:"title,omitempty"`

	More int `json:"more,omitempty"` // not one event: so many more of the kind, written down together

	// Whole is the address that was typed. It is in no line and in no event, but for a Mark
	// that tells who knows it that it was this one (see Log.Marks), where Contact can't say
	// so; with Unknown it goes into the list of strangers.
	Whole address.Address `json:"-"`
	Mark  string          `json:"mark,omitempty"` // made when the event is stored

	// Lost are the addresses that a change took from the contact. What is stored of them are
	// Marks, so that whoever asks for one learns whose it was.
	Lost      []address.Address `json:"-"`
	LostMarks []string          `json:"lost,omitempty"`
}

// Log records the events of one firm, for one configuration.
type Log struct {
	Logger *slog.Logger    // its lines name the firm
	Keys   *secret.Keyring // seals what is stored
	Trail  *Trail          // keeps and counts; nil: there are only lines
}

// Record writes the event down. It never fails what it tells of, and never waits: the
// record is in the store within a second, and a process that is killed loses that
// second.
func (l *Log) Record(ctx context.Context, e Event) {
	if l.Trail == nil || l.Trail.add(l, &e) {
		l.line(ctx, e)
	}
}

// With returns the event and the Ops that store it, for what must be in the history if
// and only if it has happened: apply them together with the change, then Record the
// event that was returned.
func (l *Log) With(e Event) (Event, []store.Op) {
	if l.Trail == nil {
		return e, nil
	}
	return l.Trail.with(l, e)
}

// Marks returns what the Mark of an event is that is about this address: one for each
// secret.
func (l *Log) Marks(a address.Address) (all []string) {
	for _, mac := range l.Keys.MACs(markPurpose, string(a)) {
		all = append(all, mac[:markLength])
	}
	return all
}

// line writes the event into the log.
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
	message := "door"
	if e.More > 0 {
		message = "door: and more of the same, which have no lines of their own"
		attrs = append(attrs, slog.Int("more", e.More))
	}
	l.Logger.LogAttrs(ctx, slog.LevelInfo, message, attrs...)
}
