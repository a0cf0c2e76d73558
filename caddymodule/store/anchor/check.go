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

// identity tells a firm's records in one store from those in another.
type identity struct {
	Store    string   `json:"s"`
	Was      []string `json:"w,omitempty"` // those in whose place it was accepted, the latest first
	Reopened bool     `json:"o,omitempty"` // what anchors said of old links was forgotten then
	Settling bool     `json:"t,omitempty"` // it is being accepted: nobody may trust it yet
}

// mostWas is how many identities are remembered. A machine that was away while so many
// stores were accepted asks its operator once more.
const mostWas = 32

// next returns the identity of a store that is being accepted in the place of the one that an
// anchor knows.
func (id identity) next(known string, reopen bool) identity {
	next := identity{Store: rand.Text(), Reopened: reopen, Settling: true}
	for _, was := range append([]string{known, id.Store}, id.Was...) {
		if was != "" && !slices.Contains(next.Was, was) && len(next.Was) < mostWas {
			next.Was = append(next.Was, was)
		}
	}
	return next
}

// beat counts the changes.
type beat struct {
	N    uint64    `json:"n"`
	At   time.Time `json:"t"`
	Keys []string  `json:"k"` // IDs of the secrets that records may be sealed with

	// Seals has, for the ID of each secret that a process seals with, the count at its last beat.
	Seals map[string]uint64 `json:"s,omitempty"`
}

// only is the ID of the one record in each of the two buckets.
const only = "firm"

// identities and beats are the buckets, as these keys open them.
func (s *Store) identities(keys *secret.Keyring) *sealed.Bucket[identity] {
	return &sealed.Bucket[identity]{Store: s.Store, Keys: keys, Firm: s.firm, Name: "identity", Format: '1', Now: s.now}
}

func (s *Store) beats(keys *secret.Keyring) *sealed.Bucket[beat] {
	return &sealed.Bucket[beat]{Store: s.Store, Keys: keys, Firm: s.firm, Name: "beat", Format: '1', Now: s.now}
}

// replaced is a store in a file that may be moved away while it is open.
type replaced interface{ Replaced() error }

// check compares the store with the anchor, and sets whether the store is trusted. Its
// error is that of a store which can't be read now, which decides nothing, or
// secret.ErrSealed.
func (s *Store) check(ctx context.Context) error {
	s.doubt.Store(false)
	loss, err := s.compare(ctx, s.keys.Load())
	if errors.Is(err, secret.ErrSealed) {
		loss = s.loss(Sealed, "write the secret that it was sealed with behind the new one, or bring the right store back",
			"the store %s was sealed with another secret", s.place)
	} else if err != nil {
		s.doubt.Store(true)
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.lost.Load()
	if loss == nil {
		if s.trust() && was.Reason != Unread {
			s.log.Info("the store is trusted again", "store", s.place)
		}
		return nil
	}
	again := was != nil && was.Reason == loss.Reason
	if again {
		loss.Since = was.Since
	}
	s.lost.Store(loss)
	if loss.Reason != Restored && (!again || s.now().Sub(s.said) >= sayEvery) {
		s.said = s.now()
		s.log.Error("the store isn't trusted: nobody is let in, old links ask for sign-in, and nothing is changed", "store", s.place,
			"reason", string(loss.Reason), "what", loss.What, "what_to_do", loss.Do)
	}
	return err
}

// sayEvery is between two log lines on a store that isn't trusted.
const sayEvery = time.Minute

func (s *Store) loss(reason Reason, do, format string, args ...any) *Loss {
	return &Loss{Reason: reason, Since: s.now().UTC(), What: fmt.Sprintf(format, args...), Do: do}
}

// compare finds out whether the store is the one that the anchor describes. A firm without
// an anchor takes the store as it is, on the day of installation as well as on a further
// machine.
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
	id, err := s.identities(keys).Get(ctx, only)
	if errors.Is(err, store.ErrNotFound) && known.Store == "" {
		id, err = s.found(ctx, keys)
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
	case known.Store != "" && id.Value.Store != known.Store && !slices.Contains(id.Value.Was, known.Store):
		return s.loss(Other, bring, "the store %s is another one than last time", s.place), nil
	}
	if id.Value.Settling {
		return s.loss(Settling, "wait a moment; if this stays so, say it again: "+accept,
			"the store %s is being accepted, or that was interrupted", s.place), nil
	}
	b, err := s.beats(keys).Get(ctx, only)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("the records of firm %s in %s: %w", s.firm, s.place, err)
	}
	if err := s.lacking(keys, b.Value.Keys); err != nil {
		return nil, err
	}
	if known.Store != id.Value.Store {
		if known.Store != "" { // accepted at another machine
			var closed Closed
			if !id.Value.Reopened {
				closed = *s.Closed()
				closed.Beside = true
			}
			_ = s.Note(closed) // a failure is logged, and it is written again with the next
		}
		s.adopt(id.Value, b.Value)
		if known.Store != "" && s.lost.Load() == nil {
			close(*s.trusted.Swap(new(make(chan struct{})))) // what was read before counts no more
		}
		known = s.known()
	}
	if b.Value.N < known.Beat {
		return s.loss(Older, bring, "the store %s is older than last time: its last change was at %s, and this machine has seen one of %s", s.place,
			stamp(b.Value.At), stamp(known.At)), nil
	}
	if was := s.identity.Load(); was == nil || !bytes.Equal(s.identities(keys).Check(*was).Was, s.identities(keys).Check(id).Was) {
		s.identity.Store(&id) // so that the same pointer stands for the same value
	}
	s.sight(b.Value, true)
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

func stamp(t time.Time) string {
	if t.IsZero() {
		return "an unknown time"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// found makes the identity of a firm's records, and returns it, or the one that another
// process was faster with.
func (s *Store) found(ctx context.Context, keys *secret.Keyring) (sealed.Record[identity], error) {
	ids := s.identities(keys)
	op, err := ids.Create(only, identity{Store: rand.Text()}, time.Time{})
	if err == nil {
		err = s.Store.Apply(ctx, op)
	}
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return sealed.Record[identity]{}, err
	}
	return ids.Get(ctx, only)
}

// adopt has the anchor describe the store.
func (s *Store) adopt(id identity, b beat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anchor = anchor{Store: id.Store, Beat: b.N, At: b.At, Keys: b.Keys}
	s.sighted, s.latest, s.seals = nil, beat{}, nil
}

// sight notes the beat that was seen. The count says which of two is the later one: the times
// are of several clocks. A look may meet one from before a beat of this process, but not twice,
// unless the store has lost the later ones again.
func (s *Store) sight(b beat, look bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.sighted); n == 0 || s.sighted[n-1].beat < b.N {
		s.sighted = append(s.sighted, sighting{s.now(), b.N})
	}
	if b.N < s.latest.N && !(look && b.N == s.behind) {
		if look {
			s.behind = b.N
		}
		return
	}
	s.latest, s.behind = b, 0
	s.anchor.At, s.anchor.Keys = b.At, b.Keys
	newest := s.keys.Load().IDs()[0]
	for id, n := range b.Seals {
		if id != newest && s.seals[id] != n {
			if !s.isApart() {
				s.parted = s.now()
			}
			s.apart = s.now()
		}
	}
	s.seals = b.Seals
}

// settleTime is how long after a change of the secrets, and after another process was seen to
// seal with another one, nothing is sealed again. Until then what was sealed before the change
// has reached the store, and whoever seals with another secret has said so again.
func (s *Store) settleTime() time.Duration {
	if s.lag > 0 {
		return 5 * CheckEvery
	}
	return CheckEvery
}

// isApart reports whether another process seals with another secret. s.mu is held.
func (s *Store) isApart() bool { return !s.apart.IsZero() && s.now().Sub(s.apart) < s.settleTime() }

// tellApart tells operators of a process that seals with another secret, once a minute, unless it
// is a change of the secrets on its way.
func (s *Store) tellApart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.isApart() && now.Sub(s.parted) >= sayEvery/2 && now.Sub(s.saidApart) >= sayEvery {
		s.saidApart = now
		s.log.Warn("another machine seals with another secret, so nothing is sealed again, and no secret can be taken out", "what_to_do", putFirst)
	}
}

// putFirst is what to do where machines seal with different secrets.
const putFirst = "put the same secret first in the Caddyfile of each machine, and reload"

// beat counts up, and names the secret that seals now.
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

// setBeat counts up and makes the change. It returns store.ErrConflict where another process
// was faster.
func (s *Store) setBeat(ctx context.Context, change func(*beat)) error {
	keys, id := s.keys.Load(), s.identity.Load()
	if id == nil {
		return ErrUntrusted
	}
	beats := s.beats(keys)
	was, err := beats.Get(ctx, only)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	s.sight(was.Value, false)
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
	s.sight(b, false)
	return nil
}

// checks has callers who need a check at the same time share one that begins after all of
// them asked.
type checks struct {
	turn sync.Mutex // held by the one who checks
	mu   sync.Mutex
	next *oneCheck // that hasn't begun; nil: nobody waits for one
}

type oneCheck struct {
	done chan struct{}
	err  error
}

// look is check; of callers at the same time one does it.
func (s *Store) look(ctx context.Context) error {
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
	c.next = nil // whoever comes now needs one that begins later
	c.mu.Unlock()
	one.err = s.check(context.WithoutCancel(ctx)) // others wait for it
	close(one.done)
	return one.err
}

// RestoredMark is the record by which the next start learns that a copy was put back:
// the command that did it has no key to seal an event with.
var RestoredMark = store.Key{Bucket: "doorpost", ID: "restored"}
