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

// Kind is what a file is about.
type Kind string

// The kinds.
const (
	Contacts  Kind = "contacts"
	Companies Kind = "companies"
)

// Plan is what an import would do. It has been checked against the book and holds until
// the book changes.
type Plan struct {
	Kind      Kind    `json:"kind"`
	Added     []Entry `json:"added"`
	Changed   []Entry `json:"changed"`
	Unchanged int     `json:"unchanged"`
	Kept      []Kept  `json:"kept"`

	Skipped      []RowError `json:"skipped,omitempty"`  // bad rows that were left out on request, the first hundred
	SkippedCount int        `json:"-"`                  // all of them
	Warnings     []RowError `json:"warnings,omitempty"` // what may be wrong with rows that are taken

	contacts   []contactWrite
	passwords  []store.Op // of contacts
	companies  []companyWrite
	revived    []store.Op // of what was removed by hand and comes back
	remember   []store.Op // of the rows, for the next load
	generation []byte
}

// Losers are the ids of the contacts whom the plan takes an address or the permission from.
func (p Plan) Losers() (ids []string) {
	for _, w := range p.contacts {
		if losesAccess(w.before, &w.after) {
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

// LoseCompanies is how many contacts belong to no company any more by the plan.
func (p Plan) LoseCompanies() (n int) {
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
	Fields []string `json:"fields,omitempty"` // what changes; nothing for what is new

	// Emptied are those of Fields that lose their value: the file has an empty cell there.
	Emptied []string `json:"emptied,omitempty"`
}

// Kept is where a file says one thing and somebody's hand has said another: the hand
// has the last word.
type Kept struct {
	Line   int      `json:"line"`             // of the file
	Item   string   `json:"item"`             // address, or company id, as the file names it
	Reason string   `json:"reason"`           // Removed, Disabled, ChangedByHand, PasswordOwn, PasswordsOff
	Fields []string `json:"fields,omitempty"` // with ChangedByHand: in which the file differs
}

// The reasons to keep something.
const (
	Removed  = "removed by hand"
	Disabled = "disabled by hand"
	// The row says what it said at the last load, and its contact or company was changed since.
	ChangedByHand = "changed by hand"
	// Of a password_hash that isn't taken, though all else of the row is:
	PasswordOwn  = "a password was set, used or removed here"
	PasswordsOff = "passwords are off"
)

func newPlan(k Kind) Plan {
	return Plan{Kind: k, Added: []Entry{}, Changed: []Entry{}, Kept: []Kept{}}
}

type contactWrite struct {
	before *entry // nil: a new one
	after  entry
}

type companyWrite struct {
	before *Company // nil: a new one
	after  Company
}

// PlanContacts finds out what an import of the rows would do, and changes nothing. An
// error is a *RowErrors where rows don't fit what is in the book.
func (b *Book) PlanContacts(ctx context.Context, rows []ContactRow) (Plan, error) {
	return b.planContacts(ctx, rows, nil)
}

func (b *Book) planContacts(ctx context.Context, rows []ContactRow, last fileRows) (Plan, error) {
	generation, err := b.generation(ctx)
	if err != nil {
		return Plan{}, err
	}
	p := contactPlanner{last: last, revive: b.revive, staff: b.isStaff, newID: b.newID, check: func(string) error { return nil },
		password: func(before *entry, after entry, hash string) ([]store.Op, string, error) {
			return b.Passwords.fromFile(ctx, before, after, hash)
		}}
	if b.Passwords != nil && b.Passwords.Import != nil {
		p.check = b.Passwords.Check
	}
	if p.companies, err = b.companyNames(ctx); err != nil {
		return Plan{}, err
	}
	if p.owners, err = b.owners(ctx, rows); err != nil {
		return Plan{}, err
	}
	if p.removed, err = b.removed(ctx); err != nil {
		return Plan{}, err
	}
	plan, err := p.plan(rows)
	plan.generation = generation
	return plan, err
}

// owners returns the contacts that have any address of the rows, by all their addresses.
func (b *Book) owners(ctx context.Context, rows []ContactRow) (map[address.Address]*entry, error) {
	wanted := make(map[address.Address]bool, len(rows))
	for _, r := range rows {
		wanted[r.Email] = true
		for _, a := range r.edit.others {
			wanted[a] = true
		}
	}
	owners := map[address.Address]*entry{}
	err := b.eachContact(ctx, "", func(e *entry) bool {
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

// removed returns the addresses that were removed by hand.
func (b *Book) removed(ctx context.Context) (map[address.Address]bool, error) {
	removed := map[address.Address]bool{}
	return removed, b.scan(ctx, bucketRemoved, removedEmail, "", func(rec store.Record) (bool, error) {
		var t tombstone
		err := b.open(rec, &t)
		removed[address.Address(t.What)] = true
		return true, err
	})
}

// contactPlanner decides what becomes of the rows of a file.
type contactPlanner struct {
	last      fileRows // of the file's last load; nil: there was none, or it is no file of the Caddyfile
	revive    func([]address.Address) []store.Op
	owners    map[address.Address]*entry
	removed   map[address.Address]bool
	companies *companyNames
	staff     func(address.Address) bool
	newID     func(n int) string
	check     func(hash string) error                                              // see Passwords.Check
	password  func(*entry, entry, string) (ops []store.Op, kept string, err error) // see Passwords.fromFile

	out   Plan
	mains map[address.Address]bool // with which rows begin
	bad   RowErrors
	lines map[*entry]int           // contacts of the book that a row has named, and where
	freed map[address.Address]bool // by their contacts, in this file
	taken []taken                  // by contacts that didn't have them
	err   error                    // of the store
}

type taken struct {
	address address.Address
	line    int
	from    *entry
}

func (p *contactPlanner) plan(rows []ContactRow) (Plan, error) {
	p.out = newPlan(Contacts)
	p.lines = map[*entry]int{}
	p.freed = map[address.Address]bool{}
	p.mains = make(map[address.Address]bool, len(rows))
	for _, row := range rows {
		p.mains[row.Email] = true
	}
	for _, row := range rows {
		if p.row(row); p.err != nil {
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

func (p *contactPlanner) row(row ContactRow) {
	d := row.edit
	if len(p.last) > 0 {
		key, said := row.digests()
		if p.last.same(key, said) && p.leaveAlone(row) {
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
		before = nil // another row is about that contact; this one takes an address from it
	}
	if before == nil {
		after := entry{Contact: Contact{ID: p.newID(len(p.out.Added)), Role: Client}}.edited(d, false)
		p.take(row.Line, nil, after.Emails)
		p.takeHash(d, nil, after)
		p.out.Added = append(p.out.Added, Entry{Line: row.Line, Item: string(row.Email), Name: after.Name()})
		p.out.Warnings = append(p.out.Warnings, row.notes...)
		p.out.contacts = append(p.out.contacts, contactWrite{nil, after})
		return
	}
	if line, twice := p.lines[before]; twice {
		p.bad.add(row.Line, fEmail.String(), fmt.Sprintf("%s is the same contact as in line %d; write it there, under other_emails", row.Email, line))
		return
	}
	p.lines[before] = row.Line
	after := before.edited(d, false)
	for _, a := range lacking(before.Emails, after.Emails) {
		if p.freed[a] = true; p.staff(a) {
			p.bad.add(row.Line, fOthers.String(), fmt.Sprintf("lacks %s, which the Caddyfile names under staff", a))
		}
	}
	p.take(row.Line, before, after.Emails)
	if after.by == byHand && d.disabled != yes {
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
	p.out.Warnings = append(p.out.Warnings, row.notes...)
	if written {
		p.out.contacts = append(p.out.contacts, contactWrite{before, after})
	}
}

// leaveAlone is for a row that says what it said at the last load: whatever was changed
// since, was changed by hand. It returns false where nothing is there to be left alone.
func (p *contactPlanner) leaveAlone(row ContactRow) bool {
	before := p.owners[row.Email]
	switch {
	case p.removed[row.Email]:
		p.keep(row.Line, string(row.Email), Removed)
		return true
	case before == nil:
		return false
	case before.by == byHand && row.edit.disabled != yes:
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

// takeHash notes what becomes of a contact's password, and reports whether they get that
// of the row.
func (p *contactPlanner) takeHash(d edit, before *entry, after entry) bool {
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

// resolve finds the companies of a row, and leaves out what was removed by hand.
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
				p.out.revived = append(p.out.revived, p.revive([]address.Address{a})...)
			}
		}
	}
	return true
}

// take notes which addresses a contact gets from others.
func (p *contactPlanner) take(line int, to *entry, addresses []address.Address) {
	for _, a := range addresses {
		if from := p.owners[a]; from != nil && from != to {
			p.taken = append(p.taken, taken{a, line, from})
		}
	}
}

// PlanCompanies is PlanContacts for companies.
func (b *Book) PlanCompanies(ctx context.Context, rows []CompanyRow) (Plan, error) {
	return b.planCompanies(ctx, rows, nil)
}

func (b *Book) planCompanies(ctx context.Context, rows []CompanyRow, last fileRows) (Plan, error) {
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
	born, err := b.bornUpgraded(ctx)
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
				plan.revived = append(plan.revived, store.Delete(b.key(bucketRemoved, removedCompany+row.ID)))
			}
			after.Upgraded, after.Era = born(after), newEra()
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
	plan.Warnings = append(plan.Warnings, guessable(rows, known)...)
	return plan, bad.orNil()
}

// displayName is a company's name, where it has one besides its id.
func displayName(c Company) string {
	if c.Name == c.ID {
		return ""
	}
	return c.Name
}

// edited returns the company after the row, which fields changed, and which of them
// lost their value: a company without a name is called by its id.
func (r CompanyRow) edited(c Company) (after Company, fields, emptied []string) {
	after = Company{r.ID, c.Name, c.LegacyTokens, c.Upgraded, c.Era}
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

// checkTokens notes the tokens that two companies would have; lines are those of the
// companies that the file changes.
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

// Apply carries out a plan: all of it, or, with an error, nothing. It returns
// ErrConflict when the book has changed since the plan was made. progress, if any, is
// told how many of the plan's changes are prepared, and total when they are made.
func (b *Book) Apply(ctx context.Context, p Plan, progress func(done, total int)) error {
	return b.apply(ctx, p, progress)
}

func (b *Book) apply(ctx context.Context, p Plan, progress func(done, total int), more ...store.Op) error {
	total := len(p.contacts) + len(p.companies)
	if progress == nil {
		progress = func(int, int) {}
	}
	claims := p.claims()
	ops := make([]store.Op, 0, len(more)+len(p.contacts)+len(claims)+len(p.companies)+1)
	ops = append(append(append(append(ops, more...), p.passwords...), p.revived...), p.remember...)
	for _, id := range p.Losers() {
		ops = append(ops, b.endAccess(id))
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
	}
	ops, err := b.stampUpgrades(ctx, ops)
	if err != nil {
		return err
	}
	ops = b.markTokens(ops)
	err = b.Store.Apply(ctx, ops...)
	b.counter().Add(1)
	b.followTokens(ctx, ops)
	if failed := b.followUpgrades(ctx); err == nil && failed != nil {
		err = fmt.Errorf("it was changed, but what has to be known of it outside of the store couldn't be noted: %w", failed)
	}
	b.Others.Changed(ctx)
	switch {
	case errors.Is(err, store.ErrConflict):
		return ErrConflict
	case err != nil:
		return fmt.Errorf("writing the directory: %w", err)
	}
	progress(total, total)
	return nil
}

// claims are the addresses that pass to contacts of the plan.
func (p Plan) claims() map[address.Address]bool {
	claims := map[address.Address]bool{}
	for _, w := range p.contacts {
		if w.before == nil {
			for _, a := range w.after.Emails {
				claims[a] = true
			}
			continue
		}
		for _, a := range lacking(w.after.Emails, w.before.Emails) {
			claims[a] = true
		}
	}
	return claims
}

// tokens are those that companies of the plan have from now on.
func (p Plan) tokens() map[string]bool {
	tokens := map[string]bool{}
	for _, w := range p.companies {
		for _, t := range w.after.LegacyTokens {
			tokens[t] = true
		}
	}
	return tokens
}
