package password

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

func TestBudget_Allows(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	ago := func(n int, d time.Duration) []int64 { return slices.Repeat([]int64{now.Add(-d).Unix()}, n) }
	for _, c := range []struct {
		what string
		b    Budget
		at   []int64
		over bool
		left int // tries that are remembered after it
	}{
		{"the first", ForUnknown, nil, false, 1},
		{"the tenth", ForUnknown, ago(9, time.Minute), false, 10},
		{"the eleventh", ForUnknown, ago(10, time.Minute), true, 10},
		{"an hour later", ForUnknown, ago(10, time.Hour), false, 11},
		{"a second less", ForUnknown, ago(10, time.Hour-time.Second), true, 10},
		{"the hundredth", ForUnknown, ago(99, 48*time.Hour), false, 100},
		{"one more", ForUnknown, ago(100, 48*time.Hour), true, 100},
		{"in 30 days", ForUnknown, ago(100, month-time.Second), true, 100},
		{"after 30 days", ForUnknown, ago(100, month), false, 1},
		{"a clock that is a little behind", ForUnknown, ago(10, -clockSkew), true, 10},
		{"a clock that was set back", ForUnknown, ago(100, -clockSkew-time.Second), false, 1},
		{"a device's tenth", ForDevice, ago(10, time.Minute), false, 11},
		{"a device's last", ForDevice, ago(20, time.Minute), true, 20},
		{"the zero Budget", Budget{}, nil, true, 0},
	} {
		after, over := c.b.allows(tries{At: c.at}, now)
		if over != c.over || len(after.At) != c.left || after.Last != now.Unix() {
			t.Errorf("%s: over %t, %d remembered; want %t, %d", c.what, over, len(after.At), c.over, c.left)
		}
	}
}

// E07, D10: whatever comes at the same time, no more is judged than the budget has.
func TestD10_ParallelGuesses(t *testing.T) {
	w := newWorld(t)
	w.Permits = newPermits(40) // so that as many as can meet at the record
	w.set("ann", good)
	var judged, throttled atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			switch _, err := w.Check(context.Background(), Attempt{Contact: "ann", Password: other}); {
			case errors.Is(err, ErrThrottled):
				throttled.Add(1)
			case errors.Is(err, ErrWrong):
				judged.Add(1)
			case !errors.Is(err, ErrBusy):
				t.Errorf("Check = %v", err)
			}
		})
	}
	all.Wait()
	if n := judged.Load(); n != int64(ForUnknown.Hour) {
		t.Errorf("%d of 100 wrong passwords were judged (%d not); want %d", n, throttled.Load(), ForUnknown.Hour)
	}
}

// After a throttle the right password is as wrong as any other, until the hour is over.
// Who has signed in on the device before doesn't notice.
func TestD09_AThrottleLocksNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	w.is("ann", good, nil)
	for range 3 {
		for range ForUnknown.Hour {
			w.is("ann", other, ErrWrong)
		}
		w.is("ann", other, ErrThrottled)
		w.is("ann", good, ErrThrottled)
		w.isOn("laptop", "ann", good, nil)
		w.is("ann", good, ErrThrottled) // that wasn't a success of an unknown one
		w.clock.move(time.Hour)
	}
	w.is("ann", good, nil)
	for range ForUnknown.Hour { // it gave all the guesses back
		w.is("ann", other, ErrWrong)
	}
	w.is("ann", good, ErrThrottled)
}

// A device that someone else has got hold of has a budget, too, and only its own.
func TestGuesses_OfADevice(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	for range ForDevice.Hour {
		w.isOn("laptop", "ann", other, ErrWrong)
	}
	w.isOn("laptop", "ann", good, ErrThrottled)
	w.isOn("phone", "ann", good, nil)
	w.is("ann", good, nil)
	w.set("ann", other) // by a mail: they are to be able to use it at once
	w.isOn("laptop", "ann", other, nil)
}

func TestGuesses_InThirtyDays(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	judged := 0
	for range 6 * 29 {
		if err := w.try(Attempt{Contact: "ann", Password: other}); errors.Is(err, ErrWrong) && !errors.Is(err, ErrThrottled) {
			judged++
		}
		w.clock.move(4 * time.Hour)
	}
	if judged != ForUnknown.Month {
		t.Errorf("%d passwords were judged in 29 days; want %d", judged, ForUnknown.Month)
	}
	w.is("ann", good, ErrThrottled)
	w.clock.move(2 * 24 * time.Hour)
	w.is("ann", good, nil)
}

// D12: addresses that are nobody's fill no store.
func TestD12_NobodiesShareAFewRecords(t *testing.T) {
	seen := map[string]bool{}
	for i := range 20_000 {
		seen[nobody(address.Address(fmt.Sprintf("x%d@example.net", i)))] = true
	}
	if len(seen) > nobodies || len(seen) < nobodies*9/10 {
		t.Errorf("20,000 addresses have %d records; want about %d", len(seen), nobodies)
	}
	w := newWorld(t)
	for range 30 { // a record doesn't grow for ever, either
		if err := w.try(Attempt{Password: good}); !errors.Is(err, ErrWrong) {
			t.Errorf("Check = %v", err)
		}
	}
	if n := w.records(guessBucket); n != 1 {
		t.Errorf("one address has %d records; want 1", n)
	}
	rec, err := w.Store.Get(context.Background(), w.purse(Purse{Contact: nobody("@example.com")}))
	if err != nil || len(rec.Value) > 300 {
		t.Errorf("its record has %d bytes, %v", len(rec.Value), err)
	}
	if same := (Attempt{Address: "x1@example.net"}).purse(); same != (Attempt{Address: "x1@example.net", Device: "laptop"}).purse() {
		t.Error("a device makes somebody of nobody")
	}
	w.clock.move(month + time.Second)
	if n := w.records(guessBucket); n != 0 {
		t.Errorf("after 30 days %d records are left", n)
	}
}
