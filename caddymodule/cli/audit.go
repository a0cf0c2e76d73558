package cli

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func auditCommand() *cobra.Command {
	return spec{
		use: "audit [--since 24h] [--follow] [--unknown]", short: "Shows what happened at sign-in",
		long: `Shows what happened at sign-in: who asked for a mail and what became of it,
links that were opened, codes that were wrong, who signed in and out, and what
operators changed. Addresses are shown in part; "contacts timeline EMAIL" tells
the story of one contact in full.

With --follow it goes on with what happens from now on, until Ctrl-C. With
--unknown it lists the addresses that somebody asked with and that are no
contact's: clients who mistyped theirs, or who have another one than you know.

Events are kept for 90 days (30 where they know of no contact), at most 100,000
(10,000) of a firm. Times are of this machine's time zone; the JSON has them in
UTC, with --follow one event a line.`,
		example: `  caddy doorpost audit
  caddy doorpost audit --since 7d --json
  caddy doorpost audit --follow
  caddy doorpost audit --unknown`,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().String("since", "24h", "How far back, such as 30m, 24h or 7d")
			cmd.Flags().Bool("follow", false, "Go on with what happens from now on")
			cmd.Flags().Bool("unknown", false, "List the addresses that are no contact's")
		},
		run: (*call).audit,
	}.command()
}

const (
	followEvery = time.Second
	// What another server recorded may turn up late: its clock, and its store's trouble.
	followOverlap = 15 * time.Second
)

func (c *call) audit() error {
	back, err := c.since()
	switch {
	case err != nil:
		return err
	case flagOf[bool](c.cmd, "unknown") && (flagOf[bool](c.cmd, "follow") || c.cmd.Flags().Changed("since")):
		return usage("--unknown is a list of its own; leave --since and --follow out")
	case flagOf[bool](c.cmd, "unknown"):
		return c.unknownAddresses()
	}
	since := time.Now().Add(-back)
	if flagOf[bool](c.cmd, "follow") {
		return c.follow(since)
	}
	all := admin.EventList{Events: []admin.Event{}}
	if err := c.eachEvent(since, func(e admin.Event) { all.Events = append(all.Events, e) }); err != nil {
		return err
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Events) == 0 {
			fmt.Fprintf(w, "Nothing happened in the last %s.\n", flagOf[string](c.cmd, "since"))
			return
		}
		rows, who := [][]string{{"TIME", "WHAT", "WHO", "FROM"}}, whose{}
		for _, e := range all.Events {
			rows = append(rows, eventRow(e, who))
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s.\n", explain.Count(len(all.Events), "event", "events"))
	})
}

// since returns how far back --since says to look.
func (c *call) since() (time.Duration, error) {
	s := flagOf[string](c.cmd, "since")
	d, err := caddy.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, usage("--since: %q is no length of time; write one such as 30m, 24h or 7d", s)
	}
	return d, nil
}

// eachEvent goes through the events from then on, in the order of time.
func (c *call) eachEvent(since time.Time, do func(admin.Event)) error {
	in := admin.ListEvents{Since: since, Limit: 1000}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Events(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		for _, e := range page.Events {
			do(e)
		}
		if in.After = page.Next; in.After == "" {
			return nil
		}
	}
}

// follow prints events until it is interrupted. A server that is away for a while, as
// at a restart, doesn't end it.
func (c *call) follow(since time.Time) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	seen, who := map[string]time.Time{}, whose{} // seen is by ID
	for first, lost := true, false; ; {
		newest := since
		err := c.eachEvent(since, func(e admin.Event) {
			if _, old := seen[e.ID]; !old {
				c.printEvent(e, who)
			}
			if seen[e.ID] = e.Time; e.Time.After(newest) {
				newest = e.Time
			}
		})
		switch {
		case c.ctx.Err() != nil:
			return nil // by Ctrl-C, as people end this
		case err != nil && (first || errors.As(err, new(usageError))):
			return err
		case err != nil && !lost:
			fmt.Fprintf(c.cmd.ErrOrStderr(), "The server doesn't answer for now (%v); waiting for it.\n", c.explain(err))
		}
		first, lost = false, err != nil
		if err == nil && newest.Add(-followOverlap).After(since) {
			since = newest.Add(-followOverlap)
		}
		for id, at := range seen {
			if at.Before(since) {
				delete(seen, id)
			}
		}
		select {
		case <-c.ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printEvent prints one event of many, as it comes.
func (c *call) printEvent(e admin.Event, who whose) {
	if c.json {
		enc := json.NewEncoder(c.out)
		enc.SetEscapeHTML(false)
		enc.Encode(e)
		return
	}
	row := eventRow(e, who)
	fmt.Fprintf(c.out, "%s  %s", row[0], row[1])
	for _, cell := range row[2:] {
		if cell != "" {
			fmt.Fprintf(c.out, "  %s", cell)
		}
	}
	fmt.Fprintln(c.out)
}

// whose remembers of some requests whose address they are about, in part: what the mail
// server says tells the request alone.
type whose map[string]string

func (w whose) of(e admin.Event) string {
	if e.Address == "" || e.Request == "" {
		return cmp.Or(e.Address, w[e.Request])
	}
	if len(w) >= 10_000 { // of one that is followed for weeks
		clear(w)
	}
	w[e.Request] = e.Address
	return e.Address
}

func eventRow(e admin.Event, w whose) []string {
	who, from := w.of(e), ""
	if who == "" && e.Contact != "" {
		who = "contact " + e.Contact
	}
	if e.IP.IsValid() {
		from = e.IP.String()
	}
	return []string{explain.When(e.Time, time.Now()), explain.InWords(e), who, from}
}

func (c *call) unknownAddresses() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Strangers(ctx, c.firm)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		if len(out.Addresses) == 0 {
			fmt.Fprintln(w, "Everybody who asked in the last 30 days did so with a contact's address.")
			return
		}
		rows := [][]string{{"EMAIL", "TIMES", "LAST", "BROWSER"}}
		for _, s := range out.Addresses {
			rows = append(rows, []string{string(s.Address), fmt.Sprint(s.Count), explain.When(s.Last, time.Now()), s.Agent})
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s that %s no contact's; nobody got a mail.\nTo see whose one may be: caddy doorpost contacts timeline EMAIL\n",
			explain.Count(len(out.Addresses), "address", "addresses"), isOrAre(len(out.Addresses)))
	})
}

func isOrAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
