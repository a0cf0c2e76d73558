package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func notifyCommand() *cobra.Command {
	return spec{
		use: "notify COMPANY [--to EMAIL...] [--template NAME] [--data KEY=VALUE...]", short: "Emails a company's contacts that something waits for them",
		long: `Emails the contacts of a company that something waits for them in the portal:
all of them, or those named by --to. The email is new-questions, or a template
of your own. Its link is the page of the company. It holds no secret: whoever
isn't signed in is asked to sign in first.

What --data says stands in the email, where the template has {{.Data.KEY}}. The
built-in one knows count, due and note.

With --key the same notice isn't sent twice within 48 hours, also where a command
was interrupted and is run again.`,
		example: `  caddy doorpost notify acme
  caddy doorpost notify acme --to ann@example.com --data count=3 --data "due=12 March"`,
		least: 1, most: 1, run: (*call).notify,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringSlice("to", nil, "The contact who is meant, by an address of theirs; may be given several times")
			cmd.Flags().String("template", "", "Name of a template of your own, in the folder mails of templates")
			cmd.Flags().StringArray("data", nil, "What stands in the email, as KEY=VALUE; may be given several times")
			cmd.Flags().String("key", "", "Stands for this notice, so that it isn't sent twice")
		},
	}.command()
}

func (c *call) notify() error {
	in := admin.Notify{Company: c.args[0], To: flagOf[[]string](c.cmd, "to"), Template: flagOf[string](c.cmd, "template"), Key: flagOf[string](c.cmd, "key")}
	pairs, err := c.cmd.Flags().GetStringArray("data")
	if err != nil {
		panic("doorpost: " + err.Error()) // a flag that was never declared
	}
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return usage("%q is no KEY=VALUE; write --data count=3", pair)
		}
		if in.Data == nil {
			in.Data = admin.NoticeData{}
		}
		in.Data[name] = value
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Notify(ctx, c.firm, in)
	if err != nil {
		return err
	}
	if err := c.print(out, func(w io.Writer) { toldOf(w, out) }); err != nil || len(out.Queued) > 0 {
		return err
	}
	if len(in.To) > 0 {
		return &admin.Error{Reason: "nobody was told: of the addresses none is a contact's who may sign in and belongs to " + out.Company,
			Remedy: "look who does with contacts list " + shellWord(out.Company)}
	}
	return &admin.Error{Reason: "nobody was told: " + out.Company + " has no contact who may sign in",
		Remedy: "give it one with contacts add EMAIL --companies " + shellWord(out.Company) + ", then do this again"}
}

// toldOf tells people who gets a notice.
func toldOf(w io.Writer, out admin.Notified) {
	var to []string
	for _, t := range out.Queued {
		to = append(to, string(t.Email))
	}
	if n := len(to); n > 0 {
		fmt.Fprintf(w, "An email about %s is on its way to %s: %s\n", out.Company, explain.Count(n, "contact", "contacts"), some(to))
	}
	for i, s := range out.Skipped {
		if i == shownCompanies {
			fmt.Fprintf(w, "and %d more; --json lists them all\n", len(out.Skipped)-i)
			break
		}
		fmt.Fprintf(w, "No email goes to %s: %s\n", s.Email, s.Reason)
	}
	if len(to) > 0 {
		fmt.Fprintf(w, "To see what becomes of it: caddy doorpost contacts timeline %s\n", shellWord(to[0]))
	}
}
