package outbox

import (
	"bytes"
	"context"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// TestARequestThatIsPutOffIsMailedThen: its Ops are applied, it stays in the store, no
// other waits for it, and a queue that starts anew asks again.
func TestARequestThatIsPutOffIsMailedThen(t *testing.T) {
	db, r := newStore(t), &recorder{}
	mark := store.Key{Firm: "example", Bucket: "test", ID: "put off"}
	var mu sync.Mutex
	var asked []string
	open := func() *Queue {
		q, _ := newQueue(t, db, r)
		q.Prepare = func(ctx context.Context, req Request) (Prepared, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, string(req.Payload))
			_, err := db.Get(ctx, mark)
			if !strings.HasPrefix(string(req.Payload), "early") || err == nil && len(asked) > 3 {
				return letterTo(req), nil
			}
			p := Prepared{Later: time.Now().Add(time.Second)}
			if err != nil {
				p.Ops = []store.Op{store.Create(mark, []byte("1"), time.Time{})}
			}
			return p, nil
		}
		return q
	}
	q := open()
	q.Start()
	ask(t, q, "sign-in", "early@example.com")
	until(t, "it is put off", func() bool { _, err := db.Get(t.Context(), mark); return err == nil })
	ask(t, q, "sign-in", "ann@example.com")
	until(t, "the other is sent, and the one that is put off waits", func() bool { return r.count() == 1 && q.Len() == 1 })
	q.Stop()
	if n := inStore(t, db); n != 1 {
		t.Errorf("%d records; want the one that is put off", n)
	}
	q = open()
	q.Start()
	defer q.Stop()
	until(t, "it is sent", func() bool { return r.count() == 2 && inStore(t, db) == 0 })
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"early@example.com", "ann@example.com", "early@example.com", "early@example.com"}; !slices.Equal(asked, want) {
		t.Errorf("Prepare was asked for %q; want %q", asked, want)
	}
}

// TestPace_AFloodOfOneFirmStarvesNoOther: queues that share a mail server take
// turns, however long one of them is.
func TestPace_AFloodOfOneFirmStarvesNoOther(t *testing.T) {
	db, server := newStore(t), NewServer(4, Pace(2400, time.Minute), nil)
	flooded, other := &recorder{}, &recorder{}
	a, _ := newQueue(t, db, flooded)
	b, _ := newQueue(t, db, other)
	b.Firm, a.Server, b.Server = "other", server, server
	for range 400 {
		op := a.Add(Request{Kind: "sign-in", Asked: a.now(), Payload: []byte("who@example.com")})
		if err := db.Apply(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	a.Start()
	defer a.Stop()
	b.Start()
	defer b.Stop()
	until(t, "the first burst is over", func() bool { return flooded.count() > 240 })
	for i := range 3 {
		before := flooded.count()
		ask(t, b, "sign-in", "ann@example.com")
		until(t, "the other firm's mail is sent", func() bool { return other.count() == i+1 })
		t.Logf("%d mails of the flooded firm went out before", flooded.count()-before)
		if n := flooded.count() - before; n > 12 {
			t.Errorf("%d mails of the flooded firm went out before one of the other; want a few", n)
		}
	}
}

// What a mail says of time, such as "within 10 minutes", counts from when the server took it.
func TestTheDateOfAMailIsThatOfTheHandOver(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(_ context.Context, _ Message, try int) error {
			if try < 6 {
				return errBoom
			}
			return nil
		}}
		q, _ := newQueue(t, db, r)
		q.Prepare = func(_ context.Context, req Request) (Prepared, error) {
			p := letterTo(req)
			p.Message.Data = append([]byte("Date: "+req.Asked.In(time.FixedZone("", -7*3600)).Format(time.RFC1123Z)+"\r\n"), p.Message.Data...)
			return p, nil
		}
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		if r.count() != 1 {
			t.Fatalf("%d mails are sent; want 1", r.count())
		}
		m, err := mail.ReadMessage(bytes.NewReader(r.sent[0].Data))
		if err != nil {
			t.Fatal(err)
		}
		if date, err := m.Header.Date(); err != nil || date.Sub(r.at[0]).Abs() > time.Second || !strings.HasSuffix(m.Header.Get("Date"), " -0700") {
			t.Errorf("the Date is %s, %v; want %s, when it was handed over, in the zone that it had", m.Header.Get("Date"), err, r.at[0])
		}
	})
}
