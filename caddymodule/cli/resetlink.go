package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func resetLinkCommand() *cobra.Command {
	return spec{
		use: "reset-link EMAIL", short: "Mails a contact a link to choose a password",
		long: `Mails a contact a link by which they choose a password, or another one. It is
good once, for 24 hours, and goes to the address that you name, in the name of
the firm. Until it is used nothing changes, and whoever wants no password goes
on signing in by mail. Nobody can choose a password for somebody else.`,
		example: `  caddy doorpost reset-link ann@example.com`,
		least:   1, most: 1, run: (*call).resetLink,
	}.command()
}

func (c *call) resetLink() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.ResetLink(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		name := out.Contact.Name()
		if name == "" {
			name = string(out.Contact.Email())
		}
		fmt.Fprintf(w, "A mail to %s is on its way to %s, with a link that is good once, for 24 hours.\n"+
			"To see what becomes of it: caddy doorpost contacts timeline %s\n", name, out.To, shellWord(string(out.To)))
	})
}
