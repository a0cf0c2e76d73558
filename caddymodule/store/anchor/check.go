package anchor

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// identity distinguishes a firm's records in one store from those in another.
type identity struct {
	Store    string   `json:"s"`
	Previous []string `json:"w,omitempty"` // identities that it replaced, the latest first
	Reopened bool     `json:"o,omitempty"` // anchors forgot old links when it was accepted
	Settling bool     `json:"t,omitempty"` // it is being accepted; don't trust it yet

	MovedFrom string `json:"f,omitempty"` // identity that it was copied from, see BeginMove; "": it wasn't
	MovedAt   uint64 `json:"b,omitempty"` // count of the beat at that time
}

// maxPrevious is how many identities are stored. A machine that was off while more stores were
// accepted asks its operator again.
const maxPrevious = 32

// next returns the identity of a store that is accepted in place of the one known to an anchor.
func (id identity) next(known string, reopen bool) identity {
	next := identity{Store: rand.Text(), Reopened: reopen, Settling: true}
	for _, was := range append([]string{known, id.Store}, id.Previous...) {
		if was != "" && !slices.Contains(next.Previous, was) && len(next.Previous) < maxPrevious {
			next.Previous = append(next.Previous, was)
		}
	}
	return next
}

// beat counts changes.
type beat struct {
	N    uint64    `json:"n"`
	At   time.Time `json:"t"`
	Keys []string  `json:"k"` // IDs of the secrets that records may be sealed with

	// Seals holds the count at the last beat of each process, by the ID of its sealing secret.
	Seals map[string]uint64 `json:"s,omitempty"`
}

// recordID is the ID of the only record in each of the two buckets.
const recordID = "firm"

// identities and beats return the buckets, opened with the given keys.
func (s *Store) identities(keys *secret.Keyring) *sealed.Bucket[identity] {
	return &sealed.Bucket[identity]{Store: s.Store, Keys: keys, Firm: s.firm, Name: IdentityBucket, Format: '1', Now: s.now}
}

func (s *Store) beats(keys *secret.Keyring) *sealed.Bucket[beat] {
	return &sealed.Bucket[beat]{Store: s.Store, Keys: keys, Firm: s.firm, Name: BeatBucket, Format: '1', Now: s.now}
}

// replaced is implemented by a store in a file that may be moved away while it is open.
type replaced interface{ Replaced() error }

// check compares the store with the anchor, and decides whether it is trusted. It returns the
// store's error if the store is unreadable, which decides nothing, or secret.ErrSealed.
func (s *Store) check(ctx context.Context) error {
	s.unverified.Store(false)
	loss, err := s.compare(ctx, s.keys.Load())
	if errors.Is(err, secret.ErrSealed) {
		loss = s.loss(Sealed, "write the secret that it was sealed with behind the new one, or bring the right store back",
			"the store %s was sealed with another secret", s.place)
	} else if err != nil {
		s.unverified.Store(true)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.lost.Load()
	if loss == nil {
		if s.setTrusted() && was.Reason != Unread {
			s.log.Info("the store is trusted again", "store", s.place)
		}
		return nil
	}
	again := was != nil && was.Reason == loss.Reason
	if again {
		loss.Since = was.Since
	}
	s.lost.Store(loss)
	if loss.Reason != Restored && (!again || s.now().Sub(s.lossLogged) >= logEvery) {
		s.lossLogged = s.now()
		s.log.Error("the store isn't trusted: nobody is let in, old links ask for sign-in, and nothing is changed", "store", s.place,
			"reason", string(loss.Reason), "what", loss.What, "what_to_do", loss.Do)
	}
	return err
}

// logEvery is the interval of log lines about an untrusted store.
const logEvery = time.Minute

func (s *Store) loss(reason Reason, do, format string, args ...any) *Loss {
	return &Loss{Reason: reason, Since: s.now().UTC(), What: fmt.Sprintf(format, args...), Do: do}
}

// compare decides whether the store is the one that the anchor describes. A firm without an
// anchor accepts the store as it is, as after the installation or on a further machine.
func (s *Store) compare(ctx context.Context, keys *secret.Keyring) (*Loss, error) {
	if r, ok := s.Store.(replaced); ok {
		if err := r.Replaced(); err != nil {
			return s.loss(Moved, "put it back, or restart Caddy to go on with what is there", "%v", err), nil
		}
	}
	known := s.known()
	accept := "caddy doorpost store accept --firm " + s.firm
	if s.lostClosed() {
		accept += ", which upgrades all companies, since which ones were can't be read any more"
	}
	bring := "bring the right store back, or, if this is the store from now on: " + accept
	switch {
	case known.damaged:
		return s.loss(Damaged, fmt.Sprintf("bring %s back from a backup, or, if the store is as it should be: %s", s.path(), accept),
			"the file that the store is compared with can't be read"), nil
	case known.Restored != nil:
		return s.loss(Restored, "wait a moment", "a copy was put back, and isn't taken over yet"), nil
	}
	id, err := s.identities(keys).Get(ctx, recordID)
	if errors.Is(err, store.ErrNotFound) && known.Store == "" {
		id, err = s.createIdentity(ctx, keys)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		left, err := s.Store.Scan(ctx, s.firm, "directory", "", "", 1)
		if err != nil {
			return nil, err
		}
		if len(left) == 0 {
			return s.loss(Empty, bring, "the store %s has no records of firm %s any more", s.place, s.firm), nil
		}
		return s.loss(Other, bring, "the store %s is another one than last time", s.place), nil
	case errors.Is(err, secret.ErrSealed):
		return nil, fmt.Errorf("the records of firm %s in %s: %w; write the secret that they were sealed with behind the new one", s.firm, s.place, secret.ErrSealed)
	case err != nil:
		return nil, err
	case known.Store != "" && id.Value.Store != known.Store && !slices.Contains(id.Value.Previous, known.Store):
		return s.loss(Other, bring, "the store %s is another one than last time", s.place), nil
	}
	if id.Value.Settling {
		return s.loss(Settling, "wait a moment; if this stays so, say it again: "+accept,
			"the store %s is being accepted, or that was interrupted", s.place), nil
	}
	b, err := s.beats(keys).Get(ctx, recordID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("the records of firm %s in %s: %w", s.firm, s.place, err)
	}
	if err := s.lacking(keys, b.Value.Keys); err != nil {
		return nil, err
	}
	if known.Store != "" && known.Store == id.Value.MovedFrom && id.Value.MovedAt < known.Beat {
		return s.loss(Older, bring, "the store %s was copied from one that was older than last time: this machine has seen a change of %s that isn't in it", s.place,
			formatTime(known.At)), nil
	}
	if known.Store != id.Value.Store {
		if known.Store != "" { // accepted on another machine, or moved
			var closed Closed
			if !id.Value.Reopened {
				closed = *s.Closed()
				closed.Beside = true
			}
			_ = s.Note(closed) // failures are logged, and the next save writes it
		}
		s.adopt(id.Value, b.Value)
		if known.Store != "" && s.lost.Load() == nil {
			close(*s.trusted.Swap(new(make(chan struct{})))) // values in memory are invalid
		}
		known = s.known()
	}
	if b.Value.N < known.Beat {
		return s.loss(Older, bring, "the store %s is older than last time: its last change was at %s, and this machine has seen one of %s", s.place,
			formatTime(b.Value.At), formatTime(known.At)), nil
	}
	if was := s.identity.Load(); was == nil || !bytes.Equal(s.identities(keys).Check(*was).Was, s.identities(keys).Check(id).Was) {
		s.identity.Store(&id) // so that equal values have the same pointer
	}
	s.observe(b.Value, true)
	return nil, nil
}

func (s *Store) known() anchor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anchor
}

func (s *Store) lostClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closedLost
}

func formatTime(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// createIdentity creates the identity of a firm's records, and returns it, or the one that
// another process has created meanwhile.
func (s *Store) createIdentity(ctx context.Context, keys *secret.Keyring) (sealed.Record[identity], error) {
	ids := s.identities(keys)
	op, err := ids.Create(recordID, identity{Store: rand.Text()}, time.Time{})
	if err == nil {
		err = s.Store.Apply(ctx, op)
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return sealed.Record[identity]{}, err
	}
	return ids.Get(ctx, recordID)
}

// adopt makes the anchor describe the store.
func (s *Store) adopt(id identity, b beat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anchor = anchor{Store: id.Store, Beat: b.N, At: b.At, Keys: b.Keys}
	s.observed, s.latest, s.seals = nil, beat{}, nil
}

// observe records a beat that was read. The count decides which of two is later, since the times
// are from several clocks. A check may read a beat older than this process's own once, but not
// twice, unless the store has lost the later ones.
func (s *Store) observe(b beat, look bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.observed); n == 0 || s.observed[n-1].beat < b.N {
		s.observed = append(s.observed, observation{s.now(), b.N})
	}
	if b.N < s.latest.N && !(look && b.N == s.staleBeat) {
		if look {
			s.staleBeat = b.N
		}
		return
	}
	s.latest, s.staleBeat = b, 0
	s.anchor.At, s.anchor.Keys = b.At, b.Keys
	newest := s.keys.Load().IDs()[0]
	for id, n := range b.Seals {
		if id != newest && s.seals[id] != n {
			if !s.isApart() {
				s.apartSince = s.now()
			}
			s.lastApart = s.now()
		}
	}
	s.seals = b.Seals
}

// settleTime is how long after a change of the secrets, and after another process sealed with
// another secret, nothing is resealed. By then everything sealed before the change is in the
// store, and a process that seals with another secret has written a beat.
func (s *Store) settleTime() time.Duration {
	if s.lag > 0 {
		return 5 * CheckEvery
	}
	return CheckEvery
}

// isApart reports whether another process seals with another secret. The caller holds s.mu.
func (s *Store) isApart() bool {
	return !s.lastApart.IsZero() && s.now().Sub(s.lastApart) < s.settleTime()
}

// logApart warns, once a minute, about a process that seals with another secret, unless the
// secrets are being changed just now.
func (s *Store) logApart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.isApart() && now.Sub(s.apartSince) >= logEvery/2 && now.Sub(s.apartLogged) >= logEvery {
		s.apartLogged = now
		s.log.Warn("another machine seals with another secret, so nothing is resealed, and no secret can be removed", "what_to_do", putFirst)
	}
}

// putFirst is what to do if machines seal with different secrets.
const putFirst = "put the same secret first in the Caddyfile of each machine, and reload"

// beat counts up, and records the secret that seals now.
func (s *Store) beat(ctx context.Context) error {
	s.changed.Store(false)
	err := s.setBeat(ctx, func(b *beat) {
		newest := s.keys.Load().IDs()[0]
		if !slices.Contains(b.Keys, newest) {
			b.Keys = append(b.Keys, newest)
		}
		if s.lag > 0 {
			b.Seals = maps.Clone(b.Seals)
			if b.Seals == nil {
				b.Seals = make(map[string]uint64)
			}
			b.Seals[newest] = b.N
		}
	})
	if err != nil && !errors.Is(err, store.ErrConflict) { // another process has counted up
		s.changed.Store(true)
		return err
	}
	return nil
}

// setBeat counts up and applies the change. It returns store.ErrConflict if another process has
// counted up.
func (s *Store) setBeat(ctx context.Context, change func(*beat)) error {
	keys, id := s.keys.Load(), s.identity.Load()
	if id == nil {
		return ErrUntrusted
	}
	beats := s.beats(keys)
	was, err := beats.Get(ctx, recordID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s.observe(was.Value, false)
	b := was.Value
	b.N, b.At = b.N+1, s.now().UTC().Truncate(time.Second)
	b.Keys = slices.Clone(b.Keys)
	change(&b)
	op, err := beats.Write(was, b, time.Time{})
	if err != nil {
		return err
	}
	if err := s.Store.Apply(ctx, s.identities(keys).Check(*id), op); err != nil {
		return err
	}
	s.observe(b, false)
	return nil
}

// checks lets concurrent callers share one check that begins after all of them called.
type checks struct {
	turn sync.Mutex // held during a check
	mu   sync.Mutex
	next *oneCheck // not begun yet; nil: nobody waits for one
}

type oneCheck struct {
	done chan struct{}
	err  error
}

// checkShared is check, shared by concurrent callers.
func (s *Store) checkShared(ctx context.Context) error {
	c := &s.checks
	c.mu.Lock()
	one, mine := c.next, false
	if one == nil {
		one, mine = &oneCheck{done: make(chan struct{})}, true
		c.next = one
	}
	c.mu.Unlock()
	if !mine {
		select {
		case <-one.done:
			return one.err
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", store.ErrUnavailable, context.Cause(ctx))
		}
	}
	c.turn.Lock()
	defer c.turn.Unlock()
	c.mu.Lock()
	c.next = nil // later callers need a later check
	c.mu.Unlock()
	one.err = s.check(context.WithoutCancel(ctx)) // others wait for it, so don't cancel it
	close(one.done)
	return one.err
}

// RestoredMark is the record that tells the next start that a copy was restored: the restore
// command has no key to seal an event with.
var RestoredMark = store.Key{Bucket: "doorpost", ID: "restored"}
