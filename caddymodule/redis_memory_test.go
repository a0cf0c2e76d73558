//go:build servers && measure

package caddymodule_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/directory"
	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/session"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

var usedMemory = regexp.MustCompile(`(?m)^used_memory:([0-9]+)`)

// How many bytes of Redis's memory a contact and a session take; and how long a change takes there, with and
// without a replica that must have it.
func TestMeasureRedisMemory(t *testing.T) {
	if *onStore != "sentinel" {
		t.Skip("it needs a server with a replica: -store sentinel")
	}
	rs := startRedis(t)
	client := rs.servers()[0].Raw()
	used := func() int {
		t.Helper()
		var n int
		for range 3 { // the replies to changes expire
			time.Sleep(4 * time.Second)
			n, _ = strconv.Atoi(usedMemory.FindStringSubmatch(client.Info(t.Context(), "memory").Val())[1])
		}
		return n
	}
	open := func(acks int) *redis.Store {
		at := rs.at()
		at.ReplicasAck = acks
		s, err := redis.Open(t.Context(), redis.Options{Address: at})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	s := open(0)
	keys, err := secret.New([]byte(strings.Repeat("correct horse ", 4)))
	if err != nil {
		t.Fatal(err)
	}
	const n = 20_000
	book := &directory.Directory{Firm: "example", Store: s, Keys: keys}
	load := func(kind directory.Kind, text string) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "list.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := book.LoadFile(t.Context(), path, kind, nil); err != nil {
			t.Fatal(err)
		}
	}
	load(directory.Companies, someCompanies)
	before := used()
	load(directory.Contacts, manyContacts(n))
	after := used()
	t.Logf("a contact takes %d bytes", (after-before)/n)
	began := func(s *redis.Store, from, to int) time.Duration {
		sessions := &session.Sessions{Firm: "example", Store: s, Keys: keys, Idle: 45 * 24 * time.Hour, Max: 180 * 24 * time.Hour}
		start := time.Now()
		for i := from; i < to; i++ {
			b, err := sessions.Begin(t.Context(), session.Session{Contact: fmt.Sprintf("%s%06d", strings.ToLower(rand.Text()), i), Method: "link"}, nil)
			if err == nil {
				err = s.Apply(t.Context(), b.Ops...)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		return time.Since(start) / time.Duration(to-from)
	}
	began(s, 0, n)
	t.Logf("a session takes %d bytes", (used()-after)/n)
	acked := open(1)
	for range 3 {
		t.Logf("beginning a session takes %v, with replicas_ack 1 %v", began(s, n, n+2000), began(acked, n+2000, n+4000))
	}
}
