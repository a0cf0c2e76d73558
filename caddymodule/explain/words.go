package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

func from(s audit.UnknownAddress) string {
	if s.Agent == "" {
		return ""
	}
	return ", from " + s.Agent
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// Printable returns another server's message in a form that is safe for a terminal.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// When formats a time for people, with the date if it isn't today.
func When(t, now time.Time) string {
	t, now = t.In(time.Local), now.In(time.Local)
	if t.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format(time.DateTime)
}

// InWords describes an event, without the contact and the time.
func InWords(e admin.Event) string {
	by := func(what, in string) string {
		if e.Agent != "" {
			what += in + e.Agent
		}
		return what
	}
	if e.More > 0 {
		one := e
		one.More = 0
		return fmt.Sprintf("… and %d more of: %s", e.More, InWords(one))
	}
	if e.Method == audit.Text {
		return ofText(e)
	}
	switch e.Kind {
	case audit.Requested:
		if e.What == audit.SetPassword {
			return by("asked for an email with a link to set a password", " from ")
		}
		return by("asked for a sign-in email", " from ")
	case audit.Unknown:
		return "no email was made: the address is no contact's"
	case audit.Disabled:
		return "no email was made: the contact is disabled"
	case audit.Limited:
		if e.Contact == "" {
			return "no email was made: too many had been asked for from this network"
		}
		return "no email was made: too many had been asked for"
	case audit.Delayed:
		return "the email was put off, so soon after the last one"
	case audit.Queued:
		return "the email was made"
	case audit.Notified:
		return "a notice was made: " + aboutWhat(e)
	case audit.Dropped:
		return "the notice wasn't sent: the contact was removed, or left the company, before (" + aboutWhat(e) + ")"
	case audit.Waiting:
		return "our mail server didn't take the email yet; it is tried again (" + Printable(e.Reason) + ")"
	case audit.Sent:
		return "our mail server accepted the email"
	case audit.Refused:
		return "our mail server refused the email for good (" + Printable(e.Reason) + ")"
	case audit.Late:
		if e.Reason != "" {
			return "the email was given up: our mail server didn't take it in time (" + Printable(e.Reason) + ")"
		}
		return "the email was given up: our mail server didn't take it in time"
	case audit.Opened, audit.OpenedOld:
		return opened(e)
	case audit.UnknownLink:
		return by("a link was opened that never was one", ", in ")
	case audit.WrongCode:
		return by("typed a code that doesn't work", ", in ")
	case audit.WrongAddress:
		return by("typed another address than the email's on the link's page", ", in ")
	case audit.WrongPassword:
		return by("typed a password that doesn't sign in", ", in ")
	case audit.PasswordSet:
		return by("set a password", " in ")
	case audit.PasswordRemoved:
		return by("removed the password", " in ")
	case audit.SignedIn:
		return by("signed in by "+strings.Replace(e.Method, "phone-code", "a code over the phone", 1), " in ")
	case audit.SignedOut:
		return by("signed out", " in ")
	case audit.Entered:
		return by("looked at the pages of "+e.Company+" as staff", ", in ")
	case audit.Fetched:
		return by("downloaded the report "+reportInWords(e), ", in ")
	case audit.Changed:
		return changedInWords(e)
	case audit.Untrusted:
		return "a " + e.What + " record in the store counts for nothing: somebody forged or damaged it, or its secret is gone"
	}
	return string(e.Kind)
}

// ofText is InWords for text messages.
func ofText(e admin.Event) string {
	switch e.Kind {
	case audit.Notified:
		return "a text to " + e.Address + " was made: " + aboutWhat(e)
	case audit.Dropped, audit.Disabled:
		return "the text wasn't sent: the contact was removed or disabled, left the company, or wants no texts (" + aboutWhat(e) + ")"
	case audit.Waiting:
		return "the text service didn't take the text yet; it is tried again (" + Printable(e.Reason) + ")"
	case audit.Sent:
		return "the text service accepted the text"
	case audit.Refused:
		return "the text was refused for good (" + Printable(e.Reason) + ")"
	}
	return "the text was given up: the text service didn't take it in time"
}

// aboutWhat describes the subject of a notice.
func aboutWhat(e admin.Event) string {
	what := strings.ReplaceAll(e.What, "-", " ")
	if e.Company != "" {
		what += " about " + e.Company
	}
	return what
}

func opened(e admin.Event) string {
	what, who := "the link was opened", "another browser than the one that asked"
	set := e.What == audit.SetPassword
	switch {
	case set && e.Kind == audit.OpenedOld:
		what, who = "a link to set a password that is over was opened", "a browser"
	case set:
		what, who = "the link to set a password was opened", "a browser"
	case e.Kind == audit.OpenedOld:
		what, who = "a link that is over was opened", "a browser"
	}
	switch {
	case e.Scanner || e.Automatic:
		return what + " by what looks like a mail scanner"
	case e.Agent != "":
		who = e.Agent
		if e.Kind == audit.Opened && !set {
			who += ", not the browser that asked"
		}
	}
	return what + " in " + who
}

func changedInWords(e admin.Event) string {
	who := "an operator"
	if e.By == "file" {
		who = "a file of the Caddyfile"
	} else if e.By == "staff" {
		who = "one of your staff"
	} else if e.By == "token" {
		who = "a program with the service token " + e.Token
	}
	if e.What == "contacts/phone-code" {
		what := who + " made a code to read to them over the phone"
		if e.Agent != "" {
			what += ", for " + e.Agent
		}
		return what
	}
	if e.What == "upgrade" {
		return who + " " + upgradeInWords(e)
	}
	switch e.What {
	case "tokens/create":
		return who + " made the service token " + e.Token
	case "tokens/revoke":
		return who + " revoked the service token " + e.Token
	}
	if e.What == "notify" {
		return who + " sent a notice about " + e.Company + " to " + Count(e.Count, "contact", "contacts")
	}
	switch e.What {
	case "announce":
		return who + " began an announcement to " + Count(e.Count, "contact", "contacts")
	case "preview":
		return who + " sent a preview of an email"
	case "announce/stop":
		return who + " stopped the announcement, which " + Count(e.Count, "contact has", "contacts have") + " by then"
	case "reports/publish":
		return who + " published the report " + reportInWords(e)
	case "reports/remove":
		return who + " removed the report " + reportInWords(e)
	}
	if e.What == "contacts/link" {
		return who + " had their lasting link mailed to them"
	}
	if e.What == "reset-link" {
		return who + " had a link mailed to them, to choose a password"
	}
	switch e.What {
	case "mail/retry":
		return who + " had the email tried again"
	case "mail/test":
		return who + " sent a test email"
	}
	what := map[string]string{
		"contacts/add": "added the contact", "contacts/set": "changed the contact", "contacts/disable": "disabled the contact",
		"contacts/enable": "enabled the contact", "contacts/remove": "removed the contact", "contacts/import": "imported contacts",
		"contacts/upsert": "added or changed the contact", "companies/upsert": "added or changed the company",
		"companies/add": "added the company", "companies/set": "changed the company", "companies/remove": "removed the company",
		"companies/restore": "restored the company",
		"companies/import":  "imported companies", "sessions/revoke": "signed the contact out everywhere",
		"contacts/load": "brought contacts", "companies/load": "brought companies",
		"backup": "made a backup", "restore": "restored a backup",
	}[e.What]
	if e.What == "contacts/load" && e.Contact != "" {
		what = "added the contact"
		if len(e.Fields) > 0 {
			what = "changed the contact"
		}
	}
	if what == "" {
		what = "did " + e.What
	}
	if e.Company != "" {
		what += " " + e.Company
	}
	if len(e.Fields) > 0 {
		what += fmt.Sprint(" ", e.Fields)
	}
	switch {
	case e.Count == 0:
	case e.Contact != "":
		what += ", which signed out " + Count(e.Count, "browser", "browsers")
	case e.What == "companies/restore":
		what += ", which gave it back to " + Count(e.Count, "contact", "contacts")
	case e.Company != "":
		what += ", which took it from " + Count(e.Count, "contact", "contacts")
	default:
		what += " (" + Count(e.Count, "row", "rows") + ")"
	}
	return who + " " + what
}

// reportInWords names a report.
func reportInWords(e admin.Event) string {
	return fmt.Sprintf("“%s” of %s", e.Title, e.Company)
}

func upgradeInWords(e admin.Event) string {
	what := "upgraded "
	if slices.Contains(e.Fields, "undo") {
		what = "undid the upgrade of "
	}
	if e.Company != "" {
		return what + e.Company
	}
	return what + Count(e.Count, "company", "companies")
}

// Count formats a number of things: "1 contact", "2 contacts".
func Count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Person formats a contact for a sentence: Ann Lee <ann@example.com>.
func Person(c directory.Contact) string {
	if c.Name() == "" {
		return string(c.Email())
	}
	return fmt.Sprintf("%s <%s>", c.Name(), c.Email())
}

// InWordsBy is InWords with the name of the member of staff who made the change; "" leaves it open.
func InWordsBy(e admin.Event, staff string) string {
	if staff == "" || e.By != "staff" {
		return InWords(e)
	}
	return strings.Replace(InWords(e), "one of your staff", staff, 1)
}

// Email names a kind of emails, at the beginning of a line.
func Email(kind string) string {
	if name := emailNames[kind]; name != "" {
		return name
	}
	words := []rune(strings.ReplaceAll(kind, "-", " "))
	if len(words) == 0 {
		return "Email"
	}
	words[0] = unicode.ToUpper(words[0])
	return string(words)
}

var emailNames = map[string]string{
	"sign-in": "Sign-in link", "set-password": "Link to set a password", "password-changed": "Word that the password was changed",
	"new-device": "Word of a sign-in on a new device", "new-questions": "Notice of new questions", "report-published": "Notice of a new report",
}

// Topic is a kind of events that people look for together.
type Topic struct {
	ID, Name string
	Kinds    []audit.Kind
}

// Topics are those by which the log is searched.
var Topics = []Topic{
	{"sign-ins", "Sign-ins, sign-outs and passwords", []audit.Kind{audit.SignedIn, audit.SignedOut, audit.PasswordSet, audit.PasswordRemoved}},
	{"emails", "Emails", []audit.Kind{audit.Requested, audit.Delayed, audit.Queued, audit.Notified, audit.Dropped, audit.Waiting, audit.Sent, audit.Refused, audit.Late}},
	{"trouble", "What went wrong", []audit.Kind{audit.Unknown, audit.Disabled, audit.Limited, audit.Waiting, audit.Refused, audit.Late, audit.OpenedOld, audit.UnknownLink, audit.WrongCode, audit.WrongAddress, audit.WrongPassword, audit.Untrusted}},
	{"changes", "Changes", []audit.Kind{audit.Changed}},
	{"looks", "Downloads, and companies viewed by staff", []audit.Kind{audit.Fetched, audit.Entered}},
}
