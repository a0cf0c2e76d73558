package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Kind is the kind of records in a file.
type Kind string

// The kinds.
const (
	Contacts  Kind = "contacts"
	Companies Kind = "companies"
)

// Plan is the effect of an import. It was checked against the directory and is valid until the
// directory changes.
type Plan struct {
	Kind      Kind    `json:"kind"`
	Added     []Entry `json:"added"`
	Changed   []Entry `json:"changed"`
	Unchanged int     `json:"unchanged"`
	Kept      []Kept  `json:"kept"`

	Skipped      []RowError `json:"skipped,omitempty"`  // bad rows that were left out on request, at most maxRowErrors
	SkippedCount int        `json:"-"`                  // number of all of them
	Warnings     []RowError `json:"warnings,omitempty"` // likely mistakes in imported rows

	contacts        []contactWrite
	passwords       []store.Op // of contacts
	companies       []companyWrite
	clearedRemovals []store.Op // of tombstones that the file overrides
	remember        []store.Op // rows, for the next load
	generation      []byte
}

// AccessRevoked returns the ids of the contacts whom the plan disables or takes an address from.
func (p Plan) AccessRevoked() (ids []string) {
	for _, w := range p.contacts {
		if revokesAccess(w.before, &w.after) {
			ids = append(ids, w.after.ID)
		}
	}
	return ids
}

// touched returns the first contacts that the plan adds or changes.
func (p Plan) touched() (all []Touched) {
	for _, w := range p.contacts[:min(len(p.contacts), maxTouched)] {
		t := Touched{Contact: w.after.ID}
		if w.before != nil {
			t.Fields = differences(w.before, &w.after)
		}
		all = append(all, t)
	}
	return all
}

// WithoutCompanies returns the number of contacts who lose all companies by the plan.
func (p Plan) WithoutCompanies() (n int) {
	for _, e := range p.Changed {
		if slices.Contains(e.Emptied, fCompanies.String()) {
			n++
		}
	}
	return n
}

// Entry is one contact or company of a Plan.
type Entry struct {
	Line   int      `json:"line"`             // of the file
	Item   string   `json:"item"`             // main address, or company id
	Name   string   `json:"name,omitempty"`   // of the person or company
	Fields []string `json:"fields,omitempty"` // changed fields; nil for a new one

	// Emptied are the fields that lose their value, because their cell in the file is empty.
	Emptied []string `json:"emptied,omitempty"`
}

// Kept is a contact, company or value that the import leaves as it is although the file differs,
// mostly because of a manual change.
type Kept struct {
	Line   int      `json:"line"`             // of the file
	Item   string   `json:"item"`             // address or company id in the file
	Reason string   `json:"reason"`           // Removed, Disabled, ChangedByHand, PasswordOwn, PasswordsOff
	Fields []string `json:"fields,omitempty"` // with ChangedByHand: the fields that differ from the file
}

// Reasons to leave something as it is.
const (
	Removed  = "removed by hand"
	Disabled = "disabled by hand"
	// The row is the same as at the last load, and its contact or company was changed since then.
	ChangedByHand = "changed by hand"
	// Of a password_hash that isn't imported, although the rest of the row is:
	PasswordOwn  = "a password was set, used or removed here"
	PasswordsOff = "passwords are off"
)

func newPlan(k Kind) Plan {
	return Plan{Kind: k, Added: []Entry{}, Changed: []Entry{}, Kept: []Kept{}}
}

type contactWrite struct {
	before *storedContact // nil for a new one
	after  storedContact
}

type companyWrite struct {
	before *Company // nil for a new one
	after  Company
}

// PlanContacts plans the import of the rows without changing anything. Rows that conflict with the
// directory are a *RowErrors.
func (b *Directory) PlanContacts(ctx context.Context, rows []ContactRow) (Plan, error) {
	return b.planContacts(ctx, rows, nil)
}

func (b *Directory) planContacts(ctx context.Context, rows []ContactRow, last fileRows) (Plan, error) {
	generation, err := b.generation(ctx)
	if err != nil {
		return Plan{}, err
	}
	p := contactPlanner{last: last, clearRemovals: b.clearRemovals, staff: b.isStaff, newID: b.newID, check: func(string) error { return nil },
		password: func(before *storedContact, after storedContact, hash string) ([]store.Op, string, error) {
			return b.Passwords.fromFileRow(ctx, before, after, hash)
		}}
	if b.Passwords != nil && b.Passwords.Import != nil {
		p.check = b.Passwords.Check
	}
	if p.companies, err = b.companyNames(ctx); err != nil {
		return Plan{}, err
	}
	if p.owners, err = b.contactsByEmail(ctx, rows); err != nil {
		return Plan{}, err
	}
	if p.removed, err = b.removed(ctx); err != nil {
		return Plan{}, err
	}
	plan, err := p.plan(rows)
	plan.generation = generation
	return plan, err
}

// contactsByEmail returns the contacts that have any address of the rows, indexed by all their
// addresses.
func (b *Directory) contactsByEmail(ctx context.Context, rows []ContactRow) (map[address.Address]*storedContact, error) {
	wanted := make(map[address.Address]bool, len(rows))
	for _, r := range rows {
		wanted[r.Email] = true
		for _, a := range r.edit.others {
			wanted[a] = true
		}
	}
	owners := map[address.Address]*storedContact{}
	err := b.eachContact(ctx, "", func(e *storedContact) bool {
		if slices.ContainsFunc(e.Emails, func(a address.Address) bool { return wanted[a] }) {
			kept := *e
			for _, a := range kept.Emails {
				owners[a] = &kept
			}
		}
		return true
	})
	return owners, err
}

// removed returns the addresses that were removed manually.
func (b *Directory) removed(ctx context.Context) (map[address.Address]bool, error) {
	removed := map[address.Address]bool{}
	return removed, b.scan(ctx, bucketRemoved, removedEmail, "", func(rec store.Record) (bool, error) {
		var t tombstone
		err := b.open(rec, &t)
		removed[address.Address(t.Name)] = true
		return true, err
	})
}

// contactPlanner plans the changes for the rows of a file.
type contactPlanner struct {
	last          fileRows // of the file's last load; nil if there was none, or if the file isn't in the Caddyfile
	clearRemovals func([]address.Address) []store.Op
	owners        map[address.Address]*storedContact
	removed       map[address.Address]bool
	companies     *companyNames
	staff         func(address.Address) bool
	newID         func(n int) string
	check         func(hash string) error                                                              // see Passwords.Check
	password      func(*storedContact, storedContact, string) (ops []store.Op, kept string, err error) // see Passwords.fromFileRow

	out   Plan
	mains map[address.Address]bool // the email column of all rows
	bad   RowErrors
	lines map[*storedContact]int   // contacts of the directory that a row has named → its line
	freed map[address.Address]bool // addresses that their contacts lose through this file
	taken []taken                  // addresses that pass to another contact
	err   error                    // the store's
}

type taken struct {
	address address.Address
	line    int
	from    *storedContact
}

func (p *contactPlanner) plan(rows []ContactRow) (Plan, error) {
	p.out = newPlan(Contacts)
	p.lines = map[*storedContact]int{}
	p.freed = map[address.Address]bool{}
	p.mains = make(map[address.Address]bool, len(rows))
	for _, row := range rows {
		p.mains[row.Email] = true
	}
	for _, row := range rows {
		if p.planRow(row); p.err != nil {
			return Plan{}, p.err
		}
	}
	for _, t := range p.taken {
		if !p.freed[t.address] {
			p.bad.add(t.line, "", fmt.Sprintf("%s belongs to another contact, %s", t.address, t.from.Email()))
		}
	}
	return p.out, p.bad.orNil()
}

func (p *contactPlanner) planRow(row ContactRow) {
	d := row.edit
	if len(p.last) > 0 {
		key, said := row.digests()
		if p.last.same(key, said) && p.keepUnchangedRow(row) {
			return
		}
		d.overrides = p.last.changed(key, said)
	}
	if p.removed[row.Email] && !d.overrides {
		p.keep(row.Line, string(row.Email), Removed)
		return
	}
	if d.hash != "" {
		if err := p.check(d.hash); err != nil {
			p.bad.add(d.hashLine, fPassword.String(), err.Error())
			return
		}
	}
	if !p.resolve(row.Line, &d) {
		return
	}
	before := p.owners[row.Email]
	if before != nil && before.Email() != row.Email && p.mains[before.Email()] {
		before = nil // another row is for that contact; this row takes an address from it
	}
	if before == nil {
		after := storedContact{Contact: Contact{ID: p.newID(len(p.out.Added)), Role: Client}}.edited(d, false)
		p.take(row.Line, nil, after.Emails)
		p.takeHash(d, nil, after)
		p.out.Added = append(p.out.Added, Entry{Line: row.Line, Item: string(row.Email), Name: after.Name()})
		p.out.Warnings = append(p.out.Warnings, row.warnings...)
		p.out.contacts = append(p.out.contacts, contactWrite{nil, after})
		return
	}
	if line, twice := p.lines[before]; twice {
		p.bad.add(row.Line, fEmail.String(), fmt.Sprintf("%s is the same contact as in line %d; write it there, under other_emails", row.Email, line))
		return
	}
	p.lines[before] = row.Line
	after := before.edited(d, false)
	for _, a := range subtract(before.Emails, after.Emails) {
		if p.freed[a] = true; p.staff(a) {
			p.bad.add(row.Line, fOthers.String(), fmt.Sprintf("lacks %s, which the Caddyfile names under staff", a))
		}
	}
	p.take(row.Line, before, after.Emails)
	if after.disabledBy == disabledManually && d.disabled != yes {
		p.keep(row.Line, string(row.Email), Disabled)
	}
	fields := differences(before, &after)
	written := len(fields) > 0
	if p.takeHash(d, before, after) {
		fields = append(fields, fPassword.String())
	}
	if len(fields) == 0 {
		p.out.Unchanged++
		return
	}
	p.out.Changed = append(p.out.Changed, Entry{row.Line, string(row.Email), after.Name(), fields, emptied(before, &after)})
	p.out.Warnings = append(p.out.Warnings, row.warnings...)
	if written {
		p.out.contacts = append(p.out.contacts, contactWrite{before, after})
	}
}

// keepUnchangedRow handles a row that is the same as at the last load: any difference from the
// directory is a manual change and stays. It returns false if the contact doesn't exist.
func (p *contactPlanner) keepUnchangedRow(row ContactRow) bool {
	before := p.owners[row.Email]
	switch {
	case p.removed[row.Email]:
		p.keep(row.Line, string(row.Email), Removed)
		return true
	case before == nil:
		return false
	case before.disabledBy == disabledManually && row.edit.disabled != yes:
		p.keep(row.Line, string(row.Email), Disabled)
		return true
	}
	d := row.edit
	ids, _, err := p.companies.resolve(d.companies)
	if d.companies = ids; err != nil {
		d.has.drop(fCompanies)
	}
	d.others = slices.DeleteFunc(slices.Clone(d.others), func(a address.Address) bool { return p.removed[a] })
	after := before.edited(d, false)
	if fields := differences(before, &after); len(fields) > 0 {
		p.out.Kept = append(p.out.Kept, Kept{row.Line, string(row.Email), ChangedByHand, fields})
	} else {
		p.out.Unchanged++
	}
	return true
}

func (p *contactPlanner) keep(line int, item, reason string) {
	p.out.Kept = append(p.out.Kept, Kept{Line: line, Item: item, Reason: reason})
}

// takeHash plans the change of a contact's password, and reports whether they get the hash in the
// row.
func (p *contactPlanner) takeHash(d edit, before *storedContact, after storedContact) bool {
	ops, kept, err := p.password(before, after, d.hash)
	if err != nil {
		p.err = err
		return false
	}
	p.out.passwords = append(p.out.passwords, ops...)
	if kept != "" {
		p.keep(d.hashLine, string(after.Email()), kept)
	}
	return d.hash != "" && kept == "" && len(ops) > 0
}

// resolve finds the companies of a row, and leaves out companies and addresses that were removed
// manually.
func (p *contactPlanner) resolve(line int, d *edit) bool {
	ids, gone, err := p.companies.resolve(d.companies)
	if err != nil {
		p.bad.add(line, fCompanies.String(), err.Error())
		return false
	}
	d.companies = ids
	for _, company := range gone {
		p.keep(line, company, Removed)
	}
	others := make([]address.Address, 0, len(d.others))
	for _, a := range d.others {
		if p.removed[a] && !d.overrides {
			p.keep(line, string(a), Removed)
			continue
		}
		others = append(others, a)
	}
	d.others = others
	if d.overrides {
		for _, a := range append([]address.Address{d.email}, others...) {
			if p.removed[a] {
				p.out.clearedRemovals = append(p.out.clearedRemovals, p.clearRemovals([]address.Address{a})...)
			}
		}
	}
	return true
}

// take records the addresses that a contact takes from others.
func (p *contactPlanner) take(line int, to *storedContact, addresses []address.Address) {
	for _, a := range addresses {
		if from := p.owners[a]; from != nil && from != to {
			p.taken = append(p.taken, taken{a, line, from})
		}
	}
}

// PlanCompanies is PlanContacts for companies.
func (b *Directory) PlanCompanies(ctx context.Context, rows []CompanyRow) (Plan, error) {
	return b.planCompanies(ctx, rows, nil)
}

func (b *Directory) planCompanies(ctx context.Context, rows []CompanyRow, last fileRows) (Plan, error) {
	plan, bad := newPlan(Companies), RowErrors{}
	var err error
	if plan.generation, err = b.generation(ctx); err != nil {
		return plan, err
	}
	known := map[string]Company{}
	if err = b.eachCompany(ctx, "", func(c Company) bool { known[c.ID] = c; return true }); err != nil {
		return plan, err
	}
	removed := map[string]bool{}
	err = b.scan(ctx, bucketRemoved, removedCompany, "", func(rec store.Record) (bool, error) {
		removed[strings.TrimPrefix(rec.Key.ID, removedCompany)] = true
		return true, nil
	})
	if err != nil {
		return plan, err
	}
	startsUpgraded, err := b.startsUpgraded(ctx)
	if err != nil {
		return plan, err
	}
	lines := map[string]int{}
	for _, row := range rows {
		before, there := known[row.ID]
		after, fields, gone := row.edited(before)
		key, said := row.digests()
		switch {
		case removed[row.ID] && !last.changed(key, said):
			plan.Kept = append(plan.Kept, Kept{Line: row.Line, Item: row.ID, Reason: Removed})
			continue
		case there && len(fields) > 0 && last.same(key, said):
			plan.Kept = append(plan.Kept, Kept{row.Line, row.ID, ChangedByHand, fields})
			continue
		case !there:
			if removed[row.ID] {
				plan.clearedRemovals = append(plan.clearedRemovals, store.Delete(b.key(bucketRemoved, removedCompany+row.ID)))
			}
			after.Upgraded, after.Generation, after.AddedAs = startsUpgraded(after), newRandomGeneration(), newRandomGeneration()
			plan.Added = append(plan.Added, Entry{Line: row.Line, Item: row.ID, Name: displayName(after)})
		case len(fields) == 0:
			plan.Unchanged++
			continue
		default:
			plan.Changed = append(plan.Changed, Entry{row.Line, row.ID, displayName(after), fields, gone})
		}
		known[row.ID], lines[row.ID] = after, row.Line
		write := companyWrite{nil, after}
		if there {
			write.before = &before
		}
		plan.companies = append(plan.companies, write)
	}
	checkTokens(known, lines, &bad)
	plan.Warnings = append(plan.Warnings, guessabilityWarnings(rows, known)...)
	return plan, bad.orNil()
}

// displayName returns the company's name, or "" if it is only the id.
func displayName(c Company) string {
	if c.Name == c.ID {
		return ""
	}
	return c.Name
}

// edited returns the company after the row, the fields that change, and those of them that lose
// their value. A company without a name gets its id as the name.
func (r CompanyRow) edited(c Company) (after Company, fields, emptied []string) {
	after = Company{r.ID, c.Name, c.LegacyTokens, c.Upgraded, c.Generation, c.AddedAs}
	if r.hasName {
		after.Name = r.name
	}
	if after.Name == "" {
		after.Name = r.ID
	}
	if r.hasTokens {
		after.LegacyTokens = r.tokens
	}
	if after.Name != c.Name {
		fields = append(fields, "name")
		if r.name == "" {
			emptied = append(emptied, "name")
		}
	}
	if !slices.Equal(after.LegacyTokens, c.LegacyTokens) {
		fields = append(fields, "legacy_tokens")
		if len(after.LegacyTokens) == 0 {
			emptied = append(emptied, "legacy_tokens")
		}
	}
	return after, fields, emptied
}

// checkTokens records tokens that two companies would share. lines are the lines of the companies
// that the file changes.
func checkTokens(companies map[string]Company, lines map[string]int, bad *RowErrors) {
	owner := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(companies)) {
		for _, token := range companies[id].LegacyTokens {
			other, twice := owner[token]
			owner[token] = id
			if twice {
				line := max(lines[id], lines[other])
				bad.add(line, "legacy_tokens", fmt.Sprintf("%s and %s have one in common", other, id))
			}
		}
	}
}

// Apply writes all changes of a plan or, with an error, none. It returns ErrConflict if the
// directory has changed since the plan was made. progress may be nil; it is called with the number
// of prepared changes, and with total once they are written.
func (b *Directory) Apply(ctx context.Context, p Plan, progress func(done, total int)) error {
	return b.apply(ctx, p, progress)
}

func (b *Directory) apply(ctx context.Context, p Plan, progress func(done, total int), more ...store.Op) error {
	total := len(p.contacts) + len(p.companies)
	if progress == nil {
		progress = func(int, int) {}
	}
	claims := p.claims()
	ops := make([]store.Op, 0, len(more)+len(p.contacts)+len(claims)+len(p.companies)+1)
	ops = append(append(append(append(ops, more...), p.passwords...), p.clearedRemovals...), p.remember...)
	for _, id := range p.AccessRevoked() {
		ops = append(ops, b.pendingRevocation(id))
	}
	for i, w := range p.contacts {
		if i%pageSize == 0 {
			progress(i, total)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		ops = append(ops, b.contactOps(w.before, &w.after, claims)...)
	}
	tokens := p.tokens()
	for i, w := range p.companies {
		if i%pageSize == 0 {
			progress(len(p.contacts)+i, total)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		ops = append(ops, b.companyOps(w.before, &w.after, tokens)...)
	}
	if len(ops) == 0 {
		return nil
	}
	if total > 0 || len(p.passwords) > 0 || len(p.remember) > 0 {
		next := nextGeneration(p.generation)
		if k := b.key(bucketState, stateGeneration); p.generation == nil {
			ops = append(ops, store.Create(k, next, time.Time{}))
		} else {
			ops = append(ops, store.Replace(k, p.generation, next, time.Time{}))
		}
		ops = b.logChange(next, ops)
	}
	ops, err := b.stampUpgrades(ctx, ops)
	if err != nil {
		return err
	}
	ops = b.markTokens(ops)
	err = b.Store.Apply(ctx, ops...)
	b.versionCounter().Add(1)
	b.followTokens(ctx, ops)
	b.followSearch(ctx, ops)
	if failed := b.followUpgrades(ctx); err == nil && failed != nil {
		err = fmt.Errorf("the change was made, but could not be noted in the anchor outside the store: %w", failed)
	}
	b.Peers.NotifyPeers(ctx)
	switch {
	case errors.Is(err, store.ErrConflict):
		return ErrConflict
	case err != nil:
		return fmt.Errorf("writing the directory: %w", err)
	}
	progress(total, total)
	return nil
}

// claims returns the addresses that pass to contacts of the plan.
func (p Plan) claims() map[address.Address]bool {
	claims := map[address.Address]bool{}
	for _, w := range p.contacts {
		if w.before == nil {
			for _, a := range w.after.Emails {
				claims[a] = true
			}
			continue
		}
		for _, a := range subtract(w.after.Emails, w.before.Emails) {
			claims[a] = true
		}
	}
	return claims
}

// tokens returns the tokens that companies of the plan will have.
func (p Plan) tokens() map[string]bool {
	tokens := map[string]bool{}
	for _, w := range p.companies {
		for _, t := range w.after.LegacyTokens {
			tokens[t] = true
		}
	}
	return tokens
}
