package action

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// ByPassword is the Method of sessions and grants that a password has begun.
const ByPassword = "password"

// ErrOvertaken is a token.ErrInactive: what the sign-in went by has changed meanwhile.
var ErrOvertaken = fmt.Errorf("action: another was faster: %w", token.ErrInactive)

// SignIn begins sessions. Set its fields in one literal before use.
type SignIn struct {
	Directory    *directory.Directory
	Sessions     *session.Sessions
	Devices      *limit.Devices
	Mails        *limit.Mails
	Networks     *limit.Networks
	LastContacts *LastContacts
	Replay       *Replay
	Queue        *outbox.Queue // of mails that tell of sign-ins
	NoNewDevice  bool          // nobody is told by mail of a sign-in on a new device
	Audit        *audit.Log
	Now          func() time.Time
}

// Begun is a sign-in that is in the store.
type Begun struct {
	Cookie     string // of the session
	Device     string // the cookie of the device; "" on a shared computer, which isn't known
	SamePerson bool   // as signed in most recently in this browser
}

// Begin begins a session for a contact whom the grant proves, and spends the proof in the same
// step. old is the session that goes on in that browser; nil: there is none. The error is
// ErrOvertaken, another token.ErrInactive when the contact may not sign in any more, or the store's.
func (s *SignIn) Begin(ctx context.Context, by Browser, old *session.Cached, grant token.AuthResult) (Begun, error) {
	c, err := s.Directory.ByID(ctx, grant.Contact)
	if errors.Is(err, directory.ErrUnknown) || err == nil && (c.Disabled || grant.Method != ByPassword && grant.Generation != c.Generation) {
		return Begun{}, token.ErrInactive
	} else if err != nil {
		return Begun{}, err
	}
	b, err := s.Sessions.Begin(ctx, session.Session{
		Contact: c.ID, Generation: c.Generation, Method: grant.Method, Agent: by.Agent, Shared: grant.Shared,
	}, old)
	if err != nil {
		return Begun{}, err
	}
	before, err := s.Devices.Knows(ctx, by.Device, c.ID)
	if err != nil {
		return Begun{}, err
	}
	same, err := s.isLast(ctx, by, old, c.ID)
	if err != nil {
		return Begun{}, err
	}
	device, known, err := s.knowDevice(ctx, by, c, grant.Shared)
	if err != nil {
		return Begun{}, err
	}
	told, notify, err := s.newDevice(ctx, by, c, grant, before)
	if err != nil {
		return Begun{}, err
	}
	event, stored := s.Audit.With(audit.Event{Kind: audit.SignedIn, Contact: c.ID, Session: b.Handle,
		Address: grant.Address.Masked(), Method: grant.Method, Agent: b.Agent, IP: by.IP})
	err = s.Sessions.Store.Apply(ctx, slices.Concat(grant.Ops, b.Ops, known, notify, s.Replay.put(grant.Link, by.Flow, b.Cookie), stored)...)
	if errors.Is(err, store.ErrConflict) {
		return Begun{}, ErrOvertaken
	} else if err != nil {
		return Begun{}, err
	}
	s.Sessions.Began(ctx, b)
	s.Audit.Record(ctx, event)
	if told != "" {
		s.Queue.Wake(told)
	}
	return Begun{Cookie: b.Cookie, Device: device, SamePerson: same}, nil
}

// isLast reports whether the contact is the one who signed in most recently in that browser: in
// the session that goes on there, or else on the device. The error is the store's.
func (s *SignIn) isLast(ctx context.Context, by Browser, old *session.Cached, contact string) (bool, error) {
	if old != nil {
		return old.Contact == contact, nil
	}
	last, err := s.LastContacts.On(ctx, by.Device)
	return last == contact, err
}

// knowDevice returns the Ops by which a sign-in makes its device a known one, has it remember the
// contact for as long as the session may last, and answers the mails so far, and the device's
// cookie; "" on a shared computer, which isn't known, and which then remembers nobody.
func (s *SignIn) knowDevice(ctx context.Context, by Browser, c directory.Contact, shared bool) (cookie string, ops []store.Op, err error) {
	now := s.Now()
	purses := []limit.Key{{Contact: c.ID}, {Contact: c.ID, Scope: "link"}}
	if by.Device != "" {
		purses = append(purses, limit.Key{Contact: c.ID, Scope: by.Device})
	}
	for _, purse := range purses {
		answered, err := s.Mails.Answered(ctx, purse, s.Networks.Pseudonym(by.IP), now)
		if err != nil {
			return "", nil, err
		}
		ops = append(ops, answered...)
	}
	if shared {
		if by.Device != "" {
			ops = append(ops, s.LastContacts.forget(by.Device))
		}
		return "", ops, nil
	}
	cookie, id := by.NewestDevice(s.Devices)
	learnt, gone, err := s.Devices.Learn(ctx, id, c.ID, now)
	if err != nil {
		return "", nil, err
	}
	for _, id := range gone { // sign-ins on one new device after another leave nothing behind
		ops = append(ops, s.LastContacts.forget(id))
	}
	last, err := s.LastContacts.put(id, c.ID, now.Add(s.Sessions.Max))
	return cookie, slices.Concat(ops, learnt, []store.Op{last}), err
}
