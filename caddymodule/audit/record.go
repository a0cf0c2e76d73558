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
	version = 1 // the first byte of every value
	purpose = "audit"

	markPurpose = "audit mark"
	markLength  = 16 // characters, of six bits: enough to tell a firm's addresses apart
)

// place is where events of one sort are kept.
type place struct {
	bucket string
	keep   time.Duration
	most   int
}

var (
	events  = place{"events", Keep, maxEvents}
	strange = place{"strange-events", KeepStrange, maxStrange}
)

// placeOf returns where the event belongs: one that anybody can cause, and that knows
// of no contact, pushes out its like alone.
func placeOf(e Event) place {
	if e.Kind.cheap() && e.Contact == "" {
		return strange
	}
	return events
}

// record returns the Op that stores an event.
func (t *Trail) record(e entry) (store.Op, place) {
	p := placeOf(e.Event)
	if e.Whole != "" && e.Contact == "" {
		e.Mark = e.keys.MAC(markPurpose, string(e.Whole))[:markLength]
	}
	for _, a := range e.Lost {
		e.LostMarks = append(e.LostMarks, e.keys.MAC(markPurpose, string(a))[:markLength])
	}
	op, err := bucketOf[Event](t, e.keys, p.bucket).Put(e.ID, e.Event, e.Time.Add(p.keep))
	if err != nil {
		panic("audit: " + err.Error()) // a field that is no JSON, which there is none
	}
	return op, p
}

// bucketOf is a bucket of the history, sealed as it was before there was package sealed.
func bucketOf[T any](t *Trail, keys *secret.Keyring, name string) *sealed.Bucket[T] {
	return &sealed.Bucket[T]{Store: t.store, Keys: keys, Firm: t.firm, Name: name, Now: t.now, Format: version,
		Layout: &sealed.Layout{Purpose: purpose, Place: func(k store.Key) string { return k.Firm + "/" + k.Bucket + "/" + k.ID }}}
}

// unreadable reports whether the error is about one record, and not about the store.
func unreadable(err error) bool {
	return errors.Is(err, sealed.ErrUntrusted) || errors.Is(err, sealed.ErrFormat)
}

// Reseal seals with the newest secret what an older one has sealed. An address that was no
// contact's is found under the secret of its time alone, though.
func (l *Log) Reseal(ctx context.Context) error {
	for _, bucket := range []string{events.bucket, strange.bucket, strangersBucket} {
		if _, err := bucketOf[json.RawMessage](l.Trail, l.Keys, bucket).Reseal(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Events returns up to limit stored events in the order of time: those after the ID
// after, and not before since. next is the ID to go on after, "" where there are no
// more. What can't be read (see secret.ErrSealed) is left out, and the log tells of it once. An event that was
// recorded by another process may turn up a few seconds late, before events that were
// returned already.
func (l *Log) Events(ctx context.Context, since time.Time, after string, limit int) (list []Event, next string, err error) {
	t := l.Trail
	if t == nil {
		return nil, "", nil
	}
	t.Flush(ctx)
	if from := since.UTC().Format(idTime); !since.IsZero() && from > after {
		after = from
	}
	var recs []store.Record
	for _, p := range []place{events, strange} {
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
		t.tellUnread(bucket, n)
	}
	return list, next, nil
}
