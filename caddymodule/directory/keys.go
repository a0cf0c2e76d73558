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

// EnsureStaff adds the Caddyfile's staff that aren't contacts yet, including those that were
// removed manually. When the Caddyfile no longer names them, they become plain clients; those who
// are disabled lose all access at that time (see renewFormerStaff). An error that wraps
// secret.ErrSealed means that the directory is sealed with a secret that isn't among the keys;
// nothing was changed.
func (b *Directory) EnsureStaff(ctx context.Context) error {
	if _, err := b.sealingKey(ctx); err != nil {
		return err
	}
	for _, a := range b.Staff {
		_, err := b.contactByEmail(ctx, a)
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

// CheckKeys returns an error that wraps secret.ErrSealed if the directory is sealed with a secret
// that isn't among the keys.
func (b *Directory) CheckKeys(ctx context.Context, keys *secret.Keyring) error {
	rec, err := b.get(ctx, bucketState, stateKey)
	if err == nil && !slices.Contains(keys.MACs("book", b.Firm), string(rec.Value[1:])) {
		err = b.wrongSecretError()
	}
	if errors.Is(err, secret.ErrSealed) {
		return err
	}
	return nil // if the directory can't be read, nothing is opened with the wrong key either
}

func (b *Directory) wrongSecretError() error {
	return fmt.Errorf("the contacts of firm %s: %w; write the secret that they were sealed with behind the new one", b.Firm, secret.ErrSealed)
}

// sealingKey returns the index of the key that sealed the directory; 0 is the newest. It marks a
// new directory as sealed with the newest. Without that mark, a directory under another secret
// would look empty, because addresses are found by their MAC.
func (b *Directory) sealingKey(ctx context.Context) (int, error) {
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
		return 0, b.wrongSecretError()
	}
	return i, nil
}

// Reseal seals with the newest key all records that an older key sealed; after that, the older
// secret may be removed. It does nothing if nothing is left to do, and resumes after an
// interruption. The directory can be used at all times.
func (b *Directory) Reseal(ctx context.Context) error {
	if i, err := b.sealingKey(ctx); err != nil || i == 0 {
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

func (b *Directory) resealBucket(ctx context.Context, bucket string, ops func(store.Record) ([]store.Op, error)) error {
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

func (b *Directory) resealContact(rec store.Record) ([]store.Op, error) {
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

func (b *Directory) resealCompany(rec store.Record) ([]store.Op, error) {
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

func (b *Directory) resealTombstone(rec store.Record) ([]store.Op, error) {
	var t tombstone
	if err := b.open(rec, &t); err != nil {
		return nil, err
	}
	id := rec.Key.ID
	var ops []store.Op
	if strings.HasPrefix(id, removedEmail) {
		if id = removedEmail + b.emailMACs(address.Address(t.Name))[0]; id != rec.Key.ID {
			ops = append(ops, store.Delete(rec.Key))
		}
	}
	return append(ops, store.Put(b.key(bucketRemoved, id), b.seal(bucketRemoved, id, t), time.Time{})), nil
}
