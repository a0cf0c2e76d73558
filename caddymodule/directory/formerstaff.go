package directory

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// stateLifted is the record of contacts who are disabled, and whom only the Caddyfile's staff
// line lets in: their IDs, a line each.
const stateLifted = "lifted"

// renewFormerStaff gives another generation to those contacts whom the staff line let in at an
// earlier start, and who are disabled without it: taking them out of the Caddyfile is no change
// in the store, so nothing else would end their sessions and links. Both are one step with
// the record that names the contacts of the line now.
func (b *Book) renewFormerStaff(ctx context.Context) error {
	return b.change(ctx, func() ([]store.Op, error) {
		was, err := b.lifted(ctx)
		if err != nil {
			return nil, err
		}
		var now []string
		for _, a := range b.Staff {
			e, err := b.find(ctx, a)
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
		k := b.key(bucketState, stateLifted)
		ops := []store.Op{store.Put(k, append([]byte{format}, strings.Join(now, "\n")...), time.Time{})}
		for _, id := range was {
			if slices.Contains(now, id) {
				continue
			}
			e, err := b.contact(ctx, id)
			if errors.Is(err, ErrUnknown) || err == nil && !e.Disabled {
				continue // removed, which ends everything, or enabled meanwhile
			} else if err != nil {
				return nil, err
			}
			e.Generation = newGeneration()
			ops = append(ops, store.Put(b.key(bucketContact, id), b.sealContact(&e), time.Time{}), b.endAccess(id))
		}
		return ops, nil
	})
}

// lifted returns the IDs of stateLifted, sorted.
func (b *Book) lifted(ctx context.Context) ([]string, error) {
	rec, err := b.get(ctx, bucketState, stateLifted)
	if errors.Is(err, ErrUnknown) || err == nil && len(rec.Value) == 1 {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return strings.Split(string(rec.Value[1:]), "\n"), nil
}
