package caddymodule

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// mailOut is a way out for mail: that of the global option, or a firm's own.
type mailOut struct {
	settings config.Mail
	sender   outbox.Sender
	server   *outbox.Server // kept over reloads
	pace     *rate.Limiter
}

// openMail opens the way out that the settings say. keep keeps what outlives a reload.
func openMail(m config.Mail, keep func(string, func() any) any, now func() time.Time) (*mailOut, error) {
	out := &mailOut{settings: m}
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

// apply has the server go by these settings. It is to be called once nothing of the config can
// fail any more.
func (m *mailOut) apply() { m.server.Set(m.settings.AtATime(), m.pace) }

// close closes the connections that are kept open.
func (m *mailOut) close() error {
	if pool, ok := m.sender.(*outbox.Pool); ok {
		return pool.Close()
	}
	return nil
}
