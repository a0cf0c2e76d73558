//go:build servers

package redis

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// BenchmarkVerbs measures each operation with a local server that writes an append-only
// file, sequentially and with 64 goroutines per processor.
func BenchmarkVerbs(b *testing.B) {
	server := startServer(b)
	s := openAt(b, server.url(), Options{})
	soon := time.Now().Add(time.Hour)
	value := make([]byte, 300)
	var ops []store.Op
	for i := range 1000 {
		ops = append(ops, store.Put(key(fmt.Sprint(i)), value, soon))
	}
	if err := s.Apply(b.Context(), ops...); err != nil {
		b.Fatal(err)
	}
	var next atomic.Int64
	fresh := func() store.Key {
		return store.Key{Firm: "firm", Bucket: "fresh", ID: fmt.Sprint(next.Add(1))}
	}
	for _, verb := range []struct {
		name string
		run  func() error
	}{
		{"Get", func() error { _, err := s.Get(b.Context(), key(fmt.Sprint(next.Add(1)%1000))); return err }},
		{"RemoveOfNone", func() error {
			if err := s.Apply(b.Context(), store.Remove(key("none"), nil)); !errors.Is(err, store.ErrConflict) {
				return err
			}
			return nil
		}},
		{"ApplyOfThree", func() error {
			return s.Apply(b.Context(), store.Create(fresh(), value, soon), store.Create(fresh(), value, soon), store.Create(fresh(), value, soon))
		}},
		{"ScanOfHundred", func() error { _, err := s.Scan(b.Context(), "firm", "bucket", "", "", 100); return err }},
	} {
		b.Run(verb.name+"/alone", func(b *testing.B) {
			for b.Loop() {
				if err := verb.run(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(verb.name+"/crowd", func(b *testing.B) {
			b.SetParallelism(64)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := verb.run(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
