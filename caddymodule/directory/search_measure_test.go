//go:build measure && servers

package directory

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redis"
)

// A search of 100,000 contacts and 20,000 companies takes at most a twentieth of a look at all of them, and the index at
// most 100 bytes for each contact:
//
//	go test -tags measure,servers ./caddymodule/directory -run TestSearchSpeed -v
func TestSearchSpeed(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) store.Store{"bolt": openBolt, "redis": openRedis} {
		t.Run(name, func(t *testing.T) {
			b := &Directory{Firm: "example", Store: open(t), Keys: keyring(t, "first")}
			fillLarge(t, b, 100_000, 20_000)
			ctx := t.Context()

			before := heap()
			began := time.Now()
			must(b.Contacts(ctx, "nobody of this name", "", 50))
			loaded := time.Since(began)
			size := float64(heap()-before) / 100_000
			t.Logf("the index was made in %v and takes %.0f bytes for each contact", loaded, size)
			if size > 100 {
				t.Errorf("the index takes %.0f bytes for each contact; want at most 100", size)
			}
			for _, text := range []string{"lee", "harbor 4711", "@client99999.example", "nobody of this name", "a", "person77"} {
				var all, quick []time.Duration
				for range 5 {
					began := time.Now()
					naive := lookAtAll(t, b, text, 50)
					all = append(all, time.Since(began))
					began = time.Now()
					found := must(b.Contacts(ctx, text, "", 50))
					quick = append(quick, time.Since(began))
					if len(naive) != len(found) {
						t.Fatalf("a search for %q finds %d; want %d", text, len(found), len(naive))
					}
				}
				slices.Sort(all)
				slices.Sort(quick)
				t.Logf("%-22q finds %2d in %8v; a look at all contacts and companies takes %v", text, len(must(b.Contacts(ctx, text, "", 50))), quick[2].Round(10*time.Microsecond), all[2].Round(time.Millisecond))
				if text != "a" && text != "lee" && quick[2] > all[2]/20 { // of what is everywhere, a look at all ends early, too
					t.Errorf("a search for %q takes %v; want at most a twentieth of %v", text, quick[2], all[2])
				}
			}
			began = time.Now()
			must(b.Companies(ctx, "harbor 4711", "", 50))
			t.Logf("a search of companies takes %v", time.Since(began))
			began = time.Now()
			must(b.SetContact(ctx, "person5.lee@client5.example", Change{Phone: ptr("1")}))
			t.Logf("a change takes %v", time.Since(began))
		})
	}
}

// lookAtAll is a search without an index, which reads all companies, and contacts until it has found enough.
func lookAtAll(t *testing.T, b *Directory, text string, limit int) (found []Contact) {
	words, names := strings.Fields(nameKey(text)), map[string]string{}
	for _, c := range must(b.allCompanies(t.Context())) {
		names[c.ID] = c.Name
	}
	must(0, b.eachContact(t.Context(), "", func(e *storedContact) bool {
		if c := b.effective(*e); c.matches(words, names) {
			found = append(found, c)
		}
		return len(found) < limit
	}))
	return found
}

func fillLarge(t *testing.T, b *Directory, contacts, companies int) {
	t.Helper()
	var text strings.Builder
	text.WriteString("id,name\n")
	for i := range companies {
		fmt.Fprintf(&text, "harbor-%d,Harbor Bakery %d\n", i, i)
	}
	must(importCompanies(t, b, text.String()))
	text.Reset()
	text.WriteString("email,first_name,last_name,companies\n")
	for i := range contacts {
		last := []string{"Lee", "Baker", "Sørensen", "Okafor", "Müller"}[i%5]
		mail := []string{"lee", "baker", "sorensen", "okafor", "mueller"}[i%5]
		fmt.Fprintf(&text, "person%d.%s@client%d.example,Person%d,%s,harbor-%d\n", i, mail, i, i, last, i%companies)
	}
	must(importCSV(t, b, text.String()))
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func openBolt(t *testing.T) store.Store {
	db := must(bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{}))
	t.Cleanup(func() { db.Close() })
	return db
}

func openRedis(t *testing.T) store.Store {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("redis-server", "--port", "0", "--unixsocket", socket, "--dir", dir, "--save", "")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	db := must(redis.Open(context.Background(), redis.Options{Address: redis.Address{URL: "unix://" + socket}}))
	t.Cleanup(func() { db.Close() })
	return db
}
