package directory

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
	"github.com/doorpost-auth/doorpost/caddymodule/store/sealed"
)

// Which companies' old links ask for sign-in is kept three times: in the companies' records,
// in one sealed record that has all of them, and in the anchor outside the store. The sealed
// record is written with each change, and counts the changes, so that the anchor knows whose
// word is newer. The anchor follows that record only, never the companies' records: whoever
// can write to the store may put an older one of these back, and then the anchor's word and
// the sealed record's are what keeps the company closed.

// staysUpgraded reports whether the company's old links ask for sign-in whatever the store
// says.
func (b *Book) staysUpgraded(id string) bool {
	return b.Upgraded.Has(id) || b.Anchor.Closed().Has(id)
}

// asksSignIn reports whether the company has old links, and these ask for sign-in.
func (c *Company) asksSignIn() bool { return c != nil && c.Upgraded && len(c.LegacyTokens) > 0 }

// theUpgrades is the ID of the one record of its bucket.
const theUpgrades = "companies"

// Records of earlier releases, in bucketState, which nothing sealed.
const (
	stateUpgrades = "upgrades" // counted the changes
	stateUpgraded = "upgraded" // stood for an upgrade of all
)

func (b *Book) upgrades() *sealed.Bucket[anchor.Closed] {
	return &sealed.Bucket[anchor.Closed]{Store: b.Store, Keys: b.Keys, Firm: b.Firm, Name: bucketUpgrades, Format: format, Now: b.Now, Alarm: b.Alarm}
}

// Changes of the sealed record, as they stand among the Ops of a change; see stampUpgrades.
const (
	closesID  = "close/"   // + id of the company
	opensID   = "open/"    // + id of the company
	closesAll = "all"      // every company but those that are opened behind it
	opensAll  = "none"     // no company but those that are closed behind it
	restates  = "restates" // no change: what holds is written again
)

func (b *Book) upgradesChange(what string) store.Op {
	return store.Put(b.key(bucketUpgrades, what), nil, time.Time{})
}

// stampUpgrades puts into the ops, for the changes of the sealed record that are among them,
// the Op that writes it. It is for ops of a change of the book, one of which comes after the
// other.
func (b *Book) stampUpgrades(ctx context.Context, ops []store.Op) ([]store.Op, error) {
	var changes []string
	ops = slices.DeleteFunc(ops, func(op store.Op) bool {
		is := op.Key.Bucket == bucketUpgrades
		if is {
			changes = append(changes, op.Key.ID)
		}
		return is
	})
	if len(changes) == 0 {
		return ops, nil
	}
	now, sound, err := b.upgradesNow(ctx)
	if err != nil {
		return nil, err
	}
	next := changed(now, changes)
	if sound && next.All == now.All && slices.Equal(next.IDs, now.IDs) {
		return ops, nil
	}
	next.Mark, next.Sealed, next.Beside = now.Mark+1, true, false
	op, err := b.upgrades().Put(theUpgrades, next, time.Time{})
	return append(ops, op, store.Delete(b.key(bucketState, stateUpgrades)), store.Delete(b.key(bucketState, stateUpgraded))), err
}

// changed returns what the changes make of it.
func changed(c anchor.Closed, changes []string) anchor.Closed {
	ids := make(map[string]bool, len(c.IDs)+len(changes))
	for _, id := range c.IDs {
		ids[id] = true
	}
	for _, change := range changes {
		if id, is := strings.CutPrefix(change, closesID); is {
			ids[id] = !c.All
		} else if id, is := strings.CutPrefix(change, opensID); is {
			ids[id] = c.All
		} else if change != restates {
			c.All = change == closesAll
			clear(ids)
		}
	}
	c.IDs = nil
	for id, is := range ids {
		if is {
			c.IDs = append(c.IDs, id)
		}
	}
	slices.Sort(c.IDs)
	return c
}

// upgradesNow returns which companies' old links ask for sign-in, and whether the store's
// record says just that. Where the store's record is missing or can't be trusted, or is older
// than the anchor, the anchor's word holds. Of two that have counted apart, both hold.
func (b *Book) upgradesNow(ctx context.Context) (now anchor.Closed, sound bool, err error) {
	noted := *b.Anchor.Closed()
	rec, err := b.upgrades().Get(ctx, theUpgrades)
	switch {
	case err == nil && !noted.Beside && rec.Value.Mark > noted.Mark:
		return rec.Value, true, nil
	case err == nil && !noted.Beside && rec.Value.Mark < noted.Mark:
		return noted, false, nil
	case err == nil:
		both := joined(rec.Value, noted)
		return both, both.All == rec.Value.All && slices.Equal(both.IDs, rec.Value.IDs), nil
	case !errors.Is(err, store.ErrNotFound) && !errors.Is(err, sealed.ErrUntrusted):
		return noted, false, err
	case noted.Sealed:
		return noted, false, nil
	}
	now, err = b.earlierUpgrades(ctx, noted)
	return now, false, err
}

// joined returns what asks for sign-in by either.
func joined(a, b anchor.Closed) anchor.Closed {
	switch {
	case a.All && b.All:
		a.IDs = slices.DeleteFunc(slices.Clone(a.IDs), b.Has)
	case a.All:
		a.IDs = slices.DeleteFunc(slices.Clone(a.IDs), b.Has)
	case b.All:
		a.All, a.IDs = true, slices.DeleteFunc(slices.Clone(b.IDs), a.Has)
	default:
		a.IDs = slices.Concat(a.IDs, b.IDs)
		slices.Sort(a.IDs)
		a.IDs = slices.Compact(a.IDs)
	}
	a.Mark = max(a.Mark, b.Mark)
	return a
}

// earlierUpgrades returns what the companies' records say, together with what was noted: an
// earlier release has left no sealed record. It opens nothing that was noted.
func (b *Book) earlierUpgrades(ctx context.Context, noted anchor.Closed) (anchor.Closed, error) {
	var now anchor.Closed
	rec, err := b.get(ctx, bucketState, stateUpgrades)
	if err == nil && len(rec.Value) == 9 {
		now.Mark = min(binary.BigEndian.Uint64(rec.Value[1:]), math.MaxUint32) // anybody may have written it
	} else if err != nil && !errors.Is(err, ErrUnknown) {
		return now, err
	}
	if now.All, err = b.marked(ctx, stateUpgraded); err != nil {
		return now, err
	}
	err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := b.storedCompany(rec)
		if (now.All && !c.Upgraded) || (!now.All && c.asksSignIn()) {
			now.IDs = append(now.IDs, c.ID)
		}
		return true, err
	})
	slices.Sort(now.IDs)
	return joined(now, noted), err
}

// EnsureUpgrades writes the sealed record where the store has none, or not the right one, and
// brings the anchor up to it.
func (b *Book) EnsureUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	k := b.key(bucketUpgrades, theUpgrades)
	raw, err := b.Store.Get(ctx, k)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	seen := b.seenUpgrades.Load()
	if seen != nil && err == nil && *seen == string(raw.Value) && !b.Anchor.Closed().Beside {
		return nil
	}
	_, sound, err := b.upgradesNow(ctx)
	if err == nil && !sound {
		if noted := b.Anchor.Closed(); noted.Sealed && !noted.Beside && b.Alarm != nil {
			b.Alarm(ctx, k) // also where it is gone, or an older one was put back
		}
		err = b.change(ctx, func() ([]store.Op, error) { return []store.Op{b.upgradesChange(restates)}, nil })
	}
	if err == nil {
		err = b.followUpgrades(ctx)
	}
	if err == nil && sound {
		b.seenUpgrades.Store(new(string(raw.Value)))
	}
	return err
}

// followUpgrades brings the anchor up to the store, where the sealed record is newer.
func (b *Book) followUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	rec, err := b.upgrades().Get(ctx, theUpgrades)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted):
		return nil // the anchor's word holds
	case err != nil:
		return err
	case b.Anchor.Closed().Beside:
		if both := joined(rec.Value, *b.Anchor.Closed()); both.All != rec.Value.All || !slices.Equal(both.IDs, rec.Value.IDs) {
			return nil // until EnsureUpgrades has written both
		}
	case rec.Value.Mark <= b.Anchor.Closed().Mark:
		return nil
	}
	if err := b.Anchor.Note(rec.Value); err != nil {
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
		rec, err := b.upgrades().Get(ctx, theUpgrades) // none, or none of ours, closes nothing
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, sealed.ErrUntrusted) {
			return nil, err
		}
		said, err := b.earlierUpgrades(ctx, joined(rec.Value, stays))
		if err != nil {
			return nil, err
		}
		err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
			c, err := b.storedCompany(rec)
			if err == nil && !c.Upgraded && said.Has(c.ID) {
				c.Upgraded, c.Era = true, newEra()
				kept = append(kept, c.ID)
				ops = append(ops, store.Put(rec.Key, b.sealCompany(c), time.Time{}))
			}
			return true, err
		})
		return append(ops, b.upgradesAre(said)...), err
	})
	return kept, err
}

// upgradesAre stand among Ops for one that writes the sealed record.
func (b *Book) upgradesAre(c anchor.Closed) []store.Op {
	kind, id := opensAll, closesID
	if c.All {
		kind, id = closesAll, opensID
	}
	ops := []store.Op{b.upgradesChange(restates), b.upgradesChange(kind)}
	for _, company := range c.IDs {
		ops = append(ops, b.upgradesChange(id+company))
	}
	return ops
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
