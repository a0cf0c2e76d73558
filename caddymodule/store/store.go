// Package store is the narrow waist of Doorpost: small records by key, each with
// its own expiry, in few verbs that every engine can keep whole.
//
// The packages above own their buckets and the encoding of what they put there;
// engines never look into a value. What is secret is sealed before it comes here
// (package secret), so that a copy of the store opens no door.
package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// The decisions that callers make. Engines wrap them, so compare with errors.Is.
var (
	// ErrNotFound: there is no such record, or its time is over.
	ErrNotFound = errors.New("store: no such record")
	// ErrConflict: a condition of Apply didn't hold; nothing was changed.
	ErrConflict = errors.New("store: the record is not what it was")
	// ErrUnavailable: the engine can't serve now (closed, unreachable, disk full).
	// Nobody is to be let in on it, and nobody is to be told they are signed out.
	ErrUnavailable = errors.New("store: not available")
)

// Key names a record. All records of a firm lie together (on Redis Cluster in one
// slot), and those of a bucket are kept in the byte order of their IDs. Firm and
// Bucket hold no NUL byte; an empty Firm is Doorpost's own. A Firm is up to 255 bytes,
// a Bucket 1 to 255, an ID 1 to 512.
type Key struct{ Firm, Bucket, ID string }

// Record is a value with the key it was found under. The value belongs to the caller.
type Record struct {
	Key     Key
	Value   []byte
	Expires time.Time // when it ends, to the millisecond; zero: it stays
}

// Store keeps records. All methods may be called at the same time from many
// goroutines. A record whose time is over is never returned, whether or not it has
// been swept yet. What a method has acknowledged survives the end of the process.
type Store interface {
	// Get returns the record, or ErrNotFound.
	Get(ctx context.Context, k Key) (Record, error)

	// Apply makes all the changes or none. It returns ErrConflict when a
	// condition doesn't hold. All keys must be of one firm, no key twice. After
	// ErrUnavailable the changes may have been made, all of them, or not.
	Apply(ctx context.Context, ops ...Op) error

	// Scan returns up to limit records of a bucket whose IDs begin with prefix
	// and come after the ID after, in the byte order of their IDs.
	Scan(ctx context.Context, firm, bucket, prefix, after string, limit int) ([]Record, error)

	// Close releases the engine; later calls return ErrUnavailable.
	Close() error
}

// Op is one change for Apply. Make it with Put, Create, Replace, Delete, Remove or Check.
type Op struct {
	Record
	Verb Verb
	Was  []byte // the value that Replace, Remove and Check want to find
}

// Verb is what an Op does. The zero value does nothing and is refused by Apply.
type Verb uint8

// The verbs of an Op.
const (
	VerbNone Verb = iota
	VerbPut
	VerbCreate
	VerbReplace
	VerbDelete
	VerbRemove
	VerbCheck
)

// Put writes the record, whatever was there.
func Put(k Key, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbPut}
}

// Create writes the record if there is none (an expired one counts as none).
func Create(k Key, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbCreate}
}

// Replace writes the record if its value still is was.
func Replace(k Key, was, value []byte, expires time.Time) Op {
	return Op{Record: Record{k, value, expires}, Verb: VerbReplace, Was: was}
}

// Delete removes the record, if there is one.
func Delete(k Key) Op { return Op{Record: Record{Key: k}, Verb: VerbDelete} }

// Remove removes the record if its value still is was.
func Remove(k Key, was []byte) Op { return Op{Record: Record{Key: k}, Verb: VerbRemove, Was: was} }

// Check changes nothing; the Apply fails unless the record's value still is was.
func Check(k Key, was []byte) Op { return Op{Record: Record{Key: k}, Verb: VerbCheck, Was: was} }

// Allows reports whether the Op's condition holds for what is there now.
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

// Swap is read, change, Replace, and once more from the start when somebody else was
// faster. change gets the present value (nil when there is none) and returns the new
// one, its expiry, and further Ops to apply with it; a nil value deletes the record.
// An error of change ends Swap with that error and no change; change leaves was as it is.
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
		// Those who meet at one record would meet again and again: of each round
		// one gets through. At random moments all do, in a while.
		select {
		case <-time.After(rand.N(time.Millisecond * time.Duration(1+min(try, 20)))):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
	}
	return ErrConflict
}

// Clear deletes every record of a bucket, a few at a time, and returns how many there were.
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
