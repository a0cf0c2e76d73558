package cli

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func filesCommand() *cobra.Command {
	return spec{
		use: "files", short: "Shows whether the files that the Caddyfile names are loaded",
		long: `Shows the files that the Caddyfile names: whether they are loaded, what is wrong
with those that aren't, and which of their rows were left alone.

A changed file is loaded by itself, within seconds. A row replaces what it names
when it says something else than at the last load. A row that says the same
leaves alone what was changed, disabled or removed by hand since. If a line is
wrong, nothing of the file is loaded: the contacts stay as they are, and the
exit code of this command is 1.`,
		example: `  caddy doorpost files
  caddy doorpost files --json`,
		run: (*call).files,
	}.command()
}

func (c *call) files() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Files(ctx, c.firm)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := c.print(out, func(w io.Writer) { filesInWords(w, out, now) }); err != nil {
		return err
	}
	for _, f := range out.Files {
		if f.State == admin.FileRefused {
			return &admin.Error{Reason: f.Path + " isn't loaded, so nothing of it is in force", Remedy: "correct it; it is loaded by itself then"}
		}
	}
	return nil
}

func filesInWords(w io.Writer, out admin.FileList, now time.Time) {
	if len(out.Files) == 0 {
		fmt.Fprintln(w, "The Caddyfile names no file of contacts or companies. To import one: caddy doorpost contacts import FILE.csv")
	}
	for _, f := range out.Files {
		switch f.State {
		case admin.FileRefused:
			fmt.Fprintf(w, "%s: not loaded\n", f.Path)
			if f.Error != "" {
				fmt.Fprintf(w, "  %s\n", f.Error)
			}
			for _, row := range f.Rows {
				fmt.Fprintf(w, "  %s\n", row)
			}
			if f.More > 0 {
				fmt.Fprintf(w, "  and %d more\n", f.More)
			}
		case admin.FileStale:
			fmt.Fprintf(w, "%s: changed, and not in force before a reload: %s\n", f.Path, config.ReloadCommand)
		case admin.FileWaiting:
			fmt.Fprintf(w, "%s: being loaded\n", f.Path)
		default:
			fmt.Fprintf(w, "%s: loaded\n", f.Path)
		}
		if f.Load == nil {
			continue
		}
		fmt.Fprintf(w, "  last load: %s, %d added, %d changed, %d unchanged, %d left alone\n", explain.When(f.Load.At, now), f.Load.Added, f.Load.Changed,
			f.Load.Unchanged, f.Load.LeftAlone.Count)
		for i, k := range f.Load.LeftAlone.First {
			if i == shownRows {
				fmt.Fprintf(w, "    and %d more; --json lists a hundred\n", f.Load.LeftAlone.Count-i)
				break
			}
			fmt.Fprintf(w, "    line %-6d %s: %s\n", k.Line, k.Item, whyLeftAlone(k))
		}
	}
}

// whyLeftAlone says why a row of a file wasn't taken.
func whyLeftAlone(k directory.Kept) string {
	switch k.Reason {
	case directory.ChangedByHand:
		return strings.Join(k.Fields, ", ") + " changed by hand since"
	case directory.PasswordOwn, directory.PasswordsOff:
		return "no password_hash taken, " + k.Reason
	}
	return k.Reason
}

// tellRefused adds to a list that a file of the Caddyfile isn't loaded, so that nobody takes the
// list for the content of the file.
func (c *call) tellRefused(w io.Writer) {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Files(ctx, c.firm)
	if err != nil {
		return // the list itself is there
	}
	for _, f := range out.Files {
		if f.State == admin.FileRefused {
			fmt.Fprintf(w, "\n%s isn't loaded. To see why: caddy doorpost files\n", filepath.Base(f.Path))
		}
	}
}
