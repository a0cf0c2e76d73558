// Package session keeps who is signed in: opaque cookies, records in the store, and
// a look-up in memory for the requests in between.
//
// A cookie is 256 random bits; only its hash is stored, so a copy of the store signs
// nobody in. Records are sealed, so neither does whoever can write to the store. Both
// limits, idle and absolute, are judged here and not by the browser.
//
// Read Begin and Lookup here; then memory.go (what is held between requests), end.go
// (how sessions end), watch.go (what ends with them), record.go (how they are stored)
// and gorilla.go (the gorilla/sessions Store).
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

// ErrNone: the cookie belongs to no session, or to one that is over. It is also the
// cause of the contexts that a session's end cancels.
var ErrNone = errors.New("session: none")

// PerContact is how many sessions a contact may have; one more ends the oldest.
const PerContact = 100

// SharedMax is how long a session on a shared computer lives at most, and SharedIdle how long
// without a request. Its cookie ends with the browser, but phones never end one, and some browsers
// bring their cookies back when they are opened again.
const (
	SharedMax  = 12 * time.Hour
	SharedIdle = 30 * time.Minute
)

// Session is one signed-in browser, as it is stored.
type Session struct {
	ID      string    `json:"-"`                // SHA-256 of the cookie, in base64url; the record's key
	Handle  string    `json:"handle"`           // stands for the session in lists and as `sid`: 128 random bits, opens nothing
	Contact string    `json:"contact"`          // the contact's ID
	Method  string    `json:"method"`           // how they proved who they are: "link", "code" or "password"
	Agent   string    `json:"agent,omitempty"`  // the browser in words, such as "Safari on iPhone"
	Shared  bool      `json:"shared,omitempty"` // on a shared computer: the cookie ends with the browser
	Begun   time.Time `json:"begun"`            // the sign-in (`auth_time`)
	Seen    time.Time `json:"seen"`             // the last request, to within a tenth of the idle limit

	// Generation is the contact's, of when the session began. Once the contact has another
	// one, the session is over; see Confirm.
	Generation uint64 `json:"generation,omitempty"`
}

// Live is a session as this process holds it, the same pointer for every request of
// it as long as it stays in memory.
type Live struct {
	// What every request reads comes first, in one cache line: with a million sessions
	// none of it is in a cache, and each line is 0.1 µs.
	begun  int64        // Begun in Unix nanoseconds
	seen   atomic.Int64 // the last request, likewise
	due    atomic.Int64 // when it is to be written to the store again, likewise
	shared bool         // Shared

	// Memo is for the package above: what it worked out for this session and wants
	// to find again. It goes with the Live.
	Memo atomic.Value

	Session // as it was read; for the time of the last request ask Sessions

	key        key
	generation atomic.Uint64 // Generation, as it is now

	mu      sync.Mutex
	over    bool
	watched bool      // by Look: it has requests in flight, or had a moment ago
	flights []*Flight // requests in flight; see Attach
}

// Sessions are the sessions of one firm. Set its fields in one literal. All methods
// may be called from many goroutines.
type Sessions struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring  // seals the records
	Idle  time.Duration    // how long a session lives without a request
	Max   time.Duration    // how long it lives at most
	Now   func() time.Time // the clock; nil: time.Now
	Limit int              // how many are held in memory at most; 0: 1,000,000

	// Memory is shared by the Sessions of one firm and one store; nil: nobody shares it.
	Memory *Memory

	// Others are the other processes that have the store open; nil: there are none.
	Others *store.Others

	// Alarm is told of records that are none of ours; see sealed.Bucket.
	Alarm func(context.Context, store.Key)

	own Memory
}

// memory is the one that these Sessions use.
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

// Beginning is a session that begins as soon as its Ops are applied.
type Beginning struct {
	Cookie string // what the browser gets; nobody else, and never a log
	Session
	Ops  []store.Op
	ends []string // IDs of sessions that the Ops end
}

// Begin makes a session for a new sign-in: as says whose, how, on what, and of which
// generation the contact is. Its cookie, ID, Handle and Begun are new whatever the browser
// had before. The caller applies the Ops together with what proves the sign-in, and then
// calls Began; store.ErrConflict means that another session of the contact has begun or
// ended meanwhile: call Begin again. replaces is the session that the browser had before
// (nil: none): the Ops end it, whoever it belonged to.
func (s *Sessions) Begin(ctx context.Context, as Session, replaces *Live) (Beginning, error) {
	as.Begun = s.now().UTC().Round(0)
	var ops []store.Op
	if replaces != nil {
		ops = append(ops, s.records().Delete(replaces.ID))
	}
	return s.begin(ctx, as, replaces, ops)
}

// goOn is Begin for a session that goes on under another ID. Nobody has proved anything
// again, so its time runs on, and when it is over by now it stays so: ErrNone, or, when
// the Ops are applied, store.ErrConflict.
func (s *Sessions) goOn(ctx context.Context, as Session, replaces *Live) (Beginning, error) {
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

// begin adds to the Ops, which end the record of what the session replaces.
func (s *Sessions) begin(ctx context.Context, as Session, replaces *Live, ops []store.Op) (Beginning, error) {
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
			op, err := s.strike(ctx, replaces.Contact, replaces.ID)
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
	listed, err := s.write(was, now)
	if err != nil {
		return Beginning{}, err
	}
	told, err := s.news(b.ends...)
	b.Ops = slices.Concat(b.Ops, listed, told)
	return b, err
}

// Began tells the Sessions that the Ops of b were applied.
func (s *Sessions) Began(ctx context.Context, b Beginning) {
	// The new one isn't put into memory here: it may have been ended since.
	s.memory().forget(b.ends...)
	if len(b.ends) > 0 {
		s.Others.Changed(ctx)
	}
}

// Lookup returns the session of a cookie value, ErrNone, or the store's error. A
// session in memory costs no more than a hash and a look-up; any other is read once.
func (s *Sessions) Lookup(ctx context.Context, cookie string) (*Live, error) {
	if len(cookie) != cookieLength {
		return nil, ErrNone
	}
	k := keyOf(cookie)
	l := s.memory().find(k)
	if l == nil {
		return s.load(ctx, k)
	}
	if !s.alive(l) || s.Others.Doubtful() {
		if err := s.renew(ctx, l); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// load reads a session into memory.
func (s *Sessions) load(ctx context.Context, k key) (*Live, error) {
	for {
		before := s.memory().endings(k)
		as, err := s.read(ctx, k.String())
		if err != nil {
			return nil, err
		}
		if l, ok := s.memory().hold(s.newLive(k, as), before, s.Limit); ok {
			return l, nil
		}
	}
}

func (s *Sessions) newLive(k key, as Session) *Live {
	l := &Live{Session: as, key: k, begun: as.Begun.UnixNano(), shared: as.Shared}
	l.generation.Store(as.Generation)
	l.seen.Store(as.Seen.UnixNano())
	l.due.Store(as.Seen.Add(s.idle(as.Shared) / 10).UnixNano())
	return l
}

// alive judges both limits by this process's clock.
func (s *Sessions) alive(l *Live) bool {
	now := s.now().UnixNano()
	age := now - l.begun
	return age < int64(s.most(l.shared)) && age >= -int64(ahead) && now-l.seen.Load() < int64(s.idle(l.shared))
}

// most is how long a session lives at most.
func (s *Sessions) most(shared bool) time.Duration {
	if shared {
		return min(s.Max, SharedMax)
	}
	return s.Max
}

// idle is how long a session lives without a request.
func (s *Sessions) idle(shared bool) time.Duration {
	if shared {
		return min(s.Idle, SharedIdle)
	}
	return s.Idle
}

// ExpiresAt is when the session ends if it makes no further request.
func (s *Sessions) ExpiresAt(l *Live) time.Time {
	as := l.Session
	as.Seen = time.Unix(0, l.seen.Load())
	return s.Ends(as)
}

const (
	seenStep  = time.Second // requests closer than this are one
	seenRetry = time.Minute // after a write that failed
)

// Seen notes that the session made a request now. It writes to the store at most
// once in a tenth of the idle limit; a store that can't write just now is not an
// error, since the session is still good and a request a minute later tries again.
func (s *Sessions) Seen(ctx context.Context, l *Live) {
	now := s.now().UnixNano()
	// Parallel requests of one browser would pull this word from core to core.
	if last := l.seen.Load(); now-last >= int64(min(seenStep, s.idle(l.shared)/10)) {
		l.seen.CompareAndSwap(last, now) // lost: somebody else was here just now
	}
	due := l.due.Load()
	if now < due || !l.due.CompareAndSwap(due, now+int64(s.idle(l.shared)/10)) {
		return
	}
	err := s.touch(ctx, l, time.Unix(0, now).UTC())
	switch {
	case errors.Is(err, ErrNone):
		s.memory().forget(l.ID) // another process has ended it
	case err != nil:
		l.due.Store(now + int64(min(seenRetry, s.idle(l.shared)/10)))
	}
}

func (s *Sessions) touch(ctx context.Context, l *Live, at time.Time) error {
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
		return nil // another process saw it later
	}
	as.Seen = at
	op, err := s.records().Write(rec, as, s.Ends(as)) // no Put: a session that was ended meanwhile stays ended
	if err != nil {
		return err
	}
	now := roster{slices.Clone(on.Value.Sessions)}
	now.Sessions[i] = s.active(as)
	listed, err := s.write(on, now)
	if err != nil {
		return err
	}
	return s.Store.Apply(ctx, append(listed, op)...)
}
