package caddymodule

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	legacyusage "github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// canary is the record that shows which secret sealed the store.
var canary = store.Key{Bucket: "doorpost", ID: "canary"}

// OpenStore returns the open store of the running configuration.
func OpenStore(t *testing.T) store.Store { return activeApp(t).server.Engine.Store }

// Closing returns a function that reports whether all stores open now have been closed, so that
// nothing more is written.
func Closing() (closed func() bool) {
	open := openEngines()
	return func() bool {
		for _, e := range open {
			if _, err := e.Store.Get(context.Background(), canary); !errors.Is(err, store.ErrUnavailable) {
				return false
			}
		}
		return true
	}
}

// Advance sets the clock ahead, for the running configuration.
func Advance(t *testing.T, d time.Duration) {
	clock := activeApp(t).server.Engine.Clock
	clock.NotBefore(clock.Now().Add(d))
}

// MailboxURL returns the URL of a firm's preview mailbox.
func MailboxURL(t *testing.T, firm string) string { return activeApp(t).firms[firm].Gate.MailboxURL() }

// MailServerOf returns the firm's mail server in the running configuration.
func MailServerOf(t *testing.T, firm string) *outbox.Server {
	return activeApp(t).firms[firm].Queue.Server
}

// UsageOf returns the counter of a firm's old links in the running configuration.
func UsageOf(t *testing.T, firm string) *legacyusage.Counter { return activeApp(t).firms[firm].Usage }

// BookOf returns the contacts of a firm in the running configuration.
func BookOf(t *testing.T, firm string) *directory.Directory {
	return activeApp(t).firms[firm].Directory
}

// PasswordsOf returns the passwords of a firm in the running configuration.
func PasswordsOf(t *testing.T, firm string) *password.Passwords {
	return activeApp(t).firms[firm].Passwords
}

// LookAtFiles checks once, at the time of the test clock, whether files of the running
// configuration have changed.
func LookAtFiles(t *testing.T) { activeApp(t).server.CheckFiles(t.Context()) }

// SessionsOf returns the sessions of a firm in the running configuration.
func SessionsOf(t *testing.T, firm string) *session.Sessions {
	return activeApp(t).firms[firm].Sessions
}

// WaitingAnnouncements returns how many mails of an announcement are in the outbox.
func WaitingAnnouncements(t *testing.T, firm string) (int, error) {
	return activeApp(t).firms[firm].Queue.Count(t.Context(), "portal-update")
}
