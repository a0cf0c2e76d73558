// Package sealed stores typed records, each sealed for its key.
//
// An attacker who can write to the store but doesn't have the secret can't read, create,
// change or move any of these records: reading them returns ErrUntrusted. The attacker can
// delete a record, or restore an older value of the same key until it expires. So the
// absence of a record must not authorize anything, and if a deleted or restored record
// could, a second record must confirm it.
//
// A value is one byte for its format, followed by sealed data: the expiry (8 bytes,
// milliseconds since 1970, 0 for never) and the value as JSON. Format and key are
// authenticated with the data. Buckets older than this package have another layout, see
// Layout. Sealing twice never gives the same bytes, so a condition of store.Apply detects a
// restored value.
package sealed

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Errors that callers handle, besides store.ErrNotFound. Compare with errors.Is.
var (
	// ErrUntrusted: none of the keys has sealed this value for this key. It was forged,
	// damaged, copied from another record, or sealed with a secret that isn't among the
	// keys. It wraps secret.ErrSealed.
	ErrUntrusted = fmt.Errorf("store/sealed: not a record of ours: %w", secret.ErrSealed)
	// ErrFormat: one of the keys has sealed the value for this key, in a format unknown to
	// this release. It wraps store.ErrUnavailable.
	ErrFormat = fmt.Errorf("store/sealed: the record is from another release: %w", store.ErrUnavailable)
)

// Bucket is a bucket of a firm with values of type T. Set the fields in one literal. All
// methods are safe for concurrent use.
type Bucket[T any] struct {
	Store store.Store
	Keys  *secret.Keyring
	Firm  string
	Name  string           // of the bucket in the store
	Now   func() time.Time // the clock; nil: time.Now

	// Format is the first byte of every value. Change it whenever an earlier release would
	// misread T.
	Format byte

	// Layout describes how values are sealed in a bucket older than this package; nil: as
	// described there. Values in the package's own layout can always be read.
	Layout *Layout

	// Earlier opens values from before this package; nil: there are none. It must return an
	// error for values that it can't authenticate.
	Earlier func(k store.Key, value []byte) (T, error)

	// OnUntrusted is called for every record that is ErrUntrusted; it may be nil.
	OnUntrusted func(ctx context.Context, k store.Key)
}

// Layout is an older layout of values: the byte for the format is followed only by the
// JSON, and neither the format nor the expiry is authenticated. Buckets keep it, so that
// two releases can use one store.
type Layout struct {
	Purpose string                   // of the keys
	Context func(k store.Key) string // returns the data authenticated with a value
}

// Record is a value and its ID.
type Record[T any] struct {
	ID      string
	Value   T
	Expires time.Time // to the millisecond; zero: never

	raw []byte // the stored bytes; nil: the record doesn't exist
}

// Found reports whether the record exists in the store, trusted or not.
func (r Record[T]) Found() bool { return r.raw != nil }

// Key returns the record's key in the store.
func (b *Bucket[T]) Key(id string) store.Key {
	return store.Key{Firm: b.Firm, Bucket: b.Name, ID: id}
}

// Get returns the record, or store.ErrNotFound, ErrUntrusted, ErrFormat, or the store's
// error. With the first two, the Record can be passed to Write, which then creates or
// replaces it.
func (b *Bucket[T]) Get(ctx context.Context, id string) (Record[T], error) {
	rec, err := b.Store.Get(ctx, b.Key(id))
	if errors.Is(err, store.ErrNotFound) {
		return Record[T]{ID: id}, err
	} else if err != nil {
		return Record[T]{ID: id}, fmt.Errorf("read %s record: %w", b.Name, err)
	}
	return b.Open(ctx, rec)
}

// Find is Get for records that may be missing: it returns a zero T, without an error, for a
// record that doesn't exist, has expired or can't be trusted.
func (b *Bucket[T]) Find(ctx context.Context, id string) (Record[T], error) {
	rec, err := b.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrUntrusted) {
		err = nil
	}
	return rec, err
}

// All returns the records whose IDs begin with prefix and follow the ID after, in byte
// order. For a record that can't be opened it yields the ID and the error, and continues.
// The store's error comes last.
func (b *Bucket[T]) All(ctx context.Context, prefix, after string) iter.Seq2[Record[T], error] {
	return func(yield func(Record[T], error) bool) {
		for after := after; ; {
			const page = 500
			recs, err := b.Store.Scan(ctx, b.Firm, b.Name, prefix, after, page)
			if err != nil {
				yield(Record[T]{}, fmt.Errorf("read %s records: %w", b.Name, err))
				return
			}
			for _, rec := range recs {
				after = rec.Key.ID
				opened, err := b.Open(ctx, rec)
				if errors.Is(err, store.ErrNotFound) {
					continue
				}
				if !yield(opened, err) {
					return
				}
			}
			if len(recs) < page {
				return
			}
		}
	}
}

// Put returns the Op that writes the record unconditionally.
func (b *Bucket[T]) Put(id string, v T, expires time.Time) (store.Op, error) {
	value, err := b.Seal(id, v, expires)
	return store.Put(b.Key(id), value, expires), err
}

// Create returns the Op that writes the record if it doesn't exist.
func (b *Bucket[T]) Create(id string, v T, expires time.Time) (store.Op, error) {
	value, err := b.Seal(id, v, expires)
	return store.Create(b.Key(id), value, expires), err
}

// Write returns the Op that replaces was, a result of Get, by v. Applying it returns
// store.ErrConflict if the record has changed since Get.
func (b *Bucket[T]) Write(was Record[T], v T, expires time.Time) (store.Op, error) {
	if was.raw == nil {
		return b.Create(was.ID, v, expires)
	}
	value, err := b.Seal(was.ID, v, expires)
	return store.Replace(b.Key(was.ID), was.raw, value, expires), err
}

// Delete returns the Op that deletes the record, if it exists.
func (b *Bucket[T]) Delete(id string) store.Op { return store.Delete(b.Key(id)) }

// Remove returns the Op that deletes the record if it hasn't changed since Get.
func (b *Bucket[T]) Remove(was Record[T]) store.Op { return store.Remove(b.Key(was.ID), was.raw) }

// Check returns an Op that changes nothing. Applying it returns store.ErrConflict if the
// record has changed since Get.
func (b *Bucket[T]) Check(was Record[T]) store.Op { return store.Check(b.Key(was.ID), was.raw) }

// Swap changes a record in one transaction. change gets the value as from Find, and returns
// the new one, its expiry, and further Ops to apply with it. It is called again after a
// conflict; if it returns an error, Swap changes nothing.
func (b *Bucket[T]) Swap(ctx context.Context, id string, change func(was T) (v T, expires time.Time, more []store.Op, err error)) error {
	return store.Swap(ctx, b.Store, b.Key(id), func(was []byte) ([]byte, time.Time, []store.Op, error) {
		var rec Record[T]
		if was != nil {
			var err error
			rec, err = b.Open(ctx, store.Record{Key: b.Key(id), Value: was})
			if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, ErrUntrusted) {
				return nil, time.Time{}, nil, err
			}
		}
		v, expires, more, err := change(rec.Value)
		if err != nil {
			return nil, time.Time{}, nil, err
		}
		value, err := b.Seal(id, v, expires)
		return value, expires, more, err
	})
}

// Reseal seals with the newest key all records sealed with older ones, and returns their
// number. Afterwards older secrets can be removed. It skips records that change meanwhile
// or can't be opened.
func (b *Bucket[T]) Reseal(ctx context.Context) (n int, err error) {
	var ops []store.Op
	flush := func() error {
		done, err := applyEach(ctx, b.Store, ops)
		n, ops = n+done, nil
		if err != nil {
			return fmt.Errorf("reseal %s records: %w", b.Name, err)
		}
		return nil
	}
	for rec, err := range b.All(ctx, "", "") {
		switch {
		case errors.Is(err, ErrUntrusted), errors.Is(err, ErrFormat):
			continue
		case err != nil:
			return n, err
		case b.current(rec):
			continue
		}
		op, err := b.Write(rec, rec.Value, rec.Expires)
		if err != nil {
			return n, err
		}
		if ops = append(ops, op); len(ops) == 200 {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	return n, flush()
}

// Reseal is Bucket.Reseal for packages with their own codec. Values of the bucket must be
// one byte, followed by the result of Keyring.Seal for the purpose and the place of the
// key.
func Reseal(ctx context.Context, s store.Store, keys *secret.Keyring, firm, bucket, purpose string, place func(store.Key) string) (n int, err error) {
	const page = 200
	for after := ""; ; {
		recs, err := s.Scan(ctx, firm, bucket, "", after, page)
		if err != nil {
			return n, fmt.Errorf("read %s records: %w", bucket, err)
		}
		var ops []store.Op
		for _, rec := range recs {
			after = rec.Key.ID
			if len(rec.Value) == 0 {
				continue
			}
			plain, key, err := keys.OpenBy(purpose, place(rec.Key), rec.Value[1:])
			if err != nil || key == 0 {
				continue
			}
			ops = append(ops, store.Replace(rec.Key, rec.Value, append(rec.Value[:1:1], keys.Seal(purpose, place(rec.Key), plain)...), rec.Expires))
		}
		done, err := applyEach(ctx, s, ops)
		if n += done; err != nil {
			return n, fmt.Errorf("reseal %s records: %w", bucket, err)
		}
		if len(recs) < page {
			return n, nil
		}
	}
}

// applyEach applies the ops, together if possible, and returns how many it applied. It
// skips ops whose record has changed meanwhile.
func applyEach(ctx context.Context, s store.Store, ops []store.Op) (n int, err error) {
	if len(ops) == 0 {
		return 0, nil
	}
	err = s.Apply(ctx, ops...)
	switch {
	case err == nil:
		return len(ops), nil
	case !errors.Is(err, store.ErrConflict):
		return 0, err
	case len(ops) == 1:
		return 0, nil
	}
	half := len(ops) / 2
	for _, some := range [][]store.Op{ops[:half], ops[half:]} {
		done, err := applyEach(ctx, s, some)
		if n += done; err != nil {
			return n, err
		}
	}
	return n, nil
}

// current reports whether the record is sealed with the newest key in the current format.
func (b *Bucket[T]) current(rec Record[T]) bool {
	if len(rec.raw) == 0 || rec.raw[0] != b.Format {
		return false
	}
	purpose, place := b.sealing()
	_, key, err := b.Keys.OpenBy(purpose, place(b.Key(rec.ID)), rec.raw[1:])
	return err == nil && key == 0
}

// purpose returns the purpose of the keys: each bucket has its own keys.
func (b *Bucket[T]) purpose() string { return "record/" + b.Name }

// sealing returns the purpose and the context for which values are sealed.
func (b *Bucket[T]) sealing() (purpose string, at func(store.Key) string) {
	if b.Layout != nil {
		return b.Layout.Purpose, b.Layout.Context
	}
	return b.purpose(), func(k store.Key) string { return sealContext(b.Format, k) }
}

// sealContext returns the data authenticated with a value: its format and its key.
func sealContext(format byte, k store.Key) string {
	return string([]byte{format}) + k.Firm + "\x00" + k.Bucket + "\x00" + k.ID
}

// Seal returns the stored value of a record, for callers that write it without an Op of
// this package.
func (b *Bucket[T]) Seal(id string, v T, expires time.Time) ([]byte, error) {
	var plain bytes.Buffer
	var ms [8]byte
	if !expires.IsZero() {
		binary.BigEndian.PutUint64(ms[:], uint64(max(expires.UnixMilli(), 1)))
	}
	if b.Layout == nil {
		plain.Write(ms[:])
	}
	e := json.NewEncoder(&plain)
	e.SetEscapeHTML(false) // escaping could make visitors' input take six times the space
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode %s record: %w", b.Name, err)
	}
	purpose, place := b.sealing()
	sealed := b.Keys.Seal(purpose, place(b.Key(id)), bytes.TrimSuffix(plain.Bytes(), []byte("\n")))
	return append([]byte{b.Format}, sealed...), nil
}

// Open opens a record of this bucket that was read from the store. Its errors are those of
// Get.
func (b *Bucket[T]) Open(ctx context.Context, rec store.Record) (Record[T], error) {
	out := Record[T]{ID: rec.Key.ID, Expires: rec.Expires, raw: rec.Value}
	if out.raw == nil {
		out.raw = []byte{} // an empty value exists
	}
	v, expires, err := b.unseal(rec)
	switch {
	case errors.Is(err, ErrUntrusted) && b.OnUntrusted != nil:
		b.OnUntrusted(ctx, rec.Key)
	case err == nil && !expires.IsZero():
		// The store's own expiry isn't authenticated.
		if out.Expires = expires; !b.now().Before(expires) {
			return out, store.ErrNotFound
		}
	}
	if err != nil {
		return out, fmt.Errorf("open %s record: %w", b.Name, err)
	}
	out.Value = v
	return out, nil
}

func (b *Bucket[T]) unseal(rec store.Record) (v T, expires time.Time, err error) {
	if len(rec.Value) == 0 {
		return v, expires, ErrUntrusted
	}
	format := rec.Value[0]
	plain, err := b.Keys.Open(b.purpose(), sealContext(format, rec.Key), rec.Value[1:])
	if err != nil && format == b.Format && b.Layout != nil {
		if plain, err = b.Keys.Open(b.Layout.Purpose, b.Layout.Context(rec.Key), rec.Value[1:]); err == nil {
			plain = append(make([]byte, 8), plain...) // use the store's expiry
		}
	}
	switch {
	case err != nil && format != b.Format && b.Earlier != nil:
		if v, err = b.Earlier(rec.Key, rec.Value); err != nil {
			err = fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return v, expires, err
	case err != nil:
		return v, expires, ErrUntrusted
	case format != b.Format || len(plain) < 8:
		return v, expires, ErrFormat
	}
	if ms := binary.BigEndian.Uint64(plain); ms != 0 {
		expires = time.UnixMilli(int64(ms))
	}
	if err := json.Unmarshal(plain[8:], &v); err != nil {
		return v, expires, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return v, expires, nil
}

func (b *Bucket[T]) now() time.Time {
	if b.Now != nil {
		return b.Now()
	}
	return time.Now()
}
