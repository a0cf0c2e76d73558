package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// inBubble runs a test on a clock of its own, which stands still while anything runs.
func inBubble(t *testing.T, f func(t *testing.T, db store.Store)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "doorpost.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		f(t, db)
	})
}

func TestARequestBecomesAMailOnce(t *testing.T) {
	db, r := newStore(t), &recorder{}
	q, _ := newQueue(t, db, r)
	q.Look = time.Hour // Wake is enough
	q.Start()
	defer q.Stop()
	time.Sleep(50 * time.Millisecond)
	ask(t, q, "sign-in", "")
	id := ask(t, q, "sign-in", "ann@example.org")
	until(t, "the mail is sent and everything is gone", func() bool { return r.count() == 1 && inStore(t, db) == 0 })
	if m := r.sent[0]; m.ID != id || m.From != "hello@example.com" || m.To != "ann@example.org" {
		t.Errorf("sent %s %s → %s; want %s hello@example.com → ann@example.org", m.ID, m.From, m.To, id)
	}
	until(t, "nothing waits", func() bool { return q.Len() == 0 })
}

func TestWhatIsInTheStoreIsFoundAtStart(t *testing.T) {
	db, r := newStore(t), &recorder{}
	q, _ := newQueue(t, db, r)
	for i := range 600 { // more than a page
		ask(t, q, "sign-in", fmt.Sprintf("c%d@example.org", i))
	}
	q.Look = time.Hour
	q.Start()
	defer q.Stop()
	until(t, "all are sent", func() bool { return r.count() == 600 && inStore(t, db) == 0 })
}

// readyIn counts the mails of a lane that wait to be sent.
func readyIn(q *Queue, lane int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lanes[lane].ready.items)
}

// spent returns a Server that gets nothing before its pace is set.
func spent() *Server {
	s := NewServer(1, Pace(1, time.Hour), nil)
	s.pace.Allow()
	return s
}

func TestOrder(t *testing.T) {
	db, r := newStore(t), &recorder{}
	q, _ := newQueue(t, db, r)
	q.Server = spent()
	now := time.Now()
	var want []string
	for i, kind := range []string{"notice", "sign-in", "notice", "set-password", "sign-in"} {
		op := q.Add(Request{Kind: kind, Asked: now.Add(time.Duration(-i) * time.Minute), NotAfter: now.Add(time.Hour), Payload: []byte("ann@example.org")})
		if err := db.Apply(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		want = append(want, op.Key.ID)
	}
	want = []string{want[4], want[3], want[1], want[2], want[0]} // urgent first, then by age
	q.Start()
	defer q.Stop()
	until(t, "all are ready", func() bool { return readyIn(q, laneSignIn)+readyIn(q, laneNotice) == 5 })
	q.Server.Set(1, rate.NewLimiter(rate.Inf, 1))
	until(t, "all are sent", func() bool { return r.count() == 5 })
	for i, m := range r.sent {
		if m.ID != want[i] {
			t.Errorf("mail %d = %s; want %s", i, m.ID, want[i])
		}
	}
}

// A request with a reserved ID turns out to be one that anybody could have made. Its mail goes out in
// its turn, also after a restart.
func TestAMailThatIsCommonGoesOutInItsTurn(t *testing.T) {
	db, r := newStore(t), &recorder{}
	now := time.Now()
	var want []string
	for i, kind := range []struct {
		id string
		to string
	}{
		{NewReservedID("sign-in", now.Add(2*time.Second)), "known@example.org"},
		{NewID("sign-in", now), "ann@example.org"},
		{NewReservedID("sign-in", now.Add(time.Second)), "common@example.org"},
	} {
		q, _ := newQueue(t, db, r)
		op := q.Add(Request{ID: kind.id, Kind: "sign-in", Asked: now.Add(time.Duration(-i) * time.Minute), NotAfter: now.Add(time.Hour), Payload: []byte(kind.to)})
		if err := db.Apply(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		want = append(want, kind.to)
	}
	start := func() *Queue {
		q, _ := newQueue(t, db, r)
		q.Server = spent()
		q.Prepare = func(_ context.Context, r Request) (Prepared, error) {
			p := letterTo(r)
			p.Common = string(r.Payload) == "common@example.org"
			return p, nil
		}
		q.Start()
		until(t, "all are ready", func() bool {
			return readyIn(q, laneSignIn) == len(want)
		})
		return q
	}
	start().Stop()
	q := start()
	defer q.Stop()
	q.Server.Set(1, rate.NewLimiter(rate.Inf, 1))
	until(t, "all are sent", func() bool { return r.count() == len(want) })
	for i, m := range r.sent {
		if m.To != want[i] {
			t.Errorf("mail %d is to %s; want %s", i, m.To, want[i])
		}
	}
}

func TestNewID(t *testing.T) {
	at := time.Date(2026, 11, 22, 18, 28, 32, 7e6, time.FixedZone("", 3600))
	id := NewID("sign-in", at)
	if !strings.HasPrefix(id, "0-20261122t172832007-") || len(id) != 37 {
		t.Errorf("NewID = %s; want 0-20261122t172832007-…, 37 bytes", id)
	}
	if NewID("sign-in", at) == id {
		t.Error("NewID repeats itself")
	}
	if later := NewID("sign-in", at.Add(time.Millisecond)); later <= id {
		t.Errorf("%s is later, and sorts before %s", later, id)
	}
	other := NewID("notice", at.Add(-time.Hour))
	if other <= id {
		t.Errorf("%s is of a patient kind, and sorts before %s", other, id)
	}
	if last := NewID("portal-update", at.Add(-2*time.Hour)); last <= other {
		t.Errorf("%s is an announcement, and sorts before %s", last, other)
	}
	reserved := NewReservedID("sign-in", at.Add(time.Hour))
	waiting := newLine()
	for _, id := range []string{id, reserved} {
		waiting.put(id, item{}, at)
	}
	if due, _ := waiting.next(at); len(reserved) != len(id) || reserved <= id || due[0] != reserved {
		t.Errorf("%s is reserved, and doesn't go out before %s, as which it is as long, and behind which it sorts", reserved, id)
	}
}

func TestPace(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{}
		q, _ := newQueue(t, db, r)
		q.Server = NewServer(4, Pace(60, time.Minute), nil)
		const all = 240
		for range all {
			ask(t, q, "sign-in", "ann@example.org")
		}
		start := time.Now()
		q.Start()
		defer q.Stop()
		for r.count() < all {
			time.Sleep(time.Second)
		}
		for i := range r.at {
			if i >= 60 && r.at[i].Sub(r.at[i-60]) < time.Minute {
				t.Fatalf("mails %d to %d went out within %v; want at most 60 in any minute", i-60, i, r.at[i].Sub(r.at[i-60]))
			}
		}
		if took := time.Since(start); took > 5*time.Minute {
			t.Errorf("%d mails took %v; want about a second each", all, took)
		}
	})
}

// A mail server that is down for three hours: what is still of use is sent soon after it
// is back, the rest is dropped and said so, and meanwhile the server is left in peace.
func TestServerDownForHours(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		start := time.Now()
		const outageTime = 3 * time.Hour
		r := &recorder{}
		r.answer = func(_ context.Context, m Message, try int) error {
			if time.Since(start) < outageTime {
				time.Sleep(3 * time.Second)
				return fmt.Errorf("%w: connection refused", ErrServer)
			}
			return nil
		}
		q, j := newQueue(t, db, r)
		q.Server = NewServer(4, Pace(60, time.Minute), nil)
		var late int
		q.Failed = func(_ context.Context, _ string, _ time.Time, why error) ([]store.Op, error) {
			if !errors.Is(why, ErrLate) {
				t.Errorf("why = %v; want ErrLate", why)
			}
			late++
			return nil, nil
		}
		q.Start()
		defer q.Stop()
		var early, fresh []string
		for range 300 {
			early = append(early, ask(t, q, "sign-in", "ann@example.org"))
		}
		time.Sleep(time.Minute)
		down := func() time.Time {
			down, _ := q.Outage()
			return down.Since
		}
		if down().IsZero() || down().Sub(start) > 10*time.Second {
			t.Errorf("the server is down since %v; want the start of the outage", down())
		}
		time.Sleep(outageTime - 30*time.Minute)
		for range 100 {
			fresh = append(fresh, ask(t, q, "sign-in", "bob@example.org"))
		}
		time.Sleep(29*time.Minute - time.Second)
		if r.all() > 230 || r.all() < 170 {
			t.Errorf("%d tries in the 90 minutes in which something waited; want one in 24 to 30 s, by one mail for all", r.all())
		}
		if r.count() != 0 || late != len(early) || q.Len() != len(fresh) {
			t.Errorf("%d sent, %d dropped, %d wait; want 0, %d, %d", r.count(), late, q.Len(), len(early), len(fresh))
		}
		time.Sleep(5 * time.Minute)
		if r.count() != len(fresh) || q.Len() != 0 {
			t.Errorf("five minutes after the server was back %d are sent, %d wait; want %d, 0", r.count(), q.Len(), len(fresh))
		}
		if !down().IsZero() {
			t.Errorf("the server is down since %v; want zero", down())
		}
		for _, m := range r.sent {
			if slices.Contains(early, m.ID) {
				t.Errorf("%s was sent after its time", m.ID)
			}
		}
		if lines := strings.Count(j.String(), "mail waits for the mail server"); lines != r.all()-len(fresh) {
			t.Errorf("%d log lines about the server; want one a try", lines)
		}
	})
}

func TestGreylistedRecipientHoldsUpNobody(t *testing.T) {
	var known atomic.Bool
	s := newSink(t, func(s *sink) {
		s.rcpt = func(_ int, to string) error {
			if strings.HasPrefix(to, "slow") && !known.Load() {
				return refusal(451, smtp.EnhancedCode{4, 7, 1}, "try again later, "+to)
			}
			return nil
		}
	})
	inBubble(t, func(t *testing.T, db store.Store) {
		time.AfterFunc(5*time.Minute, func() { known.Store(true) })
		q, j := newQueue(t, db, s.plain())
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "slow@example.org")
		synctest.Wait()
		for i := range 20 {
			ask(t, q, "sign-in", fmt.Sprintf("c%d@example.org", i))
		}
		time.Sleep(time.Second)
		if n := len(s.got()); n != 20 {
			t.Errorf("%d mails after a second; want the 20 that nothing holds up", n)
		}
		time.Sleep(5*time.Minute + 4*time.Minute)
		got := s.got()
		if len(got) != 21 || got[20].to[0] != "slow@example.org" {
			t.Fatalf("%d mails after nine minutes; want 21", len(got))
		}
		if n := s.tries() - 20; n < 5 || n > 8 {
			t.Errorf("%d tries; want 5 to 8", n)
		}
		if n := strings.Count(j.String(), "451 4.7.1"); n != s.tries()-21 {
			t.Errorf("%d log lines with the server's code; want %d", n, s.tries()-21)
		}
		if inStore(t, db) != 0 {
			t.Errorf("%d records are left", inStore(t, db))
		}
	})
}

func TestRefusedForGood(t *testing.T) {
	s := newSink(t, func(s *sink) {
		s.rcpt = func(int, string) error { return refusal(550, smtp.EnhancedCode{5, 1, 1}, "no such user") }
	})
	db := newStore(t)
	q, j := newQueue(t, db, s.plain())
	var failed []string
	q.Failed = func(_ context.Context, ref string, _ time.Time, why error) ([]store.Op, error) {
		failed = append(failed, fmt.Sprintf("%s: %v %v", ref, errors.Is(why, ErrRefused), why))
		return []store.Op{store.Put(store.Key{Firm: "example", Bucket: "test", ID: "failed"}, []byte{1}, time.Time{})}, nil
	}
	var ended []string
	q.Ended = func(_ context.Context, id string, why error) { ended = append(ended, fmt.Sprint(id, ": ", why)) }
	q.Start()
	id := ask(t, q, "sign-in", "ann@example.org")
	until(t, "it is gone", func() bool { return inStore(t, db) == 0 })
	q.Stop()
	if want := id + ": outbox: refused for good: RCPT TO: 550 5.1.1 no such user"; len(ended) != 1 || ended[0] != want {
		t.Errorf("Ended got %q; want %q", ended, want)
	}
	want := "ref-" + id + ": true outbox: refused for good: RCPT TO: 550 5.1.1 no such user"
	if len(failed) != 1 || failed[0] != want {
		t.Errorf("Failed got %q; want %q", failed, want)
	}
	if s.tries() != 1 || !strings.Contains(j.String(), "550 5.1.1") {
		t.Errorf("%d tries; want 1, with its code in the log", s.tries())
	}
	if _, err := db.Get(t.Context(), store.Key{Firm: "example", Bucket: "test", ID: "failed"}); err != nil {
		t.Errorf("the Op of Failed wasn't applied: %v", err)
	}
}

// What can't be sent ends when its time is over, not a step later, and a request isn't
// prepared any more.
func TestGivesUpInTime(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(context.Context, Message, int) error { return errBoom }}
		q, _ := newQueue(t, db, r)
		var prepared, failed int
		q.Prepare = func(_ context.Context, r Request) (Prepared, error) {
			if string(r.Payload) == "broken@example.org" {
				prepared++
				return Prepared{}, errBoom
			}
			return letterTo(r), nil
		}
		q.Failed = func(_ context.Context, _ string, at time.Time, why error) ([]store.Op, error) {
			failed++
			if !errors.Is(why, ErrLate) {
				t.Errorf("why = %v; want ErrLate", why)
			}
			return nil, nil
		}
		old := q.Add(Request{Kind: "sign-in", Asked: time.Now().Add(-time.Hour), Payload: []byte("broken@example.org")})
		if err := db.Apply(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		q.Start()
		time.Sleep(time.Second)
		if prepared != 0 {
			t.Error("a request was prepared after its time")
		}
		ask(t, q, "sign-in", "ann@example.org")
		ask(t, q, "sign-in", "broken@example.org")
		time.Sleep(time.Hour - time.Second)
		if n := inStore(t, db); n != 3 {
			t.Errorf("%d records just before the end; want 3", n)
		}
		time.Sleep(2 * time.Second)
		if n := inStore(t, db); n > 1 || failed != 1 {
			t.Errorf("%d records, %d failed just after the end; want the mail gone", n, failed)
		}
		time.Sleep(10 * time.Minute)
		if n := inStore(t, db); n != 0 {
			t.Errorf("%d records ten minutes after the end; want none", n)
		}
		q.Stop()
	})
}

func TestMemoryIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, _ Message, try int) error {
			if try < 3 {
				return errBoom
			}
			return nil
		}}
		q, _ := newQueue(t, db, r)
		for range 40 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		q.Max = 5
		q.Start()
		defer q.Stop()
		for end := time.Now().Add(20 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
			if q.Len() > 5 {
				t.Fatalf("the queue knows of %d entries; want at most 5", q.Len())
			}
		}
		if r.count() != 40 {
			t.Errorf("%d mails; want 40: the rest comes when the first are gone", r.count())
		}
	})
}

func TestSlowYesIsNoReasonToSendTwice(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, m Message, _ int) error {
			time.Sleep(4 * time.Minute)
			return nil
		}}
		q1, _ := newQueue(t, db, r)
		q2, _ := newQueue(t, db, r)
		q1.Start()
		q2.Start()
		ask(t, q1, "sign-in", "ann@example.org")
		time.Sleep(30 * time.Minute)
		q1.Stop()
		q2.Stop()
		if r.all() != 1 || inStore(t, db) != 0 {
			t.Errorf("%d hand-overs, %d records left; want 1, 0", r.all(), inStore(t, db))
		}
	})
}

func TestTwoQueuesOnOneStore(t *testing.T) {
	db := newStore(t)
	r := &recorder{answer: func(context.Context, Message, int) error { time.Sleep(time.Millisecond); return nil }}
	q1, _ := newQueue(t, db, r)
	q2, _ := newQueue(t, db, r)
	q1.Look, q2.Look = 3*time.Millisecond, 3*time.Millisecond
	q1.Start()
	q2.Start()
	const all = 300
	var asking sync.WaitGroup
	for i := range 3 {
		asking.Go(func() {
			for range all / 3 {
				q := []*Queue{q1, q2}[i%2]
				op := q.Add(Request{Kind: "sign-in", Asked: time.Now(), Payload: []byte("ann@example.org")})
				if err := db.Apply(context.Background(), op); err != nil {
					t.Error(err)
				}
				q1.Wake(op.Key.ID)
				q2.Wake(op.Key.ID)
			}
		})
	}
	asking.Wait()
	until(t, "all are gone", func() bool { return inStore(t, db) == 0 })
	q1.Stop()
	q2.Stop()
	if r.count() != all {
		t.Errorf("%d mails; want %d", r.count(), all)
	}
	for id, n := range r.tries {
		if n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
}

// die stops a queue as kill -9 would: whatever it has in hand stays as it is.
func die(q *Queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.lanes {
		*l = *newLane()
	}
	q.stop()
}

func TestAfterACrashTheMailIsSentSoon(t *testing.T) {
	one, two := new(Process), new(Process)
	for _, c := range []struct {
		name        string
		dead, alive *Process
		least, most time.Duration
	}{
		{"who shares the store with others", nil, nil, 25 * time.Second, 40 * time.Second},
		{"the next process that has the store alone", one, two, 0, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) { afterACrash(t, c.dead, c.alive, c.least, c.most) })
	}
}

func afterACrash(t *testing.T, dead, alive *Process, least, most time.Duration) {
	inBubble(t, func(t *testing.T, db store.Store) {
		stuck := make(chan struct{})
		r := &recorder{answer: func(ctx context.Context, m Message, try int) error {
			if try == 1 {
				<-stuck
				return context.Canceled
			}
			return nil
		}}
		q1, _ := newQueue(t, db, r)
		q1.Process = dead
		q1.Start()
		q1.lease = 1000 * time.Hour // it never renews: it is dead
		id := ask(t, q1, "sign-in", "ann@example.org")
		synctest.Wait()
		rec, e, err := q1.load(t.Context(), id)
		if err != nil || e.Owner != q1.name && dead == nil {
			t.Fatalf("the entry isn't in the first queue's hands: %v %+v", err, e)
		}
		e.Owner, e.Until = q1.name, time.Now().Add(leaseTime) // as an earlier release wrote in any case
		if err := db.Apply(t.Context(), store.Replace(rec.Key, rec.Value, q1.sealer.sealEntry(id, e), e.expires())); err != nil {
			t.Fatal(err)
		}
		die(q1)
		start := time.Now()
		q2, _ := newQueue(t, db, r)
		q2.Process = alive
		q2.Start()
		for r.count() == 0 && time.Since(start) < time.Hour {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > most || took < least {
			t.Errorf("sent %v after the restart; want %v to %v", took, least, most)
		}
		close(stuck)
		q1.Stop()
		q2.Stop()
		if inStore(t, db) != 0 {
			t.Error("something is left")
		}
	})
}

// Whoever corrects the settings of a mail server that couldn't be reached doesn't wait for
// what the old settings had in hand.
func TestAReloadGoesOnAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		process := new(Process)
		r := &recorder{answer: func(_ context.Context, _ Message, try int) error {
			if try == 1 {
				return fmt.Errorf("no such host: %w", ErrServer)
			}
			return nil
		}}
		q1, _ := newQueue(t, db, r)
		q1.Process = process
		q1.Start()
		ask(t, q1, "sign-in", "ann@example.org")
		synctest.Wait()
		q1.Stop()
		q2, _ := newQueue(t, db, r)
		q2.Process = process
		begun := time.Now()
		q2.Start()
		for r.count() == 0 && time.Since(begun) < time.Hour {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begun); took > time.Second {
			t.Errorf("sent %v after the new settings; want it at once", took)
		}
		q2.Stop()
	})
}

func TestStopHandsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		var hang = true
		r := &recorder{answer: func(ctx context.Context, m Message, _ int) error {
			if hang {
				<-ctx.Done()
				return fmt.Errorf("connecting: %w", ctx.Err())
			}
			return nil
		}}
		q1, _ := newQueue(t, db, r)
		q1.Start()
		for range 10 {
			ask(t, q1, "sign-in", "ann@example.org")
		}
		synctest.Wait()
		start := time.Now()
		q1.Stop()
		if took := time.Since(start); took != stopTime {
			t.Errorf("Stop took %v; want %v", took, stopTime)
		}
		hang = false
		q2, _ := newQueue(t, db, r)
		q2.Start()
		time.Sleep(time.Second)
		if r.count() != 10 {
			t.Errorf("%d mails a second after the next queue began; want 10", r.count())
		}
		q2.Stop()
		q2.Stop() // does nothing
		new(Queue).Stop()
	})
}

func TestPanicsAreContained(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, m Message, try int) error {
			if m.To == "sender@example.org" && try == 1 {
				panic("link?t=SECRET")
			}
			return nil
		}}
		q, j := newQueue(t, db, r)
		calls := 0
		q.Prepare = func(_ context.Context, r Request) (Prepared, error) {
			if calls++; string(r.Payload) == "prepare@example.org" && calls < 4 {
				panic(fmt.Errorf("link?t=SECRET"))
			}
			return letterTo(r), nil
		}
		q.Server, q.Workers, q.Look = NewServer(1, Pace(60_000, time.Minute), nil), 1, time.Hour
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "prepare@example.org")
		ask(t, q, "sign-in", "sender@example.org")
		ask(t, q, "sign-in", "ann@example.org")
		synctest.Wait()
		if r.count() != 1 {
			t.Errorf("%d mails at once; want the one without a panic", r.count())
		}
		time.Sleep(2 * time.Minute)
		if r.count() != 3 || inStore(t, db) != 0 {
			t.Errorf("%d mails, %d records left; want 3, 0", r.count(), inStore(t, db))
		}
		if !strings.Contains(j.String(), "panic over a mail") {
			t.Error("the log says nothing of it")
		}
	})
}

func TestPrepareIsAskedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{}
		q, _ := newQueue(t, db, r)
		taken := store.Key{Firm: "example", Bucket: "test", ID: "taken"}
		if err := db.Apply(t.Context(), store.Put(taken, []byte("x"), time.Time{})); err != nil {
			t.Fatal(err)
		}
		calls, done := 0, 0
		q.Prepare = func(_ context.Context, r Request) (Prepared, error) {
			p := letterTo(r)
			p.Done = func() { done++ }
			switch calls++; calls {
			case 1:
				return Prepared{}, errBoom
			case 2:
				p.Ops = []store.Op{store.Create(taken, nil, time.Time{})} // ErrConflict
			default:
				p.Ops = []store.Op{store.Put(taken, []byte("good"), time.Time{})}
			}
			return p, nil
		}
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "ann@example.org")
		synctest.Wait()
		if calls != 1 || q.Len() != 1 {
			t.Errorf("%d calls, %d wait; want 1, 1", calls, q.Len())
		}
		time.Sleep(6 * time.Second)
		if rec, err := db.Get(t.Context(), taken); calls != 3 || r.count() != 1 || err != nil || string(rec.Value) != "good" {
			t.Errorf("%d calls, %d mails, %q %v; want 3, 1, good", calls, r.count(), rec.Value, err)
		}
		if done != 1 {
			t.Errorf("Done was called %d times; want once, for what was applied", done)
		}
		ask(t, q, "sign-in", "") // comes to nothing
		synctest.Wait()
		if done != 2 {
			t.Errorf("Done was called %d times; want it also for a request that ends", done)
		}
	})
}

func TestHooks(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, _ Message, try int) error {
			if try == 1 {
				return errBoom
			}
			return nil
		}}
		f := &failing{Store: db}
		q, _ := newQueue(t, f, r)
		var calls []string
		life := store.Key{Firm: "example", Bucket: "test", ID: "life"}
		note := func(what string) func(context.Context, string, time.Time) ([]store.Op, error) {
			return func(_ context.Context, ref string, at time.Time) ([]store.Op, error) {
				calls = append(calls, what)
				if ref == "" || !at.Equal(time.Now()) {
					t.Errorf("%s(%q, %v); want the ref, and now", what, ref, at)
				}
				return []store.Op{store.Put(life, []byte(what), time.Time{})}, nil
			}
		}
		q.Attempt, q.Sent = note("attempt"), note("sent")
		var id, ended string
		q.Ended = func(_ context.Context, id string, why error) { ended += fmt.Sprint(id, why) }
		conflicts := 0
		f.set(func(ops []store.Op) error {
			if ops[0].Verb == store.VerbDelete && conflicts < 2 {
				conflicts++
				return store.ErrConflict
			}
			return nil
		})
		q.Start()
		defer q.Stop()
		id = ask(t, q, "sign-in", "ann@example.org")
		synctest.Wait()
		if rec, err := db.Get(t.Context(), life); err != nil || string(rec.Value) != "attempt" {
			t.Errorf("life = %q %v; want attempt", rec.Value, err)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if rec, err := db.Get(t.Context(), life); err != nil || string(rec.Value) != "sent" {
			t.Errorf("life = %q %v; want sent", rec.Value, err)
		}
		if want := []string{"attempt", "attempt", "sent", "sent", "sent"}; !slices.Equal(calls, want) { // twice after a conflict
			t.Errorf("calls = %q; want %q", calls, want)
		}
		if want := fmt.Sprint(id, nil); ended != want {
			t.Errorf("Ended got %q; want %q, once", ended, want)
		}

		q.Attempt = func(context.Context, string, time.Time) ([]store.Op, error) { return nil, ErrDrop }
		before := r.all()
		ask(t, q, "sign-in", "ann@example.org")
		synctest.Wait()
		if r.all() != before || inStore(t, db) != 0 {
			t.Errorf("%d hand-overs and %d records after ErrDrop; want none", r.all()-before, inStore(t, db))
		}
		if strings.Contains(ended, "no longer wanted") {
			t.Errorf("Ended was told of a mail that was dropped: %q", ended)
		}
	})
}

// failing is a store whose Apply fails when it is told to.
type failing struct {
	store.Store
	mu   sync.Mutex
	fail func(ops []store.Op) error
}

func (f *failing) Apply(ctx context.Context, ops ...store.Op) error {
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	if fail != nil {
		if err := fail(ops); err != nil {
			return err
		}
	}
	return f.Store.Apply(ctx, ops...)
}

func (f *failing) set(fail func(ops []store.Op) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = fail
}

// The server has the mail, and then the disk is full: it isn't sent again, however long
// that lasts, and it goes away when the disk is back.
func TestSentButNotDeleted(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		f := &failing{Store: db}
		r := &recorder{}
		q, _ := newQueue(t, f, r)
		q.Start()
		defer q.Stop()
		f.set(func(ops []store.Op) error {
			if ops[0].Verb == store.VerbDelete {
				return fmt.Errorf("%w: disk full", store.ErrUnavailable)
			}
			return nil
		})
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(20 * time.Minute)
		if r.all() != 1 || inStore(t, db) != 2 {
			t.Errorf("%d hand-overs, %d records; want 1, 2", r.all(), inStore(t, db))
		}
		f.set(nil)
		time.Sleep(11 * time.Minute)
		if r.all() != 1 || inStore(t, db) != 0 {
			t.Errorf("%d hand-overs, %d records; want 1, 0", r.all(), inStore(t, db))
		}
	})
}

func TestFullLeavesRoomForReservedRequests(t *testing.T) {
	db := newStore(t)
	q, _ := newQueue(t, db, &recorder{})
	held := make(chan struct{})
	q.Prepare = func(context.Context, Request) (Prepared, error) { <-held; return Prepared{}, nil }
	q.Max = 5
	urgent, reserved := NewID("sign-in", time.Now()), NewReservedID("sign-in", time.Now())
	if err := q.Full(urgent); err != nil {
		t.Errorf("Full before Start = %v; want nil", err)
	}
	q.Wake("nothing comes of this before Start")
	q.Start()
	defer q.Stop()
	defer close(held)
	for i := range 4 {
		if err := q.Full(urgent); err != nil {
			t.Errorf("Full with %d = %v; want nil", i, err)
		}
		ask(t, q, "sign-in", "ann@example.org")
	}
	if err := q.Full(urgent); err != ErrFull {
		t.Errorf("Full with 4 = %v; want ErrFull", err)
	}
	if err := q.Full(reserved); err != nil {
		t.Errorf("Full with 4, for a reserved ID = %v; want nil", err)
	}
	if err := db.Apply(t.Context(), q.Add(Request{ID: reserved, Kind: "sign-in", Asked: q.now()})); err != nil {
		t.Fatal(err)
	}
	q.Wake(reserved)
	if err := q.Full(reserved); err != ErrFull {
		t.Errorf("Full with 5, for a reserved ID = %v; want ErrFull", err)
	}
}

// Of several gates on one store, each accepts what anybody can ask for before it has seen what the
// others have accepted. None of that takes the room of requests with a reserved ID, and those that
// another gate has left behind it aren't passed over.
func TestFloodsAtSeveralGatesLeaveRoomForReservedRequests(t *testing.T) {
	db := newStore(t)
	gate := func() *Queue {
		q, _ := newQueue(t, db, &recorder{})
		q.Max, q.Look = 10, time.Millisecond
		q.Prepare = func(context.Context, Request) (Prepared, error) { return Prepared{}, errBoom }
		return q
	}
	add := func(id string) {
		t.Helper()
		if err := db.Apply(t.Context(), gate().Add(Request{ID: id, Kind: "sign-in", Asked: time.Now(), Payload: []byte("ann@example.org")})); err != nil {
			t.Fatal(err)
		}
	}
	for range 30 {
		add(NewID("sign-in", time.Now()))
	}
	left := NewReservedID("sign-in", time.Now().Add(time.Hour))
	add(left)
	q := gate()
	q.Start()
	defer q.Stop()
	until(t, "the reserved request of another gate is found", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.lanes[laneSignIn].has(left)
	})
	if err := q.Full(NewID("sign-in", time.Now())); err != ErrFull {
		t.Errorf("Full with 30 = %v; want ErrFull", err)
	}
	reserved := NewReservedID("sign-in", time.Now())
	if err := q.Full(reserved); err != nil {
		t.Errorf("Full with 30, for a reserved ID = %v; want nil", err)
	}
	add(NewReservedID("sign-in", time.Now()))
	until(t, "there are two reserved requests", func() bool { return q.Full(reserved) == ErrFull })
}

// applies counts the writes to a store.
type applies struct {
	store.Store
	n atomic.Int64
}

func (a *applies) Apply(ctx context.Context, ops ...store.Op) error {
	a.n.Add(1)
	return a.Store.Apply(ctx, ops...)
}

func TestRequestsForNobodyAreEndedTogether(t *testing.T) {
	const requests = 3000
	db := &applies{Store: newStore(t)}
	r := &recorder{}
	q, _ := newQueue(t, db, r)
	q.Workers = 1 // how several workers share a CPU would decide about the order
	var prepared, before atomic.Int64
	var add []store.Op
	var lost store.Key
	for i := range requests {
		op := q.Add(Request{Kind: "sign-in", Asked: q.now()})
		if i == requests/2 {
			lost = op.Key
		}
		add = append(add, op)
	}
	// Behind all of them, and yet before.
	add = append(add, q.Add(Request{ID: NewReservedID("sign-in", q.now()), Kind: "sign-in", Asked: q.now(), Payload: []byte("ann@example.org")}))
	if err := db.Apply(t.Context(), add...); err != nil {
		t.Fatal(err)
	}
	var ended atomic.Int64
	loaded := make(chan struct{})
	q.Prepare = func(ctx context.Context, req Request) (Prepared, error) {
		<-loaded
		if req.ID == lost.ID { // another queue is faster with one of a batch
			if err := db.Apply(ctx, store.Delete(lost)); err != nil {
				return Prepared{}, err
			}
		}
		if n := prepared.Add(1); len(req.Payload) > 0 {
			before.Store(n)
		}
		p := letterTo(req)
		p.Done = func() { ended.Add(1) }
		return p, nil
	}
	wrote := db.n.Load()
	q.Start()
	defer q.Stop()
	until(t, "all are read", func() bool { return q.Len() == requests+1 })
	close(loaded)
	until(t, "all are worked off", func() bool { return inStore(t, db) == 0 })
	until(t, "each is told of", func() bool { return ended.Load() >= requests })
	if r.count() != 1 || ended.Load() != requests {
		t.Errorf("%d mails, and %d requests that ended here; want 1, %d", r.count(), ended.Load(), requests)
	}
	if n := before.Load(); n > mostSeveral+1 {
		t.Errorf("the reserved request is number %d of %d; want it to be the first once the worker has finished what it held", n, requests)
	}
	if n := db.n.Load() - wrote; n > requests/5 {
		t.Errorf("%d requests cost %d writes; want many to share one", requests, n)
	} else {
		t.Logf("%d requests cost %d writes", requests, n)
	}
}

func TestTheStoreHoldsNothingReadable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doorpost.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{answer: func(context.Context, Message, int) error { return errBoom }}
	q, j := newQueue(t, db, r)
	q.Start()
	ask(t, q, "sign-in", "ann@example.org")
	until(t, "one try", func() bool { return strings.Contains(j.String(), "boom") })
	q.Stop()

	other, log := newQueue(t, db, r)
	other.Keys = newKeys("quite another secret, as if by mistake")
	before, _ := db.Scan(t.Context(), "example", bucketQueue, "", "", 10)
	other.Start()
	until(t, "the wrong key is noticed", func() bool { return strings.Contains(log.String(), "sealed with another secret") })
	other.Stop()
	after, _ := db.Scan(t.Context(), "example", bucketQueue, "", "", 10)
	if len(before) != 1 || len(after) != 1 || !bytes.Equal(before[0].Value, after[0].Value) {
		t.Error("the wrong key changed something")
	}
	if list, _, err := other.List(t.Context(), "", 10); err != nil || len(list) != 0 {
		t.Errorf("List with the wrong key = %v %v; want nothing", list, err)
	}
	db.Close()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"ann@", "example.org", "link?t=", "sign-in"} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the file of the store has %q", secret)
		}
	}
}

func TestMovedRecordsDoNotOpen(t *testing.T) {
	s := sealer{"example", Mail, testKeys}
	here := s.key(bucketQueue, "a")
	sealed := s.seal(here, []byte("x"))
	if plain, err := s.open(here, sealed); err != nil || string(plain) != "x" {
		t.Errorf("open = %q %v; want x", plain, err)
	}
	for _, k := range []store.Key{{Firm: "other", Bucket: bucketQueue, ID: "a"}, {Firm: "example", Bucket: bucketLetters, ID: "a"}, {Firm: "example", Bucket: bucketQueue, ID: "b"}} {
		if _, err := s.open(k, sealed); err == nil {
			t.Errorf("it opens at %v", k)
		}
	}
	sealed[0] = 9
	if _, err := s.open(here, sealed); !errors.Is(err, errVersion) {
		t.Errorf("open = %v; want errVersion", err)
	}
	if _, err := s.open(here, nil); !errors.Is(err, errVersion) {
		t.Errorf("open of nothing = %v; want errVersion", err)
	}
}

func TestList(t *testing.T) {
	db := newStore(t)
	q, _ := newQueue(t, db, &recorder{answer: func(context.Context, Message, int) error { return errBoom }})
	q.Start()
	id := ask(t, q, "sign-in", "ann@example.org")
	var list []Entry
	until(t, "a failed try is listed", func() bool {
		list, _, _ = q.List(t.Context(), "", 10)
		return len(list) == 1 && list[0].Tries == 1
	})
	q.Stop()
	if e := list[0]; e.ID != id || e.Kind != "sign-in" || !e.Ready || e.To != "a•••@example.org" || e.Last != "boom" || e.Due.Before(e.Asked) {
		t.Errorf("List = %+v", e)
	}
}

// counting counts calls of a store.
type counting struct {
	store.Store
	mu                sync.Mutex
	gets, scans, puts int
}

func (c *counting) Get(ctx context.Context, k store.Key) (store.Record, error) {
	c.mu.Lock()
	c.gets++
	c.mu.Unlock()
	return c.Store.Get(ctx, k)
}

func (c *counting) Scan(ctx context.Context, f, b, p, a string, n int) ([]store.Record, error) {
	c.mu.Lock()
	c.scans++
	c.mu.Unlock()
	return c.Store.Scan(ctx, f, b, p, a, n)
}

func (c *counting) Apply(ctx context.Context, ops ...store.Op) error {
	c.mu.Lock()
	c.puts++
	c.mu.Unlock()
	return c.Store.Apply(ctx, ops...)
}

func TestWaitingCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		c := &counting{Store: db}
		r := &recorder{answer: func(context.Context, Message, int) error { return errBoom }}
		q, _ := newQueue(t, c, r)
		q.Start()
		for range 50 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		time.Sleep(20 * time.Minute) // all are at ten minutes a try by now
		c.mu.Lock()
		c.gets, c.scans, c.puts = 0, 0, 0
		c.mu.Unlock()
		time.Sleep(30 * time.Minute)
		q.Stop()
		if c.scans > 361 || c.gets > 50*4*10 || c.puts > 50*4*3 {
			t.Errorf("in half an hour %d scans, %d gets, %d writes; want one scan in 5 s, and no more than the tries need", c.scans, c.gets, c.puts)
		}
	})
}

// While the pace holds up mails, they aren't read over and over.
// Whatever the time, a burst and what flows in behind it are no more than was said.
func TestPace_OfAnyTime(t *testing.T) {
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour} {
		for _, n := range []int{-1, 0, 1, 9, 10, 60, 3600} {
			l, most := Pace(n, per), max(n, 1)
			begun := time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC)
			made := 0
			for i := range 10_000 { // just short of that time
				for l.AllowN(begun.Add(per*time.Duration(i)/10_000), 1) {
					made++
				}
			}
			if made > most || made < most-1 {
				t.Errorf("Pace(%d, %v) lets %d through in that time; want %d", n, per, made, most)
			}
		}
	}
}

func TestPaceCostsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		c, r := &counting{Store: db}, &recorder{}
		q, _ := newQueue(t, c, r)
		q.Server = NewServer(4, Pace(1, time.Minute), nil)
		for range 50 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		q.Start()
		time.Sleep(30 * time.Minute)
		q.Stop()
		if r.count() != 30 && r.count() != 31 {
			t.Errorf("%d mails; want one a minute", r.count())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if most := 50 + 31*4; c.gets > most {
			t.Errorf("%d gets; want at most %d", c.gets, most)
		}
	})
}

func TestClockSetBack(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, _ Message, try int) error {
			if try <= 3 {
				return errBoom
			}
			return nil
		}}
		q, _ := newQueue(t, db, r)
		var mu sync.Mutex
		var shift time.Duration
		q.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(shift)
		}
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(time.Minute)
		mu.Lock()
		shift = -24 * time.Hour
		mu.Unlock()
		time.Sleep(3 * time.Minute)
		if r.count() != 1 {
			t.Error("a clock that was set back by a day holds up the mail")
		}
	})
}

func TestLogsNameNobody(t *testing.T) {
	s := newSink(t, func(s *sink) {
		s.data = func(n int, to string) error {
			switch {
			case strings.HasPrefix(to, "no"):
				return refusal(554, smtp.EnhancedCode{5, 7, 1}, to+" https://clients.example.com/-/link?t=SECRET")
			case n < 6:
				return refusal(451, smtp.EnhancedCode{4, 7, 1}, to+" https://clients.example.com/-/link?t=SECRET")
			}
			return nil
		}
	})
	inBubble(t, func(t *testing.T, db store.Store) {
		q, j := newQueue(t, db, s.plain())
		q.Start()
		ask(t, q, "sign-in", "ann@example.org")
		ask(t, q, "sign-in", "no@example.org")
		ask(t, q, "sign-in", "")
		time.Sleep(50 * time.Minute)
		q.Stop()
		for _, secret := range []string{"@example", "link?t=", "SECRET", "clients.example.com"} {
			if strings.Contains(j.String(), secret) {
				t.Errorf("the log has %q:\n%s", secret, j)
			}
		}
		if !strings.Contains(j.String(), "to_domain=example.org") || !strings.Contains(j.String(), "mail sent") {
			t.Errorf("the log doesn't say what happened:\n%s", j)
		}
	})
}

// One message at a time is between the last step and its deletion, so that a crash
// repeats one; but one that takes long doesn't stop the others.
func TestLastStepIsOneAtATime(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		s := &lastStepper{take: func(m Message) time.Duration {
			if m.To == "slow@example.org" {
				return time.Minute
			}
			return 40 * time.Millisecond
		}}
		q, _ := newQueue(t, db, s)
		q.Start()
		defer q.Stop()
		for range 8 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		time.Sleep(20 * time.Second)
		if done, most := s.seen(); done != 8 || most != 1 {
			t.Errorf("%d mails, at most %d in the last step; want 8, 1", done, most)
		}
		ask(t, q, "sign-in", "slow@example.org")
		synctest.Wait()
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(10 * time.Second)
		if done, _ := s.seen(); done != 9 {
			t.Errorf("%d mails; want 9: a slow one doesn't stop the others", done)
		}
		time.Sleep(time.Minute)
	})
}

type lastStepper struct {
	take            func(Message) time.Duration
	mu              sync.Mutex
	now, most, done int
}

func (s *lastStepper) seen() (done, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done, s.most
}

func (s *lastStepper) Send(ctx context.Context, m Message) error {
	m.lastStep(ctx)
	s.mu.Lock()
	s.now++
	s.most = max(s.most, s.now)
	s.mu.Unlock()
	time.Sleep(s.take(m))
	s.mu.Lock()
	s.now--
	s.done++
	s.mu.Unlock()
	return nil
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	f, m := Folder{dir}, message("ann@example.org")
	m.ID = "0-20261122t172832007-abcdefghijklmnop"
	for range 2 {
		if err := f.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != "20261122t172832007-abcdefghijklmnop.eml" {
		t.Fatalf("files = %v %v; want one", files, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, files[0].Name()))
	if err != nil || !bytes.Equal(data, m.Data) {
		t.Errorf("the file = %q %v; want %q", data, err, m.Data)
	}
	if info, _ := files[0].Info(); info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v; want 0600", info.Mode())
	}
	m.ID = "../../etc/passwd"
	if err := f.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Error("an ID leads out of the folder")
	}
	blocked := filepath.Join(t.TempDir(), "file")
	os.WriteFile(blocked, nil, 0o600)
	if err := (Folder{blocked}).Send(t.Context(), m); !errors.Is(err, ErrServer) {
		t.Errorf("Send into a file = %v; want ErrServer", err)
	}
}
