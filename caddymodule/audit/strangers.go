package audit

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
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
	for after := ""; ; {
		recs, err := t.store.Scan(ctx, t.firm, strangersBucket, "", after, 1000)
		if err != nil {
			return nil, nil, err
		}
		for _, rec := range recs {
			f := found{key: rec.Key}
			if open(keys, rec, &f.Stranger) != nil { // what can't be read is the oldest of all
				f.Stranger = Stranger{}
				unread++
			}
			all = append(all, f)
		}
		if len(recs) < 1000 {
			break
		}
		after = recs[len(recs)-1].Key.ID
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
	k := store.Key{Firm: t.firm, Bucket: strangersBucket, ID: last.keys.MAC(purpose, t.firm, string(a))}
	s := Stranger{First: times[0].Time}
	switch rec, err := t.store.Get(ctx, k); {
	case err == nil:
		err := open(last.keys, rec, &s)
		if errors.Is(err, errVersion) {
			t.tellUnread(strangersBucket, 1)
			return nil, nil
		} else if err != nil { // it begins again
			t.tellUnread(strangersBucket, 1)
			s = Stranger{First: times[0].Time}
		}
	case !errors.Is(err, store.ErrNotFound):
		return nil, err
	}
	s.Address, s.Last, s.Agent = a, last.Time, last.Agent
	s.Count += len(times)
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return []store.Op{store.Put(k, seal(last.keys, k, plain), s.Last.Add(KeepStrangers))}, nil
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
