package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Report is what came of loading a file.
type Report struct {
	Kind      Kind
	At        time.Time // of the load; zero with Skipped
	Skipped   bool      // the file is the one that was loaded last
	Added     int
	Changed   int
	Unchanged int
	Kept      []Kept   // what the file says, and what stays otherwise by hand
	MoreKept  int      // how many further ones there are; only of LastLoad
	Losers    []string // ids of contacts whom it has taken an address or the permission from

	LoseCompanies int // contacts who belong to no company any more, since their cell is empty

	Touched []Touched // contacts that were added or changed, the first hundred
}

// Touched is a contact that a load added or changed.
type Touched struct {
	Contact string   // id
	Fields  []string // what was changed; nothing for a new one
}

// maxTouched is how many contacts that a load added or changed are named.
const maxTouched = 100

// FileFacts is what a configuration has to know of a CSV file of companies.
type FileFacts struct {
	Companies map[string]bool // ids
	Tokens    bool            // some company has a token of old links
}

// CheckFile reads a CSV file and reports what is wrong with it by itself, without a look at
// the directory: a *RowErrors, or why it can't be read.
func CheckFile(path string, kind Kind) (FileFacts, error) {
	f, err := os.Open(path)
	if err != nil {
		return FileFacts{}, err
	}
	defer f.Close()
	if kind != Companies {
		_, err = ReadContacts(f)
		return FileFacts{}, err
	}
	rows, err := ReadCompanies(f)
	facts := FileFacts{Companies: make(map[string]bool, len(rows))}
	for _, row := range rows {
		facts.Companies[row.ID] = true
		facts.Tokens = facts.Tokens || len(row.tokens) > 0
	}
	return facts, err
}

// LoadFile brings the book up to a CSV file of contacts or companies that the Caddyfile
// names. A row that isn't the one of the last load replaces what it names; one that is
// leaves alone what was changed, disabled or removed by hand since. Nothing is deleted.
// All of the file is loaded, or, with an error, nothing; a *RowErrors says what is wrong
// with it. A file that was loaded last time is skipped. progress may be nil.
func (b *Book) LoadFile(ctx context.Context, path string, kind Kind, progress func(done, total int)) (Report, error) {
	report, err := b.loadFile(ctx, path, kind, progress)
	if err != nil {
		return Report{Kind: kind}, fmt.Errorf("loading %s from %s: %w", kind, path, err)
	}
	return report, nil
}

func (b *Book) loadFile(ctx context.Context, path string, kind Kind, progress func(done, total int)) (Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return Report{}, err
	}
	same, remembered, err := b.loadedBefore(ctx, kind, hash.Sum(nil))
	if err != nil {
		return Report{}, err
	}
	if same && remembered {
		return Report{Kind: kind, Skipped: true}, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Report{}, err
	}
	// What is remembered is what was read now: the file may have changed since.
	hash.Reset()
	read := io.TeeReader(f, hash)
	plan, err := b.filePlanner(read, kind, same)
	if err != nil {
		return Report{}, err
	}
	if _, err := io.Copy(io.Discard, read); err != nil {
		return Report{}, err
	}
	sum := hash.Sum(nil)
	mark := store.Put(b.key(bucketLoad, string(kind)), append([]byte{format}, b.fileMACs(sum)[0]...), time.Time{})
	for try := range 5 {
		if try > 0 { // another gate may have loaded the same file
			if same, remembered, err := b.loadedBefore(ctx, kind, sum); err != nil || same && remembered {
				return Report{Kind: kind, Skipped: true}, err
			}
		}
		p, err := plan(ctx)
		if err != nil {
			return Report{}, err
		}
		err = b.apply(ctx, p, progress, mark, b.recordLoad(p))
		if errors.Is(err, ErrConflict) {
			continue
		}
		return Report{Kind: kind, At: b.now(), Added: len(p.Added), Changed: len(p.Changed), Unchanged: p.Unchanged, Kept: p.Kept, Losers: p.Losers(), LoseCompanies: p.LoseCompanies(), Touched: p.touched()}, err
	}
	return Report{}, ErrConflict
}

// loadedBefore reports whether the file with the hash is the one that was loaded last, and
// whether its rows are remembered: an earlier version of Doorpost kept none.
func (b *Book) loadedBefore(ctx context.Context, kind Kind, hash []byte) (same, remembered bool, err error) {
	last, err := b.get(ctx, bucketLoad, string(kind))
	if errors.Is(err, ErrUnknown) {
		return false, false, nil
	} else if err != nil {
		return false, false, err
	}
	_, err = b.lastLoad(ctx, kind)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return false, false, err
	}
	return slices.Contains(b.fileMACs(hash), string(last.Value[1:])), err == nil, nil
}

// filePlanner is Planner for a file of the Caddyfile. It compares each row with that of
// the last load. With onlyRemember the rows are remembered and nothing is changed.
func (b *Book) filePlanner(r io.Reader, kind Kind, onlyRemember bool) (func(context.Context) (Plan, error), error) {
	return b.planner(r, kind, ImportOptions{}, func(ctx context.Context, contacts []ContactRow, companies []CompanyRow) (Plan, error) {
		now := fileRows{}
		for _, row := range contacts {
			key, row := row.digests()
			now[key] = row
		}
		for _, row := range companies {
			key, row := row.digests()
			now[key] = row
		}
		generation, err := b.generation(ctx) // before what it guards
		if err != nil {
			return Plan{}, err
		}
		last, err := b.fileRows(ctx, kind)
		if err != nil {
			return Plan{}, err
		}
		p := newPlan(kind)
		switch {
		case onlyRemember:
			p.Unchanged = len(now)
		case kind == Companies:
			p, err = b.planCompanies(ctx, companies, last)
		default:
			p, err = b.planContacts(ctx, contacts, last)
		}
		p.generation, p.remember = generation, b.fileRowsOps(kind, last, now)
		return p, err
	})
}

// Planner reads a file and returns what makes a plan of its import for the book as it is
// at that moment. Bad rows are that function's *RowErrors: those that can't be read, and
// among the others those that the book can't take, so that all are seen at once.
// What it overlooks, options say.
func (b *Book) Planner(r io.Reader, kind Kind, options ImportOptions) (func(context.Context) (Plan, error), error) {
	if err := options.Check(kind); err != nil {
		return nil, err
	}
	return b.planner(r, kind, options, func(ctx context.Context, contacts []ContactRow, companies []CompanyRow) (Plan, error) {
		if kind == Companies {
			return b.PlanCompanies(ctx, companies)
		}
		return b.PlanContacts(ctx, contacts)
	})
}

type planning func(context.Context, []ContactRow, []CompanyRow) (Plan, error)

func (b *Book) planner(r io.Reader, kind Kind, options ImportOptions, with planning) (func(context.Context) (Plan, error), error) {
	var contacts []ContactRow
	var companies []CompanyRow
	var err error
	switch kind {
	case Contacts:
		contacts, err = readContacts(r, options)
	case Companies:
		companies, err = readCompanies(r, options)
	default:
		return nil, fmt.Errorf("%q is neither %s nor %s", kind, Contacts, Companies)
	}
	var unread *RowErrors
	if err != nil && !errors.As(err, &unread) {
		return nil, err
	}
	if unread == nil {
		unread = &RowErrors{}
	}
	if options.SkipBadRows && !unread.whole {
		return func(ctx context.Context) (Plan, error) {
			return planWithoutBad(ctx, contacts, companies, *unread, with)
		}, nil
	}
	return func(ctx context.Context) (Plan, error) {
		p, err := with(ctx, contacts, companies)
		all := RowErrors{Rows: slices.Clone(unread.Rows), More: unread.More}
		var untaken *RowErrors
		if errors.As(err, &untaken) {
			for _, row := range untaken.Rows {
				all.add(row.Line, row.Column, row.Reason)
			}
			all.More += untaken.More
		} else if err != nil {
			return Plan{}, err
		}
		if err := all.orNil(); err != nil {
			return Plan{}, err
		}
		return p, nil
	}, nil
}

// planWithoutBad plans without the rows that can't be taken. Without one of them, others
// may not fit either: an address that it would have freed.
func planWithoutBad(ctx context.Context, contacts []ContactRow, companies []CompanyRow, bad RowErrors, with planning) (Plan, error) {
	skipped := RowErrors{Rows: slices.Clone(bad.Rows), More: bad.More, lines: maps.Clone(bad.lines)}
	for {
		p, err := with(ctx, contacts, companies)
		var untaken *RowErrors
		if !errors.As(err, &untaken) {
			p.Skipped, p.SkippedCount = skipped.Rows, len(skipped.lines)
			slices.SortStableFunc(p.Skipped, func(a, b RowError) int { return a.Line - b.Line })
			return p, err
		}
		before := len(contacts) + len(companies)
		contacts = slices.DeleteFunc(slices.Clone(contacts), func(r ContactRow) bool { return untaken.lines[r.Line] || untaken.lines[r.edit.hashLine] })
		companies = slices.DeleteFunc(slices.Clone(companies), func(r CompanyRow) bool { return untaken.lines[r.Line] })
		if len(contacts)+len(companies) == before {
			return Plan{}, err
		}
		for _, row := range untaken.Rows {
			skipped.add(row.Line, row.Column, row.Reason)
		}
		for line := range untaken.lines {
			if skipped.lines == nil {
				skipped.lines = map[int]bool{}
			}
			skipped.lines[line] = true
		}
	}
}

// fileMACs are a file's mark under each key. A plain hash would tell who has a copy of
// the store whether a guessed file, of one contact perhaps, is the one.
func (b *Book) fileMACs(hash []byte) []string {
	return b.Keys.MACs("file", b.Firm, hex.EncodeToString(hash))
}
