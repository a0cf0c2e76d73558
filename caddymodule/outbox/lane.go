package outbox

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Mails go out by three lanes: one waits only while nothing is due in those before it.
const (
	laneSignIn   = iota // somebody waits for it at a page
	laneNotice          // notices, reports, and what happened to an account
	laneAnnounce        // announcements
	lanes
)

// laneOf returns the lane of an entry by its ID, see NewID.
func laneOf(id string) int {
	if id != "" && id[0] > '0' && id[0] < '0'+lanes {
		return int(id[0] - '0')
	}
	return laneSignIn
}

// laneOfKind returns the lane of a kind of mail.
func laneOfKind(kind string) int {
	switch kind {
	case "sign-in", "set-password":
		return laneSignIn
	case "portal-update", "announcement":
		return laneAnnounce
	}
	return laneNotice
}

// lanePrefix begins the IDs of a lane.
func lanePrefix(lane int) string { return string(rune('0'+lane)) + "-" }

// lane holds what a queue knows of the entries of one lane.
type lane struct {
	asked *line           // to be read, and prepared where that isn't done
	ready *line           // to be sent
	busy  map[string]bool // in hand
}

func newLane() *lane { return &lane{newLine(), newLine(), map[string]bool{}} }

func (l *lane) known() int { return len(l.asked.items) + len(l.ready.items) + len(l.busy) }

func (l *lane) has(id string) bool {
	_, asked := l.asked.items[id]
	_, ready := l.ready.items[id]
	return asked || ready || l.busy[id]
}

// take has the entry in hand.
func (l *lane) take(from *line, id string) item {
	l.busy[id] = true
	return from.remove(id)
}

// item is the state of an entry that a queue keeps in memory.
type item struct {
	due   time.Time
	fails int // in a row, of what isn't counted in the store
	tries int // hand-overs that failed
	// common: a reserved ID puts it before no others, see Prepared.
	common bool
}

// line holds entries that wait for the same thing.
type line struct {
	items map[string]item
	due   []string // those to be done now, in the order of sending
	later []string // the others, the earliest first
	bell  bell     // rung when there may be something to do
}

func newLine() *line { return &line{items: map[string]item{}, bell: newBell()} }

// put adds an entry that isn't in the line.
func (l *line) put(id string, it item, now time.Time) {
	l.items[id] = it
	if waits(it.due, now) {
		at, _ := slices.BinarySearchFunc(l.later, id, l.byTime)
		l.later = slices.Insert(l.later, at, id)
	} else {
		at, _ := slices.BinarySearchFunc(l.due, id, l.byTurn)
		l.due = slices.Insert(l.due, at, id)
	}
	l.bell.ring()
}

// remove takes out an entry that is due.
func (l *line) remove(id string) item {
	at, _ := slices.BinarySearchFunc(l.due, id, l.byTurn)
	if at == 0 {
		l.due = l.due[1:] // the others stay where they are
	} else {
		l.due = slices.Delete(l.due, at, at+1)
	}
	it := l.items[id]
	delete(l.items, id)
	return it
}

// next returns the entries that are due, in the order of sending; and how long it takes until
// there is one more, or a negative time.
func (l *line) next(now time.Time) (due []string, wait time.Duration) {
	ripe := func(at int) bool { return !waits(l.items[l.later[at]].due, now) }
	for len(l.later) > 0 {
		at := 0
		if !ripe(at) {
			at = len(l.later) - 1 // far ahead, where the clock was set back
		}
		if !ripe(at) {
			break
		}
		id := l.later[at]
		l.later = slices.Delete(l.later, at, at+1)
		l.put(id, l.items[id], now)
	}
	if len(l.later) == 0 {
		return l.due, -1
	}
	return l.due, l.items[l.later[0]].due.Sub(now)
}

func (l *line) byTurn(a, b string) int {
	x, y := l.items[a], l.items[b]
	if p, q := reserved(a) && !x.common, reserved(b) && !y.common; p != q {
		if p {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

func (l *line) byTime(a, b string) int {
	if c := l.items[a].due.Compare(l.items[b].due); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}

// bell wakes one who waits.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // it is ringing already
	}
}

// sleep waits until the bell rings, wait is over (negative: for the bell only), or ctx is done.
func (b bell) sleep(ctx context.Context, wait time.Duration) {
	var alarm <-chan time.Time
	if wait >= 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case <-ctx.Done():
	case <-b:
	case <-alarm:
	}
}
