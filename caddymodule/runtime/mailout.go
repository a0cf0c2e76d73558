package runtime

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// MailOut is a way out for mail: that of the global option, or a firm's own.
type MailOut struct {
	settings config.Mail
	sender   outbox.Sender
	server   *outbox.Server // kept over reloads
	pace     *rate.Limiter
}

// OpenMail opens the way out that the settings say. keep keeps what outlives a reload.
func OpenMail(m config.Mail, keep func(string, func() any) any, now func() time.Time) (*MailOut, error) {
	out := &MailOut{settings: m}
	var err error
	if out.pace, err = m.Pace(); err != nil {
		return nil, err
	}
	// What hands mails over during a reload is of two configs, and there is one mail server.
	out.server = keep("mail server", func() any { return outbox.NewServer(m.AtATime(), out.pace, now) }).(*outbox.Server)
	if m.Via == "folder" {
		out.sender = outbox.Folder{Path: m.Path}
		return out, nil
	}
	smtp, err := m.SMTP()
	if err != nil {
		return nil, err
	}
	smtp.Timeout, smtp.Logins = token.HandOverTime, new(outbox.Logins)
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
