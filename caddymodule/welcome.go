package caddymodule

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// welcome tells who tries Doorpost out, with mails kept in a folder, where to go and
// which address to type. A config that sends mails has nothing to say here.
func (a *App) welcome(w io.Writer) {
	if a.mail.Via != "folder" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, id := range slices.Sorted(maps.Keys(a.firms)) {
		f := a.firms[id]
		if u, err := url.Parse(f.cfg.URL); err != nil || !loopback(u.Hostname()) {
			continue
		}
		fmt.Fprintf(w, "\n%s: the portal is at %s/\n", f.cfg.Brand.Name, f.cfg.URL)
		if who := f.someone(ctx); who != "" {
			fmt.Fprintf(w, "  type this address:  %s\n", who)
		} else {
			fmt.Fprintf(w, "  nobody may sign in yet; add somebody: caddy doorpost contacts add ann@example.com\n")
		}
		fmt.Fprintf(w, "  then read the mail: %s%s/mailbox/\n\n", f.cfg.URL, f.cfg.Prefix)
	}
}

// someone returns the address of a client who may sign in, else of anybody who may.
func (f *firm) someone(ctx context.Context) string {
	all, err := f.book.Contacts(ctx, "", "", 50)
	if err != nil {
		return ""
	}
	staff := ""
	for _, c := range all {
		switch {
		case c.Disabled:
		case c.Role == directory.Client:
			return string(c.Email())
		case staff == "":
			staff = string(c.Email())
		}
	}
	return staff
}
