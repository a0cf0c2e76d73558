package outbox

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/phone"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// bucketUnsent holds the entries that ended unsent, each with its request, so that an operator can
// have it tried again.
const bucketUnsent = "unsent"

// KeepUnsent is how long what ended unsent is listed.
const KeepUnsent = 48 * time.Hour

// ErrInHand is the error of Retry where the mail is on its way to the server.
var ErrInHand = errors.New("outbox: the mail is being sent")

// Entry is the part of a waiting or unsent mail that may be shown.
type Entry struct {
	ID       string    `json:"id"`
	Kind     string    `json:"kind"`
	Asked    time.Time `json:"asked"`
	NotAfter time.Time `json:"not_after"`
	Ready    bool      `json:"ready"`               // it is a mail already
	To       string    `json:"to,omitempty"`        // the recipient's address or number, in part; "": it isn't a mail yet
	Tries    int       `json:"tries"`               // hand-overs that failed
	Due      time.Time `json:"due,omitzero"`        // no try before that
	Last     string    `json:"last_error,omitzero"` // why the last one failed
	Ended    time.Time `json:"ended,omitzero"`      // when it ended unsent
}

func (e entry) shown(id string) Entry {
	out := Entry{ID: id, Kind: e.Kind, Asked: e.Asked, NotAfter: e.NotAfter, Ready: e.Ready, Tries: e.Tries, Due: e.Due, Last: e.Last, Ended: e.Ended}
	switch {
	case strings.HasPrefix(e.To, "+"):
		out.To = phone.Number(e.To).Masked()
	case e.To != "":
		out.To = address.Address(e.To).Masked()
	}
	return out
}

// List returns up to limit waiting entries with IDs after the ID after, in the order of sending, and
// the ID for the next page ("" after the last). It leaves out entries that can't be read (see
// secret.ErrSealed).
func (q *Queue) List(ctx context.Context, after string, limit int) (list []Entry, next string, err error) {
	return q.list(ctx, bucketQueue, after, limit)
}

// ListUnsent is List of the entries that ended unsent within KeepUnsent.
func (q *Queue) ListUnsent(ctx context.Context, after string, limit int) (list []Entry, next string, err error) {
	return q.list(ctx, bucketUnsent, after, limit)
}

func (q *Queue) list(ctx context.Context, bucket, after string, limit int) ([]Entry, string, error) {
	s := q.sealerOf()
	recs, err := q.Store.Scan(ctx, q.Firm, q.Channel.bucket(bucket), "", after, limit)
	if err != nil {
		return nil, "", err
	}
	list, next := make([]Entry, 0, len(recs)), ""
	for _, rec := range recs {
		if e, err := s.openEntry(rec); err == nil && !isSource(rec.Key.ID) {
			list = append(list, e.shown(rec.Key.ID))
		}
	}
	if len(recs) >= limit {
		next = recs[len(recs)-1].Key.ID
	}
	return list, next, nil
}

// Late reports whether the mail ended because its time was over.
func (e Entry) Late() bool { return !e.Ended.IsZero() && !e.Ended.Before(e.NotAfter) }

// unsent returns the Op that keeps an entry that ended unsent.
func (s sealer) unsent(id string, e entry, now time.Time, why error) store.Op {
	e.Owner, e.Until, e.Due, e.Ended, e.Last = "", time.Time{}, time.Time{}, now, Reason(why)
	if errors.Is(why, ErrRefused) {
		e.Tries++
	}
	if why == ErrLate { // and it was never tried
		e.Last = ""
	}
	key := s.key(bucketUnsent, id)
	return store.Put(key, s.seal(key, e.plain()), now.Add(KeepUnsent))
}

// Retry has a mail tried again now: one that waits, or one that ended unsent, which is made anew
// from its request (Prepare is called again). The server is tried at once, too, if it couldn't be
// used. The error is store.ErrNotFound where there is no such mail, ErrLate where its time is
// over, ErrInHand where it is being sent, or the store's.
func (q *Queue) Retry(ctx context.Context, id string) (Entry, error) {
	s := q.sealerOf()
	for range conflicts {
		e, ops, err := q.retry(ctx, s, id)
		if err != nil {
			return e.shown(id), err
		}
		if err = q.Store.Apply(ctx, ops...); errors.Is(err, store.ErrConflict) {
			continue
		} else if err != nil {
			return e.shown(id), err
		}
		q.hurry(id)
		return e.shown(id), nil
	}
	return Entry{}, store.ErrConflict
}

// retry returns the entry as it is to be, and the Ops that make it so.
func (q *Queue) retry(ctx context.Context, s sealer, id string) (entry, []store.Op, error) {
	now := q.now()
	rec, err := q.Store.Get(ctx, s.key(bucketQueue, id))
	if err == nil {
		e, err := s.openEntry(rec)
		switch {
		case err != nil:
			return e, nil, err
		case !now.Before(e.NotAfter):
			return e, nil, ErrLate
		case e.Owner != "" && waits(e.Until, now) || q.inHand(id):
			return e, nil, ErrInHand
		}
		e.Due = time.Time{}
		return e, []store.Op{store.Replace(rec.Key, rec.Value, s.sealEntry(id, e), e.expires())}, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return entry{}, nil, err
	}
	if rec, err = q.Store.Get(ctx, s.key(bucketUnsent, id)); err != nil {
		return entry{}, nil, err
	}
	e, err := s.openEntry(rec)
	if err != nil {
		return e, nil, err
	}
	if !now.Before(e.NotAfter) {
		return e, nil, ErrLate
	}
	e = entry{Kind: e.Kind, Asked: e.Asked, NotAfter: e.NotAfter, Payload: e.Payload}
	return e, []store.Op{store.Remove(rec.Key, rec.Value), store.Create(s.key(bucketQueue, id), s.sealEntry(id, e), e.expires())}, nil
}

// inHand reports whether this queue sends the mail now.
func (q *Queue) inHand(id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[laneOf(id)]
	return l != nil && l.busy[id]
}

// hurry has the queue look at an entry now, and try the server.
func (q *Queue) hurry(id string) {
	q.mu.Lock()
	if l := q.lanes[laneOf(id)]; l != nil {
		l.asked.hurry(id, q.now())
		l.ready.hurry(id, q.now())
		q.learn(id)
		q.asked.ring()
	}
	q.mu.Unlock()
	if q.Server != nil {
		q.Server.TryNow()
	}
}

// hurry has an entry that is to be done later be due now.
func (l *line) hurry(id string, now time.Time) {
	it, there := l.items[id]
	if !there || !waits(it.due, now) {
		return
	}
	l.later = slices.DeleteFunc(l.later, func(other string) bool { return other == id })
	it.due = time.Time{}
	l.put(id, it, now)
}

// TryNow has one message try now whether the server can be used again.
func (s *Server) TryNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down.until = time.Time{}
	s.give()
}
