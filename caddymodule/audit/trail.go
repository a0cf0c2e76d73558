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
	// Keep is how long events are stored, KeepUnknown those without a contact.
	Keep        = 90 * 24 * time.Hour
	KeepUnknown = 30 * 24 * time.Hour

	// Maximum numbers of events of a firm; see prune.
	maxEvents  = 100_000
	maxUnknown = 10_000

	writeEvery   = 500 * time.Millisecond // events within this time, and at most as much again, share a write
	retryEvery   = 2 * time.Second        // while the store is unavailable
	writeTimeout = 5 * time.Second        // for one write
	pruneTimeout = 30 * time.Second       // for pruning
	maxPending   = 20_000                 // events waiting for the store
	batch        = 200                    // events in one write
	pruneEvery   = 500                    // stored events between two prunings

	pruneBusyEvery = 20 * pruneEvery // the same, while events arrive as fast as they are written
)

// EventLog stores and counts the events of one firm. It outlives configurations: their Logs share it.
// All methods are safe for concurrent use; Trails of several processes may write to one store.
type EventLog struct {
	firm     string
	store    store.Store
	now      func() time.Time
	counters *Counters

	wake    chan struct{} // signals that something is pending
	flush   chan chan struct{}
	stop    chan struct{}
	running sync.WaitGroup

	mu      sync.Mutex
	last    time.Time // of the latest event; IDs must keep the order
	floods  floodLimiter
	pending []entry
	lost    int          // since the last log line about it
	logger  *slog.Logger // of the latest event
	keys    *secret.Keyring
	unread  map[string]bool // buckets whose unreadable records were logged
	stored  map[string]int  // by bucket: events stored through With that the writer hasn't counted yet

	// Only the writer uses these.
	histories      []history      // with their limits
	sincePrune     map[string]int // by bucket: events stored since it was pruned
	unknownWritten int            // unknown addresses written since their list was pruned
}

// entry is an event that waits for the store.
type entry struct {
	Event
	keys *secret.Keyring
}

// NewEventLog returns the EventLog of a firm. Close it.
func NewEventLog(firm string, s store.Store, now func() time.Time, c *Counters) *EventLog {
	t := &EventLog{firm: firm, store: s, now: now, counters: c, wake: make(chan struct{}, 1),
		flush: make(chan chan struct{}), stop: make(chan struct{}), stored: make(map[string]int),
		histories: []history{contactEvents, unknownEvents}, sincePrune: map[string]int{contactEvents.bucket: pruneEvery, unknownEvents.bucket: pruneEvery}, unknownWritten: unknownSlack}
	c.init(firm)
	t.running.Go(t.write)
	return t
}

// Close writes pending events, for at most five seconds, and ends the writer. Later events are
// counted and lost.
func (t *EventLog) Close() error {
	close(t.stop)
	t.running.Wait()
	return nil
}

// Flush returns when all events recorded before are stored, when the store fails, or when ctx is
// done.
func (t *EventLog) Flush(ctx context.Context) {
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

// add sets the event's time and ID, counts and queues it, and reports whether to log it.
func (t *EventLog) add(l *Log, e *Event) bool {
	t.counters.count(t.firm, e.Kind)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.logger, t.keys = l.Logger, l.Keys
	if e.ID != "" { // stored through With
		t.stored[historyOf(*e).bucket]++
		t.notify() // to count it too
		return true
	}
	if t.floods.drop(l, *e, t.now()) {
		t.notify() // to write the summary in time
		return false
	}
	t.queue(l, e)
	return true
}

// with sets the event's time and ID, and returns the Op that stores it.
func (t *EventLog) with(l *Log, e Event) (Event, []store.Op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stamp(&e)
	op, _ := t.record(entry{e, l.Keys})
	return e, []store.Op{op}
}

// stamp sets the event's time and ID. The caller holds t.mu.
func (t *EventLog) stamp(e *Event) {
	now := t.now().UTC().Truncate(time.Microsecond)
	if !now.After(t.last) && t.last.Sub(now) < time.Second { // otherwise the clock was set
		now = t.last.Add(time.Microsecond)
	}
	t.last = now
	e.Time, e.ID = now, newID(now)
}

// queue stamps and queues the event. The caller holds t.mu.
func (t *EventLog) queue(l *Log, e *Event) {
	t.stamp(e)
	if len(t.pending) >= maxPending {
		t.lost++
		t.counters.addLost(t.firm, 1)
		return
	}
	t.pending = append(t.pending, entry{*e, l.Keys})
	t.notify()
}

func (t *EventLog) notify() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// write is the only writer. It waits for the first event and then a little for others, so that many
// events share a write and no caller waits.
func (t *EventLog) write() {
	var wake <-chan time.Time
	for {
		var done chan struct{}
		select {
		case <-t.wake:
			if wake == nil {
				// At a random time, so that timing other requests doesn't reveal what was written.
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

// writeAll writes pending events, and returns when to call it again; 0: at the next wake.
func (t *EventLog) writeAll(end bool) time.Duration {
	all, cancel := context.WithTimeout(context.Background(), writeTimeout) // at the end, for everything
	defer cancel()
	again := t.summarize(end)
	t.countStored()
	for {
		t.mu.Lock()
		some := t.pending[:min(len(t.pending), batch)]
		t.mu.Unlock()
		if len(some) == 0 {
			break
		}
		ctx, done := all, context.CancelFunc(func() {})
		if !end {
			ctx, done = context.WithTimeout(context.Background(), writeTimeout)
		}
		err := t.writeEvents(ctx, some)
		done()
		if err != nil {
			t.log(slog.LevelWarn, "events not stored yet; they wait in memory", "error", err)
			return retryEvery
		}
		t.mu.Lock()
		t.pending = append([]entry(nil), t.pending[len(some):]...)
		t.mu.Unlock()
		if !end && t.due(pruneBusyEvery) { // events arrive as fast as they are written
			t.prune()
		}
	}
	if !end && (t.unknownWritten >= unknownSlack || t.due(pruneEvery)) { // at the end there is no time; the next process prunes
		t.prune()
	}
	t.mu.Lock()
	lost := t.lost
	t.lost = 0
	t.mu.Unlock()
	if lost > 0 {
		t.log(slog.LevelError, "events missing from the history because the store was unavailable; only their log lines remain", "events", lost)
	}
	return again
}

// countStored adds the events that were stored through With.
func (t *EventLog) countStored() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for bucket, n := range t.stored {
		t.sincePrune[bucket] += n
	}
	clear(t.stored)
}

// due reports whether n events of a history were stored since it was pruned.
func (t *EventLog) due(n int) bool {
	return slices.ContainsFunc(t.histories, func(p history) bool { return t.sincePrune[p.bucket] >= n })
}

// summarize records summaries of dropped events, and returns when to do so again.
func (t *EventLog) summarize(end bool) time.Duration {
	t.mu.Lock()
	all, wait := t.floods.summaries(t.now(), end)
	var told []Event
	for _, s := range all {
		e := Event{Kind: s.kind, More: s.more}
		t.queue(s.log, &e)
		told = append(told, e)
	}
	t.mu.Unlock()
	for i, e := range told {
		all[i].log.line(context.Background(), e)
	}
	return wait
}

// logUnreadable logs, once for each bucket, that records can't be read.
func (t *EventLog) logUnreadable(bucket string, records int) {
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
		t.log(slog.LevelError, "event records unreadable and not shown: another release wrote them, a secret that is no longer in the Caddyfile sealed them, or they are damaged",
			"bucket", bucket, "records", records, "what_to_do", "if you went back to an earlier release, upgrade again; if you changed the secret, write the older one behind the new one; otherwise find out who can write to the store")
	}
}

func (t *EventLog) log(level slog.Level, message string, args ...any) {
	t.mu.Lock()
	logger := t.logger
	t.mu.Unlock()
	if logger != nil {
		logger.Log(context.Background(), level, message, args...)
	}
}

// writeEvents writes some events in one transaction, so that events with and without a contact cost the
// same. Writing an event twice has no effect.
func (t *EventLog) writeEvents(ctx context.Context, some []entry) error {
	var ops []store.Op
	asked := map[address.Address][]entry{}
	for _, e := range some {
		op, p := t.record(e)
		ops = append(ops, op)
		t.sincePrune[p.bucket]++
		if e.Kind == Unknown && e.Whole != "" {
			asked[e.Whole] = append(asked[e.Whole], e)
		}
	}
	for a, times := range asked {
		some, err := t.recordUnknown(ctx, a, times)
		if err != nil {
			return err
		}
		ops = append(ops, some...)
	}
	if err := t.store.Apply(ctx, ops...); err != nil {
		return err
	}
	t.unknownWritten += len(asked)
	return nil
}

// prune keeps all lists within their limits.
func (t *EventLog) prune() {
	t.mu.Lock()
	keys := t.keys
	t.mu.Unlock()
	if keys == nil {
		return // no events yet
	}
	ctx, cancel := context.WithTimeout(context.Background(), pruneTimeout)
	defer cancel()
	t.running.Go(func() { // Close cancels the pruning
		select {
		case <-t.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	var failed error
	if t.unknownWritten >= unknownSlack {
		if failed = t.pruneUnknown(ctx, keys); failed == nil {
			t.unknownWritten = 0
		}
	}
	for _, p := range t.histories {
		if failed == nil && t.sincePrune[p.bucket] >= pruneEvery {
			if failed = t.pruneHistory(ctx, keys, p); failed == nil {
				t.sincePrune[p.bucket] = 0
			}
		}
	}
	if failed != nil {
		level := slog.LevelWarn
		if errors.Is(ctx.Err(), context.Canceled) {
			level = slog.LevelDebug // this EventLog is closing; the next one prunes
		}
		t.log(level, "events not pruned; it is tried again", "error", failed)
	}
}

// pruneHistory deletes events of a history that has too many: the oldest events of the owners with
// the most, so that many events of one owner don't push out another's.
func (t *EventLog) pruneHistory(ctx context.Context, keys *secret.Keyring, p history) error {
	over := -p.max
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
	share := fairShare(counts, p.max)
	var ops []store.Op
	for _, one := range all { // oldest first
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

// ownerOf returns the owner of an event: its contact, even if only an earlier event of its request
// names the contact; otherwise the client's network; otherwise its kind. askers holds the contacts
// of requests; ownerOf adds to it.
func (t *EventLog) ownerOf(ctx context.Context, keys *secret.Keyring, rec store.Record, askers map[string]string) string {
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

// fairShare returns how many events each owner may keep so that all together fit into room: the
// largest such number.
func fairShare(counts []int, room int) int {
	counts = slices.Sorted(slices.Values(counts))
	for i, n := range counts {
		rest := len(counts) - i
		if n*rest > room { // this and all larger ones get the same
			return room / rest
		}
		room -= n
	}
	return room + slices.Max(append(counts, 0))
}

// idTime is the format of the time in an ID. IDs sort by time.
const idTime = "20060102t150405.000000"

// newID returns the ID of an event. IDs of several processes don't collide.
func newID(at time.Time) string {
	return at.UTC().Format(idTime) + "-" + strings.ToLower(crypto.Text()[:10])
}

// timeOf returns the time in an ID; zero if there is none.
func timeOf(id string) time.Time {
	at, err := time.Parse(idTime, id[:min(len(id), len(idTime))])
	if err != nil {
		return time.Time{}
	}
	return at
}
