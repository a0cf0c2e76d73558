// Package usage counts the use of old links for each company: how often, when last, by how
// many browsers, how many uses led to a sign-in, and how many came from other programs than
// browsers.
//
// Each company has one small record. Counts are kept in memory for a few seconds and then
// written. A killed process loses the counts of these seconds; counts that can't be written
// wait in memory. If the store fails during a write, the outcome is unknown: the write is
// repeated, and may count twice.
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
	"sync/atomic"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

const (
	// Days is the number of days, including today, that count as recent. Days are UTC.
	Days = 90
	// MaxBrowsers is the maximum number of browsers of a company that are told apart: the
	// latest.
	MaxBrowsers = 200
	// Keep is how long a company is stored after the last use of its links.
	Keep = 400 * 24 * time.Hour

	bucket      = "usage"       // by company: record
	bucketSince = "usage-since" // start of counting: version, seconds since 1970
	purpose     = "usage"

	writeEvery   = 5 * time.Second
	writeTimeout = 10 * time.Second // for one round of writing
	lastTimeout  = 4 * time.Second  // for the last one, when the firm stops
	batch        = 200              // companies in one write
	pageSize     = 500              // records in one read
	maxPending   = 100_000          // companies waiting to be written
	maxBrowsers  = 400_000          // browsers of all waiting companies
	maxID        = 512              // bytes, the limit of the store
)

// Use is one use of an old link.
type Use struct {
	Browser string // from Counter.Browser; "": not a browser (a scanner, a script)
	// SignIn: an earlier use has led to a sign-in. That use was counted already, so this one
	// adds no hit and no browser.
	SignIn   bool
	Upgraded bool // the link required sign-in
}

// Usage is the usage of a company's old links. It is zero if they weren't used within Keep.
type Usage struct {
	First, Last time.Time // uses, to the second
	Recent      Sum       // the last Days
	Ever        Sum
}

// Sum holds the counts of a period.
type Sum struct {
	Hits         int  `json:"hits"`          // uses
	Upgraded     int  `json:"asked"`         // hits for which the link required sign-in
	NotBrowsers  int  `json:"not_browsers"`  // hits by other programs than browsers
	SignIns      int  `json:"sign_ins"`      // uses that led to a sign-in
	Browsers     int  `json:"browsers"`      // different browsers, up to MaxBrowsers
	MoreBrowsers bool `json:"more_browsers"` // there were more than Browsers
}

// Counter counts for one firm. Counts are kept in memory until they are written, in one
// record per company. Set the fields in one literal. All methods are safe for concurrent use;
// Counters of several processes may write to one store, and their counts add up. A nil
// Counter counts nothing.
type Counter struct {
	Firm  string
	Store store.Store
	Keys  *secret.Keyring
	Now   func() time.Time // the clock; nil: time.Now

	mu       sync.Mutex
	pending  map[string]*record // by company: counts that aren't written yet
	browsers int                // number of browsers in pending
	lost     int                // uses dropped since the last log line
	unread   map[string]bool    // companies with an unreadable record
	unlogged int                // number of these not logged yet

	noted [2][2]atomic.Uint64 // uses since the start: by whether they asked for sign-in, and whether in browsers

	writing sync.Mutex // held while pending counts are being written
}

// Noted returns how many uses were noted since the start of the process: of links that required sign-in or not, in browsers or
// by other programs.
func (c *Counter) Noted(upgraded, browser bool) uint64 {
	if c == nil {
		return 0
	}
	return c.noted[index(upgraded)][index(browser)].Load()
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Browser returns a pseudonym of a visitor's browser, from its network (an IPv4 address, a
// /64 of IPv6) and its User-Agent. It reveals nothing without the secret, and changes with
// it.
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

// Note counts a use of a link of the company. It never waits for the store. If too many
// companies or browsers are pending, it doesn't count the use or the browser; Run logs
// dropped uses.
func (c *Counter) Note(company string, u Use) {
	if c == nil || company == "" || len(company) > maxID {
		return
	}
	if !u.SignIn {
		c.noted[index(u.Upgraded)][index(u.Browser != "")].Add(1)
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
	if u.Browser != "" && c.browsers < maxBrowsers {
		b = browserID(company, u.Browser)
	}
	c.browsers -= len(r.browsers)
	r.addUse(u, b, now)
	c.browsers += len(r.browsers)
}

// entry returns the pending record of the company, or nil if there are too many. The caller
// holds c.mu.
func (c *Counter) entry(company string) *record {
	r := c.pending[company]
	if r == nil && len(c.pending) < maxPending {
		if c.pending == nil {
			c.pending = make(map[string]*record)
		}
		r = new(record)
		c.pending[company] = r
	}
	return r
}

// browserID returns the ID of a browser in a company's record. It differs between companies,
// so that records don't reveal common visitors. It is never 0.
func browserID(company, browser string) uint64 {
	sum := sha256.Sum256([]byte(company + "\x00" + browser))
	return max(1, binary.BigEndian.Uint64(sum[:]))
}

// Run writes counts every few seconds, and once more when ctx ends. Several may run at once,
// as during a reload.
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
			if err := c.flush(ctx, lastTimeout); err != nil {
				log.Error("usage counts of old links not saved; they are lost if the process ends now", "error", err)
			}
			return
		case <-tick.C:
		}
		err := c.flush(ctx, writeTimeout)
		if err != nil && !failed {
			log.Error("usage counts of old links not saved yet; they wait in memory", "error", err)
		}
		failed = err != nil
		c.logProblems(log)
	}
}

// logProblems logs dropped uses and unreadable records since its last call.
func (c *Counter) logProblems(log *slog.Logger) {
	c.mu.Lock()
	lost, unread := c.lost, c.unlogged
	c.lost, c.unlogged = 0, 0
	c.mu.Unlock()
	if lost > 0 {
		log.Error("uses of old links not counted: too many wait for the store", "uses", lost)
	}
	if unread > 0 {
		log.Error("usage records of old links unreadable: those of another release stay, and their companies aren't counted; damaged ones start again",
			"bucket", bucket, "records", unread, "what_to_do", "if you went back to an earlier release, upgrade again; otherwise find out who can write to the store")
	}
}

// Close writes pending counts, within a few seconds.
func (c *Counter) Close() error { return c.flush(context.Background(), lastTimeout) }

// flush calls Flush with its own timeout, since a canceled write may be counted twice.
func (c *Counter) flush(ctx context.Context, most time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	return c.Flush(ctx)
}

// Flush writes all counts of this Counter. Counts that can't be written stay pending.
func (c *Counter) Flush(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	waiting := c.pending
	c.pending, c.browsers = nil, 0
	c.mu.Unlock()
	for some := range slices.Chunk(slices.Sorted(maps.Keys(waiting)), batch) {
		if err := c.write(ctx, some, waiting); err != nil {
			c.requeue(waiting)
			return err
		}
	}
	return nil
}

// write adds the pending counts of some companies to their records, and removes written ones
// from waiting.
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
	for _, company := range counted { // another process wrote one of them, so write each by itself
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

// add returns the company's record with more added; was is nil if there is none. A damaged
// record starts again; for one of another release, add returns errVersion, and the record
// stays.
func (c *Counter) add(company string, was []byte, more *record, now time.Time) ([]byte, error) {
	var r record
	if was != nil {
		var err error
		if r, err = decode(was); err != nil {
			c.markUnreadable(company)
		}
		if errors.Is(err, errVersion) {
			return nil, err
		}
	}
	r.merge(more)
	r.trim(now)
	return r.encode(), nil
}

// markUnreadable remembers that the company's record is unreadable, for Run to log.
func (c *Counter) markUnreadable(company string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unread[company] || len(c.unread) >= maxPending {
		return
	}
	if c.unread == nil {
		c.unread = make(map[string]bool)
	}
	c.unread[company] = true
	c.unlogged++
}

// requeue makes counts pending again that couldn't be written.
func (c *Counter) requeue(waiting map[string]*record) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for company, more := range waiting {
		r := c.entry(company)
		if r == nil {
			c.lost += int(more.ever.hits)
			continue
		}
		c.browsers -= len(r.browsers)
		r.merge(more)
		r.trim(now) // the store may be unavailable for long
		c.browsers += len(r.browsers)
	}
}

// Company returns the usage of a company's old links, including pending counts of this
// Counter; the zero Usage if there is none.
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

// All calls each for every company whose links were used, in the order of their IDs, until
// each returns false. It includes pending counts of this Counter.
func (c *Counter) All(ctx context.Context, each func(company string, u Usage) bool) error {
	return c.From(ctx, "", each)
}

// From is All, starting after the company ID after.
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

// Since returns when counting began, at most Keep ago: the firm's first call of Since records
// it. It returns the zero Time for a nil Counter.
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
		c.markUnreadable(bucketSince + "/since")
		begin = store.Replace(k, rec.Value, value, time.Time{}) // the start is unknown
		if len(rec.Value) > 0 && rec.Value[0] != version {
			begin = store.Op{} // of another release
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

// read decodes a record, and reports whether it is readable.
func (c *Counter) read(rec store.Record, now time.Time) (Usage, bool) {
	r, err := decode(rec.Value)
	if err != nil {
		c.markUnreadable(rec.Key.ID)
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
