package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func reportCommands() *cobra.Command {
	return group("reports", "Publishes files for the contacts of a company",
		`Publishes files, such as statements and tax returns, for the contacts of a
company. They find them on a page of their own, /-/reports/, and download them
there once they are signed in. Nobody else can, but for the firm's staff.`,
		`  caddy doorpost reports publish acme statement.pdf --title "July statement"
  caddy doorpost reports list acme
  caddy doorpost reports remove ubnckf38hvbd6mqpad2cil6je`,
		spec{
			use: "publish COMPANY FILE [--title T] [--notify]", short: "Publishes a file for the contacts of a company",
			long: `Publishes a file for the contacts of a company. Nobody sees any of it before all
of it is there. To replace a file, publish the new one and remove the earlier
one.`,
			example: `  caddy doorpost reports publish acme statement.pdf
  caddy doorpost reports publish acme statement.pdf --title "July statement" --notify`,
			least: 2, most: 2, run: (*call).publishReport,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().String("title", "", "What the contacts read (default: the file's name without its extension)")
				cmd.Flags().Bool("notify", false, "Email the company's contacts that there is a new report")
			},
		}.command(),
		spec{
			use: "list [COMPANY]", short: "Lists what was published, the newest first",
			long: `Lists the reports that were published, for all companies or for one, the
newest first.`,
			example: `  caddy doorpost reports list
  caddy doorpost reports list acme`,
			most: 1, run: (*call).listReports,
		}.command(),
		spec{
			use: "remove ID", short: "Removes a report",
			long: `Removes a report. From then on nobody can download it, and downloads that are
under way break off within a second. "reports list" shows the ID.`,
			example: `  caddy doorpost reports remove ubnckf38hvbd6mqpad2cil6je`,
			least:   1, most: 1, run: (*call).removeReport,
		}.command(),
	)
}

func (c *call) publishReport() error {
	path := c.args[1]
	file, err := os.Open(path)
	if err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: remedyFor(err)}
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return &admin.Error{Reason: path + " is a folder", Remedy: "write the path of one file; pack several into one, such as a .zip"}
	}
	p := &progress{to: terminal(c.cmd.ErrOrStderr()), name: filepath.Base(path), size: info.Size()}
	out, err := c.client.PublishReport(c.ctx, c.firm, admin.PublishReport{Company: c.args[0], Title: flagOf[string](c.cmd, "title"), Notify: flagOf[bool](c.cmd, "notify"),
		Name: filepath.Base(path), Body: p.reader(file)})
	p.clear()
	if refused, ok := errors.AsType[*admin.Error](err); ok && refused.Code == "unknown" && refused.Field == "company" {
		refused.Remedy = "look for the right one with companies list; the company comes first, then the file"
	}
	if err != nil {
		return err
	}
	err = c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Published “%s” for %s (%d bytes).\n  id   %s\n  url  %s\n", out.Report.Title, out.Report.CompanyName, out.Report.Size, out.Report.ID, out.Report.URL)
		if out.Contacts == 0 {
			fmt.Fprintf(w, "Nobody who may sign in belongs to %s yet; add a contact: caddy doorpost contacts add EMAIL --companies %s\n", out.Report.CompanyName, out.Report.Company)
			return
		}
		fmt.Fprintf(w, "%s may download it.\n", explain.Count(out.Contacts, "contact", "contacts"))
		if out.Told != nil {
			toldOf(w, admin.Notified{NoticeSent: *out.Told})
		}
	})
	if err == nil && out.NotTold != nil {
		err = &admin.Error{Reason: "nobody was told of it: " + out.NotTold.Error(), Remedy: out.NotTold.Remedy}
	}
	return err
}

func (c *call) listReports() error {
	in := admin.ListReports{Limit: 1000}
	if len(c.args) > 0 {
		in.Company = c.args[0]
	}
	all := admin.ReportList{Reports: []admin.ReportInfo{}}
	for {
		page, err := c.reportsPage(in)
		if err != nil {
			return err
		}
		all.Reports = append(all.Reports, page.Reports...)
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	return c.print(all, func(w io.Writer) {
		if len(all.Reports) == 0 {
			fmt.Fprintln(w, "No report is published.")
			return
		}
		now := time.Now()
		rows := [][]string{{"ID", "COMPANY", "TITLE", "FILE", "BYTES", "PUBLISHED"}}
		for _, r := range all.Reports {
			company := r.Company
			if r.CompanyName == "" {
				company += " (removed)"
			}
			rows = append(rows, []string{r.ID, company, r.Title, r.File, fmt.Sprint(r.Size), explain.When(r.PublishedAt, now)})
		}
		columns(w, rows)
		fmt.Fprintf(w, "\n%s.\n", explain.Count(len(all.Reports), "report", "reports"))
	})
}

func (c *call) reportsPage(in admin.ListReports) (admin.ReportList, error) {
	ctx, cancel := c.brief()
	defer cancel()
	return c.client.Reports(ctx, c.firm, in)
}

func (c *call) removeReport() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.RemoveReport(ctx, c.firm, c.args[0])
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		company := out.Report.CompanyName
		if company == "" {
			company = out.Report.Company
		}
		fmt.Fprintf(w, "Removed “%s” of %s. Nobody can download it any more.\n", out.Report.Title, company)
	})
}
