package notice

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// away is a store that may be away.
type away struct {
	store.Store
	is atomic.Bool
}

func (s *away) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if s.is.Load() {
		return store.Record{}, store.ErrUnavailable
	}
	return s.Store.Get(ctx, k)
}

func TestANoticeIsUnreadUntilThePageIsOpened(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	s := &away{Store: db}
	now := time.Now()
	u := &Unread{Firm: "example", Store: s, Keys: keys, Now: func() time.Time { return now }}
	notify := func(contact, company string, at time.Time) {
		t.Helper()
		ops, err := u.Put(Latest{Kind: "new-questions", At: at}, Page{contact, company})
		if err == nil {
			err = db.Apply(t.Context(), ops...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(when, contact string, companies ...string) {
		t.Helper()
		all, err := u.Of(t.Context(), contact)
		if err != nil {
			t.Fatal(err)
		}
		ok := len(all) == len(companies)
		for _, c := range companies {
			_, found := all[c]
			ok = ok && found
		}
		if !ok {
			t.Errorf("%s: unread of %s = %v; want those of %v", when, contact, all, companies)
		}
	}
	var anns, bobs atomic.Pointer[Opening]
	notify("ann", "acme", now)
	notify("ann", "birch", now)
	notify("bob", "acme", now)
	notify("anna", "acme", now)
	want("at first", "ann", "acme", "birch")
	u.Opened(&anns, "ann", "acme", now.Add(-time.Second))
	want("opened before the notice came", "ann", "acme", "birch")
	u.Opened(&anns, "ann", "acme", now.Add(time.Second))
	want("opened", "ann", "birch")
	want("that was another contact's", "bob", "acme")
	notify("ann", "acme", now.Add(2*time.Second))
	want("a later notice", "ann", "acme", "birch")
	u.Opened(&anns, "ann", "acme", now.Add(3*time.Second))
	u.Opened(&anns, "ann", "acme", now.Add(4*time.Second))
	u.Opened(&bobs, "bob", "acme", now.Add(4*time.Second))
	u.Opened(&anns, "ann", "birch", now.Add(4*time.Second))
	s.is.Store(true)
	if _, err := u.Of(t.Context(), "ann"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Of while the store is away = %v; want ErrUnavailable", err)
	}
	s.is.Store(false)
	want("the store is back", "ann")
	want("the store is back", "bob")
	want("the store is back", "anna", "acme")
	now = now.Add(Keep)
	want("long after", "anna")
}

// While one page is opened again and again, nothing that others share is touched.
func TestOpeningTheSamePageAgainAllocatesNothing(t *testing.T) {
	u := &Unread{}
	var last atomic.Pointer[Opening]
	now := time.Now()
	u.Opened(&last, "ann", "acme", now)
	if n := testing.AllocsPerRun(100, func() { u.Opened(&last, "ann", "acme", now) }); n != 0 || u.count.Load() != 1 {
		t.Errorf("Opened allocates %v times, and %d wait; want 0, and 1", n, u.count.Load())
	}
	var none *Unread
	none.Opened(&last, "ann", "acme", now)
	if all, err := none.Of(t.Context(), "ann"); all != nil || err != nil {
		t.Errorf("Of a nil Unread = %v, %v", all, err)
	}
}

// counted counts what is read.
type counted struct {
	store.Store
	reads int
}

func (s *counted) Get(ctx context.Context, k store.Key) (store.Record, error) {
	s.reads++
	return s.Store.Get(ctx, k)
}

func (s *counted) Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]store.Record, error) {
	s.reads++
	return s.Store.Scan(ctx, firm, bucket, prefix, after, limit)
}

// However many contacts open pages, the store is asked once in a round whether there was a notice meanwhile, also by
// another process, and about each page only after one.
func TestPagesWithoutNoticesCostOneRead(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		t.Fatal(err)
	}
	s, now := &counted{Store: db}, time.Now()
	u, other := &Unread{Firm: "example", Store: s, Keys: keys}, &Unread{Firm: "example", Store: db, Keys: keys}
	var sessions [50]atomic.Pointer[Opening]
	round := func(most int, what string) {
		t.Helper()
		for i := range sessions {
			now = now.Add(time.Millisecond)
			u.Opened(&sessions[i], "ann", "acme", now)
		}
		s.reads = 0
		if err := u.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if s.reads > most {
			t.Errorf("%s: %d reads for %d pages; want at most %d", what, s.reads, len(sessions), most)
		}
	}
	notify := func() {
		t.Helper()
		ops, err := other.Put(Latest{Kind: "new-questions", At: now}, Page{"ann", "acme"})
		if err == nil {
			err = db.Apply(t.Context(), ops...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	round(2+len(sessions), "at first")
	round(2, "without a notice ever")
	notify()
	round(2+len(sessions), "after a notice")
	if all, err := other.Of(t.Context(), "ann"); len(all) != 0 || err != nil {
		t.Errorf("Of = %v, %v; want none, as the page was opened", all, err)
	}
	round(2, "once it was opened")
	s.reads = 0
	if err := u.Flush(t.Context()); err != nil || s.reads != 0 {
		t.Errorf("Flush with nothing opened = %v and %d reads; want none", err, s.reads)
	}
}
