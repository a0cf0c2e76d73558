package action

import (
	"context"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/password"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// PasswordChanges sets and removes passwords. Set its fields in one literal before use.
type PasswordChanges struct {
	Directory *directory.Directory
	Passwords *password.Passwords
	Sessions  *session.Sessions
	Devices   *limit.Devices
	Mails     *limit.Mails
	Queue     *outbox.Queue // of mails that tell of changes
	Audit     *audit.Log
	Now       func() time.Time
}

// PasswordChange is a password that is about to be set or removed.
type PasswordChange struct {
	Contact directory.Contact
	Proof   []store.Op // by which the proof that it is the contact who changes it is spent
	Method  string     // what that was
	Spare   string     // ID of the session that goes on; "": none does
	Device  string     // ID of the one on which a link was spent that was mailed for this; "": there was none
}

// Set judges and stores a password. The error is a password.PolicyError, password.ErrBusy,
// limit.ErrOver after too many changes, store.ErrConflict when something moved, or the store's.
func (p *PasswordChanges) Set(ctx context.Context, by Browser, change PasswordChange, plain string) error {
	about, err := p.contextWords(ctx, change.Contact)
	if err != nil {
		return err
	}
	ops, err := p.Passwords.Set(ctx, change.Contact.ID, plain, about)
	if err != nil {
		return err
	}
	return p.apply(ctx, by, change, audit.PasswordSet, ops)
}

// Remove removes the password, if there is one. The errors are those of Set.
func (p *PasswordChanges) Remove(ctx context.Context, by Browser, change PasswordChange) error {
	ops, err := p.Passwords.Remove(ctx, change.Contact.ID)
	if err != nil || ops == nil {
		return err
	}
	return p.apply(ctx, by, change, audit.PasswordRemoved, ops)
}

// contextWords returns the words that no password of the contact may contain.
func (p *PasswordChanges) contextWords(ctx context.Context, c directory.Contact) (password.ContactInfo, error) {
	about := password.ContactInfo{Names: []string{c.FirstName, c.LastName}, Emails: c.Emails}
	if c.Role == directory.Staff {
		return about, nil // they reach all of them
	}
	names, err := companyNames(ctx, p.Directory, c)
	about.Companies = slices.Concat(names, c.Companies)
	return about, err
}

// apply makes the change in one step, with the proof spent, the sessions but one ended,
// and the mail that tells of it on its way. A mailed link also makes its device the only one
// that the contact is known on, for whoever had the password before may have signed in on
// others. It is limit.ErrOver after too many changes; of mailed links there are few anyhow.
func (p *PasswordChanges) apply(ctx context.Context, by Browser, change PasswordChange, kind audit.Kind, ops []store.Op) error {
	c, now := change.Contact, p.Now()
	// Now that the record was read, a visitor who came in by the one before is among these, or has
	// changed it since, and that is a conflict.
	renewal, err := p.Directory.Renew(ctx, c.ID)
	if err != nil {
		return err
	}
	end, err := p.Sessions.Ending(ctx, c.ID, change.Spare, renewal.Generation)
	if err != nil {
		return err
	}
	id, mail, err := addNotification(p.Queue, kindChanged, notification{Contact: c.ID, Removed: kind == audit.PasswordRemoved, At: now, Agent: by.Agent, Languages: by.Languages})
	if err != nil {
		return err
	}
	var more []store.Op
	if change.Device != "" {
		more, err = p.Devices.LearnOnly(ctx, change.Device, c.ID, now)
	} else {
		var spent limit.Spent
		spent, err = p.Mails.Spend(ctx, limit.Key{Contact: c.ID, Scope: kindChanged}, limit.ForChanges, limit.Request{ID: id}, now)
		more = spent.Ops
	}
	if err != nil {
		return err
	}
	event, stored := p.Audit.With(audit.Event{Kind: kind, Contact: c.ID, Method: change.Method, Agent: by.Agent, IP: by.IP})
	err = p.Sessions.Store.Apply(ctx, slices.Concat(change.Proof, ops, renewal.Ops, end.Ops, more, stored, []store.Op{mail})...)
	p.Sessions.Ended(ctx, end, err)
	p.Directory.Renewed(ctx, err)
	if err != nil {
		return err
	}
	p.Audit.Record(ctx, event)
	p.Queue.Wake(id)
	return nil
}
