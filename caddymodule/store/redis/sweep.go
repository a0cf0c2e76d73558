package redis

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// maxSweep limits how many records one run of the script deletes, so that others don't
// wait long.
const maxSweep = 500

// Sweep deletes expired records of the firms used by this Store, and returns their number.
// The Store does so regularly by itself. Deleted records don't come back if the clock is
// set back.
func (s *Store) Sweep(ctx context.Context) (int, error) { return s.sweepAll(ctx, false) }

// sweepAll sweeps every firm. wary uses the server's clock if it is behind ours, so that a
// clock set ahead by mistake doesn't delete sessions.
func (s *Store) sweepAll(ctx context.Context, wary bool) (total int, err error) {
	s.firms.Range(func(firm, _ any) bool {
		n, failed := s.sweepFirm(ctx, firm.(string), wary)
		total += n
		if failed != nil && (err == nil || errors.Is(err, errNoReply)) {
			err = failed
		}
		return err == nil || s.where.Cluster // other firms are on other nodes
	})
	return total, err
}

func (s *Store) sweepFirm(ctx context.Context, firm string, wary bool) (total int, err error) {
	mode := "0"
	if wary {
		mode = "1"
	}
	staged := false
	for more := true; more && err == nil; {
		err = s.do(ctx, request{
			script: sweepScript, key: expiryKey(firm),
			args: []any{nil, s.clock().UnixMilli(), forever.Milliseconds(), maxSweep, mode},
			read: func(answer []any) error {
				if len(answer) != 3 {
					return errWrongReply
				}
				deleted, ok1 := answer[0].(int64)
				again, ok2 := answer[1].(int64)
				stagedFlag, ok3 := answer[2].(int64)
				if !ok1 || !ok2 || !ok3 {
					return errWrongReply
				}
				total, more, staged = total+int(deleted), again == 1, stagedFlag == 1
				return nil
			},
		})
	}
	if err == nil && staged { // its process may have ended
		err = s.applyStaged(ctx, firm)
	}
	return total, err
}

// sweep deletes expired records regularly until the Store is closed.
func (s *Store) sweep(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-s.life.Done():
			return
		case firm := <-s.stagedFirms:
			err = s.applyStaged(context.Background(), firm)
		case <-tick.C:
			_, err = s.sweepAll(context.Background(), true)
		}
		// Outages were logged already.
		if err != nil && !errors.Is(err, errNoReply) && !errors.Is(err, errClosed) {
			s.log.Error("expired records not deleted", "address", s.address, "error", err)
		}
	}
}

// serverTime returns the time of the server's clock.
func (s *Store) serverTime(ctx context.Context) (t time.Time, err error) {
	err = s.do(ctx, request{
		script: timeScript, key: recordKey(s.probeKey()), args: []any{nil},
		read: func(answer []any) error {
			if len(answer) != 1 {
				return errWrongReply
			}
			text, _ := answer[0].(string)
			ms, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return errWrongReply
			}
			t = time.UnixMilli(ms)
			return nil
		},
	})
	return t, err
}
