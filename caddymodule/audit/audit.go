// Package audit tells the operator what happened at the door: one call, one event.
//
// An event names contacts and sessions by their opaque IDs, addresses in part, and
// never a token, code, cookie or password.
package audit

import (
	"context"
	"log/slog"
	"net/netip"
)

// Kind is what happened. The kinds are a closed set.
type Kind string

// What happens at the door.
const (
	Asked     Kind = "asked"      // somebody asked for a sign-in mail
	Unknown   Kind = "unknown"    // … with an address that is no contact's
	Disabled  Kind = "disabled"   // … with the address of a contact who is switched off
	Limited   Kind = "limited"    // … too often, or with enough links alive
	Queued    Kind = "queued"     // the sign-in mail was made
	Sent      Kind = "sent"       // the mail server accepted it
	Refused   Kind = "refused"    // … or refused it for good
	Late      Kind = "late"       // … or couldn't take it in time
	Opened    Kind = "opened"     // a link was opened, without being spent
	WrongCode Kind = "wrong-code" // a code was tried that doesn't work
	WrongMail Kind = "wrong-mail" // on a link's page, the address wasn't the link's
	SignedIn  Kind = "signed-in"
	SignedOut Kind = "signed-out"
)

// Event is one thing that happened. Empty fields are left out.
type Event struct {
	Kind    Kind
	Contact string // ID
	Session string // handle
	Address string // in part
	Method  string
	Agent   string
	IP      netip.Addr
	Request string // ID of the request for a mail, which ties its events together
}

// Log records the events of one firm.
type Log struct {
	Logger *slog.Logger // its lines name the firm
}

// Record writes the event down. It never fails what it tells of.
func (l *Log) Record(ctx context.Context, e Event) {
	attrs := make([]slog.Attr, 0, 8)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, slog.String(key, value))
		}
	}
	add("event", string(e.Kind))
	add("contact", e.Contact)
	add("session", e.Session)
	add("address", e.Address)
	add("method", e.Method)
	add("agent", e.Agent)
	add("request", e.Request)
	if e.IP.IsValid() {
		add("ip", e.IP.String())
	}
	l.Logger.LogAttrs(ctx, slog.LevelInfo, "door", attrs...)
}
