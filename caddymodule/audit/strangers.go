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
	strangersBucket = "strangers"
	maxStrangers    = 1000
	slackStrangers  = 50 // so many more may be there for a while

	// KeepStrangers is how long an address that is no contact's is remembered after it
	// was tried last.
	KeepStrangers = 30 * 24 * time.Hour
)

// Stranger is an address that somebody asked with and that is no contact's: a client
// who mistyped it, or has another one than we know.
type Stranger struct {
	Address address.Address `json:"email"`
	Count   int             `json:"count"` // how often
	First   time.Time       `json:"first"`
	Last    time.Time       `json:"last"`
	Agent   string          `json:"agent,omitempty"` // the browser of the last time, in our words
}

// Strangers returns the addresses that matched no contact, the latest first: at most a
// thousand different ones, each for 30 days.
func (l *Log) Strangers(ctx context.Context) ([]Stranger, error) {
	if l.Trail == nil {
		return nil, nil
	}
	l.Trail.Flush(ctx)
	all, _, err := l.Trail.strangers(ctx, l.Keys)
	return all[:min(len(all), maxStrangers)], err
}

// strangers returns the list and, in the same order, where it lies.
func (t *Trail) strangers(ctx context.Context, keys *secret.Keyring) ([]Stranger, []store.Key, error) {
	type found struct {
		Stranger
		key store.Key
	}
	var all []found
	unread := 0
	bucket := bucketOf[Stranger](t, keys, strangersBucket)
	for rec, err := range bucket.All(ctx, "", "") {
		if unreadable(err) { // it is the oldest of all
			unread++
		} else if err != nil {
			return nil, nil, err
		}
		all = append(all, found{rec.Value, bucket.Key(rec.ID)})
	}
	t.tellUnread(strangersBucket, unread)
	slices.SortFunc(all, func(a, b found) int { return b.Last.Compare(a.Last) })
	var list []Stranger
	places := make([]store.Key, len(all))
	for i, f := range all {
		if places[i] = f.key; f.Address != "" {
			list = append(list, f.Stranger)
		}
	}
	return list, places, nil
}

// meet returns the Op which notes that somebody asked with an address that is no
// contact's. Where two processes do so at once, one time isn't counted. What another release
// noted stays as it is.
func (t *Trail) meet(ctx context.Context, a address.Address, times []entry) ([]store.Op, error) {
	last := times[len(times)-1]
	bucket := bucketOf[Stranger](t, last.keys, strangersBucket)
	rec, err := bucket.Get(ctx, last.keys.MAC(purpose, t.firm, string(a)))
	s := rec.Value
	if err != nil { // it begins again, also one that can't be read
		s = Stranger{First: times[0].Time}
	}
	switch {
	case unreadable(err):
		t.tellUnread(strangersBucket, 1)
		if errors.Is(err, sealed.ErrFormat) {
			return nil, nil
		}
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	s.Address, s.Last, s.Agent = a, last.Time, last.Agent
	s.Count += len(times)
	op, err := bucket.Put(rec.ID, s, s.Last.Add(KeepStrangers))
	return []store.Op{op}, err
}

// forgetStrangers deletes those who came longest ago where there are too many.
func (t *Trail) forgetStrangers(ctx context.Context, keys *secret.Keyring) error {
	_, places, err := t.strangers(ctx, keys)
	if err != nil || len(places) <= maxStrangers+slackStrangers {
		return err
	}
	for some := range slices.Chunk(places[maxStrangers:], batch) {
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
