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

// fileRows is what each row of a Caddyfile's file said when the file was loaded last: the
// digest of the row by the digest of the address or company id that it begins with. A row
// that says the same again leaves alone what was changed by hand since. nil: no file of
// the kind has been loaded.
type fileRows map[uint64]uint64

// rowShards is in how many records the rows of a file are remembered, so that a load
// writes those records only whose rows have changed.
const rowShards = 16

// fileRowsRecord is one shard in the store.
type fileRowsRecord struct {
	Rows []byte `json:"r"` // 16 bytes each, sorted: digest of the key, digest of the row
}

// loadRecord tells of the last load of a file. With it, the rows are remembered.
type loadRecord struct {
	At        time.Time `json:"t"`
	Added     int       `json:"a,omitempty"`
	Changed   int       `json:"c,omitempty"`
	Unchanged int       `json:"u,omitempty"`
	Kept      []Kept    `json:"k,omitempty"` // the first of them
	MoreKept  int       `json:"m,omitempty"` // how many further ones
}

// maxRememberedKept is how many rows that a load left alone are remembered by name.
const maxRememberedKept = 1000

func shardID(kind Kind, shard int) string { return fmt.Sprintf("%s/%02x", kind, shard) }

func digest(parts ...string) uint64 {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return binary.BigEndian.Uint64(sum[:])
}

// same reports whether the row is the one that was loaded last.
func (f fileRows) same(key, row uint64) bool {
	last, known := f[key]
	return known && last == row
}

// changed reports whether the file had a row with this key when it was loaded last, and it
// said something else.
func (f fileRows) changed(key, row uint64) bool {
	last, known := f[key]
	return known && last != row
}

// digests returns the digests of a row of contacts and of its key. A column that is added
// to a file changes those rows that have a value there.
func (r ContactRow) digests() (key, row uint64) {
	e := r.edit
	text, err := json.Marshal([]any{e.email, e.others, e.first, e.last, e.phone, e.locale, e.companies, e.role, e.disabled, e.hash})
	if err != nil {
		panic("directory: " + err.Error()) // never: strings and numbers
	}
	return digest(string(r.Email)), digest(string(text))
}

// digests returns the digests of a row of companies and of its key.
func (r CompanyRow) digests() (key, row uint64) {
	text, err := json.Marshal([]any{r.ID, r.name, r.tokens})
	if err != nil {
		panic("directory: " + err.Error()) // never: strings
	}
	return digest(r.ID), digest(string(text))
}

// lastLoad returns the record of the last load; ErrUnknown if no load has been recorded.
func (b *Book) lastLoad(ctx context.Context, kind Kind) (loadRecord, error) {
	var l loadRecord
	rec, err := b.get(ctx, bucketLoad, string(kind)+"/report")
	if err != nil {
		return l, err
	}
	return l, b.open(rec, &l)
}

// LastLoad tells of the last load of a file of the Caddyfile that succeeded, at whichever
// machine. ErrUnknown: there was none.
func (b *Book) LastLoad(ctx context.Context, kind Kind) (Report, error) {
	l, err := b.lastLoad(ctx, kind)
	if err != nil {
		return Report{Kind: kind}, err
	}
	return Report{Kind: kind, At: l.At, Added: l.Added, Changed: l.Changed, Unchanged: l.Unchanged, Kept: l.Kept, MoreKept: l.MoreKept}, nil
}

func (b *Book) recordLoad(p Plan) store.Op {
	l := loadRecord{At: b.now().UTC(), Added: len(p.Added), Changed: len(p.Changed), Unchanged: p.Unchanged, Kept: p.Kept}
	if more := len(l.Kept) - maxRememberedKept; more > 0 {
		l.Kept, l.MoreKept = l.Kept[:maxRememberedKept], more
	}
	id := string(p.Kind) + "/report"
	return store.Put(b.key(bucketLoad, id), b.seal(bucketLoad, id, l), time.Time{})
}

// fileRows returns what the rows of the file said last time; nil if no load has been
// recorded.
func (b *Book) fileRows(ctx context.Context, kind Kind) (fileRows, error) {
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

// fileRowsOps are the records that remember now in the place of last.
func (b *Book) fileRowsOps(kind Kind, last, now fileRows) (ops []store.Op) {
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

func (b *Book) resealFileRows(rec store.Record) ([]store.Op, error) {
	var r fileRowsRecord
	if err := b.open(rec, &r); err != nil {
		return nil, err
	}
	return []store.Op{store.Put(rec.Key, b.seal(bucketFileRows, rec.Key.ID, r), time.Time{})}, nil
}

func (b *Book) resealLoad(rec store.Record) ([]store.Op, error) {
	if !strings.HasSuffix(rec.Key.ID, "/report") {
		return nil, nil // a MAC, which the next load makes again
	}
	var l loadRecord
	if err := b.open(rec, &l); err != nil {
		return nil, err
	}
	return []store.Op{store.Put(rec.Key, b.seal(bucketLoad, rec.Key.ID, l), time.Time{})}, nil
}

// AccessEnding returns the ids of contacts who lost an address or the permission to sign
// in, and for whom EndedAccess hasn't been called yet: a process may have been killed
// between the change and the end of their sessions.
func (b *Book) AccessEnding(ctx context.Context) (contacts []string, err error) {
	err = b.scan(ctx, bucketEnding, "", "", func(rec store.Record) (bool, error) {
		contacts = append(contacts, rec.Key.ID)
		return true, nil
	})
	return contacts, err
}

// EndedAccess notes that the sessions and links of the contacts have ended.
func (b *Book) EndedAccess(ctx context.Context, contacts ...string) error {
	for some := range slices.Chunk(contacts, pageSize) {
		ops := make([]store.Op, 0, len(some))
		for _, id := range slices.Compact(slices.Sorted(slices.Values(some))) {
			ops = append(ops, store.Delete(b.key(bucketEnding, id)))
		}
		if err := b.Store.Apply(ctx, ops...); err != nil {
			return fmt.Errorf("noting that access has ended: %w", err)
		}
	}
	return nil
}

// endAccess is the Op that notes, with the change, whose access has to end.
func (b *Book) endAccess(contact string) store.Op {
	return store.Put(b.key(bucketEnding, contact), []byte{format}, time.Time{})
}

// losesAccess reports whether a change takes an address or the permission to sign in from
// a contact; after is nil for one who is removed.
func losesAccess(before, after *entry) bool {
	switch {
	case before == nil:
		return false
	case after == nil:
		return true
	}
	return after.Disabled || len(lacking(before.Emails, after.Emails)) > 0
}

// revive are the Ops that forget that addresses were removed by hand.
func (b *Book) revive(addresses []address.Address) (ops []store.Op) {
	for _, a := range addresses {
		for _, mac := range b.emailMACs(a) {
			ops = append(ops, store.Delete(b.key(bucketRemoved, removedEmail+mac)))
		}
	}
	return ops
}
