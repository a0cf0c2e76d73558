package admin

import (
	"context"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// Upgrade asks that the old links of companies ask for sign-in.
type Upgrade struct {
	Companies []string `json:"companies,omitempty"` // ids or unique names; none with All
	All       bool     `json:"all,omitempty"`       // every company, also later ones
	Undo      bool     `json:"undo,omitempty"`      // old links work as ever again
	DryRun    bool     `json:"dry_run,omitempty"`   // change nothing
}

// Upgraded says what an Upgrade did, or would do.
type Upgraded struct {
	DryRun    bool              `json:"dry_run"`
	Changed   []UpgradedCompany `json:"changed"`
	Refused   []UpgradedCompany `json:"refused"` // nobody who may sign in belongs to them
	Unchanged int               `json:"unchanged"`
	Linked    int               `json:"linked"` // companies of the firm that have old links
	Done      int               `json:"done"`   // how many of those are upgraded then
}

// UpgradedCompany is one company of an Upgrade.
type UpgradedCompany struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Contacts []string `json:"contacts"` // main addresses of those who may sign in
}

func (u Upgrade) fields() (names []string) {
	if u.All {
		names = append(names, "all")
	}
	if u.Undo {
		names = append(names, "undo")
	}
	return names
}

func (u Upgraded) changed() audit.Event {
	switch {
	case u.DryRun:
		return audit.Event{}
	case len(u.Changed) == 1:
		return audit.Event{Company: u.Changed[0].ID, Count: 1}
	}
	return audit.Event{Count: len(u.Changed)}
}

func upgrade(ctx context.Context, f Firm, in Upgrade) (Upgraded, error) {
	if in.All == (len(in.Companies) > 0) {
		return Upgraded{}, &Error{Status: 400, Code: "invalid", Field: "companies", Reason: "there are either companies or all", Remedy: "name companies, or say all"}
	}
	out, err := f.Book.Upgrade(ctx, directory.Upgrade(in), nil)
	if err != nil {
		return Upgraded{}, err
	}
	return Upgraded{in.DryRun, upgradedInfo(out.Changed), upgradedInfo(out.Refused), out.Unchanged, out.Linked, out.Done}, nil
}

func upgradedInfo(all []directory.UpgradedCompany) []UpgradedCompany {
	out := make([]UpgradedCompany, len(all))
	for i, c := range all {
		out[i] = UpgradedCompany{c.ID, c.Name, c.Asked}
		if c.Asked == nil {
			out[i].Contacts = []string{}
		}
	}
	return out
}
