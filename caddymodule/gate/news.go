package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// The kinds of requests, each of which comes to a mail.
const (
	kindSignIn      = "sign-in"
	kindSetPassword = "set-password"
	kindChanged     = "password-changed"
	kindNewDevice   = "new-device"
)

// newsLife is how long it is tried to tell somebody what was done in their name.
const newsLife = 24 * time.Hour

// news is the payload of a request to tell somebody what was done in their name: that
// their password was changed, or that they signed in on a new device.
type news struct {
	Contact  string    `json:"contact"`
	Removed  bool      `json:"removed,omitempty"`  // the password
	Password bool      `json:"password,omitempty"` // the sign-in was by password
	At       time.Time `json:"at"`
	Agent    string    `json:"agent,omitempty"`
}

// tell returns the Op that commits such a request, and its ID. It goes out also where the
// queue is full: who fills it must not do so to keep something from somebody.
func (g *Gate) tell(kind string, n news) (id string, op store.Op, err error) {
	payload, err := json.Marshal(n)
	if err != nil {
		return "", store.Op{}, fmt.Errorf("writing a request: %w", err)
	}
	id = outbox.NewID(kind, n.At)
	return id, g.Queue.Add(outbox.Request{ID: id, Kind: kind, Asked: n.At, NotAfter: n.At.Add(newsLife), Payload: payload}), nil
}

// prepareNews makes the mail, to the main address.
func (g *Gate) prepareNews(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
	var n news
	if err := json.Unmarshal(r.Payload, &n); err != nil {
		return outbox.Prepared{}, fmt.Errorf("reading request %s: %w", r.ID, err)
	}
	c, err := g.Book.ByID(ctx, n.Contact)
	if errors.Is(err, directory.ErrUnknown) {
		return outbox.Prepared{}, nil
	} else if err != nil {
		return outbox.Prepared{}, err
	}
	help := "help"
	switch {
	case r.Kind == kindNewDevice && !n.Password:
		help = "account" // where they sign out others
	case g.Passwords == nil:
		help = "sign-in"
	}
	mail, err := g.mailTo(ctx, c, c.Emails[0])
	if err != nil {
		return outbox.Prepared{}, err
	}
	mail.Link, mail.AskedAt, mail.Agent = g.URL.JoinPath(g.Prefix, help).String(), n.At.Local(), n.Agent
	var letter brand.Letter
	if r.Kind == kindNewDevice {
		letter, err = g.Letters.NewDevice(brand.NewDevice{Mail: mail, ByPassword: n.Password})
	} else {
		letter, err = g.Letters.PasswordChanged(brand.PasswordChanged{Mail: mail, Removed: n.Removed})
	}
	if err != nil {
		return outbox.Prepared{}, fmt.Errorf("writing a mail about what was done: %w", err)
	}
	message, err := messageOf(letter, n.At)
	return outbox.Prepared{Message: message, Ref: r.ID}, err
}
