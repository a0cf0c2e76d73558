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

func TestBudget_Allows(t *testing.T) {
	// made lists minutes before now, each with the network it was asked for from.
	type made map[float64]string
	for _, c := range []struct {
		name     string
		made     made
		answered float64 // minutes before now; 0: not
		network  string
		wait     time.Duration
		err      error
	}{
		{"nothing yet", nil, 0, "a", 0, nil},
		{"one a minute ago", made{1: "a"}, 0, "a", 0, nil},
		{"one 59 s ago", made{59.0 / 60: "a"}, 0, "a", time.Second, nil},
		{"one just now, of elsewhere", made{0: "b"}, 0, "a", time.Minute, nil},
		{"five in the hour, of all over", made{2: "b", 3: "c", 4: "d", 5: "e", 6: "f"}, 0, "a", 0, nil},
		{"six in the hour, of all over", made{2: "b", 3: "c", 4: "d", 5: "e", 6: "f", 59.9: "g"}, 0, "a", 0, ErrOver},
		{"six, one of them an hour ago", made{2: "b", 3: "c", 4: "d", 5: "e", 6: "f", 60: "g"}, 0, "a", 0, nil},
		{"two in the hour of one network", made{2: "a", 3: "a", 4: "b"}, 0, "a", 0, nil},
		{"three in the hour of one network", made{2: "a", 3: "a", 4: "a"}, 0, "a", 0, ErrOver},
		{"three in the hour of another network", made{2: "b", 3: "b", 4: "b"}, 0, "a", 0, nil},
		{"three in the hour of no network", made{2: "", 3: "", 4: ""}, 0, "", 0, nil},
		{"five in the day of one network", made{100: "a", 200: "a", 300: "a", 400: "a", 500: "a"}, 0, "a", 0, nil},
		{"six in the day of one network", made{100: "a", 200: "a", 300: "a", 400: "a", 500: "a", 1439: "a"}, 0, "a", 0, ErrOver},
		{"six, one of them a day ago", made{100: "a", 200: "a", 300: "a", 400: "a", 500: "a", 1440: "a"}, 0, "a", 0, nil},
		{"twelve in the day", made{61: "a", 62: "b", 63: "c", 64: "d", 65: "e", 66: "f", 130: "g", 131: "h", 132: "i", 133: "j", 134: "k", 135: "l"}, 0, "z", 0, ErrOver},
		{"twelve in the day, six of them answered", made{61: "a", 62: "b", 63: "c", 64: "d", 65: "e", 66: "f", 130: "g", 131: "h", 132: "i", 133: "j", 134: "k", 135: "l"}, 100, "z", 0, nil},
		{"answered, but six in the hour", made{2: "b", 3: "c", 4: "d", 5: "e", 6: "f", 7: "g"}, 1, "a", 0, ErrOver},
		{"from another machine's clock, a minute ahead", made{-1: "a"}, 0, "a", time.Minute, nil},
		{"six from before the clock was set back", made{-10: "b", -20: "c", -30: "d", -40: "e", -50: "f", -60: "g"}, 0, "a", 0, nil},
	} {
		p := purse{}
		for minutes, network := range c.made {
			p.Made = append(p.Made, Mail{At: noon.Add(-time.Duration(minutes * float64(time.Minute))), Network: network})
		}
		if c.answered != 0 {
			p.Answered = noon.Add(-time.Duration(c.answered * float64(time.Minute)))
		}
		wait, err := ForClients.allows(p, noon, c.network)
		if wait.Round(time.Millisecond) != c.wait || !errors.Is(err, c.err) {
			t.Errorf("%s: wait %v, %v; want %v, %v", c.name, wait, err, c.wait, c.err)
		}
	}
	if _, err := (Budget{}).allows(purse{}, noon, "a"); !errors.Is(err, ErrOver) {
		t.Errorf("the zero Budget allows a mail: %v", err)
	}
}

// ask is a request for a mail; it reports whether it is made now, later, or never.
func ask(t *testing.T, m *Mails, whose Purse, b Budget, id, network string, at time.Time) string {
	t.Helper()
	for {
		s, err := m.Spend(context.Background(), whose, b, id, network, at)
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

func TestD01_TenThousandAsksFromTenThousandNetworks(t *testing.T) {
	m := &Mails{Firm: "example", Store: openStore(t)}
	for _, c := range []struct {
		name    string
		whose   Purse
		budget  Budget
		network func(i int) string
		hour    int
		day     int
	}{
		{"a client", Purse{Contact: "ann"}, ForClients, func(i int) string { return fmt.Sprint(i) }, 6, 12},
		{"a client, from one network", Purse{Contact: "bob"}, ForClients, func(int) string { return "a" }, 3, 6},
		{"staff", Purse{Contact: "olive"}, ForStaff, func(i int) string { return fmt.Sprint(i) }, 12, 24},
		{"a known device", Purse{Contact: "ann", Apart: "d"}, ForClients, func(int) string { return "a" }, 6, 12},
	} {
		var last time.Time
		hour, day := 0, 0
		const n = 2400 // in a day, every 36 s; those put off come back
		pending := ""
		var due time.Time
		for i := range n {
			at := noon.Add(time.Duration(i) * 36 * time.Second)
			id := fmt.Sprint(c.name, i)
			if pending != "" && !at.Before(due) {
				id, pending = pending, ""
			}
			switch got := ask(t, m, c.whose, c.budget, id, c.network(i), at); got {
			case "now":
				if !last.IsZero() && at.Sub(last) < time.Minute {
					t.Errorf("%s: two mails %v apart; want a minute", c.name, at.Sub(last))
				}
				last = at
				day++
				if at.Before(noon.Add(time.Hour)) {
					hour++
				}
			case "over":
			default:
				if pending != "" {
					t.Errorf("%s: two are put off at a time", c.name)
				}
				pending, due = id, last.Add(time.Minute)
			}
		}
		if hour != c.hour || day != c.day {
			t.Errorf("%s: %d mails in the hour, %d in the day; want %d and %d", c.name, hour, day, c.hour, c.day)
		}
	}
}

func TestMails_OneIsPutOff(t *testing.T) {
	m := &Mails{Firm: "example", Store: openStore(t)}
	ann := Purse{Contact: "ann"}
	at := func(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }
	for i, c := range []struct {
		id   string
		s    int
		want string
	}{
		{"1", 0, "now"},
		{"2", 20, "in 40s"}, // who corrected themselves
		{"3", 21, "over"},   // a mail is on its way anyhow
		{"2", 30, "in 30s"}, // looked at once more, as after a restart
		{"2", 60, "now"},
		{"4", 61, "in 59s"},
		{"5", 120, "now"}, // came just then
		{"4", 121, "in 59s"},
		{"4", 180, "now"},
	} {
		network := fmt.Sprint(i)
		if got := ask(t, m, ann, ForClients, c.id, network, at(c.s)); got != c.want {
			t.Errorf("request %s after %d s = %s; want %s", c.id, c.s, got, c.want)
		}
	}
	if got := ask(t, m, Purse{Contact: "ann", Apart: "d"}, ForClients, "6", "a", at(181)); got != "now" {
		t.Errorf("on a known device = %s; want now", got)
	}
}

func TestMails_ASignInAnswers(t *testing.T) {
	m := &Mails{Firm: "example", Store: openStore(t)}
	ann := Purse{Contact: "ann"}
	ops, err := m.Answered(t.Context(), ann, noon)
	if err != nil || len(ops) != 0 {
		t.Errorf("Answered at first = %d Ops, %v; want none", len(ops), err)
	}
	day := func(from time.Time) (n int) {
		for i := range 40 {
			if ask(t, m, ann, ForClients, fmt.Sprint(from, i), fmt.Sprint(i), from.Add(time.Duration(i)*15*time.Minute)) == "now" {
				n++
			}
		}
		return n
	}
	if n := day(noon); n != 12 {
		t.Errorf("%d mails in ten hours; want 12", n)
	}
	later := noon.Add(11 * time.Hour)
	ops, err = m.Answered(t.Context(), ann, later)
	if err == nil {
		err = m.Store.Apply(t.Context(), ops...)
	}
	if err != nil {
		t.Fatal(err)
	}
	if n := day(later.Add(time.Minute)); n != 12 {
		t.Errorf("%d mails in the ten hours after a sign-in; want 12", n)
	}
}

func TestD10_AsksAtOnceAreCountedEach(t *testing.T) {
	m := &Mails{Firm: "example", Store: openStore(t)}
	var now, later atomic.Int64
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			switch ask(t, m, Purse{Contact: "ann"}, ForClients, fmt.Sprint(i), fmt.Sprint(i), noon) {
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

// A device that is signed in on while an older secret is still there outlives it.
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
	d := &Devices{Firm: "example", Store: db, Keys: keys}
	learn := func(id, contact string, at time.Time) {
		t.Helper()
		ops, err := d.Learn(t.Context(), id, contact, at)
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
	learn(id, "ann", noon)
	if !knows(id, "ann") || knows(id, "bob") || knows("", "ann") || knows(id, "") {
		t.Error("a device knows whom it doesn't, or not whom it does")
	}
	learn(id, "bob", noon)
	if err := d.Forget(t.Context(), "ann"); err != nil || knows(id, "ann") || !knows(id, "bob") {
		t.Errorf("Forget = %v; want ann forgotten and bob not", err)
	}
	learn(id, "ann", noon)
	learn("other", "ann", noon)
	learn("other", "bob", noon)
	for _, alone := range []string{id, "new"} { // one that was known, and one that wasn't
		ops, err := d.LearnAlone(t.Context(), alone, "ann", noon)
		if err == nil {
			err = db.Apply(t.Context(), ops...)
		}
		if err != nil || !knows(alone, "ann") || knows("other", "ann") || alone != id && knows(id, "ann") || !knows("other", "bob") {
			t.Errorf("LearnAlone of %q = %v; want it known of ann's, no other, and bob's as before", alone, err)
		}
	}
	if err := d.Forget(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	// The one that signed in longest ago makes room.
	learn("first", "ann", noon)
	learn("second", "ann", noon.Add(time.Minute))
	learn("first", "ann", noon.Add(2*time.Minute))
	for i := range DevicesPerContact - 1 {
		learn(fmt.Sprint("more-", i), "ann", noon.Add(time.Hour))
	}
	recs, err := db.Scan(t.Context(), "example", "device", "ann/", "", 1000)
	if err != nil || len(recs) != DevicesPerContact || knows("second", "ann") || !knows("first", "ann") {
		t.Errorf("%d devices, %v; want %d, and the one that was signed in on longest ago gone", len(recs), err, DevicesPerContact)
	}
}
