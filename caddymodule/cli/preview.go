package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func previewCommand() *cobra.Command {
	return spec{
		use: "preview [KIND] [--to EMAIL] [--out FOLDER]", short: "Shows the emails that clients get, with made-up data",
		long: `Writes the emails that clients get into a folder, in every language, with your
brand, your templates and made-up data: each as .eml, for an email program, as
.html, for a browser, and as .txt. Without KIND it writes all kinds. The folder
is "preview", or that of --out.

With --to it sends one, by your mail server, marked as a preview. It is in the
language of that contact, or of --language. Its links sign nobody in.

The kinds are sign-in, set-password, password-changed, new-device,
portal-update, new-questions, report-published, and templates of your own.`,
		example: `  caddy doorpost preview
  caddy doorpost preview new-questions --out /tmp/mails
  caddy doorpost preview sign-in --to you@example.com --language es`,
		most: 1, run: (*call).preview,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().String("to", "", "Send one to this address, in place of writing files")
			cmd.Flags().String("out", "", "The folder to write into (default: preview)")
			cmd.Flags().String("language", "", "Only this language, such as es")
		},
	}.command()
}

func (c *call) preview() error {
	in := admin.PreviewMails{Language: flagOf[string](c.cmd, "language"), To: flagOf[string](c.cmd, "to")}
	if len(c.args) > 0 {
		in.Kind = c.args[0]
	}
	folder := flagOf[string](c.cmd, "out")
	switch {
	case in.To != "" && folder != "":
		return usage("choose --to, which sends one, or --out, which writes files")
	case in.To != "" && in.Kind == "":
		return usage("say which kind is to be sent: preview sign-in --to %s", in.To)
	case in.To != "":
		return c.sendPreview(in)
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Preview(ctx, c.firm, in)
	if err != nil || c.json && folder == "" {
		if err == nil {
			err = c.print(out, nil)
		}
		return err
	}
	if folder == "" {
		folder = "preview"
	}
	if err := writePreviews(folder, out.Mails); err != nil {
		return &admin.Error{Reason: err.Error(), Remedy: "say with --out where the files may be written"}
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s in %s to the folder %s, each as .eml, .html and .txt.\n", explain.Count(len(out.Mails), "email", "emails"), explain.Count(languagesOf(out.Mails), "language", "languages"), folder)
	})
}

func languagesOf(mails []admin.PreviewMail) int {
	tags := map[string]bool{}
	for _, m := range mails {
		tags[m.Language] = true
	}
	return len(tags)
}

// writePreviews writes each email as es/sign-in.eml, and so on.
func writePreviews(folder string, mails []admin.PreviewMail) error {
	for _, m := range mails {
		name := filepath.Join(folder, m.Language, m.Kind)
		if m.Variant != "" {
			name += "-" + strings.ReplaceAll(m.Variant, " ", "-")
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		for _, file := range []struct{ ext, text string }{{".eml", m.Message}, {".html", m.HTML}, {".txt", "Subject: " + m.Subject + "\n\n" + m.Text}} {
			if err := os.WriteFile(name+file.ext, []byte(file.text), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *call) sendPreview(in admin.PreviewMails) error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Preview(ctx, c.firm, in)
	if err != nil {
		return err
	}
	return c.print(out.Sent, func(w io.Writer) {
		fmt.Fprintf(w, "A preview of %s is on its way to %s, in the language %s.\n", in.Kind, out.Sent.To, out.Mails[0].Language)
	})
}
