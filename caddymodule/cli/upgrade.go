package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func upgradeCommand() *cobra.Command {
	return spec{
		use: "upgrade COMPANY... | --all [--undo] [--dry-run]", short: "Makes old links ask for sign-in",
		long: `Makes the old links of companies ask for sign-in: whoever holds one is led to the
same page, after proof that they are a contact of the company. Companies are
named by id or by unique name; --all stands for every company, also for those
that are added later. It is in force with the next request.

A company without a contact who may sign in is refused, since nobody could reach
it any more: it stays as it is and is named, and the exit code is 1. The others
are upgraded.

--undo lets old links work as ever again.`,
		example: `  caddy doorpost upgrade acme birch --dry-run
  caddy doorpost upgrade acme birch
  caddy doorpost upgrade --all
  caddy doorpost upgrade acme --undo`,
		most: -1, run: (*call).upgrade,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Bool("all", false, "Every company, also later ones")
			cmd.Flags().Bool("undo", false, "Let old links work as ever again")
			cmd.Flags().Bool("dry-run", false, "Only show who would be asked, which company has no contact, and how old links were used")
		},
	}.command()
}

func (c *call) upgrade() error {
	in := admin.Upgrade{Companies: c.args, All: flagOf[bool](c.cmd, "all"), Undo: flagOf[bool](c.cmd, "undo"), DryRun: flagOf[bool](c.cmd, "dry-run")}
	switch {
	case in.All && len(in.Companies) > 0:
		return usage("name companies, or say --all, but not both")
	case !in.All && len(in.Companies) == 0:
		return usage("say which: the ids of companies, or --all")
	}
	out, err := c.client.Upgrade(c.ctx, c.firm, in)
	if err != nil {
		return err
	}
	if err := c.print(out, func(w io.Writer) { upgraded(w, in, out) }); err != nil || in.DryRun || len(out.Refused) == 0 {
		return err
	}
	var ids []string
	for _, one := range out.Refused {
		ids = append(ids, one.ID)
	}
	return &admin.Error{
		Reason: fmt.Sprintf("%s, so that nobody could reach it any more; it stays open: %s", has(len(ids), "no contact who may sign in"), strings.Join(ids, ", ")),
		Remedy: "give it one with contacts add EMAIL --companies " + ids[0] + ", then do this again",
	}
}

// has says of so many companies what each of them has.
func has(n int, what string) string {
	if n == 1 {
		return "1 company has " + what
	}
	return fmt.Sprintf("each of %d companies has %s", n, what)
}

// upgraded tells people what an upgrade has done.
func upgraded(w io.Writer, in admin.Upgrade, out admin.Upgraded) {
	what := "asks for sign-in now"
	switch {
	case in.DryRun && in.Undo:
		what = "would work as ever again"
	case in.DryRun:
		what = "would ask for sign-in"
	case in.Undo:
		what = "works as ever again"
	}
	for i, one := range out.Changed {
		if i == shownCompanies {
			fmt.Fprintf(w, "and %d more; --json lists them all\n", len(out.Changed)-i)
			break
		}
		asked := ""
		if !in.Undo {
			asked = ": " + some(one.Contacts)
		}
		fmt.Fprintf(w, "%s %s%s\n", one.ID, what, asked)
		tellUse(w, one, out.CountedSince)
	}
	if in.DryRun {
		for i, one := range out.Refused {
			if i == shownCompanies {
				fmt.Fprintf(w, "and %d more without a contact; --json lists them all\n", len(out.Refused)-i)
				break
			}
			fmt.Fprintf(w, "%s would be refused: it has no contact who may sign in\n", one.ID)
			tellUse(w, one, out.CountedSince)
		}
	}
	if n := out.Unchanged - out.Linkless; n > 0 {
		fmt.Fprintf(w, "%s nothing to change.\n", companiesHave(n))
	}
	switch {
	case out.Linkless == 1:
		fmt.Fprintln(w, "1 company has no old links: whoever comes to its pages is asked to sign in, as ever.")
	case out.Linkless > 1:
		fmt.Fprintf(w, "%d companies have no old links: whoever comes to their pages is asked to sign in, as ever.\n", out.Linkless)
	}
	would := "Upgraded"
	if in.DryRun {
		would = "Upgraded would be"
	}
	fmt.Fprintf(w, "\n%s: %d of %s with old links.\n", would, out.Done, explain.Count(out.Linked, "company", "companies"))
	if in.All && !in.DryRun {
		state := "upgraded"
		if in.Undo {
			state = "open"
		}
		fmt.Fprintf(w, "A company with old links that is added from now on is %s from the start.\n", state)
	}
	if len(out.Changed) > 0 && !in.Undo && !in.DryRun {
		fmt.Fprintf(w, "So that it holds even if all data is lost, write it in the Caddyfile, too: %s\n", upgradedSetting(in, out))
	}
	if out.NoLegacyLink {
		fmt.Fprintf(w, "Look at it once more: the Caddyfile has no legacy_link, so that old links aren't known as such and ask for sign-in already.\nTo have them lead to the page they meant, add a line such as: %s\n", config.Example("legacy_link"))
	}
	if in.DryRun {
		fmt.Fprintln(w, "Nothing has been changed. To do it, leave out --dry-run.")
	}
}

// upgradedSetting is the line of the Caddyfile that says what an upgrade has done.
func upgradedSetting(in admin.Upgrade, out admin.Upgraded) string {
	if in.All {
		return "upgraded all"
	}
	ids := make([]string, len(out.Changed))
	for i, c := range out.Changed {
		ids[i] = c.ID
	}
	if len(ids) > shownCompanies {
		return "upgraded, and the ids of all of them"
	}
	return "upgraded " + strings.Join(ids, " ")
}

// shownCompanies is how many companies people are shown.
const shownCompanies = 50

func companiesHave(n int) string {
	if n == 1 {
		return "1 company has"
	}
	return fmt.Sprintf("%d companies have", n)
}

// some are a few of many in a sentence.
func some(all []string) string {
	const most = 5
	if len(all) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(all[:most], ", "), len(all)-most)
	}
	return strings.Join(all, ", ")
}
