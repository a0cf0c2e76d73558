// Package migrate copies all records of a store into an empty one of any engine, so that a server goes
// on there: nobody is signed out, and links and mails that wait are kept.
//
// The copy begins with an identity that no machine trusts, and ends with one that all machines trust
// that knew the source, see anchor.BeginMove. So a server that starts on a part of a copy lets nobody
// in, and the source isn't trusted any more once a server has run on the copy.
package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// Store is a store that can list what it has.
type Store interface {
	store.Store

	// Buckets returns a Key without ID for each bucket, in any order. A bucket may be empty.
	Buckets(ctx context.Context) ([]store.Key, error)
}

// Errors of Run that callers explain.
var (
	// ErrNotEmpty: the target has records. Nothing was changed.
	ErrNotEmpty = errors.New("the target isn't empty")
	// ErrChanged: a server has changed the source meanwhile.
	ErrChanged = errors.New("the source has changed while it was copied, so a server is running on it")
	// ErrDifferent: the copy isn't equal to the source.
	ErrDifferent = errors.New("the copy is not equal to the source")
)

// Options of Run.
type Options struct {
	From, To Store
	Source   string // address of From without credentials; an interrupted Run goes on only from the same one
	Keys     *secret.Keyring
	Progress func(records int) // called after each batch; nil: no calls
}

// Result is what a Run has done.
type Result struct {
	Firms   []string `json:"firms"`
	Records int      `json:"records"` // all that were compared in the end
	Resumed bool     `json:"resumed"` // an interrupted Run was continued
}

// marker is the record of the target that tells of an unfinished Run.
var marker = store.Key{Bucket: "doorpost", ID: "moving"}

// state is the marker's value: everything before the record After has been copied.
type state struct {
	Source string
	Print  []byte // of the source's beats at the beginning
	After  store.Key
}

const (
	batch     = 500  // records of an Apply
	markEvery = 5000 // records between two states
)

// left are the buckets that the copy gets in its own way.
func left(k store.Key) bool { return k.Bucket == anchor.IdentityBucket }

// Run copies, compares, and makes the target trusted. After an error it can be called again.
func Run(ctx context.Context, o Options) (r Result, err error) {
	buckets, err := list(ctx, o.From)
	if err != nil {
		return r, fmt.Errorf("read the source: %w", err)
	}
	print, err := fingerprint(ctx, o.From, buckets)
	if err != nil {
		return r, fmt.Errorf("read the source: %w", err)
	}
	at := state{Source: o.Source, Print: print}
	if r.Resumed, err = begin(ctx, o.To, &at); err != nil {
		return r, err
	}
	for _, k := range buckets {
		if !slices.Contains(r.Firms, k.Firm) && k.Firm != "" {
			r.Firms = append(r.Firms, k.Firm)
		}
	}
	for _, firm := range r.Firms {
		if err := anchor.BeginMove(ctx, o.From, o.To, firm, o.Keys); err != nil {
			return r, fmt.Errorf("begin to move firm %s: %w", firm, err)
		}
	}
	if err := copyAll(ctx, o, buckets, at); err != nil {
		return r, err
	}
	for _, k := range buckets {
		n, err := compare(ctx, o, k)
		if err != nil {
			return r, err
		}
		r.Records += n
	}
	if now, err := fingerprint(ctx, o.From, buckets); err != nil || !bytes.Equal(now, print) {
		return r, errors.Join(ErrChanged, err)
	}
	for _, firm := range r.Firms {
		if err := anchor.FinishMove(ctx, o.To, firm, o.Keys); err != nil {
			return r, fmt.Errorf("finish moving firm %s: %w", firm, err)
		}
	}
	return r, o.To.Apply(ctx, store.Delete(marker))
}

// Copy copies all records as they are into an empty store that nobody else uses. Of records that change
// meanwhile, it copies some value that they had. It doesn't compare.
func Copy(ctx context.Context, from, to Store) error {
	buckets, err := list(ctx, from)
	if err != nil {
		return fmt.Errorf("read the source: %w", err)
	}
	for _, k := range buckets {
		if err := copyBucket(ctx, from, to, k, "", func(int, string) error { return nil }); err != nil {
			return err
		}
	}
	return nil
}

// list returns the buckets in order.
func list(ctx context.Context, s Store) ([]store.Key, error) {
	buckets, err := s.Buckets(ctx)
	slices.SortFunc(buckets, compareBuckets)
	return buckets, err
}

func compareBuckets(a, b store.Key) int {
	if c := strings.Compare(a.Firm, b.Firm); c != 0 {
		return c
	}
	return strings.Compare(a.Bucket, b.Bucket)
}

// fingerprint returns a value that changes with every change of a running server: it writes a beat soon
// after each.
func fingerprint(ctx context.Context, s Store, buckets []store.Key) ([]byte, error) {
	sum := sha256.New()
	for _, k := range buckets {
		if k.Bucket != anchor.BeatBucket && !left(k) {
			continue
		}
		recs, err := s.Scan(ctx, k.Firm, k.Bucket, "", "", batch)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			fmt.Fprintf(sum, "%q %q %q %q\n", rec.Key.Firm, rec.Key.Bucket, rec.Key.ID, rec.Value)
		}
	}
	return sum.Sum(nil), nil
}

// begin checks that the target is empty, or has the beginning of the same copy, and marks it. at gets
// where to go on.
func begin(ctx context.Context, to Store, at *state) (resumed bool, err error) {
	buckets, err := list(ctx, to)
	if err != nil {
		return false, fmt.Errorf("read the target: %w", err)
	}
	rec, err := to.Get(ctx, marker)
	switch {
	case errors.Is(err, store.ErrNotFound):
		for _, k := range buckets {
			if recs, err := to.Scan(ctx, k.Firm, k.Bucket, "", "", 1); err != nil {
				return false, fmt.Errorf("read the target: %w", err)
			} else if len(recs) > 0 {
				return false, fmt.Errorf("%w: it has records of firm %q", ErrNotEmpty, k.Firm)
			}
		}
	case err != nil:
		return false, fmt.Errorf("read the target: %w", err)
	default:
		var was state
		if err := json.Unmarshal(rec.Value, &was); err != nil || was.Source != at.Source {
			return false, fmt.Errorf("%w: it has a part of a copy of %s", ErrNotEmpty, was.Source)
		}
		if bytes.Equal(was.Print, at.Print) {
			*at = was
			return true, nil
		}
		for _, k := range buckets { // the source has changed since: begin again
			if k.Firm == marker.Firm && k.Bucket == marker.Bucket {
				continue
			}
			if _, err := store.Clear(ctx, to, k.Firm, k.Bucket); err != nil {
				return false, fmt.Errorf("empty the target: %w", err)
			}
		}
	}
	return false, mark(ctx, to, *at)
}

func mark(ctx context.Context, to Store, at state) error {
	value, err := json.Marshal(at)
	if err == nil {
		err = to.Apply(ctx, store.Put(marker, value, time.Time{}))
	}
	if err != nil {
		return fmt.Errorf("write to the target: %w", err)
	}
	return nil
}

// copyAll copies the buckets' records that follow at.
func copyAll(ctx context.Context, o Options, buckets []store.Key, at state) error {
	copied, marked := 0, 0
	start := at.After
	for _, k := range buckets {
		if left(k) || compareBuckets(k, start) < 0 {
			continue
		}
		after := ""
		if compareBuckets(k, start) == 0 {
			after = start.ID
		}
		err := copyBucket(ctx, o.From, o.To, k, after, func(records int, last string) error {
			copied += records
			if o.Progress != nil {
				o.Progress(copied)
			}
			if copied-marked < markEvery {
				return nil
			}
			marked = copied
			at.After = store.Key{Firm: k.Firm, Bucket: k.Bucket, ID: last}
			return mark(ctx, o.To, at)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// copyBucket copies a bucket's records whose IDs follow after. It calls done after each batch.
func copyBucket(ctx context.Context, from, to Store, k store.Key, after string, done func(records int, last string) error) error {
	for {
		recs, err := from.Scan(ctx, k.Firm, k.Bucket, "", after, batch)
		if err != nil {
			return fmt.Errorf("read the source: %w", err)
		}
		if len(recs) == 0 {
			return nil
		}
		after = recs[len(recs)-1].Key.ID
		ops := make([]store.Op, 0, len(recs))
		for _, rec := range recs {
			if rec.Key != marker {
				ops = append(ops, store.Put(rec.Key, rec.Value, rec.Expires))
			}
		}
		if err := to.Apply(ctx, ops...); err != nil {
			return fmt.Errorf("write to the target: %w", err)
		}
		if err := done(len(recs), after); err != nil {
			return err
		}
	}
}

// compare compares a bucket's records, and returns their number.
func compare(ctx context.Context, o Options, k store.Key) (n int, err error) {
	if left(k) {
		return 0, nil
	}
	after := ""
	for {
		recs, err := o.From.Scan(ctx, k.Firm, k.Bucket, "", after, batch)
		if err != nil {
			return n, fmt.Errorf("read the source: %w", err)
		}
		copies, err := o.To.Scan(ctx, k.Firm, k.Bucket, "", after, batch+1) // the marker may be among them
		if err != nil {
			return n, fmt.Errorf("read the target: %w", err)
		}
		isMarker := func(rec store.Record) bool { return rec.Key == marker }
		recs, copies = slices.DeleteFunc(recs, isMarker), slices.DeleteFunc(copies, isMarker)
		if len(recs) == 0 && len(copies) == 0 {
			return n, nil
		}
		if len(recs) == 0 || len(copies) < len(recs) {
			return n, fmt.Errorf("%w: %d records of %q of firm %q, not %d", ErrDifferent, len(copies), k.Bucket, k.Firm, len(recs))
		}
		for i, rec := range recs {
			if c := copies[i]; c.Key != rec.Key || !bytes.Equal(c.Value, rec.Value) || !c.Expires.Equal(rec.Expires) {
				return n, fmt.Errorf("%w: a record of %q of firm %q", ErrDifferent, k.Bucket, k.Firm)
			}
		}
		n += len(recs)
		after = recs[len(recs)-1].Key.ID
	}
}
