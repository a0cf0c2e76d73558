package cli

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	legacyusage "github.com/doorpost-auth/doorpost/caddymodule/usage"
)

func legacyCommands() *cobra.Command {
	return group("legacy", "Tells about old one-click links",
		`Tells about old one-click links, whose secret was the URL itself. To make them
ask for sign-in: caddy doorpost upgrade`,
		`  caddy doorpost legacy usage`,
		spec{
			use: "usage [TEXT] [--csv]", short: "Lists who still uses old links",
			long: `Lists companies with old links, those that were used last first: how often in the
last 90 days, from how many browsers, how many of these uses ended in a sign-in,
and how many were by what isn't a browser, such as a mail scanner. With TEXT only
companies that have each word of it in their id or name.

Browsers are told apart by network and kind, up to 200 of a company ("200+":
there were more); neither is kept in a form that names them. Uses are counted in
memory and written down every few seconds: a server that is killed forgets those
seconds. A company whose links aren't used for 400 days is forgotten.

--csv prints a table for a spreadsheet, with times in UTC; a name that one could
take for a formula begins with an apostrophe there. The JSON has both the last
90 days and all of what is known.`,
			example: `  caddy doorpost legacy usage
  caddy doorpost legacy usage bakery
  caddy doorpost legacy usage --csv > old-links.csv`,
			most: -1, run: (*call).legacyUsage,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().Bool("csv", false, "Print CSV, for a spreadsheet")
			},
		}.command(),
	)
}

func (c *call) legacyUsage() error {
	asCSV := flagOf[bool](c.cmd, "csv")
	if asCSV && c.json {
		return usage("choose --csv or --json")
	}
	all := admin.UsageList{Companies: []admin.CompanyUsage{}}
	in := admin.ListRequest{Text: strings.Join(c.args, " "), Limit: 1000}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.LegacyUsage(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		all.CountedSince = page.CountedSince
		all.Companies = append(all.Companies, page.Companies...)
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	slices.SortFunc(all.Companies, func(a, b admin.CompanyUsage) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.ID, b.ID))
	})
	if asCSV {
		return writeUsage(c.out, all.Companies)
	}
	return c.print(all, func(w io.Writer) { showUsage(w, all, in.Text) })
}

func showUsage(w io.Writer, all admin.UsageList, text string) {
	if len(all.Companies) == 0 {
		if text == "" {
			fmt.Fprintln(w, "No company has old links.")
			return
		}
		fmt.Fprintf(w, "No company with old links matches %q.\n", text)
		return
	}
	rows := [][]string{{"ID", "NAME", "OLD LINKS", "HITS", "BROWSERS", "SIGN-INS", "NOT BROWSERS", "LAST USED"}}
	for _, one := range all.Companies {
		r := one.Recent
		rows = append(rows, []string{one.ID, one.Name, oldLinks(one.CompanyInfo), strconv.Itoa(r.Hits), browsers(r),
			strconv.Itoa(r.SignIns), strconv.Itoa(r.NotBrowsers), lastUsed(one.Last, all.CountedSince)})
	}
	columns(w, rows)
	fmt.Fprintf(w, "\n%s. Hits, browsers and sign-ins are of the last %d days%s.\n", explain.Count(len(all.Companies), "company", "companies"),
		legacyusage.Days, shortly(all.CountedSince))
}

// browsers is how many different ones there were: 3, or 200+.
func browsers(s legacyusage.Sum) string {
	if s.MoreBrowsers {
		return strconv.Itoa(s.Browsers) + "+"
	}
	return strconv.Itoa(s.Browsers)
}

func lastUsed(last, since time.Time) string {
	switch {
	case !last.IsZero():
		return explain.When(last, time.Now())
	case since.IsZero():
		return "never"
	}
	return "never since " + date(since)
}

func date(t time.Time) string { return t.In(time.Local).Format(time.DateOnly) }

// shortly says of a list of the last days that less than that is known of, if it is so.
func shortly(since time.Time) string {
	if since.IsZero() || time.Since(since) >= legacyusage.Days*24*time.Hour {
		return ""
	}
	return ", counted since " + date(since)
}

// writeUsage writes a table for a spreadsheet, by RFC 4180.
func writeUsage(w io.Writer, all []admin.CompanyUsage) error {
	out := csv.NewWriter(w)
	out.UseCRLF = true
	rows := [][]string{{"id", "name", "legacy_links", "state", "hits", "asked", "browsers", "sign_ins", "not_browsers", "last_used", "hits_ever", "first_used"}}
	for _, one := range all {
		r := one.Recent
		state := one.State
		if one.LegacyLinks == 0 {
			state = ""
		}
		rows = append(rows, []string{noFormula(one.ID), noFormula(one.Name), strconv.Itoa(one.LegacyLinks), state,
			strconv.Itoa(r.Hits), strconv.Itoa(r.Upgraded), browsers(r), strconv.Itoa(r.SignIns), strconv.Itoa(r.NotBrowsers),
			utc(one.Last), strconv.Itoa(one.Ever.Hits), utc(one.First)})
	}
	if err := out.WriteAll(rows); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	return nil
}

func utc(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// noFormula returns text that no spreadsheet takes for a formula: an operator could be
// led to open what a client has named itself. The wide signs are those of East Asia.
func noFormula(s string) string {
	if first, _ := utf8.DecodeRuneInString(s); s != "" && strings.ContainsRune("=+-@\t\r\n＝＋－＠", first) {
		return "'" + s
	}
	return s
}

// howUsed says in a sentence how a company's old links were used lately.
func howUsed(u admin.Used, since time.Time) string {
	r := u.Recent
	switch {
	case u.Last.IsZero():
		return "old links not used since " + date(since)
	case r.Hits == 0:
		return fmt.Sprintf("old links not used in the last %d days; last %s", legacyusage.Days, explain.When(u.Last, time.Now()))
	}
	by := "by " + browsers(r) + " browsers"
	switch {
	case r.NotBrowsers == r.Hits:
		by = "by what isn't a browser"
	case r.Browsers == 1:
		by = "by 1 browser"
	}
	if r.NotBrowsers > 0 && r.NotBrowsers < r.Hits {
		by += ", and " + explain.Count(r.NotBrowsers, "time", "times") + " by what isn't one"
	}
	return fmt.Sprintf("old links used %s in the last %d days, last %s: %s", explain.Count(r.Hits, "time", "times"), legacyusage.Days, explain.When(u.Last, time.Now()), by)
}

// tellUse tells of one company of an upgrade how its old links were used, where that is known.
func tellUse(w io.Writer, one admin.UpgradedCompany, since time.Time) {
	if one.Used != nil {
		fmt.Fprintf(w, "  %s\n", howUsed(*one.Used, since))
	}
}
