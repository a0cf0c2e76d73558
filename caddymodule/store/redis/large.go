package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// As one script, an Apply of thousands of changes, such as an import, would block the server
// for seconds. So it is staged first, in pieces that nobody sees. Then one small script commits
// it as a whole. Then the staged changes are applied to the records, again in pieces, by any
// process. Until that is done, Get and Apply use the staged values; Scan applies them first.
//
// Its conditions are checked as each piece is staged, by the clock of its beginning. If another
// Apply changes one of its records before the commit, the large Apply ends with ErrConflict.
// For each firm only one can be staged at a time; others wait.
//
// If the process ends before the commit, nothing has happened, and the staged pieces expire
// within minutes. If it ends after the commit, others apply the changes.

const (
	pieceOps    = 500
	pieceBytes  = 1 << 20
	stagedBatch = 300 // records

	// stageTimeout is the maximum time between two pieces. After that, the process counts as
	// dead, and others needn't wait.
	stageTimeout = 20 * time.Second
	retryFor     = 15 * time.Second // with a piece, while the server doesn't reply
	busyEvery    = 50 * time.Millisecond
)

// applyLarge is Apply for many Ops, in key order.
func (s *Store) applyLarge(ctx context.Context, firm string, order []*store.Op) error {
	number, now := s.nonce(), s.clock().UnixMilli()
	buckets := "\x00"
	for i, rest := 0, order; len(rest) > 0; i++ {
		var piece []*store.Op
		piece, rest = cutPiece(rest)
		if err := s.stage(ctx, firm, number, now, i == 0, piece); err != nil {
			return err
		}
	}
	for i, op := range order {
		if i == 0 || op.Key.Bucket != order[i-1].Key.Bucket {
			buckets += op.Key.Bucket + "\x00"
		}
	}
	if err := s.commit(ctx, firm, number, len(order), buckets); err != nil {
		return err
	}
	select {
	case s.stagedFirms <- firm:
	default: // the sweeper is busy, and applies it later
	}
	return nil
}

// cutPiece returns the Ops of the next piece, and the rest.
func cutPiece(ops []*store.Op) (piece, rest []*store.Op) {
	n, size := 0, 0
	for n < len(ops) && n < pieceOps && (n == 0 || size+sizeOf(ops[n]) <= pieceBytes) {
		size += sizeOf(ops[n])
		n++
	}
	return ops[:n], ops[n:]
}

// stage stages a piece of the large Apply with the number.
func (s *Store) stage(ctx context.Context, firm, number string, now int64, first bool, piece []*store.Op) error {
	flag := "0"
	if first {
		flag = "1"
	}
	args := appendOps([]any{nil, now, number, stageTimeout.Milliseconds(), flag, firm}, piece)
	for {
		var said string
		err := s.retry(ctx, request{
			script: stageScript, key: expiryKey(firm), args: args,
			read: func(answer []any) (err error) {
				said, err = readResult(answer)
				return err
			},
		})
		if err == nil && said == "true" {
			if !first {
				return store.ErrConflict // ours counted as dead, and another one has been committed since
			}
			err = s.applyStaged(ctx, firm)
		}
		if err != nil || said == "done" {
			return err
		}
		if said == "busy" {
			select {
			case <-time.After(busyEvery):
			case <-s.life.Done():
			case <-ctx.Done():
			}
		}
	}
}

// commit commits the large Apply with the number. ops is its number of Ops; buckets lists their
// buckets, with a NUL before, between and after them.
func (s *Store) commit(ctx context.Context, firm, number string, ops int, buckets string) error {
	return s.retry(ctx, request{
		script: commitScript, key: expiryKey(firm), acks: s.where.ReplicasAck,
		args: []any{nil, number, ops, (3 * retryFor).Milliseconds(), forever.Milliseconds(), buckets},
		read: func(answer []any) error {
			_, err := readResult(answer)
			return err
		},
	})
}

// retry repeats a request for a while if there is no reply, since the server may be busy, or another
// one is about to take its place. Only idempotent requests may use it.
func (s *Store) retry(ctx context.Context, q request) error {
	for end := time.Now().Add(retryFor); ; {
		err := s.do(ctx, q)
		passes := errors.Is(err, redis.ErrPoolTimeout) || slices.Contains([]string{"TRYAGAIN", "ASK", "CLUSTERDOWN", "READONLY", "LOADING"}, kindOf(err))
		if err == nil || isReply(err) && !passes || ctx.Err() != nil || s.closed.Load() || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(probeEvery):
		case <-ctx.Done():
		case <-s.life.Done():
		}
	}
}

// applyStaged applies the rest of a firm's committed large Apply, if there is one.
func (s *Store) applyStaged(ctx context.Context, firm string) error {
	for cursor, more := "0", true; more; {
		err := s.do(ctx, request{
			script: applyStagedScript, key: expiryKey(firm),
			args: []any{nil, s.clock().UnixMilli(), slack.Milliseconds(), forever.Milliseconds(), cursor, stagedBatch},
			read: func(answer []any) error {
				if len(answer) != 2 {
					return errWrongReply
				}
				next, ok1 := answer[0].(string)
				again, ok2 := answer[1].(int64)
				if !ok1 || !ok2 {
					return errWrongReply
				}
				cursor, more = next, again == 1
				return nil
			},
		})
		if err != nil {
			return fmt.Errorf("apply staged changes: %w", err)
		}
	}
	return nil
}
