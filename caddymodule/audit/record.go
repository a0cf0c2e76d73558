package audit

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	version = 1 // first byte of every value
	purpose = "audit"

	markPurpose = "audit mark"
	markLength  = 16 // characters of six bits: enough to tell a firm's addresses apart
)

// history is a list of events with its own limits.
type history struct {
	bucket string
	life   time.Duration
	max    int
}

var (
	contactEvents = history{"events", Keep, maxEvents}
	unknownEvents = history{"strange-events", KeepUnknown, maxUnknown}
)

// historyOf returns the history for the event. Sampled events without a contact have their own, in
// which they can push out only each other.
func historyOf(e Event) history {
	if e.Kind.sampled() && e.Contact == "" {
		return unknownEvents
	}
	return contactEvents
}

// record returns the Op that stores an event.
func (t *EventLog) record(e entry) (store.Op, history) {
	p := historyOf(e.Event)
	if e.Whole != "" && e.Contact == "" {
		e.Mark = e.keys.MAC(markPurpose, string(e.Whole))[:markLength]
	}
	for _, a := range e.Lost {
		e.LostMarks = append(e.LostMarks, e.keys.MAC(markPurpose, string(a))[:markLength])
	}
	op, err := bucketOf[Event](t, e.keys, p.bucket).Put(e.ID, e.Event, e.Time.Add(p.life))
	if err != nil {
		panic("audit: " + err.Error()) // impossible: all fields can be encoded
	}
	return op, p
}

// bucketOf returns a bucket of the history, in the layout of releases before package sealed.
func bucketOf[T any](t *EventLog, keys *secret.Keyring, name string) *sealed.Bucket[T] {
	return &sealed.Bucket[T]{Store: t.store, Keys: keys, Firm: t.firm, Name: name, Now: t.now, Format: version,
		Layout: &sealed.Layout{Purpose: purpose, Context: func(k store.Key) string { return k.Firm + "/" + k.Bucket + "/" + k.ID }}}
}

// unreadable reports whether the error concerns one record and not the store.
func unreadable(err error) bool {
	return errors.Is(err, sealed.ErrUntrusted) || errors.Is(err, sealed.ErrFormat)
}

// Reseal seals all records again with the newest secret. Marks and IDs of unknown addresses still
// depend on the secret of their time.
func (l *Log) Reseal(ctx context.Context) error {
	for _, bucket := range []string{contactEvents.bucket, unknownEvents.bucket, unknownBucket} {
		if _, err := bucketOf[json.RawMessage](l.EventLog, l.Keys, bucket).Reseal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Events returns up to limit stored events in order of time: those after the ID after, and not
// before since. next is the ID to continue after, or "". Unreadable records are left out and logged
// once. An event of another process may appear a few seconds late, before events that were returned
// already.
func (l *Log) Events(ctx context.Context, since time.Time, after string, limit int) (list []Event, next string, err error) {
	t := l.EventLog
	if t == nil {
		return nil, "", nil
	}
	t.Flush(ctx)
	if from := since.UTC().Format(idTime); !since.IsZero() && from > after {
		after = from
	}
	var recs []store.Record
	for _, p := range []history{contactEvents, unknownEvents} {
		some, err := t.store.Scan(ctx, t.firm, p.bucket, "", after, limit)
		if err != nil {
			return nil, "", err
		}
		recs = append(recs, some...)
	}
	slices.SortFunc(recs, func(a, b store.Record) int { return strings.Compare(a.Key.ID, b.Key.ID) })
	if len(recs) >= limit {
		recs = recs[:limit]
		next = recs[limit-1].Key.ID
	}
	unread := map[string]int{}
	for _, rec := range recs {
		opened, err := bucketOf[Event](t, l.Keys, rec.Key.Bucket).Open(ctx, rec)
		if err != nil {
			unread[rec.Key.Bucket]++
			continue
		}
		e := opened.Value
		e.ID, e.Time = rec.Key.ID, timeOf(rec.Key.ID)
		list = append(list, e)
	}
	for bucket, n := range unread {
		t.logUnreadable(bucket, n)
	}
	return list, next, nil
}
