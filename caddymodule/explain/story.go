package explain

import (
	"fmt"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
)

// Story describes the events, one per line. Consecutive equal events share a line.
func Story(events []admin.Event, now time.Time) (lines []string) {
	asked := map[string]bool{} // requests that already have a line
	type told struct {
		what        string
		first, last time.Time
		n           int
	}
	var all []told
	for _, e := range events {
		switch {
		case e.Kind == audit.Queued && asked[e.Request]:
			continue // the next event implies it
		case e.Kind == audit.Queued:
			e.Kind = audit.Requested // that event was deleted, or hasn't arrived yet
			fallthrough
		case e.Kind == audit.Requested, e.Kind == audit.Changed && e.Request != "":
			asked[e.Request] = true
		}
		what := InWords(e)
		if e.IP.IsValid() && e.Kind != audit.Limited && e.Kind != audit.Disabled && e.Kind != audit.Unknown && e.Kind != audit.Delayed {
			what += " (" + e.IP.String() + ")"
		}
		if n := len(all); n > 0 && all[n-1].what == what {
			all[n-1].last = e.Time
			all[n-1].n++
			continue
		}
		all = append(all, told{what, e.Time, e.Time, 1})
	}
	for _, t := range all {
		line := When(t.first, now) + "  " + t.what
		if t.n > 1 {
			line += fmt.Sprintf(", %s until %s", times(t.n), When(t.last, now))
		}
		lines = append(lines, line)
	}
	return lines
}
