package outbox

import (
	"context"
	"path/filepath"
	"slices"
	"testing"
)

// Texts and mails of one store don't get into each other's queue, what was noted as sent is remembered for both, and a
// text goes out as it was written.
func TestTextsAreApartFromMails(t *testing.T) {
	db, mails, texts := newStore(t), &recorder{}, &recorder{}
	path := filepath.Join(t.TempDir(), "sent")
	sent, err := OpenSentLog(t.Context(), path, db)
	if err != nil {
		t.Fatal(err)
	}
	const said = "Date: Mon, 02 Mar 2026 09:00:00 +0000"
	start := func(log *SentLog) (m, x *Queue) {
		m, _ = newQueue(t, db, mails)
		x, _ = newQueue(t, db, texts)
		x.Channel = Text
		x.Prepare = func(context.Context, Request) (Prepared, error) {
			return Prepared{Message: &Message{To: number, Data: []byte(said)}}, nil
		}
		m.Process, x.Process = &Process{Sent: log}, &Process{Sent: log}
		return m, x
	}
	m, x := start(sent)
	m.Server, x.Server = spent(), spent() // nothing goes out yet
	m.Start()
	x.Start()
	mail, text, other := ask(t, m, "new-questions", "ann@example.org"), ask(t, x, "new-questions", number), ask(t, x, "new-questions", number)
	until(t, "both texts are ready", func() bool { return readyIn(x, laneNotice) == 2 })
	if m.Len() != 1 || x.Len() != 2 {
		t.Errorf("%d mails and %d texts wait; want 1 and 2", m.Len(), x.Len())
	}
	list, _, err := x.List(t.Context(), "", 10)
	if err != nil || len(list) != 2 || list[0].To != "+44…23" {
		t.Errorf("List = %+v, %v; want two texts, with the number in part", list, err)
	}
	sent.Note("example", text)
	m.Stop()
	x.Stop()

	again, err := OpenSentLog(t.Context(), path, db) // as after a kill
	if err != nil || !again.Has("example", text) {
		t.Fatalf("the text that was sent isn't remembered (%v)", err)
	}
	m, x = start(again)
	m.Start()
	x.Start()
	defer m.Stop()
	defer x.Stop()
	until(t, "nothing waits", func() bool { return m.Len() == 0 && x.Len() == 0 && !again.Has("example", text) })
	ids := func(r *recorder) (all []string) {
		for _, one := range r.sent {
			all = append(all, one.ID)
		}
		return all
	}
	if !slices.Equal(ids(mails), []string{mail}) || !slices.Equal(ids(texts), []string{other}) {
		t.Fatalf("mails %v and texts %v were sent; want %s, and %s without the one that was sent before", ids(mails), ids(texts), mail, other)
	}
	if got := string(texts.sent[0].Data); got != said {
		t.Errorf("the text is %q; want %q", got, said)
	}
}
