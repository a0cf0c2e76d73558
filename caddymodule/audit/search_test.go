package audit

import (
	"fmt"
	"testing"
	"time"
)

// A search backward returns every event once, the latest first, page by page, and each page reads a bounded part.
func TestBeforeFindsEachEventOnce(t *testing.T) {
	d := openDesk(t)
	const events = 3*maxSearched/2 + 7
	for i := range events {
		if i%1000 == 0 {
			d.EventLog.Flush(t.Context())
			d.pass(5 * 24 * time.Hour)
		}
		d.Record(t.Context(), Event{Kind: SignedIn, Contact: fmt.Sprint(i), Count: i + 1})
	}
	rare := func(e Event) bool { return e.Count%1000 == 1 }
	for _, c := range []struct {
		keep func(Event) bool
		want int
	}{{func(Event) bool { return true }, events}, {rare, 8}} {
		seen, pages, before := map[string]bool{}, 0, ""
		for last := events + 1; ; pages++ {
			found, err := d.Before(t.Context(), before, time.Time{}, 700, c.keep)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range found.Events {
				if seen[e.ID] || e.Count >= last {
					t.Fatalf("event %d comes again, or after %d", e.Count, last)
				}
				seen[e.ID], last = true, e.Count
			}
			if before = found.Next; before == "" {
				break
			}
			if found.Back.IsZero() {
				t.Error("a page with a next one doesn't say how far it looked back")
			}
		}
		if len(seen) != c.want || pages < 1 {
			t.Errorf("%d events on %d pages; want %d on several", len(seen), pages+1, c.want)
		}
	}
	found, err := d.Before(t.Context(), "", d.now().Add(-time.Hour), 5000, rare)
	if err != nil || len(found.Events) != 1 || found.Next != "" {
		t.Errorf("of the last hour: %d events, next %q, %v; want one", len(found.Events), found.Next, err)
	}
}
