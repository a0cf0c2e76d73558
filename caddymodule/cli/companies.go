package cli

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func companyCommands() *cobra.Command {
	return group("companies", "Lists and changes the companies that contacts belong to",
		`Lists and changes companies: the firm's clients. A company has an id of small
letters, digits, dots, hyphens and underscores, by which the portal knows it.`,
		`  caddy doorpost companies add acme --name "Acme Ltd"
  caddy doorpost contacts set ann@example.com --companies acme`,
		spec{
			use: "list [TEXT]", short: "Lists companies",
			long: `Lists companies in the order of their ids. With TEXT only those that have each
word of it in their id or name.`,
			example: `  caddy doorpost companies list
  caddy doorpost companies list acme --json`,
			most: -1, run: (*call).listCompanies,
		}.command(),
		spec{
			use: "add ID [flags]", short: "Adds a company",
			long:    `Adds a company, to which contacts can belong from then on.`,
			example: `  caddy doorpost companies add acme --name "Acme Ltd"`,
			least:   1, most: 1, flags: companyFlags, run: (*call).addCompany,
		}.command(),
		spec{
			use: "set ID [flags]", short: "Changes a company",
			long: `Changes what the flags name about a company, and leaves the rest. A list
replaces the whole list; an empty value ("") empties it.`,
			example: `  caddy doorpost companies set acme --name "Acme & Sons"`,
			least:   1, most: 1, flags: companyFlags, run: (*call).setCompany,
		}.command(),
		spec{
			use: "remove ID [--yes]", short: "Removes a company, also from its contacts",
			long: `Removes a company with its old links and takes it from its contacts, who stay
contacts. It asks before; --yes answers for scripts. An import doesn't bring it
back, nor does a file of the Caddyfile unless its row changes. Only
"caddy doorpost companies restore" does, with its old links and contacts.`,
			example: `  caddy doorpost companies remove acme
  caddy doorpost companies remove acme --yes`,
			least: 1, most: 1, run: (*call).removeCompany,
			flags: func(cmd *cobra.Command) { cmd.Flags().Bool("yes", false, "Don't ask") },
		}.command(),
		spec{
			use: "restore ID", short: "Brings a removed company back",
			long: `Brings back a company that was removed: with its name, its old links, and those
of its contacts who are still there. Old links that asked for sign-in do so again.`,
			example: `  caddy doorpost companies restore acme`,
			least:   1, most: 1, run: (*call).restoreCompany,
		}.command(),
		spec{
			use: "import FILE.csv [--dry-run]", short: "Adds and changes companies from a CSV file",
			long: `Adds and changes companies from a CSV file. Its first line names the columns, in
any order: id, name, legacy_tokens. Only id is needed. Several tokens in a cell
are separated by ";".

A row replaces what its columns name: an empty cell empties; leave the column
out to keep what is there. Nothing is deleted, and what was removed by hand
stays so. If any row is wrong, nothing at all is changed, and the rows are
listed; with --skip-bad-rows they are left out, and listed. --column says as
which one to take a column of another name, and --ignore-columns leaves out the
rest.`,
			example: `  caddy doorpost companies import companies.csv --dry-run
  caddy doorpost companies import companies.csv

  id,name
  acme,Acme Ltd
  birch,Birch & Sons`,
			least: 1, most: 1, flags: importFlags,
			run: func(c *call) error { return c.importFile(directory.Companies) },
		}.command(),
	)
}

func companyFlags(cmd *cobra.Command) {
	cmd.Flags().String("name", "", "The company's name")
	cmd.Flags().StringSlice("legacy-tokens", nil, "The secrets in its old links, separated by commas; a CSV file hides them better than a command line")
}

func (c *call) companyChange() directory.CompanyChange {
	return directory.CompanyChange{
		Name:         given[string](c.cmd, "name"),
		LegacyTokens: given[[]string](c.cmd, "legacy-tokens"),
	}
}

func (c *call) listCompanies() error {
	all := admin.CompanyList{Companies: []admin.CompanyInfo{}}
	in := admin.ListRequest{Text: strings.Join(c.args, " "), Limit: 1000}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Companies(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		all.Companies = append(all.Companies, page.Companies...)
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Companies) == 0 {
			fmt.Fprintln(w, nothingFound("company", in.Text, "caddy doorpost companies add ID"))
			c.tellRefused(w)
			return
		}
		rows := [][]string{{"ID", "NAME", "OLD LINKS"}}
		for _, one := range all.Companies {
			rows = append(rows, []string{one.ID, one.Name, oldLinks(one)})
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s.\n", explain.Count(len(all.Companies), "company", "companies"))
		c.tellRefused(w)
	})
}

func (c *call) addCompany() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.AddCompany(ctx, c.firm, c.args[0], c.companyChange())
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Added %s.\nTo let somebody belong to it: caddy doorpost contacts add EMAIL --companies %s\n", firmName(out.Company), out.Company.ID)
	})
}

func (c *call) setCompany() error {
	change := c.companyChange()
	if change == (directory.CompanyChange{}) {
		return usage("say what to change: --name or --legacy-tokens")
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.SetCompany(ctx, c.firm, c.args[0], change)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "This is %s now.\n", firmName(out.Company))
	})
}

func (c *call) removeCompany() error {
	id := c.args[0]
	if !flagOf[bool](c.cmd, "yes") {
		if err := c.confirmRemoval(id); err != nil {
			return err
		}
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RemoveCompany(ctx, c.firm, id)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Removed %s, and took it from %s.\nTo undo it: caddy doorpost companies restore %s\n",
			firmName(out.Company), explain.Count(out.Contacts, "contact", "contacts"), out.Company.ID)
	})
}

// confirmRemoval asks whether the company is to be removed.
func (c *call) confirmRemoval(id string) error {
	ctx, cancel := c.brief()
	defer cancel()
	list, err := c.client.Companies(ctx, c.firm, admin.ListRequest{Text: id, Limit: 1000})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list.Companies, func(one admin.CompanyInfo) bool { return one.ID == id })
	if i < 0 {
		return nil // the server says so, and what was meant
	}
	return c.confirm(fmt.Sprintf("Remove %s, and take it from its contacts?", firmName(list.Companies[i])), "nothing was changed")
}

// confirm asks a question at a terminal. The error says that the answer wasn't yes, or that nobody can be asked.
func (c *call) confirm(question, no string) error {
	in, ok := c.cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) || c.json {
		return usage("%s Nobody can be asked here; add --yes", question)
	}
	fmt.Fprint(c.cmd.ErrOrStderr(), question+" [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); err == nil && (answer == "y" || answer == "yes") {
		return nil
	}
	return &admin.Error{Reason: no}
}

func (c *call) restoreCompany() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RestoreCompany(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s is back, and %s to it again.\n", firmName(out.Company), belongs(out.Contacts))
	})
}

// belongs says that so many contacts belong somewhere.
func belongs(n int) string {
	if n == 1 {
		return "1 contact belongs"
	}
	return fmt.Sprintf("%d contacts belong", n)
}

// oldLinks is a company's old links in a table; the word "upgraded" is for firms alone
// that have any.
func oldLinks(c admin.CompanyInfo) string {
	if c.LegacyLinks == 0 {
		return "0"
	}
	return strconv.Itoa(c.LegacyLinks) + ", " + c.State
}

// firmName is a company in a sentence: acme (Acme Ltd, 2 old links).
func firmName(c admin.CompanyInfo) string {
	var more []string
	if c.Name != c.ID {
		more = append(more, c.Name)
	}
	if c.LegacyLinks > 0 {
		more = append(more, explain.Count(c.LegacyLinks, "old link", "old links"))
	}
	if len(more) == 0 {
		return c.ID
	}
	return fmt.Sprintf("%s (%s)", c.ID, strings.Join(more, ", "))
}
