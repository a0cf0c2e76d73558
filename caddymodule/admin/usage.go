package admin

import (
	"context"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

// UsageList is one page of companies whose old links are still used, by id.
type UsageList struct {
	CountedSince time.Time      `json:"counted_since,omitzero"` // uses before aren't known
	Companies    []CompanyUsage `json:"companies"`              // those with old links, or with a use
	Next         string         `json:"next,omitempty"`         // where the next page begins; "": there is none
}

// CompanyUsage is a company with the use of its old links.
type CompanyUsage struct {
	CompanyInfo
	Used
}

// Used says how old links were used.
type Used struct {
	Recent usage.Sum `json:"recent"` // of the last 90 days
	Ever   usage.Sum `json:"ever"`
	First  time.Time `json:"first_used,omitzero"`
	Last   time.Time `json:"last_used,omitzero"` // zero: never
}

func usedOf(u usage.Usage) Used { return Used{u.Recent, u.Ever, u.First, u.Last} }

func (f Firm) LegacyUsage(ctx context.Context, in ListRequest) (UsageList, error) {
	page, err := f.ListCompanies(ctx, in)
	if err != nil {
		return UsageList{}, err
	}
	out := UsageList{Companies: []CompanyUsage{}, Next: page.Next}
	if out.CountedSince, err = f.Usage.Since(ctx); err != nil || len(page.Companies) == 0 {
		return out, err
	}
	last := page.Companies[len(page.Companies)-1].ID
	used := map[string]usage.Usage{}
	err = f.Usage.From(ctx, in.After, func(company string, u usage.Usage) bool {
		if company <= last {
			used[company] = u
		}
		return company < last
	})
	if err != nil {
		return UsageList{}, err
	}
	for _, c := range page.Companies {
		u, found := used[c.ID]
		if found || c.LegacyLinks > 0 {
			out.Companies = append(out.Companies, CompanyUsage{c, usedOf(u)})
		}
	}
	return out, nil
}

// addUsage says of an upgrade that is only tried how the old links were used of whom it is about.
func addUsage(ctx context.Context, f Firm, out *Upgraded) (err error) {
	if out.CountedSince, err = f.Usage.Since(ctx); err != nil {
		return err
	}
	about := make(map[string]*UpgradedCompany, len(out.Changed)+len(out.Refused))
	for _, list := range [][]UpgradedCompany{out.Changed, out.Refused} {
		for i := range list {
			list[i].Used = new(Used)
			about[list[i].ID] = &list[i]
		}
	}
	return f.Usage.All(ctx, func(company string, u usage.Usage) bool {
		if one := about[company]; one != nil {
			*one.Used = usedOf(u)
		}
		return true
	})
}
