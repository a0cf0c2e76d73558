package audit

import (
	"context"
	"slices"
	"time"
)

const (
	firstWindow = 10 * time.Minute // of a search backward; each further one is four times as long
	maxSearched = 5_000            // events that one search reads, in about that many
)

// Found is a page of a search.
type Found struct {
	Events []Event   // the latest first
	Next   string    // before which to go on; "": there is nothing before
	Back   time.Time // with Next: the search has seen all events since then
}

// Before returns up to limit events for which keep returns true, the latest first: those before the ID before ("": all),
// and not before since. It reads a few thousand events at most, so that it may return fewer, even none, and a Next.
func (l *Log) Before(ctx context.Context, before string, since time.Time, limit int, keep func(Event) bool) (Found, error) {
	var out Found
	if l.EventLog == nil {
		return out, nil
	}
	now := l.EventLog.now()
	if oldest := now.Add(-Keep); since.Before(oldest) {
		since = oldest
	}
	until, read := now.Add(time.Minute), 0 // the clock of another machine may be ahead
	if before != "" {
		until = timeOf(before)
	}
	for window := firstWindow; until.After(since); window *= 4 {
		from := until.Add(-window)
		if from.Before(since) {
			from = since
		}
		some, err := l.between(ctx, from, until, before)
		if err != nil {
			return out, err
		}
		read += len(some)
		for _, e := range slices.Backward(some) {
			if !keep(e) {
				continue
			}
			if len(out.Events) == limit {
				last := out.Events[limit-1]
				out.Next, out.Back = last.ID, last.Time
				return out, nil
			}
			out.Events = append(out.Events, e)
		}
		if until, before = from, ""; read >= maxSearched && from.After(since) {
			out.Next, out.Back = from.UTC().Format(idTime), from
			return out, nil
		}
	}
	return out, nil
}

// between returns the events from a time on, to before another time, and before an ID if there is one.
func (l *Log) between(ctx context.Context, from, until time.Time, before string) (all []Event, err error) {
	for after := ""; ; {
		page, next, err := l.Events(ctx, from, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, e := range page {
			if before != "" && e.ID >= before || before == "" && !e.Time.Before(until) {
				return all, nil
			}
			all = append(all, e)
		}
		if after = next; after == "" {
			return all, nil
		}
	}
}
