package outbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// slowly is a Sender that takes a second for each message.
func slowly(_ context.Context, _ Message, _ int) error {
	time.Sleep(time.Second)
	return nil
}

// What comes into a lane waits for no more than the messages that are on their way, whatever
// waits in the lanes below.
func TestSignInMailPassesAnnouncementsAndNotices(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: slowly}
		q, _ := newQueue(t, db, r)
		q.Server = NewServer(2, Pace(60_000, time.Minute), nil)
		q.Start()
		defer q.Stop()
		for range 50 {
			ask(t, q, "portal-update", "all@example.org")
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		for range 4 {
			ask(t, q, "notice", "ann@example.org")
		}
		for range 2 {
			ask(t, q, "sign-in", "bob@example.org")
		}
		time.Sleep(4 * time.Second)
		var order []string
		for _, m := range r.sentAfter(20) {
			order = append(order, m.To[:3])
		}
		if got := strings.Join(order, " "); got != "all all bob bob ann ann ann" && got != "all all bob bob ann ann ann ann" {
			t.Errorf("after the first 20 went %q; want all all bob bob ann ann ann ann", got)
		}
		time.Sleep(time.Minute)
	})
}

// sentAfter returns what was sent after the first n.
func (r *recorder) sentAfter(n int) []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Message(nil), r.sent[n:]...)
}

// The pace that announcements leave is there for sign-in mail at once.
func TestAnnouncementsLeaveAPartOfThePace(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{}
		q, _ := newQueue(t, db, r)
		q.Server = NewServer(4, Pace(60, time.Minute), nil)
		q.Start()
		defer q.Stop()
		for range 100 {
			ask(t, q, "portal-update", "all@example.org")
		}
		time.Sleep(30 * time.Second)
		id := ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(10 * time.Millisecond)
		if sent := r.sentAfter(0); sent[len(sent)-1].ID != id {
			t.Errorf("a sign-in mail waits behind %d announcements", len(sent))
		}
	})
}

func TestAFloodInOneLaneLeavesRoomInTheOthers(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: slowly}
		q, _ := newQueue(t, db, r)
		q.Max = 10
		for range 35 { // as several machines may let in
			ask(t, q, "portal-update", "all@example.org")
		}
		q.Start()
		defer q.Stop()
		synctest.Wait()
		for kind, want := range map[string]error{"portal-update": ErrFull, "notice": nil, "sign-in": nil} {
			if err := q.Full(NewID(kind, time.Now())); err != want {
				t.Errorf("Full of a %s = %v; want %v", kind, err, want)
			}
		}
		if n := q.Len(); n > 10 {
			t.Errorf("the queue knows of %d; want at most 10", n)
		}
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(5 * time.Minute)
		if r.count() != 36 || inStore(t, db) != 0 {
			t.Errorf("%d were sent, %d records are left; want 36, none", r.count(), inStore(t, db))
		}
	})
}

// counter is a Sender that counts how many messages are on their way.
type counter struct {
	mu              sync.Mutex
	now, most, done int
	fail            error
}

func (c *counter) Send(context.Context, Message) error {
	c.mu.Lock()
	c.now++
	c.most = max(c.most, c.now)
	c.mu.Unlock()
	time.Sleep(time.Second)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now--
	c.done++
	return c.fail
}

func (c *counter) seen() (most, done int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most, c.done
}

func TestFirmsShareTheConnectionsOfOneServerByTurns(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		server, sender := NewServer(3, Pace(60_000, time.Minute), nil), &counter{}
		var queues []*Queue
		for i := range 5 {
			q, _ := newQueue(t, db, sender)
			q.Firm, q.Server = fmt.Sprint("firm", i), server
			q.Start()
			defer q.Stop()
			queues = append(queues, q)
		}
		for range 300 {
			ask(t, queues[0], "sign-in", "flood@example.org")
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		for _, q := range queues[1:] {
			ask(t, q, "sign-in", "ann@example.org")
		}
		time.Sleep(3 * time.Second)
		for i, q := range queues[1:] {
			if q.Len() != 0 {
				t.Errorf("firm %d waits behind the flood of another one", i+1)
			}
		}
		time.Sleep(2 * time.Minute)
		if most, done := sender.seen(); most != 3 || done != 304 {
			t.Errorf("%d sent, at most %d at a time; want 304, 3", done, most)
		}
	})
}

// Firms with a mail server each: one that is dead, or never answers, is nothing to the others.
func TestAFirmWithABadServerDelaysNoOther(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		hangs := &recorder{answer: func(ctx context.Context, _ Message, _ int) error {
			<-ctx.Done()
			return fmt.Errorf("connecting: %w", ctx.Err())
		}}
		senders := []Sender{&counter{fail: ErrServer}, hangs, &recorder{}}
		var queues []*Queue
		for i, s := range senders {
			q, _ := newQueue(t, db, s)
			q.Firm = fmt.Sprint("firm", i)
			q.Start()
			queues = append(queues, q)
			for range 20 {
				ask(t, q, "sign-in", "ann@example.org")
			}
		}
		synctest.Wait()
		if n := senders[2].(*recorder).count(); n != 20 {
			t.Errorf("%d mails of the firm with the good server are sent; want 20", n)
		}
		for _, q := range queues {
			q.Stop()
		}
	})
}

// A server that takes long at the end of a message gets as much as its connections allow.
func TestAServerThatIsSlowAtTheEndSetsThePaceOfEachConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		s := &lastStepper{take: func(Message) time.Duration { return 300 * time.Millisecond }}
		q, _ := newQueue(t, db, s)
		q.Start()
		defer q.Stop()
		for range 400 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		time.Sleep(10 * time.Second)
		before, _ := s.seen()
		time.Sleep(10 * time.Second)
		if after, _ := s.seen(); after-before < 120 {
			t.Errorf("%d mails in ten seconds; want 0.9 of 4 connections in 0.3 s each, which is 120", after-before)
		}
	})
}

func TestWhatWasNotedAsSentIsNotSentAgain(t *testing.T) {
	db, r := newStore(t), &recorder{}
	path := filepath.Join(t.TempDir(), "sent")
	open := func() *SentLog {
		l, err := OpenSentLog(t.Context(), path, db)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := open()
	q, _ := newQueue(t, db, r)
	q.Server, q.Process = spent(), &Process{Sent: first}
	q.Start()
	sent, other := ask(t, q, "sign-in", "ann@example.org"), ask(t, q, "sign-in", "bob@example.org")
	until(t, "both are mails", func() bool { return readyIn(q, laneSignIn) == 2 })
	first.Note("example", sent)
	first.Note("example", NewID("sign-in", time.Now())) // the store has forgotten it
	q.Stop()

	half, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	half.WriteString("example 0-2026")
	half.Close()
	second := open() // as after a kill: nobody has closed the first
	if !second.Has("example", sent) || second.Has("example", other) || len(second.lines) != 1 {
		t.Errorf("the list has %v; want the one mail that waits and was sent", second.lines)
	}
	q, _ = newQueue(t, db, r)
	q.Process = &Process{Sent: second}
	var told sync.Map
	q.Sent = func(_ context.Context, ref string, _ time.Time) ([]store.Op, error) {
		told.Store(ref, true)
		return nil, nil
	}
	q.Start()
	defer q.Stop()
	until(t, "nothing is left", func() bool { return inStore(t, db) == 0 })
	if r.count() != 1 || r.sent[0].ID != other {
		t.Errorf("sent: %v; want %s alone", r.sent, other)
	}
	if _, ok := told.Load("ref-" + sent); !ok {
		t.Error("Sent isn't told of the mail that was sent before the kill")
	}
	until(t, "the list is empty", func() bool { return !second.Has("example", sent) && !second.Has("example", other) })
}

func TestTheListOfSentMailsStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sent")
	l, err := OpenSentLog(t.Context(), path, newStore(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 50_000 {
		id := NewID("notice", time.Now())
		if !l.Note("example", id) {
			t.Fatal("Note = false")
		}
		l.Forget("example", id)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > mostSentLog+100 || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v %v; want at most %d bytes, 0600", info, err, mostSentLog)
	}
}
