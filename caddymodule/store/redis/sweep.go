package redis

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// maxSweep bounds how many records one run of the script deletes, so that nobody who waits
// beside it waits long.
const maxSweep = 500

// Sweep deletes what has expired by now, of the firms that this Store was asked about, and
// returns how much that was. A goroutine of the Store does so all the time; what it has
// deleted doesn't come back when the clock is set back.
func (s *Store) Sweep(ctx context.Context) (int, error) { return s.sweepAll(ctx, false) }

// sweepAll sweeps every firm; wary goes by the server's clock where that is behind ours: a
// machine whose clock was set forward by mistake mustn't cost everybody their session.
func (s *Store) sweepAll(ctx context.Context, wary bool) (total int, err error) {
	s.firms.Range(func(firm, _ any) bool {
		var n int
		n, err = s.sweepFirm(ctx, firm.(string), wary)
		total += n
		return err == nil
	})
	return total, err
}

func (s *Store) sweepFirm(ctx context.Context, firm string, wary bool) (total int, err error) {
	mode := "0"
	if wary {
		mode = "1"
	}
	aside := false
	for more := true; more && err == nil; {
		err = s.ask(ctx, question{
			script: sweepScript, key: endingsKey(firm),
			args: []any{nil, s.clock().UnixMilli(), forever.Milliseconds(), maxSweep, mode},
			read: func(answer []any) error {
				if len(answer) != 3 {
					return errMixed
				}
				deleted, ok1 := answer[0].(int64)
				again, ok2 := answer[1].(int64)
				carry, ok3 := answer[2].(int64)
				if !ok1 || !ok2 || !ok3 {
					return errMixed
				}
				total, more, aside = total+int(deleted), again == 1, carry == 1
				return nil
			},
		})
	}
	if err == nil && aside { // whoever has committed it may be gone
		err = s.carryOver(ctx, firm)
	}
	return total, err
}

// sweep is the sweeper: it looks every so often until the Store is closed.
func (s *Store) sweep(every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-s.life.Done():
			return
		case firm := <-s.aside:
			err = s.carryOver(context.Background(), firm)
		case <-tick.C:
			_, err = s.sweepAll(context.Background(), true)
		}
		// That the server is gone has been logged.
		if err != nil && s.down.Load() == nil && !errors.Is(err, errClosed) {
			s.log.Error("sweeping the store", "address", s.address, "error", err)
		}
	}
}

// serverTime returns what the server's clock says.
func (s *Store) serverTime(ctx context.Context) (t time.Time, err error) {
	err = s.ask(ctx, question{
		script: timeScript, key: recordKey(nothing), args: []any{nil},
		read: func(answer []any) error {
			if len(answer) != 1 {
				return errMixed
			}
			text, _ := answer[0].(string)
			ms, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return errMixed
			}
			t = time.UnixMilli(ms)
			return nil
		},
	})
	return t, err
}
