package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Manual changes of one contact or company at a time.

// AddContact adds a contact with the main address email. A contact that was removed manually may be
// added again, as a new contact. It returns a *FieldError if the change is invalid, with ErrTaken
// if an address belongs to another contact.
func (b *Directory) AddContact(ctx context.Context, email address.Address, c Change) (Contact, error) {
	if c.Version != "" {
		return Contact{}, ErrChanged // the contact that it is based on isn't there
	}
	var after storedContact
	err := b.change(ctx, func() ([]store.Op, error) {
		whole, err := b.withLists(ctx, storedContact{}, c)
		if err != nil {
			return nil, err
		}
		d, err := b.parse(ctx, whole)
		if err != nil {
			return nil, err
		}
		if d.has.has(fEmail) && d.email != email {
			return nil, &FieldError{Field: fEmail.String(), Reason: "is given twice, and differs"}
		}
		d.has.add(fEmail)
		d.email = email
		after = storedContact{Contact: Contact{ID: b.newID(0), Role: Client}}.edited(d, true)
		return b.manualOps(ctx, nil, &after)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.effective(after), nil
}

// SetContact changes the contact that has the address email and returns its new state. It returns
// ErrUnknown if there is none; other errors as AddContact.
func (b *Directory) SetContact(ctx context.Context, email address.Address, c Change) (Contact, error) {
	var after storedContact
	err := b.change(ctx, func() ([]store.Op, error) {
		before, err := b.contactByEmail(ctx, email)
		if err == nil {
			err = b.checkVersion(before, c.Version)
		}
		if err != nil {
			return nil, err
		}
		whole, err := b.withLists(ctx, before, c)
		if err != nil {
			return nil, err
		}
		d, err := b.parse(ctx, whole)
		if err != nil {
			return nil, err
		}
		if err := b.checkStaffChange(before, d); err != nil {
			return nil, err
		}
		after = before.edited(d, true)
		if len(differences(&before, &after)) == 0 {
			return nil, nil
		}
		return b.manualOps(ctx, &before, &after)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.effective(after), nil
}

// checkVersion returns ErrChanged if the contact isn't in the state of the version.
func (b *Directory) checkVersion(e storedContact, version string) error {
	if version != "" && b.effective(e).Version() != version {
		return ErrChanged
	}
	return nil
}

// Disable prevents the contact that has the address email from signing in until Enable; no file
// undoes it. Disabling a disabled contact changes nothing.
func (b *Directory) Disable(ctx context.Context, email address.Address) (Contact, error) {
	disabled := true
	return b.SetContact(ctx, email, Change{Disabled: &disabled})
}

// Enable lets the contact that has the address email sign in again.
func (b *Directory) Enable(ctx context.Context, email address.Address) (Contact, error) {
	disabled := false
	return b.SetContact(ctx, email, Change{Disabled: &disabled})
}

// RemoveContact removes the contact that has the address email, with all its addresses, and returns
// the removed contact. No file adds the addresses again; AddContact does, as a new contact without
// a password.
func (b *Directory) RemoveContact(ctx context.Context, email address.Address) (Contact, error) {
	return b.RemoveContactAt(ctx, email, "")
}

// RemoveContactAt is RemoveContact for a contact in the state of the version; "" stands for any. In another state
// the error is ErrChanged.
func (b *Directory) RemoveContactAt(ctx context.Context, email address.Address, version string) (Contact, error) {
	var before storedContact
	err := b.change(ctx, func() (ops []store.Op, err error) {
		if before, err = b.contactByEmail(ctx, email); err == nil {
			err = b.checkVersion(before, version)
		}
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(before.Emails, b.isStaff); i >= 0 {
			return nil, staffError(fEmail, before.Emails[i])
		}
		return b.manualOps(ctx, &before, nil)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.effective(before), nil
}

// AddCompany adds a company. An id that was removed manually may be added again. It returns a
// *FieldError with ErrTaken if the id or a token belongs to another company.
func (b *Directory) AddCompany(ctx context.Context, id string, c CompanyChange) (Company, error) {
	if c.Version != "" {
		return Company{}, ErrChanged // the company that it is based on isn't there
	}
	var after Company
	err := b.change(ctx, func() ([]store.Op, error) {
		if !IsCompanyID(id) {
			return nil, &FieldError{Field: "id", Reason: quoted(id) + " " + badCompanyID}
		}
		switch _, err := b.Company(ctx, id); {
		case err == nil:
			return nil, &FieldError{Field: "id", Reason: id + " is there already", Err: ErrTaken}
		case !errors.Is(err, ErrUnknown):
			return nil, err
		}
		var err error
		if after, err = b.editCompany(ctx, Company{ID: id, Name: id}, c); err != nil {
			return nil, err
		}
		startsUpgraded, err := b.startsUpgraded(ctx)
		if err != nil {
			return nil, err
		}
		after.Upgraded, after.Generation, after.AddedAs = startsUpgraded(after), newRandomGeneration(), newRandomGeneration()
		return append(b.companyOps(nil, &after, nil), store.Delete(b.key(bucketRemoved, removedCompany+id))), nil
	})
	return after, err
}

// SetCompany changes a company and returns its new state, or ErrUnknown; other errors as
// AddCompany.
func (b *Directory) SetCompany(ctx context.Context, id string, c CompanyChange) (Company, error) {
	var after Company
	err := b.change(ctx, func() ([]store.Op, error) {
		before, err := b.Company(ctx, id)
		if err == nil && c.Version != "" && !slices.Contains(b.versionsOf(before), c.Version) {
			err = ErrChanged
		}
		if err != nil {
			return nil, err
		}
		if after, err = b.editCompany(ctx, before, c); err != nil {
			return nil, err
		}
		if after.Name == before.Name && slices.Equal(after.LegacyTokens, before.LegacyTokens) {
			return nil, nil
		}
		return b.companyOps(&before, &after, nil), nil
	})
	return after, err
}

// RemoveCompany removes a company and takes it from all its contacts in one step; it returns the
// number of these contacts. No file adds the company again; AddCompany does.
func (b *Directory) RemoveCompany(ctx context.Context, id string) (contacts int, err error) {
	err = b.change(ctx, func() ([]store.Op, error) {
		gone, err := b.Company(ctx, id)
		if err != nil {
			return nil, err
		}
		ops := b.companyOps(&gone, nil, nil)
		stone := tombstone{Name: gone.Name, At: b.now(), Tokens: gone.LegacyTokens, Upgraded: gone.Upgraded, AddedAs: gone.AddedAs}
		contacts = 0
		err = b.eachContact(ctx, "", func(e *storedContact) bool {
			if i := slices.Index(e.Companies, id); i >= 0 {
				e.Companies = slices.Delete(e.Companies, i, i+1)
				ops = append(ops, store.Put(b.key(bucketContact, e.ID), b.sealContact(e), time.Time{}))
				stone.Members = append(stone.Members, e.ID)
				contacts++
			}
			return true
		})
		return append(ops, store.Put(b.key(bucketRemoved, removedCompany+id), b.seal(bucketRemoved, removedCompany+id, stone), time.Time{})), err
	})
	if err != nil {
		return 0, err
	}
	return contacts, nil
}

// RestoreCompany undoes the removal of a company: it restores the name, the old links and the
// membership of its contacts who still exist, and returns their number. The company asks for
// sign-in if it did before. ErrUnknown means that no company with this id was removed manually;
// ErrTaken in a *FieldError means that another company has the id or a token by now.
func (b *Directory) RestoreCompany(ctx context.Context, id string) (after Company, contacts int, err error) {
	err = b.change(ctx, func() ([]store.Op, error) {
		if !IsCompanyID(id) {
			return nil, ErrUnknown
		}
		switch _, err := b.Company(ctx, id); {
		case err == nil:
			return nil, &FieldError{Field: "id", Reason: id + " is there", Err: ErrTaken}
		case !errors.Is(err, ErrUnknown):
			return nil, err
		}
		rec, err := b.get(ctx, bucketRemoved, removedCompany+id)
		if err != nil {
			return nil, err
		}
		var stone tombstone
		if err := b.open(rec, &stone); err != nil {
			return nil, err
		}
		startsUpgraded, err := b.startsUpgraded(ctx)
		if err != nil {
			return nil, err
		}
		after = Company{ID: id, Name: stone.Name, LegacyTokens: stone.Tokens, AddedAs: stone.AddedAs}
		if err := b.checkTokenOwners(ctx, after); err != nil {
			return nil, err
		}
		after.Upgraded, after.Generation = stone.Upgraded || startsUpgraded(after), newRandomGeneration()
		ops := append(b.companyOps(nil, &after, nil), store.Delete(rec.Key))
		contacts = 0
		for _, member := range stone.Members {
			e, err := b.contactByID(ctx, member)
			if errors.Is(err, ErrUnknown) {
				continue // removed since then
			} else if err != nil {
				return nil, err
			}
			if slices.Contains(e.Companies, id) || len(e.Companies) == maxCompanies {
				continue
			}
			e.Companies = slices.Sorted(slices.Values(append(slices.Clone(e.Companies), id)))
			ops = append(ops, store.Put(b.key(bucketContact, e.ID), b.sealContact(&e), time.Time{}))
			contacts++
		}
		return ops, nil
	})
	return after, contacts, err
}

const badCompanyID = "is no id of a company; write 1 to 63 of a-z, 0-9, dot, hyphen and underscore, the first a letter or digit, such as acme-ltd"

func (b *Directory) editCompany(ctx context.Context, c Company, change CompanyChange) (Company, error) {
	if change.Name != nil {
		name, err := cleanText(*change.Name, maxCompany)
		if err != nil {
			return c, &FieldError{Field: "name", Reason: err.Error()}
		}
		if c.Name = name; name == "" {
			c.Name = c.ID
		}
	}
	if change.LegacyTokens == nil {
		return c, nil
	}
	tokens, err := cleanTokens(*change.LegacyTokens)
	if err != nil {
		return c, &FieldError{Field: "legacy_tokens", Reason: err.Error()}
	}
	c.LegacyTokens = tokens
	return c, b.checkTokenOwners(ctx, c)
}

// checkTokenOwners refuses tokens that belong to another company.
func (b *Directory) checkTokenOwners(ctx context.Context, c Company) error {
	for _, token := range c.LegacyTokens {
		switch other, err := b.companyIDByToken(ctx, token); {
		case err == nil && other != c.ID:
			return &FieldError{Field: "legacy_tokens", Reason: "one is in the old links of " + other, Err: ErrTaken}
		case err != nil && !errors.Is(err, ErrUnknown):
			return err
		}
	}
	return nil
}

// parse checks a change and resolves its companies.
func (b *Directory) parse(ctx context.Context, c Change) (edit, error) {
	d, err := c.parse()
	if err != nil || len(d.companies) == 0 {
		return d, err
	}
	known, err := b.companyNames(ctx)
	if err != nil {
		return d, err
	}
	ids, gone, err := known.resolve(d.companies)
	switch {
	case err != nil:
		return d, &FieldError{Field: fCompanies.String(), Reason: err.Error(), Err: ErrUnknown}
	case len(gone) > 0:
		return d, &FieldError{Field: fCompanies.String(), Reason: gone[0] + " was removed", Err: ErrUnknown}
	}
	d.companies = ids
	return d, nil
}

// withLists returns the change with whole lists instead of values to add and remove.
func (b *Directory) withLists(ctx context.Context, before storedContact, c Change) (Change, error) {
	if len(c.AddEmails) > 0 || len(c.RemoveEmails) > 0 {
		if c.OtherEmails != nil {
			return c, &FieldError{Field: fOthers.String(), Reason: "either the whole list, or what is added to it and taken from it"}
		}
		main := before.Email()
		if c.Email != nil {
			a, err := address.Parse(*c.Email)
			if err != nil {
				return c, &FieldError{Field: fEmail.String(), Reason: err.Error()}
			}
			main = a
		}
		var others []string
		for _, a := range before.Emails[min(1, len(before.Emails)):] {
			others = append(others, string(a))
		}
		for _, text := range c.AddEmails {
			others = append(others, text)
		}
		for _, text := range c.RemoveEmails {
			a, err := address.Parse(text)
			if err != nil {
				return c, &FieldError{Field: fOthers.String(), Reason: err.Error()}
			}
			i := slices.Index(others, string(a))
			switch {
			case a == main:
				return c, &FieldError{Field: fOthers.String(), Reason: fmt.Sprintf("%s is the main address; give the contact another one in its place", a)}
			case i < 0:
				return c, &FieldError{Field: fOthers.String(), Reason: fmt.Sprintf("%s is none of the contact's addresses", a)}
			}
			others = slices.Delete(others, i, i+1)
		}
		c.OtherEmails, c.AddEmails, c.RemoveEmails = &others, nil, nil
	}
	if len(c.AddCompanies) == 0 && len(c.RemoveCompanies) == 0 {
		return c, nil
	}
	if c.Companies != nil {
		return c, &FieldError{Field: fCompanies.String(), Reason: "either the whole list, or what is added to it and taken from it"}
	}
	known, err := b.companyNames(ctx)
	if err != nil {
		return c, err
	}
	gone, _, err := known.resolve(c.RemoveCompanies)
	if err != nil {
		return c, &FieldError{Field: fCompanies.String(), Reason: err.Error(), Err: ErrUnknown}
	}
	companies := append(slices.Clone(before.Companies), c.AddCompanies...)
	for i, id := range gone {
		if !slices.Contains(before.Companies, id) {
			return c, &FieldError{Field: fCompanies.String(), Reason: fmt.Sprintf("the contact doesn't belong to %s", c.RemoveCompanies[i])}
		}
		companies = slices.DeleteFunc(companies, func(have string) bool { return have == id })
	}
	c.Companies, c.AddCompanies, c.RemoveCompanies = &companies, nil, nil
	return c, nil
}

// checkStaffChange refuses a change that the Caddyfile's staff list would override.
func (b *Directory) checkStaffChange(before storedContact, d edit) error {
	i := slices.IndexFunc(before.Emails, b.isStaff)
	switch {
	case i < 0:
		return nil
	case d.disabled == yes:
		return staffError(fDisabled, before.Emails[i])
	case d.has.has(fRole) && d.role != Staff:
		return staffError(fRole, before.Emails[i])
	}
	return b.checkStaffAddresses(before.Emails, before.edited(d, true).Emails)
}

// checkStaffAddresses refuses to take an address of the Caddyfile's staff from its contact.
func (b *Directory) checkStaffAddresses(before, after []address.Address) error {
	for _, a := range subtract(before, after) {
		if b.isStaff(a) {
			return staffError(fEmail, a)
		}
	}
	return nil
}

func staffError(f field, a address.Address) error {
	return &FieldError{Field: f.String(), Reason: fmt.Sprintf("%s is under staff in the Caddyfile, which takes precedence", a), Err: ErrStaff}
}

// manualOps returns the Ops of a manual change. Addresses that a contact loses get a tombstone;
// addresses that it gains lose theirs.
func (b *Directory) manualOps(ctx context.Context, before, after *storedContact) ([]store.Op, error) {
	if err := b.checkClientsOnly(ctx, before, after); err != nil {
		return nil, err
	}
	var had, has []address.Address
	if before != nil {
		had = before.Emails
	}
	if after != nil {
		has = after.Emails
	}
	ops, err := b.Passwords.afterManualChange(ctx, before, after)
	if err != nil {
		return nil, err
	}
	ops = append(ops, b.contactOps(before, after, nil)...)
	if revokesAccess(before, after) {
		ops = append(ops, b.pendingRevocation(before.ID))
	}
	for i, a := range has {
		id, err := b.contactIDByEmail(ctx, a)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		if err == nil && id != after.ID {
			return nil, &FieldError{Field: min(field(i), fOthers).String(), Reason: string(a) + " belongs to another contact", Err: ErrTaken}
		}
	}
	for _, a := range subtract(has, had) {
		for _, mac := range b.emailMACs(a) {
			ops = append(ops, store.Delete(b.key(bucketRemoved, removedEmail+mac)))
		}
	}
	for _, a := range subtract(had, has) {
		id := removedEmail + b.emailMACs(a)[0]
		ops = append(ops, store.Put(b.key(bucketRemoved, id), b.seal(bucketRemoved, id, tombstone{Name: string(a), At: b.now()}), time.Time{}))
	}
	return ops, nil
}
