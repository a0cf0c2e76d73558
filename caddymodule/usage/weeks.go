package usage

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Weeks is the number of weeks whose uses are known in full.
const Weeks = Days / 7

// Week holds the counts of a week.
type Week struct {
	Begin       time.Time `json:"begin"` // its Monday, in UTC
	Hits        int       `json:"hits"`
	Upgraded    int       `json:"asked"`
	NotBrowsers int       `json:"not_browsers"`
}

// emptyWeeks returns the last Weeks weeks, with the current one, from the oldest on.
func emptyWeeks(now time.Time) []Week {
	now = now.UTC()
	monday := time.Date(now.Year(), now.Month(), now.Day()-(int(now.Weekday())+6)%7, 0, 0, 0, 0, time.UTC)
	all := make([]Week, Weeks)
	for i := range all {
		all[i].Begin = monday.AddDate(0, 0, -7*(Weeks-1-i))
	}
	return all
}

// addTo adds the counts of the record's days to weeks.
func (r *record) addTo(weeks []Week) {
	first := dayOf(weeks[0].Begin)
	for _, d := range r.days {
		if d.day < first {
			continue
		}
		w := &weeks[min(int(d.day-first)/7, len(weeks)-1)]
		w.Hits += toInt(d.hits)
		w.Upgraded += toInt(d.upgraded)
		w.NotBrowsers += toInt(d.notBrowsers)
	}
}

// WeeksOf returns the uses of a company's old links by week, from the oldest of Weeks weeks on.
func (c *Counter) WeeksOf(ctx context.Context, company string) ([]Week, error) {
	if c == nil {
		return nil, nil
	}
	if err := c.Flush(ctx); err != nil {
		return nil, err
	}
	weeks := emptyWeeks(c.now())
	rec, err := c.Store.Get(ctx, c.key(company))
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	default:
		c.addWeeks(rec, weeks)
	}
	return weeks, nil
}

// WeeksOfAll is WeeksOf for all companies together. It reads the records of all companies.
func (c *Counter) WeeksOfAll(ctx context.Context) ([]Week, error) {
	if c == nil {
		return nil, nil
	}
	if err := c.Flush(ctx); err != nil {
		return nil, err
	}
	weeks := emptyWeeks(c.now())
	for after := ""; ; {
		recs, err := c.Store.Scan(ctx, c.Firm, bucket, "", after, pageSize)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			c.addWeeks(rec, weeks)
			after = rec.Key.ID
		}
		if len(recs) < pageSize {
			return weeks, nil
		}
	}
}

func (c *Counter) addWeeks(rec store.Record, weeks []Week) {
	r, err := decode(rec.Value)
	if err != nil {
		c.markUnreadable(rec.Key.ID)
		return
	}
	r.trim(c.now())
	r.addTo(weeks)
}
