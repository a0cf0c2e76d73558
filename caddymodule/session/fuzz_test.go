package session_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// says is a store in which the record of every session has the same value.
type says struct {
	store.Store
	value []byte
}

func (s says) Get(ctx context.Context, k store.Key) (store.Record, error) {
	if k.Bucket != "sessions" {
		return s.Store.Get(ctx, k)
	}
	return store.Record{Key: k, Value: s.value}, nil
}

// A record for a cookie is a session only if it was sealed for this cookie, whatever its
// content (CVE-2025-29923). Any other record signs the browser out at most.
func FuzzRecord(f *testing.F) {
	w := newWorld(f)
	cookie := w.signIn("ann", nil)
	ann := w.live(cookie)
	rec, err := w.store.Get(context.Background(), store.Key{Firm: "example", Bucket: "sessions", ID: ann.ID})
	w.must(err)
	whole := string(rec.Value)
	for _, seed := range []string{whole, whole[:len(whole)-1], whole + "}", "2" + whole[1:], "", "1", "1{}", "1null", "1[]", "\x01{\"contact\":\"ann\"}",
		"\x01\x00\x00\x00\x00\x00\x00\x00\x00{\"contact\":\"eve\",\"begun\":\"9999-01-01T00:00:00Z\",\"seen\":\"9999-01-01T00:00:00Z\"}", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s := w.fresh()
		s.Store = says{w.store, value}
		l, err := s.Lookup(context.Background(), cookie)
		switch sound := bytes.Equal(value, rec.Value); {
		case sound && (err != nil || l.ID != ann.ID || l.Contact != "ann"):
			t.Fatalf("the record itself = %+v, %v", l, err)
		case !sound && !errors.Is(err, session.ErrNone):
			t.Fatalf("%q = %+v, %v; want ErrNone", value, l, err)
		}
	})
}
