package token_test

import (
	"context"
	"errors"
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// damaged is a store that returns one value for every record of a bucket, and discards
// changes.
type damaged struct {
	store.Store
	bucket string
	value  []byte
}

func (d damaged) Get(ctx context.Context, k store.Key) (store.Record, error) {
	rec, err := d.Store.Get(ctx, k)
	if err == nil && k.Bucket == d.bucket {
		rec.Value = d.value
	}
	return rec, err
}

func (damaged) Apply(context.Context, ...store.Op) error { return nil }

// A record that was damaged, or moved to another key, authorizes nothing.
func FuzzRecords(f *testing.F) {
	w := newWorld(f)
	w.Keys = keyring(f, secret.Random()) // records sealed by another process of the fuzzer are untrusted here
	issued := w.mail(laptop, "ann@example.com", "ann")
	other := w.mail(laptop+"x", "bob@example.com", "bob")
	buckets := []string{"flow", "link", "live", "handed-over"}
	whole := map[string]bool{}
	for i, bucket := range buckets {
		recs, err := w.db.Scan(context.Background(), "example", bucket, "", "", 10)
		w.must(err)
		for _, rec := range recs {
			whole[string(rec.Value)] = true
			for j := range buckets {
				if i != j {
					f.Add(byte(j), rec.Value) // at another record's key
				}
			}
			f.Add(byte(i), append([]byte{'2'}, rec.Value[1:]...))
			f.Add(byte(i), rec.Value[:len(rec.Value)/2])
		}
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte("1{}"))
		f.Add(byte(i), []byte("1"))
	}
	f.Fuzz(func(t *testing.T, which byte, value []byte) {
		bucket := buckets[int(which)%len(buckets)]
		damage := w.as(func(o *token.Tokens) { o.Store = damaged{w.db, bucket, value} })
		for _, secret := range []string{issued.Token, other.Token} {
			if bucket == "flow" {
				break
			}
			_, err := damage.Peek(context.Background(), secret)
			_, err2 := damage.Spend(context.Background(), secret, laptop)
			for _, err := range []error{err, err2} {
				if !whole[string(value)] && !errors.Is(err, token.ErrInactive) && !errors.Is(err, token.ErrUnknown) {
					t.Fatalf("a damaged %s: %v; want a link that is over or unknown", bucket, err)
				}
			}
		}
		g, err := damage.Guess(context.Background(), laptop, issued.Code, false)
		if err == nil && (g.Contact != "ann" || g.Address != "ann@example.com") {
			t.Fatalf("a damaged %s: ann's code is good for %+v", bucket, g)
		}
		if bucket != "link" && !whole[string(value)] && !errors.Is(err, token.ErrWrongCode) {
			t.Fatalf("a damaged %s: %v; want a code that doesn't work", bucket, err)
		}
	})
}
