// Package notice remembers of which companies a contact has had a notice, and hasn't opened the
// company's page since.
package notice

import (
	"context"
	"errors"
	"log/slog"
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

	round   atomic.Uint64 // another one after each Flush
	mu      sync.Mutex
	waiting []*Opening

	writing sync.Mutex
}

// Opening is a company's page that a contact has opened.
type Opening struct {
	contact, company string
	at               atomic.Int64 // when last, in nanoseconds since 1970
	round            uint64       // in which it is written, unless it's over
}

func (u *Unread) bucket() *sealed.Bucket[Latest] {
	return &sealed.Bucket[Latest]{Store: u.Store, Keys: u.Keys, Firm: u.Firm, Name: "unread-notice", Now: u.Now, Format: '1', OnUntrusted: u.OnUntrusted}
}

func id(contact, company string) string { return contact + "/" + company }

// Put returns the Op by which the contact has a notice about the company.
func (u *Unread) Put(contact, company string, n Latest) (store.Op, error) {
	return u.bucket().Put(id(contact, company), n, n.At.Add(Keep))
}

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
	if o := last.Load(); o != nil && o.company == company && o.contact == contact {
		o.at.Store(at.UnixNano())
		if o.round == u.round.Load() { // else it may have been written before that
			return
		}
	}
	o := &Opening{contact: contact, company: company}
	o.at.Store(at.UnixNano())
	u.mu.Lock()
	o.round = u.round.Load()
	if len(u.waiting) < maxWaiting {
		u.waiting = append(u.waiting, o)
	}
	u.mu.Unlock()
	last.Store(o)
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
	u.mu.Lock()
	u.round.Add(1)
	waiting := u.waiting
	u.waiting = nil
	u.mu.Unlock()
	for i, o := range waiting {
		if err := u.write(ctx, o); err != nil {
			u.mu.Lock()
			u.waiting = append(u.waiting, waiting[i:min(len(waiting), i+maxWaiting-len(u.waiting))]...)
			u.mu.Unlock()
			return err
		}
	}
	return nil
}

// write removes the notice that came before the page was opened, if there is one.
func (u *Unread) write(ctx context.Context, o *Opening) error {
	rec, err := u.bucket().Get(ctx, id(o.contact, o.company))
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted), errors.Is(err, sealed.ErrFormat):
		return nil
	case err != nil:
		return err
	case rec.Value.At.After(time.Unix(0, o.at.Load())):
		return nil
	}
	err = u.Store.Apply(ctx, u.bucket().Remove(rec))
	if errors.Is(err, store.ErrConflict) { // there is a later one by now
		return nil
	}
	return err
}

// Reseal seals with the newest secret what older ones have sealed. The error is the store's.
func (u *Unread) Reseal(ctx context.Context) error {
	_, err := u.bucket().Reseal(ctx)
	return err
}
