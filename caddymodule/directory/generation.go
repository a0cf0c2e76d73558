package directory

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Renewal gives a contact another generation as soon as its Ops are applied.
type Renewal struct {
	Generation uint64
	Ops        []store.Op
}

// Renew makes the Renewal of a contact, or returns ErrUnknown. The caller applies its Ops
// together with whatever else ends the contact's access, and then calls Renewed.
// store.ErrConflict means that the book has changed meanwhile: call Renew again.
func (b *Book) Renew(ctx context.Context, id string) (Renewal, error) {
	was, err := b.generation(ctx)
	if err != nil {
		return Renewal{}, err
	}
	e, err := b.contact(ctx, id)
	if err != nil {
		return Renewal{}, err
	}
	e.Generation = newGeneration()
	k := b.key(bucketState, stateGeneration)
	count := store.Create(k, nextGeneration(nil), time.Time{})
	if was != nil {
		count = store.Replace(k, was, nextGeneration(was), time.Time{})
	}
	return Renewal{e.Generation, []store.Op{count, store.Put(b.key(bucketContact, id), b.sealContact(&e), time.Time{})}}, nil
}

// Renewed tells the Book what came of applying the Ops of a Renewal: nil, or the store's
// error. Until then, what this process holds in memory goes by the contact as it was.
func (b *Book) Renewed(ctx context.Context, err error) {
	if errors.Is(err, store.ErrConflict) {
		return
	}
	b.counter().Add(1) // also after an error: the engine may have made the change and failed to say so
	b.Others.Changed(ctx)
}

// newGeneration returns a number that no contact has as their Generation: a random one, so
// that it isn't had again when the store is restored from a backup.
func newGeneration() uint64 { return newEra() }

// loses reports whether a change takes an address or the permission to sign in from a contact.
func loses(before, after *entry) bool {
	return after.Disabled && !before.Disabled || len(lacking(before.Emails, after.Emails)) > 0
}
