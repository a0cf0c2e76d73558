package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func sessionCommands() *cobra.Command {
	return group("sessions", "Lists and ends the sessions of signed-in browsers",
		`Lists and ends sessions. A session is one browser that is signed in.`,
		`  caddy doorpost sessions list ann@example.com
  caddy doorpost sessions revoke ann@example.com`,
		spec{
			use: "list [EMAIL]", short: "Lists the browsers that are signed in",
			long: `Lists the browsers that are signed in: those of one contact, or all. Times are
of this machine's time zone; the JSON has them in UTC.`,
			example: `  caddy doorpost sessions list
  caddy doorpost sessions list ann@example.com`,
			most: 1, run: (*call).listSessions,
		}.command(),
		spec{
			use: "revoke EMAIL", short: "Signs a contact out everywhere",
			long: `Signs a contact out of every browser with its next request, and ends the sign-in
links that are on their way to them. They may sign in again; "contacts disable"
keeps them out.`,
			example: `  caddy doorpost sessions revoke ann@example.com`,
			least:   1, most: 1, run: (*call).revokeSessions,
		}.command(),
	)
}

func (c *call) listSessions() error {
	all := admin.SessionList{Sessions: []admin.Session{}}
	in := admin.ListSessions{ListRequest: admin.ListRequest{Limit: 1000}}
	if len(c.args) > 0 {
		in.Email = c.args[0]
	}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Sessions(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		all.Sessions = append(all.Sessions, page.Sessions...)
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Sessions) == 0 {
			who := "Nobody is"
			if in.Email != "" {
				who = in.Email + " isn't"
			}
			fmt.Fprintln(w, who, "signed in.")
			return
		}
		const layout = "2006-01-02 15:04"
		rows := [][]string{{"EMAIL", "NAME", "BROWSER", "SIGNED IN", "LAST SEEN", "ENDS"}}
		for _, s := range all.Sessions {
			agent := s.Agent
			if s.Shared {
				agent += " (shared)"
			}
			rows = append(rows, []string{s.Email, s.Name, agent, s.BegunAt.In(time.Local).Format(layout),
				s.SeenAt.In(time.Local).Format(layout), s.ExpiresAt.In(time.Local).Format(layout)})
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s.\n", explain.Count(len(all.Sessions), "browser", "browsers"))
	})
}

func (c *call) revokeSessions() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RevokeSessions(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		who := explain.Person(out.Contact)
		if out.SessionsEnded == 0 {
			fmt.Fprintf(w, "%s wasn't signed in anywhere.", who)
		} else {
			fmt.Fprintf(w, "Signed %s out of %s.", who, explain.Count(out.SessionsEnded, "browser", "browsers"))
		}
		fmt.Fprintf(w, " Links on their way no longer work.\nThey may sign in again; to keep them out: caddy doorpost contacts disable %s\n", out.Contact.Email())
	})
}
