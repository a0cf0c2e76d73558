package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

// What is said about a contact goes by the last thing that says where they stand.
func TestAdvice(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	ann := directory.Contact{ID: "a", Emails: []address.Address{"ann@example.com", "ann@example.org"}}
	gone := ann
	gone.Disabled = true
	for _, c := range []struct {
		name    string
		contact *directory.Contact
		events  string // kinds, a minute apart, the last one five minutes ago; "!" behind one: just now, "*": by a scanner, "+": about a link to set a password
		want    string
	}{
		{"nothing", &ann, "", "Nobody has asked for an email with an address of this contact in the last 7d."},
		{"changes alone", &ann, "changed", "Nobody has asked"},
		{"asked just now", &ann, "asked!", "The email is being made."},
		{"asked, and then nothing", &ann, "asked", "“mail is put off”"},
		{"put off", &ann, "asked delayed", "waits until a minute has gone by"},
		{"made just now", &ann, "asked queued!", "on its way to our mail server"},
		{"made, not taken", &ann, "asked queued", "hasn't taken the email yet"},
		{"too many", &ann, "asked queued sent asked limited", "those from before still work"},
		{"taken", &ann, "asked queued sent", "also in the spam folder"},
		{"a scanner was there", &ann, "asked queued sent opened*", "can't use up the link"},
		{"opened elsewhere", &ann, "asked queued sent opened* opened", "another browser than the one they asked in"},
		{"opened an old one", &ann, "asked sent opened-old", "The button on that page sends a new one."},
		{"opened a link to set a password", &ann, "asked+ queued+ sent opened+", "and have set none by it"},
		{"opened an old one of these", &ann, "asked+ queued+ sent opened-old+", "The button on that page sends a new one."},
		{"set a password by it", &ann, "signed-in asked+ queued+ sent opened+ password-set", "They have set a password since."},
		{"set one, and then signed in", &ann, "asked+ sent opened+ password-set signed-in", "They got in."},
		{"in, and then set one", &ann, "asked sent signed-in password-set", "They got in."},
		{"set one, and then removed it", &ann, "asked+ sent opened+ password-set password-removed", "ask for an email"},
		{"wrong code", &ann, "asked sent wrong-code", "five tries"},
		{"wrong address", &ann, "asked sent opened wrong-mail", "the very address that the email went to"},
		{"refused", &ann, "asked queued refused", "caddy doorpost contacts set ann@example.com --email NEW-ADDRESS"},
		{"late", &ann, "asked queued late", "until its time was over"},
		{"in", &ann, "asked queued sent signed-in", "They got in."},
		{"in, and out again", &ann, "asked queued sent signed-in signed-out changed", "They got in."},
		{"disabled, whatever happened", &gone, "asked queued sent signed-in asked disabled", "caddy doorpost contacts enable ann@example.com"},
		{"nobody's", nil, "asked unknown", "is no contact's address, so no email goes there."},
	} {
		tl := admin.Timeline{Email: "ann@example.com", Contact: c.contact}
		kinds := strings.Fields(c.events)
		for i, kind := range kinds {
			e := admin.Event{Time: now.Add(-time.Duration(5+len(kinds)-i) * time.Minute)}
			if kind, found := strings.CutSuffix(kind, "!"); found {
				e.Time = now.Add(-time.Second)
				e.Kind = audit.Kind(kind)
			} else if kind, found := strings.CutSuffix(kind, "*"); found {
				e.Scanner, e.Kind = true, audit.Kind(kind)
			} else if kind, found := strings.CutSuffix(kind, "+"); found {
				e.What, e.Kind = audit.SetPassword, audit.Kind(kind)
			} else {
				e.Kind = audit.Kind(kind)
			}
			e.Contact = "a"
			tl.Events = append(tl.Events, e)
		}
		if got := inShellAll(explain.Advise(tl, "7d", now)); !strings.Contains(got, c.want) {
			t.Errorf("%s: advice =\n%s\nwant %q in it", c.name, got, c.want)
		}
	}
}

// What a change by staff or by the file has undone isn't advised any more.
func TestAdviceKnowsOfChangesSince(t *testing.T) {
	now := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	ann := directory.Contact{ID: "a", Emails: []address.Address{"ann@example.com"}}
	email := admin.Event{Event: audit.Event{Kind: audit.Changed, By: "admin", What: "contacts/set", Fields: []string{"email"}}}
	phone := admin.Event{Event: audit.Event{Kind: audit.Changed, By: "admin", What: "contacts/set", Fields: []string{"phone"}}}
	enabled := admin.Event{Event: audit.Event{Kind: audit.Changed, By: "admin", What: "contacts/enable"}}
	revoked := admin.Event{Event: audit.Event{Kind: audit.Changed, By: "admin", What: "sessions/revoke"}}
	file := admin.Event{Event: audit.Event{Kind: audit.Changed, By: "file", What: "contacts/load", Fields: []string{"disabled"}}}
	const ended = "ended the links that were on their way"
	for _, c := range []struct {
		kinds  string
		change admin.Event
		want   string
		never  string
	}{
		{"asked queued refused", email, ended, "NEW-ADDRESS"},
		{"asked queued refused", phone, "NEW-ADDRESS", ended},
		{"asked queued sent", email, "Let them ask for a new email, with ann@example.com.", "spam folder"},
		{"asked queued sent", revoked, ended, "spam folder"},
		{"asked queued sent wrong-code", file, "A change of the file of contacts at", "five tries"},
		{"asked queued sent", phone, "spam folder", ended},
		{"asked disabled", enabled, "They were disabled when they asked", "enable ann"},
		{"asked unknown", email, "that address wasn't a contact's yet", ended},
		{"asked queued sent signed-in", email, "They got in.", ended},
	} {
		tl := admin.Timeline{Email: "ann@example.com", Contact: &ann}
		for i, kind := range strings.Fields(c.kinds) {
			tl.Events = append(tl.Events, admin.Event{Time: now.Add(time.Duration(i-20) * time.Minute), Event: audit.Event{Kind: audit.Kind(kind), Contact: "a"}})
		}
		c.change.Time = now.Add(-5 * time.Minute)
		tl.Events = append(tl.Events, c.change)
		if got := inShellAll(explain.Advise(tl, "7d", now)); !strings.Contains(got, c.want) || strings.Contains(got, c.never) {
			t.Errorf("%s, then %s %v: advice =\n%s\nwant %q in it, and not %q", c.kinds, c.change.What, c.change.Fields, got, c.want, c.never)
		}
		tl.Events = slices.Insert(tl.Events[:len(tl.Events)-1], 0, c.change) // before all of it
		tl.Events[0].Time = now.Add(-time.Hour)
		if got := inShellAll(explain.Advise(tl, "7d", now)); strings.Contains(got, ended) {
			t.Errorf("%s %v, then %s: advice =\n%s\nwant nothing on links that ended", c.change.What, c.change.Fields, c.kinds, got)
		}
	}
}

// Who may be meant, and the commands for it, which a shell takes as they are.
func TestAdvice_Addresses(t *testing.T) {
	now := time.Now()
	ann := directory.Contact{ID: "a", Emails: []address.Address{"ann@example.com", "o'hara@example.org"}}
	slip := audit.UnknownAddress{Address: "an`n`@example.com", Count: 2, Last: now}
	got := inShellAll(explain.Advise(admin.Timeline{Email: "ann@example.com", Contact: &ann, Similar: []audit.UnknownAddress{slip}}, "7d", now))
	want := "contacts set ann@example.com --add-email 'an`n`@example.com'"
	if !strings.Contains(got, want) || !strings.Contains(got, "no slip") {
		t.Errorf("advice =\n%s\nwant %s, and a warning", got, want)
	}
	got = inShellAll(explain.Advise(admin.Timeline{Email: "anm@example.com", Asked: &slip, Near: []directory.Contact{ann}}, "7d", now))
	if !strings.Contains(got, "ann@example.com has an address like it") || !strings.Contains(got, "asked with it twice") {
		t.Errorf("advice on nobody =\n%s", got)
	}
}

func TestStory(t *testing.T) {
	defer func(was *time.Location) { time.Local = was }(time.Local)
	time.Local = time.UTC
	now := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	at := func(minute int, e audit.Event) admin.Event {
		return admin.Event{Time: now.Add(time.Duration(minute-30) * time.Minute), Event: e}
	}
	got := strings.Join(explain.Story([]admin.Event{
		at(-1000, audit.Event{Kind: audit.Queued, Request: "r0", Agent: "Chrome on Windows"}), // its asked is gone
		at(2, audit.Event{Kind: audit.Requested, Request: "r1", Agent: "Safari on iPhone"}),
		at(2, audit.Event{Kind: audit.Queued, Request: "r1", Agent: "Safari on iPhone"}),
		at(3, audit.Event{Kind: audit.Refused, Request: "r1", Reason: "550 \x1b[2J"}),
		at(8, audit.Event{Kind: audit.WrongCode, Agent: "Safari on iPhone"}),
		at(9, audit.Event{Kind: audit.WrongCode, Agent: "Safari on iPhone"}),
		at(10, audit.Event{Kind: audit.WrongCode, Agent: "Firefox on Linux"}),
		at(11, audit.Event{Kind: audit.Opened, More: 1234}),
		at(12, audit.Event{Kind: audit.Requested, What: audit.SetPassword, Request: "r2", Agent: "Safari on iPhone"}),
		at(12, audit.Event{Kind: audit.Queued, What: audit.SetPassword, Request: "r2", Agent: "Safari on iPhone"}),
		at(13, audit.Event{Kind: audit.Opened, What: audit.SetPassword, Automatic: true}),
		at(14, audit.Event{Kind: audit.Opened, What: audit.SetPassword, Agent: "Safari on iPhone"}),
		at(15, audit.Event{Kind: audit.OpenedOld, What: audit.SetPassword, Agent: "Safari on iPhone"}),
		at(16, audit.Event{Kind: audit.Opened, Agent: "Safari on iPhone"}),
	}, now), "\n")
	want := `2026-02-28 17:20:00  asked for a sign-in email from Chrome on Windows
10:02:00  asked for a sign-in email from Safari on iPhone
10:03:00  our mail server refused the email for good (550 ?[2J)
10:08:00  typed a code that doesn't work, in Safari on iPhone, twice until 10:09:00
10:10:00  typed a code that doesn't work, in Firefox on Linux
10:11:00  … and 1234 more of: the link was opened in another browser than the one that asked
10:12:00  asked for an email with a link to set a password from Safari on iPhone
10:13:00  the link to set a password was opened by what looks like a mail scanner
10:14:00  the link to set a password was opened in Safari on iPhone
10:15:00  a link to set a password that is over was opened in Safari on iPhone
10:16:00  the link was opened in Safari on iPhone, not the browser that asked`
	if got != want {
		t.Errorf("story =\n%s\nwant\n%s", got, want)
	}
}

func inShellAll(advice []explain.Line) string {
	var all []string
	for _, line := range advice {
		all = append(all, inShell(line))
	}
	return strings.Join(all, "\n")
}
