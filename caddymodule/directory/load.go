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

// Report is the result of loading a file.
type Report struct {
	Kind          Kind
	At            time.Time // of the load; zero with Skipped
	Skipped       bool      // the file is the same as at the last load
	Added         int
	Changed       int
	Unchanged     int
	Kept          []Kept   // differences from the file that stay because of manual changes
	MoreKept      int      // number of further ones; only from LastLoad
	AccessRevoked []string // ids of contacts who were disabled or lost an address

	WithoutCompanies int // contacts who belong to no company any more because their cell is empty

	Touched []Touched // added or changed contacts, at most maxTouched
}

// Touched is a contact that a load added or changed.
type Touched struct {
	Contact string   // changed fields; nil for a new contact
	Fields  []string // what was changed; nothing for a new one
}

// maxTouched limits Report.Touched.
const maxTouched = 100

// FileFacts are the facts about a CSV file of companies that the configuration needs.
type FileFacts struct {
	Companies map[string]bool // ids
	Tokens    bool            // some company has an old-link token
}

// CheckFile checks a CSV file by itself, without the directory. Problems in the file are a
// *RowErrors; other errors are of reading it.
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

// LoadFile brings the directory up to date with a CSV file of contacts or companies that the
// Caddyfile names. A row that differs from the last load replaces the fields it names. A row that
// is the same as at the last load leaves manual changes since then alone. Nothing is deleted.
// Either the whole file is loaded or, with an error, nothing; problems in the file are a
// *RowErrors. A file that is the same as at the last load is skipped. progress may be nil.
func (b *Directory) LoadFile(ctx context.Context, path string, kind Kind, progress func(done, total int)) (Report, error) {
	report, err := b.loadFile(ctx, path, kind, progress)
	if err != nil {
		return Report{Kind: kind}, fmt.Errorf("loading %s from %s: %w", kind, path, err)
	}
	return report, nil
}

func (b *Directory) loadFile(ctx context.Context, path string, kind Kind, progress func(done, total int)) (Report, error) {
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
	// Remember the bytes that are parsed now: the file may have changed since the first read.
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
		return Report{Kind: kind, At: b.now(), Added: len(p.Added), Changed: len(p.Changed), Unchanged: p.Unchanged, Kept: p.Kept, AccessRevoked: p.AccessRevoked(), WithoutCompanies: p.WithoutCompanies(), Touched: p.touched()}, err
	}
	return Report{}, ErrConflict
}

// loadedBefore reports whether the hash is that of the file loaded last, and whether its rows are
// remembered: earlier releases stored no rows.
func (b *Directory) loadedBefore(ctx context.Context, kind Kind, hash []byte) (same, remembered bool, err error) {
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

// filePlanner is Planner for a file of the Caddyfile: it compares each row with the last load. With
// onlyRemember it stores the rows and changes nothing else.
func (b *Directory) filePlanner(r io.Reader, kind Kind, onlyRemember bool) (func(context.Context) (Plan, error), error) {
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
		generation, err := b.generation(ctx) // before the reads that it guards
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

// Planner reads a file and returns a function that plans its import into the current directory.
// That function returns the bad rows as a *RowErrors: the unreadable ones together with those that
// conflict with the directory, so that the operator sees all of them at once. options says which
// problems to overlook.
func (b *Directory) Planner(r io.Reader, kind Kind, options ImportOptions) (func(context.Context) (Plan, error), error) {
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

type planFunc func(context.Context, []ContactRow, []CompanyRow) (Plan, error)

func (b *Directory) planner(r io.Reader, kind Kind, options ImportOptions, with planFunc) (func(context.Context) (Plan, error), error) {
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
	var unreadable *RowErrors
	if err != nil && !errors.As(err, &unreadable) {
		return nil, err
	}
	if unreadable == nil {
		unreadable = &RowErrors{}
	}
	if options.SkipBadRows && !unreadable.whole {
		return func(ctx context.Context) (Plan, error) {
			return planWithoutBad(ctx, contacts, companies, *unreadable, with)
		}, nil
	}
	return func(ctx context.Context) (Plan, error) {
		p, err := with(ctx, contacts, companies)
		all := RowErrors{Rows: slices.Clone(unreadable.Rows), More: unreadable.More}
		var rejected *RowErrors
		if errors.As(err, &rejected) {
			for _, row := range rejected.Rows {
				all.add(row.Line, row.Column, row.Reason)
			}
			all.More += rejected.More
		} else if err != nil {
			return Plan{}, err
		}
		if err := all.orNil(); err != nil {
			return Plan{}, err
		}
		return p, nil
	}, nil
}

// planWithoutBad plans without the rows that can't be imported. Leaving one out may make others
// impossible, such as a row that takes an address which the omitted row would have released; it
// therefore repeats until the rest fits.
func planWithoutBad(ctx context.Context, contacts []ContactRow, companies []CompanyRow, bad RowErrors, with planFunc) (Plan, error) {
	skipped := RowErrors{Rows: slices.Clone(bad.Rows), More: bad.More, lines: maps.Clone(bad.lines)}
	for {
		p, err := with(ctx, contacts, companies)
		var rejected *RowErrors
		if !errors.As(err, &rejected) {
			p.Skipped, p.SkippedCount = skipped.Rows, len(skipped.lines)
			slices.SortStableFunc(p.Skipped, func(a, b RowError) int { return a.Line - b.Line })
			return p, err
		}
		before := len(contacts) + len(companies)
		contacts = slices.DeleteFunc(slices.Clone(contacts), func(r ContactRow) bool { return rejected.lines[r.Line] || rejected.lines[r.edit.hashLine] })
		companies = slices.DeleteFunc(slices.Clone(companies), func(r CompanyRow) bool { return rejected.lines[r.Line] })
		if len(contacts)+len(companies) == before {
			return Plan{}, err
		}
		for _, row := range rejected.Rows {
			skipped.add(row.Line, row.Column, row.Reason)
		}
		for line := range rejected.lines {
			if skipped.lines == nil {
				skipped.lines = map[int]bool{}
			}
			skipped.lines[line] = true
		}
	}
}

// fileMACs returns the MAC of a file's hash under each key. With a plain hash, a copy of the store
// would let an attacker check a guess of the file, which may have one contact only.
func (b *Directory) fileMACs(hash []byte) []string {
	return b.Keys.MACs("file", b.Firm, hex.EncodeToString(hash))
}
