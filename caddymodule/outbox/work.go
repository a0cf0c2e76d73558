package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	page      = 256 // records in one Scan
	conflicts = 8   // how often to begin anew at once, when somebody else was faster
)

// result is the result of work on an entry.
type result struct {
	to where
	item
}

type where int

const (
	gone where = iota // out of mind
	toAsked
	toReady
	toFinish // a server has taken it before, and the store doesn't know yet
)

// prepareAll prepares entries until run is done: several at a time where many
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
	mostSeveral = 128 // and at most so many,
	mostAtATime = 16  // or where each comes to a mail, so many
)

// asked is an entry that a worker prepares.
type asked struct {
	id string
	item
	// Once it came to nothing:
	end  store.Op
	done func() // may be nil
}

// takeSeveral takes the first entries that are to be prepared in hand, all of one lane, or returns
// how long to wait for one.
func (q *Queue) takeSeveral() (all []asked, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now, first := q.now(), time.Duration(-1)
	for number, l := range q.lanes {
		if number != laneSignIn && len(l.ready.items) >= preparedAhead {
			continue // sendAll rings
		}
		due, wait := l.asked.next(now)
		if len(due) == 0 {
			if wait >= 0 && (first < 0 || wait < first) {
				first = wait
			}
			continue
		}
		most := mostSeveral
		if number != laneSignIn {
			most = mostAtATime
		}
		for range min(1+len(l.asked.items)/severalAt, most, len(due)) {
			id := l.asked.due[0]
			all = append(all, asked{id: id, item: l.take(l.asked, id)})
		}
		q.asked.ring() // there may be more for the next worker
		return all, 0
	}
	return nil, first
}

// prepareSeveral prepares entries. Of the first lane most may come to nothing: they are prepared one
// after the other, and ended together. Of the others most come to a mail: they are prepared at the
// same time, so that the store writes many at once.
func (q *Queue) prepareSeveral(run, hand context.Context, all []asked) {
	if laneOf(all[0].id) != laneSignIn {
		var preparing sync.WaitGroup
		for _, one := range all {
			preparing.Go(func() {
				q.put(one.id, q.guard(hand, one.id, one.item, func(ctx context.Context, id string, it item) result {
					return q.prepare(ctx, id, it, nil)
				}))
			})
		}
		preparing.Wait()
		return
	}
	var nothing []asked
	for _, one := range all {
		if run.Err() != nil {
			q.put(one.id, result{toAsked, one.item}) // this queue is stopping; the next one takes over
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

// sendAll hands over the entries of a lane that are ready, as the Server gives turns, until run
// is done.
func (q *Queue) sendAll(run, hand context.Context, lane int) {
	var last *turn
	defer func() { q.Server.settle(last) }()
	for run.Err() == nil {
		if wait, due := q.dueIn(lane); !due {
			q.Server.settle(last)
			last = nil
			q.lanes[lane].ready.bell.sleep(run, wait)
			continue
		}
		t, err := q.Server.wait(run, lane, last)
		if err != nil {
			return
		}
		last = t
		id, it, ok := q.take(lane, t.probe)
		if !ok {
			q.Server.giveBack(t)
			continue
		}
		q.running.Go(func() {
			defer q.Server.giveBack(t)
			q.put(id, q.guard(hand, id, it, func(ctx context.Context, id string, it item) result {
				return q.send(run, ctx, id, it, t)
			}))
		})
	}
}

// dueIn reports whether something in the lane can be sent, or how long it takes until there is
// (negative: until the bell rings).
func (q *Queue) dueIn(lane int) (wait time.Duration, now bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	due, wait := q.lanes[lane].ready.next(q.now())
	return wait, len(due) > 0
}

// take takes the next entry of the lane that is ready in hand. To probe a server that may be down
// because of one message, it is the one that was tried least often.
func (q *Queue) take(lane int, probe bool) (id string, it item, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[lane]
	due, _ := l.ready.next(q.now())
	if len(due) == 0 {
		return "", item{}, false
	}
	id = due[0]
	if probe {
		for _, other := range due {
			if l.ready.items[other].tries < l.ready.items[id].tries {
				id = other
			}
		}
	}
	if lane != laneSignIn && len(l.ready.items) == preparedAhead {
		q.asked.ring()
	}
	return id, l.take(l.ready, id), true
}

// put takes an entry back that was in hand.
func (q *Queue) put(id string, r result) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[laneOf(id)]
	delete(l.busy, id)
	switch r.to {
	case toAsked:
		l.asked.put(id, r.item, q.now())
		q.asked.ring()
	case toReady:
		l.ready.put(id, r.item, q.now())
	default:
		if reserved(id) && laneOf(id) == laneSignIn {
			q.apart--
		}
	}
}

// guard recovers from a panic of Prepare, a hook or the Sender about one entry. It doesn't log the
// panic's value, which may contain anything, such as a link.
func (q *Queue) guard(ctx context.Context, id string, it item, do func(context.Context, string, item) result) (r result) {
	defer func() {
		if v := recover(); v != nil {
			why := fmt.Sprintf("%T", v)
			if err, ok := v.(runtime.Error); ok {
				why = err.Error()
			}
			q.Log.Error("panic over a "+q.Channel.String(), q.Channel.String(), id, "error", why, "stack", string(debug.Stack()))
			r = q.again(it)
		}
	}()
	return do(ctx, id, it)
}

// again puts an entry off because of something that isn't the mail's fault. Its record is read
// again then.
func (q *Queue) again(it item) result {
	it.fails++
	it.due = q.now().Add(backOff(messageSteps, it.fails))
	return result{toAsked, it}
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
	q.Log.Log(context.Background(), level, q.Channel.String()+" is put off", q.Channel.String(), id, "step", doing, "error", err, "until", r.item.due)
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
		recs, err := q.Store.Scan(ctx, q.Firm, q.Channel.bucket(bucketQueue), "", after, page)
		if err != nil {
			return err
		}
		after = q.takeIn(recs)
		if len(recs) < page {
			break
		}
	}
	q.mu.Lock() // by now the clock may have been set, or a deadline come closer
	q.asked.ring()
	for _, l := range q.lanes {
		l.ready.bell.ring()
	}
	q.mu.Unlock()
	q.Server.Wake()
	return nil
}

// takeIn learns the IDs of records as far as there is room; the rest comes when these are gone. It
// returns the ID after which to look on: that of the last one, or where the next lane begins.
func (q *Queue) takeIn(recs []store.Record) (after string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := false
	for _, rec := range recs {
		after = rec.Key.ID
		if full = !q.room(after); !full {
			q.learn(after)
		}
	}
	prefix := lanePrefix(laneOf(after))
	if full && !q.room(prefix+string(reservedMark)) { // those with a reserved ID may still come
		after = prefix + "\xff"
	}
	return after
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

// prepare turns a request into a mail, or returns the mail if there is one already. If the request
// is dropped and later isn't nil, it passes the Op that ends the entry, and the function to call
// after it, to later instead of using them.
func (q *Queue) prepare(ctx context.Context, id string, it item, later func(end store.Op, done func())) result {
	ctx, cancel := context.WithTimeout(ctx, prepareTime)
	defer cancel()
	for range conflicts {
		rec, e, err := q.load(ctx, id)
		if err != nil {
			return q.trouble(id, it, "read", err)
		}
		if !q.now().Before(e.NotAfter) && !q.sent.Has(q.Firm, id) {
			return q.end(ctx, id, it, e, q.late(e))
		}
		if e.Ready {
			_, due := q.next(e, q.now())
			return result{toReady, item{due: due, common: e.Common}}
		}
		p, err := q.Prepare(ctx, Request{id, e.Kind, e.Asked, e.NotAfter, e.Payload, e.Ref})
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
			return result{toAsked, item{due: p.Later}}
		case p.Message == nil:
			return result{}
		}
		return result{toReady, item{common: p.Common}}
	}
	return q.trouble(id, it, "prepare", store.ErrConflict)
}

// prepared returns the Ops that replace a request by the result of Prepare.
func (q *Queue) prepared(rec store.Record, e entry, p Prepared) []store.Op {
	if !p.Later.IsZero() {
		return append([]store.Op{store.Check(rec.Key, rec.Value)}, p.Ops...)
	}
	if p.Message == nil {
		return append([]store.Op{store.Remove(rec.Key, rec.Value)}, p.Ops...)
	}
	id := rec.Key.ID
	e.Ready = true
	e.From, e.To, e.Ref, e.Common = p.Message.From, p.Message.To, p.Ref, p.Common
	letter := q.sealer.key(bucketLetters, id)
	return append([]store.Op{
		store.Replace(rec.Key, rec.Value, q.sealer.sealEntry(id, e), e.expires()),
		store.Put(letter, q.sealer.seal(letter, p.Message.Data), e.expires()),
	}, p.Ops...)
}
