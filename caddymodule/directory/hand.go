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

// What is done by hand, one contact or company at a time.

// AddContact adds a contact with the main address email. Somebody who was removed by
// hand may be added again, and is a new contact. A *FieldError says what can't be, with
// ErrTaken where an address is another contact's.
func (b *Book) AddContact(ctx context.Context, email address.Address, c Change) (Contact, error) {
	var after entry
	err := b.change(ctx, func() ([]store.Op, error) {
		whole, err := b.withLists(ctx, entry{}, c)
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
		after = entry{Contact: Contact{ID: b.newID(0), Role: Client}}.edited(d, true)
		return b.opsByHand(ctx, nil, &after)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.view(after), nil
}

// SetContact changes the contact that has the address email and returns it as it is
// now. ErrUnknown: there is none; else as AddContact.
func (b *Book) SetContact(ctx context.Context, email address.Address, c Change) (Contact, error) {
	var after entry
	err := b.change(ctx, func() ([]store.Op, error) {
		before, err := b.find(ctx, email)
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
		if err := b.staffStays(before, d); err != nil {
			return nil, err
		}
		after = before.edited(d, true)
		if len(differences(&before, &after)) == 0 {
			return nil, nil
		}
		return b.opsByHand(ctx, &before, &after)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.view(after), nil
}

// Disable keeps the contact that has the address email from signing in, until Enable;
// no file undoes it. Disabling a disabled one changes nothing.
func (b *Book) Disable(ctx context.Context, email address.Address) (Contact, error) {
	disabled := true
	return b.SetContact(ctx, email, Change{Disabled: &disabled})
}

// Enable lets the contact that has the address email sign in.
func (b *Book) Enable(ctx context.Context, email address.Address) (Contact, error) {
	disabled := false
	return b.SetContact(ctx, email, Change{Disabled: &disabled})
}

// RemoveContact removes the contact that has the address email, all its addresses with
// it, and returns what was removed. No file brings them back; AddContact does, as a new
// contact without a password.
func (b *Book) RemoveContact(ctx context.Context, email address.Address) (Contact, error) {
	var before entry
	err := b.change(ctx, func() (ops []store.Op, err error) {
		if before, err = b.find(ctx, email); err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(before.Emails, b.isStaff); i >= 0 {
			return nil, staffError(fEmail, before.Emails[i])
		}
		return b.opsByHand(ctx, &before, nil)
	})
	if err != nil {
		return Contact{}, err
	}
	return b.view(before), nil
}

// AddCompany adds a company. An id that was removed by hand may be added again.
// ErrTaken, in a *FieldError, where the id or a token is another company's.
func (b *Book) AddCompany(ctx context.Context, id string, c CompanyChange) (Company, error) {
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
		born, err := b.bornUpgraded(ctx)
		if err != nil {
			return nil, err
		}
		after.Upgraded, after.Era = born(after), newEra()
		return append(b.companyOps(nil, &after, nil), store.Delete(b.key(bucketRemoved, removedCompany+id))), nil
	})
	return after, err
}

// SetCompany changes a company and returns it as it is now, or ErrUnknown; else as
// AddCompany.
func (b *Book) SetCompany(ctx context.Context, id string, c CompanyChange) (Company, error) {
	var after Company
	err := b.change(ctx, func() ([]store.Op, error) {
		before, err := b.Company(ctx, id)
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

// RemoveCompany removes a company and takes it from all its contacts, in one step; it
// returns how many they were. No file brings it back; AddCompany does.
func (b *Book) RemoveCompany(ctx context.Context, id string) (contacts int, err error) {
	err = b.change(ctx, func() ([]store.Op, error) {
		gone, err := b.Company(ctx, id)
		if err != nil {
			return nil, err
		}
		ops := b.companyOps(&gone, nil, nil)
		stone := tombstone{What: gone.Name, At: b.now(), Tokens: gone.LegacyTokens, Upgraded: gone.Upgraded}
		contacts = 0
		err = b.eachContact(ctx, "", func(e *entry) bool {
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

// RestoreCompany undoes the removal of a company: it has its name, its old links and those
// of its contacts again who are still there, and asks for sign-in if it did. It returns how
// many contacts these are. ErrUnknown: no company with this id was removed by hand; ErrTaken,
// in a *FieldError: the id or a token is another company's by now.
func (b *Book) RestoreCompany(ctx context.Context, id string) (after Company, contacts int, err error) {
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
		born, err := b.bornUpgraded(ctx)
		if err != nil {
			return nil, err
		}
		after = Company{ID: id, Name: stone.What, LegacyTokens: stone.Tokens}
		if err := b.checkTokenOwners(ctx, after); err != nil {
			return nil, err
		}
		after.Upgraded, after.Era = stone.Upgraded || born(after), newEra()
		ops := append(b.companyOps(nil, &after, nil), store.Delete(rec.Key))
		contacts = 0
		for _, member := range stone.Members {
			e, err := b.contact(ctx, member)
			if errors.Is(err, ErrUnknown) {
				continue // removed since
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

func (b *Book) editCompany(ctx context.Context, c Company, change CompanyChange) (Company, error) {
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

// checkTokenOwners refuses tokens that lead to another company.
func (b *Book) checkTokenOwners(ctx context.Context, c Company) error {
	for _, token := range c.LegacyTokens {
		switch other, err := b.tokenOwner(ctx, token); {
		case err == nil && other != c.ID:
			return &FieldError{Field: "legacy_tokens", Reason: "one is in the old links of " + other, Err: ErrTaken}
		case err != nil && !errors.Is(err, ErrUnknown):
			return err
		}
	}
	return nil
}

// parse checks a change and finds its companies.
func (b *Book) parse(ctx context.Context, c Change) (edit, error) {
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

// withLists returns the change with whole lists in the place of what is added to them and
// taken from them.
func (b *Book) withLists(ctx context.Context, before entry, c Change) (Change, error) {
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

// staffStays refuses a change that the Caddyfile would undo at the next look.
func (b *Book) staffStays(before entry, d edit) error {
	i := slices.IndexFunc(before.Emails, b.isStaff)
	switch {
	case i < 0:
		return nil
	case d.disabled == yes:
		return staffError(fDisabled, before.Emails[i])
	case d.has.has(fRole) && d.role != Staff:
		return staffError(fRole, before.Emails[i])
	}
	return b.keepsStaff(before.Emails, before.edited(d, true).Emails)
}

// keepsStaff refuses that an address of the Caddyfile's staff loses its contact.
func (b *Book) keepsStaff(before, after []address.Address) error {
	for _, a := range lacking(before, after) {
		if b.isStaff(a) {
			return staffError(fEmail, a)
		}
	}
	return nil
}

func staffError(f field, a address.Address) error {
	return &FieldError{Field: f.String(), Reason: fmt.Sprintf("%s is under staff in the Caddyfile, which has the last word", a), Err: ErrStaff}
}

// opsByHand are the records of a change by hand: addresses that a contact loses are
// remembered as removed, those it gets no longer are.
func (b *Book) opsByHand(ctx context.Context, before, after *entry) ([]store.Op, error) {
	var had, has []address.Address
	if before != nil {
		had = before.Emails
	}
	if after != nil {
		has = after.Emails
	}
	ops, err := b.Passwords.afterHand(ctx, before, after)
	if err != nil {
		return nil, err
	}
	ops = append(ops, b.contactOps(before, after, nil)...)
	if losesAccess(before, after) {
		ops = append(ops, b.endAccess(before.ID))
	}
	for i, a := range has {
		id, err := b.owner(ctx, a)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		if err == nil && id != after.ID {
			return nil, &FieldError{Field: min(field(i), fOthers).String(), Reason: string(a) + " belongs to another contact", Err: ErrTaken}
		}
	}
	for _, a := range lacking(has, had) {
		for _, mac := range b.emailMACs(a) {
			ops = append(ops, store.Delete(b.key(bucketRemoved, removedEmail+mac)))
		}
	}
	for _, a := range lacking(had, has) {
		id := removedEmail + b.emailMACs(a)[0]
		ops = append(ops, store.Put(b.key(bucketRemoved, id), b.seal(bucketRemoved, id, tombstone{What: string(a), At: b.now()}), time.Time{}))
	}
	return ops, nil
}
