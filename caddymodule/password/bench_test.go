package password

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// resident returns the resident memory of the process in bytes: the current one, and the
// peak since the last forgetPeak. Both are 0 on systems without /proc.
func resident() (now, peak uint64) {
	status, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 {
			kib, _ := strconv.ParseUint(f[1], 10, 64)
			switch f[0] {
			case "VmRSS:":
				now = kib << 10
			case "VmHWM:":
				peak = kib << 10
			}
		}
	}
	return now, peak
}

func forgetPeak() { os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// heap returns the bytes on the heap, garbage included.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// flood holds the effects of 1,000 concurrent attempts on a process.
type flood struct {
	base, peak          uint64 // of the heap
	baseRSS, peakRSS    uint64
	judged, busy        int64
	took                time.Duration
	slowest, slowKnown  time.Duration // of attempts that got ErrBusy; of known devices
	knownIn, knownTried int64
}

// run makes n concurrent attempts, half of which are canceled after 50 ms, while a known
// device signs in again and again.
func (f *flood) run(w *world, n int) {
	w.set("owner", good)
	w.is("owner", good, nil) // initializes what is initialized once
	debug.FreeOSMemory()
	f.base = heap()
	forgetPeak()
	f.baseRSS, _ = resident()
	var all sync.WaitGroup
	var slowest atomic.Int64
	stop := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			f.peak = max(f.peak, heap())
			select {
			case <-stop:
				return
			case <-time.After(200 * time.Microsecond):
			}
		}
	})
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			from := time.Now()
			f.knownTried++
			if w.try(Attempt{Contact: "owner", Device: "laptop", Password: good}) == nil {
				f.knownIn++
			}
			f.slowKnown = max(f.slowKnown, time.Since(from))
		}
	})
	from := time.Now()
	for i := range n {
		all.Go(func() {
			ctx := context.Background()
			if i%2 == 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			began := time.Now()
			_, err := w.Check(ctx, Attempt{Contact: fmt.Sprintf("contact-%d", i), Password: other})
			switch {
			case errors.Is(err, ErrWrong):
				atomic.AddInt64(&f.judged, 1)
			case errors.Is(err, ErrBusy):
				atomic.AddInt64(&f.busy, 1)
				for d := int64(time.Since(began)); ; {
					if old := slowest.Load(); d <= old || slowest.CompareAndSwap(old, d) {
						break
					}
				}
			}
		})
	}
	all.Wait()
	f.took = time.Since(from)
	close(stop)
	watch.Wait()
	f.slowest = time.Duration(slowest.Load())
	_, f.peakRSS = resident()
}

// BenchmarkFlood prints the effects of 1,000 parallel attempts.
func BenchmarkFlood(b *testing.B) {
	for b.Loop() {
		w := newWorld(b).as(func(p *Passwords) { p.Cost = Standard })
		var f flood
		f.run(w, 1000)
		const mib = 1 << 20
		permits := w.Semaphore.size
		b.ReportMetric(float64(permits), "permits")
		b.ReportMetric(float64(uint64(permits)*Standard.bytes())/mib, "MiB-of-permits")
		b.ReportMetric(float64(f.peak-f.base)/mib, "MiB-heap-extra")
		b.ReportMetric(float64(f.peakRSS-f.baseRSS)/mib, "MiB-rss-extra")
		b.ReportMetric(float64(f.baseRSS)/mib, "MiB-rss-base")
		b.ReportMetric(float64(f.judged), "judged")
		b.ReportMetric(float64(f.busy), "busy")
		b.ReportMetric(float64(f.slowest.Milliseconds()), "ms-busy-max")
		b.ReportMetric(float64(f.slowKnown.Milliseconds()), "ms-known-max")
		b.ReportMetric(float64(f.knownIn), "known-in")
		b.ReportMetric(float64(f.knownTried-f.knownIn), "known-refused")
		b.ReportMetric(float64(f.took.Milliseconds()), "ms-all")
	}
}

// BenchmarkHash is one hash at the current cost, and at the others that OWASP calls
// equal.
func BenchmarkHash(b *testing.B) {
	for _, c := range []Cost{Standard, {Memory: 47104, Time: 1, Threads: 1}, {Memory: 12288, Time: 3, Threads: 1}, {Memory: 9216, Time: 4, Threads: 1}} {
		b.Run(string(c.params()), func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				from := time.Now()
				if _, err := c.hash(good); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(from))
				runtime.GC()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/hash-median")
		})
	}
}
