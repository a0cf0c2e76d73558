package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func contactCommands() *cobra.Command {
	return group("contacts", "Lists and changes who may sign in",
		`Lists and changes contacts: the people who may sign in. A contact has one email
address or several, each of which leads in, and belongs to any number of
companies.`,
		`  caddy doorpost contacts list acme
  caddy doorpost contacts add ann@example.com --first-name Ann --last-name Lee --companies acme,birch`,
		listContactsCommand(), addContactCommand(), setContactCommand(),
		disableContactCommand(), enableContactCommand(), removeContactCommand(), importContactsCommand(), exportContactsCommand(), timelineCommand(), phoneCodeCommand(), linkCommand())
}

func listContactsCommand() *cobra.Command {
	return spec{
		use: "list [TEXT]", short: "Lists contacts",
		long: `Lists contacts, in the order in which they were added. With TEXT only those
that have each word of it in a name, an address or a company.`,
		example: `  caddy doorpost contacts list
  caddy doorpost contacts list lee acme
  caddy doorpost contacts list --never-signed-in
  caddy doorpost contacts list --json | jq -r '.contacts[].email'`,
		most: -1, run: (*call).listContacts, flags: filterFlags,
	}.command()
}

func filterFlags(cmd *cobra.Command) {
	cmd.Flags().Bool("disabled", false, "Only those who are disabled")
	cmd.Flags().Bool("never-signed-in", false, "Only those who have never signed in")
	cmd.Flags().Bool("old-links", false, "Only those of companies whose old links still open without sign-in")
}

// filtered returns the filter of a list from arguments and flags.
func (c *call) filtered() (admin.ListContacts, error) {
	in := admin.ListContacts{ListRequest: admin.ListRequest{Text: strings.Join(c.args, " "), Limit: 1000}}
	for _, only := range []string{admin.OnlyDisabled, admin.OnlyNeverSignedIn, admin.OnlyOldLinks} {
		if !flagOf[bool](c.cmd, only) {
			continue
		}
		if in.Only != "" {
			return in, usage("choose one of --%s and --%s", in.Only, only)
		}
		in.Only = only
	}
	return in, nil
}

// allContacts returns all pages of a list.
func (c *call) allContacts(in admin.ListContacts) (admin.ContactList, error) {
	all := admin.ContactList{Contacts: []directory.Contact{}}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Contacts(ctx, c.firm, in)
		cancel()
		if err != nil {
			return all, err
		}
		all.Contacts = append(all.Contacts, page.Contacts...)
		if in.After = page.Next; in.After == "" {
			return all, nil
		}
	}
}

func exportContactsCommand() *cobra.Command {
	return spec{
		use: "export [TEXT]", short: "Writes contacts as a CSV file that can be imported again",
		long: `Writes contacts as a CSV file that "contacts import" reads again: every column
but the password_hash, which nobody gets to see. TEXT and the flags narrow it
down, as with "contacts list". With --out it goes into a new file that only you
can read.`,
		example: `  caddy doorpost contacts export > contacts.csv
  caddy doorpost contacts export --never-signed-in --out never.csv`,
		most: -1, run: (*call).exportContacts,
		flags: func(cmd *cobra.Command) {
			filterFlags(cmd)
			cmd.Flags().String("out", "", "Write to this file rather than to the terminal")
		},
	}.command()
}

func (c *call) exportContacts() error {
	in, err := c.filtered()
	if err != nil {
		return err
	}
	all, err := c.allContacts(in)
	if err != nil {
		return err
	}
	path := flagOf[string](c.cmd, "out")
	if path == "" {
		if c.json {
			return c.print(all, nil)
		}
		return directory.WriteContacts(c.out, all.Contacts)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		remedy := remedyFor(err)
		if errors.Is(err, fs.ErrExist) {
			remedy = "choose another name, or remove that file"
		}
		return &admin.Error{Reason: err.Error(), Remedy: remedy}
	}
	err = errors.Join(directory.WriteContacts(file, all.Contacts), file.Close())
	if err != nil {
		return &admin.Error{Reason: err.Error()}
	}
	return c.print(struct {
		Contacts int    `json:"contacts"`
		Out      string `json:"out"`
	}{len(all.Contacts), path}, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s to %s.\n", explain.Count(len(all.Contacts), "contact", "contacts"), path)
	})
}

func addContactCommand() *cobra.Command {
	return spec{
		use: "add EMAIL [flags]", short: "Adds a contact, who may sign in from then on",
		long: `Adds a contact, who may sign in from then on. No mail is sent: people get a link
when they ask for one.`,
		example: `  caddy doorpost contacts add ann@example.com
  caddy doorpost contacts add ann@example.com --first-name Ann --last-name Lee --companies acme,birch`,
		least: 1, most: 1, flags: contactFlags, run: (*call).addContact,
	}.command()
}

func setContactCommand() *cobra.Command {
	return spec{
		use: "set EMAIL [flags]", short: "Changes a contact",
		long: `Changes what the flags name about a contact, and leaves the rest. A list
replaces the whole list; an empty value ("") empties it. Who loses an address
is signed out, and their password ends: whoever reads the mail there may have
come in by it, or set it. To add to a list or to take from it, and keep the rest:
--add-email, --remove-email, --add-company, --remove-company.`,
		example: `  caddy doorpost contacts set ann@example.com --phone "+1 555 0100"
  caddy doorpost contacts set ann@example.com --add-email ann@example.org --add-company acme
  caddy doorpost contacts set ann@example.com --email ann.lee@example.com`,
		least: 1, most: 1,
		flags: func(cmd *cobra.Command) {
			contactFlags(cmd)
			cmd.Flags().String("email", "", "The new main address, in place of the present one")
			cmd.Flags().StringSlice("add-email", nil, "A further address")
			cmd.Flags().StringSlice("remove-email", nil, "An address that isn't theirs any more")
			cmd.Flags().StringSlice("add-company", nil, "A further company, by id or by name")
			cmd.Flags().StringSlice("remove-company", nil, "A company that they don't belong to any more")
		},
		run: (*call).setContact,
	}.command()
}

func disableContactCommand() *cobra.Command {
	return spec{
		use: "disable EMAIL", short: "Keeps a contact from signing in, and signs them out",
		long: `Keeps a contact from signing in, and signs them out everywhere with their next
request. It stays so, whatever a CSV file says, until they are enabled.`,
		example: `  caddy doorpost contacts disable ann@example.com`,
		least:   1, most: 1, run: (*call).disableContact,
	}.command()
}

func enableContactCommand() *cobra.Command {
	return spec{
		use: "enable EMAIL", short: "Lets a disabled contact sign in again",
		long:    `Lets a disabled contact sign in again.`,
		example: `  caddy doorpost contacts enable ann@example.com`,
		least:   1, most: 1, run: (*call).enableContact,
	}.command()
}

func removeContactCommand() *cobra.Command {
	return spec{
		use: "remove EMAIL", short: "Removes a contact, and signs them out",
		long: `Removes a contact with all their addresses, and signs them out everywhere with
their next request. An import doesn't bring them back, nor does a file of the
Caddyfile unless their row changes; "contacts add" does.`,
		example: `  caddy doorpost contacts remove ann@example.com`,
		least:   1, most: 1, run: (*call).removeContact,
	}.command()
}

func importContactsCommand() *cobra.Command {
	return spec{
		use: "import FILE.csv [--dry-run]", short: "Adds and changes contacts from a CSV file",
		long: `Adds and changes contacts from a CSV file. Its first line names the columns, in
any order: email, other_emails, first_name, last_name, phone, companies, role,
locale, disabled, password_hash. Only email is needed. Several values in a cell
are separated by ";". Companies are ids, or names that only one company has;
they must be there already.

password_hash is that of an earlier portal, so that people go on with the
password they have: bcrypt ($2a$, $2b$, $2y$; cost 4 to 14) or argon2id in the
PHC format (at most m=131072, t=10, p=16). An empty cell says nothing. Who has
set, used or removed a password here keeps it so, and the answer says it. A
bcrypt hash of a password of more than 72 bytes lets nobody in: they choose a
new one. Whoever gets such a file can guess passwords with it: delete it once it
is imported.

Names of columns from address books and accounting programs are known, too,
such as "Email Address", "Mobile", "Company Name", and one "Name" for both
("Lee, Ann"). For others, --column says as which one to take it, and
--ignore-columns leaves out the rest.

A row replaces what its columns name: an empty cell empties; leave the column
out to keep what is there. Nobody is deleted, and who was removed or disabled
by hand stays so. If any row is wrong, nothing at all is changed, and the rows
are listed; with --skip-bad-rows they are left out, and listed.`,
		example: `  caddy doorpost contacts import contacts.csv --dry-run
  caddy doorpost contacts import contacts.csv
  caddy doorpost contacts import quickbooks.csv --ignore-columns --skip-bad-rows --column "Customer=companies"

  email,first_name,last_name,companies
  ann@example.com,Ann,Lee,acme;birch
  bob@example.com,Bob,Ray,"Acme Ltd"`,
		least: 1, most: 1, flags: importFlags,
		run: func(c *call) error { return c.importFile(directory.Contacts) },
	}.command()
}

func contactFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("first-name", "", "First name")
	f.String("last-name", "", "Last name")
	f.String("phone", "", "Phone number")
	f.StringSlice("companies", nil, "All companies, by id or by name, separated by commas")
	f.String("role", "", "client, or staff of the firm itself, who reach every company")
	f.String("locale", "", "Language, such as en-GB")
	f.String("texts", "", "on or off: whether they get text messages")
	f.StringSlice("other-emails", nil, "All further addresses, separated by commas")
}

// contactChange returns the change from the flags.
func (c *call) contactChange() (directory.Change, error) {
	for _, list := range []string{"companies", "other-emails"} {
		for _, v := range flagOf[[]string](c.cmd, list) {
			if strings.Contains(v, ";") { // as in a CSV file
				return directory.Change{}, usage("--%s: a comma separates here: write %q", list, strings.ReplaceAll(v, ";", ","))
			}
		}
	}
	return directory.Change{
		OtherEmails: given[[]string](c.cmd, "other-emails"),
		FirstName:   given[string](c.cmd, "first-name"),
		LastName:    given[string](c.cmd, "last-name"),
		Phone:       given[string](c.cmd, "phone"),
		Companies:   given[[]string](c.cmd, "companies"),
		Role:        (*directory.Role)(given[string](c.cmd, "role")),
		Locale:      given[string](c.cmd, "locale"),
		Texts:       given[string](c.cmd, "texts"),
	}, nil
}

func (c *call) listContacts() error {
	in, err := c.filtered()
	if err != nil {
		return err
	}
	all, err := c.allContacts(in)
	if err != nil {
		return err
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Contacts) == 0 {
			if in.Only != "" && in.Text == "" {
				fmt.Fprintln(w, map[string]string{admin.OnlyDisabled: "No contact is disabled.", admin.OnlyNeverSignedIn: "Every contact has signed in.",
					admin.OnlyOldLinks: "No contact belongs to a company with open old links."}[in.Only])
				return
			}
			fmt.Fprintln(w, nothingFound("contact", in.Text, "caddy doorpost contacts add EMAIL"))
			c.tellRefused(w)
			return
		}
		rows := [][]string{{"EMAIL", "NAME", "COMPANIES", "ROLE", "STATE"}}
		for _, p := range all.Contacts {
			email, state := string(p.Email()), "may sign in"
			if n := len(p.Emails) - 1; n > 0 {
				email += fmt.Sprintf(" (+%d)", n)
			}
			if p.Disabled {
				state = "disabled"
			}
			rows = append(rows, []string{email, p.Name(), strings.Join(p.Companies, ", "), string(p.Role), state})
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s.\n", explain.Count(len(all.Contacts), "contact", "contacts"))
		c.tellRefused(w)
	})
}

// nothingFound says that a list is empty, and what to do about it.
func nothingFound(what, text, add string) string {
	if text != "" {
		return fmt.Sprintf("No %s has “%s”.", what, text)
	}
	return fmt.Sprintf("There is no %s yet. To add one: %s", what, add)
}

func (c *call) addContact() error {
	change, err := c.contactChange()
	if err != nil {
		return err
	}
	change.Email = &c.args[0]
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.AddContact(ctx, c.firm, change)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Added %s.\n", explain.Person(out.Contact))
		about(w, out.Contact)
		hinted(w, out.Hints)
		fmt.Fprintln(w, "They can sign in now.")
	})
}

func (c *call) setContact() error {
	change, err := c.contactChange()
	if err != nil {
		return err
	}
	change.Email = given[string](c.cmd, "email")
	for name, list := range map[string]*[]string{"add-email": &change.AddEmails, "remove-email": &change.RemoveEmails,
		"add-company": &change.AddCompanies, "remove-company": &change.RemoveCompanies} {
		if all := given[[]string](c.cmd, name); all != nil {
			*list = *all
		}
	}
	if reflect.ValueOf(change).IsZero() {
		return usage("say what to change, such as --phone or --companies")
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.SetContact(ctx, c.firm, c.args[0], change)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "This is %s now.\n", explain.Person(out.Contact))
		about(w, out.Contact)
		hinted(w, out.Hints)
		if len(out.Lost) == 0 {
			return
		}
		lost := make([]string, len(out.Lost))
		for i, a := range out.Lost {
			lost[i] = string(a)
		}
		fmt.Fprintf(w, "Taken away: %s. %s\n", strings.Join(lost, ", "), signedOut(out.SessionsEnded))
	})
}

// hinted names what may be a slip.
func hinted(w io.Writer, hints []string) {
	for _, h := range hints {
		fmt.Fprintf(w, "Look at it once more: %s\n", h)
	}
}

// about shows what is known of a contact, a line each.
func about(w io.Writer, c directory.Contact) {
	var others []string
	for _, a := range c.Emails[min(1, len(c.Emails)):] {
		others = append(others, string(a))
	}
	for _, line := range []struct{ name, value string }{
		{"other addresses", strings.Join(others, ", ")},
		{"phone", c.Phone},
		{"companies", orNone(c.Companies)},
		{"role", string(c.Role)},
		{"locale", c.Locale},
	} {
		if line.value != "" {
			fmt.Fprintf(w, "  %-16s %s\n", line.name, line.value)
		}
	}
	if c.Disabled {
		fmt.Fprintf(w, "  disabled\n")
	}
}

func (c *call) disableContact() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.DisableContact(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Disabled %s. %s\nTo let them in again: caddy doorpost contacts enable %s\n", explain.Person(out.Contact), signedOut(out.SessionsEnded), out.Contact.Email())
	})
}

func (c *call) enableContact() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.EnableContact(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s can sign in now.\n", explain.Person(out.Contact))
	})
}

func (c *call) removeContact() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RemoveContact(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Removed %s. %s\nAn import doesn't bring them back; to do so: %s\n", explain.Person(out.Contact), signedOut(out.SessionsEnded), addAgain(out.Contact))
	})
}

func signedOut(sessions int) string {
	if sessions == 0 {
		return "They weren't signed in anywhere."
	}
	return fmt.Sprintf("They were signed out of %s.", explain.Count(sessions, "browser", "browsers"))
}

// addAgain is the command that adds a contact as it was.
func addAgain(c directory.Contact) string {
	words := []string{"caddy doorpost contacts add", shellWord(string(c.Email()))}
	var others []string
	for _, a := range c.Emails[min(1, len(c.Emails)):] {
		others = append(others, string(a))
	}
	role := string(c.Role)
	if c.Role == directory.Client {
		role = ""
	}
	for _, f := range []struct{ flag, value string }{
		{"--first-name", c.FirstName}, {"--last-name", c.LastName}, {"--phone", c.Phone}, {"--companies", strings.Join(c.Companies, ",")},
		{"--role", role}, {"--locale", c.Locale}, {"--other-emails", strings.Join(others, ",")},
	} {
		if f.value != "" {
			words = append(words, f.flag, shellWord(f.value))
		}
	}
	return strings.Join(words, " ")
}
