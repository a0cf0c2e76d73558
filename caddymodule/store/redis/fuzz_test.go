package redis

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// Whatever a server replies, it is decoded as a record of the requested firm and bucket in
// our format, or rejected.
func FuzzDecode(f *testing.F) {
	raw := string(encode(store.Key{Firm: "firm", Bucket: "bucket", ID: "a\x00b"}, []byte("value"), time.UnixMilli(1_790_000_000_123)))
	for _, seed := range []string{raw, raw[:10], raw[:nameAt], raw[:nameAt+5], "", "\x02" + raw[1:], "\x00" + raw[1:], raw[:1] + "-000000000000001" + raw[17:], raw[:1] + "9999999999999999" + raw[17:],
		raw[:1] + "+000000000000001" + raw[17:], raw[:17] + "\xff\xff" + raw[19:], strings.Replace(raw, "firm", "mrif", 1), "\x01" + strings.Repeat("0", 18)} {
		f.Add("firm", "bucket", seed)
	}
	f.Fuzz(func(t *testing.T, firm, bucket, raw string) {
		rec, err := decode(firm, bucket, raw)
		if err != nil {
			if !errors.Is(err, errWrongReply) && !errors.Is(err, ErrNewer) || rec.Value != nil || rec.Key != (store.Key{}) {
				t.Fatalf("decode(%q) = %+v, %v", raw, rec, err)
			}
			return
		}
		if rec.Key.Firm != firm || rec.Key.Bucket != bucket || rec.Value == nil {
			t.Fatalf("decode(%q, %q, %q) = %+v", firm, bucket, raw, rec)
		}
		if again, err := decode(firm, bucket, string(encode(rec.Key, rec.Value, rec.Expires))); err != nil || again.Key != rec.Key || string(again.Value) != string(rec.Value) || !again.Expires.Equal(rec.Expires) && rec.Expires.UnixMilli() > 0 && rec.Expires.UnixMilli() <= lastMilli {
			t.Fatalf("decode(%q) = %+v, and written again %+v, %v", raw, rec, again, err)
		}
	})
}

// Different keys have different names on the server, and a firm's keys are all in one slot.
func FuzzKeys(f *testing.F) {
	f.Add("a", "b", "c", "a", "b", "c\x00")
	f.Add("", "x", "y", "%", "x", "y")
	f.Add("a}", "b", "c", "a", "}b", "c")
	f.Add("{", "b:", "c", "%7B", "b", ":c")
	f.Fuzz(func(t *testing.T, f1, b1, i1, f2, b2, i2 string) {
		one, two := store.Key{Firm: f1, Bucket: b1, ID: i1}, store.Key{Firm: f2, Bucket: b2, ID: i2}
		if validateKey(one) != nil || validateKey(two) != nil {
			return
		}
		if (recordKey(one) == recordKey(two)) != (one == two) || name(one) == name(two) && one != two {
			t.Fatalf("%q and %q: %q and %q", one, two, recordKey(one), recordKey(two))
		}
		if recordKey(one) == indexKey(f2, b2) || recordKey(one) == expiryKey(f2) || indexKey(f1, b1) == expiryKey(f2) {
			t.Fatalf("%q is also a key of another kind", recordKey(one))
		}
		if tag := hashTag(recordKey(one)); tag == "" || tag != hashTag(indexKey(f1, b2)) || tag != hashTag(expiryKey(f1)) || (tag == hashTag(recordKey(two))) != (f1 == f2) {
			t.Fatalf("firm %q has the tag %q", f1, tag)
		}
	})
}

// hashTag returns the part of a key that decides the slot on Redis Cluster: between the
// first brace and the next closing one.
func hashTag(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	tag, _, _ := strings.Cut(rest, "}")
	return tag
}
