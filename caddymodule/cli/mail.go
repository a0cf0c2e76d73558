package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

func mailCommands() *cobra.Command {
	return group("mail", "Shows which emails wait or failed, and tests the mail server",
		`Shows the emails that aren't sent yet and those that failed, has one tried again,
and tests the mail server with an email of its own.`,
		`  caddy doorpost mail list
  caddy doorpost mail test you@example.com`,
		spec{
			use: "list [--failed] [--texts]", short: "Lists the emails that wait, or those that failed",
			long: `Lists the emails that the mail server hasn't taken yet, in the order in which
they go out: with what it said at the last try, and when the next one is. With
--failed, those that ended unsent within the last 48 hours, and why. With
--texts, text messages in place of emails.

Addresses are shown in part: "contacts timeline" shows what happened to one.`,
			example: `  caddy doorpost mail list
  caddy doorpost mail list --failed`,
			run: (*call).listMail,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().Bool("failed", false, "List those that ended unsent")
				cmd.Flags().Bool("texts", false, "List text messages")
			},
		}.command(),
		spec{
			use: "retry ID", short: "Has an email tried again now",
			long: `Has an email tried again now, though its next try is later, or though the mail
server refused it. An email that was refused is made anew, with a new link. One
whose time is over isn't sent any more: the answer says what to do then.`,
			example: `  caddy doorpost mail retry 0-20260301t091500000-k3jq7wmxzn2p4rta`,
			least:   1, most: 1, run: (*call).retryMail,
		}.command(),
		spec{
			use: "test EMAIL", short: "Sends a test, and shows what the mail server says",
			long: `Sends an email to an address of yours that says only that it is a test, with the
firm's own settings: mail server, encryption, login, sender and DKIM. It shows
every line that is said, without secrets, and what the line means. The emails
that wait aren't held up by it. The exit code is 1 where the mail server doesn't
take the email.`,
			example: `  caddy doorpost mail test you@example.com`,
			least:   1, most: 1, run: (*call).testMail,
		}.command(),
	)
}

func (c *call) listMail() error {
	all := admin.MailList{Mails: []admin.Mail{}}
	in := admin.ListMail{Failed: flagOf[bool](c.cmd, "failed"), Texts: flagOf[bool](c.cmd, "texts"), Limit: 1000}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Mails(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		all.Mails, all.MailServer = append(all.Mails, page.Mails...), page.MailServer
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	what, server := "email", "mail server"
	if in.Texts {
		what, server = "text", "text service"
	}
	return c.print(all, func(w io.Writer) {
		switch {
		case in.Failed:
			printFailed(w, what, all.Mails, time.Now())
		default:
			printWaiting(w, what, all.Mails, time.Now())
		}
		if down := all.MailServer; down != nil {
			fmt.Fprintf(w, "The %s can't be used since %s: %s.\n", server, explain.When(down.Since, time.Now()), explain.Printable(down.Reason))
			if advice := outbox.Advice(down.Reason); advice != "" {
				fmt.Fprintln(w, advice)
			}
			fmt.Fprintf(w, "It is tried again at %s.\n", explain.When(down.Next, time.Now()))
		}
	})
}

func printWaiting(w io.Writer, what string, mails []admin.Mail, now time.Time) {
	if len(mails) == 0 {
		fmt.Fprintf(w, "No %s waits.\n", what)
		return
	}
	says := "THE MAIL SERVER SAYS"
	if what == "text" {
		says = "THE TEXT SERVICE SAYS"
	}
	rows := [][]string{{"ID", "KIND", "TO", "ASKED FOR", "FAILED TRIES", "NEXT TRY", says}}
	for _, m := range mails {
		next := "now"
		if m.Next.After(now) {
			next = explain.When(m.Next, now)
		}
		rows = append(rows, []string{m.ID, m.Kind, addressee(m), ago(m.AskedAt, now), fmt.Sprint(m.Tries), next, explain.Printable(m.Reason)})
	}
	columns(w, rows)
	fmt.Fprintln(w)
	printAdvice(w, mails)
	fmt.Fprintf(w, "%s.\n", explain.Count(len(mails), what+" waits", what+"s wait"))
}

func printFailed(w io.Writer, what string, mails []admin.Mail, now time.Time) {
	if len(mails) == 0 {
		fmt.Fprintf(w, "No %s failed in the last 48 hours.\n", what)
		return
	}
	rows := [][]string{{"ID", "KIND", "TO", "FAILED", "WHY"}}
	again := false
	for _, m := range mails {
		why := explain.Printable(m.Reason)
		switch {
		case m.Late && why == "":
			why = "its time was over"
		case m.Late:
			why = "its time was over; the last try: " + why
		case m.Until.After(now):
			again = true
		}
		rows = append(rows, []string{m.ID, m.Kind, addressee(m), ago(m.Failed, now), why})
	}
	columns(w, rows)
	fmt.Fprintln(w)
	printAdvice(w, mails)
	fmt.Fprintf(w, "%s failed in the last 48 hours.\n", explain.Count(len(mails), what, what+"s"))
	if again {
		fmt.Fprintln(w, "Once what is wrong is repaired: caddy doorpost mail retry ID")
	}
}

// printAdvice says what to do, once for each reason.
func printAdvice(w io.Writer, mails []admin.Mail) {
	said := map[string]bool{"": true}
	for _, m := range mails {
		if !said[m.Advice] {
			said[m.Advice] = true
			fmt.Fprintln(w, m.Advice)
		}
	}
}

// addressee is whom an email goes to, as far as it is known.
func addressee(m admin.Mail) string {
	if m.To == "" {
		return "(not written yet)"
	}
	return m.To
}

// ago says how long ago something was.
func ago(t, now time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d/time.Minute))
	}
	return fmt.Sprintf("%d h ago", int(d/time.Hour))
}

func (c *call) retryMail() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RetryMail(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "This email (%s) is tried again now, and given up at %s.\nTo see what becomes of it: caddy doorpost mail list; caddy doorpost mail list --failed\n",
			out.Mail.Kind, explain.When(out.Mail.Until, time.Now()))
	})
}

// testPatience is how long a dialogue with a slow mail server may take.
const testPatience = 10 * time.Minute

func (c *call) testMail() error {
	ctx, cancel := context.WithTimeout(c.ctx, testPatience)
	defer cancel()
	out, err := c.client.TestMail(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	err = c.print(out, func(w io.Writer) {
		marks := map[outbox.Speaker]string{outbox.Us: ">", outbox.Them: "<", outbox.Note: " "}
		fmt.Fprintf(w, "The dialogue with %s (> is Doorpost, < the mail server):\n\n", out.Server)
		for _, l := range out.Lines {
			fmt.Fprintf(w, "%6.1f s %s %s\n", l.After, marks[l.By], explain.Printable(l.Text))
			if l.Means != "" {
				fmt.Fprintf(w, "           %s\n", explain.Printable(l.Means))
			}
		}
		toServer := slices.ContainsFunc(out.Lines, func(l outbox.Spoken) bool { return l.By == outbox.Them }) // not into a mail folder
		if out.Accepted && toServer {
			fmt.Fprintf(w, "\nThe email to %s is on its way. Look for it, also in the spam folder.\n", out.To)
		}
	})
	if err != nil || out.Accepted {
		return err
	}
	return &admin.Error{Reason: "the mail server didn't take the email: " + out.Reason, Remedy: out.Advice}
}
