package runtime

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/oauth"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// MailOut is a way out for mail: that of the global option, or a firm's own.
type MailOut struct {
	settings config.Mail
	sender   outbox.Sender
	server   *outbox.Server // kept over reloads
	pace     *rate.Limiter
}

// Tokens is where the access tokens of a mail server are kept: by the name of the firm whose server it
// is, "" for that of all firms.
type Tokens struct {
	Name  string
	Store store.Store
	Keys  *secret.Keyring
}

// OpenMail opens the way out that the settings say. keep keeps what outlives a reload.
func OpenMail(m config.Mail, keep func(string, func() any) any, now func() time.Time, tokens Tokens) (*MailOut, error) {
	out := &MailOut{settings: m}
	var err error
	if out.pace, err = m.Pace(); err != nil {
		return nil, err
	}
	// During a reload, two configurations hand over mails to one mail server.
	out.server = keep("mail server", func() any { return outbox.NewServer(m.AtATime(), out.pace, now) }).(*outbox.Server)
	if m.Transport == "folder" {
		out.sender = outbox.Folder{Path: m.Path}
		return out, nil
	}
	smtp, err := m.SMTP()
	if err != nil {
		return nil, err
	}
	smtp.Timeout, smtp.Logins = token.HandOverTime, new(outbox.Logins)
	if o := m.OAuth; o != nil {
		source := &oauth.Source{Name: "mail." + tokens.Name, TokenURL: o.TokenURL(), ClientID: o.ClientID, ClientSecret: o.ClientSecret, RefreshToken: o.RefreshToken,
			Store: tokens.Store, Keys: tokens.Keys, Now: now}
		smtp.AccessToken = source.AccessToken
	}
	out.sender = &outbox.Pool{SMTP: smtp}
	return out, nil
}

// Apply has the server go by these settings. It is to be called once nothing of the config can
// fail any more.
func (m *MailOut) Apply() { m.server.Set(m.settings.AtATime(), m.pace) }

// Close closes the connections that are kept open.
func (m *MailOut) Close() error {
	if pool, ok := m.sender.(*outbox.Pool); ok {
		return pool.Close()
	}
	return nil
}

// SMTP returns how the mail server is reached; false: mails go into a folder.
func (m *MailOut) SMTP() (outbox.SMTP, bool) {
	pool, ok := m.sender.(*outbox.Pool)
	if !ok {
		return outbox.SMTP{}, false
	}
	return pool.SMTP, true
}
