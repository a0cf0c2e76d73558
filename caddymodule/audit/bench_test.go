package audit

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

func benchLog(b *testing.B) *Log {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		b.Fatal(err)
	}
	t := NewEventLog("example", db, time.Now, NewCounters())
	b.Cleanup(func() {
		t.Close()
		db.Close()
	})
	return &Log{Logger: slog.New(slog.DiscardHandler), Keys: keys, EventLog: t}
}

var benchEvent = Event{Kind: WrongCode, Address: "a•••@example.com", Agent: "Safari on iPhone",
	IP: netip.MustParseAddr("203.0.113.9"), Request: "0-20260301t100200000-abcdefghijklmnop"}

// BenchmarkRecord measures what an event costs a request, also in a flood.
func BenchmarkRecord(b *testing.B) {
	l := benchLog(b)
	b.ReportAllocs()
	for b.Loop() {
		l.Record(b.Context(), benchEvent)
	}
}

// BenchmarkWith measures what storing its event costs a sign-in.
func BenchmarkWith(b *testing.B) {
	l := benchLog(b)
	e := benchEvent
	e.Kind, e.Contact = SignedIn, "33l7nq52vu886nkaukhvpa21t7m0ibsp"
	b.ReportAllocs()
	for b.Loop() {
		l.With(e)
	}
}
