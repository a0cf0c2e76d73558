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

// ErrNewer: a newer Doorpost wrote the record. It comes wrapped in store.ErrUnavailable.
var ErrNewer = errors.New("the record is from a newer Doorpost")

// errMixed: what came is no answer to what was asked.
var errMixed = errors.New("an answer belongs to another question")

// The keys of a firm begin with what base returns, and end in:
//
//	r:BUCKET NUL ID   a record, as encode has it
//	i:BUCKET          sorted set: the IDs of a bucket, all of score 0, so in byte order
//	x                 sorted set: BUCKET NUL ID of the records that end, by when
//	s                 sorted set: BUCKET NUL ID of those that stay, by when the server would drop them
//	n:NONCE           what an Apply has answered, for seconds
//	t, p:NUMBER       a large Apply, see common.lua
//
// The scripts make them from x by cutting its last letter.
const keyPrefix = "doorpost:"

// base returns what the firm's keys begin with. What stands in the braces decides the slot
// on Redis Cluster; an empty tag would be none.
func base(firm string) string {
	tag := escapeTag.Replace(firm)
	if firm == "" {
		tag = "%"
	}
	return keyPrefix + "{" + tag + "}:"
}

var escapeTag = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D")

func member(k store.Key) string           { return k.Bucket + "\x00" + k.ID }
func recordKey(k store.Key) string        { return base(k.Firm) + "r:" + member(k) }
func indexKey(firm, bucket string) string { return base(firm) + "i:" + bucket }
func endingsKey(firm string) string       { return base(firm) + "x" }
func channel(firm string) string          { return base(firm) + "c" }

// A record's value on the server: version, expiry in milliseconds since 1970 as 16 digits
// (0: it stays; digits, since the scripts read them), length of its name, its name, the value.
// By the name an answer to another question is told from the right one.
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

// decode returns the record of that firm and bucket that raw holds, in bytes of its own.
func decode(firm, bucket, raw string) (store.Record, error) {
	if raw != "" && raw[0] > recordVersion {
		return store.Record{}, fmt.Errorf("%w: it has version %d and this program knows up to %d", ErrNewer, raw[0], recordVersion)
	}
	if len(raw) < nameAt || raw[0] != recordVersion {
		return store.Record{}, errMixed
	}
	end := nameAt + int(binary.BigEndian.Uint16([]byte(raw[nameAt-2:nameAt])))
	ms, err := strconv.ParseInt(raw[1:17], 10, 64)
	if err != nil || end > len(raw) {
		return store.Record{}, errMixed
	}
	id, ok := strings.CutPrefix(raw[nameAt:end], firm+"\x00"+bucket+"\x00")
	if !ok {
		return store.Record{}, errMixed
	}
	rec := store.Record{Key: store.Key{Firm: firm, Bucket: bucket, ID: id}, Value: append([]byte{}, raw[end:]...)}
	if ms != 0 {
		rec.Expires = time.UnixMilli(ms)
	}
	return rec, nil
}

// lastMilli is the latest end that a record can have: it has 16 digits, and Lua counts that far.
const lastMilli = 1<<53 - 1

// toMilli is how a record's end is stored: cut to the millisecond, 0 for the zero time. What
// ended before 1970 has ended all the same.
func toMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return min(max(t.UnixMilli(), 1), lastMilli)
}

// over reports whether the record has ended: that instant is already after its time.
func over(rec store.Record, now time.Time) bool {
	return !rec.Expires.IsZero() && now.UnixMilli() >= rec.Expires.UnixMilli()
}

// Limits of a key.
const (
	maxID   = 512
	maxName = 255
)

// possible says what is wrong with a key that no engine can keep.
func possible(k store.Key) error {
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
