//go:build servers

package redis

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/redistest"
	"github.com/doorpost-auth/doorpost/caddymodule/store/storetest"
)

// shared are the servers that several tests use. They are started by the first one.
var shared struct {
	dir       string
	sentinels func() (*redistest.Sentinels, error)
	cluster   func() (*redistest.Cluster, error)
	stop      []func()
}

func TestMain(m *testing.M) {
	var err error
	if shared.dir, err = os.MkdirTemp("", "doorpost-redis-*"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared.sentinels = sync.OnceValues(func() (*redistest.Sentinels, error) {
		t, err := redistest.StartSentinels(shared.dir, 1)
		if t != nil {
			shared.stop = append(shared.stop, t.Kill)
		}
		return t, err
	})
	shared.cluster = sync.OnceValues(func() (*redistest.Cluster, error) {
		t, err := redistest.StartCluster(shared.dir, 3, true, nil)
		shared.stop = append(shared.stop, t.Kill)
		return t, err
	})
	code := m.Run()
	for _, stop := range shared.stop {
		stop()
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// ok returns the value, or fails the test.
func ok[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func sentinelAddress(s *redistest.Sentinels) Address {
	return Address{Sentinel: s.Name, Hosts: s.Hosts()}
}

func clusterAddress(c *redistest.Cluster) Address {
	return Address{Cluster: true, Hosts: c.Hosts()}
}

// openOn opens a store at the address and closes it when the test ends.
func openOn(t testing.TB, a Address, o Options) *Store {
	t.Helper()
	o.Address = a
	return openAt(t, "", o)
}

func TestStoreOnSentinel(t *testing.T) {
	servers := ok[*redistest.Sentinels](t)(shared.sentinels())
	n := 0
	storetest.Run(t, func(t *testing.T, now func() time.Time) store.Store {
		a := sentinelAddress(servers)
		n++
		a.DB = n
		a.ReplicasAck = n % 2 // every second test waits for the replica
		return openOn(t, a, Options{Clock: now, Sweep: time.Hour})
	})
}

func TestStoreOnCluster(t *testing.T) {
	servers := ok[*redistest.Cluster](t)(shared.cluster())
	n := 0
	storetest.Run(t, func(t *testing.T, now func() time.Time) store.Store {
		must(t, servers.Empty())
		a := clusterAddress(servers)
		n++
		a.ReplicasAck = n % 2
		return openOn(t, a, Options{Clock: now, Sweep: time.Hour})
	})
}

// TestFirmsSpreadOverTheShards: the keys of a firm are on one node, those of many firms on all nodes.
func TestFirmsSpreadOverTheShards(t *testing.T) {
	servers := ok[*redistest.Cluster](t)(shared.cluster())
	must(t, servers.Empty())
	s := openOn(t, clusterAddress(servers), Options{Sweep: time.Hour})
	for i := range 60 {
		k := store.Key{Firm: fmt.Sprint("firm ", i), Bucket: "bucket", ID: "id"}
		must(t, s.Apply(t.Context(), store.Create(k, []byte("v"), time.Now().Add(time.Hour)), store.Create(store.Key{Firm: k.Firm, Bucket: "other", ID: "id"}, nil, time.Time{})))
	}
	for _, node := range servers.Masters {
		firms := map[string]bool{}
		for _, k := range node.Raw().Keys(t.Context(), "*").Val() {
			_, rest, _ := strings.Cut(k, "{")
			tag, _, _ := strings.Cut(rest, "}")
			firms[tag] = true
			if want := int(node.Raw().ClusterKeySlot(t.Context(), k).Val()); slotOf(k) != want {
				t.Errorf("slotOf(%q) = %d; the server says %d", k, slotOf(k), want)
			}
		}
		if len(firms) < 10 {
			t.Errorf("a node has %d of 60 firms; want about 20", len(firms))
		}
	}
}
