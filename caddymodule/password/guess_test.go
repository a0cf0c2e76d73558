package password

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

func TestBudget_Allow(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	after := func(b Budget, n int, ago time.Duration) (had tries) {
		for range n {
			had, _ = b.allow(had, now.Add(-ago))
		}
		return had
	}
	for _, c := range []struct {
		what string
		b    Budget
		had  tries
		over bool
	}{
		{"the first", ForUnknown, tries{}, false},
		{"the tenth", ForUnknown, after(ForUnknown, 9, time.Minute), false},
		{"the eleventh", ForUnknown, after(ForUnknown, 10, time.Minute), true},
		{"eight hours later", ForUnknown, after(ForUnknown, 10, 8*time.Hour), false},
		{"a second less", ForUnknown, after(ForUnknown, 10, 8*time.Hour-time.Second), true},
		{"after hundreds that weren't judged", ForUnknown, after(ForUnknown, 500, 8*time.Hour), false},
		{"a clock that is a little behind", ForUnknown, after(ForUnknown, 10, -maxClockSkew), true},
		{"a clock that was set back", ForUnknown, after(ForUnknown, 10, -24*time.Hour), false},
		{"a device's twentieth", ForDevice, after(ForDevice, 19, time.Minute), false},
		{"a device's last", ForDevice, after(ForDevice, 20, time.Minute), true},
		{"the zero Budget", Budget{}, tries{}, true},
	} {
		if had, over := c.b.allow(c.had, now); over != c.over || over && had != c.had {
			t.Errorf("%s: over %t, %v after %v; want %t", c.what, over, had, c.had, c.over)
		}
	}
}

// E07, D10 (races): no more parallel guesses are compared than the budget allows.
func TestD10_ParallelGuesses(t *testing.T) {
	w := newWorld(t)
	w.Semaphore = newPermits(40) // so that many guesses conflict at the record
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
	if n := judged.Load(); n != int64(ForUnknown.Burst) {
		t.Errorf("%d of 100 wrong passwords were judged (%d not); want %d", n, throttled.Load(), ForUnknown.Burst)
	}
}

// Once throttled, the right password fails as well, for at most eight hours after the last wrong
// one. On a device that the contact has signed in on, it works.
func TestD09_ThrottlingEndsWithinADay(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	w.is("ann", good, nil)
	for range 3 {
		for range 40 { // 120 wrong ones, of which few are compared
			if err := w.try(Attempt{Contact: "ann", Password: other}); !errors.Is(err, ErrWrong) {
				t.Errorf("Check = %v; want ErrWrong", err)
			}
		}
		w.is("ann", good, ErrThrottled)
		w.isOn("laptop", "ann", good, nil)
		w.is("ann", good, ErrThrottled) // the sign-in on the device doesn't reset the budget of unknown devices
		w.clock.move(24 * time.Hour)
	}
	for range 2 { // mistyped twice
		w.is("ann", other, ErrWrong)
	}
	w.is("ann", good, nil)
	for range ForUnknown.Burst { // the budget is full again
		w.is("ann", other, ErrWrong)
	}
	w.is("ann", good, ErrThrottled)
}

// A stolen device has a budget, too, and only its own.
func TestGuesses_ADeviceHasItsOwnBudget(t *testing.T) {
	w := newWorld(t)
	w.set("ann", good)
	for range ForDevice.Burst {
		w.isOn("laptop", "ann", other, ErrWrong)
	}
	w.isOn("laptop", "ann", good, ErrThrottled)
	w.isOn("phone", "ann", good, nil)
	w.is("ann", good, nil)
	w.set("ann", other) // by mail; it must work at once
	w.isOn("laptop", "ann", other, nil)
}

// The numbers in docs/passwords.md: how many guesses a persistent attacker has in a month and in a
// year, and when the right password works again.
func TestGuesses_PerMonthAndYear(t *testing.T) {
	for _, c := range []struct {
		b           Budget
		month, year int
		recovers    time.Duration
	}{
		{ForUnknown, 99, 1104, 8 * time.Hour},
		{ForDevice, 99, 993, 9 * time.Hour},
	} {
		began := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
		var had tries
		var judged []time.Time
		for now := began; now.Before(began.Add(365 * 24 * time.Hour)); now = now.Add(10 * time.Minute) {
			for over := false; !over; {
				if had, over = c.b.allow(had, now); !over {
					judged = append(judged, now)
				}
			}
		}
		month := 0
		for i, at := range judged {
			in := 0
			for _, other := range judged[i:] {
				if other.Sub(at) < 30*24*time.Hour {
					in++
				}
			}
			month = max(month, in)
		}
		last := judged[len(judged)-1]
		if _, over := c.b.allow(had, last.Add(c.recovers)); over || month != c.month || len(judged) != c.year {
			t.Errorf("%+v: %d in 30 days, %d in a year, over %t after %v; want %d, %d, false", c.b, month, len(judged), over, c.recovers, c.month, c.year)
		}
	}
}

// D12 (full store): addresses without a contact can't fill the store.
func TestD12_UnknownAddressesShareDummyRecords(t *testing.T) {
	w, seen := newWorld(t), map[string]bool{}
	for i := range 20_000 {
		seen[w.dummyID(address.Address(fmt.Sprintf("x%d@example.net", i)))] = true
	}
	if len(seen) > dummyRecords || len(seen) < dummyRecords*9/10 {
		t.Errorf("20,000 addresses have %d records; want about %d", len(seen), dummyRecords)
	}
	for range 30 { // a record doesn't grow forever, either
		if err := w.try(Attempt{Password: good}); !errors.Is(err, ErrWrong) {
			t.Errorf("Check = %v", err)
		}
	}
	if n := w.records(guessBucket); n != 1 {
		t.Errorf("one address has %d records; want 1", n)
	}
	rec, err := w.Store.Get(context.Background(), w.guessKey(LimitKey{Contact: w.dummyID("@example.com")}))
	if err != nil || len(rec.Value) > 300 {
		t.Errorf("its record has %d bytes, %v", len(rec.Value), err)
	}
	if same := w.limitKey(Attempt{Address: "x1@example.net"}); same != w.limitKey(Attempt{Address: "x1@example.net", Device: "laptop"}) {
		t.Error("a device makes somebody of nobody")
	}
	w.clock.move(time.Duration(ForUnknown.Burst)*ForUnknown.Every + time.Second)
	if n := w.records(guessBucket); n != 0 {
		t.Errorf("once it says nothing any more, %d records are left", n)
	}
}

// N02 (timing): addresses that share a dummy record delay each other's guesses, as guesses at one
// contact do. Which addresses share one must be unpredictable, since it would reveal that they are
// no contact's.
func TestN02_DummyRecordsDependOnTheSecret(t *testing.T) {
	one, other := newWorld(t), newWorld(t)
	other.Keys = keyring(t, "another secret of at least 32 characters, made up for this")
	const a = "x@example.net"
	met := func(w *world, b address.Address) bool { return w.dummyID(a) == w.dummyID(b) }
	var shared, both int
	for i := range 40_000 {
		b := address.Address(fmt.Sprintf("x%d@example.net", i))
		if met(one, b) {
			shared++
			if met(other, b) {
				both++
			}
		}
	}
	if shared == 0 || both > shared/2 {
		t.Errorf("%d addresses share a record with %s, %d of them also under another secret; want hardly any of these", shared, a, both)
	}
}
