package bolt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

func benchDB(b *testing.B) *DB {
	b.Helper()
	db, err := Open(filepath.Join(b.TempDir(), "doorpost.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// BenchmarkFsync measures the disk, which limits Apply: a commit takes two fsyncs.
func BenchmarkFsync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	for i := 0; b.Loop(); i++ {
		if _, err := f.WriteAt(page, int64(i%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "fsyncs/s")
}

// BenchmarkApply makes durable changes of two records each:
//
//	go test -run - -bench 'Fsync|Apply' ./caddymodule/store/bolt
func BenchmarkApply(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			db := benchDB(b)
			var next, failed atomic.Int64
			value := []byte(strings.Repeat("v", 200))
			expires := time.Now().Add(time.Hour)
			b.ResetTimer()
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						id := fmt.Sprintf("%016x", uint64(i)*0x9E3779B97F4A7C15)
						err := db.Apply(context.Background(),
							store.Put(key(id), value, expires),
							store.Put(store.Key{Firm: "firm", Bucket: "other", ID: id}, nil, time.Time{}))
						if err != nil {
							failed.Add(1)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "applies/s")
			if failed.Load() > 0 {
				b.Errorf("%d Applies failed", failed.Load())
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	db := benchDB(b)
	fill(b, db, 10_000)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := db.Get(context.Background(), key(fmt.Sprintf("%06d", i%10_000))); err != nil {
				b.Error(err)
			}
		}
	})
}

// BenchmarkImport writes 100,000 contacts in one Apply: their records, and two that point
// to each.
func BenchmarkImport(b *testing.B) {
	for b.Loop() {
		db := benchDB(b)
		fill(b, db, 300_000)
		begun := time.Now()
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		db, err := Open(db.path, Options{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(begun).Milliseconds()), "ms-to-open")
		info, err := os.Stat(db.path)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size()>>20), "MiB")
		db.Close()
	}
}

func fill(b *testing.B, db *DB, n int) {
	b.Helper()
	value := []byte(strings.Repeat("v", 200))
	ops := make([]store.Op, n)
	for i := range ops {
		ops[i] = store.Put(key(fmt.Sprintf("%06d", i*7919%n)), value, time.Time{})
	}
	if err := db.Apply(context.Background(), ops...); err != nil {
		b.Fatal(err)
	}
}
