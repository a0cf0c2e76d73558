package audit

import (
	"time"

	"golang.org/x/time/rate"
)

// Floods of events must not fill the disk: of each sampled kind a thousand in a row are
// recorded, then one a second, and a summary each minute counts the rest.
const (
	floodBurst   = 1000
	floodRate    = rate.Limit(1)
	summaryEvery = time.Minute
)

// floodLimiter limits sampled events by kind. Events of known contacts are counted apart, so
// that requests for random addresses don't hide events of a contact. The zero value is
// ready to use; the caller locks.
type floodLimiter struct{ limits map[limitKey]*limit }

// limitKey identifies the events that share a limit.
type limitKey struct {
	kind  Kind
	known bool // the event has a contact
}

type limit struct {
	pass    *rate.Limiter
	dropped int       // since the last summary
	since   time.Time // first dropped event
	log     *Log      // of the last dropped event
}

// drop reports whether the event must not be recorded; it is then part of the next
// summary.
func (f *floodLimiter) drop(l *Log, e Event, now time.Time) bool {
	if !e.Kind.sampled() {
		return false
	}
	d := limitKey{e.Kind, e.Contact != ""}
	v := f.limits[d]
	if v == nil {
		if f.limits == nil {
			f.limits = make(map[limitKey]*limit)
		}
		v = &limit{pass: rate.NewLimiter(floodRate, floodBurst)}
		f.limits[d] = v
	}
	if v.pass.AllowN(now, 1) {
		return false
	}
	if v.dropped == 0 {
		v.since = now
	}
	v.dropped++
	v.log = l
	return true
}

// dropped summarizes dropped events of one kind.
type dropped struct {
	log  *Log
	kind Kind
	more int
}

// summaries returns the summaries that are due, or all if end is set, and how long until
// the next is due; 0 if there is none.
func (f *floodLimiter) summaries(now time.Time, end bool) (all []dropped, wait time.Duration) {
	for d, v := range f.limits {
		switch left := summaryEvery - now.Sub(v.since); {
		case v.dropped == 0:
		case end || left <= 0:
			all = append(all, dropped{v.log, d.kind, v.dropped})
			v.dropped, v.log = 0, nil
		case wait == 0 || left < wait:
			wait = left
		}
	}
	return all, wait
}
