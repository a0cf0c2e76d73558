package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// How long the server keeps things by itself, where nobody sweeps.
const (
	slack   = 24 * time.Hour            // after the end of a record
	forever = 10 * 365 * 24 * time.Hour // for records that stay; renewed each year
	claimed = 10 * time.Second          // for the answer of a Take or Apply
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if possible(k) != nil {
		return store.Record{}, s.none(ctx)
	}
	s.firms.LoadOrStore(k.Firm, nil)
	var rec store.Record
	err := s.ask(ctx, question{
		script: getScript, key: recordKey(k), args: []any{nil},
		read: func(answer []any) (err error) {
			rec, err = s.one(k, answer)
			return err
		},
	})
	if err != nil {
		return store.Record{}, err
	}
	return rec, nil
}

// Take implements store.Store.
func (s *Store) Take(ctx context.Context, k store.Key) (store.Record, error) {
	if possible(k) != nil {
		return store.Record{}, s.none(ctx)
	}
	s.firms.LoadOrStore(k.Firm, nil)
	var rec store.Record
	err := s.ask(ctx, question{
		script: takeScript, key: endingsKey(k.Firm),
		args: []any{nil, s.clock().UnixMilli(), claimed.Milliseconds(), k.Bucket, k.ID, name(k)},
		read: func(answer []any) (err error) {
			rec, err = s.one(k, answer)
			return err
		},
	})
	if err != nil {
		return store.Record{}, err
	}
	return rec, nil
}

// none is the answer about a key that can't be: as about any other, where nothing can be asked.
func (s *Store) none(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return unavailable(context.Cause(ctx))
	case s.closed.Load():
		return unavailable(errClosed)
	default:
		return store.ErrNotFound
	}
}

// one reads the answer about the record k.
func (s *Store) one(k store.Key, answer []any) (store.Record, error) {
	if len(answer) != 1 {
		return store.Record{}, errMixed
	}
	if answer[0] == nil {
		return store.Record{}, store.ErrNotFound
	}
	raw, ok := answer[0].(string)
	if !ok {
		return store.Record{}, errMixed
	}
	rec, err := decode(k.Firm, k.Bucket, raw)
	switch {
	case err != nil:
		return store.Record{}, err
	case rec.Key != k:
		return store.Record{}, errMixed
	case over(rec, s.clock()):
		return store.Record{}, store.ErrNotFound
	}
	return rec, nil
}

// Bounds of one page of a Scan. The server does nothing else meanwhile.
const (
	pageRecords = 1000
	pageBytes   = 1 << 20
)

// Scan implements store.Store. Up to a thousand records, of a megabyte together, are those
// of one moment; more are read in several.
func (s *Store) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if possible(store.Key{Firm: firm, Bucket: bucket, ID: "any"}) != nil {
		if err := s.none(ctx); !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		return nil, nil
	}
	s.firms.LoadOrStore(firm, nil)
	least, greatest := span(prefix, after)
	var found []store.Record
	for len(found) < limit {
		var page []store.Record
		var next string
		err := s.ask(ctx, question{
			script: scanScript, key: indexKey(firm, bucket),
			args: []any{nil, recordKey(store.Key{Firm: firm, Bucket: bucket}), least, greatest,
				min(limit-len(found), pageRecords), s.clock().UnixMilli(), pageBytes},
			read: func(answer []any) (err error) {
				page, next, err = readPage(firm, bucket, prefix, answer)
				return err
			},
		})
		if err != nil {
			return nil, err
		}
		found = append(found, page...)
		if next == "" {
			break
		}
		least = "(" + next
	}
	return found, nil
}

// span returns the bounds, as ZRANGEBYLEX has them, of the IDs that begin with prefix and
// come after the other.
func span(prefix, after string) (least, greatest string) {
	switch {
	case after >= prefix && after != "":
		least = "(" + after
	case prefix != "":
		least = "[" + prefix
	default:
		least = "-"
	}
	// The first string behind all that begin with prefix: without its last bytes 0xff,
	// one more in the last that is left.
	end := []byte(strings.TrimRight(prefix, "\xff"))
	if len(end) == 0 {
		return least, "+"
	}
	end[len(end)-1]++
	return least, "(" + string(end)
}

// readPage reads the ID to go on after, "" where there are no more, and the records.
func readPage(firm, bucket, prefix string, answer []any) (page []store.Record, next string, err error) {
	if len(answer) == 0 {
		return nil, "", errMixed
	}
	next, ok := answer[0].(string)
	if !ok {
		return nil, "", errMixed
	}
	for _, one := range answer[1:] {
		raw, ok := one.(string)
		if !ok {
			return nil, "", errMixed
		}
		rec, err := decode(firm, bucket, raw)
		if err != nil {
			return nil, "", err
		}
		if !strings.HasPrefix(rec.Key.ID, prefix) || len(page) > 0 && rec.Key.ID <= page[len(page)-1].Key.ID {
			return nil, "", errMixed
		}
		page = append(page, rec)
	}
	return page, next, nil
}

// Bounds of one Apply. The server does nothing else while it carries one out.
const (
	maxOps   = 500_000
	maxBytes = 256 << 20
)

// Apply implements store.Store. An import of half a million Ops, or of 256 MiB, is the
// largest that is accepted; it holds up all others on the server while it lasts.
func (s *Store) Apply(ctx context.Context, ops ...store.Op) error {
	order := make([]*store.Op, len(ops))
	for i := range ops {
		order[i] = &ops[i]
	}
	slices.SortFunc(order, func(a, b *store.Op) int {
		return cmp.Or(strings.Compare(a.Key.Bucket, b.Key.Bucket), strings.Compare(a.Key.ID, b.Key.ID))
	})
	if err := validate(order); err != nil || len(ops) == 0 {
		return err
	}
	firm := ops[0].Key.Firm
	s.firms.LoadOrStore(firm, nil)
	args, size := s.changes(firm, order)
	if len(ops) > maxOps || size > maxBytes {
		return fmt.Errorf("store: one Apply of %d changes in %d MiB; %d in %d MiB are the most: do it in parts", len(ops), size>>20, maxOps, maxBytes>>20)
	}
	var long time.Duration
	if len(ops) > 500 || size > 1<<20 {
		long = time.Duration(len(ops))*20*time.Microsecond + time.Duration(size>>20)*100*time.Millisecond
		args[2] = (claimed + 2*long).Milliseconds()
	}
	return s.ask(ctx, question{
		script: applyScript, key: endingsKey(firm), args: args, long: long,
		read: func(answer []any) error {
			if len(answer) != 1 {
				return errMixed
			}
			switch answer[0] {
			case "done":
				return nil
			case "conflict":
				return store.ErrConflict
			case "newer":
				return ErrNewer
			case "mixed":
				return fmt.Errorf("%w: a record lies under the key of another one", errWeird)
			default:
				return errMixed
			}
		},
	})
}

// verbs are the scripts' names of what an Op does.
var verbs = [...]string{
	store.VerbPut: "P", store.VerbCreate: "C", store.VerbReplace: "R",
	store.VerbDelete: "D", store.VerbRemove: "M", store.VerbCheck: "K",
}

// changes returns the arguments of the script, and about how many bytes they are.
func (s *Store) changes(firm string, order []*store.Op) (args []any, size int) {
	args = make([]any, 0, 8+4*len(order))
	args = append(args, nil, s.clock().UnixMilli(), claimed.Milliseconds(), slack.Milliseconds(), forever.Milliseconds(), firm)
	for len(order) > 0 {
		bucket := order[0].Key.Bucket
		n := 1 + slices.IndexFunc(order[1:], func(op *store.Op) bool { return op.Key.Bucket != bucket })
		if n == 0 {
			n = len(order)
		}
		args = append(args, bucket, n)
		for _, op := range order[:n] {
			args = append(args, verbs[op.Verb], op.Key.ID)
			size += len(op.Key.ID) + 32
			if op.Verb == store.VerbPut || op.Verb == store.VerbCreate || op.Verb == store.VerbReplace {
				raw := encode(op.Key, op.Value, op.Expires)
				args = append(args, raw)
				size += len(raw)
			}
			if op.Verb == store.VerbReplace || op.Verb == store.VerbRemove || op.Verb == store.VerbCheck {
				args = append(args, op.Was)
				size += len(op.Was)
			}
		}
		order = order[n:]
	}
	return args, size
}

// validate refuses what no engine can keep, before anything is changed. The ops are in the
// order of their keys.
func validate(order []*store.Op) error {
	for i, op := range order {
		switch k, first := op.Key, order[0].Key; {
		case op.Verb == store.VerbNone || op.Verb > store.VerbCheck:
			return fmt.Errorf("store: an Op for %q of firm %q has no verb", k.Bucket, k.Firm)
		case k.Firm != first.Firm:
			return fmt.Errorf("store: one Apply for the firms %q and %q", first.Firm, k.Firm)
		case i > 0 && k == order[i-1].Key:
			return fmt.Errorf("store: one Apply changes a record in %q of firm %q twice", k.Bucket, k.Firm)
		}
		if err := possible(op.Key); err != nil {
			return err
		}
	}
	return nil
}
