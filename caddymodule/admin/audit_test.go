package admin

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// events returns all events of the firm, in short.
func (o *office) events() (list []string) {
	o.t.Helper()
	in := ListEvents{Limit: 2}
	for {
		page, err := o.Events(o.t.Context(), "example", in)
		if err != nil {
			o.t.Fatal(err)
		}
		for _, e := range page.Events {
			s := fmt.Sprintf("%s %s %s", e.Kind, e.By, e.What)
			if e.Company != "" {
				s += " " + e.Company
			}
			if len(e.Fields) > 0 {
				s += fmt.Sprint(" ", e.Fields)
			}
			if e.Count > 0 {
				s += fmt.Sprint(" ", e.Count)
			}
			list = append(list, s)
		}
		if in.After = page.Next; in.After == "" {
			return list
		}
	}
}

// Whatever an operator changes is an event, which says what, and not the values.
func TestChangesAreAudited(t *testing.T) {
	o := openOffice(t)
	ctx := t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(o.AddCompany(ctx, "example", "acme", directory.CompanyChange{}))
	ann := o.add("ann@example.com", "acme")
	o.signIn(ann)
	must(o.SetContact(ctx, "example", "ann@example.com", directory.Change{Phone: ptr("+1 555 0177"), FirstName: ptr("Ann")}))
	must(o.RevokeSessions(ctx, "example", "ann@example.com"))
	must(o.DisableContact(ctx, "example", "ann@example.com"))
	must(o.EnableContact(ctx, "example", "ann@example.com"))
	must(o.SetCompany(ctx, "example", "acme", directory.CompanyChange{Name: ptr("Acme Ltd")}))
	must(o.RemoveCompany(ctx, "example", "acme"))
	must(o.Import(ctx, "example", directory.Contacts, strings.NewReader("email\nbob@example.com\neve@example.com\n"), ImportOptions{DryRun: true}, nil))
	must(o.Import(ctx, "example", directory.Contacts, strings.NewReader("email\nbob@example.com\neve@example.com\n"), ImportOptions{}, nil))
	must(o.RemoveContact(ctx, "example", "ann@example.com"))
	must(o.Backup(ctx, new(strings.Builder)))
	if _, err := o.RemoveContact(ctx, "example", "ann@example.com"); err == nil {
		t.Error("removed twice")
	}
	if _, err := o.RemoveCompany(ctx, "example", "nix"); err == nil {
		t.Error("removed what isn't there")
	}
	want := []string{
		"changed admin companies/add acme",
		"changed admin contacts/add",
		"changed admin contacts/set [first_name phone]",
		"changed admin sessions/revoke 1",
		"changed admin contacts/disable",
		"changed admin contacts/enable",
		"changed admin companies/set acme [name]",
		"changed admin companies/remove acme 1",
		"changed admin contacts/import 2",
		"changed admin contacts/remove",
		"changed admin backup",
	}
	if got := o.events(); !slices.Equal(got, want) {
		t.Errorf("events =\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, word := range []string{"ann@", "+1 555 0177", "Acme Ltd", "bob@"} {
		if strings.Contains(o.log.String(), word) {
			t.Errorf("the log holds %q:\n%s", word, o.log)
		}
	}
}

func TestTimeline(t *testing.T) {
	o := openOffice(t)
	ctx := t.Context()
	ann, bob := o.add("ann.lee@example.com"), o.add("bob@example.com")
	door := o.firms["example"].Audit
	record := func(kind audit.Kind, contact, request, ip string) {
		e := audit.Event{Kind: kind, Contact: contact, Request: request}
		if ip != "" {
			e.IP = netip.MustParseAddr(ip)
		}
		door.Record(ctx, e)
	}
	record(audit.Requested, "", "r1", "203.0.113.9")
	record(audit.Requested, "", "r2", "198.51.100.7") // bob's
	record(audit.Queued, ann.ID, "r1", "")
	record(audit.Queued, bob.ID, "r2", "")
	record(audit.Sent, "", "r1", "")
	record(audit.Opened, ann.ID, "", "192.0.2.200") // at once, from elsewhere
	record(audit.WrongCode, "", "r1", "203.0.113.9")
	record(audit.WrongCode, "", "r2", "198.51.100.7")
	record(audit.SignedIn, ann.ID, "", "203.0.113.9")
	for i, a := range []address.Address{"annlee@example.com", "ann.lee@gmail.com", "zoe@example.org"} {
		door.Record(ctx, audit.Event{Kind: audit.Unknown, Request: fmt.Sprint("s", i), Whole: a})
	}
	// Of what her network asked for too often nobody looked up whose it was.
	door.Record(ctx, audit.Event{Kind: audit.Requested, Request: "r4", Whole: "ann.lee@example.com"})
	door.Record(ctx, audit.Event{Kind: audit.Limited, Request: "r4", Whole: "ann.lee@example.com"})
	door.Record(ctx, audit.Event{Kind: audit.Limited, Request: "r5", Whole: "bob@example.com"})
	o.signIn(ann)

	got, err := o.Timeline(ctx, "example", TimelineOf{Email: "Ann.Lee@Example.com"})
	if err != nil {
		t.Fatal(err)
	}
	var story []string
	for _, e := range got.Events {
		story = append(story, fmt.Sprint(e.Kind, e.Scanner))
		if e.ID == "" || e.Mark != "" || time.Since(e.Time) > time.Hour {
			t.Errorf("an event without ID or time: %+v", e)
		}
	}
	want := []string{"changedfalse", "askedfalse", "queuedfalse", "sentfalse", "openedtrue", "wrong-codefalse", "signed-infalse", "askedfalse", "limitedfalse"}
	if !slices.Equal(story, want) {
		t.Errorf("events = %v; want %v", story, want)
	}
	if got.Contact == nil || got.Contact.ID != ann.ID || got.Sessions != 1 || got.Asked != nil || len(got.Near) != 0 {
		t.Errorf("Timeline = %+v; want that of ann, who is signed in once", got)
	}
	if len(got.Similar) != 2 || got.Similar[0].Address != "ann.lee@gmail.com" || got.Similar[1].Address != "annlee@example.com" {
		t.Errorf("Similar = %v; want the two that are like hers, the latest first", got.Similar)
	}

	got, err = o.Timeline(ctx, "example", TimelineOf{Email: "annlee@example.com"})
	if err != nil || got.Contact != nil || got.Asked == nil || got.Asked.Count != 1 || len(got.Near) != 1 || got.Near[0].ID != ann.ID || len(got.Events) != 1 {
		t.Errorf("Timeline of an address that is no contact's = %+v, %v; want who asked, and the contact near it", got, err)
	}
	if _, err = o.Timeline(ctx, "example", TimelineOf{Email: "ann"}); Code(err) != "invalid" {
		t.Errorf("Timeline of no address = %v; want invalid", err)
	}
	all, err := o.Strangers(ctx, "example")
	if err != nil || len(all.Addresses) != 3 || all.Addresses[0].Address != "zoe@example.org" {
		t.Errorf("Strangers = %+v, %v; want three, the latest first", all, err)
	}
	if all, err := o.Strangers(ctx, "other"); err != nil || len(all.Addresses) != 0 {
		t.Errorf("Strangers of the other firm = %+v, %v; want none", all, err)
	}
}

func TestAlike(t *testing.T) {
	for _, c := range []struct {
		a, b address.Address
		want bool
	}{
		{"ann@example.com", "ann@exmaple.com", true}, // two in each other's place
		{"ann@gmail.com", "ann@gmial.co", true},
		{"ann@gmail.com", "an@gmail.com", true},
		{"ann@gmail.com", "amn@gmail.con", true},
		{"ann@gmail.com", "ann@example.org", true},          // the same name
		{"jo@gmail.com", "jo@example.org", false},           // a name too short to say anything
		{"ann@example.com", "ann+portal@example.com", true}, // with a tag
		{"ann@example.com", "zoe+portal@example.com", false},
		{"ann@gmail.com", "zoe@gmail.com", false},
		{"ann@example.com", "ann.baker@example.com", false},
	} {
		if got := alike(c.a, c.b); got != c.want || alike(c.b, c.a) != got {
			t.Errorf("alike(%s, %s) = %t; want %t, both ways", c.a, c.b, got, c.want)
		}
	}
}
