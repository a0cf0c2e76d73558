package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// ContactDevices is a contact with the browsers that they are signed in with.
type ContactDevices struct {
	Contact  directory.Contact `json:"contact"`
	Sessions []Session         `json:"sessions"` // the latest sign-in first
}

// DeviceList is one page of contacts who are signed in somewhere.
type DeviceList struct {
	Contacts []ContactDevices `json:"contacts"`
	Next     string           `json:"next,omitempty"` // where the next page begins; "": there is none
}

// ListDevices returns the contacts who are signed in, each with all sessions. in.Limit is the number of contacts that are
// looked at: a page may have fewer, or none, and a Next.
func (f Firm) ListDevices(ctx context.Context, in ListRequest) (DeviceList, error) {
	out := DeviceList{Contacts: []ContactDevices{}}
	limit, err := in.limit()
	if err != nil {
		return out, err
	}
	var contacts []directory.Contact
	if in.Text != "" {
		page, err := f.ListContacts(ctx, ListContacts{ListRequest: ListRequest{Text: in.Text, After: in.After, Limit: limit}})
		if err != nil {
			return out, err
		}
		contacts, out.Next = page.Contacts, page.Next
	} else {
		ids, next, err := f.Sessions.SignedIn(ctx, in.After, limit)
		if err != nil {
			return out, err
		}
		out.Next = next
		for _, id := range ids {
			c, err := f.Directory.ByID(ctx, id)
			if errors.Is(err, directory.ErrUnknown) {
				continue // removed, and so are the sessions in a moment
			} else if err != nil {
				return out, err
			}
			contacts = append(contacts, c)
		}
	}
	for _, c := range contacts {
		sessions, err := f.sessionsOf(ctx, c, nil)
		if err != nil {
			return out, err
		}
		if len(sessions) > 0 && !c.Disabled {
			out.Contacts = append(out.Contacts, ContactDevices{c, sessions})
		}
	}
	return out, nil
}

// RevokeSession asks to sign out one browser of a contact.
type RevokeSession struct {
	Contact string `json:"contact"` // ID
	Session string `json:"session"` // ID, as in lists
}

// SessionRevoked is the session that was ended.
type SessionRevoked struct {
	Contact directory.Contact `json:"contact"`
	Session Session           `json:"session"`
}

func (s SessionRevoked) changed() audit.Event {
	if s.Session.ID == "" {
		return audit.Event{}
	}
	return audit.Event{Contact: s.Contact.ID, Address: s.Contact.Email().Masked(), Session: s.Session.ID, Count: 1}
}

// RevokeSession signs out one browser of a contact.
func (f Firm) RevokeSession(ctx context.Context, in RevokeSession) (out SessionRevoked, err error) {
	gone := &Error{Status: 404, Code: "unknown", Field: "session", Reason: fmt.Sprintf("no session with the id %q is there any more", in.Session), Remedy: "look which there are with sessions list"}
	c, err := f.Directory.ByID(ctx, in.Contact)
	if errors.Is(err, directory.ErrUnknown) {
		return out, gone
	} else if err != nil {
		return out, err
	}
	all, err := f.Sessions.List(ctx, c.ID, c.Generation)
	if err != nil {
		return out, err
	}
	for _, s := range all {
		if s.Handle != in.Session {
			continue
		}
		if err := f.Sessions.End(ctx, c.ID, s.ID); err != nil {
			return out, err
		}
		return SessionRevoked{c, Session{ID: s.Handle, Email: string(c.Email()), Name: c.Name(), Method: s.Method, Agent: s.Agent, Shared: s.Shared,
			BegunAt: s.Begun.UTC(), SeenAt: s.Seen.UTC(), ExpiresAt: f.Sessions.Ends(s).UTC()}}, nil
	}
	return out, gone
}
