package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func doctorCommand() *cobra.Command {
	return spec{
		use: "doctor", short: "Says what is wrong, and what to do",
		long: `Has the server look at itself and around: store, secrets and files; whether the
mail server takes connection and login; SPF, DKIM and DMARC of each sender; the
site as visitors reach it, with its certificate and clock; whether identity
headers that visitors write change anything, and whether others reach the portal
around the gate; proxies in front. It changes nothing and sends no email. The
exit code is 1 where something is wrong.`,
		example: `  caddy doorpost doctor
  caddy doorpost doctor --json`,
		whole: true, run: (*call).doctor,
	}.command()
}

func (c *call) doctor() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Doctor(ctx)
	if err != nil {
		return err
	}
	wrong := 0
	err = c.print(out, func(w io.Writer) {
		for _, f := range out.Findings {
			mark := "ok   "
			if !f.OK {
				mark = "WRONG"
			}
			about := f.Check
			if f.Firm != "" {
				about += " (" + f.Firm + ")"
			}
			fmt.Fprintf(w, "%s  %s: %s\n", mark, about, f.What)
			if f.Do != "" {
				fmt.Fprintf(w, "       %s\n", f.Do)
			}
		}
	})
	for _, f := range out.Findings {
		if !f.OK {
			wrong++
		}
	}
	if err != nil || wrong == 0 {
		return err
	}
	return &admin.Error{Reason: explain.Count(wrong, "thing is", "things are") + " wrong", Remedy: "see below each line that begins with WRONG"}
}

func storeCommands() *cobra.Command {
	return group("store", "Says which store is the right one, and whether it is damaged",
		`Says which store is the right one, after it was lost, emptied or put back: until
then nobody is let in, old links ask for sign-in, and nothing is changed. And
looks whether the file of a store, or a copy of it, is damaged.`,
		`  caddy doorpost store accept
  caddy doorpost store check doorpost-backup.db`,
		checkCommand(),
		spec{
			use: "accept [--reopen]", short: "Takes the store as the right one from now on",
			long: `Takes the store as the right one from now on, although it is new, empty, older,
or another one than last time. Look first whether the right one can be brought
back: "caddy doorpost doctor" says what happened.

Companies that were upgraded stay upgraded, also when a file brings them back
with their old links; --reopen lets those old links open again as the store says.
Sessions and sign-in links in the store end, since they may have been ended
before. What else was changed since the store was as it is now is lost: contacts
who were disabled or removed by hand may be back, and so may be old passwords.

Where several servers share the store, this is to be said at one of them.`,
			example: `  caddy doorpost store accept
  caddy doorpost store accept --reopen`,
			run: (*call).acceptStore,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().Bool("reopen", false, "Let old links of upgraded companies open again, where the store says so")
			},
		}.command(),
	)
}

func (c *call) acceptStore() error {
	out, err := c.client.AcceptStore(c.ctx, c.firm, admin.AcceptStore{Reopen: flagOf[bool](c.cmd, "reopen")})
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "This is the store from now on. %s.\n", explain.Count(out.SessionsEnded, "session that was in it has ended", "sessions that were in it have ended"))
		switch {
		case out.AllUpgraded:
			fmt.Fprintln(w, "All companies stay upgraded, also those that are added later.")
		case len(out.Upgraded) > 0:
			fmt.Fprintf(w, "Still upgraded: %s.\n", some(out.Upgraded))
		}
		fmt.Fprintln(w, "Contacts who were disabled or removed by hand may be back: caddy doorpost contacts list")
	})
}
