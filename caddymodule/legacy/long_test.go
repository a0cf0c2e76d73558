package legacy

import (
	"net/url"
	"runtime"
	"strings"
	"testing"
)

// D15: a path with twice as many segments takes twice the work, not four or eight times.
func TestLongPathsCostLinearTime_D15(t *testing.T) {
	r := compile(t, Config{Links: []Link{{Old: "/one-click/{token}/*", New: "/portal/{company}/*"}, {Old: "/view?client={token}", New: "/portal/{company}"}},
		CompanyPaths: []string{"/files/{company}/*"}})
	work := func(segment string, n int) uint64 {
		u := &url.URL{Path: "/x/" + strings.Repeat(segment, n)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r.Match(u)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	for _, segment := range []string{"a/", "a.b/", "a.php/", "a.php/b/", "é/", "one-click/"} {
		one, two := work(segment, 600), work(segment, 1200)
		if two > 3*one+100_000 {
			t.Errorf("1,200 times %s allocates %d bytes, 600 times %d; want about twice as many", segment, two, one)
		}
	}
}
