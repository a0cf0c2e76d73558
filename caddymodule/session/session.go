// Package session keeps who is signed in: opaque cookies, records in the store, and
// a look-up in memory for the requests in between.
//
// A cookie is 256 random bits; only its hash is stored, so a copy of the store signs
// nobody in. Both limits, idle and absolute, are judged here and not by the browser.
package session

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrNone: the cookie belongs to no session, or to one that is over.
var ErrNone = errors.New("session: none")

const (
	bucket      = "session"    // hash of the cookie → Session
	byContact   = "session-of" // contact "/" hash of the cookie → when it began
	perContact  = 100          // more than this many of one contact: the oldest end
	cookieBytes = 43           // 256 bits in base64url
	version     = '1'          // first byte of every value of ours
)

// Session is one signed-in browser, as it is stored.
type Session struct {
	ID      string    `json:"-"`                // SHA-256 of the cookie; the record's key
	Handle  string    `json:"handle"`           // stands for the session in lists and as `sid`: 128 random bits, opens nothing
	Contact string    `json:"contact"`          // the contact's ID
	Method  string    `json:"method"`           // how they proved who they are: "link" or "code"
	Agent   string    `json:"agent,omitempty"`  // the browser in words, such as "Safari on iPhone"
	Shared  bool      `json:"shared,omitempty"` // on a shared computer: the cookie ends with the browser
	Begun   time.Time `json:"begun"`            // the sign-in (`auth_time`)
	Seen    time.Time `json:"seen"`             // the last request, to within a tenth of the idle limit
}

// Live is a session as this process holds it, the same pointer for every request of
// it as long as it stays in memory.
type Live struct {
	Session // as it was read; for the time of the last request ask Sessions

	// Memo is for the package above: what it worked out for this session and wants
	// to find again. It goes with the Live.
	Memo atomic.Value

	seen   atomic.Int64 // the last request, Unix nanoseconds
	stored atomic.Int64 // the value of seen that the store has

	mu    sync.Mutex
	over  bool
	cause map[*context.CancelFunc]struct{} // requests in flight
}

// Sessions are the sessions of one firm. All methods may be called from many
// goroutines. Close it to stop its watch.
type Sessions struct {
	Firm  string
	Store store.Store
	Idle  time.Duration    // how long a session lives without a request
	Max   time.Duration    // how long it lives at most
	Now   func() time.Time // the clock; nil: time.Now
	Limit int              // how many are held in memory at most; 0: 1,000,000

	cache   sync.Map // ID → *Live
	cached  atomic.Int64
	endings atomic.Uint64 // counts what ended; see Lookup
	busy    [64]struct {
		sync.Mutex
		live map[*Live]struct{} // those with requests in flight
	}
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

// Begin makes a session for a new sign-in. The caller applies its Ops together with
// what proves the sign-in, and then calls Began. replaces is the session that the
// browser had before (nil: none): the Ops end it, whoever it belonged to.
func (s *Sessions) Begin(ctx context.Context, as Session, replaces *Live) (Beginning, error) {
	now := s.now()
	b := Beginning{Cookie: secret.Random(), Session: as}
	b.ID, b.Handle, b.Begun, b.Seen = hash(b.Cookie), rand.Text(), now, now
	value, err := encode(b.Session)
	if err != nil {
		return Beginning{}, err
	}
	end := now.Add(s.Max)
	b.Ops = []store.Op{
		store.Create(s.key(b.ID), value, s.ends(b.Session)),
		store.Put(s.ofContact(b.Contact, b.ID), b.Begun.UTC().AppendFormat(nil, time.RFC3339Nano), end),
	}
	if replaces != nil {
		b.ends = append(b.ends, replaces.ID)
		b.Ops = append(b.Ops, s.deletes(replaces.Contact, replaces.ID)...)
	}
	old, err := s.index(ctx, b.Contact)
	if err != nil {
		return Beginning{}, err
	}
	sort.Slice(old, func(i, j int) bool { return string(old[i].Value) < string(old[j].Value) })
	for i := 0; i <= len(old)-perContact; i++ {
		id := old[i].Key.ID[len(b.Contact)+1:]
		if replaces != nil && id == replaces.ID {
			continue
		}
		b.ends = append(b.ends, id)
		b.Ops = append(b.Ops, s.deletes(b.Contact, id)...)
	}
	return b, nil
}

// Began tells the Sessions that the Ops of b were applied.
func (s *Sessions) Began(b Beginning) { s.forget(b.ends...) }

// Lookup returns the session of a cookie value, ErrNone, or the store's error. A
// session in memory costs no more than a hash and a look-up; any other is read once.
func (s *Sessions) Lookup(ctx context.Context, cookie string) (*Live, error) {
	if len(cookie) != cookieBytes {
		return nil, ErrNone
	}
	id := hash(cookie)
	if v, ok := s.cache.Load(id); ok {
		l := v.(*Live)
		if s.alive(l) {
			return l, nil
		}
		s.forget(id)
		return nil, ErrNone
	}
	for {
		// What ends between our read and our write to the cache must not come
		// back to life there, so look whether anything ended meanwhile.
		before := s.endings.Load()
		l, err := s.read(ctx, id)
		if err != nil {
			return nil, err
		}
		l = s.remember(l)
		if s.endings.Load() == before {
			return l, nil
		}
		s.drop(id)
	}
}

func (s *Sessions) read(ctx context.Context, id string) (*Live, error) {
	rec, err := s.Store.Get(ctx, s.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNone
	} else if err != nil {
		return nil, err
	}
	got, err := decode(rec)
	if err != nil {
		return nil, err
	}
	l := &Live{Session: got}
	l.seen.Store(got.Seen.UnixNano())
	l.stored.Store(got.Seen.UnixNano())
	if !s.alive(l) {
		return nil, ErrNone
	}
	return l, nil
}

// remember puts l in memory, or returns the one that is there already.
func (s *Sessions) remember(l *Live) *Live {
	limit := int64(s.Limit)
	if limit == 0 {
		limit = 1_000_000
	}
	if s.cached.Load() >= limit {
		s.cache.Range(func(id, _ any) bool { // any one: those in use are read again
			s.drop(id.(string))
			return s.cached.Load() >= limit
		})
	}
	v, loaded := s.cache.LoadOrStore(l.ID, l)
	if !loaded {
		s.cached.Add(1)
	}
	return v.(*Live)
}

// drop takes a session out of memory without ending it.
func (s *Sessions) drop(id string) (*Live, bool) {
	v, ok := s.cache.LoadAndDelete(id)
	if !ok {
		return nil, false
	}
	s.cached.Add(-1)
	return v.(*Live), true
}

// alive judges both limits by this process's clock.
func (s *Sessions) alive(l *Live) bool {
	now := s.now()
	return now.Before(l.Begun.Add(s.Max)) && now.Before(time.Unix(0, l.seen.Load()).Add(s.Idle))
}

// Seen notes that the session made a request now. It writes to the store at most
// once in a tenth of the idle limit; a store that can't write just now is not an
// error, since the session is still good and the next request tries again.
func (s *Sessions) Seen(ctx context.Context, l *Live) {
	now := s.now().UnixNano()
	l.seen.Store(now)
	last := l.stored.Load()
	if now-last < int64(s.Idle)/10 || !l.stored.CompareAndSwap(last, now) {
		return
	}
	if err := s.touch(ctx, l, time.Unix(0, now)); err != nil {
		l.stored.CompareAndSwap(now, last)
	}
}

func (s *Sessions) touch(ctx context.Context, l *Live, at time.Time) error {
	rec, err := s.Store.Get(ctx, s.key(l.ID))
	if err != nil {
		return err
	}
	as := l.Session
	as.Seen = at
	value, err := encode(as)
	if err != nil {
		return err
	}
	// Replace, not Put: a session that was ended meanwhile stays ended.
	return s.Store.Apply(ctx, store.Replace(s.key(l.ID), rec.Value, value, s.ends(as)))
}

// End ends one session; the next request with its cookie is signed out, and its
// requests in flight are cancelled.
func (s *Sessions) End(ctx context.Context, contact, id string) error {
	err := s.Store.Apply(ctx, s.deletes(contact, id)...)
	if err == nil {
		s.forget(id)
	}
	return err
}

// EndAll ends every session of a contact but the one with the ID except ("": none
// is spared) and returns how many ended.
func (s *Sessions) EndAll(ctx context.Context, contact, except string) (int, error) {
	all, err := s.List(ctx, contact)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, one := range all {
		if one.ID == except {
			continue
		}
		if err := s.End(ctx, contact, one.ID); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// List returns the sessions of a contact, the latest sign-in first.
func (s *Sessions) List(ctx context.Context, contact string) ([]Session, error) {
	index, err := s.index(ctx, contact)
	if err != nil {
		return nil, err
	}
	var all []Session
	for _, rec := range index {
		l, err := s.read(ctx, rec.Key.ID[len(contact)+1:])
		if errors.Is(err, ErrNone) {
			continue
		} else if err != nil {
			return nil, err
		}
		if v, ok := s.cache.Load(l.ID); ok { // memory knows the last request better
			l.Session.Seen = time.Unix(0, v.(*Live).seen.Load())
		}
		all = append(all, l.Session)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Begun.After(all[j].Begun) })
	return all, nil
}

func (s *Sessions) index(ctx context.Context, contact string) ([]store.Record, error) {
	return s.Store.Scan(ctx, s.Firm, byContact, contact+"/", "", 10*perContact)
}

// forget ends sessions in memory, after the store has done so.
func (s *Sessions) forget(ids ...string) {
	s.endings.Add(1)
	for _, id := range ids {
		if l, ok := s.drop(id); ok {
			l.end()
		}
	}
}

func (s *Sessions) deletes(contact, id string) []store.Op {
	return []store.Op{store.Delete(s.key(id)), store.Delete(s.ofContact(contact, id))}
}

func (s *Sessions) ends(as Session) time.Time {
	idle, most := as.Seen.Add(s.Idle), as.Begun.Add(s.Max)
	if idle.Before(most) {
		return idle
	}
	return most
}

func (s *Sessions) key(id string) store.Key { return store.Key{Firm: s.Firm, Bucket: bucket, ID: id} }

func (s *Sessions) ofContact(contact, id string) store.Key {
	return store.Key{Firm: s.Firm, Bucket: byContact, ID: contact + "/" + id}
}

func hash(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func encode(as Session) ([]byte, error) {
	b, err := json.Marshal(as)
	return append([]byte{version}, b...), err
}

func decode(rec store.Record) (Session, error) {
	var as Session
	if len(rec.Value) == 0 || rec.Value[0] != version {
		return as, fmt.Errorf("session record of another version: %w", store.ErrUnavailable)
	}
	if err := json.Unmarshal(rec.Value[1:], &as); err != nil {
		return as, fmt.Errorf("reading a session record: %w", err)
	}
	as.ID = rec.Key.ID
	return as, nil
}
