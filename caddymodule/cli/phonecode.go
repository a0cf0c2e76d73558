package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func phoneCodeCommand() *cobra.Command {
	return spec{
		use: "phone-code EMAIL", short: "Makes a code to read to a contact over the phone",
		long: `Makes a code to read to a contact over the phone: eight letters and digits, good
once, for ten minutes, and only in the browser that waits for it. The contact
first types their address on the sign-in page, and leaves the page open that
tells them to check their email; they type the code there.

Read it only to whom you know by their voice, or have called at the number that
you have of them. Where several browsers wait, --list shows them, and --request
names one. Staff get no such code.`,
		example: `  caddy doorpost contacts phone-code ann@example.com
  caddy doorpost contacts phone-code ann@example.com --list`,
		least: 1, most: 1, run: (*call).phoneCode,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Bool("list", false, "Only show the browsers that wait")
			cmd.Flags().String("request", "", "The browser that the code is for, as --list names it")
		},
	}.command()
}

func (c *call) phoneCode() error {
	ctx, cancel := c.brief()
	defer cancel()
	if flagOf[bool](c.cmd, "list") {
		out, err := c.client.WaitingBrowsers(ctx, c.firm, c.args[0])
		if err != nil {
			return err
		}
		return c.print(out, func(w io.Writer) {
			if len(out.Browsers) == 0 {
				fmt.Fprintf(w, "No browser waits for an email to %s. Let them type their address on the sign-in page first.\n", explain.Person(out.Contact))
				return
			}
			rows := [][]string{{"ASKED", "WITH", "BROWSER", "SIGNED IN THERE BEFORE", "REQUEST"}}
			for _, b := range out.Browsers {
				known := "no"
				if b.Known {
					known = "yes"
				}
				rows = append(rows, []string{explain.When(b.At, time.Now()), string(b.Email), b.Agent, known, b.Request})
			}
			columns(w, rows)
		})
	}
	out, err := c.client.PhoneCode(ctx, c.firm, admin.PhoneCode{Email: c.args[0], Request: flagOf[string](c.cmd, "request")})
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "The code for %s is:\n\n  %s\n\nIt works once, until %s, in %s, which asked at %s.\n",
			explain.Person(out.Contact), out.Code, explain.When(out.Until, time.Now()), out.Browser.Agent, explain.When(out.Browser.At, time.Now()))
	})
}
