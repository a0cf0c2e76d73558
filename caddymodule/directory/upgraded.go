package directory

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// Which companies' old links ask for sign-in is kept twice: in the companies' records, and
// in the anchor outside the store. The anchor only ever adds to what the records say. A
// mark in the store counts the changes, so that each process knows whose word is newer:
// where the anchor's is, the store has lost something.

// staysUpgraded reports whether the company's old links ask for sign-in whatever the store
// says.
func (b *Book) staysUpgraded(id string) bool {
	return b.Upgraded.Has(id) || b.Anchor.Closed().Has(id)
}

// asksSignIn reports whether the company has old links, and these ask for sign-in.
func (c *Company) asksSignIn() bool { return c != nil && c.Upgraded && len(c.LegacyTokens) > 0 }

const stateUpgrades = "upgrades" // counts the changes of what asks for sign-in

// upgradesChange stands among Ops for one that counts such a change; see stampUpgrades.
func (b *Book) upgradesChange() store.Op {
	return store.Put(b.key(bucketState, stateUpgrades), nil, time.Time{})
}

// stampUpgrades gives the ops the mark that comes after every earlier one, where a change is
// among them. It is for ops of a change of the book, one of which comes after the other.
func (b *Book) stampUpgrades(ctx context.Context, ops []store.Op) ([]store.Op, error) {
	k := b.key(bucketState, stateUpgrades)
	n := len(ops)
	ops = slices.DeleteFunc(ops, func(op store.Op) bool { return op.Key == k })
	if len(ops) == n {
		return ops, nil
	}
	mark, err := b.upgradesMark(ctx)
	if err != nil {
		return nil, err
	}
	next := max(mark, b.Anchor.Closed().Mark) + 1
	return append(ops, store.Put(k, binary.BigEndian.AppendUint64([]byte{format}, next), time.Time{})), nil
}

// upgradesMark returns the store's mark, 0 before the first change.
func (b *Book) upgradesMark(ctx context.Context) (uint64, error) {
	rec, err := b.get(ctx, bucketState, stateUpgrades)
	if errors.Is(err, ErrUnknown) || err == nil && len(rec.Value) != 9 {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(rec.Value[1:]), nil
}

// EnsureUpgrades begins to count for a book that was begun without, and brings the anchor
// up to the store.
func (b *Book) EnsureUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	mark, err := b.upgradesMark(ctx)
	if err == nil && mark == 0 {
		err = b.change(ctx, func() ([]store.Op, error) { return []store.Op{b.upgradesChange()}, nil })
	}
	if err != nil {
		return err
	}
	return b.followUpgrades(ctx)
}

// followUpgrades brings the anchor up to the store, where the store's mark is newer.
func (b *Book) followUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	mark, err := b.upgradesMark(ctx) // before the reads: a change during them is seen next time
	was := b.Anchor.Closed()
	if err != nil || mark <= was.Mark {
		return err
	}
	now := anchor.Closed{Mark: mark}
	if now.All, err = b.marked(ctx, stateUpgraded); err != nil {
		return err
	}
	known := map[string]bool{} // whether it asks for sign-in, or was removed by hand and so has no old links
	err = b.scan(ctx, bucketRemoved, removedCompany, "", func(rec store.Record) (bool, error) {
		known[strings.TrimPrefix(rec.Key.ID, removedCompany)] = false
		return true, nil
	})
	if err == nil {
		err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
			c, err := b.storedCompany(rec)
			known[c.ID] = c.Upgraded
			if (!c.Upgraded && now.All) || (c.asksSignIn() && !now.All) {
				now.IDs = append(now.IDs, c.ID)
			}
			return true, err
		})
	}
	if err != nil {
		return err
	}
	if !now.All && !was.All {
		for _, id := range was.IDs { // what isn't there may come back, by a file
			if asks, there := known[id]; !there || asks {
				now.IDs = append(now.IDs, id)
			}
		}
	}
	slices.Sort(now.IDs)
	now.IDs = slices.Compact(now.IDs)
	if err := b.Anchor.Note(now); err != nil {
		return err
	}
	b.counter().Add(1)
	return nil
}

// KeepUpgraded has the store say of old links what the anchor says, after an older store or
// an empty one has taken the place of the right one. It returns the companies whose old
// links would open otherwise.
func (b *Book) KeepUpgraded(ctx context.Context) (kept []string, err error) {
	stays := *b.Anchor.Closed()
	err = b.change(ctx, func() (ops []store.Op, err error) {
		kept = nil
		err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
			c, err := b.storedCompany(rec)
			if err == nil && !c.Upgraded && stays.Has(c.ID) {
				c.Upgraded, c.Era = true, newEra()
				kept = append(kept, c.ID)
				ops = append(ops, store.Put(rec.Key, b.sealCompany(c), time.Time{}))
			}
			return true, err
		})
		if stays.All {
			ops = append(ops, b.mark(stateUpgraded))
		}
		return append(ops, b.upgradesChange()), err
	})
	return kept, err
}

// OpenDespite returns the companies whose old links the store opens although they ask for
// sign-in by what is given.
func (b *Book) OpenDespite(ctx context.Context, closed anchor.Closed) (ids []string, err error) {
	err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := b.storedCompany(rec)
		if err == nil && !c.Upgraded && closed.Has(c.ID) {
			ids = append(ids, c.ID)
		}
		return true, err
	})
	return ids, err
}

// checkUndo refuses to open old links which ask for sign-in because the Caddyfile says so.
func (b *Book) checkUndo(u Upgrade, wanted map[string]bool) error {
	if !u.Undo {
		return nil
	}
	if u.All && b.Upgraded.Any() {
		return &FieldError{Field: "all", Reason: "the Caddyfile has companies under upgraded, which has the last word", Err: ErrCaddyfile}
	}
	for id := range wanted {
		if b.Upgraded.Has(id) {
			return &FieldError{Field: "companies", Reason: id + " is under upgraded in the Caddyfile, which has the last word", Err: ErrCaddyfile}
		}
	}
	return nil
}
