package directory

import (
	"context"
	"errors"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Renewal gives a contact a new generation once its Ops are applied.
type Renewal struct {
	Generation uint64
	Ops        []store.Op
}

// Renew prepares the Renewal of a contact, or returns ErrUnknown. The caller applies its Ops
// together with the other changes that revoke the contact's access, and then calls Renewed. If
// Apply returns store.ErrConflict, the directory was changed in between: call Renew again.
func (b *Directory) Renew(ctx context.Context, id string) (Renewal, error) {
	was, err := b.generation(ctx)
	if err != nil {
		return Renewal{}, err
	}
	e, err := b.contactByID(ctx, id)
	if err != nil {
		return Renewal{}, err
	}
	e.Generation = newGeneration()
	k := b.key(bucketState, stateGeneration)
	next := nextGeneration(was)
	count := store.Create(k, next, time.Time{})
	if was != nil {
		count = store.Replace(k, was, next, time.Time{})
	}
	ops := b.logChange(next, []store.Op{count, store.Put(b.key(bucketContact, id), b.sealContact(&e), time.Time{})})
	return Renewal{e.Generation, ops}, nil
}

// Renewed must be called after the Ops of a Renewal were applied, with the result of Apply: nil or
// the store's error. Until then, cached data of this process describes the contact before the
// change.
func (b *Directory) Renewed(ctx context.Context, err error) {
	if errors.Is(err, store.ErrConflict) {
		return
	}
	b.versionCounter().Add(1) // also after an error: the store may have made the change and failed to report it
	b.Peers.NotifyPeers(ctx)
}

// newGeneration returns a value that no contact has as their Generation. It is random, so that no
// value returns after the store is restored from a backup.
func newGeneration() uint64 { return newRandomGeneration() }

// needsNewGeneration reports whether a change disables a contact or removes one of its addresses.
func needsNewGeneration(before, after *storedContact) bool {
	return after.Disabled && !before.Disabled || len(subtract(before.Emails, after.Emails)) > 0
}
