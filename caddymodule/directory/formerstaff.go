package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// stateDisabledStaff is the ID of a record with the IDs, one per line, of contacts who are disabled
// and may sign in only because the Caddyfile lists them as staff.
const stateDisabledStaff = "lifted"

// renewFormerStaff gives a new generation to disabled contacts who were listed as staff at an
// earlier start and no longer are. Removing them from the Caddyfile doesn't change the store, so
// nothing else would end their sessions and links. The same step updates the record of
// stateDisabledStaff.
func (b *Directory) renewFormerStaff(ctx context.Context) error {
	return b.change(ctx, func() ([]store.Op, error) {
		was, err := b.disabledStaff(ctx)
		if err != nil {
			return nil, err
		}
		var now []string
		for _, a := range b.Staff {
			e, err := b.contactByEmail(ctx, a)
			if err != nil && !errors.Is(err, ErrUnknown) {
				return nil, err
			}
			if e.Disabled {
				now = append(now, e.ID)
			}
		}
		slices.Sort(now)
		if now = slices.Compact(now); slices.Equal(was, now) {
			return nil, nil
		}
		k := b.key(bucketState, stateDisabledStaff)
		ops := []store.Op{store.Put(k, append([]byte{format}, strings.Join(now, "\n")...), time.Time{})}
		for _, id := range was {
			if slices.Contains(now, id) {
				continue
			}
			e, err := b.contactByID(ctx, id)
			if errors.Is(err, ErrUnknown) || err == nil && !e.Disabled {
				continue // removed, which revokes everything, or enabled in the meantime
			} else if err != nil {
				return nil, err
			}
			e.Generation = newGeneration()
			ops = append(ops, store.Put(b.key(bucketContact, id), b.sealContact(&e), time.Time{}), b.pendingRevocation(id))
		}
		return ops, nil
	})
}

// disabledStaff returns the IDs of stateDisabledStaff, sorted.
func (b *Directory) disabledStaff(ctx context.Context) ([]string, error) {
	rec, err := b.get(ctx, bucketState, stateDisabledStaff)
	if errors.Is(err, ErrUnknown) || err == nil && len(rec.Value) == 1 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return strings.Split(string(rec.Value[1:]), "\n"), nil
}
