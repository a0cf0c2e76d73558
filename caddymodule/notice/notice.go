// Package notice remembers of which companies a contact has had a notice, and hasn't opened the
// company's page since.
package notice

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

const (
	// Keep is how long a notice is shown that the contact doesn't look after.
	Keep = 180 * 24 * time.Hour

	writeEvery = 3 * time.Second
	writeTime  = 10 * time.Second // that one round of writing may take
	lastTime   = 4 * time.Second  // the same, when the firm stops
	maxWaiting = 100_000          // pages opened that wait to be written
)

// Latest is the latest notice about a company that a contact had.
type Latest struct {
	Kind string    `json:"kind"` // of the mail, such as "new-questions"
	At   time.Time `json:"at"`
}

// Unread has the latest notices of each contact. Set its fields in one literal. All methods may be called
// from many goroutines. That a page was opened lies in memory for a few seconds, so a process that is
// killed forgets those seconds: the notice is shown until the page is opened once more.
type Unread struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	// OnUntrusted is called for records not sealed by Doorpost; see sealed.Bucket.
	OnUntrusted func(context.Context, store.Key)

	round   atomic.Uint64           // another one after each Flush
	waiting atomic.Pointer[Opening] // those of this round, linked by next
	count   atomic.Int64            // of waiting, about

	writing sync.Mutex
}

// Page is a company's page, for one contact.
type Page struct{ Contact, Company string }

// Opening is a page that a contact has opened.
type Opening struct {
	page  Page
	at    atomic.Int64  // when last, in nanoseconds since 1970
	round uint64        // in which it is written, unless it's over
	clean atomic.Uint64 // the mark of the store when there was no notice left of before; 0: none is known
	next  *Opening
}

func (u *Unread) bucket() *sealed.Bucket[Latest] {
	return &sealed.Bucket[Latest]{Store: u.Store, Keys: u.Keys, Firm: u.Firm, Name: "unread-notice", Now: u.Now, Format: '1', OnUntrusted: u.OnUntrusted}
}

// marks has one record, which is another one after each Put.
func (u *Unread) marks() *sealed.Bucket[uint64] {
	return &sealed.Bucket[uint64]{Store: u.Store, Keys: u.Keys, Firm: u.Firm, Name: "unread-notice-mark", Now: u.Now, Format: '1', OnUntrusted: u.OnUntrusted}
}

// theMark is its ID.
const theMark = "mark"

func id(contact, company string) string { return contact + "/" + company }

// Put returns the Ops by which contacts have a notice about a company.
func (u *Unread) Put(n Latest, pages ...Page) (ops []store.Op, err error) {
	for _, p := range pages {
		op, err := u.bucket().Put(id(p.Contact, p.Company), n, n.At.Add(Keep))
		if err != nil {
			return nil, err
		}
		ops = append(ops, op)
	}
	mark, err := u.marks().Put(theMark, 1+rand.Uint64N(math.MaxUint64-1), time.Time{})
	return append(ops, mark), err
}

// mark returns the mark of the store, which changes with each Put; 0: nothing is known.
func (u *Unread) mark(ctx context.Context) (uint64, error) {
	rec, err := u.marks().Find(ctx, theMark)
	if err != nil || rec.Found() {
		return rec.Value, err
	}
	for _, err := range u.bucket().All(ctx, "", "") { // from before there were marks
		if errors.Is(err, sealed.ErrUntrusted) || errors.Is(err, sealed.ErrFormat) {
			continue
		}
		return 0, err
	}
	return noNotices, nil
}

// noNotices is the mark of a store that has no notice.
const noNotices = math.MaxUint64

// Of returns the contact's unread notices, by company. Earlier calls of Opened on this Unread count.
func (u *Unread) Of(ctx context.Context, contact string) (map[string]Latest, error) {
	if u == nil {
		return nil, nil
	}
	if err := u.Flush(ctx); err != nil {
		return nil, err
	}
	all := map[string]Latest{}
	for rec, err := range u.bucket().All(ctx, id(contact, ""), "") {
		switch {
		case errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
		case err != nil:
			return nil, err
		default:
			all[strings.TrimPrefix(rec.ID, id(contact, ""))] = rec.Value
		}
	}
	return all, nil
}

// Opened notes that the contact opened the company's page. It never waits for the store. last is the
// caller's for this purpose, such as one of a session: while the same page is opened again and again,
// nothing else is touched.
func (u *Unread) Opened(last *atomic.Pointer[Opening], contact, company string, at time.Time) {
	if u == nil {
		return
	}
	was, page := last.Load(), Page{contact, company}
	again := was != nil && was.page == page
	if again {
		was.at.Store(at.UnixNano())
		if was.round == u.round.Load() { // else it may have been written before that
			return
		}
	}
	o := &Opening{page: page, round: u.round.Load()}
	if again {
		o.clean.Store(was.clean.Load())
	}
	o.at.Store(at.UnixNano())
	last.Store(o)
	u.add(o)
}

// add has an Opening be written by the next Flush, unless too many wait. It takes no lock.
func (u *Unread) add(o *Opening) {
	if u.count.Add(1) > maxWaiting {
		u.count.Add(-1)
		return
	}
	for {
		o.next = u.waiting.Load()
		if u.waiting.CompareAndSwap(o.next, o) {
			return
		}
	}
}

// Run writes down which pages were opened every few seconds, and once more when ctx ends. Several may run at
// once, as around a reload.
func (u *Unread) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for failed := false; ; {
		most, ended := writeTime, false
		select {
		case <-ctx.Done():
			most, ended = lastTime, true
		case <-tick.C:
		}
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
		err := u.Flush(within)
		cancel()
		if err != nil && !failed {
			log.Error("notices that contacts have looked after can't be written down for now, and are shown until that works", "error", err)
		}
		if failed = err != nil; ended {
			return
		}
	}
}

// Flush stores the notes of Opened. Notes that can't be stored are kept for the next Flush.
func (u *Unread) Flush(ctx context.Context) error {
	u.writing.Lock()
	defer u.writing.Unlock()
	o := u.waiting.Swap(nil)
	u.round.Add(1) // after that: a page that is opened in between is written in this round or the next one
	if o == nil {
		return nil
	}
	mark, err := u.mark(ctx)
	for o != nil {
		next := o.next
		u.count.Add(-1)
		if err == nil && (mark == 0 || o.clean.Load() != mark) {
			var left bool
			if left, err = u.write(ctx, o); err == nil && !left {
				o.clean.Store(mark)
			}
		}
		if err != nil {
			u.add(o)
		}
		o = next
	}
	return err
}

// write removes the notice that came before the page was opened, if there is one. left reports that there is
// a later one.
func (u *Unread) write(ctx context.Context, o *Opening) (left bool, err error) {
	rec, err := u.bucket().Get(ctx, id(o.page.Contact, o.page.Company))
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
		return false, nil
	case err != nil:
		return false, err
	case rec.Value.At.After(time.Unix(0, o.at.Load())):
		return true, nil
	}
	err = u.Store.Apply(ctx, u.bucket().Remove(rec))
	if errors.Is(err, store.ErrConflict) { // there is a later one by now
		return true, nil
	}
	return false, err
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (u *Unread) Reseal(ctx context.Context) error {
	_, err := u.bucket().Reseal(ctx)
	if err == nil {
		_, err = u.marks().Reseal(ctx)
	}
	return err
}
