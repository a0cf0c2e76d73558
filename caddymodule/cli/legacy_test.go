package cli

import (
	"encoding/csv"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	legacyusage "github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// usage returns a Counter of the firm that has counted for an hour; each time it asks for,
// it is a second later.
func (d *desk) usage(firm string, keys *secret.Keyring) *legacyusage.Counter {
	d.t.Helper()
	began, asked := time.Now().Add(-time.Hour), new(atomic.Int64)
	c := &legacyusage.Counter{Firm: firm, Store: d.db, Keys: keys, Now: func() time.Time {
		return began.Add(time.Duration(asked.Add(1)) * time.Second)
	}}
	if _, err := c.Since(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	return c
}

// uses notes a use of an old link: "% use COMPANY BROWSER", whose BROWSER is "-" for what
// isn't one; behind that may stand "upgraded" and "sign-in".
func (d *desk) uses(words []string) {
	u := legacyusage.Use{Browser: words[1], Upgraded: slices.Contains(words, "upgraded"), SignIn: slices.Contains(words, "sign-in")}
	if u.Browser == "-" {
		u.Browser = ""
	}
	d.firms["example"].Usage.Note(words[0], u)
}

// What a client has named itself is no formula in the operator's spreadsheet, and every
// row has as many cells as the header, whatever is in the names.
func TestUsageCSV(t *testing.T) {
	d := openDesk(t, "example")
	names := map[string]string{
		"=1+1": "'=1+1", "+1 555": "'+1 555", "-2": "'-2", "@SUM(A1)": "'@SUM(A1)", "＝1": "'＝1",
		"Acme, Ltd": "Acme, Ltd", `The "Best"`: `The "Best"`, "A = B": "A = B", "Ångström": "Ångström",
	}
	want := map[string]string{}
	n := 0
	for name, shown := range names {
		n++
		id := "company-" + string(rune('a'+n))
		if _, err := d.firms["example"].Directory.AddCompany(t.Context(), id, directory.CompanyChange{Name: &name, LegacyTokens: &[]string{"token-" + id}}); err != nil {
			t.Fatal(name, err)
		}
		want[id] = shown
	}
	stdout, stderr, code := d.run("legacy", "usage", "--csv")
	if code != 0 || stderr != "" {
		t.Fatalf("legacy usage --csv = %d, %s", code, stderr)
	}
	if lines := strings.Count(stdout, "\r\n"); lines != len(names)+1 || strings.Count(stdout, "\n") != lines {
		t.Errorf("%d lines end with CR and LF, of %d; want all %d", lines, strings.Count(stdout, "\n"), len(names)+1)
	}
	rows, err := csv.NewReader(strings.NewReader(stdout)).ReadAll()
	if err != nil || len(rows) != len(names)+1 {
		t.Fatalf("%d rows, %v; want %d", len(rows), err, len(names)+1)
	}
	for _, row := range rows[1:] {
		if row[1] != want[row[0]] {
			t.Errorf("%s is named %q; want %q", row[0], row[1], want[row[0]])
		}
	}
}

func TestHowUsed(t *testing.T) {
	t.Setenv("TZ", "UTC")
	since := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
	last := since.Add(time.Hour)
	at := explain.When(last, time.Now())
	for _, test := range []struct {
		used admin.Used
		want string
	}{
		{admin.Used{}, "old links not used since " + date(since)},
		{admin.Used{Last: last, Ever: legacyusage.Sum{Hits: 3}}, "old links not used in the last 90 days; last " + at},
		{admin.Used{Last: last, Recent: legacyusage.Sum{Hits: 1, Browsers: 1}}, "old links used 1 time in the last 90 days, last " + at + ": by 1 browser"},
		{admin.Used{Last: last, Recent: legacyusage.Sum{Hits: 2, NotBrowsers: 2}}, "old links used 2 times in the last 90 days, last " + at + ": by what isn't a browser"},
		{admin.Used{Last: last, Recent: legacyusage.Sum{Hits: 900, NotBrowsers: 1, Browsers: 200, MoreBrowsers: true}},
			"old links used 900 times in the last 90 days, last " + at + ": by 200+ browsers, and 1 time by what isn't one"},
	} {
		if got := howUsed(test.used, since); got != test.want {
			t.Errorf("howUsed(%+v) = %q; want %q", test.used, got, test.want)
		}
	}
	if got := lastUsed(time.Time{}, time.Time{}); got != "never" {
		t.Errorf("lastUsed of a firm that doesn't count = %q; want never", got)
	}
}
