package audit

import (
	"context"
	crypto "crypto/rand"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// Keep is how long events are kept at most, KeepStrange those that know of no contact.
	Keep        = 90 * 24 * time.Hour
	KeepStrange = 30 * 24 * time.Hour

	// How many events of a firm are kept; see prune.
	maxEvents  = 100_000
	maxStrange = 10_000

	writeEvery = 500 * time.Millisecond // events of this time, and at most as much again, share a write
	retryEvery = 2 * time.Second        // while the store is away
	writeTime  = 5 * time.Second        // that one write may take
	tidyTime   = 30 * time.Second       // that cutting off the end of the history may take
	maxWaiting = 20_000                 // events that wait for the store
	batch      = 200                    // events in one write
	pruneEvery = 500                    // events between two looks at how many there are

	pruneAtOnce = 20 * pruneEvery // the same, while more come as fast as they are written
)

// Trail keeps the events of one firm, and counts them. It outlives configurations:
// their Logs share it. All methods may be called from many goroutines; the Trails of
// several processes may write to one store.
type Trail struct {
	firm     string
	store    store.Store
	now      func() time.Time
	counters *Counters

	bell    chan struct{} // rung when something waits
	flush   chan chan struct{}
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	last    time.Time // of the latest event, since IDs are in the order of events
	flood   flood
	waiting []entry
	lost    int          // since that was told last
	logger  *slog.Logger // of the newest event
	keys    *secret.Keyring
	unread  map[string]bool // buckets of which it was told that some records can't be read
	stored  map[string]int  // by bucket: events that With has stored, which the writer hasn't counted yet

	// The writer's own.
	places []place        // each with how many events it has room for
	unseen map[string]int // by bucket: events stored since it was pruned
	met    int            // strangers written since their list was cut
}

// entry is an event that waits for the store.
type entry struct {
	Event
	keys *secret.Keyring
}

// NewTrail begins to keep the events of a firm, until Close.
func NewTrail(firm string, s store.Store, now func() time.Time, c *Counters) *Trail {
	t := &Trail{firm: firm, store: s, now: now, counters: c, bell: make(chan struct{}, 1),
		flush: make(chan chan struct{}), stop: make(chan struct{}), stored: make(map[string]int),
		places: []place{events, strange}, unseen: map[string]int{events.bucket: pruneEvery, strange.bucket: pruneEvery}, met: slackStrangers}
	c.show(firm)
	t.running.Go(t.write)
	return t
}

// Close writes what waits, for at most five seconds, and ends. Events that come later
// are counted, and lost.
func (t *Trail) Close() error {
	close(t.stop)
	t.running.Wait()
	return nil
}

// Flush returns when what was recorded before is in the store, or couldn't be written
// for now, or ctx is done.
func (t *Trail) Flush(ctx context.Context) {
	done := make(chan struct{})
	select {
	case t.flush <- done:
	case <-t.stop:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// add takes an event in, gives it time and ID, and reports whether it is to have a line.
func (t *Trail) add(l *Log, e *Event) bool {
	t.counters.count(t.firm, e.Kind)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logger, t.keys = l.Logger, l.Keys
	if e.ID != "" { // With has stored it
		t.stored[placeOf(*e).bucket]++
		t.ring() // that it is counted, too
		return true
	}
	if t.flood.holds(l, *e, t.now()) {
		t.ring() // that the sum isn't forgotten
		return false
	}
	t.put(l, e)
	return true
}

// with gives the event its time and ID, and the Op that stores it.
func (t *Trail) with(l *Log, e Event) (Event, []store.Op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stamp(&e)
	op, _ := t.record(entry{e, l.Keys})
	return e, []store.Op{op}
}

// stamp gives the event its time and ID. t.mu is held.
func (t *Trail) stamp(e *Event) {
	now := t.now().UTC().Truncate(time.Microsecond)
	if !now.After(t.last) && t.last.Sub(now) < time.Second { // else the clock was set
		now = t.last.Add(time.Microsecond)
	}
	t.last = now
	e.Time, e.ID = now, newID(now)
}

// put queues the event, with time and ID. t.mu is held.
func (t *Trail) put(l *Log, e *Event) {
	t.stamp(e)
	if len(t.waiting) >= maxWaiting {
		t.lost++
		t.counters.lose(t.firm, 1)
		return
	}
	t.waiting = append(t.waiting, entry{*e, l.Keys})
	t.ring()
}

func (t *Trail) ring() {
	select {
	case t.bell <- struct{}{}:
	default:
	}
}

// write is the one writer: it waits for the first event, then a moment for others, so
// that many share one write and nobody waits for any.
func (t *Trail) write() {
	var wake <-chan time.Time
	for {
		var done chan struct{}
		select {
		case <-t.bell:
			if wake == nil {
				// At no sure time, so that nobody who times other requests learns what was written.
				wake = time.After(writeEvery + rand.N(writeEvery))
			}
			continue
		case <-wake:
		case done = <-t.flush:
		case <-t.stop:
			t.writeAll(true)
			return
		}
		wait := t.writeAll(false)
		if wake = nil; wait > 0 {
			wake = time.After(wait)
		}
		if done != nil {
			close(done)
		}
	}
}

// writeAll writes what waits, and returns when to try again; 0: when the bell rings.
func (t *Trail) writeAll(end bool) time.Duration {
	all, cancel := context.WithTimeout(context.Background(), writeTime) // at the end, for everything
	defer cancel()
	again := t.sumUp(end)
	t.countStored()
	for {
		t.mu.Lock()
		some := t.waiting[:min(len(t.waiting), batch)]
		t.mu.Unlock()
		if len(some) == 0 {
			break
		}
		ctx, done := all, context.CancelFunc(func() {})
		if !end {
			ctx, done = context.WithTimeout(context.Background(), writeTime)
		}
		err := t.keep(ctx, some)
		done()
		if err != nil {
			t.tell(slog.LevelWarn, "what happened at the door can't be stored for now", "error", err)
			return retryEvery
		}
		t.mu.Lock()
		t.waiting = append([]entry(nil), t.waiting[len(some):]...)
		t.mu.Unlock()
		if !end && t.due(pruneAtOnce) { // more come as fast as they are written
			t.tidy()
		}
	}
	if !end && (t.met >= slackStrangers || t.due(pruneEvery)) { // at the end there is no time; the next process begins with it
		t.tidy()
	}
	t.mu.Lock()
	lost := t.lost
	t.lost = 0
	t.mu.Unlock()
	if lost > 0 {
		t.tell(slog.LevelError, "events are missing in the history, since the store was away; their lines in the log are all there is", "events", lost)
	}
	return again
}

// countStored takes in how many events With has stored.
func (t *Trail) countStored() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for bucket, n := range t.stored {
		t.unseen[bucket] += n
	}
	clear(t.stored)
}

// due reports whether so many events of a place were stored since it was pruned.
func (t *Trail) due(n int) bool {
	return slices.ContainsFunc(t.places, func(p place) bool { return t.unseen[p.bucket] >= n })
}

// sumUp writes down what a flood held back, and returns when to do so again.
func (t *Trail) sumUp(end bool) time.Duration {
	t.mu.Lock()
	all, wait := t.flood.sums(t.now(), end)
	var told []Event
	for _, s := range all {
		e := Event{Kind: s.kind, More: s.more}
		t.put(s.log, &e)
		told = append(told, e)
	}
	t.mu.Unlock()
	for i, e := range told {
		all[i].log.line(context.Background(), e)
	}
	return wait
}

// tellUnread tells, once for each bucket, that records of the history can't be read.
func (t *Trail) tellUnread(bucket string, records int) {
	t.mu.Lock()
	told := t.unread[bucket] || records == 0 || t.logger == nil
	if !told {
		if t.unread == nil {
			t.unread = make(map[string]bool)
		}
		t.unread[bucket] = true
	}
	t.mu.Unlock()
	if !told {
		t.tell(slog.LevelError, "records of the history can't be read, so they aren't shown: another release wrote them, or a secret that is no longer in the Caddyfile sealed them, or somebody damaged them",
			"bucket", bucket, "records", records, "what_to_do", "if you went back to an earlier release, go on to the later one again; if you changed the secret, write the older one behind the new one; else find out who can write to the store")
	}
}

func (t *Trail) tell(level slog.Level, message string, args ...any) {
	t.mu.Lock()
	logger := t.logger
	t.mu.Unlock()
	if logger != nil {
		logger.Log(context.Background(), level, message, args...)
	}
}

// keep writes some events, all in one step: what is about a stranger costs no more than
// what is about a contact. Events that were written before are the same written twice.
func (t *Trail) keep(ctx context.Context, some []entry) error {
	var ops []store.Op
	asked := map[address.Address][]entry{}
	for _, e := range some {
		op, p := t.record(e)
		ops = append(ops, op)
		t.unseen[p.bucket]++
		if e.Kind == Unknown && e.Whole != "" {
			asked[e.Whole] = append(asked[e.Whole], e)
		}
	}
	for a, times := range asked {
		some, err := t.meet(ctx, a, times)
		if err != nil {
			return err
		}
		ops = append(ops, some...)
	}
	if err := t.store.Apply(ctx, ops...); err != nil {
		return err
	}
	t.met += len(asked)
	return nil
}

// tidy keeps all lists within their bounds, now and then.
func (t *Trail) tidy() {
	t.mu.Lock()
	keys := t.keys
	t.mu.Unlock()
	if keys == nil {
		return // nothing has happened yet
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyTime)
	defer cancel()
	t.running.Go(func() { // Close doesn't wait for it
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	var failed error
	if t.met >= slackStrangers {
		if failed = t.forgetStrangers(ctx, keys); failed == nil {
			t.met = 0
		}
	}
	for _, p := range t.places {
		if failed == nil && t.unseen[p.bucket] >= pruneEvery {
			if failed = t.prune(ctx, keys, p); failed == nil {
				t.unseen[p.bucket] = 0
			}
		}
	}
	if failed != nil {
		level := slog.LevelWarn
		if errors.Is(ctx.Err(), context.Canceled) {
			level = slog.LevelDebug // this Trail is closing; the next one begins with it
		}
		t.tell(level, "the end of the history couldn't be cut off for now", "error", failed)
	}
}

// prune deletes events of a place that has too many: the oldest of those owners that have the
// most, so that nobody who causes many pushes out another's.
func (t *Trail) prune(ctx context.Context, keys *secret.Keyring, p place) error {
	over := -p.most
	for after := ""; ; {
		recs, err := t.store.Scan(ctx, t.firm, p.bucket, "", after, 1000)
		if err != nil {
			return err
		}
		if over += len(recs); len(recs) < 1000 {
			break
		}
		after = recs[len(recs)-1].Key.ID
	}
	if over <= 0 {
		return nil
	}
	type found struct {
		id    string
		owner int
	}
	var all []found
	var counts []int // by owner
	numbers, askers := map[string]int{}, map[string]string{}
	for after := ""; ; {
		recs, err := t.store.Scan(ctx, t.firm, p.bucket, "", after, 1000)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			name := t.ownerOf(ctx, keys, rec, askers)
			number, known := numbers[name]
			if !known {
				number = len(counts)
				numbers[name], counts = number, append(counts, 0)
			}
			counts[number]++
			all = append(all, found{rec.Key.ID, number})
		}
		if len(recs) < 1000 {
			break
		}
		after = recs[len(recs)-1].Key.ID
	}
	share := fairShare(counts, p.most)
	var ops []store.Op
	for _, one := range all { // from the oldest on
		if over <= 0 {
			break
		}
		if counts[one.owner] > share {
			ops = append(ops, store.Delete(store.Key{Firm: t.firm, Bucket: p.bucket, ID: one.id}))
			counts[one.owner]--
			over--
		}
	}
	for some := range slices.Chunk(ops, batch) {
		if err := t.store.Apply(ctx, some...); err != nil {
			return err
		}
	}
	return nil
}

// ownerOf returns whose share of its place an event takes: the contact's, also where only the
// request says which; else that of the network that it came from; else that of its kind. askers
// are the contacts of requests; those that the event tells of are added.
func (t *Trail) ownerOf(ctx context.Context, keys *secret.Keyring, rec store.Record, askers map[string]string) string {
	opened, err := bucketOf[Event](t, keys, rec.Key.Bucket).Open(ctx, rec)
	if err != nil {
		return ""
	}
	e := opened.Value
	switch asker := askers[e.Request]; {
	case e.Contact != "":
		if e.Request != "" {
			askers[e.Request] = e.Contact
		}
		return "contact " + e.Contact
	case asker != "":
		return "contact " + asker
	case e.IP.IsValid():
		ip, bits := e.IP.Unmap().WithZone(""), 24
		if ip.Is6() {
			bits = 48
		}
		return "network " + netip.PrefixFrom(ip, bits).Masked().String()
	}
	return "kind " + string(e.Kind)
}

// fairShare returns how many each may keep where there is room for so many in all: the largest
// number with which all that they keep fits.
func fairShare(counts []int, room int) int {
	counts = slices.Sorted(slices.Values(counts))
	for i, n := range counts {
		rest := len(counts) - i
		if n*rest > room { // they and all that have more get the same
			return room / rest
		}
		room -= n
	}
	return room + slices.Max(append(counts, 0))
}

// idTime is the first part of an ID: its order is that of time.
const idTime = "20060102t150405.000000"

// newID makes the ID of an event. IDs of several processes don't collide.
func newID(at time.Time) string {
	return at.UTC().Format(idTime) + "-" + strings.ToLower(crypto.Text()[:10])
}

// timeOf returns the time in an ID; zero where there is none.
func timeOf(id string) time.Time {
	at, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
	if err != nil {
		return time.Time{}
	}
	return at
}
