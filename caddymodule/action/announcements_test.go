package action

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// postOffice takes mails, as a mail server does, and counts them by recipient.
type postOffice struct {
	mu     sync.Mutex
	sent   map[string]int
	refuse map[string]error
	gate   chan struct{} // if set, a mail is taken for each value
}

func (p *postOffice) Send(ctx context.Context, m outbox.Message) error {
	if p.gate != nil {
		select {
		case <-p.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.refuse[m.To]; err != nil {
		return err
	}
	if p.sent == nil {
		p.sent = map[string]int{}
	}
	p.sent[m.To]++
	return nil
}

func (p *postOffice) counts() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.sent)
}

// announcing makes the Announcements of a process, and starts its queue.
func announcing(t *testing.T, n *Notices, p *postOffice) (s *Announcements, stop func()) {
	t.Helper()
	origin, err := url.Parse("https://clients.example.com")
	if err != nil {
		t.Fatal(err)
	}
	n.Queue.Log, n.Queue.Sender, n.Queue.Look = slog.New(slog.DiscardHandler), p, 50*time.Millisecond
	n.Queue.Server = outbox.NewServer(2, rate.NewLimiter(rate.Inf, 1), nil)
	s = &Announcements{Firm: "example", Store: n.Store, Keys: n.Keys, Directory: n.Directory, Queue: n.Queue, Audit: n.Audit, lease: 200 * time.Millisecond, pause: 20 * time.Millisecond}
	j := &MailJobs{Directory: n.Directory, Messages: n.Messages, Audit: n.Audit, Sites: &site.Sites{URL: origin}, Prefix: "/-", Now: time.Now, Announcements: s}
	n.Queue.Prepare, n.Queue.Attempt, n.Queue.Sent, n.Queue.Failed = j.Prepare, j.Attempt, j.Sent, j.Failed
	n.Queue.Start()
	stop = sync.OnceFunc(n.Queue.Stop)
	t.Cleanup(stop)
	return s, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s never came", what)
		}
	}
}

func stateOf(t *testing.T, s *Announcements) AnnouncementState {
	t.Helper()
	state, err := s.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return state
}

func finished(t *testing.T, s *Announcements) AnnouncementState {
	t.Helper()
	eventually(t, "the end of the announcement", func() bool { return stateOf(t, s).State == AnnouncementDone })
	return stateOf(t, s)
}

// A process is killed between any two steps of an announcement. The next one goes on: every contact is queued
// once. What the mail server took while the store was gone may be sent again, one mail for each connection.
func TestAnnouncementReachesEachContactOnceWhateverIsKilled(t *testing.T) {
	const contacts = 60 // more than one step
	for _, applied := range []bool{false, true} {
		for _, kill := range []int{0, 1, 2, 3, 70} {
			db, make := noticeFirm(t, contacts)
			p := &postOffice{}
			first, stop := announcing(t, make(&dying{Store: db, after: kill, done: applied}), p)
			_, _, err := first.Start(t.Context(), Announce{})
			if kill == 0 && !errors.Is(err, errKilled) || kill > 0 && err != nil {
				t.Fatalf("kill %d: Start = %v", kill, err)
			}
			stop()
			second, stop := announcing(t, make(db), p)
			if _, _, err := second.Start(t.Context(), Announce{}); err != nil { // as whoever got no answer does
				t.Fatal(err)
			}
			state := finished(t, second)
			stop()
			twice := 0
			for to, n := range p.counts() {
				if n > 1 {
					twice += n - 1
				}
				if n > 2 {
					t.Errorf("kill %d: %s got %d", kill, to, n)
				}
			}
			if got := len(p.counts()); got != contacts || twice > 2 || state.Queued != contacts || state.Sent != contacts || state.Remaining != 0 {
				t.Errorf("kill %d: %d contacts got it, %d twice, and the state is %+v; want all of %d", kill, got, twice, state, contacts)
			}
		}
	}
}

func TestTwoGatesAnnounceToEachContactOnce(t *testing.T) {
	const contacts = 160
	db, make := noticeFirm(t, contacts)
	p := &postOffice{}
	a, stopA := announcing(t, make(db), p)
	b, stopB := announcing(t, make(db), p)
	var both sync.WaitGroup
	begun := 0
	var mu sync.Mutex
	for _, s := range []*Announcements{a, b} {
		both.Go(func() {
			_, mine, err := s.Start(t.Context(), Announce{})
			mu.Lock()
			defer mu.Unlock()
			if mine {
				begun++
			} else if err != nil && !errors.Is(err, store.ErrConflict) {
				t.Error(err)
			}
		})
	}
	both.Wait()
	state := finished(t, a)
	stopA()
	stopB()
	for to, n := range p.counts() {
		if n != 1 {
			t.Errorf("%s got %d", to, n)
		}
	}
	if len(p.counts()) != contacts || begun != 1 || state.Sent != contacts {
		t.Errorf("%d contacts got it, and %d requests began it; want %d and 1; %+v", len(p.counts()), begun, contacts, state)
	}
}

// However many contacts there are, few mails wait in the outbox.
func TestAnnouncementQueuesBitByBit(t *testing.T) {
	const contacts = 1500
	db, make := noticeFirm(t, contacts)
	p := &postOffice{gate: newGate()}
	s, _ := announcing(t, make(db), p)
	t.Cleanup(func() { close(p.gate) })
	if _, _, err := s.Start(t.Context(), Announce{}); err != nil {
		t.Fatal(err)
	}
	most := 0
	for range 100 {
		p.gate <- struct{}{}
		n, err := s.Queue.Count(t.Context(), kindAnnouncement)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, n)
	}
	if state := stateOf(t, s); most > 500 || most < 100 || state.Sent+state.Waiting+state.Remaining != contacts {
		t.Errorf("%d mails waited at once, %+v; want some hundreds at most, of all", most, state)
	}
}

func newGate() chan struct{} { return make(chan struct{}) }

func TestWhoIsAnnouncedTo(t *testing.T) {
	db, make := noticeFirm(t, 5)
	n := make(db)
	n.Directory.Staff = append(n.Directory.Staff, "c1@example.com")
	p := &postOffice{refuse: map[string]error{"c2@example.com": fmt.Errorf("%w: 550 5.1.1 no such user", outbox.ErrRefused)}}
	s, _ := announcing(t, n, p)
	none, birch := []string{}, []string{"birch"}
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(n.Directory.Disable(t.Context(), "c0@example.com"))
	must(n.Directory.SetContact(t.Context(), "c3@example.com", directory.Change{Companies: &none}))
	must(n.Directory.AddContact(t.Context(), "b0@example.com", directory.Change{Companies: &birch}))
	begin := func(in Announce) AnnouncementState {
		t.Helper()
		_, _, err := s.Start(t.Context(), in)
		must(nil, err)
		return finished(t, s)
	}
	got := func() (all []string) {
		for to, times := range p.counts() {
			for range times {
				all = append(all, to)
			}
		}
		slices.Sort(all)
		return all
	}

	if _, _, err := s.Start(t.Context(), Announce{Companies: []string{"none"}}); !errors.Is(err, directory.ErrUnknown) {
		t.Errorf("an unknown company: %v", err)
	}
	if _, err := s.State(t.Context()); !errors.Is(err, ErrNoAnnouncement) {
		t.Errorf("State before the first one = %v", err)
	}
	plan, err := s.Plan(t.Context(), Announce{Companies: []string{"acme"}})
	if err != nil || plan.Contacts != 2 || len(plan.First) != 2 || !maps.Equal(plan.Skipped, map[string]int{SkippedDisabled: 1, SkippedStaff: 1}) {
		t.Errorf("Plan = %+v, %v", plan, err)
	}
	state := begin(Announce{Companies: []string{"acme"}})
	if !slices.Equal(got(), []string{"c4@example.com"}) || state.Queued != 2 || state.NotSent != 1 || len(state.Unsent) != 1 || state.Unsent[0].Email != "c2@example.com" || state.Unsent[0].Code != UnsentRefused {
		t.Errorf("acme: %v, %+v", got(), state)
	}
	// Whom the mail server refused gets it later, and those of other companies.
	p.mu.Lock()
	p.refuse = nil
	p.mu.Unlock()
	state = begin(Announce{})
	if want := []string{"b0@example.com", "c2@example.com", "c4@example.com"}; !slices.Equal(got(), want) || !maps.Equal(state.Skipped, map[string]int{SkippedDisabled: 1, SkippedStaff: 1, SkippedNoCompany: 1, SkippedAlready: 1}) {
		t.Errorf("all: %v, %+v; want %v", got(), state, want)
	}
	// Nobody is left.
	if state, begun, err := s.Start(t.Context(), Announce{}); err != nil || begun || state.ID != "" || state.Skipped[SkippedAlready] != 3 {
		t.Errorf("once more: %+v, %t, %v", state, begun, err)
	}
	must(n.Directory.Enable(t.Context(), "c0@example.com"))
	begin(Announce{})
	// Again is for those of acme; its key keeps a repeated request from beginning another one.
	begin(Announce{Companies: []string{"acme"}, Again: true, Key: "k"})
	begin(Announce{Companies: []string{"acme"}, Again: true, Key: "k"})
	if want := []string{"b0@example.com", "c0@example.com", "c0@example.com", "c2@example.com", "c2@example.com", "c4@example.com", "c4@example.com"}; !slices.Equal(got(), want) {
		t.Errorf("again: %v; want %v", got(), want)
	}
}

// Nothing is sent after a stop but what the mail server was being given, and those who got nothing get it later.
func TestStoppedAnnouncementGoesOnWhereItWas(t *testing.T) {
	for _, again := range []bool{false, true} {
		const contacts = 80
		db, make := noticeFirm(t, contacts)
		p := &postOffice{}
		s, stop := announcing(t, make(db), p)
		if again {
			if _, _, err := s.Start(t.Context(), Announce{}); err != nil {
				t.Fatal(err)
			}
			finished(t, s)
		}
		stop()
		had := len(p.counts())
		p = &postOffice{gate: newGate()}
		s, _ = announcing(t, make(db), p)
		if _, _, err := s.Resume(t.Context()); !errors.Is(err, ErrNotStopped) {
			t.Errorf("Resume of none = %v", err)
		}
		if _, _, err := s.Start(t.Context(), Announce{Again: again}); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			p.gate <- struct{}{}
		}
		if _, _, err := s.Start(t.Context(), Announce{Companies: []string{"acme"}, Again: true}); !errors.Is(err, ErrAnnouncing) {
			t.Errorf("another one meanwhile = %v; want ErrAnnouncing", err)
		}
		if state, err := s.Stop(t.Context()); err != nil || state.State != AnnouncementStopped {
			t.Fatalf("Stop = %+v, %v", state, err)
		}
		close(p.gate)
		eventually(t, "an empty outbox", func() bool { return stateOf(t, s).Waiting == 0 })
		state := stateOf(t, s)
		if n := len(p.counts()); n < 20 || n > 24 || state.Sent != n || state.Sent+state.NotSent+state.Remaining != contacts {
			t.Errorf("%d were sent before the stop, of %d who had one; %+v", n, had, state)
		}
		if _, begun, err := s.Resume(t.Context()); err != nil || !begun {
			t.Fatal(begun, err)
		}
		state = finished(t, s)
		for to, n := range p.counts() {
			if n != 1 {
				t.Errorf("%s got %d", to, n)
			}
		}
		if len(p.counts()) != contacts || state.Sent != contacts || state.NotSent != 0 || state.Remaining != 0 {
			t.Errorf("%d contacts got it, %+v; want %d", len(p.counts()), state, contacts)
		}
	}
}
