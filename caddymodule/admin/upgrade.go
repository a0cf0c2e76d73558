package admin

import (
	"context"
	"time"

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
	Linkless  int               `json:"linkless"` // of Unchanged: they have no old links, and ask for sign-in anyway
	Linked    int               `json:"linked"`   // companies of the firm that have old links
	Done      int               `json:"done"`     // how many of those are upgraded then

	NoLegacyLink bool `json:"no_legacy_link,omitempty"` // the Caddyfile has no legacy_link, so that old links aren't known as such

	CountedSince time.Time `json:"counted_since,omitzero"` // uses of old links before aren't known; only with DryRun
}

// UpgradedCompany is one company of an Upgrade.
type UpgradedCompany struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Contacts []string `json:"contacts"` // main addresses of those who may sign in
	*Used             // how its old links were used; only with DryRun, and not for Undo
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

func (f Firm) Upgrade(ctx context.Context, in Upgrade) (Upgraded, error) {
	if in.All == (len(in.Companies) > 0) {
		return Upgraded{}, &Error{Status: 400, Code: "invalid", Field: "companies", Reason: "there are either companies or all", Remedy: "name companies, or say all"}
	}
	out, err := f.Directory.Upgrade(ctx, directory.Upgrade(in), nil)
	if err != nil {
		return Upgraded{}, err
	}
	did := Upgraded{DryRun: in.DryRun, Changed: upgradedInfo(out.Changed), Refused: upgradedInfo(out.Refused), Unchanged: out.Unchanged, Linkless: out.WithoutLinks, Linked: out.Linked, Done: out.Done,
		NoLegacyLink: f.NoOldLinks && out.Linked > 0}
	if in.DryRun && !in.Undo && f.Usage != nil {
		err = addUsage(ctx, f, &did)
	}
	return did, err
}

func upgradedInfo(all []directory.UpgradedCompany) []UpgradedCompany {
	out := make([]UpgradedCompany, len(all))
	for i, c := range all {
		out[i] = UpgradedCompany{ID: c.ID, Name: c.Name, Contacts: c.Contacts}
		if c.Contacts == nil {
			out[i].Contacts = []string{}
		}
	}
	return out
}
