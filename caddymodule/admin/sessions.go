package admin

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// ListSessions asks for the sessions of one contact, or, without Email, for one page
// of everybody's.
type ListSessions struct {
	Email string `json:"email,omitempty"`
	ListRequest
}

// SessionList is one page of sessions: contact by contact, of each the latest sign-in
// first. A page ends with a contact, so it may hold more than was asked for.
type SessionList struct {
	Sessions []Session `json:"sessions"`
	Next     string    `json:"next,omitempty"` // where the next page begins; "": there is none
}

// Session is a browser that is signed in.
type Session struct {
	ID        string    `json:"id"`         // stands for the session in logs and in `sid`; opens nothing
	Email     string    `json:"email"`      // the contact's main address
	Name      string    `json:"name"`       // the contact's
	Method    string    `json:"method"`     // link, code, phone-code or password
	Agent     string    `json:"agent"`      // the browser in words
	Shared    bool      `json:"shared"`     // on a shared computer
	BegunAt   time.Time `json:"begun_at"`   // the sign-in
	SeenAt    time.Time `json:"seen_at"`    // the last request
	ExpiresAt time.Time `json:"expires_at"` // if no other request comes
}

// contactsAtOnce is how many contacts are looked at before the next ones are read.
const contactsAtOnce = 500

func (f Firm) ListSessions(ctx context.Context, in ListSessions) (SessionList, error) {
	out := SessionList{Sessions: []Session{}}
	limit, err := in.limit()
	if err != nil {
		return out, err
	}
	if in.Email != "" {
		email, err := parseAddress(in.Email)
		if err != nil {
			return out, err
		}
		c, err := f.Directory.ByEmail(ctx, email)
		if errors.Is(err, directory.ErrUnknown) {
			return out, unknownContact(email)
		} else if err != nil {
			return out, err
		}
		out.Sessions, err = f.sessionsOf(ctx, c, out.Sessions)
		return out, err
	}
	for after := in.After; ; {
		contacts, err := f.Directory.Contacts(ctx, in.Text, after, contactsAtOnce)
		if err != nil {
			return out, err
		}
		for _, c := range contacts {
			if out.Sessions, err = f.sessionsOf(ctx, c, out.Sessions); err != nil {
				return out, err
			}
			if after = c.ID; len(out.Sessions) >= limit {
				out.Next = after
				return out, nil
			}
		}
		if len(contacts) < contactsAtOnce {
			return out, nil
		}
	}
}

// sessionsOf adds the sessions of a contact to the list.
func (f Firm) sessionsOf(ctx context.Context, c directory.Contact, list []Session) ([]Session, error) {
	all, err := f.Sessions.List(ctx, c.ID, c.Generation)
	for _, s := range all {
		list = append(list, Session{
			ID: s.Handle, Email: string(c.Email()), Name: c.Name(), Method: s.Method, Agent: s.Agent, Shared: s.Shared,
			BegunAt: s.Begun.UTC(), SeenAt: s.Seen.UTC(), ExpiresAt: f.Sessions.Ends(s).UTC(),
		})
	}
	return list, err
}

func (f Firm) RevokeSessions(ctx context.Context, in ByEmail) (ContactChanged, error) {
	email, err := parseAddress(in.Email)
	if err != nil {
		return ContactChanged{}, err
	}
	c, err := f.Directory.ByEmail(ctx, email)
	if errors.Is(err, directory.ErrUnknown) {
		return ContactChanged{}, unknownContact(email)
	} else if err != nil {
		return ContactChanged{}, err
	}
	n, err := f.RevokeAccess(ctx, c.ID)
	return ContactChanged{Contact: c, SessionsEnded: n}, err
}
