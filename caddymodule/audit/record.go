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
	version = 1 // the first byte of every value; what follows is sealed
	purpose = "audit"

	markPurpose = "audit mark"
	markLength  = 16 // characters, of six bits: enough to tell a firm's addresses apart
)

// errVersion: a newer Doorpost wrote this record.
var errVersion = errors.New("written by a newer version")

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
func record(firm string, e entry) (store.Op, place) {
	p := placeOf(e.Event)
	k := store.Key{Firm: firm, Bucket: p.bucket, ID: e.ID}
	if e.Whole != "" && e.Contact == "" {
		e.Mark = e.keys.MAC(markPurpose, string(e.Whole))[:markLength]
	}
	for _, a := range e.Lost {
		e.LostMarks = append(e.LostMarks, e.keys.MAC(markPurpose, string(a))[:markLength])
	}
	plain, err := json.Marshal(e.Event)
	if err != nil {
		panic("audit: " + err.Error()) // a field that is no JSON, which there is none
	}
	return store.Put(k, seal(e.keys, k, plain), e.Time.Add(p.keep)), p
}

func seal(keys *secret.Keyring, k store.Key, plain []byte) []byte {
	return append([]byte{version}, keys.Seal(purpose, at(k), plain)...)
}

// at is where a value opens: nowhere but under its own key.
func at(k store.Key) string { return k.Firm + "/" + k.Bucket + "/" + k.ID }

// Reseal seals with the newest secret what an older one has sealed. An address that was no
// contact's is found under the secret of its time alone, though.
func (l *Log) Reseal(ctx context.Context) error {
	for _, bucket := range []string{events.bucket, strange.bucket, strangersBucket} {
		if _, err := sealed.Reseal(ctx, l.Trail.store, l.Keys, l.Trail.firm, bucket, purpose, at); err != nil {
			return err
		}
	}
	return nil
}

func open(keys *secret.Keyring, rec store.Record, into any) error {
	if len(rec.Value) == 0 || rec.Value[0] != version {
		return errVersion
	}
	plain, err := keys.Open(purpose, at(rec.Key), rec.Value[1:])
	if err != nil {
		return err
	}
	return json.Unmarshal(plain, into)
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
		e := Event{ID: rec.Key.ID, Time: timeOf(rec.Key.ID)}
		if open(l.Keys, rec, &e) != nil {
			unread[rec.Key.Bucket]++
			continue
		}
		list = append(list, e)
	}
	for bucket, n := range unread {
		t.tellUnread(bucket, n)
	}
	return list, next, nil
}
