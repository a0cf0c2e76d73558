package session_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// says is a store that answers every Get with one value.
type says struct {
	store.Store
	value []byte
}

func (s says) Get(_ context.Context, k store.Key) (store.Record, error) {
	return store.Record{Key: k, Value: s.value}, nil
}

// A record that a store gives for a cookie, whatever is in it, is a session only if it says
// of itself that it is this one (CVE-2025-29923), and whose it is, and isn't over. What
// can't be read is an error, and never somebody signed out.
func FuzzRecord(f *testing.F) {
	w := newWorld(f)
	cookie := w.signIn("ann", nil)
	ann := w.live(cookie)
	rec, err := w.store.Get(context.Background(), store.Key{Firm: "example", Bucket: "session", ID: ann.ID})
	w.must(err)
	whole := string(rec.Value)
	for _, seed := range []string{whole, whole[:len(whole)-1], whole + "}", "2" + whole[1:], "", "1", "1{}", "1null", "1[]", "1{\"id\":\"" + ann.ID + "\"}",
		"1{\"ID\":\"" + ann.ID + "\",\"contact\":\"eve\",\"begun\":\"9999-01-01T00:00:00Z\",\"seen\":\"9999-01-01T00:00:00Z\"}", "1{\"id\":1}", "1{\"begun\":\"x\"}", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		s := w.fresh()
		s.Store = says{w.store, value}
		l, err := s.Lookup(context.Background(), cookie)
		var as session.Session
		sound := len(value) > 0 && value[0] == '1' && json.Unmarshal(value[1:], &as) == nil && as.ID == ann.ID && as.Contact != ""
		switch {
		case err == nil && (!sound || l.ID != ann.ID || l.Contact != as.Contact):
			t.Fatalf("%q is the session %+v", value, l)
		case err == nil && (!w.clock.now().Before(l.Begun.Add(most)) || !w.clock.now().Before(l.Seen.Add(idle))):
			t.Fatalf("%q is a session that is over", value)
		case errors.Is(err, session.ErrNone) && !sound:
			t.Fatalf("%q is nobody's session: %v; want an error of the store's", value, err)
		}
	})
}
