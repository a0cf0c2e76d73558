package outbox

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// An entry is what was put in at its own key; anything else is an error. And whatever a
// record of ours says, it doesn't keep the queue waiting for ever.
func FuzzOpenEntry(f *testing.F) {
	s := sealer{firm: "example", keys: testKeys}
	k := s.key(bucketQueue, "1")
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	plain, err := json.Marshal(entry{Kind: "sign-in", Asked: at, NotAfter: at.Add(time.Hour), Payload: []byte("x"), Due: at, Owner: "me", Until: at})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{string(plain), "", "{}", "null", "[]", `{"due":"9999-12-31T23:59:59Z"}`, `{"until":"9999-12-31T23:59:59Z","owner":"x"}`, `{"due":"0001-01-01T00:00:00Z"}`, `{"tries":-1}`, `{"payload":"%"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, raw := range [][]byte{data, append([]byte{version}, data...)} {
			if e, err := s.openEntry(store.Record{Key: k, Value: raw}); err == nil {
				t.Fatalf("what nobody sealed is the entry %+v", e)
			}
		}
		sealed := s.seal(k, data)
		e, err := s.openEntry(store.Record{Key: k, Value: sealed})
		if (err == nil) != (json.Unmarshal(data, new(entry)) == nil) {
			t.Fatalf("openEntry(%q) = %v", data, err)
		}
		for _, other := range []store.Key{s.key(bucketQueue, "2"), s.key(bucketLetters, "1"), {Firm: "other", Bucket: bucketQueue, ID: "1"}} {
			if _, err := s.openEntry(store.Record{Key: other, Value: sealed}); err == nil {
				t.Fatalf("%q opens at %v", data, other)
			}
		}
		if err != nil {
			return
		}
		if _, due := e.next(at, "me"); due.Sub(at) > farthest && due.Sub(at) > e.NotAfter.Sub(at)+keep {
			t.Fatalf("%q waits until %v", data, due)
		}
	})
}

// A message goes out with one recipient, and with lines that only CRLF ends, or not at all.
func FuzzMessage(f *testing.F) {
	for _, seed := range [][3]string{{"hello@example.com", "ann@example.com", "Subject: x\r\n\r\nhello\r\n"}, {"a@b.de", "ann@example.com>\r\nRCPT TO:<eve@evil.example", "x\r\n"}, {"a@b.de", "c@d.de", "x\n.\nMAIL FROM"},
		{"", "", ""}, {"a@b.de", "c@d.de,e@f.de", "x\r\n"}, {"a@b.de", "c@d.de", "x\r.\r\n"}, {"a@b.de", "c@d.de", "x\r\n.\r\ny\r\n"}} {
		f.Add(seed[0], seed[1], []byte(seed[2]))
	}
	f.Fuzz(func(t *testing.T, from, to string, data []byte) {
		m := Message{From: from, To: to, Data: data}
		if m.check() != nil {
			return
		}
		rest := bytes.ReplaceAll(data, []byte("\r\n"), nil)
		if bytes.ContainsAny(rest, "\r\n") || len(data) == 0 {
			t.Fatalf("a message with the lines %q is taken", data)
		}
		for _, a := range []string{from, to} {
			if bytes.Count([]byte(a), []byte("@")) != 1 || bytes.ContainsAny([]byte(a), " \t\r\n<>,;\x00") {
				t.Fatalf("a message from %q to %q is taken", from, to)
			}
		}
	})
}
