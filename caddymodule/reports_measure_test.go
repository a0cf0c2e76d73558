//go:build measure

package caddymodule_test

import (
	"flag"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
)

// The size of the report of TestLargeReports. Run manually, for the figures in docs/reports.md:
//
//	go test -tags measure ./caddymodule -run TestLargeReports -report 1024 -v
var reportSize = flag.Int64("report", 64, "how many MiB TestLargeReports publishes and downloads")

// A large report is uploaded and downloaded with as little memory as a small one.
func TestLargeReports(t *testing.T) {
	h, _ := openLibrary(t, layout{})
	b := h.browser()
	b.signIn("bob@example.com")
	b.client.Timeout = 0
	size := *reportSize << 20

	var peak uint64
	stop, watching := make(chan struct{}), sync.WaitGroup{}
	defer debug.SetGCPercent(debug.SetGCPercent(100)) // as in a server; other tests here disable collection
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	watching.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	})
	began := time.Now()
	out, err := h.office().PublishReport(t.Context(), "example", admin.PublishReport{Company: "acme", Name: "large.bin", Body: io.LimitReader(pattern{}, size)})
	if err != nil || out.Report.Size != size {
		t.Fatalf("PublishReport = %+v, %v", out, err)
	}
	up := time.Since(began)
	began = time.Now()
	resp, err := b.client.Do(b.request("GET", out.Report.URL, nil))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("GET = %v, %v", resp, err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	down := time.Since(began)
	close(stop)
	watching.Wait()
	if n != size || err != nil {
		t.Errorf("the download has %d bytes, %v; want %d", n, err, size)
	}
	mib := float64(*reportSize)
	t.Logf("%d MiB: up in %v (%.0f MiB/s), down in %v (%.0f MiB/s); heap in use before %d MiB, at most %d MiB", *reportSize, up.Round(time.Millisecond), mib/up.Seconds(),
		down.Round(time.Millisecond), mib/down.Seconds(), before.HeapInuse>>20, peak>>20)
	if more := int64(peak) - int64(before.HeapInuse); more > 48<<20 {
		t.Errorf("the heap grew by %d MiB; want no more than garbage of small pieces", more>>20)
	}
}

type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i)
	}
	return len(p), nil
}
