package outbox

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

var errNoMailbox = fmt.Errorf("%w: RCPT TO: 550 5.1.1 no such mailbox", ErrRefused)

func unsentIn(t *testing.T, q *Queue) []Entry {
	t.Helper()
	list, next, err := q.ListUnsent(t.Context(), "", 100)
	if err != nil || next != "" {
		t.Fatalf("ListUnsent = %v, %q; want all", err, next)
	}
	return list
}

// What ended unsent is listed with the reason; it is made and sent anew when an operator asks for
// it, as long as it is of use.
func TestARefusedMailIsMadeAnewAndSentOnRetry(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		r := &recorder{answer: func(context.Context, Message, int) error { return errNoMailbox }}
		q, _ := newQueue(t, db, r)
		q.Start()
		defer func() { q.Stop() }()
		id, late := ask(t, q, "sign-in", "ann@example.org"), ask(t, q, "notice", "bob@example.org")
		synctest.Wait()
		list := unsentIn(t, q)
		if len(list) != 2 || list[0].ID != id || list[0].To != "a•••@example.org" || list[0].Last != "RCPT TO: 550 5.1.1 no such mailbox" || list[0].Ended.IsZero() || list[0].Late() {
			t.Fatalf("ListUnsent = %+v; want both, refused", list)
		}
		if inStore(t, db) != 0 {
			t.Error("a mail that was refused is in the queue")
		}
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		r.answer = nil
		if _, err := q.Retry(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.count() != 1 || r.sent[0].ID != id || len(unsentIn(t, q)) != 1 {
			t.Errorf("%d were sent, %d are unsent; want one and one", r.count(), len(unsentIn(t, q)))
		}
		time.Sleep(time.Hour)
		if _, err := q.Retry(t.Context(), late); !errors.Is(err, ErrLate) {
			t.Errorf("Retry after its time = %v; want ErrLate", err)
		}
		if _, err := q.Retry(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Retry of a mail that was sent = %v; want ErrNotFound", err)
		}
	})
}

func TestAMailThatWasGivenUpIsListedWithItsLastReason(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		q, _ := newQueue(t, db, &recorder{answer: func(context.Context, Message, int) error { return errBoom }})
		q.Start()
		defer q.Stop()
		ask(t, q, "sign-in", "ann@example.org")
		time.Sleep(time.Hour + time.Minute)
		if list := unsentIn(t, q); len(list) != 1 || !list[0].Late() || list[0].Last != "boom" || list[0].Tries < 5 {
			t.Errorf("ListUnsent = %+v; want one that was late, with boom", list)
		}
	})
}

// A mail that waits is tried at once, though the server couldn't be used.
func TestRetryTriesAWaitingMailAndTheServerNow(t *testing.T) {
	for name, fails := range map[string]error{"the mail waits": errBoom, "the server is away": ErrServer} {
		inBubble(t, func(t *testing.T, db store.Store) {
			r := &recorder{answer: func(context.Context, Message, int) error { return fails }}
			q, _ := newQueue(t, db, r)
			q.Start()
			defer q.Stop()
			id := ask(t, q, "sign-in", "ann@example.org")
			time.Sleep(4 * time.Minute)
			synctest.Wait()
			r.answer = nil
			if e, err := q.Retry(t.Context(), id); err != nil || e.Last == "" {
				t.Fatalf("Retry = %+v, %v", e, err)
			}
			synctest.Wait()
			if r.count() != 1 {
				t.Errorf("%s: %d mails are sent at once; want 1", name, r.count())
			}
		})
	}
}

func TestAMailInHandIsNotRetried(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		q, _ := newQueue(t, db, &recorder{answer: slowly})
		q.Start()
		defer q.Stop()
		id := ask(t, q, "sign-in", "ann@example.org")
		synctest.Wait()
		if _, err := q.Retry(t.Context(), id); !errors.Is(err, ErrInHand) {
			t.Errorf("Retry = %v; want ErrInHand", err)
		}
		time.Sleep(2 * time.Second)
	})
}
