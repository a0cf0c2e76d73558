// Package store is the interface to Doorpost's storage: small records by key, each with its
// own expiry, and a few operations that every engine can implement exactly.
//
// Packages that use a store own their buckets and the encoding of values; engines don't
// interpret values. Secrets are sealed before they are stored (package secret), so that a
// copy of the store lets nobody sign in.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Errors that callers handle. Engines wrap them, so compare with errors.Is.
var (
	// ErrNotFound: the record doesn't exist or has expired.
	ErrNotFound = errors.New("store: record not found")
	// ErrConflict: a condition of Apply didn't hold; nothing was changed.
	ErrConflict = errors.New("store: record has changed")
	// ErrUnavailable: the engine can't serve now (closed, unreachable, disk full). Callers
	// must neither sign anybody in nor report them as signed out.
	ErrUnavailable = errors.New("store: not available")
)

// Key identifies a record. All records of a firm are stored together (on Redis Cluster in
// one slot), and those of a bucket are ordered by the bytes of their IDs. Firm and Bucket
// contain no NUL byte; an empty Firm is for Doorpost's own records. A Firm has up to 255
// bytes, a Bucket 1 to 255, an ID 1 to 512.
type Key struct{ Firm, Bucket, ID string }

// Record is a value and its key. The value belongs to the caller.
type Record struct {
	Key     Key
	Value   []byte
	Expires time.Time // expiry, to the millisecond; zero: never
}

// Store stores records. All methods are safe for concurrent use. An expired record is never
// returned, even if it has not been deleted yet. Acknowledged changes survive the end of
// the process.
type Store interface {
	// Get returns the record, or ErrNotFound.
	Get(ctx context.Context, k Key) (Record, error)

	// Apply makes all changes or none. It returns ErrConflict if a condition doesn't hold.
	// All keys must have the same firm, and no key may occur twice. After ErrUnavailable,
	// either all changes were made or none.
	Apply(ctx context.Context, ops ...Op) error

	// Scan returns up to limit records of a bucket whose IDs begin with prefix and follow
	// the ID after, in byte order.
	Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]Record, error)

	// Close releases the engine; later calls return ErrUnavailable.
	Close() error
}

// Op is one change for Apply. Create it with Put, Create, Replace, Delete, Remove or Check.
type Op struct {
	Record
	Verb Verb
	Was  []byte // the value that Replace, Remove and Check require
}

// Verb is the kind of an Op. Apply rejects the zero value.
type Verb uint8

const (
	VerbNone Verb = iota
	VerbPut
	VerbCreate
	VerbReplace
	VerbDelete
	VerbRemove
	VerbCheck
)

// Put writes the record unconditionally.
func Put(k Key, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbPut}
}

// Create writes the record if it doesn't exist or has expired.
func Create(k Key, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbCreate}
}

// Replace writes the record if its value is was.
func Replace(k Key, was, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbReplace, Was: was}
}

// Delete deletes the record, if it exists.
func Delete(k Key) Op { return Op{Record: Record{Key: k}, Verb: VerbDelete} }

// Remove deletes the record if its value is was.
func Remove(k Key, was []byte) Op { return Op{Record: Record{Key: k}, Verb: VerbRemove, Was: was} }

// Check changes nothing; Apply fails unless the record's value is was.
func Check(k Key, was []byte) Op { return Op{Record: Record{Key: k}, Verb: VerbCheck, Was: was} }

// Allows reports whether the Op's condition holds for the current value.
func (op Op) Allows(found bool, value []byte) bool {
	switch op.Verb {
	case VerbPut, VerbDelete:
		return true
	case VerbCreate:
		return !found
	case VerbReplace, VerbRemove, VerbCheck:
		return found && bytes.Equal(value, op.Was)
	default:
		return false
	}
}

// Swap reads a record, calls change, and replaces the record; on a conflict it starts
// again. change gets the current value (nil if there is none) and returns the new one, its
// expiry, and further Ops to apply with it; a nil value deletes the record. If change
// returns an error, Swap changes nothing and returns it. change must not modify was.
func Swap(ctx context.Context, s Store, k Key, change func(was []byte) (value []byte, expires time.Time, more []Op, err error)) error {
	for try := range 64 {
		rec, err := s.Get(ctx, k)
		found := err == nil
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		value, expires, more, err := change(rec.Value)
		if err != nil {
			return err
		}
		ops := make([]Op, 0, 1+len(more))
		switch {
		case value == nil && found:
			ops = append(ops, Remove(k, rec.Value))
		case value != nil && found:
			ops = append(ops, Replace(k, rec.Value, value, expires))
		case value != nil:
			ops = append(ops, Create(k, value, expires))
		}
		if ops = append(ops, more...); len(ops) == 0 {
			return nil
		}
		if err = s.Apply(ctx, ops...); !errors.Is(err, ErrConflict) {
			return err
		}
		// Callers that conflict once would conflict again and again, and only one succeeds
		// in each round. With random delays all succeed soon.
		select {
		case <-time.After(rand.N(time.Millisecond * time.Duration(1+min(try, 20)))):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
	return ErrConflict
}

// Clear deletes all records of a bucket, in batches, and returns how many there were.
func Clear(ctx context.Context, s Store, firm, bucket string) (n int, err error) {
	for {
		recs, err := s.Scan(ctx, firm, bucket, "", "", 500)
		if err != nil || len(recs) == 0 {
			return n, err
		}
		ops := make([]Op, len(recs))
		for i, rec := range recs {
			ops[i] = Delete(rec.Key)
		}
		if err := s.Apply(ctx, ops...); err != nil {
			return n, err
		}
		n += len(recs)
	}
}
