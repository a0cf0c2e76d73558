// Package doctor checks the surroundings of Doorpost: the mail server, DNS, and the site as others reach it. It
// changes nothing, and sends no email.
//
// Each check returns findings in a sentence, with what to do where something is wrong.
package doctor

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
)

// Finding is the result of a check.
type Finding struct {
	Check string // what was looked at, such as "spf"
	OK    bool
	What  string // in a sentence
	Do    string // what to do about it; "": nothing
}

// Firm has the data of a firm for the checks. Set its fields in one literal.
type Firm struct {
	Sender string // address that its mails come from
	Mail   *Mail  // nil: mails stay in a folder
	Keys   []Key  // that it signs its mails with
	URL    *url.URL
	Prefix string // of Doorpost's own pages

	Upstreams []string // where the portal is, as Caddy dials it

	Resolver Resolver         // default: this machine's
	HTTP     *http.Client     // to reach the site with; default: one that follows no redirect
	Now      func() time.Time // default: time.Now

	Interfaces func() ([]net.Addr, error) // of this machine; default: net.InterfaceAddrs
}

// Mail is the mail server of a firm.
type Mail struct {
	SMTP outbox.SMTP
}

// Key is the public half of a key that mails are signed with.
type Key struct {
	Selector string
	Kind     string // "rsa" or "ed25519", as in k=
	Public   string // as in p=
}

// Resolver looks up DNS records.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

const patience = 20 * time.Second // for all checks of a kind

// Look runs all checks of the firm, those that take long at the same time.
func (f Firm) Look(ctx context.Context) (all []Finding) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	parts := []func(context.Context) []Finding{f.mailServer, f.dns, f.site, f.around}
	found := make([]chan []Finding, len(parts))
	for i, part := range parts {
		found[i] = make(chan []Finding, 1)
		go func() { found[i] <- part(ctx) }()
	}
	for _, c := range found {
		all = append(all, <-c...)
	}
	return all
}

func (f Firm) resolver() Resolver {
	if f.Resolver == nil {
		return net.DefaultResolver
	}
	return f.Resolver
}

func (f Firm) now() time.Time {
	if f.Now == nil {
		return time.Now()
	}
	return f.Now()
}

// mailServer connects, encrypts and logs in.
func (f Firm) mailServer(ctx context.Context) []Finding {
	if f.Mail == nil {
		return nil
	}
	server := f.Mail.SMTP.Address
	err := f.Mail.SMTP.Check(ctx, f.Sender)
	if err != nil {
		reason := outbox.Reason(err)
		return []Finding{{Check: "mail server", What: server + " can't be used: " + reason, Do: cmp.Or(outbox.Advice(reason), "change the block of `mail smtp` as it says")}}
	}
	how := "answers, encrypted"
	if f.Mail.SMTP.TLS == outbox.TLSOff {
		how = "answers, without encryption"
	}
	if f.Mail.SMTP.Username != "" {
		how += ", and takes the login"
	}
	return []Finding{{Check: "mail server", OK: true, What: server + " " + how}}
}
