package caddymodule

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

func contactCommands() *cobra.Command {
	return group("contacts", "Lists and changes who may sign in",
		`Lists and changes contacts: the people who may sign in. A contact has one email
address or several, each of which leads in, and belongs to any number of
companies.`,
		`  caddy doorpost contacts list acme
  caddy doorpost contacts add ann@example.com --first-name Ann --last-name Lee --companies acme,birch`,
		listContactsCommand(), addContactCommand(), setContactCommand(),
		disableContactCommand(), enableContactCommand(), removeContactCommand(), importContactsCommand(), timelineCommand())
}

func listContactsCommand() *cobra.Command {
	return leaf{
		use: "list [TEXT]", short: "Lists contacts",
		long: `Lists contacts, in the order in which they were added. With TEXT only those
that have each word of it in a name, an address or a company.`,
		example: `  caddy doorpost contacts list
  caddy doorpost contacts list lee acme
  caddy doorpost contacts list --json | jq -r '.contacts[].email'`,
		most: -1, run: (*call).listContacts,
	}.command()
}

func addContactCommand() *cobra.Command {
	return leaf{
		use: "add EMAIL [flags]", short: "Adds a contact, who may sign in from then on",
		long: `Adds a contact, who may sign in from then on. No mail is sent: people get a link
when they ask for one.`,
		example: `  caddy doorpost contacts add ann@example.com
  caddy doorpost contacts add ann@example.com --first-name Ann --last-name Lee --companies acme,birch`,
		least: 1, most: 1, flags: contactFlags, run: (*call).addContact,
	}.command()
}

func setContactCommand() *cobra.Command {
	return leaf{
		use: "set EMAIL [flags]", short: "Changes a contact",
		long: `Changes what the flags name about a contact, and leaves the rest. A list
replaces the whole list; an empty value ("") empties it. Who loses an address
is signed out, and their password ends: whoever reads the mail there may have
come in by it, or set it.`,
		example: `  caddy doorpost contacts set ann@example.com --phone "+1 555 0100"
  caddy doorpost contacts set ann@example.com --companies acme,birch
  caddy doorpost contacts set ann@example.com --email ann.lee@example.com`,
		least: 1, most: 1,
		flags: func(cmd *cobra.Command) {
			contactFlags(cmd)
			cmd.Flags().String("email", "", "The new main address, in place of the present one")
		},
		run: (*call).setContact,
	}.command()
}

func disableContactCommand() *cobra.Command {
	return leaf{
		use: "disable EMAIL", short: "Keeps a contact from signing in, and signs them out",
		long: `Keeps a contact from signing in, and signs them out everywhere with their next
request. It stays so, whatever a CSV file says, until they are enabled.`,
		example: `  caddy doorpost contacts disable ann@example.com`,
		least:   1, most: 1, run: (*call).disableContact,
	}.command()
}

func enableContactCommand() *cobra.Command {
	return leaf{
		use: "enable EMAIL", short: "Lets a disabled contact sign in again",
		long:    `Lets a disabled contact sign in again.`,
		example: `  caddy doorpost contacts enable ann@example.com`,
		least:   1, most: 1, run: (*call).enableContact,
	}.command()
}

func removeContactCommand() *cobra.Command {
	return leaf{
		use: "remove EMAIL", short: "Removes a contact, and signs them out",
		long: `Removes a contact with all their addresses, and signs them out everywhere with
their next request. No CSV file brings them back; "contacts add" does.`,
		example: `  caddy doorpost contacts remove ann@example.com`,
		least:   1, most: 1, run: (*call).removeContact,
	}.command()
}

func importContactsCommand() *cobra.Command {
	return leaf{
		use: "import FILE.csv [--dry-run]", short: "Adds and changes contacts from a CSV file",
		long: `Adds and changes contacts from a CSV file. Its first line names the columns, in
any order: email, other_emails, first_name, last_name, phone, companies, role,
locale, disabled, password_hash. Only email is needed. Several values in a cell
are separated by ";". Companies are ids, or names that only one company has;
they must be there already.

password_hash is that of an earlier portal, so that people go on with the
password they have: bcrypt ($2a$, $2b$, $2y$; cost 4 to 14) or argon2id in the
PHC format (at most m=131072, t=10, p=16). An empty cell says nothing. Who has
set, used or removed a password here keeps it so, and the answer says it. Such
a file opens doors to who guesses well: delete it when it is imported.

A row replaces what its columns name: an empty cell empties; leave the column
out to keep what is there. Nobody is deleted, and who was removed or disabled
by hand stays so. If any row is wrong, nothing at all is changed, and the rows
are listed.`,
		example: `  caddy doorpost contacts import contacts.csv --dry-run
  caddy doorpost contacts import contacts.csv

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
	f.StringSlice("companies", nil, "Companies, by id or by name, separated by commas")
	f.String("role", "", "client, or staff of the firm itself, who reach every company")
	f.String("locale", "", "Language, such as en-GB")
	f.StringSlice("other-emails", nil, "Further addresses, separated by commas")
}

// contactChange is what the flags say.
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
	}, nil
}

func (c *call) listContacts() error {
	all := admin.ContactList{Contacts: []directory.Contact{}}
	in := admin.ListRequest{Text: strings.Join(c.args, " "), Limit: 1000}
	for {
		ctx, cancel := c.brief()
		page, err := c.client.Contacts(ctx, c.firm, in)
		cancel()
		if err != nil {
			return err
		}
		all.Contacts = append(all.Contacts, page.Contacts...)
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Contacts) == 0 {
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
		fmt.Fprintf(w, "\n%s.\n", count(len(all.Contacts), "contact", "contacts"))
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
		fmt.Fprintf(w, "Added %s.\n", person(out.Contact))
		about(w, out.Contact)
		fmt.Fprintln(w, "They can sign in now.")
	})
}

func (c *call) setContact() error {
	change, err := c.contactChange()
	if err != nil {
		return err
	}
	change.Email = given[string](c.cmd, "email")
	if change == (directory.Change{}) {
		return usage("say what to change, such as --phone or --companies")
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.SetContact(ctx, c.firm, c.args[0], change)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "This is %s now.\n", person(out.Contact))
		about(w, out.Contact)
		if out.SessionsEnded > 0 {
			fmt.Fprintf(w, "An address was taken away, so they were signed out of %s.\n", count(out.SessionsEnded, "browser", "browsers"))
		}
	})
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
		fmt.Fprintf(w, "Disabled %s. %s\nTo let them in again: caddy doorpost contacts enable %s\n", person(out.Contact), signedOut(out.SessionsEnded), out.Contact.Email())
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
		fmt.Fprintf(w, "%s can sign in now.\n", person(out.Contact))
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
		fmt.Fprintf(w, "Removed %s. %s\nNo CSV file brings them back; to do so: caddy doorpost contacts add %s\n", person(out.Contact), signedOut(out.SessionsEnded), out.Contact.Email())
	})
}

func signedOut(sessions int) string {
	if sessions == 0 {
		return "They weren't signed in anywhere."
	}
	return fmt.Sprintf("They were signed out of %s.", count(sessions, "browser", "browsers"))
}
