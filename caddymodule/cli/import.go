package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

// shownRows is how many rows of each sort an import shows to people.
const shownRows = 10

func importFlags(cmd *cobra.Command) {
	cmd.Flags().Bool("dry-run", false, "Only show what would be done")
	cmd.Flags().Bool("ignore-columns", false, "Leave out columns that aren't known")
	cmd.Flags().Bool("skip-bad-rows", false, "Leave out rows that can't be taken, and import the others")
	cmd.Flags().StringArray("column", nil, "Take a column of the file as one of ours, such as \"Client=companies\"; may be given several times")
}

func (c *call) importFile(kind directory.Kind) error {
	path, dry := c.args[0], flagOf[bool](c.cmd, "dry-run")
	options := admin.ImportOptions{DryRun: dry}
	options.IgnoreColumns, options.SkipBadRows = flagOf[bool](c.cmd, "ignore-columns"), flagOf[bool](c.cmd, "skip-bad-rows")
	columns, err := c.cmd.Flags().GetStringArray("column")
	if err != nil {
		return err
	}
	for _, s := range columns {
		i := strings.LastIndexByte(s, '=')
		if i <= 0 || i == len(s)-1 {
			return usage("--column: %q isn't NAME=COLUMN; write the file's name of the column, = and ours, such as \"Client=companies\"", s)
		}
		if options.Columns == nil {
			options.Columns = map[string]string{}
		}
		options.Columns[s[:i]] = s[i+1:]
	}
	file, size, err := openCSV(path)
	if err != nil {
		return err
	}
	defer file.Close()
	p := &progress{to: terminal(c.cmd.ErrOrStderr()), name: filepath.Base(path), size: size}
	out, err := c.client.Import(c.ctx, c.firm, kind, p.reader(file), options, p.writing)
	p.clear()
	if refused, ok := errors.AsType[*admin.Error](err); ok && refused.Code == "rows" {
		refused.Reason = fmt.Sprintf("%s has %s that can't be taken, so nothing was changed", path, explain.Count(len(refused.Rows)+refused.More, "row", "rows"))
	}
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) { imported(w, path, out) })
}

// openCSV opens a file to import and returns its length.
func openCSV(path string) (*os.File, int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case info.IsDir():
		err = &admin.Error{Reason: path + " is a folder", Remedy: "write the path of a CSV file"}
	case info.Size() > admin.MaxImport:
		err = &admin.Error{Reason: fmt.Sprintf("%s is larger than %d MiB", path, admin.MaxImport>>20), Remedy: "split it in two"}
	}
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// remedyFor says what to do where a file can't be opened.
func remedyFor(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		wd, _ := os.Getwd()
		return "look at the name; relative paths begin at " + wd
	case errors.Is(err, fs.ErrPermission):
		return "run the command as a user who may do this"
	}
	return ""
}

// imported tells people what an import has done.
func imported(w io.Writer, path string, out admin.Imported) {
	would := ""
	if out.DryRun {
		would = "would be "
	}
	fmt.Fprintf(w, "%s:\n", path)
	table := [][]string{
		{"  added", fmt.Sprint(out.Added.Count)},
		{"  changed", fmt.Sprint(out.Changed.Count)},
		{"  unchanged", fmt.Sprint(out.Unchanged.Count)},
		{"  kept", fmt.Sprint(out.Kept.Count)},
	}
	if out.Skipped.Count > 0 {
		table = append(table, []string{"  skipped", fmt.Sprint(out.Skipped.Count)})
	}
	columns(w, table)
	if out.DryRun {
		entries(w, would+"added", out.Added)
	}
	entries(w, would+"changed", out.Changed)
	if out.LoseCompanies > 0 {
		fmt.Fprintf(w, "\nLook at it once more: %s to no company any more, since the cell is empty. Leave the column out to keep what is there.\n", belong(out.LoseCompanies, out.DryRun))
	}
	if out.Warnings.Count > 0 {
		fmt.Fprintln(w, "\nlook at these once more:")
		for _, row := range out.Warnings.First[:min(shownRows, len(out.Warnings.First))] {
			fmt.Fprintf(w, "  %s\n", row)
		}
		more(w, out.Warnings.Count)
	}
	if out.Skipped.Count > 0 {
		fmt.Fprintln(w, "\nskipped, since they can't be taken:")
		for _, row := range out.Skipped.First {
			fmt.Fprintf(w, "  %s\n", row)
		}
		if n := out.Skipped.Count - len(out.Skipped.First); n > 0 {
			fmt.Fprintf(w, "  and %d more\n", n)
		}
	}
	if out.Kept.Count > 0 {
		fmt.Fprintln(w, "\nkept, since somebody's hand has the last word:")
		for _, k := range out.Kept.First[:min(shownRows, len(out.Kept.First))] {
			what := "was " + k.Reason
			if k.Reason == directory.PasswordOwn || k.Reason == directory.PasswordsOff {
				what = "doesn't get the password_hash: " + k.Reason
			}
			fmt.Fprintf(w, "  line %-6d %s %s\n", k.Line, k.Item, what)
		}
		more(w, out.Kept.Count)
	}
	if out.SessionsEnded > 0 {
		fmt.Fprintf(w, "\n%s ended, of contacts who were disabled or lost an address.\n", explain.Count(out.SessionsEnded, "session was", "sessions were"))
	}
	if out.DryRun {
		fmt.Fprintln(w, "\nNothing has been changed. To do it, leave out --dry-run.")
	}
}

func entries(w io.Writer, what string, t admin.Tally[directory.Entry]) {
	if t.Count == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", what)
	for _, e := range t.First[:min(shownRows, len(t.First))] {
		fields, before := "", ": "
		for _, f := range e.Fields {
			if fields += before + f; slices.Contains(e.Emptied, f) {
				fields += " (now empty)"
			}
			before = ", "
		}
		name := ""
		if e.Name != "" {
			name = " (" + e.Name + ")"
		}
		fmt.Fprintf(w, "  line %-6d %s%s%s\n", e.Line, e.Item, name, fields)
	}
	more(w, t.Count)
}

// belong says of so many contacts that they belong, or would belong, somewhere.
func belong(n int, dry bool) string {
	if dry {
		return explain.Count(n, "contact", "contacts") + " would belong"
	}
	return belongs(n)
}

func more(w io.Writer, n int) {
	if n > shownRows {
		fmt.Fprintf(w, "  and %d more\n", n-shownRows)
	}
}

// progress shows on a terminal how far a large import is.
type progress struct {
	to   io.Writer // nil: nobody looks
	name string
	size int64 // of the file
	sent int64
	told time.Time
}

// terminal returns w if it is one, and else nil.
func terminal(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return w
	}
	return nil
}

// reader counts what is read from the file.
func (p *progress) reader(r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		n, err := r.Read(b)
		p.sent += int64(n)
		switch {
		case err != nil || p.sent >= p.size:
			p.show("checking %s …", p.name)
		case time.Since(p.told) > 100*time.Millisecond:
			p.show("sending %s: %d %%", p.name, 100*p.sent/p.size)
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func (p *progress) writing(at admin.Progress) {
	if at.Done == at.Total {
		p.show("%d rows written", at.Total)
		return
	}
	p.show("writing %d of %d …", at.Done, at.Total)
}

func (p *progress) show(format string, args ...any) {
	if p.to != nil {
		p.told = time.Now()
		fmt.Fprintf(p.to, "\r\x1b[K"+format, args...)
	}
}

func (p *progress) clear() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
