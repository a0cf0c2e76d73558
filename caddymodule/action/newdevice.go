package action

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// newDevice returns the Ops of a sign-in by which the contact is told of it, where that is
// due, and the ID of the request for the mail; "" where none is sent. Over the budget of
// these mails none is: a contact who signs in again and again has been told. known says that the
// contact has signed in on the device before.
func (s *SignIn) newDevice(ctx context.Context, by Browser, c directory.Contact, grant token.AuthResult, known bool) (request string, ops []store.Op, err error) {
	first, ops, err := s.Devices.First(ctx, c.ID)
	if err != nil || s.NoNewDevice || !tellsOfDevice(known, first, grant, c.Emails[0]) {
		return "", ops, err
	}
	n := notification{Contact: c.ID, Password: grant.Method == ByPassword, At: s.Now(), Agent: by.Agent, Languages: by.Languages}
	request, mail, err := addNotification(s.Queue, kindNewDevice, n)
	if err != nil {
		return "", nil, err
	}
	spent, err := s.Mails.Spend(ctx, limit.Key{Contact: c.ID, Scope: kindNewDevice}, limit.ForNotifications, limit.Request{ID: request}, n.At)
	if errors.Is(err, limit.ErrOver) {
		return "", ops, nil
	} else if err != nil {
		return "", nil, err
	}
	return request, append(append(ops, spent.Ops...), mail), nil
}

// tellsOfDevice decides whether a contact is told by mail, at their main address, of a
// sign-in: known says that they have signed in on the device before, first that they
// never have anywhere. A shared computer is never known.
func tellsOfDevice(known, first bool, grant token.AuthResult, main address.Address) bool {
	switch {
	case known:
		return false
	case grant.Method == token.ByPhone:
		// Nobody has shown that they read the mailbox, and nothing of this lies in it yet.
		return true
	case grant.Method != ByPassword && grant.Address == main:
		// The mail by which they came in lies in the same mailbox, seconds old, and says
		// the same: when it was asked for, and in what browser. A second one each time a browser
		// has lost its cookies would teach people to delete both.
		return false
	case first:
		// They set out just now, and know it. But a password from elsewhere may be known
		// to others, and nobody has had a mail of ours yet.
		return grant.Foreign
	}
	return true
}
