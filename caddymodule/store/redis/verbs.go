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

// TTLs on the server, for records that nobody sweeps.
const (
	slack     = 24 * time.Hour            // after the expiry of a record
	forever   = 10 * 365 * 24 * time.Hour // for records without expiry; renewed each year
	replyLife = 10 * time.Second          // of the reply to an Apply
)

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if validateKey(k) != nil {
		return store.Record{}, s.noRecord(ctx)
	}
	s.firms.LoadOrStore(k.Firm, nil)
	var rec store.Record
	err := s.do(ctx, request{
		script: getScript, key: recordKey(k), args: []any{nil, firmPrefix(k.Firm), member(k)},
		read: func(answer []any) (err error) {
			rec, err = s.readRecord(k, answer)
			return err
		},
	})
	if err != nil {
		return store.Record{}, err
	}
	return rec, nil
}

// noRecord returns the result for an invalid key: the same as for any missing record.
func (s *Store) noRecord(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return unavailable(context.Cause(ctx))
	case s.closed.Load():
		return unavailable(errClosed)
	default:
		return store.ErrNotFound
	}
}

// readRecord reads a reply with the record k.
func (s *Store) readRecord(k store.Key, answer []any) (store.Record, error) {
	if len(answer) != 1 {
		return store.Record{}, errWrongReply
	}
	if answer[0] == nil {
		return store.Record{}, store.ErrNotFound
	}
	raw, ok := answer[0].(string)
	if !ok {
		return store.Record{}, errWrongReply
	}
	rec, err := decode(k.Firm, k.Bucket, raw)
	switch {
	case err != nil:
		return store.Record{}, err
	case rec.Key != k:
		return store.Record{}, errWrongReply
	case expired(rec, s.clock()):
		return store.Record{}, store.ErrNotFound
	}
	return rec, nil
}

// Limits of one page of a Scan, which blocks the server.
const (
	pageRecords = 1000
	pageBytes   = 1 << 20
)

// Scan implements store.Store. Up to a thousand records, of a megabyte together, are a consistent
// snapshot; more are read in several pages. After a large Apply it may first have to apply the
// staged changes.
func (s *Store) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	if validateKey(store.Key{Firm: firm, Bucket: bucket, ID: "any"}) != nil {
		if err := s.noRecord(ctx); !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		return nil, nil
	}
	s.firms.LoadOrStore(firm, nil)
	least, greatest := lexRange(prefix, after)
	var found []store.Record
	for len(found) < limit {
		var page []store.Record
		var next string
		var staged bool
		err := s.do(ctx, request{
			script: scanScript, key: indexKey(firm, bucket),
			args: []any{nil, recordKey(store.Key{Firm: firm, Bucket: bucket}), least, greatest,
				min(limit-len(found), pageRecords), s.clock().UnixMilli(), pageBytes, firmPrefix(firm), bucket},
			read: func(answer []any) (err error) {
				if staged = len(answer) == 1 && answer[0] == int64(1); staged {
					return nil
				}
				page, next, err = readPage(firm, bucket, prefix, answer)
				return err
			},
		})
		if err != nil {
			return nil, err
		}
		if staged {
			if err := s.applyStaged(ctx, firm); err != nil {
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

// lexRange returns the ZRANGEBYLEX bounds of the IDs that begin with prefix and follow after.
func lexRange(prefix, after string) (least, greatest string) {
	switch {
	case after >= prefix && after != "":
		least = "(" + after
	case prefix != "":
		least = "[" + prefix
	default:
		least = "-"
	}
	// The first string after all those with the prefix: the prefix without trailing bytes 0xff,
	// with its last byte incremented.
	end := []byte(strings.TrimRight(prefix, "\xff"))
	if len(end) == 0 {
		return least, "+"
	}
	end[len(end)-1]++
	return least, "(" + string(end)
}

// readPage reads the ID to continue after ("": no more records) and the records.
func readPage(firm, bucket, prefix string, answer []any) (page []store.Record, next string, err error) {
	if len(answer) == 0 {
		return nil, "", errWrongReply
	}
	next, ok := answer[0].(string)
	if !ok {
		return nil, "", errWrongReply
	}
	for _, one := range answer[1:] {
		raw, ok := one.(string)
		if !ok {
			return nil, "", errWrongReply
		}
		rec, err := decode(firm, bucket, raw)
		if err != nil {
			return nil, "", err
		}
		if !strings.HasPrefix(rec.Key.ID, prefix) || len(page) > 0 && rec.Key.ID <= page[len(page)-1].Key.ID {
			return nil, "", errWrongReply
		}
		page = append(page, rec)
	}
	return page, next, nil
}

// Limits of one Apply.
const (
	maxOps   = 5_000_000
	maxBytes = 2 << 30
)

// Apply implements store.Store. More than 500 Ops, or more than a megabyte, are applied in pieces,
// see large.go.
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
	args := []any{nil, s.clock().UnixMilli(), replyLife.Milliseconds(), slack.Milliseconds(), forever.Milliseconds(), firm}
	return s.do(ctx, request{
		script: applyScript, key: expiryKey(firm), args: appendOps(args, order), acks: s.where.ReplicasAck,
		read: func(answer []any) error {
			said, err := readResult(answer)
			if err == nil && said != "done" {
				err = errWrongReply
			}
			return err
		},
	})
}

// readResult reads the result of a script that applies or stages Ops: an error, or how to continue.
func readResult(answer []any) (said string, err error) {
	if len(answer) != 1 {
		return "", errWrongReply
	}
	switch answer[0] {
	case "done", "busy", "true":
		return answer[0].(string), nil
	case "conflict":
		return "", store.ErrConflict
	case "newer":
		return "", ErrNewer
	case "mixed":
		return "", fmt.Errorf("%w: a record is stored under the key of another one", errMalformed)
	default:
		return "", errWrongReply
	}
}

// verbs are the scripts' names of verbs.
var verbs = [...]string{
	store.VerbPut: "P", store.VerbCreate: "C", store.VerbReplace: "R",
	store.VerbDelete: "D", store.VerbRemove: "M", store.VerbCheck: "K",
}

// appendOps appends the ops as arguments of the scripts. The ops are in key order.
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

// sizeOf returns about how many bytes an Op takes in a request.
func sizeOf(op *store.Op) int {
	return 64 + 2*len(op.Key.ID) + len(op.Value) + len(op.Was)
}

// validate rejects Ops that no engine accepts, before anything is changed. The ops are in key
// order.
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
		if err := validateKey(op.Key); err != nil {
			return err
		}
	}
	return nil
}
