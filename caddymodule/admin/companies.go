package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// CompanyList is one page of companies, by id.
type CompanyList struct {
	Companies []CompanyInfo `json:"companies"`
	Next      string        `json:"next,omitempty"` // where the next page begins; "": there is none
}

// CompanyInfo is a company. The secrets of its old links are not shown.
type CompanyInfo struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	LegacyLinks int    `json:"legacy_links"`      // how many old links lead to it
	State       string `json:"state"`             // "open": they work as ever; "upgraded": they ask for sign-in
	Version     string `json:"version,omitempty"` // of its state, for a SetCompany that is based on it
}

// AddCompany asks for a new company.
type AddCompany struct {
	ID string `json:"id"` // "": one is made of the name
	directory.CompanyChange
}

// SetCompany asks for a change of a company.
type SetCompany struct {
	ID     string                  `json:"id"`
	Change directory.CompanyChange `json:"change"`
}

// ByID names a company.
type ByID struct {
	ID string `json:"id"`
}

// CompanyChanged answers a change of a company.
type CompanyChanged struct {
	Company  CompanyInfo `json:"company"`  // as it is now, or was when it was removed
	Contacts int         `json:"contacts"` // how many contacts lost it, or have it again
}

func (c CompanyChanged) changed() audit.Event {
	return audit.Event{Company: c.Company.ID, Count: c.Contacts}
}

func (s SetCompany) fields() []string {
	s.Change.Version = ""
	return named(s.Change)
}

func (f Firm) infoOf(c directory.Company) CompanyInfo {
	return CompanyInfo{c.ID, c.Name, len(c.LegacyTokens), c.State(), f.Directory.VersionOf(c)}
}

func (f Firm) ListCompanies(ctx context.Context, in ListRequest) (CompanyList, error) {
	limit, err := in.limit()
	if err != nil {
		return CompanyList{}, err
	}
	found, err := f.Directory.Companies(ctx, in.Text, in.After, limit)
	if err != nil {
		return CompanyList{}, err
	}
	out := CompanyList{Companies: make([]CompanyInfo, len(found))}
	for i, c := range found {
		out.Companies[i] = f.infoOf(c)
	}
	if len(found) == limit {
		out.Next = found[limit-1].ID
	}
	return out, nil
}

func (f Firm) AddCompany(ctx context.Context, in AddCompany) (CompanyChanged, error) {
	if in.ID == "" && in.Name != nil {
		return f.addCompanyByName(ctx, in)
	}
	c, err := f.Directory.AddCompany(ctx, in.ID, in.CompanyChange)
	return CompanyChanged{Company: f.infoOf(c)}, err
}

// addCompanyByName adds a company with an id that is made of its name: "harbor-bakery" of "Harbor Bakery", or
// "harbor-bakery-2" if another one has that.
func (f Firm) addCompanyByName(ctx context.Context, in AddCompany) (CompanyChanged, error) {
	words := strings.FieldsFunc(strings.ToLower(*in.Name), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	id := strings.Join(words, "-")
	id = cmp.Or(strings.Trim(id[:min(len(id), maxMadeID)], "-"), "company")
	for n := 1; ; n++ {
		in.ID = id
		if n > 1 {
			in.ID = fmt.Sprintf("%s-%d", id, n)
		}
		c, err := f.Directory.AddCompany(ctx, in.ID, in.CompanyChange)
		field, _ := errors.AsType[*directory.FieldError](err)
		if field == nil || field.Field != "id" || !errors.Is(err, directory.ErrTaken) || n > maxSameName {
			return CompanyChanged{Company: f.infoOf(c)}, err
		}
	}
}

const (
	maxMadeID   = 50  // bytes of an id that is made of a name
	maxSameName = 100 // companies whose names make the same id
)

func (f Firm) SetCompany(ctx context.Context, in SetCompany) (CompanyChanged, error) {
	c, err := f.Directory.SetCompany(ctx, in.ID, in.Change)
	if errors.Is(err, directory.ErrUnknown) {
		err = f.unknownCompany(ctx, in.ID)
	}
	return CompanyChanged{Company: f.infoOf(c)}, err
}

func (f Firm) RemoveCompany(ctx context.Context, in ByID) (CompanyChanged, error) {
	c, err := f.Directory.Company(ctx, in.ID)
	out := CompanyChanged{Company: f.infoOf(c)}
	if err == nil {
		out.Contacts, err = f.Directory.RemoveCompany(ctx, in.ID)
	}
	if errors.Is(err, directory.ErrUnknown) {
		err = f.unknownCompany(ctx, in.ID)
	}
	if err != nil {
		return CompanyChanged{}, err
	}
	return out, nil
}

func (f Firm) RestoreCompany(ctx context.Context, in ByID) (CompanyChanged, error) {
	c, contacts, err := f.Directory.RestoreCompany(ctx, in.ID)
	if errors.Is(err, directory.ErrUnknown) {
		err = &Error{Status: 404, Code: "unknown", Field: "id", Reason: fmt.Sprintf("no company with the id %q was removed", in.ID), Remedy: "add it with companies add"}
	}
	return CompanyChanged{Company: f.infoOf(c), Contacts: contacts}, err
}
