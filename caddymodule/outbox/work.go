package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	page      = 256 // records in one Scan
	conflicts = 8   // how often to begin anew at once, when somebody else was faster
)

// result is where an entry goes after a worker had it; the zero value: out of mind.
type result struct {
	lane *lane
	item item
}

// prepareAll does the entries of q.asked until run is done: several at a time where many
// wait, so that a flood of requests that come to nothing is worked off at one write for many.
func (q *Queue) prepareAll(run, hand context.Context) {
	for run.Err() == nil {
		all, wait := q.takeSeveral()
		if len(all) == 0 {
			q.asked.sleep(run, wait)
			continue
		}
		q.prepareSeveral(run, hand, all)
	}
}

const (
	severalAt   = 8   // of so many that wait, a worker takes two at a time, of twice as many three, …
	mostSeveral = 128 // and at most so many
)

// asked is an entry of q.asked that a worker has in hand.
type asked struct {
	id string
	item
	// Once it came to nothing:
	end  store.Op
	done func() // may be nil
}

// takeSeveral gives out the first entries of q.asked, or how long to wait for one.
func (q *Queue) takeSeveral() (all []asked, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	ids, due := q.asked.several(now, min(1+len(q.asked.items)/severalAt, mostSeveral))
	switch {
	case len(ids) > 0:
	case due.IsZero():
		return nil, -1
	default:
		return nil, due.Sub(now)
	}
	for _, id := range ids {
		all = append(all, asked{id: id, item: q.asked.items[id]})
		delete(q.asked.items, id)
		q.busy[id] = true
	}
	q.asked.ring() // there may be more for the next worker
	return all, 0
}

// prepareSeveral prepares entries one after the other, and ends together those that came to
// nothing.
func (q *Queue) prepareSeveral(run, hand context.Context, all []asked) {
	var nothing []asked
	for _, one := range all {
		if run.Err() != nil {
			q.put(one.id, result{q.asked, one.item}) // this queue is stopping; the next one takes over
			continue
		}
		ended := false
		r := q.guard(hand, one.id, one.item, func(ctx context.Context, id string, it item) result {
			return q.prepare(ctx, id, it, func(end store.Op, done func()) {
				one.end, one.done, ended = end, done, true
			})
		})
		if ended {
			nothing = append(nothing, one)
		} else {
			q.put(one.id, r)
		}
	}
	q.endTogether(hand, nothing)
}

// endTogether ends entries that came to nothing, in one step if nobody has touched any.
func (q *Queue) endTogether(hand context.Context, all []asked) {
	if len(all) == 0 {
		return
	}
	ops := make([]store.Op, len(all))
	for i, one := range all {
		ops[i] = one.end
	}
	ctx, cancel := context.WithTimeout(hand, storeTime)
	defer cancel()
	err := q.Store.Apply(ctx, ops...)
	for _, one := range all {
		q.put(one.id, q.guard(hand, one.id, one.item, func(ctx context.Context, id string, it item) result {
			switch {
			case errors.Is(err, store.ErrConflict): // another queue did one of them
				return q.prepare(ctx, id, it, nil)
			case err != nil:
				return q.trouble(id, it, "store", err)
			}
			if one.done != nil {
				one.done()
			}
			return result{}
		}))
	}
}

// work does the entries of a lane, one after the other, until run is done.
func (q *Queue) work(run, hand context.Context, l *lane, do func(context.Context, string, item) result) {
	for run.Err() == nil {
		id, it, wait := q.take(l)
		if id == "" {
			l.sleep(run, wait)
			continue
		}
		q.put(id, q.guard(hand, id, it, do))
	}
}

// take gives out the first entry of the lane, or "" and how long to wait for one.
func (q *Queue) take(l *lane) (string, item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.now()
	if l == q.ready {
		if wait, held := q.down.holds(now); held {
			return "", item{}, wait
		}
	}
	id, due := l.first(now, l == q.ready && !q.down.since.IsZero())
	switch {
	case id == "" && due.IsZero():
		return "", item{}, -1
	case id == "":
		return "", item{}, due.Sub(now)
	}
	it := l.items[id]
	if l == q.ready && !it.sent {
		if wait, held := q.narrow.holds(q.sending, now); held {
			return "", item{}, wait // put rings when one is through
		}
		if wait := untilToken(q.Pace); wait > 0 {
			return "", item{}, wait
		}
		q.down.probe = true // counts only while there is an outage
	}
	delete(l.items, id)
	q.busy[id] = true
	l.ring() // there may be more for the next worker
	return id, it, 0
}

// untilToken returns how long it takes until the limiter lets one more through. By the
// real clock: a limit is a promise to a server that has its own.
func untilToken(l *rate.Limiter) time.Duration {
	if l.Limit() == rate.Inf {
		return 0
	}
	missing := 1 - l.Tokens()
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing/float64(l.Limit())*float64(time.Second)) + time.Millisecond
}

// put takes an entry back from a worker.
func (q *Queue) put(id string, r result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.busy, id)
	q.down.probe = false
	if r.lane != nil {
		r.lane.items[id] = r.item
		r.lane.ring()
	} else if reserved(id) {
		q.apart--
	}
	q.ready.ring() // one may have waited for the probe
}

// guard contains a panic: of Prepare, a hook or the Sender, over one entry. What it was
// about isn't logged, since it may be anything, a link too.
func (q *Queue) guard(ctx context.Context, id string, it item, do func(context.Context, string, item) result) (r result) {
	defer func() {
		if v := recover(); v != nil {
			why := fmt.Sprintf("%T", v)
			if err, ok := v.(runtime.Error); ok {
				why = err.Error()
			}
			q.Log.Error("panic over a mail", "mail", id, "error", why, "stack", string(debug.Stack()))
			r = q.again(it)
		}
	}()
	return do(ctx, id, it)
}

// again puts an entry off because of something that isn't the mail's fault. It goes
// through q.asked, where its record is read anew.
func (q *Queue) again(it item) result {
	it.fails++
	it.due = q.now().Add(backOff(messageSteps, it.fails))
	if it.sent {
		return result{q.ready, it}
	}
	return result{q.asked, it}
}

// trouble logs why an entry is put off, and puts it off.
func (q *Queue) trouble(id string, it item, doing string, err error) result {
	if errors.Is(err, store.ErrNotFound) {
		return result{} // it is done: by another queue, or by its expiry
	}
	r := q.again(it)
	level := slog.LevelError
	if errors.Is(err, context.Canceled) {
		level = slog.LevelDebug // this queue is stopping; the next one takes over
	}
	q.Log.Log(context.Background(), level, "mail is put off", "mail", id, "step", doing, "error", err, "until", r.item.due)
	return r
}

// keepLooking takes in what lies in the store: at the start, and then what other queues
// left behind or accepted without this one being woken.
func (q *Queue) keepLooking(ctx context.Context) {
	every := q.Look
	if every <= 0 {
		every = 5 * time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for failed := false; ; {
		err := q.look(ctx)
		if err != nil && !failed && ctx.Err() == nil {
			q.Log.Error("can't look for waiting mail", "error", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (q *Queue) look(ctx context.Context) error {
	for after := ""; ; {
		recs, err := q.Store.Scan(ctx, q.Firm, bucketQueue, "", after, page)
		if err != nil {
			return err
		}
		q.mu.Lock()
		room := func() bool { return q.known()-q.apart < q.max() }
		for _, rec := range recs {
			if id := rec.Key.ID; reserved(id) && q.roomApart() || !reserved(id) && room() { // the rest comes when these are gone
				q.learn(id)
			}
		}
		// By now the clock may have been set, or a deadline come closer.
		q.asked.ring()
		q.ready.ring()
		full := !room() && !q.roomApart()
		q.mu.Unlock()
		if len(recs) < page || full {
			return nil
		}
		after = recs[len(recs)-1].Key.ID
	}
}

// load reads an entry.
func (q *Queue) load(ctx context.Context, id string) (store.Record, entry, error) {
	rec, err := q.Store.Get(ctx, q.sealer.key(bucketQueue, id))
	if err != nil {
		return rec, entry{}, err
	}
	e, err := q.sealer.openEntry(rec)
	return rec, e, err
}

// prepare makes a mail of a request, or passes on what is a mail already. Where it comes to
// nothing, and later isn't nil, it calls that with the Op that ends the entry and with what to
// call after that, in place of doing both.
func (q *Queue) prepare(ctx context.Context, id string, it item, later func(end store.Op, done func())) result {
	ctx, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	for range conflicts {
		rec, e, err := q.load(ctx, id)
		if err != nil {
			return q.trouble(id, it, "read", err)
		}
		if !q.now().Before(e.NotAfter) {
			return q.end(ctx, id, it, e, q.late(e))
		}
		if e.Ready {
			_, due := q.next(e, q.now())
			return result{q.ready, item{due: due, common: e.Common}}
		}
		p, err := q.Prepare(ctx, Request{id, e.Kind, e.Asked, e.NotAfter, e.Payload})
		if err != nil {
			return q.trouble(id, it, "prepare", err)
		}
		ops := q.prepared(rec, e, p)
		if p.Message == nil && p.Later.IsZero() && len(ops) == 1 && later != nil {
			later(ops[0], p.Done)
			return result{}
		}
		err = q.Store.Apply(ctx, ops...)
		switch {
		case errors.Is(err, store.ErrConflict): // in its Ops, or another queue did it
			continue
		case err != nil:
			return q.trouble(id, it, "store", err)
		}
		if p.Done != nil {
			p.Done()
		}
		switch {
		case !p.Later.IsZero():
			return result{q.asked, item{due: p.Later}}
		case p.Message == nil:
			return result{}
		}
		return result{q.ready, item{common: p.Common}}
	}
	return q.trouble(id, it, "prepare", store.ErrConflict)
}

// prepared returns the one step from a request to what Prepare made of it.
func (q *Queue) prepared(rec store.Record, e entry, p Prepared) []store.Op {
	if !p.Later.IsZero() {
		return append([]store.Op{store.Check(rec.Key, rec.Value)}, p.Ops...)
	}
	if p.Message == nil {
		return append([]store.Op{store.Remove(rec.Key, rec.Value)}, p.Ops...)
	}
	id := rec.Key.ID
	e.Ready, e.Payload = true, nil
	e.From, e.To, e.Ref, e.Common = p.Message.From, p.Message.To, p.Ref, p.Common
	letter := q.sealer.key(bucketLetters, id)
	return append([]store.Op{
		store.Replace(rec.Key, rec.Value, q.sealer.sealEntry(id, e), e.expires()),
		store.Put(letter, q.sealer.seal(letter, p.Message.Data), e.expires()),
	}, p.Ops...)
}
