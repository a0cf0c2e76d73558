package password

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// held is a permit in use until it is told to end.
type held struct{ end chan struct{} }

func hold(t *testing.T, p *Permits, known bool) held {
	t.Helper()
	h := held{make(chan struct{})}
	ctx, leave := context.WithCancel(t.Context())
	began := make(chan struct{})
	go p.run(ctx, known, nil, func() { close(began); <-h.end })
	<-began
	leave() // the client goes away; the work goes on
	synctest.Wait()
	return h
}

// free reports whether there is a permit at once.
func free(t *testing.T, p *Permits, known bool) bool {
	t.Helper()
	ran := false
	from := time.Now()
	err := p.run(t.Context(), known, nil, func() { ran = true })
	if ran != (err == nil) || err != nil && !errors.Is(err, ErrBusy) {
		t.Errorf("run = %v; did it run: %t", err, ran)
	}
	return ran && time.Since(from) == 0
}

func TestPermits_OneIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(3)
		a, b := hold(t, p, false), hold(t, p, false)
		if free(t, p, false) {
			t.Error("an unknown device got the permit that is kept")
		}
		if !free(t, p, true) {
			t.Error("a known device got none")
		}
		c := hold(t, p, true)
		if free(t, p, true) {
			t.Error("there are more permits than 3")
		}
		close(a.end)
		synctest.Wait()
		if !free(t, p, false) {
			t.Error("a permit wasn't given back by who had gone away")
		}
		d := hold(t, p, true) // a known device may use any
		if free(t, p, false) {
			t.Error("there are more permits than 3")
		}
		for _, h := range []held{b, c, d} {
			close(h.end)
		}
	})
}

func TestPermits_Queue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(2)
		h := hold(t, p, false)
		var all sync.WaitGroup
		var mu sync.Mutex
		waited := map[time.Duration]int{}
		from := time.Now()
		for range 1000 {
			all.Go(func() {
				err := p.run(t.Context(), false, nil, func() { t.Error("there was a permit") })
				if !errors.Is(err, ErrBusy) {
					t.Errorf("run = %v; want ErrBusy", err)
				}
				mu.Lock()
				defer mu.Unlock()
				waited[time.Since(from)]++
			})
		}
		all.Wait()
		if waited[0] != 1000-queueLength || waited[longestWait] != queueLength {
			t.Errorf("waits %v; want %d to wait for %s, and the others not at all", waited, queueLength, longestWait)
		}
		// Who waits gets the next one; who leaves the queue makes room in it.
		go func() { time.Sleep(time.Second); close(h.end) }()
		if err := p.run(t.Context(), false, nil, func() {}); err != nil || time.Since(from) != longestWait+time.Second {
			t.Errorf("run = %v after %s; want a permit a second later", err, time.Since(from)-longestWait)
		}
	})
}

// A flood of unknown devices leaves room to wait for known ones.
func TestPermits_QueueOfKnownDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(2)
		a, b := hold(t, p, false), hold(t, p, true)
		for range 1000 {
			go p.run(t.Context(), false, nil, func() {})
		}
		synctest.Wait()
		got := make(chan error)
		go func() { got <- p.run(t.Context(), true, nil, func() {}) }()
		synctest.Wait()
		close(b.end)
		if err := <-got; err != nil {
			t.Errorf("a known device gets %v", err)
		}
		close(a.end)
	})
}

func TestPermits_WhoLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPermits(2)
		h := hold(t, p, false)
		why := errors.New("the client went away")
		ctx, leave := context.WithCancelCause(t.Context())
		go func() { time.Sleep(time.Second); leave(why) }()
		if err := p.run(ctx, false, nil, func() { t.Error("it ran") }); !errors.Is(err, why) {
			t.Errorf("run = %v; want %v", err, why)
		}
		close(h.end)
		synctest.Wait()
		failed := errors.New("the store is gone")
		for range 5 {
			if err := p.run(t.Context(), false, func() error { return failed }, func() { t.Error("it ran") }); err != failed {
				t.Errorf("run = %v; want %v", err, failed)
			}
		}
		if !free(t, p, false) {
			t.Error("who left or failed kept a permit")
		}
	}) // and synctest sees to it that no goroutine is left
}

func TestPermits_ZeroValueGrantsNone(t *testing.T) {
	for _, known := range []bool{false, true} {
		if err := new(Permits).run(t.Context(), known, nil, func() { t.Error("it ran") }); !errors.Is(err, ErrBusy) {
			t.Errorf("run = %v; want ErrBusy", err)
		}
	}
}

func TestNewPermits(t *testing.T) {
	for _, c := range []struct{ cores, want int }{{1, 2}, {2, 2}, {3, 3}, {4, 4}, {64, 4}} {
		before := runtime.GOMAXPROCS(c.cores)
		p := NewPermits()
		runtime.GOMAXPROCS(before)
		if got := cap(p.all) + cap(p.known); got != c.want || cap(p.known) != 1 {
			t.Errorf("with %d cores there are %d permits, %d of them kept; want %d and 1", c.cores, got, cap(p.known), c.want)
		}
	}
}

// D03: a thousand at once take the memory of as many hashes as there are permits and a
// tenth more, all are told to come again within two seconds or so, and a known device
// gets in all the while.
func TestD03_AThousandAtOnce(t *testing.T) {
	w := newWorld(t).as(func(p *Passwords) { p.Cost = Standard })
	before := runtime.NumGoroutine()
	var f flood
	f.run(w, 1000)
	cost := uint64(cap(w.Permits.all)+cap(w.Permits.known)) * Standard.bytes()
	// A thousand goroutines and what they read are in it, too. Without a bound it is
	// twice the cost.
	if extra := f.peak - min(f.base, f.peak); extra > cost*14/10 {
		t.Errorf("the heap grew by %d MiB; want %d, and a little", extra>>20, cost>>20)
	}
	if f.busy == 0 || f.knownIn == 0 || f.knownIn != f.knownTried {
		t.Errorf("%d were told to come again; a known device got in %d times of %d", f.busy, f.knownIn, f.knownTried)
	}
	if f.slowest > 5*longestWait {
		t.Errorf("someone was told after %s to come again", f.slowest)
	}
	// Those whose client went away are still at work for a moment.
	for range 1000 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
}

// The garbage of hashes that follow one another doesn't pile up.
func TestCompute_Garbage(t *testing.T) {
	p := newPermits(2)
	const size = 8 << 20
	var keep []byte
	for range 50 {
		p.compute(size, func() { keep = make([]byte, size); keep[size-1]++ })
		keep = nil
		p.mu.Lock()
		if g := p.garbage(); g > 2*size || p.running != 0 {
			t.Errorf("%d MiB of garbage, %d running; want at most %d, and 0", g>>20, p.running, 2*size>>20)
		}
		p.mu.Unlock()
	}
}
