package usage

import (
	"testing"
	"time"
)

// Uses are counted in the week, from Monday on, in which they happened; the weeks of all companies add up.
func TestWeeks(t *testing.T) {
	w := newWorld(t)
	c := w.counter()
	monday := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for _, use := range []struct {
		at      time.Time
		company string
		Use
	}{
		{monday.AddDate(0, 0, -80), "acme", browser(1)}, // before the first of the weeks
		{monday.AddDate(0, 0, -70), "acme", browser(1)},
		{monday.Add(-time.Second), "acme", Use{}},
		{monday, "acme", Use{Browser: "browser 2", Upgraded: true}},
		{monday.AddDate(0, 0, 6), "birch", browser(1)},
	} {
		w.set(use.at)
		c.Note(use.company, use.Use)
	}
	acme, err := c.WeeksOf(t.Context(), "acme")
	w.no(err)
	want := emptyWeeks(w.now())
	if len(want) != 12 || !want[11].Begin.Equal(monday) {
		t.Fatalf("the weeks are %v; want twelve, the last from %v on", want, monday)
	}
	want[1].Hits, want[10].Hits, want[10].NotBrowsers, want[11].Hits, want[11].Upgraded = 1, 1, 1, 1, 1
	same := func(what string, got []Week) {
		t.Helper()
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%s, week %d = %+v; want %+v", what, i, got[i], want[i])
			}
		}
	}
	same("acme", acme)
	all, err := w.counter().WeeksOfAll(t.Context())
	w.no(err)
	want[11].Hits++
	same("all", all)
	if none, err := (*Counter)(nil).WeeksOfAll(t.Context()); none != nil || err != nil {
		t.Errorf("without a Counter: %v, %v", none, err)
	}
}
