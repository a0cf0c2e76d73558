package cli

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func timelineCommand() *cobra.Command {
	return spec{
		use: "timeline EMAIL [--since 7d]", short: "Tells what happened when a contact tried to sign in, and what to do",
		long: `Tells, for who has the client on the phone, what happened around an address: when
they asked for a mail and from which browser, what our mail server said, who
opened the link, which codes were wrong, when they were in; and what to do now.

EMAIL may also be an address that is no contact's: then it says whether somebody
asked with it, and which contact has one like it. That what opened a link looks
like a mail scanner is a guess, by its words and its haste.`,
		example: `  caddy doorpost contacts timeline ann@example.com
  caddy doorpost contacts timeline ann@example.com --since 60d`,
		least: 1, most: 1, run: (*call).timeline,
		flags: func(cmd *cobra.Command) { cmd.Flags().String("since", "7d", "How far back, such as 24h or 30d") },
	}.command()
}

func (c *call) timeline() error {
	back, err := c.since()
	if err != nil {
		return err
	}
	now := time.Now()
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Timeline(ctx, c.firm, admin.TimelineOf{Email: c.args[0], Since: now.Add(-back)})
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		if out.Contact != nil {
			fmt.Fprintf(w, "%s, %s\n\n", explain.Person(*out.Contact), standing(*out.Contact))
		}
		lines := explain.Story(out.Events, now)
		for _, line := range lines {
			fmt.Fprintln(w, line)
		}
		if len(lines) > 0 {
			fmt.Fprintln(w)
		}
		if out.File != nil {
			fmt.Fprintf(w, "The file of contacts differs in line %d: %s\n\n", out.File.Line, whyLeftAlone(*out.File))
		}
		for _, line := range explain.Advise(out, flagOf[string](c.cmd, "since"), now) {
			fmt.Fprintln(w, inShell(line))
		}
	})
}

func standing(c directory.Contact) string {
	if c.Disabled {
		return "disabled."
	}
	if c.Role == directory.Staff {
		return "staff."
	}
	if len(c.Companies) == 0 {
		return "client, of no company yet."
	}
	return "client of " + strings.Join(c.Companies, ", ") + "."
}

// inShell is a line of an advice with the command that does what it says.
func inShell(l explain.Line) string {
	contact, email := shellWord(l.Step.Contact), shellWord(l.Step.Email)
	command := map[explain.Action]string{
		explain.Enable:        "enable " + contact,
		explain.GiveCompany:   "set " + contact + " --companies ID",
		explain.AddAddress:    "set " + contact + " --add-email " + email,
		explain.ChangeAddress: "set " + contact + " --email NEW-ADDRESS",
		explain.Find:          "list NAME",
		explain.Add:           "add " + email,
		explain.Look:          "timeline " + contact,
	}[l.Step.Do]
	switch {
	case command == "":
		return l.Text
	case len(l.Text) < 30:
		return l.Text + " caddy doorpost contacts " + command
	}
	return l.Text + "\n  caddy doorpost contacts " + command
}

// shellWord quotes what a shell would read otherwise: an address may hold a backtick,
// whoever typed it, and these lines are there to be copied.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("@.,_+-", r))
	}
	if strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
