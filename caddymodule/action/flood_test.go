package action

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/limit"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

var floodDays = flag.Int("flood-days", 1, "how many days of the test clock TestFloodFigures floods; 30: those of docs/limits.md, which it then compares")

// memory is a store for simulations of months: a map.
type memory struct {
	mu  sync.Mutex
	all map[store.Key]store.Record
	now func() time.Time
}

func (m *memory) get(k store.Key) (store.Record, bool) {
	rec, found := m.all[k]
	return rec, found && (rec.Expires.IsZero() || m.now().Before(rec.Expires))
}

func (m *memory) Get(_ context.Context, k store.Key) (store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if rec, found := m.get(k); found {
		return rec, nil
	}
	return store.Record{}, store.ErrNotFound
}

func (m *memory) Apply(_ context.Context, ops ...store.Op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range ops {
		if rec, found := m.get(op.Key); !op.Allows(found, rec.Value) {
			return store.ErrConflict
		}
	}
	for _, op := range ops {
		switch op.Verb {
		case store.VerbDelete, store.VerbRemove:
			delete(m.all, op.Key)
		case store.VerbPut, store.VerbCreate, store.VerbReplace:
			m.all[op.Key] = op.Record
		}
	}
	return nil
}

func (m *memory) Scan(_ context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var recs []store.Record
	for k := range m.all {
		if rec, found := m.get(k); found && k.Firm == firm && k.Bucket == bucket && strings.HasPrefix(k.ID, prefix) && k.ID > after {
			recs = append(recs, rec)
		}
	}
	slices.SortFunc(recs, func(a, b store.Record) int { return cmp.Compare(a.Key.ID, b.Key.ID) })
	return recs[:min(len(recs), limit)], nil
}

func (*memory) Close() error { return nil }

// siege is a contact who is flooded, by the test clock.
type siege struct {
	t       *testing.T
	jobs    *MailJobs
	db      *memory
	now     time.Time
	next    int
	waiting map[string]later // requests that are put off
	made    []time.Time      // mails, whoever asked for them
	brought map[string]bool  // by request: whether it brought a mail
}

type later struct {
	due     time.Time
	request outbox.Request
}

func newSiege(t *testing.T) *siege {
	t.Helper()
	s := &siege{t: t, now: time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC), waiting: map[string]later{}, brought: map[string]bool{}}
	clock := func() time.Time { return s.now }
	s.db = &memory{all: map[store.Key]store.Record{}, now: clock}
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	letters, err := brand.NewMessages(brand.Brand{Name: "Example", From: "hello@example.com", Support: "help@example.com"}, "")
	if err != nil {
		t.Fatal(err)
	}
	origin := &url.URL{Scheme: "https", Host: "portal.example"}
	s.jobs = &MailJobs{
		Directory: &directory.Directory{Firm: "example", Store: s.db, Keys: keys, Now: clock},
		Tokens:    &token.Tokens{Firm: "example", Store: s.db, Keys: keys, Life: 10 * time.Minute, Now: clock},
		Devices:   &limit.Devices{Firm: "example", Store: s.db, Keys: keys, Now: clock},
		Mails:     &limit.Mails{Firm: "example", Store: s.db, Keys: keys, Now: clock},
		Networks:  &limit.Networks{Firm: "example", Store: s.db, Keys: keys, Now: clock},
		Audit:     &audit.Log{Logger: slog.New(slog.DiscardHandler)}, Messages: letters, Sites: &site.Sites{URL: origin}, Prefix: "/-", Now: clock,
	}
	none := []string{}
	if _, err := s.jobs.Directory.AddContact(t.Context(), "ann@example.com", directory.Change{Companies: &none}); err != nil {
		t.Fatal(err)
	}
	return s
}

// ask has a worker do a request for a mail to the contact, made in a new browser in the i-th of
// many networks.
func (s *siege) ask(network int) (id string) {
	s.t.Helper()
	s.next++
	ask := token.MailRequest{ID: fmt.Sprint("request-", s.next), Address: "ann@example.com", To: "/", Browser: fmt.Sprint("browser-", s.next),
		IP: netip.AddrFrom4([4]byte{10, byte(network >> 8), byte(network), 1}), At: s.now}
	payload, err := token.Compact(ask)
	if err != nil {
		s.t.Fatal(err)
	}
	s.work(outbox.Request{ID: ask.ID, Kind: kindSignIn, Asked: s.now, NotAfter: s.now.Add(token.MaxMailDelay), Payload: payload})
	return ask.ID
}

func (s *siege) work(r outbox.Request) {
	s.t.Helper()
	if !s.now.Before(r.NotAfter) {
		return
	}
	for {
		p, err := s.jobs.Prepare(s.t.Context(), r)
		if err == nil {
			err = s.db.Apply(s.t.Context(), p.Ops...)
		}
		switch {
		case errors.Is(err, store.ErrConflict):
			continue
		case err != nil:
			s.t.Fatal(err)
		}
		if !p.Later.IsZero() {
			s.waiting[r.ID] = later{p.Later, r}
		}
		if p.Message == nil {
			return
		}
		ops, err := s.jobs.Sent(s.t.Context(), p.Ref, s.now)
		if err == nil {
			err = s.db.Apply(s.t.Context(), ops...)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		s.made = append(s.made, s.now)
		s.brought[r.ID] = true
		return
	}
}

// pass lets time pass, and has a worker do what was put off until then.
func (s *siege) pass(d time.Duration) {
	s.now = s.now.Add(d)
	for id, one := range s.waiting {
		if !s.now.Before(one.due) {
			delete(s.waiting, id)
			s.work(one.request)
		}
	}
}

// Whoever signs in on new devices all day leaves no more records than they have known devices.
func TestD12_ManyDevicesOfOneContactAreBounded(t *testing.T) {
	s := newSiege(t)
	in := &SignIn{Sessions: &session.Sessions{Firm: "example", Store: s.db, Max: 180 * 24 * time.Hour}, Devices: s.jobs.Devices, Mails: s.jobs.Mails,
		Networks: s.jobs.Networks, LastContacts: &LastContacts{Firm: "example", Store: s.db, Keys: s.jobs.Tokens.Keys, Now: s.jobs.Now}, Now: s.jobs.Now}
	ann, err := s.jobs.Directory.ByEmail(t.Context(), "ann@example.com")
	if err != nil {
		t.Fatal(err)
	}
	for range limit.DevicesPerContact + 50 {
		_, ops, err := in.knowDevice(t.Context(), Browser{}, ann, false)
		if err := errors.Join(err, s.db.Apply(t.Context(), ops...)); err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(time.Second)
	}
	for _, bucket := range []string{"known-device", "device-last"} {
		recs, err := s.db.Scan(t.Context(), "example", bucket, "", "", 1000)
		if err != nil || len(recs) != limit.DevicesPerContact {
			t.Errorf("%s: %d records, %v; want %d", bucket, len(recs), err, limit.DevicesPerContact)
		}
	}
}

// Whoever has signed in on a device has a request from there put before others. It is for their own
// mails: what they ask for others goes out in its turn.
func TestMailsToOthersFromAKnownDeviceGoOutInTheirTurn(t *testing.T) {
	s := newSiege(t)
	none := []string{}
	ben, err := s.jobs.Directory.AddContact(t.Context(), "ben@example.com", directory.Change{Companies: &none})
	if err != nil {
		t.Fatal(err)
	}
	_, device := s.jobs.Devices.New()
	ops, _, err := s.jobs.Devices.Learn(t.Context(), device, ben.ID, s.now)
	if err := errors.Join(err, s.db.Apply(t.Context(), ops...)); err != nil {
		t.Fatal(err)
	}
	for to, common := range map[address.Address]bool{"ann@example.com": true, "ben@example.com": false} {
		payload, err := token.Compact(token.MailRequest{ID: "request", Address: to, To: "/", Browser: "browser", Device: device, At: s.now})
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.jobs.Prepare(t.Context(), outbox.Request{ID: "request", Kind: kindSignIn, Asked: s.now, NotAfter: s.now.Add(token.MaxMailDelay), Payload: payload})
		if err != nil || p.Message == nil || p.Common != common {
			t.Errorf("to %s from ben's device: mail %t, common %t, %v; want one that is common: %t", to, p.Message != nil, p.Common, err, common)
		}
	}
}

// patience is how long the contact asks again.
const patience = 24 * time.Hour

// waits are how long the contact waited for a mail, each time that they came.
type waits []time.Duration

func (w waits) String() string {
	slices.Sort(w)
	return fmt.Sprintf("%s, %s", round(w[len(w)/2]), round(w[len(w)-1]))
}

func round(d time.Duration) string {
	switch {
	case d >= patience:
		return "over 24 h"
	case d < 2*time.Minute:
		return "a minute"
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()+.999))
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}

// flood is how a contact gets on while so many networks ask for mails to them every five
// minutes: four requests a minute at most, which is more than there is a mail for. Twice a day
// the contact comes by another network and a new device, asks, and asks again every ten
// minutes until there is a mail: any, as each lets its reader in, or, own, that they asked for.
// They never sign in, which would make room for more.
func flood(t *testing.T, networks, days int) (any, own waits, mostADay int) {
	s := newSiege(t)
	chance := rand.New(rand.NewPCG(1, uint64(networks)))
	const comesAfter = 12 * time.Hour
	comes, came := s.now.Add(time.Duration(chance.Int64N(int64(comesAfter)))), time.Time{}
	var requests []string // of the contact's own, since they came
	waitsForAny, visits, turn := false, 0, 0
	for end := s.now.Add(time.Duration(days) * 24 * time.Hour); s.now.Before(end); s.pass(time.Minute) {
		minute := int(s.now.Unix() / 60)
		for i := range 4 {
			if networks < 20 && (minute*4+i)%20 >= networks {
				continue // each every five minutes
			}
			s.ask(turn % networks)
			turn++
		}
		if came.IsZero() && !s.now.Before(comes) {
			came, visits, waitsForAny = s.now, visits+1, true
		}
		if came.IsZero() {
			continue
		}
		waited := s.now.Sub(came)
		if waited%(10*time.Minute) == 0 {
			requests = append(requests, s.ask(40_000+visits))
		}
		if waitsForAny && len(s.made) > 0 && !s.made[len(s.made)-1].Before(came) {
			any, waitsForAny = append(any, waited), false
		}
		if slices.ContainsFunc(requests, func(id string) bool { return s.brought[id] }) || waited >= patience {
			own = append(own, waited)
			came, comes, requests = time.Time{}, s.now.Add(time.Duration(chance.Int64N(int64(2*comesAfter)))), nil
		}
	}
	for i, at := range s.made {
		in := 0
		for _, other := range s.made[i:] {
			if other.Sub(at) < 24*time.Hour {
				in++
			}
		}
		mostADay = max(mostADay, in)
	}
	return any, own, mostADay
}

// TestFloodFigures makes the figures of docs/limits.md.
func TestFloodFigures(t *testing.T) {
	var table strings.Builder
	for _, networks := range []int{2, 20, 1000} {
		if networks > 20 && *floodDays < 30 {
			continue
		}
		any, own, most := flood(t, networks, *floodDays)
		if longest := slices.Max(any); longest > 3*time.Hour+time.Minute || most > 12 {
			t.Errorf("%d networks: a wait of %v, and %d mails in 24 hours; want at most 3 h and 12", networks, longest, most)
		}
		fmt.Fprintf(&table, "| %d | %s | %s | %d |\n", networks, any, own, most)
	}
	t.Logf("over %d days\n%s", *floodDays, table.String())
	if *floodDays != 30 {
		return
	}
	page, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), table.String()) {
		t.Errorf("docs/limits.md doesn't have these figures:\n%s", table.String())
	}
}
