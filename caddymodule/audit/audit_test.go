package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// desk is a Log over a real store, with a test clock.
type desk struct {
	*Log
	t    *testing.T
	db   *bolt.DB
	out  *bytes.Buffer
	time atomic.Int64
	all  *Counters
}

func (d *desk) now() time.Time       { return time.UnixMicro(d.time.Load()) }
func (d *desk) pass(t time.Duration) { d.time.Add(t.Microseconds()) }

func openDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, out: new(bytes.Buffer), all: NewCounters()}
	d.time.Store(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC).UnixMicro())
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{Clock: d.now})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	d.db = db
	d.Log = &Log{Logger: slog.New(slog.NewJSONHandler(d.out, nil)), Keys: keys, EventLog: NewEventLog("example", db, d.now, d.all)}
	t.Cleanup(func() {
		d.EventLog.Close()
		db.Close()
	})
	return d
}

func (d *desk) events() (list []Event) {
	d.t.Helper()
	for after := ""; ; {
		page, next, err := d.Events(d.t.Context(), time.Time{}, after, 300)
		if err != nil {
			d.t.Fatal(err)
		}
		list = append(list, page...)
		if after = next; after == "" {
			return list
		}
	}
}

// counted returns the value of a series.
func (d *desk) counted(firm string, kind Kind) float64 {
	d.t.Helper()
	r := prometheus.NewPedanticRegistry() // as Caddy's
	r.MustRegister(d.all)
	families, err := r.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			labels := fmt.Sprint(m.GetLabel())
			if f.GetName() == "doorpost_events_total" && strings.Contains(labels, `"`+firm+`"`) && strings.Contains(labels, `"`+string(kind)+`"`) {
				return m.GetCounter().GetValue()
			}
		}
	}
	d.t.Fatalf("there is no series of %s, %s", firm, kind)
	return 0
}

func TestRecord_WritesLineRecordAndCount(t *testing.T) {
	d := openDesk(t)
	e := Event{Kind: SignedIn, Contact: "c1", Session: "s1", Address: "a•••@example.com", Method: "link",
		Agent: "Safari on iPhone", IP: netip.MustParseAddr("203.0.113.9"), Request: "r1"}
	d.Record(t.Context(), e)
	got := d.events()
	if len(got) != 1 || !got[0].Time.Equal(d.now()) || got[0].ID == "" {
		t.Fatalf("Events = %+v; want the one event, at %v", got, d.now())
	}
	e.ID, e.Time = got[0].ID, got[0].Time
	if fmt.Sprint(got[0]) != fmt.Sprint(e) {
		t.Errorf("Events = %+v; want %+v", got[0], e)
	}
	if n := d.counted("example", SignedIn); n != 1 {
		t.Errorf("signed-in = %v; want 1", n)
	}
	for _, want := range []string{`"event":"signed-in"`, `"contact":"c1"`, `"ip":"203.0.113.9"`} {
		if !strings.Contains(d.out.String(), want) {
			t.Errorf("the line is %s; want %s in it", d.out, want)
		}
	}
	recs, err := d.db.Scan(t.Context(), "example", "events", "", "", 10)
	if err != nil || len(recs) != 1 || bytes.Contains(recs[0].Value, []byte("203.0.113.9")) || recs[0].Value[0] != version {
		t.Errorf("the record is %v, %v; want it sealed, with its version", recs, err)
	}
	if want := d.now().Add(Keep); !recs[0].Expires.Equal(want) {
		t.Errorf("the record ends %v; want %v", recs[0].Expires, want)
	}
}

// An event with a change is stored with it once, or not at all.
func TestWith_StoresTheEventWithTheChange(t *testing.T) {
	d := openDesk(t)
	e, ops := d.With(Event{Kind: SignedIn, Contact: "c1"})
	if err := d.db.Apply(t.Context(), ops...); err != nil {
		t.Fatal(err)
	}
	d.Record(t.Context(), e)
	d.With(Event{Kind: SignedIn, Contact: "c2"}) // whose change wasn't applied
	if got := d.events(); len(got) != 1 || got[0].Contact != "c1" {
		t.Errorf("Events = %+v; want the one that was applied", got)
	}
	if n := d.counted("example", SignedIn); n != 1 {
		t.Errorf("signed-in = %v; want 1", n)
	}
}

func TestEvents_OrderPagesAndSince(t *testing.T) {
	d := openDesk(t)
	for i := range 1000 { // of both histories, several within one tick of the clock
		e := Event{Kind: Queued, Request: fmt.Sprint(i), Contact: "c1"}
		if i%2 == 0 {
			e = Event{Kind: Requested, Request: fmt.Sprint(i)}
		}
		d.Record(t.Context(), e)
		if i%10 == 0 {
			d.pass(time.Second)
		}
	}
	got := d.events()
	for i, e := range got {
		if e.Request != fmt.Sprint(i) {
			t.Fatalf("event %d is that of request %s", i, e.Request)
		}
	}
	if len(got) != 1000 {
		t.Errorf("%d events; want 1000", len(got))
	}
	since := got[500].Time
	late, _, err := d.Events(t.Context(), since, "", 1)
	if err != nil || len(late) != 1 || late[0].Request != "500" {
		t.Errorf("Events since %v = %+v, %v; want the 501st first", since, late, err)
	}
}

// D17 (floods): the log and the store hold a part of a flood, the counters count all of it.
func TestD17_Flood(t *testing.T) {
	d := openDesk(t)
	const many = 1_000_000
	for i := range many {
		d.Record(t.Context(), Event{Kind: Unknown, Address: "x•••@example.com", Whole: address.Address(fmt.Sprintf("x%d@example.com", i))})
		if i%1000 == 0 {
			d.pass(100 * time.Millisecond) // a hundred seconds in all
		}
	}
	d.Record(t.Context(), Event{Kind: Limited, Contact: "c1"})
	d.pass(summaryEvery)
	d.Record(t.Context(), Event{Kind: SignedIn, Contact: "c1"})
	var singly, more int
	kept := map[Kind]bool{}
	for _, e := range d.events() {
		kept[e.Kind] = true
		if e.Kind != Unknown {
			continue
		}
		if e.More == 0 {
			singly++
		}
		more += e.More
	}
	if singly < floodBurst || singly > floodBurst+110 || singly+more != many {
		t.Errorf("%d of the flood are stored singly and %d summed up; want a thousand and one a second, and all others", singly, more)
	}
	if !kept[Limited] || !kept[SignedIn] {
		t.Errorf("stored are %v; want what happened to a contact meanwhile", kept)
	}
	if n := d.counted("example", Unknown); n != many {
		t.Errorf("unknown = %v; want %d", n, many)
	}
	if n := strings.Count(d.out.String(), "\n"); n > singly+20 {
		t.Errorf("%d lines; want hardly more than %d", n, singly)
	}
	all, err := d.UnknownAddresses(t.Context())
	if err != nil || len(all) > maxUnknownAddresses {
		t.Errorf("%d strangers, %v; want %d at most", len(all), err, maxUnknownAddresses)
	}
	recs, err := d.db.Scan(t.Context(), "example", unknownBucket, "", "", 5000)
	if err != nil || len(recs) > maxUnknownAddresses+unknownSlack+batch {
		t.Errorf("%d records of strangers, %v", len(recs), err)
	}
}

func TestPrune(t *testing.T) {
	d := openDesk(t)
	for i := range 2500 {
		d.Record(t.Context(), Event{Kind: SignedIn, Contact: fmt.Sprint(i)})
	}
	d.EventLog.Flush(t.Context())
	if err := d.EventLog.pruneHistory(t.Context(), d.Keys, history{bucket: contactEvents.bucket, max: 1200}); err != nil {
		t.Fatal(err)
	}
	got := d.events()
	if len(got) != 1200 || got[0].Contact != "1300" || got[1199].Contact != "2499" {
		t.Errorf("%d events are left, from %s to %s; want the latest 1200", len(got), got[0].Contact, got[len(got)-1].Contact)
	}
}

// Unreadable records are logged once for each bucket, and a record of another release isn't
// overwritten.
func TestUnreadableRecordsAreLogged(t *testing.T) {
	d := openDesk(t)
	ask := func() {
		t.Helper()
		d.Record(t.Context(), Event{Kind: Unknown, Whole: "typo@example.com"})
		d.EventLog.Flush(t.Context())
	}
	ask()
	recs, err := d.db.Scan(t.Context(), "example", unknownBucket, "", "", 10)
	if err != nil || len(recs) != 1 {
		t.Fatalf("%d addresses, %v; want 1", len(recs), err)
	}
	// Sealed by another release.
	later := func(bucket, id string) store.Op {
		b := sealed.Bucket[string]{Store: d.db, Keys: d.Keys, Firm: "example", Name: bucket, Format: version + 1}
		op, err := b.Put(id, "by another release", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	noted := later(unknownBucket, recs[0].Key.ID)
	other := noted.Value
	if err := d.db.Apply(t.Context(), noted, later(contactEvents.bucket, newID(d.now()))); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		ask()
		d.events()
		if list, err := d.UnknownAddresses(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("Strangers = %v, %v; want none that can be read", list, err)
		}
	}
	if rec, err := d.db.Get(t.Context(), recs[0].Key); err != nil || !bytes.Equal(rec.Value, other) {
		t.Errorf("what another release noted of an address is %q, %v; want it as it was", rec.Value, err)
	}
	for _, bucket := range []string{contactEvents.bucket, unknownBucket} {
		if n := strings.Count(d.out.String(), `"bucket":"`+bucket+`"`); n != 1 {
			t.Errorf("the log tells of %s %d times; want once:\n%s", bucket, n, d.out)
		}
	}
}

// The history is sealed as by earlier releases, which may use the same store.
func TestTheHistoryIsSealedAsByEarlierReleases(t *testing.T) {
	d := openDesk(t)
	k := store.Key{Firm: "example", Bucket: contactEvents.bucket, ID: newID(d.now().Add(-time.Minute))}
	value := append([]byte{version}, d.Keys.Seal("audit", "example/events/"+k.ID, []byte(`{"event":"signed-in","contact":"c0"}`))...)
	if err := d.db.Apply(t.Context(), store.Put(k, value, time.Time{})); err != nil {
		t.Fatal(err)
	}
	d.Record(t.Context(), Event{Kind: SignedIn, Contact: "c1"})
	got := d.events()
	if len(got) != 2 || got[0].Contact != "c0" || got[1].Contact != "c1" {
		t.Fatalf("Events = %+v; want the one that was there, and the new one", got)
	}
	k.ID = got[1].ID
	rec, err := d.db.Get(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := d.Keys.Open("audit", "example/events/"+k.ID, rec.Value[1:]); err != nil || string(plain) != `{"event":"signed-in","contact":"c1"}` || rec.Value[0] != 1 {
		t.Errorf("it was written as %q, %v; want as before", plain, err)
	}
}

// Both histories together respect their limits for all kinds of events: also for those stored with
// a change, such as sign-ins, and while events arrive as fast as they are written.
func TestTheHistoryIsBounded(t *testing.T) {
	stored := func(d *desk) (n int) {
		for _, p := range []history{contactEvents, unknownEvents} {
			for after := ""; ; {
				recs, err := d.db.Scan(t.Context(), "example", p.bucket, "", after, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if n += len(recs); len(recs) < 1000 {
					break
				}
				after = recs[len(recs)-1].Key.ID
			}
		}
		return n
	}
	const room, strangeRoom = 300, 100
	open := func() *desk {
		d := openDesk(t)
		d.EventLog.histories = []history{{bucket: contactEvents.bucket, max: room}, {bucket: unknownEvents.bucket, max: strangeRoom}}
		return d
	}
	// First one event in each history, from which pruning counts.
	begin := func(d *desk) {
		d.Record(t.Context(), Event{Kind: Changed})
		d.Record(t.Context(), Event{Kind: Requested})
		d.EventLog.Flush(t.Context())
	}

	d := open()
	begin(d)
	for range 10 {
		var all []store.Op
		var told []Event
		for i := range 200 {
			e, ops := d.With(Event{Kind: SignedIn, Contact: fmt.Sprint(i)})
			all, told = append(all, ops...), append(told, e)
		}
		if err := d.db.Apply(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
		for _, e := range told {
			d.Record(t.Context(), e)
		}
		d.EventLog.Flush(t.Context())
	}
	if n := stored(d); n > room+pruneEvery+1 {
		t.Errorf("after 2000 sign-ins %d events are stored; want at most %d, and %d between two looks", n, room, pruneEvery)
	}

	d = open()
	begin(d)
	for kind, cheap := range kinds {
		for i := range 200 {
			if d.Record(t.Context(), Event{Kind: kind, Contact: fmt.Sprint(i)}); cheap {
				d.Record(t.Context(), Event{Kind: kind, IP: netip.MustParseAddr(fmt.Sprintf("198.51.%d.1", i))})
			}
		}
		d.EventLog.Flush(t.Context())
	}
	if n := stored(d); n > room+strangeRoom+2*pruneEvery {
		t.Errorf("after 200 events of each kind %d are stored; want at most %d and %d, and %d between two looks at each", n, room, strangeRoom, pruneEvery)
	}

	// The writer never catches up: each write causes as many more events.
	d = open()
	s := &endless{DB: d.db, more: 30 * pruneEvery}
	l := &Log{Logger: d.Logger, Keys: d.Keys, EventLog: NewEventLog("example", s, d.now, d.all)}
	l.EventLog.histories = d.EventLog.histories
	s.record = func() { l.Record(t.Context(), Event{Kind: Entered, Contact: "staff"}) }
	for range batch {
		s.record()
	}
	l.EventLog.Flush(t.Context())
	if err := l.EventLog.Close(); err != nil {
		t.Fatal(err)
	}
	if s.most > room+pruneBusyEvery+batch {
		t.Errorf("while more came as fast as they were written, %d events were stored; want at most %d, and %d between two looks", s.most, room, pruneBusyEvery)
	}
}

// endless is a store in which each write causes further events, up to a limit. It counts its
// events.
type endless struct {
	*bolt.DB
	record     func()
	more       int
	held, most int
}

func (s *endless) Apply(ctx context.Context, ops ...store.Op) error {
	if err := s.DB.Apply(ctx, ops...); err != nil {
		return err
	}
	for _, op := range ops {
		if op.Verb == store.VerbDelete {
			s.held--
			continue
		}
		s.held++
		if s.more > 0 {
			s.more--
			s.record()
		}
	}
	s.most = max(s.most, s.held)
	return nil
}

// Many events of one owner push out only that owner's: not those of other contacts or networks.
func TestPruneDeletesOnlyEventsOfFrequentOwners(t *testing.T) {
	d := openDesk(t)
	ip := netip.MustParseAddr
	d.Record(t.Context(), Event{Kind: Changed, By: "admin", What: "contacts/disable"})
	for i := range 10 {
		request := fmt.Sprint("request-", i)
		d.Record(t.Context(), Event{Kind: Requested, Request: request, IP: ip("192.0.2.1")})
		d.Record(t.Context(), Event{Kind: Queued, Contact: "ann", Request: request})
		d.Record(t.Context(), Event{Kind: Sent, Request: request})
		d.Record(t.Context(), Event{Kind: SignedIn, Contact: "ann", IP: ip("192.0.2.1")})
	}
	for i := range 1000 {
		d.Record(t.Context(), Event{Kind: SignedIn, Contact: "mallory", Session: fmt.Sprint(i), IP: ip("198.51.100.1")})
		d.Record(t.Context(), Event{Kind: OpenedOld, Contact: "mallory", IP: ip("198.51.100.1")})
		d.Record(t.Context(), Event{Kind: Requested, IP: ip(fmt.Sprintf("198.51.100.%d", i%256))})
	}
	d.EventLog.Flush(t.Context())
	for _, p := range []history{{bucket: contactEvents.bucket, max: 500}, {bucket: unknownEvents.bucket, max: 100}} {
		if err := d.EventLog.pruneHistory(t.Context(), d.Keys, p); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]int{}
	last := ""
	for _, e := range d.events() {
		got[strings.TrimSpace(fmt.Sprint(e.Kind, " ", e.Contact))]++
		last = cmp.Or(e.Session, last)
	}
	for what, n := range map[string]int{"changed": 1, "queued ann": 10, "sent": 10, "signed-in ann": 10, "asked": 100} {
		if got[what] != n {
			t.Errorf("%s: %d are left; want %d", what, got[what], n)
		}
	}
	if n := got["signed-in mallory"] + got["opened-old mallory"]; n != 500-31 || last != "999" {
		t.Errorf("of who caused most, %d are left, up to sign-in %s; want 469, the latest", n, last)
	}
}

func TestFairShare(t *testing.T) {
	for _, c := range []struct {
		counts []int
		room   int
		want   int
	}{
		{nil, 10, 10},
		{[]int{5}, 3, 3},
		{[]int{1, 1, 1}, 2, 0},
		{[]int{1, 10, 100}, 50, 39},
		{[]int{100, 1, 100}, 51, 25},
		{[]int{3, 3, 3}, 9, 3},
	} {
		if got := fairShare(c.counts, c.room); got != c.want {
			t.Errorf("fairShare(%v, %d) = %d; want %d", c.counts, c.room, got, c.want)
		}
	}
}

func TestUnknownAddresses(t *testing.T) {
	d := openDesk(t)
	ask := func(a address.Address, agent string) {
		d.Record(t.Context(), Event{Kind: Unknown, Address: a.Masked(), Agent: agent, Whole: a})
		d.pass(time.Minute)
	}
	first := d.now().UTC()
	ask("ann@exmaple.com", "Safari on iPhone")
	ask("bob@example.org", "")
	d.EventLog.Flush(t.Context())
	ask("ann@exmaple.com", "Firefox on Windows")
	ask("ann@exmaple.com", "Firefox on Windows")
	got, err := d.UnknownAddresses(t.Context())
	want := []UnknownAddress{
		{"ann@exmaple.com", 3, first, first.Add(3 * time.Minute), "Firefox on Windows"},
		{"bob@example.org", 1, first.Add(time.Minute), first.Add(time.Minute), ""},
	}
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Strangers = %v, %v; want %v", got, err, want)
	}
	if strings.Contains(d.out.String(), "ann@") {
		t.Errorf("the log holds a whole address: %s", d.out)
	}
	for _, e := range d.events() {
		if b, _ := json.Marshal(e); bytes.Contains(b, []byte("ann@")) {
			t.Errorf("an event holds a whole address: %s", b)
		}
	}
	for _, bucket := range []string{"strangers", "strange-events"} {
		recs, err := d.db.Scan(t.Context(), "example", bucket, "", "", 10)
		if err != nil || len(recs) == 0 {
			t.Fatal(len(recs), err)
		}
		for _, rec := range recs {
			if s := rec.Key.ID + string(rec.Value); strings.Contains(s, "ann") || strings.Contains(s, "exmaple") {
				t.Errorf("%s: an address lies open in the store: %q", bucket, s)
			}
		}
	}
	d.pass(KeepUnknownAddresses)
	if got, err := d.UnknownAddresses(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("Strangers after 30 days = %v, %v; want none", got, err)
	}
}

// away is a store that can be unavailable.
type away struct {
	store.Store
	yes atomic.Bool
}

func (a *away) Apply(ctx context.Context, ops ...store.Op) error {
	if a.yes.Load() {
		return store.ErrUnavailable
	}
	return a.Store.Apply(ctx, ops...)
}

// While the store is unavailable nobody waits, and events are written later, up to a limit.
func TestEventsWaitWhileTheStoreIsUnavailable(t *testing.T) {
	d := openDesk(t)
	s := &away{Store: d.db}
	s.yes.Store(true)
	l := &Log{Logger: d.Logger, Keys: d.Keys, EventLog: NewEventLog("other", s, d.now, d.all)}
	for range maxPending + 7 {
		l.Record(t.Context(), Event{Kind: SignedIn, Contact: "c1"})
	}
	l.EventLog.Flush(t.Context())
	if !strings.Contains(d.out.String(), "events not stored yet") {
		t.Error("the log doesn't say that events can't be stored")
	}
	s.yes.Store(false)
	l.EventLog.Flush(t.Context())
	if n := d.counted("other", SignedIn); n != maxPending+7 {
		t.Errorf("counted %v; want all", n)
	}
	l.Record(t.Context(), Event{Kind: SignedOut, Contact: "c1"})
	if err := l.EventLog.Close(); err != nil { // writes pending events
		t.Fatal(err)
	}
	n := 0
	for after := ""; ; {
		recs, err := d.db.Scan(t.Context(), "other", "events", "", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if n += len(recs); len(recs) == 0 {
			break
		}
		after = recs[len(recs)-1].Key.ID
	}
	if n != maxPending+1 {
		t.Errorf("%d events are stored; want %d", n, maxPending+1)
	}
	if !strings.Contains(d.out.String(), `"events":7`) {
		t.Error("the log doesn't say how many are missing")
	}
	l.Record(t.Context(), Event{Kind: SignedOut}) // after Close: counted, and no panic
	l.EventLog.Flush(t.Context())
}

// The same Counters can be registered with one registry after another, as at reloads.
func TestCounters(t *testing.T) {
	d := openDesk(t)
	d.Record(t.Context(), Event{Kind: SignedIn})
	d.Record(t.Context(), Event{Kind: "made up by a bug"})
	for range 3 {
		r := prometheus.NewPedanticRegistry()
		if err := r.Register(d.all); err != nil {
			t.Fatal(err)
		}
		if err := r.Register(d.all); !errors.As(err, new(prometheus.AlreadyRegisteredError)) {
			t.Errorf("registering twice = %v; want that it is there already", err)
		}
	}
	if n := d.counted("example", SignedIn); n != 1 {
		t.Errorf("signed-in = %v; want 1", n)
	}
	if n := d.counted("example", "other"); n != 1 {
		t.Errorf("other = %v; want 1", n)
	}
}

// Every Kind is in the table kinds.
func TestEveryKindIsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "audit.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok {
			if id, ok := spec.Type.(*ast.Ident); ok && id.Name == "Kind" {
				n++
				value := Kind(strings.Trim(spec.Values[0].(*ast.BasicLit).Value, `"`))
				if _, known := kinds[value]; !known {
					t.Errorf("%s is not among the kinds", value)
				}
			}
		}
		return true
	})
	if n != len(kinds) || n < 10 {
		t.Errorf("%d constants, %d kinds", n, len(kinds))
	}
}

func TestAutomatic(t *testing.T) {
	const (
		iphone  = "Mozilla/5.0 (iPhone; CPU iPhone OS 15_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.0 Mobile/15E148 Safari/604.1"
		chrome  = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
		firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
	)
	for _, c := range []struct {
		method, ua string
		fetch      bool
		want       bool
	}{
		{"GET", chrome, true, false},
		{"GET", firefox, true, false},
		{"GET", iphone, true, false},
		{"GET", iphone, false, false}, // Safari before 16.4 sends no Sec-Fetch headers
		{"GET", chrome, false, true},
		{"GET", firefox, false, true},
		{"HEAD", chrome, true, true},
		{"GET", "", true, true},
		{"GET", "curl/8.5.0", false, true},
		{"GET", "Mozilla/5.0 (compatible; BingPreview/1.0b)", false, true},
		{"GET", "Mozilla/5.0 (compatible; Barracuda Sentinel/1.0)", false, true},
		{"GET", "Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/140.0.0.0 Safari/537.36", true, true},
	} {
		if got := Automatic(c.method, c.ua, c.fetch); got != c.want {
			t.Errorf("Automatic(%s, %q, %t) = %t; want %t", c.method, c.ua, c.fetch, got, c.want)
		}
	}
}

func TestScanner(t *testing.T) {
	at := time.Date(2026, 3, 1, 10, 2, 3, 0, time.UTC)
	here, next, there := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.77"), netip.MustParseAddr("198.51.100.1")
	home6, same6, other6 := netip.MustParseAddr("2001:db8:0:1::1"), netip.MustParseAddr("2001:db8:0:ff::2"), netip.MustParseAddr("2001:db8:0:100::1")
	for _, c := range []struct {
		name      string
		automatic bool
		after     time.Duration // since it was sent; negative: unknown
		from, by  netip.Addr    // networks of request and opening
		want      bool
	}{
		{"a person, later, elsewhere", false, time.Minute, here, there, false},
		{"a program, whenever", true, time.Hour, here, here, true},
		{"at once, elsewhere", false, 2 * time.Second, here, there, true},
		{"at once, next door", false, 2 * time.Second, here, next, false},
		{"at once, elsewhere by IPv6", false, 2 * time.Second, home6, other6, true},
		{"at once, at home by IPv6", false, 2 * time.Second, home6, same6, false},
		{"the same in the long form of IPv4", false, 2 * time.Second, here, netip.AddrFrom16(next.As16()), false},
		{"at once, nobody knows who asked", false, 2 * time.Second, netip.Addr{}, there, false},
		{"nobody knows when it was sent", false, -1, here, there, false},
	} {
		opened := Event{Kind: Opened, Automatic: c.automatic, IP: c.by, Time: at.Add(c.after)}
		sent := Event{Kind: Sent, Time: at}
		if c.after < 0 {
			sent = Event{}
		}
		if got := Scanner(opened, Event{Kind: Requested, IP: c.from}, sent); got != c.want {
			t.Errorf("%s: Scanner = %t; want %t", c.name, got, c.want)
		}
	}
}

// docs/events.md names exactly the existing kinds of events, since operators' alarms depend on
// them.
func TestDocsNameEveryKind(t *testing.T) {
	page, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	_, row, found := strings.Cut(string(page), "| events by kind: ")
	if !found {
		t.Fatal("docs/events.md has no list of kinds")
	}
	row, _, _ = strings.Cut(row, " |\n")
	var named []Kind
	for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(row, -1) {
		named = append(named, Kind(m[1]))
	}
	slices.Sort(named)
	if want := slices.Sorted(maps.Keys(kinds)); !slices.Equal(named, want) {
		t.Errorf("docs/events.md names %q; want %q", named, want)
	}
}
