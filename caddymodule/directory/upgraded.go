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

// The companies whose old links ask for sign-in are recorded three times: in the companies'
// records, in one sealed record with all of them, and in the anchor outside the store. Each change
// also writes the sealed record, which counts the changes, so that the newer of sealed record and
// anchor can be told. The anchor follows only the sealed record, never the companies' records: an
// attacker who can write to the store may put back an older record of a company; the anchor and the
// sealed record then keep the company's old links closed.

// staysUpgraded reports whether the company's old links ask for sign-in regardless of the store.
func (b *Directory) staysUpgraded(id string) bool {
	return b.Upgraded.Has(id) || b.Anchor.Closed().Has(id)
}

// asksSignIn reports whether the company has old links that ask for sign-in.
func (c *Company) asksSignIn() bool { return c != nil && c.Upgraded && len(c.LegacyTokens) > 0 }

// upgradesID is the ID of the only record in its bucket.
const upgradesID = "companies"

// Records of earlier releases in bucketState, which weren't sealed.
const (
	stateUpgrades = "upgrades" // counted the changes
	stateUpgraded = "upgraded" // existed after an upgrade of all companies
)

func (b *Directory) upgrades() *sealed.Bucket[anchor.Closed] {
	return &sealed.Bucket[anchor.Closed]{Store: b.Store, Keys: b.Keys, Firm: b.Firm, Name: bucketUpgrades, Format: format, Now: b.Now, OnUntrusted: b.OnUntrusted}
}

// Changes of the sealed record, as the IDs of placeholder Ops among the Ops of a change; see
// stampUpgrades.
const (
	changeClose    = "close/"   // + id of the company
	changeOpen     = "open/"    // + id of the company
	changeCloseAll = "all"      // every company except those opened by later changes
	changeOpenAll  = "none"     // no company except those closed by later changes
	changeRewrite  = "restates" // no change: write the current state again
)

func (b *Directory) upgradesChange(what string) store.Op {
	return store.Put(b.key(bucketUpgrades, what), nil, time.Time{})
}

// stampUpgrades replaces the placeholder Ops in ops by the Op that writes the sealed record. It
// must run within a change of the directory, so that such changes are sequential.
func (b *Directory) stampUpgrades(ctx context.Context, ops []store.Op) ([]store.Op, error) {
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
	next := applyUpgradeChanges(now, changes)
	if sound && next.All == now.All && slices.Equal(next.IDs, now.IDs) {
		return ops, nil
	}
	next.Mark, next.Sealed, next.Beside = now.Mark+1, true, false
	op, err := b.upgrades().Put(upgradesID, next, time.Time{})
	return append(ops, op, store.Delete(b.key(bucketState, stateUpgrades)), store.Delete(b.key(bucketState, stateUpgraded))), err
}

// applyUpgradeChanges returns c after the changes.
func applyUpgradeChanges(c anchor.Closed, changes []string) anchor.Closed {
	ids := make(map[string]bool, len(c.IDs)+len(changes))
	for _, id := range c.IDs {
		ids[id] = true
	}
	for _, change := range changes {
		if id, is := strings.CutPrefix(change, changeClose); is {
			ids[id] = !c.All
		} else if id, is := strings.CutPrefix(change, changeOpen); is {
			ids[id] = c.All
		} else if change != changeRewrite {
			c.All = change == changeCloseAll
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

// upgradesNow returns the companies whose old links ask for sign-in, and whether the store's record
// says exactly that. If the record is missing, untrusted or older than the anchor, the anchor
// counts. If both were changed independently of each other, the union of the two counts.
func (b *Directory) upgradesNow(ctx context.Context) (now anchor.Closed, sound bool, err error) {
	noted := *b.Anchor.Closed()
	rec, err := b.upgrades().Get(ctx, upgradesID)
	switch {
	case err == nil && !noted.Beside && rec.Value.Mark > noted.Mark:
		return rec.Value, true, nil
	case err == nil && !noted.Beside && rec.Value.Mark < noted.Mark:
		return noted, false, nil
	case err == nil:
		both := mergeUpgrades(rec.Value, noted)
		return both, both.All == rec.Value.All && slices.Equal(both.IDs, rec.Value.IDs), nil
	case !errors.Is(err, store.ErrNotFound) && !errors.Is(err, sealed.ErrUntrusted):
		return noted, false, err
	case noted.Sealed:
		return noted, false, nil
	}
	now, err = b.earlierUpgrades(ctx, noted)
	return now, false, err
}

// mergeUpgrades returns the companies that a or b closes.
func mergeUpgrades(a, b anchor.Closed) anchor.Closed {
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

// earlierUpgrades returns the state in the companies' records of an earlier release, which had no
// sealed record, merged with noted. It never opens a company that noted closes.
func (b *Directory) earlierUpgrades(ctx context.Context, noted anchor.Closed) (anchor.Closed, error) {
	var now anchor.Closed
	rec, err := b.get(ctx, bucketState, stateUpgrades)
	if err == nil && len(rec.Value) == 9 {
		now.Mark = min(binary.BigEndian.Uint64(rec.Value[1:]), math.MaxUint32) // the record isn't sealed, so anybody may have written it
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
	return mergeUpgrades(now, noted), err
}

// EnsureUpgrades writes the sealed record if it is missing or wrong, and brings the anchor up to
// date with it.
func (b *Directory) EnsureUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	k := b.key(bucketUpgrades, upgradesID)
	raw, err := b.Store.Get(ctx, k)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	seen := b.verifiedUpgrades.Load()
	if seen != nil && err == nil && *seen == string(raw.Value) && !b.Anchor.Closed().Beside {
		return nil
	}
	_, sound, err := b.upgradesNow(ctx)
	if err == nil && !sound {
		if noted := b.Anchor.Closed(); noted.Sealed && !noted.Beside && b.OnUntrusted != nil {
			b.OnUntrusted(ctx, k) // also if the record is gone or an older one was put back
		}
		err = b.change(ctx, func() ([]store.Op, error) { return []store.Op{b.upgradesChange(changeRewrite)}, nil })
	}
	if err == nil {
		err = b.followUpgrades(ctx)
	}
	if err == nil && sound {
		b.verifiedUpgrades.Store(new(string(raw.Value)))
	}
	return err
}

// followUpgrades brings the anchor up to date with the sealed record if that is newer.
func (b *Directory) followUpgrades(ctx context.Context) error {
	if b.Anchor == nil {
		return nil
	}
	rec, err := b.upgrades().Get(ctx, upgradesID)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, sealed.ErrUntrusted):
		return nil // the anchor counts
	case err != nil:
		return err
	case b.Anchor.Closed().Beside:
		if both := mergeUpgrades(rec.Value, *b.Anchor.Closed()); both.All != rec.Value.All || !slices.Equal(both.IDs, rec.Value.IDs) {
			return nil // until EnsureUpgrades has written the union
		}
	case rec.Value.Mark <= b.Anchor.Closed().Mark:
		return nil
	}
	if err := b.Anchor.Note(rec.Value); err != nil {
		return err
	}
	b.versionCounter().Add(1)
	return nil
}

// RestoreUpgrades writes the anchor's state of old links into the store, after an older or empty
// store has replaced the right one. It returns the companies whose old links would have opened
// otherwise.
func (b *Directory) RestoreUpgrades(ctx context.Context) (kept []string, err error) {
	stays := *b.Anchor.Closed()
	err = b.change(ctx, func() (ops []store.Op, err error) {
		kept = nil
		rec, err := b.upgrades().Get(ctx, upgradesID) // if it is missing or untrusted, it closes nothing
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, sealed.ErrUntrusted) {
			return nil, err
		}
		said, err := b.earlierUpgrades(ctx, mergeUpgrades(rec.Value, stays))
		if err != nil {
			return nil, err
		}
		err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
			c, err := b.storedCompany(rec)
			if err == nil && !c.Upgraded && said.Has(c.ID) {
				c.Upgraded, c.Generation = true, newRandomGeneration()
				kept = append(kept, c.ID)
				ops = append(ops, store.Put(rec.Key, b.sealCompany(c), time.Time{}))
			}
			return true, err
		})
		return append(ops, b.upgradesAre(said)...), err
	})
	return kept, err
}

// upgradesAre returns the placeholder Ops that set the sealed record to c.
func (b *Directory) upgradesAre(c anchor.Closed) []store.Op {
	kind, id := changeOpenAll, changeClose
	if c.All {
		kind, id = changeCloseAll, changeOpen
	}
	ops := []store.Op{b.upgradesChange(changeRewrite), b.upgradesChange(kind)}
	for _, company := range c.IDs {
		ops = append(ops, b.upgradesChange(id+company))
	}
	return ops
}

// WronglyOpen returns the companies whose old links the store opens although closed has them.
func (b *Directory) WronglyOpen(ctx context.Context, closed anchor.Closed) (ids []string, err error) {
	err = b.scan(ctx, bucketCompany, "", "", func(rec store.Record) (bool, error) {
		c, err := b.storedCompany(rec)
		if err == nil && !c.Upgraded && closed.Has(c.ID) {
			ids = append(ids, c.ID)
		}
		return true, err
	})
	return ids, err
}

// checkUndo refuses to open old links that the Caddyfile upgrades.
func (b *Directory) checkUndo(u Upgrade, wanted map[string]bool) error {
	if !u.Undo {
		return nil
	}
	if u.All && b.Upgraded.Any() {
		return &FieldError{Field: "all", Reason: "the Caddyfile has companies under upgraded, which takes precedence", Err: ErrCaddyfile}
	}
	for id := range wanted {
		if b.Upgraded.Has(id) {
			return &FieldError{Field: "companies", Reason: id + " is under upgraded in the Caddyfile, which takes precedence", Err: ErrCaddyfile}
		}
	}
	return nil
}
