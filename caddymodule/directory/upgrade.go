package directory

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Upgrade says which companies' old links are to ask for sign-in from now on.
type Upgrade struct {
	Companies []string // ids or unique names; none with All
	All       bool     // all companies, including those added later
	Undo      bool     // the reverse: the old links work again without sign-in
	DryRun    bool     // change nothing
}

// UpgradeResult is the effect of an Upgrade, or of its dry run.
type UpgradeResult struct {
	Changed      []UpgradedCompany
	Refused      []UpgradedCompany // companies without a contact who may sign in
	Unchanged    int               // in that state already, or without old links to reopen
	WithoutLinks int               // those of Unchanged without old links

	Linked int // companies of the firm that have old links
	Done   int // the upgraded ones among those, after the Upgrade
}

// UpgradedCompany is a company that an Upgrade changes or refuses.
type UpgradedCompany struct {
	ID, Name string
	Contacts []string // main addresses of its contacts who may sign in; nil if refused
}

// Upgrade makes the old links of companies ask for sign-in from the next request on, or undoes
// that. A company without a contact who may sign in is refused and stays as it is, because nobody
// could reach it any more; the others are changed, all or none. An unknown company is a
// *FieldError, and nothing is changed. progress may be nil; it is called with the number of
// prepared changes, and with the total once they are written.
func (b *Directory) Upgrade(ctx context.Context, u Upgrade, progress func(done, total int)) (UpgradeResult, error) {
	if progress == nil {
		progress = func(int, int) {}
	}
	var out UpgradeResult
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
		how := changeClose
		switch {
		case u.Undo:
			if how = changeOpen; u.All && now.Any() {
				ops = append(ops, b.upgradesChange(changeOpenAll))
			}
		case u.All && !now.All:
			ops = append(ops, b.upgradesChange(changeCloseAll))
			for _, c := range out.Refused {
				ops = append(ops, b.upgradesChange(changeOpen+c.ID))
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
		return UpgradeResult{}, err
	}
	if !u.DryRun {
		progress(len(out.Changed), len(out.Changed))
	}
	return out, nil
}

// planUpgrade returns the result of u and the companies to write.
func (b *Directory) planUpgrade(ctx context.Context, u Upgrade) (out UpgradeResult, changed []Company, err error) {
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
				out.WithoutLinks++
			}
			return true
		case !u.Undo && len(members[c.ID]) == 0:
			out.Refused = append(out.Refused, one)
			return true
		}
		c.Upgraded, c.Generation, one.Contacts = !u.Undo, newRandomGeneration(), members[c.ID]
		changed, out.Changed = append(changed, c), append(out.Changed, one)
		return true
	})
	return out, changed, err
}

// count counts a company in the state after the Upgrade.
func (u *UpgradeResult) count(c Company) {
	if len(c.LegacyTokens) == 0 {
		return
	}
	u.Linked++
	if c.Upgraded {
		u.Done++
	}
}

// namedCompanies returns the ids of companies that are given by id or unique name.
func (b *Directory) namedCompanies(ctx context.Context, written []string) (map[string]bool, error) {
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

// members returns the main addresses of the contacts who may sign in, by company.
func (b *Directory) members(ctx context.Context) (map[string][]string, error) {
	members := map[string][]string{}
	err := b.eachContact(ctx, "", func(e *storedContact) bool {
		if c := b.effective(*e); !c.Disabled {
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
