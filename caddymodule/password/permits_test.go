package password

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// held is a permit held until end is closed.
type held struct{ end chan struct{} }

func hold(t *testing.T, p *Semaphore, who string) held {
	t.Helper()
	h := held{make(chan struct{})}
	ctx, leave := context.WithCancel(t.Context())
	began := make(chan struct{})
	go p.run(ctx, who, nil, func() { close(began); <-h.end })
	<-began
	leave() // the client disconnects; the work goes on
	synctest.Wait()
	return h
}

// free reports whether a permit can be acquired without waiting.
func free(t *testing.T, p *Semaphore, who string) bool {
	t.Helper()
	ran := false
	from := time.Now()
	err := p.run(t.Context(), who, nil, func() { ran = true })
	if ran != (err == nil) || err != nil && !errors.Is(err, ErrBusy) {
		t.Errorf("run = %v; did it run: %t", err, ran)
	}
	return ran && time.Since(from) == 0
}

func TestPermits_LimitConcurrentChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(3)
		a, b := hold(t, p, ""), hold(t, p, "")
		if !free(t, p, "") || !free(t, p, "ann") {
			t.Error("there are fewer permits than 3")
		}
		c := hold(t, p, "ann")
		if free(t, p, "") || free(t, p, "bob") {
			t.Error("there are more permits than 3")
		}
		close(a.end)
		synctest.Wait()
		if !free(t, p, "") {
			t.Error("a permit wasn't given back by who had gone away")
		}
		close(b.end)
		close(c.end)
	})
}

func TestPermits_QueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(1)
		h := hold(t, p, "")
		var all sync.WaitGroup
		var mu sync.Mutex
		waited := map[time.Duration]int{}
		from := time.Now()
		for range 1000 {
			all.Go(func() {
				err := p.run(t.Context(), "", nil, func() { t.Error("there was a permit") })
				if !errors.Is(err, ErrBusy) {
					t.Errorf("run = %v; want ErrBusy", err)
				}
				mu.Lock()
				defer mu.Unlock()
				waited[time.Since(from)]++
			})
		}
		all.Wait()
		if waited[0] != 1000-maxQueue || waited[maxWait] != maxQueue {
			t.Errorf("waits %v; want %d to wait for %s, and the others not at all", waited, maxQueue, maxWait)
		}
		// A waiter gets the next permit, and one that gives up leaves room in the queue.
		go func() { time.Sleep(time.Second); close(h.end) }()
		if err := p.run(t.Context(), "", nil, func() {}); err != nil || time.Since(from) != maxWait+time.Second {
			t.Errorf("run = %v after %s; want a permit a second later", err, time.Since(from)-maxWait)
		}
	})
}

// Known contacts have priority, but neither a flood of others nor one contact with many devices
// locks anybody out.
func TestPermits_KnownContactsHavePriority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(1)
		h := hold(t, p, "")
		var mu sync.Mutex
		var got []string
		for _, who := range slices.Concat(slices.Repeat([]string{""}, maxQueue-2), []string{"ann", "ann", "ann", "ann", "bob", "cleo"}) {
			go p.run(t.Context(), who, nil, func() {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, cmp.Or(who, "-"))
			})
			synctest.Wait()
		}
		close(h.end)
		synctest.Wait()
		// Of Ann's four attempts, one waits in the priority queue, and two got the last places
		// in the other.
		want := "ann - bob - cleo" + strings.Repeat(" -", maxQueue-4) + " ann ann"
		if got := strings.Join(got, " "); got != want {
			t.Errorf("permits went to %s; want %s", got, want)
		}
	})
}

func TestPermits_CanceledWaitersFreeTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(1)
		h := hold(t, p, "")
		why := errors.New("the client went away")
		ctx, leave := context.WithCancelCause(t.Context())
		go func() { time.Sleep(time.Second); leave(why) }()
		if err := p.run(ctx, "", nil, func() { t.Error("it ran") }); !errors.Is(err, why) {
			t.Errorf("run = %v; want %v", err, why)
		}
		close(h.end)
		synctest.Wait()
		failed := errors.New("the store is gone")
		for range 5 {
			if err := p.run(t.Context(), "", func() error { return failed }, func() { t.Error("it ran") }); err != failed {
				t.Errorf("run = %v; want %v", err, failed)
			}
		}
		if !free(t, p, "") {
			t.Error("who left or failed kept a permit")
		}
	}) // synctest checks that no goroutine is left
}

// A panic in first, from which a server recovers, loses no permit.
func TestPermits_APanicLosesNoPermit(t *testing.T) {
	p := newPermits(1)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("want the panic to be passed on")
			}
		}()
		_ = p.run(t.Context(), "", func() error { panic("before the work") }, func() { t.Error("work was done") })
	}()
	if err := p.run(t.Context(), "", nil, func() {}); err != nil {
		t.Errorf("run after a panic = %v; want a permit", err)
	}
}

func TestPermits_ZeroValueGrantsNone(t *testing.T) {
	for _, who := range []string{"", "ann"} {
		if err := new(Semaphore).run(t.Context(), who, nil, func() { t.Error("it ran") }); !errors.Is(err, ErrBusy) {
			t.Errorf("run = %v; want ErrBusy", err)
		}
	}
}

func TestNewPermits(t *testing.T) {
	for _, c := range []struct{ cores, want int }{{1, 1}, {2, 1}, {3, 2}, {4, 3}, {5, 4}, {64, 4}} {
		before := runtime.GOMAXPROCS(c.cores)
		p := NewSemaphore()
		runtime.GOMAXPROCS(before)
		if p.size != c.want || p.free != c.want {
			t.Errorf("with %d cores there are %d permits, %d of them free; want %d", c.cores, p.size, p.free, c.want)
		}
	}
}

// D03 (CPU and memory): a thousand concurrent attempts take the memory of as many hashes as
// there are permits plus a tenth, all get ErrBusy within about two seconds, and a known device
// can still sign in.
func TestD03_AThousandConcurrentChecks(t *testing.T) {
	w := newWorld(t).as(func(p *Passwords) { p.Cost = Standard })
	before := runtime.NumGoroutine()
	var f flood
	f.run(w, 1000)
	cost := uint64(w.Semaphore.size) * Standard.bytes()
	// Includes a thousand goroutines and what they read. Without a limit it is twice the cost.
	if extra := f.peak - min(f.base, f.peak); extra > cost*14/10 {
		t.Errorf("the heap grew by %d MiB; want %d, and a little", extra>>20, cost>>20)
	}
	if f.busy == 0 || f.knownIn == 0 || f.knownIn != f.knownTried {
		t.Errorf("%d were told to come again; a known device got in %d times of %d", f.busy, f.knownIn, f.knownTried)
	}
	if f.slowest > 5*maxWait {
		t.Errorf("someone was told after %s to come again", f.slowest)
	}
	// Attempts whose client disconnected still work for a moment.
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
}

// The garbage of successive hashes doesn't accumulate; an eighth of a large live heap is
// allowed.
func TestCompute_LimitsGarbage(t *testing.T) {
	const size = 8 << 20
	var keep []byte
	garbage := func(bound uint64) (most uint64) {
		t.Helper()
		m := memory{hashes: 2}
		for range 50 {
			m.compute(size, func() { keep = make([]byte, size); keep[size-1]++ })
			keep = nil
			m.mu.Lock()
			most = max(most, m.garbage())
			if m.running != 0 {
				t.Errorf("%d bytes running; want 0", m.running)
			}
			m.mu.Unlock()
		}
		if most > bound {
			t.Errorf("%d MiB of garbage; want at most %d", most>>20, bound>>20)
		}
		return most
	}
	garbage(2 * size)
	lives := make([]byte, 40*size)
	runtime.GC()
	if most := garbage(6 * size); most <= 2*size {
		t.Errorf("at most %d MiB of garbage, where %d MiB live: want more to be let be", most>>20, len(lives)>>20)
	}
	runtime.KeepAlive(lives)
}
