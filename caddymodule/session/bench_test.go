package session

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// filled returns Sessions with n in memory, and the cookies of up to 1<<16 of them.
func filled(b *testing.B, n int) (*Sessions, []string) {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	keys, err := secret.New([]byte(secret.Random()))
	if err != nil {
		b.Fatal(err)
	}
	s := &Sessions{Firm: "example", Store: db, Keys: keys, Idle: 45 * 24 * time.Hour, Max: 180 * 24 * time.Hour, Limit: n}
	now := time.Now()
	var cookies []string
	for i := range n {
		k := key{}
		if len(cookies) < 1<<16 {
			cookies = append(cookies, secret.Random())
			k = keyOf(cookies[i])
		} else {
			for j := 0; j < len(k); j += 8 {
				binary.LittleEndian.PutUint64(k[j:], rand.Uint64())
			}
		}
		as := Session{ID: k.String(), Handle: "SZQ4JQKQQKZ2SWTQYVZ5Q4ZQ2E", Contact: k.String()[:26], Method: "link",
			Agent: k.String()[:20], Begun: now, Seen: now}
		s.memory().add(s.newLive(k, as), 0, s.Limit)
	}
	return s, cookies
}

func lookUp(b *testing.B, s *Sessions, cookie string) *Cached {
	l, err := s.Lookup(context.Background(), cookie)
	if err != nil {
		b.Fatal(err)
	}
	return l
}

func BenchmarkLookup(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1", 1}, {"1e6", 1_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			s, cookies := filled(b, size.n)
			runtime.GC()
			runtime.ReadMemStats(&after)
			var at atomic.Uint32
			b.Run("alone", func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					lookUp(b, s, cookies[i%len(cookies)])
				}
				if size.n > 1 {
					b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(size.n), "B/session")
				}
			})
			b.Run("parallel", func(b *testing.B) {
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for i := int(at.Add(7919)); pb.Next(); i++ {
						lookUp(b, s, cookies[i%len(cookies)])
					}
				})
			})
			runtime.KeepAlive(s)
		})
	}
}

// BenchmarkRequest measures everything that a request of a signed-in browser calls in
// this package.
func BenchmarkRequest(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"1", 1}, {"1e5", 100_000}} {
		b.Run(size.name, func(b *testing.B) {
			s, cookies := filled(b, size.n)
			ctx, cancel := context.WithCancel(context.Background()) // as net/http's
			defer cancel()
			var at atomic.Uint32
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := int(at.Add(7919)); pb.Next(); i++ {
					l := lookUp(b, s, cookies[i%len(cookies)])
					s.Seen(ctx, l)
					_, flight := s.Attach(ctx, l, "")
					flight.Done()
				}
			})
		})
	}
}

func BenchmarkAttach(b *testing.B) {
	s, cookies := filled(b, 1)
	l := lookUp(b, s, cookies[0])
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		_, flight := s.Attach(ctx, l, "")
		flight.Done()
	}
}

func BenchmarkSeen(b *testing.B) {
	s, cookies := filled(b, 1)
	l := lookUp(b, s, cookies[0])
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.Seen(context.Background(), l)
		}
	})
}

// BenchmarkLookupUnknown measures an unknown cookie, which costs one read of the store.
func BenchmarkLookupUnknown(b *testing.B) {
	s, _ := filled(b, 1)
	cookie := secret.Random()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Lookup(context.Background(), cookie); err != ErrNone {
			b.Fatal(err)
		}
	}
}
