package directory

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Report is what came of loading a file.
type Report struct {
	Kind      Kind
	Skipped   bool // the file is the one that was loaded last
	Added     int
	Changed   int
	Unchanged int
	Kept      []Kept   // what the file says, and what stays otherwise by hand
	Losers    []string // ids of contacts whom it has taken an address or the permission from
}

// LoadFile brings the book up to a CSV file of contacts or companies: a row replaces
// what it names, nothing is deleted, and what was removed or disabled by hand stays so.
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
	last, err := b.get(ctx, bucketLoad, string(kind))
	switch {
	case err == nil && slices.Contains(b.fileMACs(hash.Sum(nil)), string(last.Value[1:])):
		return Report{Kind: kind, Skipped: true}, nil
	case err != nil && !errors.Is(err, ErrUnknown):
		return Report{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Report{}, err
	}
	// What is remembered is what was read now: the file may have changed since.
	hash.Reset()
	read := io.TeeReader(f, hash)
	plan, err := b.Planner(read, kind)
	if err != nil {
		return Report{}, err
	}
	if _, err := io.Copy(io.Discard, read); err != nil {
		return Report{}, err
	}
	mark := store.Put(b.key(bucketLoad, string(kind)), append([]byte{format}, b.fileMACs(hash.Sum(nil))[0]...), time.Time{})
	for range 5 {
		p, err := plan(ctx)
		if err != nil {
			return Report{}, err
		}
		err = b.apply(ctx, p, progress, mark)
		if errors.Is(err, ErrConflict) {
			continue
		}
		return Report{kind, false, len(p.Added), len(p.Changed), p.Unchanged, p.Kept, p.Losers()}, err
	}
	return Report{}, ErrConflict
}

// Planner reads a file and returns what makes a plan of its import for the book as it is
// at that moment. Bad rows are that function's *RowErrors: those that can't be read, and
// among the others those that the book can't take, so that all are seen at once.
func (b *Book) Planner(r io.Reader, kind Kind) (func(context.Context) (Plan, error), error) {
	var plan func(context.Context) (Plan, error)
	var err error
	switch kind {
	case Contacts:
		var rows []ContactRow
		rows, err = ReadContacts(r)
		plan = func(ctx context.Context) (Plan, error) { return b.PlanContacts(ctx, rows) }
	case Companies:
		var rows []CompanyRow
		rows, err = ReadCompanies(r)
		plan = func(ctx context.Context) (Plan, error) { return b.PlanCompanies(ctx, rows) }
	default:
		return nil, fmt.Errorf("%q is neither %s nor %s", kind, Contacts, Companies)
	}
	var unread *RowErrors
	if !errors.As(err, &unread) {
		return plan, err
	}
	return func(ctx context.Context) (Plan, error) {
		_, err := plan(ctx)
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
		return Plan{}, all.orNil()
	}, nil
}

// fileMACs are a file's mark under each key. A plain hash would tell who has a copy of
// the store whether a guessed file, of one contact perhaps, is the one.
func (b *Book) fileMACs(hash []byte) []string {
	return b.Keys.MACs("file", b.Firm, hex.EncodeToString(hash))
}
