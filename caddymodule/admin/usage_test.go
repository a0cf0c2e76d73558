package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// countUses lets the firm count, from now on.
func (o *office) countUses() *usage.Counter {
	o.t.Helper()
	f := o.firms["example"]
	f.Usage = &usage.Counter{Firm: "example", Store: o.db, Keys: f.Directory.Keys, Now: time.Now}
	o.firms["example"] = f
	if _, err := f.Usage.Since(o.t.Context()); err != nil {
		o.t.Fatal(err)
	}
	return f.Usage
}

func (o *office) company(id string, tokens ...string) {
	o.t.Helper()
	if _, err := o.AddCompany(o.t.Context(), "example", id, directory.CompanyChange{LegacyTokens: &tokens}); err != nil {
		o.t.Fatal(err)
	}
}

func TestLegacyUsage(t *testing.T) {
	o := openOffice(t)
	c := o.countUses()
	o.company("acme", "one", "two")
	o.company("birch", "three")
	o.company("cedar")
	o.company("elm")
	c.Note("acme", usage.Use{Browser: "a", Upgraded: true})
	c.Note("acme", usage.Use{})
	c.Note("acme", usage.Use{SignIn: true})
	c.Note("elm", usage.Use{Browser: "a"}) // whose link is gone since
	c.Note("zinc", usage.Use{})            // which is gone itself
	status, got := o.send("POST", "/doorpost/example/legacy/usage", "application/json", `{}`)
	sum := `{"hits":2,"asked":1,"not_browsers":1,"sign_ins":1,"browsers":1,"more_browsers":false}`
	once := `{"hits":1,"asked":0,"not_browsers":0,"sign_ins":0,"browsers":1,"more_browsers":false}`
	none := `{"hits":0,"asked":0,"not_browsers":0,"sign_ins":0,"browsers":0,"more_browsers":false}`
	want := `{"counted_since":"*","companies":[` +
		`{"id":"acme","name":"acme","legacy_links":2,"state":"open","version":"*","recent":` + sum + `,"ever":` + sum + `,"first_used":"*","last_used":"*"},` +
		`{"id":"birch","name":"birch","legacy_links":1,"state":"open","version":"*","recent":` + none + `,"ever":` + none + `},` +
		`{"id":"elm","name":"elm","legacy_links":0,"state":"upgraded","version":"*","recent":` + once + `,"ever":` + once + `,"first_used":"*","last_used":"*"}]}`
	if status != 200 || !like(got, want) {
		t.Errorf("legacy/usage = %d %s; want\n%s", status, got, want)
	}
	// Another firm has nothing of it, and where nobody counts there is nothing to tell.
	if status, got := o.send("POST", "/doorpost/other/legacy/usage", "application/json", `{}`); status != 200 || got != `{"companies":[]}` {
		t.Errorf("of another firm = %d %s; want no company", status, got)
	}
}

// Page by page comes the same as at once, and with a text the same of fewer.
func TestLegacyUsagePages(t *testing.T) {
	o := openOffice(t)
	c := o.countUses()
	for n := range 9 {
		id := fmt.Sprint("company-", n)
		if n%3 == 0 {
			o.company(id)
		} else {
			o.company(id, "token-"+id)
		}
		if n%2 == 0 {
			for range n + 1 {
				c.Note(id, usage.Use{})
			}
		}
	}
	for _, test := range []struct {
		in   ListRequest
		want []string
	}{
		{ListRequest{}, []string{"company-0 1", "company-1 0", "company-2 3", "company-4 5", "company-5 0", "company-6 7", "company-7 0", "company-8 9"}},
		{ListRequest{Text: "4"}, []string{"company-4 5"}},
		{ListRequest{Text: "nothing"}, nil},
	} {
		for _, limit := range []int{1, 2, 3, 9, 0} {
			in := test.in
			in.Limit = limit
			var got []string
			for {
				page, err := o.LegacyUsage(t.Context(), "example", in)
				if err != nil {
					t.Fatal(err)
				}
				for _, one := range page.Companies {
					got = append(got, fmt.Sprint(one.ID, " ", one.Recent.Hits))
				}
				if in.After = page.Next; in.After == "" {
					break
				}
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%+v: %v; want %v", in, got, test.want)
			}
		}
	}
	if _, err := o.LegacyUsage(t.Context(), "example", ListRequest{Limit: 1001}); Code(err) != "invalid" {
		t.Errorf("limit 1001: %v; want invalid", err)
	}
}

// Who tries an upgrade learns whom it will meet.
func TestUpgradeTellsTheUse(t *testing.T) {
	o := openOffice(t)
	c := o.countUses()
	o.company("acme", "one")
	o.company("birch", "two")
	o.add("ann@example.com", "acme")
	c.Note("acme", usage.Use{Browser: "a"})
	c.Note("birch", usage.Use{})
	out, err := o.Upgrade(t.Context(), "example", Upgrade{All: true, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Changed) != 1 || out.Changed[0].Used == nil || out.Changed[0].Recent != (usage.Sum{Hits: 1, Browsers: 1}) || out.Changed[0].Last.IsZero() {
		t.Errorf("changed would be %s; want acme with one hit of a browser", asJSON(t, out.Changed))
	}
	if len(out.Refused) != 1 || out.Refused[0].Used == nil || out.Refused[0].Recent != (usage.Sum{Hits: 1, NotBrowsers: 1}) {
		t.Errorf("refused would be %s; want birch with one hit of no browser", asJSON(t, out.Refused))
	}
	if out.CountedSince.IsZero() {
		t.Error("it doesn't say since when there is counting")
	}
	for _, in := range []Upgrade{{All: true}, {All: true, Undo: true, DryRun: true}} {
		out, err := o.Upgrade(t.Context(), "example", in)
		if err != nil || len(out.Changed) != 1 || out.Changed[0].Used != nil || !out.CountedSince.IsZero() {
			t.Errorf("%+v = %s, %v; want acme alone, without its use", in, asJSON(t, out), err)
		}
	}
}

func TestUsageStoreAway(t *testing.T) {
	o := openOffice(t)
	c := o.countUses()
	o.company("acme", "one")
	c.Note("acme", usage.Use{})
	o.db.Close()
	_, err := o.LegacyUsage(t.Context(), "example", ListRequest{})
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != 503 {
		t.Errorf("without a store: %v; want 503", err)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
