package gate

import (
	"errors"
	"net/http"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
	"github.com/doorpost-auth/doorpost/caddymodule/web"
)

// newDevice returns the Ops of a sign-in by which the contact is told of it, where that is
// due, and the ID of the request for the mail; "" where none is sent. Over the budget of
// these mails none is: who signs in again and again has been told of. known says that the
// contact has signed in on the device before.
func (g *Gate) newDevice(r *http.Request, c directory.Contact, grant token.Grant, known bool) (ops []store.Op, request string, err error) {
	ctx := r.Context()
	first, ops, err := g.devices.First(ctx, c.ID)
	if err != nil || g.NoNews || !tellsOfDevice(known, first, grant, c.Emails[0]) {
		return ops, "", err
	}
	n := news{Contact: c.ID, Password: grant.Method == byPassword, At: g.Now(), Agent: web.AgentOf(r)}
	request, mail, err := g.tell(kindNewDevice, n)
	if err != nil {
		return nil, "", err
	}
	spent, err := g.mails.Spend(ctx, limit.Purse{Contact: c.ID, Apart: kindNewDevice}, limit.ForNews, limit.Request{ID: request}, n.At)
	if errors.Is(err, limit.ErrOver) {
		return ops, "", nil
	} else if err != nil {
		return nil, "", err
	}
	return append(append(ops, spent.Ops...), mail), request, nil
}

// tellsOfDevice decides whether a contact is told by mail, at their main address, of a
// sign-in: known says that they have signed in on the device before, first that they
// never have anywhere. A shared computer is never known.
func tellsOfDevice(known, first bool, grant token.Grant, main address.Address) bool {
	switch {
	case known:
		return false
	case grant.Method != byPassword && grant.Address == main:
		// The mail by which they came in lies in the same mailbox, seconds old, and says
		// the same: who asked, when, on what. A second one each time a browser has lost
		// its cookies would teach people to delete both.
		return false
	case first:
		// They set out just now, and know it. But a password from elsewhere may be known
		// to others, and nobody has had a mail of ours yet.
		return grant.Foreign
	}
	return true
}
