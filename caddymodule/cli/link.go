package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func linkCommand() *cobra.Command {
	return spec{
		use: "link EMAIL", short: "Mails a contact the link that leads to their pages at any time",
		long: `Mails a contact the link of their company's page, or, if they have several
companies, of the list of these. It is good for ever and holds no secret: whoever
opens it signs in there. It goes to their main address, with the words of
portal-update, and counts for no announcement.`,
		example: `  caddy doorpost contacts link ann@example.com`,
		least:   1, most: 1, run: (*call).mailLink,
	}.command()
}

func (c *call) mailLink() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.MailLink(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "An email with their lasting link is on its way to %s.\nTo see what becomes of it: caddy doorpost contacts timeline %s\n", out.To, shellWord(string(out.To)))
	})
}
