package caddymodule

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/doctor"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
)

// checks are the checks of the doctor, in the order of the answer. Each returns a finding even if
// nothing is wrong.
var checks = []func(context.Context, *App) []admin.Finding{
	checkTrust,
	checkAnchorFiles,
	checkSecrets,
	checkUnnamed,
	checkTokens,
	checkFiles,
	checkDirectory,
	checkMailServer,
	checkTexts,
	checkOutside,
	checkProxies,
	checkAdminEndpoint,
}

// doctor runs all checks.
func (a *App) doctor(ctx context.Context) (all []admin.Finding) {
	for _, check := range checks {
		all = append(all, check(ctx, a)...)
	}
	return all
}

// checkMailServer is about the mail server: whether mail waits for it.
func checkMailServer(_ context.Context, a *App) []admin.Finding {
	return eachFirm(a, func(f *firm) admin.Finding {
		if down, yes := f.Queue.Outage(); yes {
			return admin.Finding{Check: "mail", What: fmt.Sprintf("the mail server can't be used since %s; all mail waits: %s", down.Since.Local().Format(time.DateTime), down.Reason),
				Do: outbox.Advice(down.Reason)}
		}
		return admin.Finding{Check: "mail", OK: true, What: "no mail waits for the mail server"}
	})
}

// checkTexts is about the text webhook: whether it can be reached, and texts wait for it.
func checkTexts(ctx context.Context, a *App) []admin.Finding {
	if a.resolved.Text == nil {
		return nil
	}
	for _, f := range a.firms {
		if down, yes := f.Notices.Texts.Outage(); yes {
			return []admin.Finding{{Check: "texts", What: fmt.Sprintf("the text webhook can't be used since %s; all texts wait: %s", down.Since.Local().Format(time.DateTime), down.Reason),
				Do: outbox.Advice(down.Reason)}}
		}
	}
	hook, err := a.resolved.Text.Webhook()
	if err == nil {
		err = hook.Reach(ctx)
	}
	if err != nil {
		return []admin.Finding{{Check: "texts", What: "the text webhook can't be reached: " + outbox.Reason(err), Do: outbox.Advice(outbox.Reason(err))}}
	}
	return []admin.Finding{{Check: "texts", OK: true, What: "the text webhook can be reached, and no text waits for it"}}
}

// atATime is how many firms are looked at from outside at a time.
const atATime = 8

// checkOutside checks the mail server, DNS, the site as others reach it, and the portal.
func checkOutside(ctx context.Context, a *App) (all []admin.Finding) {
	ids := slices.Sorted(maps.Keys(a.firms))
	found := make([][]admin.Finding, len(ids))
	places := make(chan struct{}, atATime)
	var looking sync.WaitGroup
	for i, id := range ids {
		places <- struct{}{}
		looking.Go(func() {
			defer func() { <-places }()
			for _, f := range outside(a.firms[id]).Look(ctx) {
				found[i] = append(found[i], admin.Finding{Check: f.Check, Firm: id, OK: f.OK, What: f.What, Do: f.Do})
			}
		})
	}
	looking.Wait()
	return slices.Concat(found...)
}

// outside returns the data for the checks around a firm.
func outside(f *firm) doctor.Firm {
	out := doctor.Firm{URL: f.Sites.URL, Prefix: f.Config.Prefix}
	if v, err := caddy.ActiveContext().AppIfConfigured("http"); err == nil {
		if app, ok := v.(*caddyhttp.App); ok {
			out.Upstreams = config.Upstreams(app, f.ID)
		}
	}
	smtp, ok := f.Mail.SMTP()
	sender, err := f.Config.Brand.Sender()
	if !ok || err != nil {
		return out
	}
	out.Mail, out.Sender = &doctor.Mail{SMTP: smtp}, sender.Address
	if signer, err := f.Config.Brand.Signer(); err == nil {
		keys, err := signer.PublicKeys()
		for _, k := range keys {
			if err == nil {
				out.Keys = append(out.Keys, doctor.Key(k))
			}
		}
	}
	return out
}

// checkProxies is about proxies in front, as requests have shown them.
func checkProxies(_ context.Context, a *App) (all []admin.Finding) {
	for _, id := range slices.Sorted(maps.Keys(a.firms)) {
		problems := a.firms[id].proxies.problems()
		for _, p := range problems {
			all = append(all, admin.Finding{Check: "trusted_proxies", Firm: id, What: p.what, Do: p.do})
		}
		if len(problems) == 0 {
			all = append(all, admin.Finding{Check: "trusted_proxies", Firm: id, OK: true, What: "no request has shown a proxy in front that isn't trusted"})
		}
	}
	return all
}

// checkAdminEndpoint checks who may give these commands: over TCP, every user of the machine.
func checkAdminEndpoint(ctx context.Context, _ *App) []admin.Finding {
	found := admin.Finding{Check: "admin", OK: true, What: "only users who may open Caddy's admin socket can give these commands"}
	if overTCP(ctx) {
		found.What, found.Do = openAdmin, adminSocket
	}
	return []admin.Finding{found}
}

const (
	openAdmin   = "every user of this machine can give these commands, and add staff, since Caddy's admin endpoint is a TCP port"
	adminSocket = "where others can log in, or run programs, write in the global options: admin unix//run/caddy/admin.sock|0660"
)

// overTCP reports whether a request came by TCP rather than by a socket.
func overTCP(ctx context.Context) bool {
	local, ok := ctx.Value(http.LocalAddrContextKey).(net.Addr)
	return ok && local.Network() == "tcp"
}

// eachFirm makes a check of a firm one of the server.
func eachFirm(a *App, check func(f *firm) admin.Finding) (all []admin.Finding) {
	for _, id := range slices.Sorted(maps.Keys(a.firms)) {
		found := check(a.firms[id])
		found.Firm = id
		all = append(all, found)
	}
	return all
}

// checkTrust is about the store: whether it answers, and is the one of last time.
func checkTrust(_ context.Context, a *App) []admin.Finding {
	return eachFirm(a, func(f *firm) admin.Finding {
		st := f.Anchor.Status()
		if st.Loss != nil {
			return admin.Finding{Check: "store", What: st.Loss.What, Do: st.Loss.Do}
		}
		return admin.Finding{Check: "store", OK: true, What: fmt.Sprintf("the store %s answers, and is no other one than before", st.DSN)}
	})
}

// checkAnchorFiles checks the files outside the store, by which a lost store is noticed.
func checkAnchorFiles(_ context.Context, a *App) []admin.Finding {
	return eachFirm(a, func(f *firm) admin.Finding {
		st := f.Anchor.Status()
		if st.Unsaved != nil {
			return admin.Finding{Check: "anchor", What: fmt.Sprintf("what was seen of the store can't be noted outside of it: %v", st.Unsaved),
				Do: "let Caddy's user write to " + st.Path + "; until then a lost store won't be noticed at the next start"}
		}
		return admin.Finding{Check: "anchor", OK: true, What: "what was seen of the store is noted in " + st.Path}
	})
}

// checkSecrets is about secrets that stand behind the newest one.
func checkSecrets(ctx context.Context, a *App) (all []admin.Finding) {
	left := a.server.NeedOlderSecret(ctx)
	all = eachFirm(a, func(f *firm) admin.Finding {
		st := f.Anchor.Status()
		switch {
		case st.Apart != "":
			return admin.Finding{Check: "secret", What: "another machine seals with another secret, so nothing is sealed again, and no secret can be taken out", Do: st.Apart}
		case st.Behind > 0, len(a.resolved.Secrets) > 1 && !a.server.Sealing():
			return admin.Finding{Check: "secret", OK: true, What: "records are still being sealed with the newest secret; keep the older one in the Caddyfile until this is done"}
		case len(a.resolved.Secrets) > 1 && len(left) > 0:
			return admin.Finding{Check: "secret", OK: true, What: "everything of this firm is sealed with the newest secret"}
		case len(a.resolved.Secrets) > 1:
			return admin.Finding{Check: "secret", OK: true, What: "everything is sealed with the newest secret; the older ones can be taken out of the Caddyfile"}
		}
		return admin.Finding{Check: "secret", OK: true, What: "everything is sealed with the secret"}
	})
	for _, firm := range left {
		all = append(all, admin.Finding{Check: "secret", Firm: firm, What: "records of this firm may need an older secret, and aren't sealed with the newest one, since no site names it", Do: runtime.NameThem})
	}
	return all
}

// checkUnnamed is about firms that the store holds and no site names.
func checkUnnamed(ctx context.Context, a *App) (all []admin.Finding) {
	for _, firm := range a.server.UnnamedFirms(ctx) {
		all = append(all, admin.Finding{Check: "firm", Firm: firm, What: "the store holds this firm, and no site names it",
			Do: fmt.Sprintf("if a site's firm was renamed, name it as before: doorpost %s", firm)})
	}
	return all
}

// checkTokens is about old links of open companies that somebody could guess.
func checkTokens(ctx context.Context, a *App) []admin.Finding {
	return eachFirm(a, func(f *firm) admin.Finding {
		if f.Anchor.Status().Loss != nil {
			return admin.Finding{Check: "tokens", OK: true, What: "tokens of old links weren't looked at, since the store isn't trusted"}
		}
		found, err := f.Directory.GuessableTokens(ctx)
		switch {
		case err != nil:
			return admin.Finding{Check: "tokens", What: fmt.Sprintf("tokens of old links can't be read: %v", err), Do: "see what is wrong with the store"}
		case found.Tokens > 0:
			return admin.Finding{Check: "tokens", What: fmt.Sprintf("tokens of open companies that can be guessed, since they are too short, made of a name, or much like others: %d", found.Tokens),
				Do: "upgrade these companies first: " + someOf(found.Companies)}
		}
		return admin.Finding{Check: "tokens", OK: true, What: "no token of an open company can be guessed, as far as can be told"}
	})
}

// someOf names the first ids of a list.
func someOf(ids []string) string {
	const shown = 10
	if len(ids) <= shown {
		return strings.Join(ids, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(ids[:shown], ", "), len(ids)-shown)
}

// checkFiles is about the files that the Caddyfile names.
func checkFiles(_ context.Context, a *App) (all []admin.Finding) {
	for _, id := range slices.Sorted(maps.Keys(a.firms)) {
		for _, file := range a.firms[id].FileStatus() {
			found := admin.Finding{Check: "file", Firm: id, OK: true, What: file.Path + " is loaded"}
			switch file.State {
			case admin.FileRefused:
				found.OK, found.What = false, file.Path+" isn't loaded, since it has wrong lines or can't be read"
				found.Do = "see why with " + command(a, "files", id) + ", and correct it; it is loaded by itself then"
			case admin.FileStale:
				found.OK, found.What, found.Do = false, file.Path+" has changed, and isn't in force", "run: "+config.ReloadCommand
			case admin.FileWaiting:
				found.What = file.Path + " is being loaded"
			}
			all = append(all, found)
		}
	}
	return all
}

// command is how a command about a firm is typed.
func command(a *App, words, firm string) string {
	if len(a.firms) > 1 {
		words += " --firm " + firm
	}
	return "caddy doorpost " + words
}

// checkDirectory is about contacts and companies with whom nothing can work.
func checkDirectory(ctx context.Context, a *App) (all []admin.Finding) {
	for _, id := range slices.Sorted(maps.Keys(a.firms)) {
		f := a.firms[id]
		for _, w := range f.CannotWork(ctx) {
			all = append(all, admin.Finding{Check: "contacts", Firm: id, What: w.What, Do: w.Do})
		}
	}
	return all
}
