package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Buckets at the root of the file. A firm's is firmPrefix and its ID, so that the firm
// without a name has one too.
var (
	metaBucket   = []byte("doorpost") // what the file is: schemaKey
	schemaKey    = []byte("schema")
	expiryBucket = []byte("expiry") // indexKey of each record that expires → nothing
)

const (
	firmPrefix = "firm/"
	schema     = 1 // layout of files that this program writes
)

// A record's value in the file: version, expiry in milliseconds since 1970 (0: never),
// CRC-32C of key, version, expiry and value; then the value.
const (
	recordVersion = 1
	headerLen     = 1 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// corruption describes what is wrong with a file or a record.
type corruption struct{ why string }

func (d *corruption) Error() string { return d.why }

func corruptf(format string, args ...any) error { return &corruption{fmt.Sprintf(format, args...)} }

func encode(k store.Key, value []byte, expires int64) []byte {
	raw := make([]byte, headerLen+len(value))
	raw[0] = recordVersion
	binary.BigEndian.PutUint64(raw[1:], uint64(expires))
	copy(raw[headerLen:], value)
	binary.BigEndian.PutUint32(raw[9:], checksum(k, raw))
	return raw
}

// decode returns the value, still within raw, and the expiry; or a *corruption.
func decode(k store.Key, raw []byte) (value []byte, expires int64, err error) {
	if len(raw) < headerLen || raw[0] != recordVersion || binary.BigEndian.Uint32(raw[9:]) != checksum(k, raw) {
		return nil, 0, corruptf("a record in %q of firm %q has a wrong checksum", k.Bucket, k.Firm)
	}
	return raw[headerLen:], int64(binary.BigEndian.Uint64(raw[1:])), nil
}

// checksum includes the key, so that a record under another key is detected.
func checksum(k store.Key, raw []byte) uint32 {
	var room [128]byte
	key := appendKey(room[:0], k)
	sum := crc32.Update(0, castagnoli, key)
	sum = crc32.Update(sum, castagnoli, raw[:9])
	return crc32.Update(sum, castagnoli, raw[headerLen:])
}

// appendKey appends k; firm and bucket contain no NUL, so splitIndexKey can separate them.
func appendKey(b []byte, k store.Key) []byte {
	b = append(b, k.Firm...)
	b = append(b, 0)
	b = append(b, k.Bucket...)
	b = append(b, 0)
	return append(b, k.ID...)
}

// indexKey sorts by expiry.
func indexKey(expires int64, k store.Key) []byte {
	b := make([]byte, 8, 8+len(k.Firm)+len(k.Bucket)+len(k.ID)+2)
	binary.BigEndian.PutUint64(b, uint64(expires))
	return appendKey(b, k)
}

// splitIndexKey is the inverse of indexKey; ok is false for invalid keys.
func splitIndexKey(b []byte) (expires int64, k store.Key, ok bool) {
	if len(b) < 8 {
		return 0, k, false
	}
	firm, rest, ok1 := strings.Cut(string(b[8:]), "\x00")
	bucket, id, ok2 := strings.Cut(rest, "\x00")
	return int64(binary.BigEndian.Uint64(b)), store.Key{Firm: firm, Bucket: bucket, ID: id}, ok1 && ok2 && id != ""
}

// toMilli returns the stored form of an expiry: truncated to the millisecond, 0 for the
// zero time. An expiry before 1970 becomes 1, which has expired too.
func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.UnixMilli(), 1)
}

func fromMilli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// expired reports whether a record has expired, which includes the instant of its expiry.
func expired(expires int64, now time.Time) bool { return expires != 0 && now.UnixMilli() >= expires }

// bucketOf returns the bucket, or nil if it doesn't exist.
func bucketOf(tx *bolt.Tx, firm, name string) *bolt.Bucket {
	if name == "" {
		return nil
	}
	b := tx.Bucket([]byte(firmPrefix + firm))
	if b == nil {
		return nil
	}
	return b.Bucket([]byte(name))
}

// lookup returns the record's bytes in the file, valid during tx; nil if it doesn't exist.
func lookup(tx *bolt.Tx, k store.Key) []byte {
	b := bucketOf(tx, k.Firm, k.Bucket)
	if b == nil || k.ID == "" {
		return nil
	}
	return b.Get([]byte(k.ID))
}

// writeRecord writes the record and updates the index; was is the expiry of the record
// that it replaces, 0 if there was none or it had none.
func writeRecord(tx *bolt.Tx, k store.Key, value []byte, expires, was int64) error {
	b, err := tx.CreateBucketIfNotExists([]byte(firmPrefix + k.Firm))
	if err != nil {
		return err
	}
	if b, err = b.CreateBucketIfNotExists([]byte(k.Bucket)); err != nil {
		return err
	}
	if err = b.Put([]byte(k.ID), encode(k, value, expires)); err != nil || was == expires {
		return err
	}
	index := tx.Bucket(expiryBucket)
	if was != 0 {
		if err = index.Delete(indexKey(was, k)); err != nil {
			return err
		}
	}
	if expires != 0 {
		return index.Put(indexKey(expires, k), nil)
	}
	return nil
}

// dropRecord deletes the record, if it exists, and its entry in the index.
func dropRecord(tx *bolt.Tx, k store.Key, was int64) error {
	b := bucketOf(tx, k.Firm, k.Bucket)
	if b == nil {
		return nil
	}
	if err := b.Delete([]byte(k.ID)); err != nil || was == 0 {
		return err
	}
	return tx.Bucket(expiryBucket).Delete(indexKey(was, k))
}

// checkRecord checks a record of the file.
func checkRecord(path []string, id, raw []byte) error {
	if len(path) != 2 || !strings.HasPrefix(path[0], firmPrefix) {
		return nil
	}
	_, _, err := decode(store.Key{Firm: path[0][len(firmPrefix):], Bucket: path[1], ID: string(id)}, raw)
	return err
}

// checkSchema checks that the file is a store of Doorpost that this program can write. It
// returns a *corruption or ErrNewer otherwise.
func checkSchema(tx *bolt.Tx) error {
	b := tx.Bucket(metaBucket)
	if b == nil || tx.Bucket(expiryBucket) == nil {
		return corruptf("it is no store of Doorpost")
	}
	format, err := strconv.Atoi(string(b.Get(schemaKey)))
	if err != nil || format < 1 {
		return corruptf("the number of its format can't be read")
	}
	if format > schema {
		return fmt.Errorf("%w: its format is %d and this program knows up to %d: run the newer one, or give this one another path", ErrNewer, format, schema)
	}
	// A bucket with a damaged name or type would be missing silently.
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		switch {
		case b == nil:
			return corruptf("%q is no bucket", name)
		case bytes.Equal(name, metaBucket), bytes.Equal(name, expiryBucket):
			return nil
		case !bytes.HasPrefix(name, []byte(firmPrefix)):
			return corruptf("%q is none of its buckets", name)
		}
		return b.ForEach(func(inner, value []byte) error {
			if value != nil {
				return corruptf("%q in %q is no bucket", inner, name)
			}
			return nil
		})
	})
}
