package audit

import (
	"time"

	"golang.org/x/time/rate"
)

// A flood of events that cost nothing must not fill the disk: of each kind a thousand
// in a row are written down, then one a second; one line a minute counts the rest.
const (
	floodBurst = 1000
	floodRate  = rate.Limit(1)
	sumUpEvery = time.Minute
)

// flood holds back events by kind. Those of known contacts are apart from the others,
// so that who tries addresses at random hides nothing that happens to a client. The
// zero value is ready; the caller locks.
type flood struct{ dams map[dam]*level }

// dam names what is held back together.
type dam struct {
	kind  Kind
	known bool // it is about a contact
}

type level struct {
	pass  *rate.Limiter
	held  int       // since they were summed up last
	since time.Time // the first of them
	log   *Log      // of the last of them
}

// holds reports whether the event is counted only.
func (f *flood) holds(l *Log, e Event, now time.Time) bool {
	if !e.Kind.cheap() {
		return false
	}
	d := dam{e.Kind, e.Contact != ""}
	v := f.dams[d]
	if v == nil {
		if f.dams == nil {
			f.dams = make(map[dam]*level)
		}
		v = &level{pass: rate.NewLimiter(floodRate, floodBurst)}
		f.dams[d] = v
	}
	if v.pass.AllowN(now, 1) {
		return false
	}
	if v.held == 0 {
		v.since = now
	}
	v.held++
	v.log = l
	return true
}

// sum is the events of one kind that were held back.
type sum struct {
	log  *Log
	kind Kind
	more int
}

// sums returns what was held back for a minute, or, at the end, at all; and how long
// to wait for the next sum, 0 where there is none.
func (f *flood) sums(now time.Time, end bool) (all []sum, wait time.Duration) {
	for d, v := range f.dams {
		switch left := sumUpEvery - now.Sub(v.since); {
		case v.held == 0:
		case end || left <= 0:
			all = append(all, sum{v.log, d.kind, v.held})
			v.held, v.log = 0, nil
		case wait == 0 || left < wait:
			wait = left
		}
	}
	return all, wait
}
