// Package session stores sign-ins: opaque cookies, sealed records in the store, and a cache of
// sessions in memory, so that most requests read neither disk nor network.
//
// A cookie is 256 random bits. Only its hash is stored, so a copy of the store signs nobody in.
// Records are sealed, so a session cannot be forged by writing to the store. The server enforces
// both limits, idle and absolute; it does not rely on the browser.
//
// Read Begin and Lookup here; then memory.go (the cache), end.go (how sessions end), inflight.go
// (requests in flight and how they are canceled), revocations.go (what other processes ended),
// record.go (how sessions are stored) and gorilla.go (the gorilla/sessions Store).
package session

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrNone: the cookie belongs to no session, or the session has ended. It is also the cause of
// contexts that are canceled when their session ends.
var ErrNone = errors.New("session: none")

// PerContact is the maximum number of sessions of a contact. When one more begins, the oldest
// ends.
const PerContact = 100

// SharedMax and SharedIdle are the absolute and the idle limit of a session on a shared computer.
// Its cookie ends with the browser, but phones never end one, and some browsers restore cookies
// when they are reopened.
const (
	SharedMax  = 12 * time.Hour
	SharedIdle = 30 * time.Minute
)

// Session is one signed-in browser, as it is stored.
type Session struct {
	ID      string    `json:"-"`                // SHA-256 of the cookie, in base64url; the key of the record
	Handle  string    `json:"handle"`           // identifies the session in lists and as `sid`: 128 random bits; cannot be used to sign in
	Contact string    `json:"contact"`          // the contact's ID
	Method  string    `json:"method"`           // how the contact signed in: "link", "code", "phone-code" or "password"
	Agent   string    `json:"agent,omitempty"`  // the browser in plain words, such as "Safari on iPhone"
	Shared  bool      `json:"shared,omitempty"` // on a shared computer: the cookie ends with the browser
	Begun   time.Time `json:"begun"`            // time of the sign-in (`auth_time`)
	Seen    time.Time `json:"seen"`             // time of the last request, accurate to a tenth of the idle limit

	// Generation is the contact's generation when the session began. The session ends when the
	// contact gets another generation; see Confirm.
	Generation uint64 `json:"generation,omitempty"`
}

// Cached is a session in this process's memory. While it stays there, every request of the session
// gets the same pointer.
type Cached struct {
	// Fields that every request reads come first, in one cache line: with a million sessions none
	// of them is in the CPU's cache, and each line costs 0.1 µs.
	begun  int64        // Begun in Unix nanoseconds
	seen   atomic.Int64 // last request, in Unix nanoseconds
	due    atomic.Int64 // next write of seen to the store, in Unix nanoseconds
	shared bool         // Shared

	// Value holds a value that the importing package computed for this session. It is dropped
	// together with the Live.
	Value atomic.Value

	Session // as read from the store; Sessions knows the time of the last request

	key        key
	generation atomic.Uint64 // the current Generation

	mu       sync.Mutex
	ended    bool
	watched  bool        // listed in its shard's inFlight: it had requests in flight at the last Sweep, or has since
	inFlight []*InFlight // see Attach
}

// Sessions are the sessions of one firm. Set the fields in one literal. All methods are safe for
// concurrent use.
type Sessions struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring  // seals the records
	Idle  time.Duration    // how long a session lasts without a request
	Max   time.Duration    // how long a session lasts at most
	Now   func() time.Time // the clock; nil: time.Now
	Limit int              // maximum number of sessions in memory; 0: 1,000,000

	// Memory is shared by all Sessions of one firm and one store; nil: not shared.
	Memory *Memory

	// Peers are the other processes that have the store open; nil: none.
	Peers *store.Peers

	// OnUntrusted is called for records that Doorpost did not seal; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)

	own Memory
}

// memory returns the Memory that s uses.
func (s *Sessions) memory() *Memory {
	if s.Memory != nil {
		return s.Memory
	}
	return &s.own
}

func (s *Sessions) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// Beginning is a new session. It takes effect when its Ops are applied.
type Beginning struct {
	Cookie string // for the browser; never log it
	Session
	Ops  []store.Op
	ends []string // IDs of the sessions that the Ops end
}

// Begin prepares a session for a new sign-in. as gives the contact, the method, the browser and
// the contact's generation. Cookie, ID, Handle and Begun are always new. replaces is the browser's
// previous session (nil: none); the Ops end it, whichever contact it belonged to.
//
// The caller applies the Ops in the transaction that uses up the proof of the sign-in, and then
// calls Began. If the store returns store.ErrConflict, another session of the contact has begun or
// ended meanwhile: call Begin again.
func (s *Sessions) Begin(ctx context.Context, as Session, replaces *Cached) (Beginning, error) {
	as.Begun = s.now().UTC().Round(0)
	var ops []store.Op
	if replaces != nil {
		ops = append(ops, s.records().Delete(replaces.ID))
	}
	return s.begin(ctx, as, replaces, ops)
}

// rotate is Begin for a session that continues under a new ID. The contact has not signed in
// again, so Begun and Generation stay. If the session has ended by now, rotate returns ErrNone, or
// applying the Ops returns store.ErrConflict.
func (s *Sessions) rotate(ctx context.Context, as Session, replaces *Cached) (Beginning, error) {
	rec, err := s.record(ctx, replaces.ID)
	if err != nil {
		return Beginning{}, err
	}
	on, err := s.roster(ctx, rec.Value.Contact)
	if err == nil && on.Value.find(replaces.ID) < 0 {
		err = ErrNone
	}
	if err != nil {
		return Beginning{}, err
	}
	as.Begun, as.Generation = rec.Value.Begun, rec.Value.Generation
	return s.begin(ctx, as, replaces, []store.Op{s.records().Remove(rec)})
}

// begin completes a Beginning. ops must end the record of the replaced session.
func (s *Sessions) begin(ctx context.Context, as Session, replaces *Cached, ops []store.Op) (Beginning, error) {
	b := Beginning{Cookie: secret.Random(), Session: as, Ops: ops}
	b.ID, b.Handle, b.Seen = keyOf(b.Cookie).String(), rand.Text(), s.now().UTC().Round(0)
	op, err := s.records().Create(b.ID, b.Session, s.Ends(b.Session))
	if err != nil {
		return Beginning{}, err
	}
	b.Ops = append(b.Ops, op)
	was, err := s.roster(ctx, b.Contact)
	if err != nil {
		return Beginning{}, err
	}
	now := was.Value
	if replaces != nil {
		b.ends = append(b.ends, replaces.ID)
		if now = now.without(replaces.ID); replaces.Contact != b.Contact {
			op, err := s.unlist(ctx, replaces.Contact, replaces.ID)
			if err != nil {
				return Beginning{}, err
			}
			b.Ops = append(b.Ops, op...)
		}
	}
	for _, oldest := range now.Sessions[:max(0, len(now.Sessions)+1-PerContact)] {
		b.ends = append(b.ends, oldest.ID)
		b.Ops = append(b.Ops, s.records().Delete(oldest.ID))
		now = now.without(oldest.ID)
	}
	now.Sessions = append(slices.Clone(now.Sessions), s.active(b.Session))
	listed, err := s.writeRoster(was, now)
	if err != nil {
		return Beginning{}, err
	}
	revoked, err := s.announce(b.ends...)
	b.Ops = slices.Concat(b.Ops, listed, revoked)
	return b, err
}

// Began updates memory and notifies other processes after the Ops of b were applied.
func (s *Sessions) Began(ctx context.Context, b Beginning) {
	// The new session isn't added to memory here: it may have ended since.
	s.memory().revoke(b.ends...)
	if len(b.ends) > 0 {
		s.Peers.NotifyPeers(ctx)
	}
}

// Lookup returns the session of a cookie value, ErrNone, or the store's error. If the session is
// in memory, Lookup costs a hash and a map access; otherwise it reads the store.
func (s *Sessions) Lookup(ctx context.Context, cookie string) (*Cached, error) {
	if len(cookie) != cookieLength {
		return nil, ErrNone
	}
	k := keyOf(cookie)
	l := s.memory().find(k)
	if l == nil {
		return s.load(ctx, k)
	}
	if !s.valid(l) || s.Peers.Stale() {
		if err := s.refresh(ctx, l); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// load reads a session from the store into memory.
func (s *Sessions) load(ctx context.Context, k key) (*Cached, error) {
	for {
		before := s.memory().revokedCount(k)
		as, err := s.read(ctx, k.String())
		if err != nil {
			return nil, err
		}
		if l, ok := s.memory().add(s.newLive(k, as), before, s.Limit); ok {
			return l, nil
		}
	}
}

func (s *Sessions) newLive(k key, as Session) *Cached {
	l := &Cached{Session: as, key: k, begun: as.Begun.UnixNano(), shared: as.Shared}
	l.generation.Store(as.Generation)
	l.seen.Store(as.Seen.UnixNano())
	l.due.Store(as.Seen.Add(s.idle(as.Shared) / 10).UnixNano())
	return l
}

// valid reports whether l is within both limits by this process's clock.
func (s *Sessions) valid(l *Cached) bool {
	now := s.now().UnixNano()
	age := now - l.begun
	return age < int64(s.maxAge(l.shared)) && age >= -int64(maxClockAhead) && now-l.seen.Load() < int64(s.idle(l.shared))
}

// maxAge returns how long a session lasts at most.
func (s *Sessions) maxAge(shared bool) time.Duration {
	if shared {
		return min(s.Max, SharedMax)
	}
	return s.Max
}

// idle returns how long a session lasts without a request.
func (s *Sessions) idle(shared bool) time.Duration {
	if shared {
		return min(s.Idle, SharedIdle)
	}
	return s.Idle
}

// ExpiresAt returns when the session ends if it makes no further request.
func (s *Sessions) ExpiresAt(l *Cached) time.Time {
	as := l.Session
	as.Seen = time.Unix(0, l.seen.Load())
	return s.Ends(as)
}

const (
	seenResolution = time.Second // requests within this time count as one
	seenRetry      = time.Minute // wait after a write that failed
)

// Seen records that the session made a request now. It writes to the store at most once in a tenth
// of the idle limit. If the store fails, the session stays valid, and a request a minute later
// tries again.
func (s *Sessions) Seen(ctx context.Context, l *Cached) {
	now := s.now().UnixNano()
	// Skip most writes: parallel requests of one browser would move this cache line from core to
	// core.
	if last := l.seen.Load(); now-last >= int64(min(seenResolution, s.idle(l.shared)/10)) {
		l.seen.CompareAndSwap(last, now) // lost the race: another request has just set it
	}
	due := l.due.Load()
	if now < due || !l.due.CompareAndSwap(due, now+int64(s.idle(l.shared)/10)) {
		return
	}
	err := s.touch(ctx, l, time.Unix(0, now).UTC())
	switch {
	case errors.Is(err, ErrNone):
		s.memory().revoke(l.ID) // another process ended it
	case err != nil:
		l.due.Store(now + int64(min(seenRetry, s.idle(l.shared)/10)))
	}
}

func (s *Sessions) touch(ctx context.Context, l *Cached, at time.Time) error {
	rec, err := s.record(ctx, l.ID)
	if err != nil {
		return err
	}
	on, err := s.roster(ctx, l.Contact)
	if err != nil {
		return err
	}
	i := on.Value.find(l.ID)
	if i < 0 {
		return ErrNone
	}
	as := rec.Value
	if as.Seen.After(at) {
		return nil // another process recorded a later request
	}
	as.Seen = at
	op, err := s.records().Write(rec, as, s.Ends(as)) // not Put: it would restore a session that ended meanwhile
	if err != nil {
		return err
	}
	now := roster{slices.Clone(on.Value.Sessions)}
	now.Sessions[i] = s.active(as)
	listed, err := s.writeRoster(on, now)
	if err != nil {
		return err
	}
	return s.Store.Apply(ctx, append(listed, op)...)
}
