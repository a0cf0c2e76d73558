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
	claimed = 10 * time.Second          // for the answer of an Apply
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if possible(k) != nil {
		return store.Record{}, s.none(ctx)
	}
	s.firms.LoadOrStore(k.Firm, nil)
	var rec store.Record
	err := s.ask(ctx, question{
		script: getScript, key: recordKey(k), args: []any{nil, base(k.Firm), member(k)},
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
// of one moment; more are read in several. After a large Apply it may have to wait until that
// is carried over.
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
		var aside bool
		err := s.ask(ctx, question{
			script: scanScript, key: indexKey(firm, bucket),
			args: []any{nil, recordKey(store.Key{Firm: firm, Bucket: bucket}), least, greatest,
				min(limit-len(found), pageRecords), s.clock().UnixMilli(), pageBytes, base(firm), bucket},
			read: func(answer []any) (err error) {
				if aside = len(answer) == 1 && answer[0] == int64(1); aside {
					return nil
				}
				page, next, err = readPage(firm, bucket, prefix, answer)
				return err
			},
		})
		if err != nil {
			return nil, err
		}
		if aside {
			if err := s.carryOver(ctx, firm); err != nil {
				return nil, err
			}
			continue
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

// Bounds of one Apply.
const (
	maxOps   = 5_000_000
	maxBytes = 2 << 30
)

// Apply implements store.Store. One of more than 500 Ops, or of a megabyte, is carried
// out in pieces, see large.go.
func (s *Store) Apply(ctx context.Context, ops ...store.Op) error {
	order := make([]*store.Op, len(ops))
	size := 0
	for i := range ops {
		order[i] = &ops[i]
		size += sizeOf(&ops[i])
	}
	slices.SortFunc(order, func(a, b *store.Op) int {
		return cmp.Or(strings.Compare(a.Key.Bucket, b.Key.Bucket), strings.Compare(a.Key.ID, b.Key.ID))
	})
	if err := validate(order); err != nil || len(ops) == 0 {
		return err
	}
	if len(ops) > maxOps || size > maxBytes {
		return fmt.Errorf("store: one Apply of %d changes in %d MiB; %d in %d MiB are the most: do it in parts", len(ops), size>>20, maxOps, maxBytes>>20)
	}
	firm := ops[0].Key.Firm
	s.firms.LoadOrStore(firm, nil)
	if len(ops) > pieceOps || len(ops) > 1 && size > pieceBytes {
		return s.applyLarge(ctx, firm, order)
	}
	args := []any{nil, s.clock().UnixMilli(), claimed.Milliseconds(), slack.Milliseconds(), forever.Milliseconds(), firm}
	return s.ask(ctx, question{
		script: applyScript, key: endingsKey(firm), args: appendOps(args, order),
		read: func(answer []any) error {
			said, err := verdict(answer)
			if err == nil && said != "done" {
				err = errMixed
			}
			return err
		},
	})
}

// verdict reads what the script says of an Apply: an error, or what it goes on with.
func verdict(answer []any) (said string, err error) {
	if len(answer) != 1 {
		return "", errMixed
	}
	switch answer[0] {
	case "done", "busy", "true":
		return answer[0].(string), nil
	case "conflict":
		return "", store.ErrConflict
	case "newer":
		return "", ErrNewer
	case "mixed":
		return "", fmt.Errorf("%w: a record lies under the key of another one", errWeird)
	default:
		return "", errMixed
	}
}

// verbs are the scripts' names of what an Op does.
var verbs = [...]string{
	store.VerbPut: "P", store.VerbCreate: "C", store.VerbReplace: "R",
	store.VerbDelete: "D", store.VerbRemove: "M", store.VerbCheck: "K",
}

// appendOps appends the ops as the scripts take them. They are in the order of their keys.
func appendOps(args []any, order []*store.Op) []any {
	for len(order) > 0 {
		bucket := order[0].Key.Bucket
		n := 1 + slices.IndexFunc(order[1:], func(op *store.Op) bool { return op.Key.Bucket != bucket })
		if n == 0 {
			n = len(order)
		}
		args = append(args, bucket, n)
		for _, op := range order[:n] {
			args = append(args, verbs[op.Verb], op.Key.ID)
			if op.Verb == store.VerbPut || op.Verb == store.VerbCreate || op.Verb == store.VerbReplace {
				args = append(args, encode(op.Key, op.Value, op.Expires))
			}
			if op.Verb == store.VerbReplace || op.Verb == store.VerbRemove || op.Verb == store.VerbCheck {
				args = append(args, op.Was)
			}
		}
		order = order[n:]
	}
	return args
}

// sizeOf is about how many bytes an Op is on its way to the server.
func sizeOf(op *store.Op) int {
	return 64 + 2*len(op.Key.ID) + len(op.Value) + len(op.Was)
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
