package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/explain"
)

func announceCommand() *cobra.Command {
	return spec{
		use: "announce [COMPANY...] [--dry-run]", short: "Emails all contacts, once each, that old links ask for sign-in",
		long: `Emails contacts that their old links lead to the same pages after they prove
who they are: the email is portal-update, or your own template in its place.
Without a COMPANY it goes to the contacts of all companies.

Each contact gets it once, whatever crashes and however often you do this. So
after you added contacts, do it again: only those who don't have it get it.
Disabled contacts, staff, and contacts without a company get none.

Look first: --dry-run says who would get it, --preview EMAIL sends you one.

The emails go out in the background, after sign-in mail and notices, as fast as
rate in the Caddyfile allows: 40,000 take 11 hours with 60/m. This command
needn't run until then. --status says how far it is, and --stop ends it:
what the mail server hasn't been given isn't sent. --resume goes on then.`,
		example: `  caddy doorpost announce --dry-run
  caddy doorpost announce --preview you@example.com
  caddy doorpost announce harbor-bakery
  caddy doorpost announce --status`,
		most: -1, run: (*call).announce,
		flags: func(cmd *cobra.Command) {
			cmd.Flags().Bool("dry-run", false, "Only show who would get it")
			cmd.Flags().String("preview", "", "Send one to this address, with made-up data")
			cmd.Flags().Bool("again", false, "Also to contacts who have it already")
			cmd.Flags().Bool("status", false, "Show how far the latest announcement is")
			cmd.Flags().Bool("stop", false, "Stop the announcement")
			cmd.Flags().Bool("resume", false, "Go on with the one that was stopped")
			cmd.Flags().Bool("yes", false, "Don't ask")
		},
	}.command()
}

func (c *call) announce() error {
	in := admin.Announce{Companies: c.args, Again: flagOf[bool](c.cmd, "again"), Resume: flagOf[bool](c.cmd, "resume"), DryRun: flagOf[bool](c.cmd, "dry-run")}
	status, stop := flagOf[bool](c.cmd, "status"), flagOf[bool](c.cmd, "stop")
	preview, alone := flagOf[string](c.cmd, "preview"), 0
	for _, flag := range []bool{status, stop, in.Resume, in.DryRun, preview != ""} {
		if flag {
			alone++
		}
	}
	switch {
	case alone > 1:
		return usage("choose one of --dry-run, --preview, --status, --stop and --resume")
	case (status || stop || in.Resume) && (len(c.args) > 0 || in.Again):
		return usage("--status, --stop and --resume are about the latest announcement; leave out the companies and --again")
	case preview != "":
		return c.sendPreview(admin.PreviewMails{Kind: "portal-update", To: preview})
	case status:
		return c.announceStatus()
	case stop:
		return c.announceStop()
	case in.DryRun:
		return c.announceDryRun(in)
	}
	if !in.Resume && !flagOf[bool](c.cmd, "yes") {
		if err := c.confirmAnnouncement(in); err != nil {
			return err
		}
	}
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Announce(ctx, c.firm, in)
	if err != nil {
		return err
	}
	if err := c.print(out, func(w io.Writer) { announced(w, out) }); err != nil || c.json || out.Announcement.ID == "" {
		return err
	}
	return c.watchAnnouncement()
}

// confirmAnnouncement asks whether so many contacts are to be mailed.
func (c *call) confirmAnnouncement(in admin.Announce) error {
	in.DryRun = true
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Announce(ctx, c.firm, in)
	if err != nil || out.Plan.Contacts == 0 {
		return err
	}
	return c.confirm(fmt.Sprintf("Email %s?", explain.Count(out.Plan.Contacts, "contact", "contacts")), "no email was made")
}

func (c *call) announceDryRun(in admin.Announce) error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.Announce(ctx, c.firm, in)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s would get the email.\n", explain.Count(out.Plan.Contacts, "contact", "contacts"))
		for i, r := range out.Plan.First {
			label := "  the first are  "
			if i > 0 {
				label = strings.Repeat(" ", len(label))
			}
			name := ""
			if r.Name != "" {
				name = " (" + r.Name + ")"
			}
			fmt.Fprintf(w, "%s%s%s of %s\n", label, r.Email, name, some(r.Companies))
		}
		for _, line := range explain.SkippedContacts(out.Plan.Skipped) {
			fmt.Fprintf(w, "Left out: %s\n", line)
		}
		for _, s := range out.Plan.Left {
			fmt.Fprintf(w, "  %s %s\n", s.Email, s.Reason)
		}
		fmt.Fprintln(w, "Nothing has been sent. To see the email: caddy doorpost announce --preview EMAIL\nTo send it, leave out --dry-run.")
	})
}

// announced tells people that an announcement goes out.
func announced(w io.Writer, out admin.Announced) {
	a := out.Announcement
	switch {
	case a.ID == "":
		fmt.Fprintln(w, "Nobody is left to tell.")
		for _, line := range explain.SkippedContacts(a.Skipped) {
			fmt.Fprintf(w, "Left out: %s\n", line)
		}
		if a.Skipped["already"] > 0 {
			fmt.Fprintln(w, "To tell those who were told before once more: --again")
		}
	case out.Begun:
		fmt.Fprintf(w, "The announcement goes out to %s, in the background.\n", explain.Count(a.Queued-a.Sent+a.Remaining, "contact", "contacts"))
		fmt.Fprintln(w, "How far it is: caddy doorpost announce --status\nTo stop it:    caddy doorpost announce --stop")
	default:
		fmt.Fprintf(w, "This announcement was begun before, so nothing is sent twice: %s.\n", explain.Progress(*a))
	}
}

// watchAnnouncement shows on a terminal how far the announcement is, until it ends or somebody interrupts.
func (c *call) watchAnnouncement() error {
	to := terminal(c.cmd.ErrOrStderr())
	if to == nil {
		return nil
	}
	p := &progress{to: to}
	defer p.clear()
	for {
		ctx, cancel := c.brief()
		out, err := c.client.AnnounceStatus(ctx, c.firm)
		cancel()
		switch {
		case c.ctx.Err() != nil:
			return nil // it goes on
		case err != nil:
			return err
		case out.Announcement == nil || out.Announcement.State != "running":
			p.clear()
			return c.print(out, func(w io.Writer) { announcementStatus(w, out) })
		}
		left := ""
		if about := explain.TimeLeft(*out.Announcement, time.Now()); about != "" {
			left = ", " + about
		}
		p.show("%s%s. Ctrl-C ends this view; the emails go on.", explain.Progress(*out.Announcement), left)
		select {
		case <-c.ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

func (c *call) announceStatus() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.AnnounceStatus(ctx, c.firm)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) { announcementStatus(w, out) })
}

func announcementStatus(w io.Writer, out admin.AnnouncementStatus) {
	a := out.Announcement
	if a == nil {
		fmt.Fprintln(w, "There was no announcement yet.")
		return
	}
	to := "the contacts of all companies"
	if len(a.Companies) > 0 {
		to = "the contacts of " + some(a.Companies)
	}
	switch a.State {
	case "running":
		fmt.Fprintf(w, "The announcement to %s is going out since %s.\n", to, a.Begun.Local().Format("2006-01-02 15:04"))
	case "stopped":
		fmt.Fprintf(w, "The announcement to %s was stopped at %s.\n", to, a.Ended.Local().Format("2006-01-02 15:04"))
	default:
		fmt.Fprintf(w, "The announcement to %s is done: it began at %s.\n", to, a.Begun.Local().Format("2006-01-02 15:04"))
	}
	fmt.Fprintf(w, "%s.\n", explain.Progress(*a))
	if left := explain.TimeLeft(*a, time.Now()); left != "" {
		fmt.Fprintf(w, "It takes %s more.\n", left)
	}
	for _, line := range explain.SkippedContacts(a.Skipped) {
		fmt.Fprintf(w, "Left out: %s\n", line)
	}
	for _, u := range a.Unsent {
		fmt.Fprintf(w, "Not sent: %s\n", explain.NotSent(u))
	}
	if a.State == "stopped" {
		fmt.Fprintln(w, "To go on: caddy doorpost announce --resume")
	} else if a.State == "done" && a.NotSent > 0 {
		fmt.Fprintln(w, "Once what was wrong is repaired, caddy doorpost announce mails those who have none.")
	}
}

func (c *call) announceStop() error {
	ctx, cancel := c.brief()
	defer cancel()
	out, err := c.client.AnnounceStop(ctx, c.firm)
	if err != nil {
		return err
	}
	return c.print(out, func(w io.Writer) {
		a := out.Announcement
		if a.State != "stopped" {
			fmt.Fprintf(w, "No announcement is going out; the latest is done: %s.\n", explain.Progress(a))
			return
		}
		fmt.Fprintf(w, "Stopped: %s.\nTo go on: caddy doorpost announce --resume\n", explain.Progress(a))
	})
}
