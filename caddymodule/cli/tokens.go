package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/servicetoken"
)

func tokenCommands() *cobra.Command {
	return group("tokens", "Makes and revokes tokens for the firm's own programs",
		`Makes, lists and revokes service tokens. With one, a program of the firm, such as
its portal, sends notices and keeps contacts and companies in step, at
https://YOUR-SITE/-/api/.`,
		`  caddy doorpost tokens create --scope notify --name portal
  caddy doorpost tokens list
  caddy doorpost tokens revoke k3q27wej`,
		spec{
			use: "create --scope SCOPE...", short: "Makes a token, and shows it once",
			long: `Makes a service token, and shows it once: keep it where the program can read it
and nobody else. The scopes say what it may be used for:

  notify           email contacts that something waits for them
  reports          publish files
  directory:read   read contacts and companies
  directory:write  change companies, and contacts who aren't staff

A token can't make or change staff.`,
			example: `  caddy doorpost tokens create --scope notify --name portal
  caddy doorpost tokens create --scope directory:read,directory:write --name sync`,
			run: (*call).createToken,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().StringSlice("scope", nil, "What it may be used for; may be given several times")
				cmd.Flags().String("name", "", "What the token is for, as tokens list shows it")
			},
		}.command(),
		spec{
			use: "list", short: "Lists the tokens, and when each was last used",
			long: `Lists the service tokens with their scopes and their last use. The tokens
themselves can't be shown again.`,
			example: `  caddy doorpost tokens list`,
			run:     (*call).listTokens,
		}.command(),
		spec{
			use: "revoke ID", short: "Ends a token at once",
			long: `Ends a service token: from then on every request with it is refused, also one
that is under way and hasn't been carried out.`,
			example: `  caddy doorpost tokens revoke k3q27wej`,
			least:   1, most: 1, run: (*call).revokeToken,
		}.command(),
	)
}

func (c *call) createToken() error {
	in := admin.CreateToken{Name: flagOf[string](c.cmd, "name")}
	for _, s := range flagOf[[]string](c.cmd, "scope") {
		in.Scopes = append(in.Scopes, servicetoken.Scope(s))
	}
	if len(in.Scopes) == 0 {
		return usage("say what it may be used for: --scope %s", strings.Join(scopeNames(servicetoken.Scopes), "|"))
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.CreateToken(ctx, c.firm, in)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n\nThis is the only time that it is shown. Programs send it as Authorization: Bearer TOKEN.\nIt may: %s\nTo end it: caddy doorpost tokens revoke %s\n",
			out.Text, strings.Join(scopeNames(out.Scopes), ", "), out.ID)
	})
}

func scopeNames(scopes []servicetoken.Scope) (names []string) {
	for _, s := range scopes {
		names = append(names, string(s))
	}
	return names
}

func (c *call) listTokens() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.ServiceTokens(ctx, c.firm)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		if len(out.Tokens) == 0 {
			fmt.Fprintln(w, "There are no service tokens.")
			return
		}
		rows := [][]string{{"ID", "NAME", "SCOPES", "MADE", "LAST USED"}}
		for _, t := range out.Tokens {
			const layout = "2006-01-02 15:04"
			used := "never"
			if !t.LastUsed.IsZero() {
				used = t.LastUsed.In(time.Local).Format(layout)
			}
			rows = append(rows, []string{t.ID, t.Name, strings.Join(scopeNames(t.Scopes), " "), t.Created.In(time.Local).Format(layout), used})
		}
		columns(w, rows)
	})
}

func (c *call) revokeToken() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RevokeToken(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		name := ""
		if out.Name != "" {
			name = " (" + out.Name + ")"
		}
		fmt.Fprintf(w, "Revoked %s%s. Every request with it is refused from now on.\n", out.ID, name)
	})
}
