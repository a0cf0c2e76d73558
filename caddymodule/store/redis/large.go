package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// An Apply of thousands of changes, such as an import, would hold up everybody on the server
// for seconds if it were one script. So it is laid aside first, piece by piece, where nobody
// sees it; then one small script has all of it be true in one moment; and then it is carried
// over to the records, piece by piece, by whoever comes by. Until that is done, a Get of such a
// record or another Apply goes by what lies aside; a Scan carries all of it over first.
//
// Its conditions are judged as each piece is laid aside, by the clock of when it began. Who
// changes one of its records before it is true has the right of way, and it ends with
// ErrConflict. Of each firm one at a time is laid aside; another waits for it.
//
// Where the process dies before that moment, nothing has happened, and what lies aside is gone
// minutes later; where it dies after it, everything has, and others carry it over.

const (
	pieceOps   = 500
	pieceBytes = 1 << 20
	carryAtA   = 300 // records

	// asidePause is how long after a piece the next has to come: else the process is taken
	// for dead, and others needn't wait.
	asidePause = 20 * time.Second
	insistFor  = 15 * time.Second // with a piece, while the server doesn't answer
	busyEvery  = 50 * time.Millisecond
)

// applyLarge is Apply for many Ops, in the order of their keys.
func (s *Store) applyLarge(ctx context.Context, firm string, order []*store.Op) error {
	number, now := s.nonce(), s.clock().UnixMilli()
	buckets := "\x00"
	for i, rest := 0, order; len(rest) > 0; i++ {
		var piece []*store.Op
		piece, rest = cutPiece(rest)
		if err := s.layAside(ctx, firm, number, now, i == 0, piece); err != nil {
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
	case s.aside <- firm:
	default: // it is busy with another, and comes by in a while
	}
	return nil
}

// cutPiece returns as many Ops as are laid aside at a time, and the rest.
func cutPiece(ops []*store.Op) (piece, rest []*store.Op) {
	n, size := 0, 0
	for n < len(ops) && n < pieceOps && (n == 0 || size+sizeOf(ops[n]) <= pieceBytes) {
		size += sizeOf(ops[n])
		n++
	}
	return ops[:n], ops[n:]
}

// layAside lays aside a piece of the large Apply of that number.
func (s *Store) layAside(ctx context.Context, firm, number string, now int64, first bool, piece []*store.Op) error {
	flag := "0"
	if first {
		flag = "1"
	}
	args := appendOps([]any{nil, now, number, asidePause.Milliseconds(), flag, firm}, piece)
	for {
		var said string
		err := s.insist(ctx, question{
			script: asideScript, key: endingsKey(firm), args: args,
			read: func(answer []any) (err error) {
				said, err = verdict(answer)
				return err
			},
		})
		if err == nil && said == "true" {
			if !first {
				return store.ErrConflict // ours was taken for dead, and another one has been true since
			}
			err = s.carryOver(ctx, firm)
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

// commit has the large Apply of that number be true, of so many Ops in those buckets, with a
// NUL before, between and behind them.
func (s *Store) commit(ctx context.Context, firm, number string, ops int, buckets string) error {
	return s.insist(ctx, question{
		script: commitScript, key: endingsKey(firm),
		args: []any{nil, number, ops, (3 * insistFor).Milliseconds(), forever.Milliseconds(), buckets},
		read: func(answer []any) error {
			_, err := verdict(answer)
			return err
		},
	})
}

// insist asks again for a while where there is no answer: of a thousand questions one may find
// the server busy. Whatever is asked again here does nothing twice.
func (s *Store) insist(ctx context.Context, q question) error {
	for end := time.Now().Add(insistFor); ; {
		err := s.ask(ctx, q)
		crowd := errors.Is(err, redis.ErrPoolTimeout)
		if err == nil || answered(err) && !crowd || ctx.Err() != nil || s.closed.Load() || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(probeEvery):
		case <-ctx.Done():
		case <-s.life.Done():
		}
	}
}

// carryOver carries over what is left of a firm's large Apply that is true, if there is one.
func (s *Store) carryOver(ctx context.Context, firm string) error {
	for cursor, more := "0", true; more; {
		err := s.ask(ctx, question{
			script: carryScript, key: endingsKey(firm),
			args: []any{nil, s.clock().UnixMilli(), slack.Milliseconds(), forever.Milliseconds(), cursor, carryAtA},
			read: func(answer []any) error {
				if len(answer) != 2 {
					return errMixed
				}
				next, ok1 := answer[0].(string)
				again, ok2 := answer[1].(int64)
				if !ok1 || !ok2 {
					return errMixed
				}
				cursor, more = next, again == 1
				return nil
			},
		})
		if err != nil {
			return fmt.Errorf("carrying over a large change: %w", err)
		}
	}
	return nil
}
