// Package usage counts who still uses old links: by company, how often, when last, from
// how many browsers, how many uses ended in a sign-in, and how many were by what isn't a
// browser.
//
// A company is one small record, whatever happens to its links. What was counted lies in
// memory for a few seconds before it is written, so a process that is killed forgets those
// seconds, and uses that can't be written since the store is away wait there. Where the
// store fails in the middle of a write, it isn't known whether that was made: it is made
// again, and those seconds may be counted twice.
package usage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// Days is how many days, with today, are recent. Days are those of UTC.
	Days = 90
	// MaxBrowsers is up to how many browsers of a company are told apart: the latest.
	MaxBrowsers = 200
	// Keep is how long a company is remembered after the last use of its links.
	Keep = 400 * 24 * time.Hour

	bucket      = "usage"       // by company: record
	bucketSince = "usage-since" // since when there is counting: version, and seconds since 1970
	purpose     = "usage"

	writeEvery  = 5 * time.Second
	writeTime   = 10 * time.Second // that one round of writing may take
	lastTime    = 4 * time.Second  // the same, when the firm stops
	batch       = 200              // companies in one write
	pageSize    = 500              // records in one read
	maxWaiting  = 100_000          // companies that wait to be written
	maxBrowsers = 400_000          // browsers of all those that wait
	maxID       = 512              // of what a store takes
)

// Use is one use of an old link.
type Use struct {
	Browser string // stands for a browser, see Counter.Browser; "": what isn't a browser (a scanner, a script)
	// SignIn: what began with an old link has ended in a sign-in. The use itself was
	// noted before, so this is no further hit and no further browser.
	SignIn   bool
	Upgraded bool // the link asked for sign-in (else it was open)
}

// Usage is what is known of the old links of a company. The zero Usage: they were never
// used, or longer ago than Keep.
type Usage struct {
	First, Last time.Time // of its uses, to the second
	Recent      Sum       // of the last Days
	Ever        Sum
}

// Sum is what was counted in a time.
type Sum struct {
	Hits         int  `json:"hits"`          // uses
	Asked        int  `json:"asked"`         // of the hits: the link asked for sign-in
	NotBrowsers  int  `json:"not_browsers"`  // of the hits: not by a browser
	SignIns      int  `json:"sign_ins"`      // how often it ended in a sign-in
	Browsers     int  `json:"browsers"`      // how many different ones, up to MaxBrowsers
	MoreBrowsers bool `json:"more_browsers"` // there were more than Browsers
}

// Counter counts for one firm, in memory until it is written: of many uses of a company's
// links one entry waits. Set its fields in one literal. All methods may be called from many
// goroutines; the Counters of several processes may write to one store, and their counts
// add up. A nil Counter counts nothing.
type Counter struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	mu      sync.Mutex
	waiting map[string]*record // by company: what isn't written yet
	held    int                // browsers of all of these
	lost    int                // uses that found no place, since that was told last
	unread  map[string]bool    // companies whose record can't be read
	untold  int                // how many of these weren't told yet

	writing sync.Mutex // held from when waiting is taken until it is in the store
}

// Browser stands for the browser that a visitor at ip says it is: two of a kind in one
// network (an IPv4 address, a /64 of IPv6) are one. It says nothing to who doesn't have
// the secret, and changes with it.
func (c *Counter) Browser(ip netip.Addr, userAgent string) string {
	if c == nil {
		return ""
	}
	ip = ip.Unmap().WithZone("")
	network := ip.String()
	if ip.Is6() {
		network = netip.PrefixFrom(ip, 64).Masked().String()
	}
	return c.Keys.MAC(purpose, c.Firm, network, userAgent)[:16]
}

// Note counts a use of a link of the company. It never waits for the store. Where more
// companies or browsers wait for the store than there is place for, the use or the browser
// isn't counted; Run tells of lost uses.
func (c *Counter) Note(company string, u Use) {
	if c == nil || company == "" || len(company) > maxID {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.entry(company)
	if r == nil {
		c.lost++
		return
	}
	var b uint64
	if u.Browser != "" && c.held < maxBrowsers {
		b = browserID(company, u.Browser)
	}
	c.held -= len(r.browsers)
	r.note(u, b, now)
	c.held += len(r.browsers)
}

// entry returns what waits for the company, nil where there is no place. c.mu is held.
func (c *Counter) entry(company string) *record {
	r := c.waiting[company]
	if r == nil && len(c.waiting) < maxWaiting {
		if c.waiting == nil {
			c.waiting = make(map[string]*record)
		}
		r = new(record)
		c.waiting[company] = r
	}
	return r
}

// browserID is a browser in the record of a company: another one in that of another, so
// that records don't tell who visits both. It is never 0.
func browserID(company, browser string) uint64 {
	sum := sha256.Sum256([]byte(company + "\x00" + browser))
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// Run writes down what was counted every few seconds, and once more when ctx ends. Several
// may run at once, as around a reload.
func (c *Counter) Run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for failed, begun := false, false; ; {
		if !begun {
			_, err := c.Since(ctx)
			begun = err == nil
		}
		select {
		case <-ctx.Done():
			if err := c.flush(ctx, lastTime); err != nil {
				log.Error("the latest uses of old links aren't written down, and are forgotten if the process ends now", "error", err)
			}
			return
		case <-tick.C:
		}
		err := c.flush(ctx, writeTime)
		if err != nil && !failed {
			log.Error("uses of old links can't be written down for now, and wait in memory", "error", err)
		}
		failed = err != nil
		c.tell(log)
	}
}

// tell logs what couldn't be counted or read since it was called last.
func (c *Counter) tell(log *slog.Logger) {
	c.mu.Lock()
	lost, unread := c.lost, c.untold
	c.lost, c.untold = 0, 0
	c.mu.Unlock()
	if lost > 0 {
		log.Error("uses of old links weren't counted, since too many wait for the store", "uses", lost)
	}
	if unread > 0 {
		log.Error("records of how often old links were used can't be read: what another release wrote stays as it is, and its companies aren't counted; what is damaged begins again",
			"bucket", bucket, "records", unread, "what_to_do", "if you went back to an earlier release, go on to the later one again; else find out who can write to the store")
	}
}

// Close writes what waits, for a few seconds at most.
func (c *Counter) Close() error { return c.flush(context.Background(), lastTime) }

// flush writes within a time of its own: a write that is broken off is perhaps counted twice.
func (c *Counter) flush(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	return c.Flush(ctx)
}

// Flush writes what was noted before, by this Counter. What can't be written waits on.
func (c *Counter) Flush(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	waiting := c.waiting
	c.waiting, c.held = nil, 0
	c.mu.Unlock()
	for some := range slices.Chunk(slices.Sorted(maps.Keys(waiting)), batch) {
		if err := c.write(ctx, some, waiting); err != nil {
			c.putBack(waiting)
			return err
		}
	}
	return nil
}

// write adds what waits for some companies to their records, and takes out of waiting
// what is written.
func (c *Counter) write(ctx context.Context, some []string, waiting map[string]*record) error {
	now := c.now()
	ops := make([]store.Op, 0, len(some))
	counted := make([]string, 0, len(some))
	for _, company := range some {
		k := c.key(company)
		rec, err := c.Store.Get(ctx, k)
		switch {
		case err == nil:
			value, err := c.add(company, rec.Value, waiting[company], now)
			if err != nil {
				delete(waiting, company)
				continue
			}
			ops = append(ops, store.Replace(k, rec.Value, value, now.Add(Keep)))
		case errors.Is(err, store.ErrNotFound):
			value, _ := c.add(company, nil, waiting[company], now)
			ops = append(ops, store.Create(k, value, now.Add(Keep)))
		default:
			return err
		}
		counted = append(counted, company)
	}
	if len(ops) == 0 {
		return nil
	}
	err := c.Store.Apply(ctx, ops...)
	if err == nil {
		for _, company := range counted {
			delete(waiting, company)
		}
	}
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	for _, company := range counted { // somebody else wrote one of them, so each by itself
		err := store.Swap(ctx, c.Store, c.key(company), func(was []byte) ([]byte, time.Time, []store.Op, error) {
			value, err := c.add(company, was, waiting[company], now)
			return value, now.Add(Keep), nil, err
		})
		if err != nil && !errors.Is(err, errVersion) {
			return err
		}
		delete(waiting, company)
	}
	return nil
}

// add returns the company's record with more in it; was is nil where there is none. A damaged
// one begins again; one of another release is errVersion, and stays as it is.
func (c *Counter) add(company string, was []byte, more *record, now time.Time) ([]byte, error) {
	var r record
	if was != nil {
		var err error
		if r, err = decode(was); err != nil {
			c.cannotRead(company)
		}
		if errors.Is(err, errVersion) {
			return nil, err
		}
	}
	r.merge(more)
	r.trim(now)
	return r.encode(), nil
}

// cannotRead notes that the company's record can't be read, for Run to tell of it once.
func (c *Counter) cannotRead(company string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unread[company] || len(c.unread) >= maxWaiting {
		return
	}
	if c.unread == nil {
		c.unread = make(map[string]bool)
	}
	c.unread[company] = true
	c.untold++
}

// putBack lets wait on what couldn't be written.
func (c *Counter) putBack(waiting map[string]*record) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for company, more := range waiting {
		r := c.entry(company)
		if r == nil {
			c.lost += int(more.ever.hits)
			continue
		}
		c.held -= len(r.browsers)
		r.merge(more)
		r.trim(now) // a store may be away for long
		c.held += len(r.browsers)
	}
}

// Company returns what is known of the old links of a company, the zero Usage where there
// is nothing. What this Counter has noted is in it.
func (c *Counter) Company(ctx context.Context, id string) (Usage, error) {
	if c == nil {
		return Usage{}, nil
	}
	if err := c.Flush(ctx); err != nil {
		return Usage{}, err
	}
	rec, err := c.Store.Get(ctx, c.key(id))
	if errors.Is(err, store.ErrNotFound) {
		return Usage{}, nil
	}
	if err != nil {
		return Usage{}, err
	}
	u, _ := c.read(rec, c.now())
	return u, nil
}

// All calls each with every company whose links were used, in the order of their ids, until
// each returns false. What this Counter has noted is in it.
func (c *Counter) All(ctx context.Context, each func(company string, u Usage) bool) error {
	return c.From(ctx, "", each)
}

// From is All with those companies alone whose ids come behind after.
func (c *Counter) From(ctx context.Context, after string, each func(company string, u Usage) bool) error {
	if c == nil {
		return nil
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	for now := c.now(); ; {
		recs, err := c.Store.Scan(ctx, c.Firm, bucket, "", after, pageSize)
		if err != nil {
			return err
		}
		for _, rec := range recs {
			if u, ok := c.read(rec, now); ok && !each(rec.Key.ID, u) {
				return nil
			}
			after = rec.Key.ID
		}
		if len(recs) < pageSize {
			return nil
		}
	}
}

// Since returns since when uses are known of: the first call of this firm's Counters
// notes it, at most Keep ago. Of no Counter it is the zero Time.
func (c *Counter) Since(ctx context.Context) (time.Time, error) {
	if c == nil {
		return time.Time{}, nil
	}
	now := c.now().UTC().Truncate(time.Second)
	since := now
	k := store.Key{Firm: c.Firm, Bucket: bucketSince, ID: "since"}
	value := binary.BigEndian.AppendUint64([]byte{version}, uint64(now.Unix()))
	begin := store.Create(k, value, time.Time{})
	rec, err := c.Store.Get(ctx, k)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return time.Time{}, err
	case len(rec.Value) == len(value) && rec.Value[0] == version:
		since, begin = time.Unix(int64(binary.BigEndian.Uint64(rec.Value[1:])), 0).UTC(), store.Op{}
	default:
		c.cannotRead(bucketSince + "/since")
		begin = store.Replace(k, rec.Value, value, time.Time{}) // nobody knows since when
		if len(rec.Value) > 0 && rec.Value[0] != version {
			begin = store.Op{} // another release's
		}
	}
	if begin.Verb != store.VerbNone {
		if err := c.Store.Apply(ctx, begin); err != nil && !errors.Is(err, store.ErrConflict) {
			return time.Time{}, err
		}
	}
	if since.After(now) { // the clock was set back
		since = now
	}
	if earliest := now.Add(-Keep); since.Before(earliest) {
		since = earliest
	}
	return since, nil
}

// read returns what a record says, and whether it can be read.
func (c *Counter) read(rec store.Record, now time.Time) (Usage, bool) {
	r, err := decode(rec.Value)
	if err != nil {
		c.cannotRead(rec.Key.ID)
		return Usage{}, false
	}
	r.trim(now)
	return r.usage(now), true
}

func (c *Counter) key(company string) store.Key {
	return store.Key{Firm: c.Firm, Bucket: bucket, ID: company}
}

func (c *Counter) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}
