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

// canary is the record that tells whether a secret is the one that sealed the store.
var canary = store.Key{Bucket: "doorpost", ID: "canary"}

// OpenStore returns the store that the running config has open.
func OpenStore(t *testing.T) store.Store { return activeApp(t).server.Engine.Store }

// Closing returns what reports whether the stores that are open now have been closed, so that nothing
// is written any more.
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

// Advance sets the machine's clock ahead, as far as the running config can tell.
func Advance(t *testing.T, d time.Duration) {
	clock := activeApp(t).server.Engine.Clock
	clock.NotBefore(clock.Now().Add(d))
}

// MailboxURL returns where the preview mailbox of a firm opens.
func MailboxURL(t *testing.T, firm string) string { return activeApp(t).firms[firm].Gate.MailboxURL() }

// MailServerOf returns the firm's mail server in the running config.
func MailServerOf(t *testing.T, firm string) *outbox.Server {
	return activeApp(t).firms[firm].Queue.Server
}

// UsageOf returns what counts the uses of a firm's old links in the running config.
func UsageOf(t *testing.T, firm string) *legacyusage.Counter { return activeApp(t).firms[firm].Usage }

// BookOf returns the contacts of a firm in the running config.
func BookOf(t *testing.T, firm string) *directory.Book { return activeApp(t).firms[firm].Book }

// PasswordsOf returns those of a firm in the running config.
func PasswordsOf(t *testing.T, firm string) *password.Passwords {
	return activeApp(t).firms[firm].Passwords
}

// LookAtFiles looks once, at the time of the test's clock, whether files that the running
// config names have changed.
func LookAtFiles(t *testing.T) { activeApp(t).server.CheckFiles(t.Context()) }

// SessionsOf returns those of a firm in the running config.
func SessionsOf(t *testing.T, firm string) *session.Sessions {
	return activeApp(t).firms[firm].Sessions
}
