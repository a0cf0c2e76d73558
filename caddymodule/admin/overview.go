package admin

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/usage"
)

const (
	// emptyNamed is how many companies without a contact an Overview names.
	emptyNamed = 5
	// mailDays is of how many days an Overview counts emails.
	mailDays = 7
	// maxUnsent is how far an Overview counts emails that failed.
	maxUnsent = 100
)

// Overview counts what a firm has. Making one reads all of the firm's contacts and companies.
type Overview struct {
	At   time.Time     `json:"at"`
	Took time.Duration `json:"-"` // to make it

	Companies int           `json:"companies"`
	Linked    int           `json:"linked"`   // companies with old links
	Upgraded  int           `json:"upgraded"` // those of Linked whose old links ask for sign-in
	Empty     int           `json:"empty"`    // companies that no contact who may sign in belongs to
	Some      []CompanyInfo `json:"some"`     // the first of Empty, those with old links before others

	Contacts int `json:"contacts"`  // clients who may sign in
	SignedIn int `json:"signed_in"` // those of Contacts who have at least once

	Weeks []usage.Week `json:"weeks"` // of the use of old links; missing: it isn't counted

	Sent    int `json:"sent"`    // emails that the mail server took in the last 7 days
	NotSent int `json:"refused"` // those that ended unsent
	Unsent  int `json:"unsent"`  // failed emails that are kept for a retry, at most 100
}

// Overview counts what the firm has.
func (f Firm) Overview(ctx context.Context, _ struct{}) (out Overview, err error) {
	begun := time.Now()
	out.At = f.now()
	companies := map[string]CompanyInfo{} // that have no contact so far
	for in := (ListRequest{Limit: 1000}); ; {
		page, err := f.ListCompanies(ctx, in)
		if err != nil {
			return out, err
		}
		for _, c := range page.Companies {
			out.Companies++
			companies[c.ID] = c
			if c.LegacyLinks > 0 {
				out.Linked++
				if c.State == "upgraded" {
					out.Upgraded++
				}
			}
		}
		if in.After = page.Next; in.After == "" {
			break
		}
	}
	if err := f.countContacts(ctx, &out, companies); err != nil {
		return out, err
	}
	out.Empty = len(companies)
	out.Some = firstEmpty(companies)
	if out.Weeks, err = f.Usage.WeeksOfAll(ctx); err != nil {
		return out, err
	}
	err = f.EachEvent(ctx, SearchEvents{Kinds: []audit.Kind{audit.Sent, audit.Refused, audit.Late}, Since: out.At.AddDate(0, 0, -mailDays)}, func(e Event) error {
		if e.Kind == audit.Sent {
			out.Sent++
		} else {
			out.NotSent++
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	unsent, err := f.ListMail(ctx, ListMail{Failed: true, Limit: maxUnsent})
	out.Unsent = len(unsent.Mails)
	out.Took = time.Since(begun)
	return out, err
}

// countContacts counts the contacts, and takes the companies that have one who may sign in from empty.
func (f Firm) countContacts(ctx context.Context, out *Overview, empty map[string]CompanyInfo) error {
	devices := limit.Devices{Firm: f.Tokens.Firm, Store: f.Tokens.Store, Keys: f.Tokens.Keys}
	next, stop := iter.Pull2(devices.EverSignedIn(ctx))
	defer stop()
	seen, err, more := next() // in the order of contacts
	for after := ""; ; {
		page, pageErr := f.Directory.Contacts(ctx, "", after, contactsAtOnce)
		if err = errors.Join(err, pageErr); err != nil {
			return err
		}
		for _, c := range page {
			after = c.ID
			if c.Disabled {
				continue
			}
			for _, id := range c.Companies {
				delete(empty, id)
			}
			if c.Role == directory.Staff {
				continue
			}
			out.Contacts++
			for more && err == nil && seen < c.ID {
				seen, err, more = next()
			}
			if more && seen == c.ID {
				out.SignedIn++
			}
		}
		if len(page) < contactsAtOnce {
			return err
		}
	}
}

// firstEmpty returns some of the companies: those with old links that open still, before others.
func firstEmpty(companies map[string]CompanyInfo) []CompanyInfo {
	all := []CompanyInfo{}
	for _, open := range []bool{true, false} {
		for _, id := range slices.Sorted(maps.Keys(companies)) {
			c := companies[id]
			if (c.LegacyLinks > 0 && c.State != "upgraded") == open && len(all) < emptyNamed {
				all = append(all, c)
			}
		}
	}
	return all
}

// Overviews makes Overviews in the background, when somebody asks for one. Set the fields in one literal, and call Run.
type Overviews struct {
	Firm Firm

	once  sync.Once
	wake  chan struct{}
	mu    sync.Mutex
	last  Overview      // zero: there is none yet
	err   error         // why the latest attempt made none
	fresh chan struct{} // closed when the one that is being made is there
}

const (
	// overviewRest is how long an Overview is used, for each unit of time that it took to make it.
	overviewRest = 30
	// overviewTime limits the time to make one.
	overviewTime = time.Minute
)

func (o *Overviews) start() {
	o.once.Do(func() { o.wake, o.fresh = make(chan struct{}, 1), make(chan struct{}) })
}

// Run makes an Overview whenever Get wants one, until ctx ends.
func (o *Overviews) Run(ctx context.Context) {
	o.start()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		}
		within, cancel := context.WithTimeout(ctx, overviewTime)
		made, err := o.Firm.Overview(within, struct{}{})
		cancel()
		o.mu.Lock()
		if o.err = err; err == nil {
			o.last = made
		}
		close(o.fresh)
		o.fresh = make(chan struct{})
		o.mu.Unlock()
	}
}

// Get returns the latest Overview. One that is too old is made anew, for which Get waits at most patience; the zero Overview
// means that none was made in that time.
func (o *Overviews) Get(ctx context.Context, patience time.Duration) (Overview, error) {
	o.start()
	o.mu.Lock()
	last, fresh := o.last, o.fresh
	o.mu.Unlock()
	if age := o.Firm.now().Sub(last.At); !last.At.IsZero() && age >= 0 && age < overviewRest*last.Took {
		return last, nil
	}
	select {
	case o.wake <- struct{}{}:
	default: // it is being made
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case <-fresh:
	case <-wait.C:
	case <-ctx.Done():
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last, o.err
}
