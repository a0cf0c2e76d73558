package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Upgrade is which companies' old links are to ask for sign-in from now on.
type Upgrade struct {
	Companies []string // ids or unique names; none with All
	All       bool     // all companies, and every later one
	Undo      bool     // the other way: old links open again, as they were
	DryRun    bool     // change nothing
}

// Upgraded is what an Upgrade did, or would do.
type Upgraded struct {
	Changed   []UpgradedCompany
	Refused   []UpgradedCompany // nobody who may sign in belongs to them
	Unchanged int               // that were so already, or have no old links to open again
	Linkless  int               // of Unchanged: they have no old links

	Linked int // companies of the firm that have old links
	Done   int // how many of those are upgraded then
}

// UpgradedCompany is a company whose old links ask for sign-in from now on, or as ever.
type UpgradedCompany struct {
	ID, Name string
	Asked    []string // main addresses of the contacts who will be asked; none where it is refused
}

// Upgrade makes the old links of companies ask for sign-in, with the next request, or
// undoes that. A company without a contact who may sign in is refused, since nobody could
// reach it any more, and stays as it is; the others are changed, all or none. A company
// that isn't known is a *FieldError, and nothing is changed. progress, if any, is told how
// many changes are prepared, and total when they are made.
func (b *Book) Upgrade(ctx context.Context, u Upgrade, progress func(done, total int)) (Upgraded, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	var out Upgraded
	var ops []store.Op
	err := b.change(ctx, func() (_ []store.Op, err error) {
		var changed []Company
		if out, changed, err = b.planUpgrade(ctx, u); err != nil {
			return nil, err
		}
		if u.DryRun {
			return nil, nil
		}
		now, _, err := b.upgradesNow(ctx)
		if err != nil {
			return nil, err
		}
		ops = make([]store.Op, 0, 2*len(changed)+len(out.Refused)+1)
		how := closesID
		switch {
		case u.Undo:
			if how = opensID; u.All && now.Any() {
				ops = append(ops, b.upgradesChange(opensAll))
			}
		case u.All && !now.All:
			ops = append(ops, b.upgradesChange(closesAll))
			for _, c := range out.Refused {
				ops = append(ops, b.upgradesChange(opensID+c.ID))
			}
		}
		for i, c := range changed {
			if i%pageSize == 0 {
				progress(i, len(changed))
				if err := ctx.Err(); err != nil {
					return nil, err
				}
			}
			ops = append(ops, store.Put(b.key(bucketCompany, c.ID), b.sealCompany(c), time.Time{}), b.upgradesChange(how+c.ID))
		}
		return ops, nil
	})
	if err != nil {
		return Upgraded{}, err
	}
	if !u.DryRun {
		progress(len(out.Changed), len(out.Changed))
	}
	return out, nil
}

// planUpgrade finds out what becomes of which company.
func (b *Book) planUpgrade(ctx context.Context, u Upgrade) (out Upgraded, changed []Company, err error) {
	wanted, err := b.namedCompanies(ctx, u.Companies)
	if err != nil {
		return out, nil, err
	}
	if err := b.checkUndo(u, wanted); err != nil {
		return out, nil, err
	}
	members, err := b.members(ctx)
	if err != nil {
		return out, nil, err
	}
	err = b.eachCompany(ctx, "", func(c Company) bool {
		one := UpgradedCompany{ID: c.ID, Name: c.Name}
		defer func() { out.count(c) }()
		switch {
		case !u.All && !wanted[c.ID]:
			return true
		case c.Upgraded != u.Undo, u.Undo && len(c.LegacyTokens) == 0:
			out.Unchanged++
			if len(c.LegacyTokens) == 0 {
				out.Linkless++
			}
			return true
		case !u.Undo && len(members[c.ID]) == 0:
			out.Refused = append(out.Refused, one)
			return true
		}
		c.Upgraded, c.Era, one.Asked = !u.Undo, newEra(), members[c.ID]
		changed, out.Changed = append(changed, c), append(out.Changed, one)
		return true
	})
	return out, changed, err
}

// count counts a company as it is then.
func (u *Upgraded) count(c Company) {
	if len(c.LegacyTokens) == 0 {
		return
	}
	u.Linked++
	if c.Upgraded {
		u.Done++
	}
}

// namedCompanies returns the ids of companies that are written as id or unique name.
func (b *Book) namedCompanies(ctx context.Context, written []string) (map[string]bool, error) {
	if len(written) == 0 {
		return nil, nil
	}
	known, err := b.companyNames(ctx)
	if err != nil {
		return nil, err
	}
	ids, gone, err := known.resolve(written)
	if err == nil && len(gone) > 0 {
		err = fmt.Errorf("%s was removed", gone[0])
	}
	if err != nil {
		return nil, &FieldError{Field: "companies", Reason: err.Error(), Err: ErrUnknown}
	}
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	return wanted, nil
}

// members returns the main addresses of those who may sign in, by company.
func (b *Book) members(ctx context.Context) (map[string][]string, error) {
	members := map[string][]string{}
	err := b.eachContact(ctx, "", func(e *entry) bool {
		if c := b.view(*e); !c.Disabled {
			for _, id := range c.Companies {
				members[id] = append(members[id], string(c.Email()))
			}
		}
		return true
	})
	for _, all := range members {
		slices.Sort(all)
	}
	return members, err
}
