package action

import (
	"encoding/json"
	"fmt"
	"time"

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

// notificationLife is how long it is tried to tell somebody what was done in their name.
const notificationLife = 24 * time.Hour

// notification is the payload of a request to tell somebody what was done in their name: that
// their password was changed, or that they signed in on a new device.
type notification struct {
	Contact  string    `json:"contact"`
	Removed  bool      `json:"removed,omitempty"`  // the password
	Password bool      `json:"password,omitempty"` // the sign-in was by password
	At       time.Time `json:"at"`
	Agent    string    `json:"agent,omitempty"`

	Languages string `json:"languages,omitempty"` // as Browser has them
}

// addNotification returns the Op that commits such a request, and its ID. The mail, which MailJobs makes, goes out also where the
// queue is full: nobody can keep something from a contact by filling it.
func addNotification(queue *outbox.Queue, kind string, what notification) (id string, op store.Op, err error) {
	payload, err := json.Marshal(what)
	if err != nil {
		return "", store.Op{}, fmt.Errorf("writing a request: %w", err)
	}
	id = outbox.NewID(kind, what.At)
	return id, queue.Add(outbox.Request{ID: id, Kind: kind, Asked: what.At, NotAfter: what.At.Add(notificationLife), Payload: payload}), nil
}
