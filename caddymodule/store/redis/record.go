package redis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// ErrNewer: a newer Doorpost wrote the record. Errors that wrap it also wrap store.ErrUnavailable.
var ErrNewer = errors.New("the record is from a newer Doorpost")

// errWrongReply: the reply doesn't belong to the request.
var errWrongReply = errors.New("the reply belongs to another request")

// The keys of a firm begin with firmPrefix, and end with:
//
//	r:BUCKET NUL ID   a record, see encode
//	i:BUCKET          sorted set: the IDs of a bucket, all with score 0, so in byte order
//	x                 sorted set: BUCKET NUL ID of records that expire, by expiry
//	s                 sorted set: BUCKET NUL ID of other records, by when the server would delete them
//	n:NONCE           the reply to an Apply, for some seconds
//	t, p:NUMBER       a large Apply, see common.lua
//	g                 nothing: the key never exists, see the package comment
//
// The scripts derive the prefix from x by removing its last letter.
const keyPrefix = "doorpost:"

// firmPrefix returns the start of the firm's keys. The text in braces decides the slot on Redis
// Cluster; empty braces wouldn't.
func firmPrefix(firm string) string {
	tag := escapeTag.Replace(firm)
	if firm == "" {
		tag = "%"
	}
	return keyPrefix + "{" + tag + "}:"
}

var escapeTag = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

func member(k store.Key) string           { return k.Bucket + "\x00" + k.ID }
func recordKey(k store.Key) string        { return firmPrefix(k.Firm) + "r:" + member(k) }
func indexKey(firm, bucket string) string { return firmPrefix(firm) + "i:" + bucket }
func expiryKey(firm string) string        { return firmPrefix(firm) + "x" }

// guardKey returns the key that never exists, of the firm of another key.
func guardKey(key string) string { return key[:strings.Index(key, "}:")+2] + "g" }

func channel(firm string) string { return firmPrefix(firm) + "c" }

// A record's value on the server: version, expiry in milliseconds since 1970 as 16 digits (0:
// never; digits, since scripts read them), length of its name, its name, the value. The name
// reveals a reply to another request.
const (
	recordVersion = 1
	nameAt        = 1 + 16 + 2
)

func name(k store.Key) string { return k.Firm + "\x00" + k.Bucket + "\x00" + k.ID }

func encode(k store.Key, value []byte, expires time.Time) []byte {
	name := name(k)
	raw := make([]byte, 0, nameAt+len(name)+len(value))
	raw = append(raw, recordVersion)
	raw = fmt.Appendf(raw, "%016d", toMilli(expires))
	raw = binary.BigEndian.AppendUint16(raw, uint16(len(name)))
	raw = append(raw, name...)
	return append(raw, value...)
}

// decode returns the record of the firm and bucket that raw contains. Its value is a copy.
func decode(firm, bucket, raw string) (store.Record, error) {
	if raw != "" && raw[0] > recordVersion {
		return store.Record{}, fmt.Errorf("%w: it has version %d and this program knows up to %d", ErrNewer, raw[0], recordVersion)
	}
	if len(raw) < nameAt || raw[0] != recordVersion {
		return store.Record{}, errWrongReply
	}
	end := nameAt + int(binary.BigEndian.Uint16([]byte(raw[nameAt-2:nameAt])))
	ms, err := strconv.ParseInt(raw[1:17], 10, 64)
	if err != nil || end > len(raw) {
		return store.Record{}, errWrongReply
	}
	id, ok := strings.CutPrefix(raw[nameAt:end], firm+"\x00"+bucket+"\x00")
	if !ok {
		return store.Record{}, errWrongReply
	}
	rec := store.Record{Key: store.Key{Firm: firm, Bucket: bucket, ID: id}, Value: append([]byte{}, raw[end:]...)}
	if ms != 0 {
		rec.Expires = time.UnixMilli(ms)
	}
	return rec, nil
}

// lastMilli is the latest expiry: it has 16 digits, and Lua represents it exactly.
const lastMilli = 1<<53 - 1

// toMilli returns the stored form of an expiry: truncated to the millisecond, 0 for the zero time.
// An expiry before 1970 becomes 1, which has expired too.
func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(max(t.UnixMilli(), 1), lastMilli)
}

// expired reports whether a record has expired, which includes the instant of its expiry.
func expired(rec store.Record, now time.Time) bool {
	return !rec.Expires.IsZero() && now.UnixMilli() >= rec.Expires.UnixMilli()
}

// Limits of a key.
const (
	maxID   = 512
	maxName = 255
)

// validateKey returns an error for a key that no engine accepts.
func validateKey(k store.Key) error {
	switch {
	case k.ID == "" || len(k.ID) > maxID:
		return fmt.Errorf("store: an ID has 1 to %d bytes, not %d", maxID, len(k.ID))
	case k.Bucket == "" || len(k.Bucket) > maxName || len(k.Firm) > maxName:
		return fmt.Errorf("store: the name of a bucket has 1 to %d bytes, that of a firm up to %[1]d", maxName)
	case strings.ContainsRune(k.Firm, 0) || strings.ContainsRune(k.Bucket, 0):
		return fmt.Errorf("store: %q of firm %q: names hold no NUL", k.Bucket, k.Firm)
	}
	return nil
}
