package audit

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	unknownBucket       = "strangers"
	maxUnknownAddresses = 1000
	unknownSlack        = 50 // so many more may exist for a while

	// KeepUnknownAddresses is how long an address without a contact is stored after its last use.
	KeepUnknownAddresses = 30 * 24 * time.Hour
)

// UnknownAddress is an address without a contact for which a mail was requested: perhaps a client
// mistyped it, or has an address that the firm doesn't know.
type UnknownAddress struct {
	Address address.Address `json:"email"`
	Count   int             `json:"count"` // number of requests
	First   time.Time       `json:"first"`
	Last    time.Time       `json:"last"`
	Agent   string          `json:"agent,omitempty"` // the last request's browser in plain words
}

// UnknownAddresses returns the addresses without a contact, the latest request first: at most a
// thousand, each for 30 days.
func (l *Log) UnknownAddresses(ctx context.Context) ([]UnknownAddress, error) {
	if l.EventLog == nil {
		return nil, nil
	}
	l.EventLog.Flush(ctx)
	all, _, err := l.EventLog.unknownAddresses(ctx, l.Keys)
	return all[:min(len(all), maxUnknownAddresses)], err
}

// unknownAddresses returns the list and, in the same order, its keys.
func (t *EventLog) unknownAddresses(ctx context.Context, keys *secret.Keyring) ([]UnknownAddress, []store.Key, error) {
	type found struct {
		UnknownAddress
		key store.Key
	}
	var all []found
	unread := 0
	bucket := bucketOf[UnknownAddress](t, keys, unknownBucket)
	for rec, err := range bucket.All(ctx, "", "") {
		if unreadable(err) { // sorts as the oldest
			unread++
		} else if err != nil {
			return nil, nil, err
		}
		all = append(all, found{rec.Value, bucket.Key(rec.ID)})
	}
	t.logUnreadable(unknownBucket, unread)
	slices.SortFunc(all, func(a, b found) int { return b.Last.Compare(a.Last) })
	var list []UnknownAddress
	places := make([]store.Key, len(all))
	for i, f := range all {
		if places[i] = f.key; f.Address != "" {
			list = append(list, f.UnknownAddress)
		}
	}
	return list, places, nil
}

// recordUnknown returns the Op that records requests for an address without a contact. When
// two processes do so at once, one request may not be counted. Records of another release
// stay.
func (t *EventLog) recordUnknown(ctx context.Context, a address.Address, times []entry) ([]store.Op, error) {
	last := times[len(times)-1]
	bucket := bucketOf[UnknownAddress](t, last.keys, unknownBucket)
	rec, err := bucket.Get(ctx, last.keys.MAC(purpose, t.firm, string(a)))
	s := rec.Value
	if err != nil { // start again, also if it is unreadable
		s = UnknownAddress{First: times[0].Time}
	}
	switch {
	case unreadable(err):
		t.logUnreadable(unknownBucket, 1)
		if errors.Is(err, sealed.ErrFormat) {
			return nil, nil
		}
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	s.Address, s.Last, s.Agent = a, last.Time, last.Agent
	s.Count += len(times)
	op, err := bucket.Put(rec.ID, s, s.Last.Add(KeepUnknownAddresses))
	return []store.Op{op}, err
}

// pruneUnknown deletes the oldest unknown addresses if there are too many.
func (t *EventLog) pruneUnknown(ctx context.Context, keys *secret.Keyring) error {
	_, places, err := t.unknownAddresses(ctx, keys)
	if err != nil || len(places) <= maxUnknownAddresses+unknownSlack {
		return err
	}
	for some := range slices.Chunk(places[maxUnknownAddresses:], batch) {
		ops := make([]store.Op, len(some))
		for i, k := range some {
			ops[i] = store.Delete(k)
		}
		if err := t.store.Apply(ctx, ops...); err != nil {
			return err
		}
	}
	return nil
}
