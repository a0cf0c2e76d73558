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

// tombstone records a manual removal, so that no file adds the address or company again.
type tombstone struct {
	Name string    `json:"w"` // address, or name of the company
	At   time.Time `json:"a"`

	// Only of a company; used by RestoreCompany.
	Tokens   []string `json:"t,omitempty"`
	Members  []string `json:"m,omitempty"` // ids of contacts
	Upgraded bool     `json:"u,omitempty"`
	AddedAs  uint64   `json:"n,omitempty"`
}

// Prefixes of the ids of tombstones.
const (
	removedEmail   = "email/"   // + MAC of the address
	removedCompany = "company/" // + id
)

const stateGeneration = "generation"

// change applies the Ops that f returns, all or none. It calls f again whenever another change came
// first. If f returns no Ops, nothing is written.
func (b *Directory) change(ctx context.Context, f func() ([]store.Op, error)) error {
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
		next := nextGeneration(was)
		if err == nil {
			ops = b.logChange(next, b.markTokens(ops))
		}
		return next, time.Time{}, ops, err
	})
	if tried {
		// Also after an error: the store may have made the change and failed to report it.
		b.versionCounter().Add(1)
		b.followTokens(ctx, last)
		b.followSearch(ctx, last)
		if failed := b.followUpgrades(ctx); err == nil && failed != nil {
			err = fmt.Errorf("the change was made, but could not be noted in the anchor outside the store: %w", failed)
		}
		b.Peers.NotifyPeers(ctx)
	}
	if err == errNothing {
		return nil
	}
	return err
}

// generation returns the counter record that every change increments; nil before the first change.
func (b *Directory) generation(ctx context.Context) ([]byte, error) {
	rec, err := b.get(ctx, bucketState, stateGeneration)
	if errors.Is(err, ErrUnknown) {
		return nil, nil
	}
	return rec.Value, err
}

// nextGeneration returns a value that differs from all earlier ones.
func nextGeneration(was []byte) []byte {
	var n uint64
	if len(was) == 9 {
		n = binary.BigEndian.Uint64(was[1:])
	}
	return binary.BigEndian.AppendUint64([]byte{format}, n+1)
}

// contactOps returns the Ops for the records of a contact and of its addresses. before is nil for a
// new contact, after is nil for a removal. An address in claims passes to another contact, whose
// own Ops in the same Apply write its record. A contact who loses an address or is disabled gets a
// new generation.
func (b *Directory) contactOps(before, after *storedContact, claims map[address.Address]bool) (ops []store.Op) {
	if before != nil && after != nil && needsNewGeneration(before, after) {
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
	for _, a := range subtract(had, has) {
		for i, mac := range b.emailMACs(a) {
			if i > 0 || !claims[a] {
				ops = append(ops, store.Delete(b.key(bucketEmail, mac)))
			}
		}
	}
	for _, a := range subtract(has, had) {
		ops = append(ops, store.Put(b.key(bucketEmail, b.emailMACs(a)[0]), append([]byte{format}, after.ID...), time.Time{}))
	}
	return ops
}

// companyNames finds companies by the id or name in a file or command.
type companyNames struct {
	ids   map[string]bool
	names map[string][]string // nameKey of a name → ids
	gone  map[string]bool     // ids and name keys of manually removed companies

	display   map[string]string // id → name as written
	suggested int               // number of calls of suggest
}

func (b *Directory) companyNames(ctx context.Context) (*companyNames, error) {
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
		n.gone[nameKey(t.Name)] = true
		return true, err
	})
}

// resolve returns the ids of companies that are given by id or by unique name; an id takes
// precedence over a name. gone are the given companies that were removed manually.
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
