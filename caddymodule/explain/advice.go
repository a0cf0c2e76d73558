// Package explain describes the events of a contact in plain words, and what to do for a person who
// can't sign in. It is used by the commands and by the staff pages, which offer the steps in their
// own form.
package explain

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// Line is a sentence of an advice.
type Line struct {
	Text string
	Step Step // the step to take; zero if none
}

// Step is an action that may help a contact to sign in.
type Step struct {
	Do      Action
	Contact string // an address of the contact concerned
	Email   string // the address to add or use
}

// Action is the kind of a Step.
type Action string

// The actions.
const (
	Enable        Action = "enable"         // let Contact sign in again
	GiveCompany   Action = "give-company"   // add Contact to a company
	AddAddress    Action = "add-address"    // let Contact also sign in with Email
	ChangeAddress Action = "change-address" // replace the address Contact
	Find          Action = "find"           // search for a contact by name
	Add           Action = "add"            // add a contact with the address Email
	Look          Action = "look"           // show the events of Contact
)

func say(texts ...string) (lines []Line) {
	for _, text := range texts {
		lines = append(lines, Line{Text: text})
	}
	return lines
}

// Advise explains the timeline and says what to do now.
func Advise(t admin.Timeline, since string, now time.Time) []Line {
	if t.Contact == nil {
		return adviceOnUnknown(t, now)
	}
	c := *t.Contact
	var lines []Line
	last, sent := lastDecisive(t.Events)
	signedOut := signedOutBy(t, now)
	switch {
	case c.Disabled:
		lines = append(lines, say("They are disabled, so no email is made, and the page shows its usual answer.")...)
		lines = append(lines, Line{"To let them in:", Step{Enable, t.Email, ""}})
	case last == nil:
		lines = append(lines, say(fmt.Sprintf("Nobody has asked for an email with an address of this contact in the last %s.", since),
			"Ask which address they type, letter by letter: the page says the same for every address.")...)
	default:
		overtaken := adviceOnChange(*last, t, now)
		if overtaken != nil {
			last, signedOut = nil, nil
		} else {
			overtaken = adviceOn(*last, t, now)
		}
		lines = append(lines, overtaken...)
	}
	if !c.Disabled {
		lines = append(lines, signedOut...)
	}
	if last != nil && sent != nil && last.Kind == audit.Sent && sent.Scanner {
		lines = append(lines, say("What opened the link looks like a mail scanner of their mail service; it can't use up the link.")...)
	}
	switch t.Sessions {
	case 0:
		lines = append(lines, say("They aren't signed in anywhere now.")...)
	default:
		lines = append(lines, say("They are signed in with "+Count(t.Sessions, "browser", "browsers")+" now.")...)
	}
	if t.NoCompany && !c.Disabled {
		lines = append(lines, say("They belong to no company, so they see no company's pages; the list of companies says “There is nothing here yet”.")...)
		lines = append(lines, Line{"To give them one:", Step{GiveCompany, t.Email, ""}})
	}
	for _, s := range t.Similar {
		lines = append(lines, say(fmt.Sprintf("Somebody asked with %s, which is no contact's: %s, last at %s%s.", s.Address, times(s.Count), When(s.Last, now), from(s)))...)
		lines = append(lines, Line{"If that was them, let them type their own. Only if it is theirs as well, and no slip:", Step{AddAddress, string(c.Email()), string(s.Address)}})
	}
	return lines
}

// lastDecisive returns the last event that shows how far the contact has got, and the last event
// that a scanner may have caused; nil if there is none.
func lastDecisive(events []admin.Event) (last, scanned *admin.Event) {
	notices := admin.NoticeRequests(events)
	for i := range events {
		e := &events[i]
		switch {
		case e.Method == audit.Text: // its link signs nobody in, and their email works or not without it
		case notices[e.Request] && e.Kind != audit.Refused: // its link signs nobody in
		case e.Scanner || e.Automatic:
			scanned = e
		case e.Kind == audit.PasswordSet || e.Kind == audit.PasswordRemoved:
			// An earlier obstacle no longer counts; a signed-in contact stays signed in.
			if last != nil && last.Kind != audit.SignedIn {
				last = e
			}
		case !slices.Contains([]audit.Kind{audit.Changed, audit.SignedOut, audit.Entered, audit.Fetched}, e.Kind):
			last = e
		}
	}
	return last, scanned
}

// adviceOnChange returns the advice if a later change has made the last event obsolete, or nil.
func adviceOnChange(last admin.Event, t admin.Timeline, now time.Time) []Line {
	email := string(t.Contact.Email())
	switch last.Kind {
	case audit.Disabled:
		return say("They were disabled when they asked, so no email was made. Let them ask again.")
	case audit.Unknown:
		return say("When they asked, that address wasn't a contact's yet, so no email was made. Let them ask again.")
	case audit.SignedIn, audit.WrongPassword, audit.PasswordSet, audit.PasswordRemoved:
		return nil // no link was invalidated
	}
	var change *admin.Event // the last one that invalidated links
	for i := range t.Events {
		e := &t.Events[i]
		if e.Kind == audit.Changed && !e.Time.Before(last.Time) && endsLinks(*e) {
			change = e
		}
	}
	switch {
	case change == nil:
		return nil
	case change.By == "file":
		return say(fmt.Sprintf("A change of the file of contacts at %s ended the links that were on their way.", When(change.Time, now)), "Let them ask for a new email, with "+email+".")
	}
	return say(fmt.Sprintf("Your change of %s ended the links that were on their way. Let them ask for a new email, with %s.", When(change.Time, now), email))
}

// endsLinks reports whether a change invalidated the contact's active links.
func endsLinks(e admin.Event) bool {
	if e.What == "contacts/disable" || e.What == "sessions/revoke" {
		return true
	}
	return slices.ContainsFunc(e.Fields, func(f string) bool { return f == "email" || f == "remove_emails" || f == "disabled" })
}

// signedOutBy says what ended the contact's last session.
func signedOutBy(t admin.Timeline, now time.Time) []Line {
	if t.Sessions > 0 {
		return nil
	}
	var out *admin.Event // the last one that ended a session, since the last sign-in
	for i, e := range t.Events {
		switch {
		case e.Kind == audit.SignedIn:
			out = nil
		case e.Kind == audit.SignedOut, e.Kind == audit.PasswordSet, e.Kind == audit.PasswordRemoved, e.Kind == audit.Changed && (e.Count > 0 || e.What == "contacts/set" && slices.Contains(e.Fields, "email")):
			out = &t.Events[i]
		}
	}
	switch {
	case out == nil:
		return nil
	case out.Kind == audit.Changed && out.What == "sessions/revoke":
		return say(fmt.Sprintf("An operator signed them out at %s. Let them sign in again.", When(out.Time, now)))
	case out.Kind == audit.Changed:
		return say(fmt.Sprintf("Your change of %s signed them out. Let them sign in again, with %s.", When(out.Time, now), t.Contact.Email()))
	case out.Kind == audit.SignedOut:
		return say(fmt.Sprintf("They signed out at %s.", When(out.Time, now)))
	}
	return say(fmt.Sprintf("The change of their password at %s signed out their browsers.", When(out.Time, now)))
}

// adviceOnServer says why a mail waits, what to do, and when it is tried again. It returns nil if
// nothing is known.
func adviceOnServer(t admin.Timeline, e admin.Event, now time.Time) []Line {
	var reason string
	var next time.Time
	request := e.Request
	if down := t.MailServer; down != nil {
		reason, next = down.Reason, down.Next
	}
	for _, m := range t.Waiting {
		if m.Request == request && m.Reason != "" && reason == "" {
			reason, next = m.Reason, m.Next
		}
	}
	if reason = cmp.Or(reason, e.Reason); reason == "" {
		return nil
	}
	lines := say("Our mail server doesn't take the email: " + Printable(reason) + ".")
	if advice := outbox.Advice(reason); advice != "" {
		lines = append(lines, say(advice)...)
	}
	again := "It is tried again soon"
	if next.After(now) {
		again = "It is tried again at " + When(next, now)
	}
	for _, m := range t.Waiting {
		if m.Request == request && !m.Until.IsZero() {
			again += ", and given up at " + When(m.Until, now)
		}
	}
	return append(lines, say(again+".")...)
}

// adviceOn says what to do if e was the last decisive event.
func adviceOn(e admin.Event, t admin.Timeline, now time.Time) []Line {
	c := *t.Contact
	young := now.Sub(e.Time) < time.Minute
	switch e.Kind {
	case audit.Requested:
		if young {
			return say("The email is being made. Look again in a moment.")
		}
		return say("Nothing has become of it yet. The server's log says why: look for “mail is put off”.")
	case audit.Delayed:
		return say("They asked again so soon that the email waits until a minute has gone by since the last one. It is on its way then.")
	case audit.Queued, audit.Waiting:
		if lines := adviceOnServer(t, e, now); lines != nil {
			return lines
		}
		if young {
			return say("The email is on its way to our mail server. Look again in a moment.")
		}
		return say("Our mail server hasn't taken the email yet; it is tried again until an hour is over.",
			"The server's log says what it answers: look for “mail waits for the mail server” and “mail not taken”.")
	case audit.Limited:
		if e.Contact == "" {
			return say("So many emails were asked for from their network that this one wasn't made.",
				"Let them ask again in some minutes, or from another network, such as that of their phone.")
		}
		return say("No email was made this time, since several had been asked for; those from before still work for their time.",
			"Let them take the newest email they have, or ask again in some minutes.")
	case audit.Sent:
		return say("Our mail server took the email, and nobody has come in by it.",
			"Let them look for it, also in the spam folder. If it isn't there after some minutes, their mail service holds it back.",
			"Our own mail service may also keep a list of addresses that it sends nothing to, after an email came back: take the address off that list.")
	case audit.Refused:
		return append(say("No email reaches this address: our mail server refuses it for good, and says: "+Printable(e.Reason)+"."),
			Line{"Check the spelling with them, then:", Step{ChangeAddress, string(c.Email()), ""}})
	case audit.Late:
		if e.Reason == "" {
			return say("Our mail server couldn't be used, or didn't take the email, until its time was over. The server's log says why.",
				"When it is well again, let them ask for a new one.")
		}
		lines := say("Our mail server didn't take the email until its time was over: " + Printable(e.Reason) + ".")
		if advice := outbox.Advice(e.Reason); advice != "" {
			lines = append(lines, say(advice)...)
		}
		return append(lines, say("When it is well again, let them ask for a new one.")...)
	case audit.Opened:
		if e.What == audit.SetPassword {
			return say("They opened the link to set a password, and have set none by it. It works once, until its time is over.",
				"Let them choose one on its page, or ask for a sign-in email instead, on the sign-in page.")
		}
		return say("They opened the link in another browser than the one they asked in, so the page asks for the address.",
			"Let them type it there, or type the code from the email where they began.")
	case audit.OpenedOld:
		return say("They opened a link that was used, or whose time is over. The button on that page sends a new one.")
	case audit.WrongCode:
		return say("A code works in the browser that asked for it, five tries, until its time is over, and the newest email has the right one.",
			"Let them use the link in the email, or ask for a new email.")
	case audit.WrongAddress:
		return say("On the link's page they have to type the very address that the email went to. Let them check it there.")
	case audit.WrongPassword:
		return say("Let them have a link mailed in place of it, or choose another password: “Get help signing in” on the sign-in page.")
	case audit.PasswordSet:
		return say("They have set a password since. Let them sign in with it: “Sign in manually” on the sign-in page.")
	case audit.PasswordRemoved:
		return say("They have removed their password since. Let them ask for an email on the sign-in page.")
	case audit.SignedIn:
		return say("They got in.")
	}
	return nil
}

// adviceOnUnknown says what to do for an address that belongs to no contact.
func adviceOnUnknown(t admin.Timeline, now time.Time) []Line {
	lines := say(fmt.Sprintf("%s is no contact's address, so no email goes there.", t.Email))
	if t.Former != nil {
		return append(lines, adviceOnFormer(*t.Former, now)...)
	}
	if s := t.Asked; s != nil {
		lines = append(lines, say(fmt.Sprintf("Somebody asked with it %s, last at %s%s.", times(s.Count), When(s.Last, now), from(*s)))...)
	} else {
		lines = append(lines, say("Nobody has asked with it in the last 30 days.")...)
	}
	for _, c := range t.Near {
		lines = append(lines, Line{fmt.Sprintf("%s has an address like it. If that is them, let them type that one. Only if this one is theirs as well, and no slip:", Person(c)),
			Step{AddAddress, string(c.Email()), t.Email}})
	}
	if len(t.Near) == 0 {
		lines = append(lines, Line{"To look for the person:", Step{Do: Find}}, Line{"To let them in:", Step{Add, "", t.Email}})
	}
	return lines
}

// adviceOnFormer says what to do for an address that belonged to a contact.
func adviceOnFormer(f admin.Former, now time.Time) []Line {
	since := ""
	if !f.Lost.IsZero() {
		since = " until " + When(f.Lost, now)
	}
	if f.Contact == nil {
		return say("It was the address of a contact" + since + ", who was removed then.")
	}
	return append(say(fmt.Sprintf("It was an address of %s%s. They sign in with the one they have now.", Person(*f.Contact), since)),
		Line{"What happened to them:", Step{Look, string(f.Contact.Email()), ""}})
}
