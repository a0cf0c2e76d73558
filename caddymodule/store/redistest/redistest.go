// Package redistest starts real Redis servers for tests: one, or some with Sentinels, or a Cluster.
// They listen on this machine only, at ports that were free.
package redistest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a Redis server or a Sentinel. It keeps its data when it is killed, so that it can be
// started again.
type Server struct {
	Dir, Port string
	TLSPort   string // "": none

	args []string
	cmd  *exec.Cmd
	raw  *redis.Client
}

// Start starts a server with durable data in a new folder inside dir.
func Start(dir string, args ...string) (*Server, error) {
	s, err := prepare(dir, "redis", args...)
	if err != nil {
		return nil, err
	}
	s.args = append([]string{
		"--bind", "127.0.0.1", "--port", s.Port, "--dir", s.Dir, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
	}, s.args...)
	return s, s.Start()
}

func prepare(dir, kind string, args ...string) (*Server, error) {
	if _, err := exec.LookPath("redis-server"); err != nil {
		return nil, errors.New("there is no redis-server; ./test.sh installs it")
	}
	own, err := os.MkdirTemp(dir, kind+"-*")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: own, Port: FreePort(), args: args}
	s.raw = redis.NewClient(&redis.Options{Addr: s.Address(), DisableIdentity: true, Protocol: 2, MaxRetries: -1, DialerRetries: 1})
	return s, nil
}

// FreePort returns a port that is free now.
func FreePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Start starts the server, again if it was killed, and waits until it listens.
func (s *Server) Start() error {
	s.cmd = exec.Command("redis-server", s.args...)
	if err := s.cmd.Start(); err != nil {
		return err
	}
	return Eventually("redis-server listens", func() bool {
		conn, err := net.Dial("tcp", s.Address())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// Kill ends the server at once. A second call does nothing.
func (s *Server) Kill() {
	if s.cmd != nil && s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // with an error, because it was killed
	}
}

// End makes the server save its data and end.
func (s *Server) End() error {
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	_ = s.cmd.Wait() // with an error, because it was interrupted
	return nil
}

// Signal sends a signal to the process, if it runs.
func (s *Server) Signal(sig os.Signal) { _ = s.cmd.Process.Signal(sig) }

func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", s.Port) }
func (s *Server) URL() string     { return "redis://" + s.Address() }

// Raw returns a plain client.
func (s *Server) Raw() *redis.Client { return s.raw }

// Say sends a command, and returns the reply.
func (s *Server) Say(words ...any) (any, error) {
	return s.raw.Do(context.Background(), words...).Result()
}

// Sentinels are a master, its replicas, and Sentinels that watch them.
type Sentinels struct {
	Name      string
	Servers   []*Server // the first one was the master at the beginning
	Sentinels []*Server
}

// StartSentinels starts a master with replicas, and three Sentinels that take a server for dead after
// half a second.
func StartSentinels(dir string, replicas int) (*Sentinels, error) {
	return startSentinels(dir, replicas, "", func(string) {})
}

// StartSentinelsBehind starts a master with a replica, and three Sentinels that know it by the address
// of a proxy. to is called with its own.
func StartSentinelsBehind(dir, proxy string, to func(master string)) (*Sentinels, error) {
	return startSentinels(dir, 1, proxy, to)
}

func startSentinels(dir string, replicas int, monitor string, to func(master string)) (*Sentinels, error) {
	master, err := Start(dir, "--repl-diskless-sync-delay", "0", "--databases", "1000", "--repl-timeout", "5")
	if err != nil {
		return nil, err
	}
	to(master.Address())
	t := &Sentinels{Name: "mymaster", Servers: []*Server{master}}
	for range replicas {
		s, err := Start(dir, "--replicaof", "127.0.0.1 "+master.Port, "--repl-diskless-sync-delay", "0", "--databases", "1000", "--repl-timeout", "5")
		if err != nil {
			return t, err
		}
		t.Servers = append(t.Servers, s)
	}
	if monitor == "" {
		monitor = master.Address()
	}
	host, port, _ := net.SplitHostPort(monitor)
	for range 3 {
		s, err := prepare(dir, "sentinel")
		if err != nil {
			return t, err
		}
		path := filepath.Join(s.Dir, "sentinel.conf")
		conf := fmt.Sprintf("sentinel monitor %s %s %s 2\nsentinel down-after-milliseconds %[1]s 500\nsentinel failover-timeout %[1]s 2000\n", t.Name, host, port)
		if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
			return t, err
		}
		s.args = []string{path, "--sentinel", "--bind", "127.0.0.1", "--port", s.Port, "--dir", s.Dir}
		if err := s.Start(); err != nil {
			return t, err
		}
		t.Sentinels = append(t.Sentinels, s)
	}
	return t, t.Settle()
}

// Settle waits until all Sentinels know one another and the replicas that run, and these have the
// master's data.
func (t *Sentinels) Settle() error {
	return Eventually("the Sentinels and the replicas know one another", func() bool {
		for _, s := range t.Sentinels {
			facts, err := s.facts("SENTINEL", "MASTER", t.Name)
			if err != nil || facts["num-other-sentinels"] != "2" || facts["num-slaves"] != strconv.Itoa(len(t.Servers)-1) || facts["flags"] != "master" {
				return false
			}
		}
		m := t.Master()
		return m != nil && m.replicas() == len(t.Servers)-1
	})
}

// replicas returns the number of replicas that are online.
func (s *Server) replicas() int {
	info, _ := s.raw.Info(context.Background(), "replication").Result()
	return strings.Count(info, "state=online")
}

func (s *Server) facts(words ...any) (map[string]string, error) {
	list, err := s.raw.Do(context.Background(), words...).StringSlice()
	facts := make(map[string]string)
	for i := 0; i+1 < len(list); i += 2 {
		facts[list[i]] = list[i+1]
	}
	return facts, err
}

// Master returns the server that the Sentinels name, or nil.
func (t *Sentinels) Master() *Server {
	for _, s := range t.Sentinels {
		at, err := s.raw.Do(context.Background(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", t.Name).StringSlice()
		if err != nil || len(at) != 2 {
			continue
		}
		for _, server := range t.Servers {
			if server.Port == at[1] {
				return server
			}
		}
		return t.Servers[0] // by another address
	}
	return nil
}

// Hosts returns the addresses of the Sentinels.
func (t *Sentinels) Hosts() string { return addresses(t.Sentinels) }

// Kill ends all servers.
func (t *Sentinels) Kill() { killAll(slices.Concat(t.Sentinels, t.Servers)) }

// Cluster is a Redis Cluster.
type Cluster struct {
	Masters  []*Server // with as many slots each, in order
	Replicas []*Server // of the master with the same number
}

// StartCluster starts a Cluster of that many masters, with a replica each if so wanted. announce has
// the ports by which the masters are known, where these aren't their own. args are more arguments of
// each server; with --tls-cert-file, the nodes use TLS.
func StartCluster(dir string, masters int, replicas bool, announce []string, args ...string) (*Cluster, error) {
	ctx := context.Background()
	t := new(Cluster)
	start := func(more ...string) (*Server, error) {
		tlsPort := ""
		if slices.Contains(args, "--tls-cert-file") {
			tlsPort = FreePort()
			more = append(more, "--tls-port", tlsPort, "--tls-cluster", "yes")
		}
		s, err := Start(dir, slices.Concat([]string{"--cluster-enabled", "yes", "--cluster-port", FreePort(), "--cluster-node-timeout", "1000",
			"--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"}, more, args)...)
		if s != nil {
			s.TLSPort = tlsPort
		}
		return s, err
	}
	for i := range masters {
		var more []string
		if announce != nil {
			more = []string{"--cluster-announce-port", announce[i]}
		}
		s, err := start(more...)
		if err != nil {
			return t, err
		}
		t.Masters = append(t.Masters, s)
		first, last := i*16384/masters, (i+1)*16384/masters-1
		if err := errors.Join(s.raw.Do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", i+1).Err(), s.raw.ClusterAddSlotsRange(ctx, first, last).Err()); err != nil {
			return t, err
		}
		if replicas {
			if s, err = start(); err != nil {
				return t, err
			}
			t.Replicas = append(t.Replicas, s)
		}
	}
	for _, s := range t.All()[1:] {
		if err := t.meet(s); err != nil {
			return t, err
		}
	}
	if err := t.Settle(); err != nil {
		return t, err
	}
	for i, s := range t.Replicas {
		id, err := t.Masters[i].raw.Do(ctx, "CLUSTER", "MYID").Text()
		if err == nil {
			err = s.raw.Do(ctx, "CLUSTER", "REPLICATE", id).Err()
		}
		if err != nil {
			return t, err
		}
	}
	return t, Eventually("the replicas have the data", func() bool {
		for i := range t.Replicas {
			if t.Masters[i].replicas() != 1 {
				return false
			}
		}
		return true
	})
}

// meet makes the first node know the server.
func (t *Cluster) meet(s *Server) error {
	bus := s.args[slices.Index(s.args, "--cluster-port")+1]
	return t.Masters[0].raw.Do(context.Background(), "CLUSTER", "MEET", "127.0.0.1", s.Port, bus).Err()
}

// Add adds a master without slots.
func (t *Cluster) Add(dir string) (*Server, error) {
	s, err := Start(dir, "--cluster-enabled", "yes", "--cluster-port", FreePort(), "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no")
	if err == nil {
		err = t.meet(s)
	}
	if err != nil {
		return s, err
	}
	t.Masters = append(t.Masters, s)
	return s, t.Settle()
}

// Settle waits until all nodes know one another, and all slots have a node that replies.
func (t *Cluster) Settle() error {
	return Eventually("the Cluster is whole", func() bool {
		for _, s := range t.All() {
			info, err := s.raw.ClusterInfo(context.Background()).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_ok:16384") ||
				!strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", len(t.All()))) {
				return false
			}
		}
		return true
	})
}

// All returns all servers, masters first.
func (t *Cluster) All() []*Server { return slices.Concat(t.Masters, t.Replicas) }

// Hosts returns the addresses of all nodes.
func (t *Cluster) Hosts() string { return addresses(t.All()) }

// Empty deletes all data.
func (t *Cluster) Empty() error {
	var errs []error
	for _, s := range t.All() {
		if info, _ := s.raw.Info(context.Background(), "replication").Result(); strings.Contains(info, "role:master") {
			errs = append(errs, s.raw.FlushAll(context.Background()).Err())
		}
	}
	return errors.Join(errs...)
}

// Owner returns the server that has the slot.
func (t *Cluster) Owner(slot int) *Server {
	for _, s := range t.All() {
		parts, err := s.raw.ClusterSlots(context.Background()).Result()
		if err != nil {
			continue
		}
		for _, part := range parts {
			if slot < part.Start || slot > part.End {
				continue
			}
			for _, owner := range t.All() {
				if strings.HasSuffix(part.Nodes[0].Addr, ":"+owner.Port) {
					return owner
				}
			}
		}
	}
	return nil
}

// Move moves a slot to another master, as redis-cli does.
func (t *Cluster) Move(slot int, to *Server) error {
	ctx := context.Background()
	from := t.Owner(slot)
	if from == nil || from == to {
		return fmt.Errorf("the slot %d has no other owner", slot)
	}
	ids := make(map[*Server]string)
	for _, s := range []*Server{from, to} {
		id, err := s.raw.Do(ctx, "CLUSTER", "MYID").Text()
		if err != nil {
			return err
		}
		ids[s] = id
	}
	if err := errors.Join(to.raw.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[from]).Err(), from.raw.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to]).Err()); err != nil {
		return err
	}
	for {
		keys, err := from.raw.ClusterGetKeysInSlot(ctx, slot, 10).Result()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		words := []any{"MIGRATE", "127.0.0.1", to.Port, "", 0, 5000, "KEYS"}
		for _, k := range keys {
			words = append(words, k)
		}
		if err := from.raw.Do(ctx, words...).Err(); err != nil {
			return err
		}
	}
	for _, s := range slices.Concat([]*Server{to, from}, t.Masters) { // the new owner first
		if err := s.raw.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", ids[to]).Err(); err != nil && (s == to || s == from) {
			return err
		}
	}
	return nil
}

// Kill ends all servers.
func (t *Cluster) Kill() { killAll(t.All()) }

func killAll(servers []*Server) {
	for _, s := range servers {
		s.Kill()
		_ = s.raw.Close()
	}
}

func addresses(servers []*Server) string {
	var list []string
	for _, s := range servers {
		list = append(list, s.Address())
	}
	return strings.Join(list, " ")
}

// Eventually waits until ok returns true, for 30 seconds at most.
func Eventually(what string, ok func() bool) error {
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within 30 s", what)
		}
	}
	return nil
}
