package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// EnsureStaff makes contacts of the Caddyfile's staff that aren't yet, also of those
// who were once removed by hand. They become plain clients on the day the Caddyfile no
// longer names them; those who are disabled lose with it whatever lets them in, for good (see
// renewFormerStaff). An error that wraps secret.ErrSealed: the book was closed with a
// secret that isn't among the keys; nothing was changed.
func (b *Book) EnsureStaff(ctx context.Context) error {
	if _, err := b.closedWith(ctx); err != nil {
		return err
	}
	for _, a := range b.Staff {
		_, err := b.find(ctx, a)
		if errors.Is(err, ErrUnknown) {
			_, err = b.AddContact(ctx, a, Change{})
		}
		if err != nil && !errors.Is(err, ErrTaken) { // taken: another process was faster
			return fmt.Errorf("adding the staff of firm %s: %w", b.Firm, err)
		}
	}
	if err := b.renewFormerStaff(ctx); err != nil {
		return fmt.Errorf("ending the access of former staff of firm %s: %w", b.Firm, err)
	}
	return nil
}

const stateKey = "key"

// CheckKeys returns an error that wraps secret.ErrSealed where the book was closed with a
// secret that isn't among the keys.
func (b *Book) CheckKeys(ctx context.Context, keys *secret.Keyring) error {
	rec, err := b.get(ctx, bucketState, stateKey)
	if err == nil && !slices.Contains(keys.MACs("book", b.Firm), string(rec.Value[1:])) {
		err = b.closedByAnother()
	}
	if errors.Is(err, secret.ErrSealed) {
		return err
	}
	return nil // a book that can't be read isn't opened, either
}

func (b *Book) closedByAnother() error {
	return fmt.Errorf("the contacts of firm %s: %w; write the secret that they were sealed with behind the new one", b.Firm, secret.ErrSealed)
}

// closedWith returns which of the keys closed the book, 0 being the newest; a new book
// it marks as the newest one's. Without the mark, a book under another secret would look
// empty, since addresses are found by their MAC.
func (b *Book) closedWith(ctx context.Context) (int, error) {
	marks := b.Keys.MACs("book", b.Firm)
	rec, err := b.get(ctx, bucketState, stateKey)
	if errors.Is(err, ErrUnknown) {
		k := b.key(bucketState, stateKey)
		err = b.Store.Apply(ctx, store.Create(k, append([]byte{format}, marks[0]...), time.Time{}))
		if err == nil || !errors.Is(err, store.ErrConflict) {
			return 0, err
		}
		rec, err = b.get(ctx, bucketState, stateKey)
	}
	if err != nil {
		return 0, err
	}
	i := slices.Index(marks, string(rec.Value[1:]))
	if i < 0 {
		return 0, b.closedByAnother()
	}
	return i, nil
}

// Reseal closes with the newest key what an older one has closed, after which the older
// secret may go. It does nothing where there is nothing to do, and goes on where it was
// interrupted: what is in the book can be used all the time.
func (b *Book) Reseal(ctx context.Context) error {
	if i, err := b.closedWith(ctx); err != nil || i == 0 {
		return err
	}
	for _, part := range []struct {
		bucket string
		ops    func(store.Record) ([]store.Op, error)
	}{{bucketContact, b.resealContact}, {bucketCompany, b.resealCompany}, {bucketRemoved, b.resealTombstone},
		{bucketFileRows, b.resealFileRows}, {bucketLoad, b.resealLoad}} {
		if err := b.resealBucket(ctx, part.bucket, part.ops); err != nil {
			return fmt.Errorf("sealing the contacts of firm %s with the new secret: %w", b.Firm, err)
		}
	}
	if _, err := b.upgrades().Reseal(ctx); err != nil {
		return err
	}
	mark := append([]byte{format}, b.Keys.MAC("book", b.Firm)...)
	return b.Store.Apply(ctx, store.Put(b.key(bucketState, stateKey), mark, time.Time{}))
}

func (b *Book) resealBucket(ctx context.Context, bucket string, ops func(store.Record) ([]store.Op, error)) error {
	for after := ""; ; {
		last := after
		err := b.change(ctx, func() (all []store.Op, err error) {
			recs, err := b.Store.Scan(ctx, b.Firm, bucket, "", after, pageSize)
			if err != nil {
				return nil, err
			}
			for _, rec := range recs {
				some, err := ops(rec)
				if err != nil {
					return nil, err
				}
				all, last = append(all, some...), rec.Key.ID
			}
			return all, nil
		})
		if err != nil || last == after {
			return err
		}
		after = last
	}
}

func (b *Book) resealContact(rec store.Record) ([]store.Op, error) {
	e, err := b.openContact(rec)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{store.Put(rec.Key, b.sealContact(&e), time.Time{})}
	for _, a := range e.Emails {
		macs := b.emailMACs(a)
		ops = append(ops, store.Put(b.key(bucketEmail, macs[0]), append([]byte{format}, e.ID...), time.Time{}))
		for _, old := range macs[1:] {
			ops = append(ops, store.Delete(b.key(bucketEmail, old)))
		}
	}
	return ops, nil
}

func (b *Book) resealCompany(rec store.Record) ([]store.Op, error) {
	c, err := b.openCompany(rec)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{store.Put(rec.Key, b.sealCompany(c), time.Time{})}
	for _, token := range c.LegacyTokens {
		ops = append(ops, b.putToken(token, c.ID))
		for _, old := range b.tokenMACs(token)[1:] {
			ops = append(ops, store.Delete(b.key(bucketLegacy, old)))
		}
	}
	return ops, nil
}

func (b *Book) resealTombstone(rec store.Record) ([]store.Op, error) {
	var t tombstone
	if err := b.open(rec, &t); err != nil {
		return nil, err
	}
	id := rec.Key.ID
	var ops []store.Op
	if strings.HasPrefix(id, removedEmail) {
		if id = removedEmail + b.emailMACs(address.Address(t.What))[0]; id != rec.Key.ID {
			ops = append(ops, store.Delete(rec.Key))
		}
	}
	return append(ops, store.Put(b.key(bucketRemoved, id), b.seal(bucketRemoved, id, t), time.Time{})), nil
}
