package directory

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// tombstone is what stays of what was removed by hand, so that no file brings it back.
type tombstone struct {
	What string    `json:"w"` // the address, or the name of the company
	At   time.Time `json:"a"`

	// Of a company: what RestoreCompany needs.
	Tokens   []string `json:"t,omitempty"`
	Members  []string `json:"m,omitempty"` // ids of contacts
	Upgraded bool     `json:"u,omitempty"`
}

// The prefixes of tombstones.
const (
	removedEmail   = "email/"   // + MAC of the address
	removedCompany = "company/" // + id
)

const stateGeneration = "generation"

// change makes the changes that f finds right, all or none, and f anew whenever
// somebody else's change came first. No changes are none.
func (b *Book) change(ctx context.Context, f func() ([]store.Op, error)) error {
	errNothing := errors.New("nothing to do")
	tried := false
	var last []store.Op
	err := store.Swap(ctx, b.Store, b.key(bucketState, stateGeneration), func(was []byte) ([]byte, time.Time, []store.Op, error) {
		ops, err := f()
		if err == nil && len(ops) == 0 {
			err = errNothing
		}
		if err == nil {
			ops, err = b.stampUpgrades(ctx, ops)
		}
		tried, last = tried || err == nil, ops
		return nextGeneration(was), time.Time{}, b.markTokens(ops), err
	})
	if tried {
		// Also after an error: the engine may have made the change and failed to say so.
		b.counter().Add(1)
		b.followTokens(ctx, last)
		if failed := b.followUpgrades(ctx); err == nil && failed != nil {
			err = fmt.Errorf("it was changed, but what has to be known of it outside of the store couldn't be noted: %w", failed)
		}
		b.Others.Changed(ctx)
	}
	if err == errNothing {
		return nil
	}
	return err
}

// generation returns the record that every change counts up; nil before the first.
func (b *Book) generation(ctx context.Context) ([]byte, error) {
	rec, err := b.get(ctx, bucketState, stateGeneration)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	return rec.Value, err
}

// nextGeneration returns a value that no earlier one equals.
func nextGeneration(was []byte) []byte {
	var n uint64
	if len(was) == 9 {
		n = binary.BigEndian.Uint64(was[1:])
	}
	return binary.BigEndian.AppendUint64([]byte{format}, n+1)
}

// contactOps are the records of a contact and of its addresses; before is nil for a new
// contact, after for one to remove. Addresses that others claims get their records from
// the contact that they pass to, in the same Apply. A contact who loses an address or the
// permission to sign in gets another generation.
func (b *Book) contactOps(before, after *entry, claims map[address.Address]bool) (ops []store.Op) {
	if before != nil && after != nil && loses(before, after) {
		after.Generation = newGeneration()
	}
	var had, has []address.Address
	switch {
	case after == nil:
		had = before.Emails
		ops = append(ops, store.Delete(b.key(bucketContact, before.ID)))
	default:
		has = after.Emails
		ops = append(ops, store.Put(b.key(bucketContact, after.ID), b.sealContact(after), time.Time{}))
		if before != nil {
			had = before.Emails
		}
	}
	for _, a := range lacking(had, has) {
		for i, mac := range b.emailMACs(a) {
			if i > 0 || !claims[a] {
				ops = append(ops, store.Delete(b.key(bucketEmail, mac)))
			}
		}
	}
	for _, a := range lacking(has, had) {
		ops = append(ops, store.Put(b.key(bucketEmail, b.emailMACs(a)[0]), append([]byte{format}, after.ID...), time.Time{}))
	}
	return ops
}

// companyNames finds companies by what people write.
type companyNames struct {
	ids   map[string]bool
	names map[string][]string // key of a name → ids
	gone  map[string]bool     // ids and keys of names of what was removed by hand

	display   map[string]string // id → name as it is written
	suggested int               // how often similar was asked for
}

func (b *Book) companyNames(ctx context.Context) (*companyNames, error) {
	n := &companyNames{ids: map[string]bool{}, names: map[string][]string{}, gone: map[string]bool{}, display: map[string]string{}}
	err := b.eachCompany(ctx, "", func(c Company) bool {
		n.ids[c.ID], n.display[c.ID] = true, c.Name
		n.names[nameKey(c.Name)] = append(n.names[nameKey(c.Name)], c.ID)
		return true
	})
	if err != nil {
		return n, err
	}
	return n, b.scan(ctx, bucketRemoved, removedCompany, "", func(rec store.Record) (bool, error) {
		var t tombstone
		err := b.open(rec, &t)
		n.gone[strings.TrimPrefix(rec.Key.ID, removedCompany)] = true
		n.gone[nameKey(t.What)] = true
		return true, err
	})
}

// resolve returns the ids of companies that are written as id or as unique name; an id
// wins over another's name. gone are those that were removed by hand.
func (n *companyNames) resolve(written []string) (ids, gone []string, err error) {
	ids = make([]string, 0, len(written))
	for _, w := range written {
		key := nameKey(w) // the key of an id is the id
		switch named := n.names[key]; {
		case n.ids[key]:
			ids = append(ids, key)
		case len(named) == 1:
			ids = append(ids, named[0])
		case len(named) > 1:
			return nil, nil, fmt.Errorf("%q is the name of %s; write the id", w, strings.Join(named, " and "))
		case n.gone[key]:
			gone = append(gone, w)
		default:
			return nil, nil, n.unknown(w)
		}
	}
	return ids, gone, nil
}
