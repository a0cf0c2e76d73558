package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

var errNoLetter = errors.New("the mail itself is missing in the store")

// send hands a mail over at its turn, and writes down how that ended. run ends when the queue is
// to stop, ctx when it has no more time for that.
func (q *Queue) send(run, ctx context.Context, id string, it item, t *turn) result {
	if q.Process != nil {
		if !q.Process.take(id) { // the queue before a reload has it
			it.due = q.now().Add(time.Second)
			return result{toReady, it}
		}
		defer q.Process.release(id)
	}
	e, m, r := q.lend(ctx, id, it, t)
	if r.to == toFinish {
		q.finish(run, ctx, id, e, func() {})
		return result{}
	}
	if m == nil {
		return r
	}
	endLease := q.keepLease(ctx, id)
	defer endLease()
	endStep, err := q.handOver(ctx, *m)
	defer endStep()
	err = q.Server.noted(ctx, q, e, err, t)
	q.Server.giveBack(t)
	if err == nil {
		q.finish(run, ctx, id, e, endStep)
		return result{}
	}
	endLease()
	if errors.Is(err, ErrRefused) {
		return q.end(ctx, id, it, e, err)
	}
	return q.putBack(ctx, id, it, e, err)
}

// late returns the error of a mail whose time is over, with why it wasn't sent before.
func (q *Queue) late(e entry) error {
	reason := e.Last
	if down, ok := q.Outage(); ok && reason == "" {
		reason = down.Reason
	}
	if reason == "" {
		return ErrLate
	}
	return fmt.Errorf("%w: %s", ErrLate, reason)
}

// lend has nobody else send the mail: by a lease in the store, where other processes may have that
// open. Where it isn't to be sent now the message is nil, and result says what becomes of the entry.
func (q *Queue) lend(ctx context.Context, id string, it item, t *turn) (entry, *Message, result) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	for range conflicts {
		rec, e, err := q.load(ctx, id)
		if err != nil {
			return e, nil, q.trouble(id, it, "read", err)
		}
		now := q.now()
		switch step, at := q.next(e, now); {
		case step != stepWait && q.sent.Has(q.Firm, id):
			return e, nil, result{to: toFinish}
		case step == stepDrop:
			return e, nil, q.end(ctx, id, it, e, q.late(e))
		case step == stepWait:
			return e, nil, result{toReady, item{due: at, common: e.Common}}
		}
		data, err := q.letter(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return e, nil, q.end(ctx, id, it, e, errNoLetter)
		} else if err != nil {
			return e, nil, q.trouble(id, it, "read the mail", err)
		}
		if !q.Server.pay(t) {
			return e, nil, result{toReady, it}
		}
		var ops []store.Op
		if q.Attempt != nil {
			if ops, err = q.Attempt(ctx, e.Ref, now); errors.Is(err, ErrDrop) {
				return e, nil, q.end(ctx, id, it, e, err)
			} else if err != nil {
				return e, nil, q.trouble(id, it, "begin", err)
			}
		}
		switch {
		case q.Process == nil:
			e.Owner, e.Until = q.name, now.Add(q.lease)
			ops = append([]store.Op{store.Replace(rec.Key, rec.Value, q.sealer.sealEntry(id, e), e.expires())}, ops...)
		case len(ops) > 0:
			ops = append([]store.Op{store.Check(rec.Key, rec.Value)}, ops...)
		}
		if len(ops) > 0 {
			err = q.Store.Apply(ctx, ops...)
		}
		switch {
		case err == nil:
			return e, &Message{ID: id, From: e.From, To: e.To, Data: data}, result{}
		case !errors.Is(err, store.ErrConflict):
			return e, nil, q.trouble(id, it, "lease", err)
		}
	}
	return entry{}, nil, q.trouble(id, it, "lease", store.ErrConflict)
}

// letter returns the bytes of a mail.
func (q *Queue) letter(ctx context.Context, id string) ([]byte, error) {
	rec, err := q.Store.Get(ctx, q.sealer.key(bucketLetters, id))
	if err != nil {
		return nil, err
	}
	return q.sealer.open(rec.Key, rec.Value)
}

// handOver lets the Sender send. endStep is to be called when it is noted how that ended; see
// Message.lastStep.
func (q *Queue) handOver(ctx context.Context, m Message) (endStep func(), err error) {
	endStep = func() {}
	sent := false
	defer func() {
		if !sent { // Send panicked
			endStep()
		}
	}()
	var begun time.Time
	m.last = func(ctx context.Context) { endStep, begun = q.Server.last.begin(ctx), time.Now() }
	if q.Channel == Mail {
		m.Data = redate(m.Data, q.now())
	}
	if q.Sign != nil {
		if m.Data, err = q.Sign(m.Data); err != nil {
			return endStep, fmt.Errorf("sign the mail: %w", err)
		}
	}
	err = q.Sender.Send(ctx, m)
	sent = true
	if err == nil && !begun.IsZero() {
		q.Server.last.took(time.Since(begun))
	}
	return endStep, err
}

// redate has the message's Date be that of this hand-over, in the zone that it had: what it
// says of a time, such as "within 10 minutes", counts from there, however long it waited.
func redate(data []byte, now time.Time) []byte {
	const field = "Date: "
	head, _, _ := bytes.Cut(data, []byte("\r\n\r\n"))
	at := 0
	if !bytes.HasPrefix(head, []byte(field)) {
		if at = bytes.Index(head, []byte("\r\n"+field)) + 2; at < 2 {
			return data
		}
	}
	line, _, _ := bytes.Cut(data[at+len(field):], []byte("\r\n"))
	was, err := mail.ParseDate(string(line))
	if err != nil {
		return data
	}
	return slices.Concat(data[:at+len(field)], []byte(now.In(was.Location()).Format(time.RFC1123Z)), data[at+len(field)+len(line):])
}

// keepLease renews the lease until the function it returns is called. When renewing
// fails there is nothing better to do than to go on: the mail may be with the server.
func (q *Queue) keepLease(ctx context.Context, id string) (stop func()) {
	if q.Process != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(q.lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			err := q.change(ctx, id, func(e *entry) { e.Until = q.now().Add(q.lease) })
			if err != nil && ctx.Err() == nil {
				q.Log.Warn("can't keep the lease of a "+q.Channel.String(), q.Channel.String(), id, "error", err)
			}
		}
	}()
	return func() { cancel(); <-done }
}

// errLost: another queue has the entry in hand, or it is gone.
var errLost = errors.New("another queue has it")

// change changes an entry that this queue has the lease of.
func (q *Queue) change(ctx context.Context, id string, f func(*entry)) error {
	key := q.sealer.key(bucketQueue, id)
	return store.Swap(ctx, q.Store, key, func(was []byte) ([]byte, time.Time, []store.Op, error) {
		if was == nil {
			return nil, time.Time{}, nil, errLost
		}
		e, err := q.sealer.openEntry(store.Record{Key: key, Value: was})
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		if e.Owner != q.name && q.Process == nil {
			return nil, time.Time{}, nil, errLost
		}
		f(&e)
		return q.sealer.sealEntry(id, e), e.expires(), nil, nil
	})
}

// afterwards is the context for writing down what has happened: it must be written even
// while the queue stops.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), storeTime)
}

// finish deletes a mail that the server has taken. It tries until that succeeds or the queue
// stops, so that the mail isn't sent once more.
func (q *Queue) finish(run, ctx context.Context, id string, e entry, endStep func()) {
	at := q.now()
	if q.sent.Note(q.Firm, id) {
		endStep()
	}
	for fails := 1; ; fails++ {
		err := q.removeSent(ctx, id, e, at)
		if err == nil {
			q.sent.Forget(q.Firm, id)
			if q.Ended != nil {
				ctx, cancel := afterwards(ctx)
				defer cancel()
				q.Ended(ctx, id, nil)
			}
			q.Log.Info(q.Channel.String()+" sent", append(q.about(id, e), "after", at.Sub(e.Asked).Round(time.Millisecond))...)
			return
		}
		endStep() // the others needn't wait for the store
		wait := backOff(finishSteps, fails)
		q.Log.Error("a "+q.Channel.String()+" was sent and can't be deleted", q.Channel.String(), id, "error", err, "next_try", q.now().Add(wait))
		select {
		case <-run.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (q *Queue) removeSent(ctx context.Context, id string, e entry, at time.Time) (err error) {
	defer func() {
		if v := recover(); v != nil { // in a hook
			err = fmt.Errorf("panic: %T", v)
		}
	}()
	ctx, cancel := afterwards(ctx)
	defer cancel()
	return q.remove(ctx, id, func() ([]store.Op, error) {
		if q.Sent == nil {
			return nil, nil
		}
		return q.Sent(ctx, e.Ref, at)
	})
}

// end deletes an entry that will never be sent, and says why.
func (q *Queue) end(ctx context.Context, id string, it item, e entry, why error) result {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	dropped := errors.Is(why, ErrDrop)
	err := q.remove(ctx, id, func() ([]store.Op, error) {
		var keep []store.Op
		if !dropped {
			keep = append(keep, q.sealer.unsent(id, e, q.now(), why))
		}
		if q.Failed == nil || !e.Ready && e.Ref == "" {
			return keep, nil
		}
		ops, err := q.Failed(ctx, e.Ref, q.now(), why)
		return append(keep, ops...), err
	})
	if err != nil {
		return q.trouble(id, it, "delete unsent", err)
	}
	if q.Ended != nil && !dropped {
		q.Ended(ctx, id, why)
	}
	level := slog.LevelWarn
	if dropped {
		level = slog.LevelInfo
	}
	q.Log.Log(ctx, level, q.Channel.String()+" not sent", append(q.about(id, e), "error", why, "last_error", e.Last)...)
	return result{}
}

// remove deletes an entry together with the Ops of a hook. If they conflict with newer records, it
// calls the hook again.
func (q *Queue) remove(ctx context.Context, id string, hook func() ([]store.Op, error)) (err error) {
	for range conflicts {
		var ops []store.Op
		if ops, err = hook(); err != nil {
			return err
		}
		ops = append([]store.Op{
			store.Delete(q.sealer.key(bucketQueue, id)),
			store.Delete(q.sealer.key(bucketLetters, id)),
		}, ops...)
		if err = q.Store.Apply(ctx, ops...); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return err
}

// putBack returns a mail that wasn't taken to the queue, to be tried again.
func (q *Queue) putBack(ctx context.Context, id string, it item, e entry, why error) result {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	now, reason := q.now(), Reason(why)
	var due time.Time
	steps := messageSteps
	switch {
	case errors.Is(why, context.Canceled), errors.Is(why, errNarrow):
		q.Log.Debug(q.Channel.String()+" left to the next one", append(q.about(id, e), "error", why)...)
		reason = e.Last
	case errors.Is(why, ErrServer): // noted has told
		q.Log.Debug(q.Channel.String()+" waits for the "+q.Channel.server(), append(q.about(id, e), "error", why)...)
	default:
		if errors.Is(why, ErrPolicy) {
			steps = policySteps
		}
		due = now.Add(backOff(steps, e.Tries+1))
		if due.After(e.NotAfter) {
			due = e.NotAfter // when it ends
		}
		level := slog.LevelInfo
		if reason != e.Last {
			level = slog.LevelWarn
		}
		q.Log.Log(ctx, level, q.Channel.String()+" not taken; it will be tried again", append(q.about(id, e), "try", e.Tries+1, "error", reason, "what_to_do", Advice(reason), "until", due)...)
	}
	var tries int
	err := q.change(ctx, id, func(e *entry) {
		e.Owner, e.Until, e.Last = "", time.Time{}, reason
		if !due.IsZero() {
			e.Tries, e.Due = e.Tries+1, due
		}
		tries = e.Tries
	})
	if errors.Is(err, errLost) {
		return result{} // the next look finds it, if it is still there
	} else if err != nil {
		return q.trouble(id, it, "put back", err)
	}
	if q.Waiting != nil && reason != e.Last {
		q.Waiting(ctx, id, reason)
	}
	if errors.Is(why, ErrServer) {
		tries = it.tries + 1
	}
	return result{toReady, item{due: due, tries: tries, common: e.Common}}
}

// about returns the fields of a log line about an entry, without its recipient.
func (q *Queue) about(id string, e entry) []any {
	fields := []any{q.Channel.String(), id, "kind", e.Kind}
	if q.Channel == Mail {
		fields = append(fields, "to_domain", domain(e.To))
	}
	return fields
}
