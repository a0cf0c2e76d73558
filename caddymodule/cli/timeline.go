package cli

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

func timelineCommand() *cobra.Command {
	return leaf{
		use: "timeline EMAIL [--since 7d]", short: "Tells what happened to a contact at the door, and what to do",
		long: `Tells, for who has the client on the phone, what happened around an address: when
they asked for a mail and from which browser, what our mail server said, who
opened the link, which codes were wrong, when they were in; and what to do now.

EMAIL may also be an address that is no contact's: then it says whether somebody
asked with it, and which contact has one like it. That what opened a link looks
like a mail scanner is a guess, by its words and its haste.`,
		example: `  caddy doorpost contacts timeline ann@example.com
  caddy doorpost contacts timeline ann@example.com --since 60d`,
		least: 1, most: 1, run: (*call).timeline,
		flags: func(cmd *cobra.Command) { cmd.Flags().String("since", "7d", "How far back, such as 24h or 30d") },
	}.command()
}

func (c *call) timeline() error {
	back, err := c.since()
	if err != nil {
		return err
	}
	now := time.Now()
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Timeline(ctx, c.firm, admin.TimelineOf{Email: c.args[0], Since: now.Add(-back)})
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		if out.Contact != nil {
			fmt.Fprintf(w, "%s, %s\n\n", person(*out.Contact), standing(*out.Contact))
		}
		lines := story(out.Events, now)
		for _, line := range lines {
			fmt.Fprintln(w, line)
		}
		if len(lines) > 0 {
			fmt.Fprintln(w)
		}
		if out.File != nil {
			fmt.Fprintf(w, "The file of contacts differs in line %d: %s\n\n", out.File.Line, whyLeftAlone(*out.File))
		}
		for _, line := range advice(out, flagOf[string](c.cmd, "since"), now) {
			fmt.Fprintln(w, line)
		}
	})
}

func standing(c directory.Contact) string {
	if c.Disabled {
		return "disabled."
	}
	if c.Role == directory.Staff {
		return "staff."
	}
	if len(c.Companies) == 0 {
		return "client, of no company yet."
	}
	return "client of " + strings.Join(c.Companies, ", ") + "."
}

// story tells the events, a line each; what comes again right away is told once.
func story(events []admin.Event, now time.Time) (lines []string) {
	asked := map[string]bool{} // requests that have their line
	type told struct {
		what        string
		first, last time.Time
		n           int
	}
	var all []told
	for _, e := range events {
		switch {
		case e.Kind == audit.Queued && asked[e.Request]:
			continue // what comes next says so
		case e.Kind == audit.Queued:
			e.Kind = audit.Asked // that event is gone, or not here yet
			fallthrough
		case e.Kind == audit.Asked, e.Kind == audit.Changed && e.Request != "":
			asked[e.Request] = true
		}
		what := inWords(e)
		if e.IP.IsValid() && e.Kind != audit.Limited && e.Kind != audit.Disabled && e.Kind != audit.Unknown && e.Kind != audit.Delayed {
			what += " (" + e.IP.String() + ")"
		}
		if n := len(all); n > 0 && all[n-1].what == what {
			all[n-1].last = e.Time
			all[n-1].n++
			continue
		}
		all = append(all, told{what, e.Time, e.Time, 1})
	}
	for _, t := range all {
		line := when(t.first, now) + "  " + t.what
		if t.n > 1 {
			line += fmt.Sprintf(", %s until %s", times(t.n), when(t.last, now))
		}
		lines = append(lines, line)
	}
	return lines
}

// advice says what the timeline means, and what to do now.
func advice(t admin.Timeline, since string, now time.Time) []string {
	if t.Contact == nil {
		return adviceOnNobody(t, now)
	}
	c := *t.Contact
	var lines []string
	last, sent := decisive(t.Events)
	signedOut := signedOutBy(t, now)
	switch {
	case c.Disabled:
		lines = append(lines, "They are disabled, so no mail is made, and the page says the same as ever.",
			"To let them in: caddy doorpost contacts enable "+shellWord(t.Email))
	case last == nil:
		lines = append(lines, fmt.Sprintf("Nobody has asked for a mail with an address of this contact in the last %s.", since),
			"Ask which address they type, letter by letter: the page says the same for every address.")
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
		lines = append(lines, "What opened the link looks like a mail scanner of their mail service; it can't use up the link.")
	}
	switch t.Sessions {
	case 0:
		lines = append(lines, "They aren't signed in anywhere now.")
	default:
		lines = append(lines, "They are signed in with "+count(t.Sessions, "browser", "browsers")+" now.")
	}
	if t.NoCompany && !c.Disabled {
		lines = append(lines, "They belong to no company, so they see no company's pages; the list of companies says “There is nothing here yet”.",
			"To give them one: caddy doorpost contacts set "+shellWord(t.Email)+" --companies ID")
	}
	for _, s := range t.Similar {
		lines = append(lines, fmt.Sprintf("Somebody asked with %s, which is no contact's: %s, last at %s%s.", s.Address, times(s.Count), when(s.Last, now), from(s)),
			"If that was them, let them type their own. Only if it is theirs as well, and no slip:",
			"  "+addAddress(c, string(s.Address)))
	}
	return lines
}

// decisive returns the last event that says where they stand, and the last one at all
// that a scanner may have caused; nil where there is none.
func decisive(events []admin.Event) (last, scanned *admin.Event) {
	for i := range events {
		e := &events[i]
		switch {
		case e.Scanner || e.Automatic:
			scanned = e
		case e.Kind == audit.PassSet || e.Kind == audit.PassGone:
			// Whatever kept them out before is over; who was in stays in.
			if last != nil && last.Kind != audit.SignedIn {
				last = e
			}
		case !slices.Contains([]audit.Kind{audit.Changed, audit.SignedOut, audit.Entered}, e.Kind):
			last = e
		}
	}
	return last, scanned
}

// adviceOnChange says what to do where a change came after the last thing that happened, and
// what that would advise isn't true any more; nil: it still is.
func adviceOnChange(last admin.Event, t admin.Timeline, now time.Time) []string {
	email := string(t.Contact.Email())
	switch last.Kind {
	case audit.Disabled:
		return []string{"They were disabled when they asked, so no mail was made. Let them ask again."}
	case audit.Unknown:
		return []string{"When they asked, that address wasn't a contact's yet, so no mail was made. Let them ask again."}
	case audit.SignedIn, audit.WrongPass, audit.PassSet, audit.PassGone:
		return nil // no link is on its way
	}
	var change *admin.Event // the last one that ended links
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
		return []string{fmt.Sprintf("A change of the file of contacts at %s ended the links that were on their way.", when(change.Time, now)), "Let them ask for a new mail, with " + email + "."}
	}
	return []string{fmt.Sprintf("Your change of %s ended the links that were on their way. Let them ask for a new mail, with %s.", when(change.Time, now), email)}
}

// endsLinks reports whether a change ended the contact's links that were on their way.
func endsLinks(e admin.Event) bool {
	if e.What == "contacts/disable" || e.What == "sessions/revoke" {
		return true
	}
	return slices.ContainsFunc(e.Fields, func(f string) bool { return f == "email" || f == "remove_emails" || f == "disabled" })
}

// signedOutBy says by what somebody who was in isn't any more.
func signedOutBy(t admin.Timeline, now time.Time) []string {
	if t.Sessions > 0 {
		return nil
	}
	var out *admin.Event // the last one that ended a session, since the last sign-in
	for i, e := range t.Events {
		switch {
		case e.Kind == audit.SignedIn:
			out = nil
		case e.Kind == audit.SignedOut, e.Kind == audit.PassSet, e.Kind == audit.PassGone, e.Kind == audit.Changed && (e.Count > 0 || e.What == "contacts/set" && slices.Contains(e.Fields, "email")):
			out = &t.Events[i]
		}
	}
	switch {
	case out == nil:
		return nil
	case out.Kind == audit.Changed && out.What == "sessions/revoke":
		return []string{fmt.Sprintf("An operator signed them out at %s. Let them sign in again.", when(out.Time, now))}
	case out.Kind == audit.Changed:
		return []string{fmt.Sprintf("Your change of %s signed them out. Let them sign in again, with %s.", when(out.Time, now), t.Contact.Email())}
	case out.Kind == audit.SignedOut:
		return []string{fmt.Sprintf("They signed out at %s.", when(out.Time, now))}
	}
	return []string{fmt.Sprintf("The change of their password at %s signed out their browsers.", when(out.Time, now))}
}

// adviceOnServer says why a mail waits, what to do, and when it is tried again; nil: nothing
// is known.
func adviceOnServer(t admin.Timeline, e admin.Event, now time.Time) []string {
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
	lines := []string{"Our mail server doesn't take the mail: " + printable(reason) + "."}
	if advice := outbox.Advice(reason); advice != "" {
		lines = append(lines, advice)
	}
	again := "It is tried again soon"
	if next.After(now) {
		again = "It is tried again at " + when(next, now)
	}
	for _, m := range t.Waiting {
		if m.Request == request && !m.Until.IsZero() {
			again += ", and given up at " + when(m.Until, now)
		}
	}
	return append(lines, again+".")
}

// adviceOn says what to do when that was the last that happened.
func adviceOn(e admin.Event, t admin.Timeline, now time.Time) []string {
	c := *t.Contact
	young := now.Sub(e.Time) < time.Minute
	switch e.Kind {
	case audit.Asked:
		if young {
			return []string{"The mail is being made. Look again in a moment."}
		}
		return []string{"Nothing has become of it yet. The server's log says why: look for “mail is put off”."}
	case audit.Delayed:
		return []string{"They asked again so soon that the mail waits until a minute has gone by since the last one. It is on its way then."}
	case audit.Queued, audit.Waiting:
		if lines := adviceOnServer(t, e, now); lines != nil {
			return lines
		}
		if young {
			return []string{"The mail is on its way to our mail server. Look again in a moment."}
		}
		return []string{"Our mail server hasn't taken the mail yet; it is tried again until an hour is over.",
			"The server's log says what it answers: look for “mail waits for the mail server” and “mail not taken”."}
	case audit.Limited:
		if e.Contact == "" {
			return []string{"So many mails were asked for from their network that this one wasn't made.",
				"Let them ask again in some minutes, or from another network, such as that of their phone."}
		}
		return []string{"No mail was made this time, since several had been asked for; those from before still work for their time.",
			"Let them take the newest mail they have, or ask again in some minutes."}
	case audit.Sent:
		return []string{"Our mail server took the mail, and nobody has come in by it.",
			"Let them look for it, also in the spam folder. If it isn't there after some minutes, their mail service holds it back.",
			"Our own mail service may also keep a list of addresses that it sends nothing to, after an email came back: take the address off that list."}
	case audit.Refused:
		return []string{"No mail reaches this address: our mail server refuses it for good, and says: " + printable(e.Reason) + ".", "Check the spelling with them, then:",
			"  caddy doorpost contacts set " + shellWord(string(c.Email())) + " --email NEW-ADDRESS"}
	case audit.Late:
		if e.Reason == "" {
			return []string{"Our mail server couldn't be used, or didn't take the mail, until its time was over. The server's log says why.",
				"When it is well again, let them ask for a new one."}
		}
		lines := []string{"Our mail server didn't take the mail until its time was over: " + printable(e.Reason) + "."}
		if advice := outbox.Advice(e.Reason); advice != "" {
			lines = append(lines, advice)
		}
		return append(lines, "When it is well again, let them ask for a new one.")
	case audit.Opened:
		if e.What == audit.SetPassword {
			return []string{"They opened the link to set a password, and have set none by it. It works once, until its time is over.",
				"Let them choose one on its page, or ask for a sign-in mail instead, on the sign-in page."}
		}
		return []string{"They opened the link in another browser than the one they asked in, so the page asks for the address.",
			"Let them type it there, or type the code from the mail where they began."}
	case audit.OpenedOld:
		return []string{"They opened a link that was used, or whose time is over. The button on that page sends a new one."}
	case audit.WrongCode:
		return []string{"A code works in the browser that asked for it, five tries, until its time is over, and the newest mail has the right one.",
			"Let them use the link in the mail, or ask for a new mail."}
	case audit.WrongMail:
		return []string{"On the link's page they have to type the very address that the mail went to. Let them check it there."}
	case audit.WrongPass:
		return []string{"Let them have a link mailed in place of it, or choose another password: “Get help signing in” on the sign-in page."}
	case audit.PassSet:
		return []string{"They have set a password since. Let them sign in with it: “Sign in manually” on the sign-in page."}
	case audit.PassGone:
		return []string{"They have removed their password since. Let them ask for a mail on the sign-in page."}
	case audit.SignedIn:
		return []string{"They got in."}
	}
	return nil
}

// adviceOnNobody is for an address that is no contact's.
func adviceOnNobody(t admin.Timeline, now time.Time) []string {
	lines := []string{fmt.Sprintf("%s is no contact's address, so no mail goes there.", t.Email)}
	if t.Former != nil {
		return append(lines, adviceOnFormer(*t.Former, now)...)
	}
	if s := t.Asked; s != nil {
		lines = append(lines, fmt.Sprintf("Somebody asked with it %s, last at %s%s.", times(s.Count), when(s.Last, now), from(*s)))
	} else {
		lines = append(lines, "Nobody has asked with it in the last 30 days.")
	}
	for _, c := range t.Near {
		lines = append(lines, fmt.Sprintf("%s has an address like it. If that is them, let them type that one. Only if this one is theirs as well, and no slip:", person(c)),
			"  "+addAddress(c, t.Email))
	}
	if len(t.Near) == 0 {
		lines = append(lines, "To look for the person: caddy doorpost contacts list NAME", "To let them in: caddy doorpost contacts add "+shellWord(t.Email))
	}
	return lines
}

// adviceOnFormer is for an address that was a contact's.
func adviceOnFormer(f admin.Former, now time.Time) []string {
	since := ""
	if !f.Lost.IsZero() {
		since = " until " + when(f.Lost, now)
	}
	if f.Contact == nil {
		return []string{"It was the address of a contact" + since + ", who was removed then."}
	}
	return []string{fmt.Sprintf("It was an address of %s%s. They sign in with the one they have now.", person(*f.Contact), since),
		"What happened to them: caddy doorpost contacts timeline " + shellWord(string(f.Contact.Email()))}
}

// addAddress is the command that gives a contact a further address.
func addAddress(c directory.Contact, email string) string {
	return fmt.Sprintf("caddy doorpost contacts set %s --add-email %s", shellWord(string(c.Email())), shellWord(email))
}

// shellWord quotes what a shell would read otherwise: an address may hold a backtick,
// whoever typed it, and these lines are there to be copied.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@.,_+-", r))
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func from(s audit.Stranger) string {
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

// printable is what another server said, for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
