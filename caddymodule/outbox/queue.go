// Package outbox sends mails: a request that is committed to the store becomes a mail, and the mail
// is handed over until a server has accepted it, has refused it for good, or its time is over.
//
// An entry is first a request, then a mail that is ready to be sent, and is then deleted. Each step
// is one store.Apply, so a process that is killed between any two instructions leaves either the
// request or the mail. It may repeat only the last hand-over, once and with the same bytes.
//
// There are three lanes: mails that a visitor waits for, then notices, then announcements. In each
// lane mails are sent in the order of their IDs, the oldest first. All queues that use one mail
// server share a Server.
package outbox

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

var (
	// ErrFull: Max entries are waiting. The request wasn't accepted.
	ErrFull = errors.New("outbox: too much is waiting already")
	// ErrDrop is returned by Attempt if the mail is no longer needed.
	ErrDrop = errors.New("outbox: no longer wanted")
	// ErrLate is the reason that Failed gets for a mail whose time ran out.
	ErrLate = errors.New("outbox: its time was over before a server took it")
)

const (
	leaseTime   = 30 * time.Second // what a crash delays the mails that were in hand
	prepareTime = 30 * time.Second
	storeTime   = 10 * time.Second
	stopTime    = 10 * time.Second // for mails in hand, when the queue stops

	// preparedAhead is how many mails of a lower lane are made before they can go out: what
	// waits longer waits as a request, which is small.
	preparedAhead = 256
)

// Request is an accepted request for a mail. It is sealed in the store until it becomes a mail.
type Request struct {
	ID       string    // from NewID; empty: Add makes it
	Kind     string    // such as "sign-in"; see NewID
	Asked    time.Time // when
	NotAfter time.Time // no hand-over begins later; zero: one hour after Asked
	Payload  []byte    // for Prepare alone
	Ref      string    // given to Failed where the request ends before Prepare made a mail of it; "": Failed isn't told
}

// Prepared is the result of Prepare.
type Prepared struct {
	Message *Message   // its ID is ignored; nil: nothing is to be sent, and the request ends
	Ops     []store.Op // applied in the one step that turns the request into the mail, or ends it
	Ref     string     // given back to Attempt, Sent and Failed
	// Common: the mail goes out in its turn by time, though its request has a reserved ID.
	Common bool

	// Later, if set, puts the request off: its Ops are applied, and Prepare is called for
	// it again then (after a restart, perhaps sooner). At most a quarter of an hour ahead.
	Later time.Time
	Done  func() // if set, is called once Ops are applied; of several tries, that of the last
}

// Process is the only process that has the store open. A firm's queues share it, and through it know
// which entries the others are working on, without leases in the store. The entries of an earlier
// process are free at once.
type Process struct {
	Sent *SentLog // if set, what a server has taken is noted there before the store knows it

	hands sync.Map // the IDs that a queue has in hand to send
}

func (p *Process) take(id string) bool {
	_, taken := p.hands.LoadOrStore(id, true)
	return !taken
}

func (p *Process) release(id string) { p.hands.Delete(id) }

// Queue is the outbox of one firm. Set its fields in one literal, then Start it. Several
// queues may work on one store, in one process or in many: an entry is in the hands of
// one of them. All methods may be called from many goroutines.
type Queue struct {
	Firm    string
	Channel Channel // default Mail
	Store   store.Store
	Keys    *secret.Keyring
	Sender  Sender
	Server  *Server // that Sender sends by; default: one of its own
	Log     *slog.Logger
	Now     func() time.Time // default time.Now; timers run by the real clock in any case

	// Prepare turns a request that was accepted into a mail. It may be called again for
	// the same request, as long as nothing it returned was applied, or Later put it off: after an error, a
	// panic, a conflict (store.ErrConflict) in its Ops, or a crash; and by two queues at
	// once. It is also called again for a request whose mail has ended unsent, of which
	// Failed was told, and which an operator has tried again (see Retry). ctx ends after 30 s.
	Prepare func(ctx context.Context, r Request) (Prepared, error)

	// Sign, if set, returns the message as it leaves, with signatures before it.
	Sign func(data []byte) ([]byte, error)

	// Attempt, if set, is asked before each hand-over; its Ops are applied before it.
	// The error ErrDrop ends the mail; any other one puts it off.
	Attempt func(ctx context.Context, ref string, at time.Time) ([]store.Op, error)
	// Sent, if set, is told after the server has taken the mail; its Ops are applied with
	// the deletion. After a crash it may be called a second time for one mail.
	Sent func(ctx context.Context, ref string, at time.Time) ([]store.Op, error)
	// Failed, if set, is told when a mail ends unsent (why wraps ErrRefused or ErrLate, or is
	// ErrDrop); its Ops are applied with the deletion.
	Failed func(ctx context.Context, ref string, at time.Time, why error) ([]store.Op, error)
	// Ended, if set, is called once a mail is deleted from the store, with the ID of its request.
	// why is nil if the server has accepted it, otherwise the error that Failed got. It isn't called
	// for mails that Prepare or Attempt has dropped, nor for those that ended during a crash.
	Ended func(ctx context.Context, id string, why error)

	// Waiting, if set, is told when a hand-over failed and will be tried again, with the
	// reason (see Reason): at the first failure of a mail, and when the reason changes.
	Waiting func(ctx context.Context, id, reason string)

	Process *Process // set where no other process can have the store open

	Workers int           // that prepare. Default 4
	Max     int           // entries of each lane that may wait, see Full. Default 10,000
	Look    time.Duration // how often to look for what other queues left or were given. Default 5 s

	lease time.Duration // default leaseTime

	sealer sealer
	name   string // of this queue as an owner of leases
	sent   *SentLog

	stop, abort context.CancelFunc
	running     sync.WaitGroup

	mu    sync.Mutex
	lanes [lanes]*lane // nil before Start
	apart int          // how many entries of the first lane have a reserved ID
	asked bell         // rung when there may be something to prepare
}

// NewID makes the ID of a request. IDs sort in the order in which their mails go out: by the
// lanes of their kinds ("sign-in" and "set-password" first, "portal-update" last), then by time.
// They hold digits, small letters and "-" only, never repeat, and tell nothing about anybody.
func NewID(kind string, now time.Time) string {
	return newID(kind, now, strings.ToLower(rand.Text()[:16]))
}

// NewReservedID makes the ID of a request that goes out before all others, whatever their time,
// and has room in the queue that others can't fill: for those that not everybody can make, such
// as from a device that was signed in on before.
func NewReservedID(kind string, now time.Time) string {
	return newID(kind, now, string(reservedMark)+strings.ToLower(rand.Text()[:15]))
}

// NewSourceID makes the ID of a source: a request that isn't for a mail, but adds the requests for many. Its
// Prepare returns these as Ops, and puts the source off by Later until all are added. A source sorts behind all
// other IDs of the lane of kind, so it is asked for more only once what it added before is prepared. So what
// waits in the queue stays short, however many mails there will be. List and Count leave sources out.
func NewSourceID(kind string, now time.Time) string {
	id := NewID(kind, now)
	prefix := lanePrefix(laneOf(id))
	return prefix + string(sourceMark) + strings.TrimPrefix(id, prefix)
}

// sourceMark begins the time of a source's ID; other times begin with a digit.
const sourceMark = 'z'

// isSource reports whether NewSourceID has made the ID.
func isSource(id string) bool {
	rest, ok := strings.CutPrefix(id, lanePrefix(laneOf(id)))
	return ok && rest != "" && rest[0] == sourceMark
}

// reservedMark begins the random part of a reserved ID; rand.Text has no such character.
const reservedMark = '0'

func newID(kind string, now time.Time, random string) string {
	at := strings.Replace(now.UTC().Format("20060102T150405.000"), ".", "", 1)
	return lanePrefix(laneOfKind(kind)) + strings.ToLower(at) + "-" + random
}

// reserved reports whether NewReservedID has made the ID.
func reserved(id string) bool {
	at := strings.LastIndexByte(id, '-') + 1
	return at > 0 && at < len(id) && id[at] == reservedMark
}

// Add returns the Op that commits the request. It counts as accepted once the Op is
// applied, together with the caller's own; call Full before and Wake after that. The
// request's ID is Op.Key.ID.
func (q *Queue) Add(r Request) store.Op {
	if r.ID == "" {
		r.ID = NewID(r.Kind, r.Asked)
	}
	if r.NotAfter.IsZero() {
		r.NotAfter = r.Asked.Add(time.Hour)
	}
	e := entry{Kind: r.Kind, Asked: r.Asked, NotAfter: r.NotAfter, Payload: r.Payload, Ref: r.Ref}
	s := q.sealerOf()
	return store.Create(s.key(bucketQueue, r.ID), s.sealEntry(r.ID, e), e.expires())
}

// Full returns ErrFull when there is no room for a request with this ID, else nil. Each lane has
// room for Max entries; of the first one's a fifth is for those with a reserved ID. Among callers
// that ask at the same time, a few more than Max may get in, and as many more as other queues on
// the same store have let in: these take nothing of that fifth.
func (q *Queue) Full(id string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.room(id) {
		return ErrFull
	}
	return nil
}

// room reports whether there is room for one more entry with that ID. q.mu is held.
func (q *Queue) room(id string) bool {
	known := q.known(laneOf(id))
	switch {
	case laneOf(id) != laneSignIn:
		return known < q.max()
	case reserved(id):
		return min(known-q.apart, q.common())+q.apart < q.max()
	}
	return known < q.common()
}

// common is how many of Max entries of the first lane may be ones that anybody can ask for.
func (q *Queue) common() int { return q.max() - q.max()/5 }

// Len returns how many entries wait or are in hand, as far as this queue knows.
func (q *Queue) Len() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for lane := range lanes {
		n += q.known(lane)
	}
	return n
}

// Count returns how many entries of the lane of kind wait or are in hand, by the store.
func (q *Queue) Count(ctx context.Context, kind string) (n int, err error) {
	for prefix, after := lanePrefix(laneOfKind(kind)), ""; ; {
		recs, err := q.Store.Scan(ctx, q.Firm, bucketQueue, prefix, after, page)
		if err != nil {
			return n, err
		}
		for _, rec := range recs {
			if after = rec.Key.ID; !isSource(after) {
				n++
			}
		}
		if len(recs) < page {
			return n, nil
		}
	}
}

// Known returns how many entries of the lane of kind wait or are in hand, as far as this queue knows.
func (q *Queue) Known(kind string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.known(laneOfKind(kind))
}

// Wake tells the queue that the request with this ID is in the store now. Without it
// the request is found within Look. It never blocks.
func (q *Queue) Wake(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if laneOf(id) == laneSignIn || q.room(id) { // others wait in the store
		q.learn(id)
	}
}

// Start finds what lies in the store and works on it until Stop. It doesn't wait for
// the store or the mail server.
func (q *Queue) Start() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for l := range q.lanes {
		q.lanes[l] = newLane()
	}
	q.apart, q.asked = 0, newBell()
	q.sealer = q.sealerOf()
	q.name = rand.Text()
	if q.Process != nil {
		q.sent = q.Process.Sent
	}
	if q.Server == nil {
		q.Server = NewServer(DefaultConnections, nil, q.Now)
	}
	if q.lease == 0 {
		q.lease = leaseTime
	}
	var run, hand context.Context
	run, q.stop = context.WithCancel(context.Background())
	hand, q.abort = context.WithCancel(context.Background())
	q.running.Go(func() { q.keepLooking(run) })
	workers := q.Workers
	if workers <= 0 {
		workers = 4
	}
	for range workers {
		q.running.Go(func() { q.prepareAll(run, hand) })
	}
	for lane := range lanes {
		q.running.Go(func() { q.sendAll(run, hand, lane) })
	}
}

// Stop starts no more work and waits for the work in progress. After ten seconds it closes the
// connections of mails that are still being sent, and leaves these in the store for the next
// queue. Start may be called again.
func (q *Queue) Stop() {
	q.mu.Lock()
	stop, abort := q.stop, q.abort
	q.mu.Unlock()
	if stop == nil {
		return // it never started
	}
	stop()
	patience := time.AfterFunc(stopTime, abort)
	q.running.Wait()
	patience.Stop()
	abort()
}

func domain(to string) string { return address.Address(to).Domain() }

func (q *Queue) now() time.Time {
	if q.Now == nil {
		return time.Now()
	}
	return q.Now()
}

func (q *Queue) max() int {
	if q.Max <= 0 {
		return 10_000
	}
	return q.Max
}

// known counts the entries of a lane. q.mu is held.
func (q *Queue) known(lane int) int {
	if q.lanes[lane] == nil {
		return 0
	}
	return q.lanes[lane].known()
}

// learn takes in an ID that may be new. q.mu is held.
func (q *Queue) learn(id string) {
	l := q.lanes[laneOf(id)]
	if l == nil || l.has(id) {
		return
	}
	l.asked.put(id, item{}, q.now())
	q.asked.ring()
	if reserved(id) && laneOf(id) == laneSignIn {
		q.apart++
	}
}
