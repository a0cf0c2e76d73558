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
		use: "notify COMPANY [--to EMAIL...] [--template NAME] [--data KEY=VALUE...] [--text]", short: "Tells a company's contacts that something waits for them",
		long: `Emails the contacts of a company that something waits for them in the portal:
all of them, or those named by --to. The email is new-questions, or a template
of your own. Its link is the page of the company. It holds no secret: whoever
isn't signed in is asked to sign in first.

What --data says stands in the email, where the template has {{.Data.KEY}}. The
built-in one knows count, due and note.

With --text, those who have a phone number get a text message as well; with
--text-only, nobody gets an email. Who wants no texts is set with
contacts set EMAIL --texts off.

With --key the same notice isn't sent twice within 48 hours, also where a command
was interrupted and is run again.`,
		example: `  caddy doorpost notify acme
  caddy doorpost notify acme --to ann@example.com --data count=3 --data "due=12 March"`,
		least: 1, most: 1, run: (*call).notify,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().StringSlice("to", nil, "The contact who is meant, by an address of theirs; may be given several times")
			cmd.Flags().String("template", "", "Name of a template of your own, in the folder mails of templates")
			cmd.Flags().StringArray("data", nil, "What stands in the email, as KEY=VALUE; may be given several times")
			cmd.Flags().Bool("text", false, "Send a text message as well, to those who have a phone number")
			cmd.Flags().Bool("text-only", false, "Send a text message and no email")
			cmd.Flags().String("key", "", "Stands for this notice, so that it isn't sent twice")
		},
	}.command()
}

func (c *call) notify() error {
	in := admin.Notify{Company: c.args[0], To: flagOf[[]string](c.cmd, "to"), Template: flagOf[string](c.cmd, "template"), Key: flagOf[string](c.cmd, "key")}
	switch {
	case flagOf[bool](c.cmd, "text-only"):
		in.Text = "only"
	case flagOf[bool](c.cmd, "text"):
		in.Text = "too"
	}
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
	var to, mailed, texted []string
	for _, t := range out.Queued {
		to = append(to, string(t.Email))
		if t.Request != "" {
			mailed = append(mailed, string(t.Email))
		}
		if t.Text != nil {
			texted = append(texted, fmt.Sprintf("%s (%s)", t.Email, t.Text.To))
		}
	}
	if n := len(mailed); n > 0 {
		fmt.Fprintf(w, "An email about %s is on its way to %s: %s\n", out.Company, explain.Count(n, "contact", "contacts"), some(mailed))
	}
	if n := len(texted); n > 0 {
		fmt.Fprintf(w, "A text about %s is on its way to %s: %s\n", out.Company, explain.Count(n, "contact", "contacts"), some(texted))
	}
	for i, s := range out.Skipped {
		if i == shownCompanies {
			fmt.Fprintf(w, "and %d more; --json lists them all\n", len(out.Skipped)-i)
			break
		}
		what := "email"
		if s.By != "" {
			what = s.By
		}
		fmt.Fprintf(w, "No %s goes to %s: %s\n", what, s.Email, s.Reason)
	}
	if len(to) > 0 {
		fmt.Fprintf(w, "To see what becomes of it: caddy doorpost contacts timeline %s\n", shellWord(to[0]))
	}
}
