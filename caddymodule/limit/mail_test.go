package limit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func openStore(t testing.TB) store.Store {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{Clock: func() time.Time { return noon }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func keyring(t testing.TB) *secret.Keyring {
	t.Helper()
	k, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestBudget_Wait(t *testing.T) {
	hours := func(n ...float64) (all []time.Duration) {
		for _, h := range n {
			all = append(all, time.Duration(h*float64(time.Hour)))
		}
		return all
	}
	// made is how long before now mails were made, for the networks in the same order.
	for _, c := range []struct {
		name     string
		made     []time.Duration
		networks string
		network  string
		wait     time.Duration
	}{
		{"nothing yet", nil, "", "a", 0},
		{"one a minute ago", hours(1.0 / 60), "a", "a", 0},
		{"one just now, of elsewhere", hours(0), "b", "a", time.Minute},
		{"two, of one network", hours(.3, .2), "aa", "a", 0},
		{"three, of one network", hours(.3, .2, .1), "aaa", "a", 2*time.Hour + 42*time.Minute},
		{"three, of one network, asked from another", hours(.3, .2, .1), "aaa", "b", 0},
		{"four, of several", hours(.4, .3, .2, .1), "abcd", "e", 0},
		{"four, of several, asked from one of them", hours(.4, .3, .2, .1), "abcd", "a", 5*time.Hour + 36*time.Minute},
		{"five", hours(.5, .4, .3, .2, .1), "abcde", "f", 2*time.Hour + 30*time.Minute},
		{"five, of no network", hours(.5, .4, .3, .2, .1), "", "", 2*time.Hour + 30*time.Minute},
		{"four, of no network", hours(.4, .3, .2, .1), "", "", 0},
		{"three, three hours ago", hours(3.2, 3.1, 3), "aaa", "a", 0},
		{"from another machine's clock, a minute ahead", hours(-1.0 / 60), "b", "a", time.Minute},
	} {
		var p balance
		for i, ago := range c.made {
			network := ""
			if c.networks != "" {
				network = c.networks[i : i+1]
			}
			ForClients.spend(&p, network, noon.Add(-ago))
		}
		wait, err := ForClients.wait(&p, c.network, noon)
		if err != nil || max(wait, 0).Round(time.Second) != c.wait {
			t.Errorf("%s: wait %v, %v; want %v", c.name, wait, err, c.wait)
		}
	}
	if _, err := (Budget{}).wait(&balance{}, "a", noon); !errors.Is(err, ErrOver) {
		t.Errorf("the zero Budget allows a mail: %v", err)
	}
	var p balance
	for i := range 5 {
		ForClients.spend(&p, fmt.Sprint(i), noon.Add(365*24*time.Hour))
	}
	if wait, err := ForClients.wait(&p, "a", noon); err != nil || wait > 0 {
		t.Errorf("after the clock was set back by a year: wait %v, %v; want none", wait, err)
	}
	for i := range 2 * maxNetworks {
		p.addNetwork(fmt.Sprint("n", i), noon.Add(time.Duration(i)*time.Hour/10))
	}
	end := noon.Add(2 * maxNetworks * time.Hour / 10)
	if len(p.Networks) != maxNetworks || p.isNew(fmt.Sprint("n", 2*maxNetworks-1), end) || !p.isNew("n0", end) {
		t.Errorf("%d networks are remembered; want the latest %d", len(p.Networks), maxNetworks)
	}
	p.addNetwork("late", end.Add(networkMemory))
	if len(p.Networks) != 1 {
		t.Errorf("%d networks are remembered after 30 days; want the new one", len(p.Networks))
	}
}

// ask spends a mail, and reports whether it may be sent now, later, or never.
func ask(t *testing.T, m *Mails, whose Key, b Budget, id, network string, at time.Time) string {
	t.Helper()
	for {
		s, err := m.Spend(context.Background(), whose, b, Request{ID: id, Network: network, Until: noon.Add(365 * 24 * time.Hour)}, at)
		if errors.Is(err, ErrOver) {
			return "over"
		}
		if err == nil && len(s.Ops) > 0 {
			err = m.Store.Apply(context.Background(), s.Ops...)
		}
		switch {
		case errors.Is(err, store.ErrConflict):
			continue
		case err != nil:
			t.Error(err)
			return "error"
		case !s.Later.IsZero():
			return fmt.Sprintf("in %v", s.Later.Sub(at))
		}
		return "now"
	}
}

func newMails(t *testing.T) *Mails {
	return &Mails{Firm: "example", Store: openStore(t), Keys: keyring(t), Now: func() time.Time { return noon }}
}

func TestD01_MailsOfAFloodAreSpreadOverTheDay(t *testing.T) {
	m := newMails(t)
	for _, c := range []struct {
		name    string
		whose   Key
		budget  Budget
		network func(i int) string
		hour    int // in the first hour
		day     int // in the worst 24 hours
		gap     time.Duration
	}{
		{"a client", Key{Contact: "ann"}, ForClients, func(i int) string { return fmt.Sprint(i) }, 5, 12, 3 * time.Hour},
		{"a client, from one network", Key{Contact: "bob"}, ForClients, func(int) string { return "a" }, 3, 10, 3 * time.Hour},
		{"staff", Key{Contact: "olive"}, ForStaff, func(i int) string { return fmt.Sprint(i) }, 10, 24, 96 * time.Minute},
		{"a known device", Key{Contact: "ann", Scope: "d"}, ForClients, func(int) string { return "a" }, 5, 12, 3 * time.Hour},
	} {
		var made []time.Time
		const step, n = time.Minute, 3 * 24 * 60
		waiting, due := "", time.Time{}
		for i := range n {
			at, id := noon.Add(time.Duration(i)*step), fmt.Sprint(c.name, i)
			if waiting != "" && !at.Before(due) {
				id, waiting = waiting, ""
			}
			s, err := m.Spend(t.Context(), c.whose, c.budget, Request{ID: id, Network: c.network(i), Until: at.Add(time.Hour)}, at)
			if errors.Is(err, ErrOver) {
				continue
			}
			if err == nil && len(s.Ops) > 0 {
				err = m.Store.Apply(t.Context(), s.Ops...)
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.Later.IsZero() {
				made = append(made, at)
			} else {
				waiting, due = id, s.Later
			}
		}
		hour, day, gap := 0, 0, time.Duration(0)
		for i, at := range made {
			if i > 0 {
				apart := at.Sub(made[i-1])
				if gap = max(gap, apart); apart < time.Minute {
					t.Errorf("%s: two mails %v apart; want a minute", c.name, apart)
				}
			}
			if at.Before(noon.Add(time.Hour)) {
				hour++
			}
			in := 0
			for _, other := range made[i:] {
				if other.Sub(at) < 24*time.Hour {
					in++
				}
			}
			day = max(day, in)
		}
		if hour != c.hour || day != c.day || gap > c.gap+step {
			t.Errorf("%s: %d mails in the first hour, %d in the worst 24, %v at most between two; want %d, %d, %v", c.name, hour, day, gap, c.hour, c.day, c.gap)
		}
	}
}

func TestMails_OneRequestWaits(t *testing.T) {
	m := newMails(t)
	ann := Key{Contact: "ann"}
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	for _, c := range []struct {
		id, network string
		s           int
		want        string
	}{
		{"1", "a", 0, "now"},
		{"2", "a", 20, "in 40s"}, // after correcting the address
		{"3", "a", 21, "over"},   // a mail is due anyway
		{"2", "a", 30, "in 30s"}, // called again, as after a restart
		{"4", "b", 40, "in 20s"}, // another network: before the one that had a mail
		{"2", "a", 60, "over"},
		{"4", "b", 60, "now"},
		{"5", "a", 61, "in 59s"},
		{"6", "c", 130, "now"}, // not waiting, and first
		{"5", "a", 121 + 10*60, "in 10m0s"},
		{"7", "a", 122 + 10*60, "over"},
	} {
		if got := ask(t, m, ann, ForClients, c.id, c.network, at(c.s)); got != c.want {
			t.Errorf("request %s after %d s = %s; want %s", c.id, c.s, got, c.want)
		}
	}
	if got := ask(t, m, Key{Contact: "ann", Scope: "d"}, ForClients, "8", "a", at(181)); got != "now" {
		t.Errorf("on a known device = %s; want now", got)
	}
	// A request that isn't useful later doesn't wait, and a waiting one that doesn't return is
	// dropped.
	if _, err := m.Spend(t.Context(), Key{Contact: "ann", Scope: "d"}, ForClients, Request{ID: "9"}, at(182)); !errors.Is(err, ErrOver) {
		t.Errorf("a request that can't wait = %v; want ErrOver", err)
	}
	lost := Key{Contact: "bob"}
	for _, c := range []struct {
		id   string
		s    int
		want string
	}{{"1", 0, "now"}, {"2", 1, "in 59s"}, {"3", 100, "over"}, {"3", 121, "now"}} {
		if got := ask(t, m, lost, ForClients, c.id, "a", at(c.s)); got != c.want {
			t.Errorf("with a request that is lost, request %s after %d s = %s; want %s", c.id, c.s, got, c.want)
		}
	}
}

func TestMails_ASignInRefillsTheBudget(t *testing.T) {
	m := newMails(t)
	ann := Key{Contact: "ann"}
	ops, err := m.Answered(t.Context(), ann, "a", noon)
	if err != nil || len(ops) != 0 {
		t.Errorf("Answered at first = %d Ops, %v; want none", len(ops), err)
	}
	ask := func(from time.Time, network string) (n int) {
		for i := range 20 {
			if ask(t, m, ann, ForClients, fmt.Sprint(from, i), network, from.Add(time.Duration(i)*61*time.Second)) == "now" {
				n++
			}
		}
		return n
	}
	if n := ask(noon, "a"); n != 3 {
		t.Errorf("%d mails to one network; want 3", n)
	}
	later := noon.Add(30 * time.Minute)
	ops, err = m.Answered(t.Context(), ann, "a", later)
	if err == nil {
		err = m.Store.Apply(t.Context(), ops...)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := ask(later, "a"); n != 3 {
		t.Errorf("%d mails after a sign-in, in the same hour; want 3, as six are the most", n)
	}
}

func TestMails_AnUntrustedBalanceIsUsedUp(t *testing.T) {
	m := newMails(t)
	ann := Key{Contact: "ann"}
	if got := ask(t, m, ann, ForClients, "1", "a", noon); got != "now" {
		t.Fatal(got)
	}
	k := m.bucket().Key("ann")
	if err := m.Store.Apply(t.Context(), store.Put(k, []byte("\x01forged"), noon.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, m, ann, ForClients, "2", "z", noon.Add(time.Minute)); got != "in 10m0s" {
		t.Errorf("with a forged balance = %s; want to wait", got)
	}
	if got := ask(t, m, ann, ForClients, "2", "z", noon.Add(3*time.Hour+time.Minute)); got != "now" {
		t.Errorf("three hours later = %s; want now", got)
	}
}

func TestD10_ConcurrentRequestsAreAllCounted(t *testing.T) {
	m := newMails(t)
	var now, later atomic.Int64
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			switch ask(t, m, Key{Contact: "ann"}, ForClients, fmt.Sprint(i), fmt.Sprint(i), noon) {
			case "now":
				now.Add(1)
			case "in 1m0s":
				later.Add(1)
			}
		})
	}
	all.Wait()
	if now.Load() != 1 || later.Load() != 1 {
		t.Errorf("of 50 at once, %d are mailed and %d put off; want one and one", now.Load(), later.Load())
	}
}

// A device with a sign-in while an older secret is configured stays known without it.
func TestDevices_Renew(t *testing.T) {
	old, new := []byte(secret.Random()), []byte(secret.Random())
	with := func(newest []byte, older ...[]byte) *Devices {
		keys, err := secret.New(newest, older...)
		if err != nil {
			t.Fatal(err)
		}
		return &Devices{Firm: "example", Keys: keys}
	}
	cookie, id := with(old).New()
	renewed := with(new, old).Renew(cookie)
	if got := with(new).ID(renewed); got != id {
		t.Errorf("the ID of %q by the new secret alone = %q; want %q", renewed, got, id)
	}
	if got := with(new).ID(cookie); got != "" {
		t.Errorf("the ID of the cookie from before by the new secret alone = %q; want none", got)
	}
}

func TestDevices(t *testing.T) {
	db, keys := openStore(t), keyring(t)
	alarms := 0
	d := &Devices{Firm: "example", Store: db, Keys: keys, Now: func() time.Time { return noon }, OnUntrusted: func(context.Context, store.Key) { alarms++ }}
	learn := func(id, contact string, at time.Time) {
		t.Helper()
		ops, _, err := d.Learn(t.Context(), id, contact, at)
		if err == nil {
			err = db.Apply(t.Context(), ops...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	knows := func(id, contact string) bool {
		t.Helper()
		is, err := d.Knows(t.Context(), id, contact)
		if err != nil {
			t.Fatal(err)
		}
		return is
	}
	cookie, id := d.New()
	if len(cookie) != 86 || d.ID(cookie) != id || id == "" {
		t.Errorf("ID(%q) = %q; want %q", cookie, d.ID(cookie), id)
	}
	other := &Devices{Firm: "other", Store: db, Keys: keys}
	elsewhere := &Devices{Firm: "example", Store: db, Keys: keyring(t)}
	if other.ID(cookie) != "" || elsewhere.ID(cookie) != "" {
		t.Error("a device of one firm is one of another firm, or secret")
	}
	for _, bad := range []string{"", cookie[:43], cookie[43:] + cookie[:43], cookie + "A", "A" + cookie[1:], cookie[:85] + "!"} {
		if got := d.ID(bad); got != "" && bad != cookie {
			t.Errorf("ID(%q) = %q; want none", bad, got)
		}
	}
	if got := d.Renew(cookie); got != cookie || elsewhere.Renew(cookie) != "" || d.Renew("") != "" {
		t.Errorf("Renew(%q) = %q; want the same while the secret is, and nothing for what isn't ours", cookie, got)
	}
	forget := func(contact string) error {
		ops, err := d.Forget(t.Context(), contact)
		if err == nil && len(ops) > 0 {
			err = db.Apply(t.Context(), ops...)
		}
		return err
	}
	learn(id, "ann", noon)
	if !knows(id, "ann") || knows(id, "bob") || knows("", "ann") || knows(id, "") {
		t.Error("a device knows whom it doesn't, or not whom it does")
	}
	// Forged or copied records make no device known, nor does a wrong clock.
	rec, err := db.Get(t.Context(), store.Key{Firm: "example", Bucket: "known-device", ID: "ann/" + id})
	if err != nil {
		t.Fatal(err)
	}
	for name, op := range map[string]store.Op{
		"copied for another contact": store.Put(store.Key{Firm: "example", Bucket: "known-device", ID: "bob/" + id}, rec.Value, rec.Expires),
		"in the clear":               store.Put(store.Key{Firm: "example", Bucket: "known-device", ID: "bob/" + id}, []byte("1"), rec.Expires),
		"empty":                      store.Put(store.Key{Firm: "example", Bucket: "known-device", ID: "bob/" + id}, nil, rec.Expires),
	} {
		if err := db.Apply(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		before := alarms
		if knows(id, "bob") || alarms == before {
			t.Errorf("a device that was made known by a record %s is known, or raises no alarm", name)
		}
	}
	for ahead, known := range map[time.Duration]bool{time.Hour: true, 50 * time.Hour: false, 5 * 365 * 24 * time.Hour: false} {
		learn(id, "bob", noon.Add(ahead))
		if knows(id, "bob") != known {
			t.Errorf("a device that was signed in on %v from now is known: %t", ahead, !known)
		}
	}
	learn(id, "bob", noon)
	if err := forget("ann"); err != nil || knows(id, "ann") || !knows(id, "bob") {
		t.Errorf("Forget = %v; want ann forgotten and bob not", err)
	}
	learn(id, "ann", noon)
	learn("other", "ann", noon)
	learn("other", "bob", noon)
	for _, alone := range []string{id, "new"} { // a known device, and an unknown one
		ops, err := d.LearnOnly(t.Context(), alone, "ann", noon)
		if err == nil {
			err = db.Apply(t.Context(), ops...)
		}
		if err != nil || !knows(alone, "ann") || knows("other", "ann") || alone != id && knows(id, "ann") || !knows("other", "bob") {
			t.Errorf("LearnAlone of %q = %v; want it known of ann's, no other, and bob's as before", alone, err)
		}
	}
	if err := forget("ann"); err != nil {
		t.Fatal(err)
	}
	// The device with the oldest sign-in is replaced.
	learn("first", "ann", noon)
	learn("second", "ann", noon.Add(time.Minute))
	learn("first", "ann", noon.Add(2*time.Minute))
	for i := range DevicesPerContact - 1 {
		learn(fmt.Sprint("more-", i), "ann", noon.Add(time.Hour))
	}
	recs, err := db.Scan(t.Context(), "example", "known-device", "ann/", "", 1000)
	if err != nil || len(recs) != DevicesPerContact || knows("second", "ann") || !knows("first", "ann") {
		t.Errorf("%d devices, %v; want %d, and the one that was signed in on longest ago gone", len(recs), err, DevicesPerContact)
	}
}
