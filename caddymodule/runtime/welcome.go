package runtime

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/legacy"
	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// Welcome tells a person who tries Doorpost out, with emails kept in a folder, where to go, which
// address to type and which old link to open. It prints nothing for a configuration that sends
// emails.
func (s *Server) Welcome(w io.Writer) {
	if s.Settings.Mail.Transport != "folder" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, id := range slices.Sorted(maps.Keys(s.firms)) {
		f := s.firms[id]
		if u, err := url.Parse(f.Config.URL); err != nil || !loopback.Is(u.Hostname()) {
			continue
		}
		fmt.Fprintf(w, "\n%s: the portal is at %s/\n", f.Config.Brand.Name, f.Config.URL)
		who, ok := f.someone(ctx)
		if !ok {
			fmt.Fprintf(w, "  nobody may sign in yet; add somebody: %s doorpost contacts add ann@example.com\n", called())
		} else {
			fmt.Fprintf(w, "  type this address:   %s\n", who.Email())
		}
		fmt.Fprintf(w, "  then read the email: %s\n", f.Gate.MailboxURL())
		if len(f.Config.Staff) > 0 {
			fmt.Fprintf(w, "  the staff pages:     %s%s/staff/, for %s\n", f.Config.URL, f.Config.Prefix, f.Config.Staff[0])
		}
		if link, company, upgraded := f.oldLink(ctx, who.Companies); link != "" {
			now, undo := "it opens at once; to have it ask who you are", ""
			if upgraded {
				now, undo = "it asks who you are; to have it open at once", " --undo"
			}
			fmt.Fprintf(w, "  try an old link:     %s%s\n  %s: %s doorpost upgrade %s%s\n", f.Config.URL, link, now, called(), company, undo)
		}
		fmt.Fprintln(w)
	}
}

// someone returns a client who may sign in, else anybody who may; not ok: nobody may.
func (f *Firm) someone(ctx context.Context) (who directory.Contact, ok bool) {
	all, err := f.Directory.Contacts(ctx, "", "", 50)
	if err != nil {
		return who, false
	}
	for _, c := range all {
		switch {
		case c.Disabled:
		case c.Role == directory.Client:
			return c, true
		case !ok:
			who, ok = c, true
		}
	}
	return who, ok
}

// oldLink returns the path of an old link of the first of the companies that has one,
// and whether it asks for sign-in; "" where none has.
func (f *Firm) oldLink(ctx context.Context, companies []string) (link, company string, upgraded bool) {
	for _, id := range companies {
		s, err := f.Directory.StatusOf(ctx, id)
		if err != nil || s.Token == "" {
			continue
		}
		page := &url.URL{Path: f.Config.Rules.Page(id)}
		v := f.Config.Rules.Match(page)
		if v.Kind != legacy.New {
			continue
		}
		if old, ok := f.Config.Rules.OldURL(page, v, s.Token); ok {
			return old.RequestURI(), id, s.Upgraded
		}
	}
	return "", "", false
}

// called is how this program was most likely called: `go run` keeps what it built in a
// folder of its own.
func called() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		return "go run ./cmd/caddy"
	}
	return "caddy"
}
