package directory

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// fileRows maps, for each row of a Caddyfile's file at its last load, the digest of its key
// (address or company id) to the digest of the row. A row with the same digest leaves manual
// changes since then alone. nil means that no file of the kind has been loaded.
type fileRows map[uint64]uint64

// rowShards is the number of records for the rows of a file. A load writes only the shards with
// changed rows.
const rowShards = 16

// fileRowsRecord is one shard in the store.
type fileRowsRecord struct {
	Rows []byte `json:"r"` // 16 bytes each, sorted: digest of the key, digest of the row
}

// loadRecord describes the last load of a file. It is stored together with the file's rows.
type loadRecord struct {
	At        time.Time `json:"t"`
	Added     int       `json:"a,omitempty"`
	Changed   int       `json:"c,omitempty"`
	Unchanged int       `json:"u,omitempty"`
	Kept      []Kept    `json:"k,omitempty"` // the first ones
	MoreKept  int       `json:"m,omitempty"` // number of further ones
}

// maxRememberedKept limits loadRecord.Kept.
const maxRememberedKept = 1000

func shardID(kind Kind, shard int) string { return fmt.Sprintf("%s/%02x", kind, shard) }

func digest(parts ...string) uint64 {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return binary.BigEndian.Uint64(sum[:])
}

// same reports whether the row is the same as at the last load.
func (f fileRows) same(key, row uint64) bool {
	last, known := f[key]
	return known && last == row
}

// changed reports whether the row was in the file at the last load with another content.
func (f fileRows) changed(key, row uint64) bool {
	last, known := f[key]
	return known && last != row
}

// digests returns the digests of the row's key and of the row. A column that is added to a file
// changes only the rows with a value there.
func (r ContactRow) digests() (key, row uint64) {
	e := r.edit
	all := []any{e.email, e.others, e.first, e.last, e.phone, e.locale, e.companies, e.role, e.disabled, e.hash}
	if e.texts != "" {
		all = append(all, e.texts)
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic("directory: " + err.Error()) // never: strings and numbers
	}
	return digest(string(r.Email)), digest(string(text))
}

// digests returns the digests of the row's key and of the row.
func (r CompanyRow) digests() (key, row uint64) {
	text, err := json.Marshal([]any{r.ID, r.name, r.tokens})
	if err != nil {
		panic("directory: " + err.Error()) // never: strings
	}
	return digest(r.ID), digest(string(text))
}

// lastLoad returns the record of the last load, or ErrUnknown if none has been recorded.
func (b *Directory) lastLoad(ctx context.Context, kind Kind) (loadRecord, error) {
	var l loadRecord
	rec, err := b.get(ctx, bucketLoad, string(kind)+"/report")
	if err != nil {
		return l, err
	}
	return l, b.open(rec, &l)
}

// LastLoad describes the last successful load of a Caddyfile's file, on any machine. It returns
// ErrUnknown if there was none.
func (b *Directory) LastLoad(ctx context.Context, kind Kind) (Report, error) {
	l, err := b.lastLoad(ctx, kind)
	if err != nil {
		return Report{Kind: kind}, err
	}
	return Report{Kind: kind, At: l.At, Added: l.Added, Changed: l.Changed, Unchanged: l.Unchanged, Kept: l.Kept, MoreKept: l.MoreKept}, nil
}

func (b *Directory) recordLoad(p Plan) store.Op {
	l := loadRecord{At: b.now().UTC(), Added: len(p.Added), Changed: len(p.Changed), Unchanged: p.Unchanged, Kept: p.Kept}
	if more := len(l.Kept) - maxRememberedKept; more > 0 {
		l.Kept, l.MoreKept = l.Kept[:maxRememberedKept], more
	}
	id := string(p.Kind) + "/report"
	return store.Put(b.key(bucketLoad, id), b.seal(bucketLoad, id, l), time.Time{})
}

// fileRows returns the rows at the last load; it is empty if no load has been recorded.
func (b *Directory) fileRows(ctx context.Context, kind Kind) (fileRows, error) {
	rows := fileRows{}
	return rows, b.scan(ctx, bucketFileRows, string(kind)+"/", "", func(rec store.Record) (bool, error) {
		var r fileRowsRecord
		if err := b.open(rec, &r); err != nil {
			return false, err
		}
		if len(r.Rows)%16 != 0 {
			return false, fmt.Errorf("reading the directory: the %s record isn't in the format of this Doorpost; a newer one may have written it", rec.Key.Bucket)
		}
		for each := range slices.Chunk(r.Rows, 16) {
			rows[binary.BigEndian.Uint64(each)] = binary.BigEndian.Uint64(each[8:])
		}
		return true, nil
	})
}

// fileRowsOps returns the Ops that replace last by now in the store.
func (b *Directory) fileRowsOps(kind Kind, last, now fileRows) (ops []store.Op) {
	shardOf := func(key uint64) int { return int(key >> 60) }
	var dirty [rowShards]bool
	for key, row := range now {
		if !last.same(key, row) {
			dirty[shardOf(key)] = true
		}
	}
	for key := range last {
		if _, there := now[key]; !there {
			dirty[shardOf(key)] = true
		}
	}
	var shards [rowShards][]uint64
	for key := range now {
		shards[shardOf(key)] = append(shards[shardOf(key)], key)
	}
	for shard, keys := range shards {
		if !dirty[shard] {
			continue
		}
		id := shardID(kind, shard)
		if len(keys) == 0 {
			ops = append(ops, store.Delete(b.key(bucketFileRows, id)))
			continue
		}
		slices.Sort(keys)
		raw := make([]byte, 0, 16*len(keys))
		for _, key := range keys {
			raw = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(raw, key), now[key])
		}
		ops = append(ops, store.Put(b.key(bucketFileRows, id), b.seal(bucketFileRows, id, fileRowsRecord{raw}), time.Time{}))
	}
	return ops
}

func (b *Directory) resealFileRows(rec store.Record) ([]store.Op, error) {
	var r fileRowsRecord
	if err := b.open(rec, &r); err != nil {
		return nil, err
	}
	return []store.Op{store.Put(rec.Key, b.seal(bucketFileRows, rec.Key.ID, r), time.Time{})}, nil
}

func (b *Directory) resealLoad(rec store.Record) ([]store.Op, error) {
	if !strings.HasSuffix(rec.Key.ID, "/report") {
		return nil, nil // a MAC, which the next load replaces
	}
	var l loadRecord
	if err := b.open(rec, &l); err != nil {
		return nil, err
	}
	return []store.Op{store.Put(rec.Key, b.seal(bucketLoad, rec.Key.ID, l), time.Time{})}, nil
}

// PendingRevocations returns the ids of contacts who lost an address or were disabled, and for whom
// RevocationsDone hasn't been called yet: a process may have been killed between the change and the
// end of their sessions.
func (b *Directory) PendingRevocations(ctx context.Context) (contacts []string, err error) {
	err = b.scan(ctx, bucketPendingRevocations, "", "", func(rec store.Record) (bool, error) {
		contacts = append(contacts, rec.Key.ID)
		return true, nil
	})
	return contacts, err
}

// RevocationsDone records that the sessions and links of the contacts have been revoked.
func (b *Directory) RevocationsDone(ctx context.Context, contacts ...string) error {
	for some := range slices.Chunk(contacts, pageSize) {
		ops := make([]store.Op, 0, len(some))
		for _, id := range slices.Compact(slices.Sorted(slices.Values(some))) {
			ops = append(ops, store.Delete(b.key(bucketPendingRevocations, id)))
		}
		if err := b.Store.Apply(ctx, ops...); err != nil {
			return fmt.Errorf("noting that access has ended: %w", err)
		}
	}
	return nil
}

// pendingRevocation returns the Op that records, together with the change, that the contact's
// sessions have yet to be revoked.
func (b *Directory) pendingRevocation(contact string) store.Op {
	return store.Put(b.key(bucketPendingRevocations, contact), []byte{format}, time.Time{})
}

// revokesAccess reports whether a change takes an address or the permission to sign in from a
// contact. after is nil for a removal.
func revokesAccess(before, after *storedContact) bool {
	switch {
	case before == nil:
		return false
	case after == nil:
		return true
	}
	return after.Disabled || len(subtract(before.Emails, after.Emails)) > 0
}

// clearRemovals returns the Ops that delete the tombstones of the addresses.
func (b *Directory) clearRemovals(addresses []address.Address) (ops []store.Op) {
	for _, a := range addresses {
		for _, mac := range b.emailMACs(a) {
			ops = append(ops, store.Delete(b.key(bucketRemoved, removedEmail+mac)))
		}
	}
	return ops
}
