package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
)

// MaxImport is how large a file may be, in bytes.
const MaxImport = 256 << 20

const (
	firstRows = 100              // that an answer lists
	replans   = 3                // tries against a book that others change meanwhile
	tellEvery = time.Second / 10 // so often the progress is told
	ndjson    = "application/x-ndjson"
)

// Imported says what an import did, or would do.
type Imported struct {
	Kind          directory.Kind            `json:"kind"`
	DryRun        bool                      `json:"dry_run"`
	Added         Tally[directory.Entry]    `json:"added"`
	Changed       Tally[directory.Entry]    `json:"changed"`                  // what loses a value comes first
	Unchanged     Tally[directory.Entry]    `json:"unchanged"`                // counted alone
	Kept          Tally[directory.Kept]     `json:"kept"`                     // as somebody's hand has left it, whatever the file says
	Skipped       Tally[directory.RowError] `json:"skipped,omitzero"`         // bad rows that were left out on request
	Warnings      Tally[directory.RowError] `json:"warnings,omitzero"`        // what may be wrong with rows that were taken
	LoseCompanies int                       `json:"lose_companies,omitempty"` // contacts who belong to no company any more
	SessionsEnded int                       `json:"sessions_ended"`           // of contacts that were disabled or lost an address
}

// Tally is how many there are, and the first of them.
type Tally[T any] struct {
	Count int `json:"count"`
	First []T `json:"first,omitempty"` // up to a hundred, in the order of the file
}

func tally[T any](all []T) Tally[T] { return Tally[T]{len(all), all[:min(len(all), firstRows)]} }

// losersFirst returns the entries with those before the others that lose a value, since
// the first are all that is shown of a long list.
func losersFirst(all []directory.Entry) []directory.Entry {
	rank := func(e directory.Entry) int {
		if len(e.Emptied) > 0 {
			return 0
		}
		return 1
	}
	return slices.SortedStableFunc(slices.Values(all), func(a, b directory.Entry) int { return rank(a) - rank(b) })
}

// Progress is how much of an import is written.
type Progress struct {
	Done  int `json:"done"`
	Total int `json:"total"`
}

// importLine is one line of an answer in ndjson.
type importLine struct {
	Progress *Progress `json:"progress,omitempty"`
	Result   *Imported `json:"result,omitempty"`
	*Error
}

// importFile takes a CSV file: reads it whole, plans, and applies.
func (h *Handler) importFile(kind directory.Kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer := &importAnswer{w: w, lines: strings.Contains(r.Header.Get("Accept"), ndjson)}
		f, err := h.firm(r)
		var out Imported
		if err == nil {
			out, err = f.importFrom(r, w, kind, answer.progress)
		}
		switch {
		case err == nil:
			if !out.DryRun {
				f.note(r.Context(), By{Who: "admin"}, actionOf(r), audit.Event{Count: out.Added.Count + out.Changed.Count})
			}
			answer.result(out)
		case answer.begun:
			answer.line(importLine{Error: ErrorOf(err)})
		default:
			h.fail(w, r, err)
		}
	}
}

func (f Firm) importFrom(r *http.Request, w http.ResponseWriter, kind directory.Kind, progress func(done, total int)) (Imported, error) {
	if err := checkType(r, "text/csv"); err != nil {
		return Imported{}, err
	}
	dry, options := false, directory.ImportOptions{}
	for name, to := range map[string]*bool{"dry_run": &dry, "ignore_columns": &options.IgnoreColumns, "skip_bad_rows": &options.SkipBadRows} {
		if s := r.URL.Query().Get(name); s != "" {
			var err error
			if *to, err = strconv.ParseBool(s); err != nil {
				return Imported{}, &Error{Status: 400, Code: "invalid", Field: name, Reason: fmt.Sprintf("%q is neither true nor false", s)}
			}
		}
	}
	for _, s := range r.URL.Query()["column"] {
		from, to, found := cutLast(s, "=")
		if !found || from == "" || to == "" {
			return Imported{}, &Error{Status: 400, Code: "invalid", Field: "column", Reason: fmt.Sprintf("%q isn't NAME=COLUMN", s), Remedy: "write the file's name of the column, = and ours, such as Client=companies"}
		}
		if options.Columns == nil {
			options.Columns = map[string]string{}
		}
		options.Columns[from] = to
	}
	if r.ContentLength > MaxImport {
		return Imported{}, &http.MaxBytesError{Limit: MaxImport}
	}
	patient(w)
	plan, err := f.Directory.Planner(http.MaxBytesReader(w, r.Body, MaxImport), kind, options)
	if err != nil {
		return Imported{}, err
	}
	return f.carryOut(r.Context(), plan, dry, progress)
}

// cutLast is strings.Cut at the last separator.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// patient takes the server's time limit from a body that may take long: Caddy's admin
// server reads none for more than ten seconds. A connection that has no limit to take
// away needs none.
func patient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

func (f Firm) carryOut(ctx context.Context, plan func(context.Context) (directory.Plan, error), dry bool, progress func(done, total int)) (out Imported, err error) {
	for range replans {
		p, err := plan(ctx)
		if err != nil {
			return Imported{}, err
		}
		out = Imported{Kind: p.Kind, DryRun: dry, Added: tally(p.Added), Changed: tally(losersFirst(p.Changed)), Kept: tally(p.Kept)}
		out.Unchanged.Count = p.Unchanged
		out.Skipped, out.Warnings = tally(p.Skipped), tally(p.Warnings)
		out.Skipped.Count = p.SkippedCount
		out.LoseCompanies = p.WithoutCompanies()
		if dry {
			return out, nil
		}
		if err = f.Directory.Apply(ctx, p, progress); errors.Is(err, directory.ErrConflict) {
			continue
		} else if err != nil {
			return Imported{}, err
		}
		out.SessionsEnded, err = f.EndAccess(ctx, p.AccessRevoked()...)
		return out, err
	}
	return Imported{}, directory.ErrConflict
}

// importAnswer writes the answer to an import, as lines or as one object.
type importAnswer struct {
	w     http.ResponseWriter
	lines bool
	begun bool
	told  time.Time
}

func (a *importAnswer) progress(done, total int) {
	if !a.lines || time.Since(a.told) < tellEvery && done < total {
		return
	}
	a.told = time.Now()
	a.line(importLine{Progress: &Progress{done, total}})
}

func (a *importAnswer) result(out Imported) {
	if !a.lines {
		writeJSON(a.w, http.StatusOK, out)
		return
	}
	a.line(importLine{Result: &out})
}

func (a *importAnswer) line(l importLine) {
	if !a.begun {
		a.begun = true
		a.w.Header().Set("Content-Type", ndjson)
		a.w.Header().Set("Cache-Control", "no-store")
	}
	json.NewEncoder(a.w).Encode(l) // nobody listens any more: the request's context ends it
	_ = http.NewResponseController(a.w).Flush()
}
