package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// topology knows which server has which keys. Its methods don't wait for the network, except start.
//
// go-redis has clients for Sentinel and Cluster too, but one circuit breaker per server, time limits
// that hold whatever the topology does, and WAIT on the connection of a change need each server's
// own client.
type topology interface {
	start(ctx context.Context) // finds the servers; later failures are repeated until closed
	route(key string) (*node, error)
	moved(key string, n *node, to string) // a reply of n: the server at the address has the key's slot; "" if unknown
	lost()                                // a server is gone or has another role: look where its keys are
	all() []*node
	close() error
}

// single is one server.
type single struct{ n *node }

func (t single) start(context.Context)       {}
func (t single) route(string) (*node, error) { return t.n, nil }
func (t single) moved(string, *node, string) {}
func (t single) lost()                       {}
func (t single) all() []*node                { return []*node{t.n} }
func (t single) close() error                { return t.n.close() }

// repeat calls look every interval, sooner if woken or if look returns false, until the store is
// closed.
func (s *Store) repeat(every time.Duration, wake <-chan struct{}, look func(ctx context.Context) bool) {
	for wait := every; ; {
		select {
		case <-s.life.Done():
			return
		case <-wake:
		case <-time.After(wait):
		}
		ctx, cancel := context.WithTimeout(s.life, attemptTimeout)
		if wait = every; !look(ctx) {
			wait = probeEvery
		}
		cancel()
	}
}

// sentinels finds the server by asking Sentinels. It keeps to the last server that they named while
// none of them replies.
type sentinels struct {
	s       *Store
	name    string
	clients []*redis.Client
	n       *node
	wake    chan struct{}

	mu     sync.Mutex // held while looking
	epoch  int64      // of the configuration that named the server
	silent time.Time  // since when no Sentinel has replied; zero: one has
}

func (s *Store) newSentinels(a Address, options *redis.Options) *sentinels {
	t := &sentinels{s: s, name: a.Sentinel, wake: make(chan struct{}, 1), epoch: -1}
	for _, host := range a.hosts() {
		t.clients = append(t.clients, redis.NewClient(a.sentinelOptions(options, host)))
	}
	t.n = s.newNode(options, "", t.lost)
	return t
}

func (t *sentinels) route(string) (*node, error) { return t.n, nil }
func (t *sentinels) moved(string, *node, string) { t.lost() }
func (t *sentinels) all() []*node                { return []*node{t.n} }

func (t *sentinels) lost() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *sentinels) start(ctx context.Context) {
	if err := t.look(ctx); err != nil {
		t.n.openCircuit(err)
	}
	t.s.tasks.Go(func() {
		t.s.repeat(time.Second, t.wake, func(ctx context.Context) bool { return t.look(ctx) == nil && t.n.down.Load() == nil })
	})
}

func (t *sentinels) close() error {
	errs := []error{t.n.close()}
	for _, c := range t.clients {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// named is a Sentinel's reply.
type named struct {
	address string
	epoch   int64
	err     error
}

// look asks all Sentinels at once, and follows the latest configuration that a majority of them
// knows, or any of them if it isn't older than the one known.
func (t *sentinels) look(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	replies := make(chan named, len(t.clients))
	for _, c := range t.clients {
		go func() { replies <- t.ask(ctx, c) }()
	}
	best, count := named{epoch: -1}, 0
	var errs []error
	for range t.clients {
		r := <-replies
		if r.err != nil {
			errs = append(errs, r.err)
			continue
		}
		if count++; r.epoch > best.epoch {
			best = r
		}
		if count > len(t.clients)/2 {
			break
		}
	}
	if count == 0 {
		if t.silent.IsZero() {
			t.silent = time.Now()
			t.s.log.Error("no Sentinel replies; the Redis server is used as long as it replies, but another one that takes its place is not found",
				"sentinels", t.s.address, "error", errors.Join(errs...))
		}
		return fmt.Errorf("no Sentinel names the server %s: %w", t.name, errors.Join(errs...))
	}
	if !t.silent.IsZero() {
		t.s.log.Info("a Sentinel replies again", "sentinels", t.s.address, "away", time.Since(t.silent).Round(time.Millisecond).String())
		t.silent = time.Time{}
	}
	if count <= len(t.clients)/2 && best.epoch < t.epoch {
		return nil // the ones that know better don't reply
	}
	t.epoch = best.epoch
	if was := t.n.addr(); was != best.address {
		if was != "" {
			t.s.log.Warn("Sentinels name another Redis server, which is used from now on", "before", was, "address", best.address)
		}
		t.n.moveTo(best.address)
	}
	return nil
}

func (t *sentinels) ask(ctx context.Context, c *redis.Client) named {
	at := c.Options().Addr
	if err := dials(ctx, c); err != nil {
		return named{err: fmt.Errorf("the Sentinel at %s: %w", at, err)}
	}
	reply, err := c.Do(ctx, "SENTINEL", "MASTER", t.name).Slice()
	if err != nil {
		if strings.HasPrefix(err.Error(), "ERR No such master") {
			err = settingsError{fmt.Errorf("the Sentinel at %s knows no server named %q; write the name that its configuration has in the line \"sentinel monitor NAME …\"", at, t.name)}
		} else if strings.HasPrefix(err.Error(), "ERR unknown command") {
			err = settingsError{fmt.Errorf("the server at %s is no Sentinel; write the HOST:PORT of Sentinels, which mostly listen on port 26379", at)}
		} else if slices.Contains([]string{"WRONGPASS", "NOAUTH", "NOPERM"}, kindOf(err)) {
			err = fmt.Errorf("the Sentinel at %s: %w: check sentinel_username and sentinel_password", at, err)
		} else {
			err = fmt.Errorf("the Sentinel at %s: %w", at, err)
		}
		return named{err: err}
	}
	facts := make(map[string]string, len(reply)/2)
	for i := 0; i+1 < len(reply); i += 2 {
		name, _ := reply[i].(string)
		facts[name], _ = reply[i+1].(string)
	}
	epoch, err := strconv.ParseInt(facts["config-epoch"], 10, 64)
	if err != nil || facts["ip"] == "" || facts["port"] == "" {
		return named{err: fmt.Errorf("the Sentinel at %s: %w", at, errMalformed)}
	}
	return named{address: net.JoinHostPort(facts["ip"], facts["port"]), epoch: epoch}
}

// cluster routes by the slots of a Redis Cluster.
type cluster struct {
	s       *Store
	seeds   []string
	options *redis.Options
	slots   [slotCount]atomic.Pointer[node]
	wake    chan struct{}
	failure atomic.Pointer[error] // of the last look; nil: it succeeded

	mu     sync.Mutex
	nodes  map[string]*node // that have slots, by address
	others []string         // addresses of replicas, to ask as well
	closed bool
}

const slotCount = 16384

func (s *Store) newCluster(a Address, options *redis.Options) *cluster {
	return &cluster{s: s, seeds: a.hosts(), options: options, wake: make(chan struct{}, 1), nodes: make(map[string]*node)}
}

func (t *cluster) route(key string) (*node, error) {
	if n := t.slots[slotOf(key)].Load(); n != nil {
		return n, nil
	}
	if err := t.failure.Load(); err != nil {
		return nil, *err
	}
	t.lost()
	return nil, errors.New("no node of the Redis Cluster has the slot of these keys; see what \"redis-cli --cluster check\" says")
}

func (t *cluster) moved(key string, n *node, to string) {
	defer t.lost()
	host, port, err := net.SplitHostPort(to)
	if err != nil || host == "?" {
		return
	}
	if host == "" { // the same host
		host, _, _ = net.SplitHostPort(n.addr())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.slots[slotOf(key)].Store(t.nodeAt(net.JoinHostPort(host, port)))
	}
}

// nodeAt returns the node at the address. The caller holds t.mu.
func (t *cluster) nodeAt(address string) *node {
	n := t.nodes[address]
	if n == nil {
		n = t.s.newNode(t.options, address, t.lost)
		t.nodes[address] = n
	}
	return n
}

func (t *cluster) lost() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *cluster) all() []*node {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*node, 0, len(t.nodes))
	for _, n := range t.nodes {
		all = append(all, n)
	}
	return all
}

func (t *cluster) start(ctx context.Context) {
	t.look(ctx)
	t.s.tasks.Go(func() { t.s.repeat(5*time.Second, t.wake, t.look) })
}

func (t *cluster) close() error {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	var errs []error
	for _, n := range t.all() {
		errs = append(errs, n.close())
	}
	return errors.Join(errs...)
}

// layout is a node's reply: which node has which slots.
type layout struct {
	slots []redis.ClusterSlot
	epoch int64
	from  string
	err   error
}

// mostAsked is how many nodes are asked at once.
const mostAsked = 6

// look asks several nodes at once which has which slots, and believes the latest. It returns false if it
// should look again soon.
func (t *cluster) look(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	best, err := t.ask(ctx, t.known())
	if err != nil {
		err = fmt.Errorf("no node of the Redis Cluster says which of them has which keys: %w", err)
		if t.failure.Swap(&err) == nil {
			t.s.log.Error("no node of the Redis Cluster says which of them has which keys", "address", t.s.address, "error", err)
		}
		return false
	}
	t.failure.Store(nil)
	return t.follow(best)
}

// known returns the addresses of nodes to ask: some that reply, and others while one doesn't.
func (t *cluster) known() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var up, rest []string
	for address, n := range t.nodes {
		if n.down.Load() == nil {
			up = append(up, address)
		} else {
			rest = append(rest, address)
		}
	}
	if len(up) > 0 && len(rest) == 0 {
		rand.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
		return up[:min(len(up), mostAsked/2)]
	}
	rest = append(append(rest, t.others...), t.seeds...)
	for _, list := range [][]string{up, rest} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	var list []string
	for _, address := range append(up[:min(len(up), mostAsked/2)], rest...) {
		if !slices.Contains(list, address) {
			list = append(list, address)
		}
	}
	return list[:min(len(list), mostAsked)]
}

func (t *cluster) ask(ctx context.Context, addresses []string) (best layout, err error) {
	replies := make(chan layout, len(addresses))
	for _, address := range addresses {
		go func() { replies <- t.askOne(ctx, address) }()
	}
	var errs []error
	var grace <-chan time.Time
	best.epoch = -1
	for range addresses {
		select {
		case r := <-replies:
			if r.err != nil {
				errs = append(errs, fmt.Errorf("the node at %s: %w", r.from, r.err))
				continue
			}
			if best.epoch < r.epoch {
				best = r
			}
			if grace == nil {
				grace = time.After(100 * time.Millisecond) // for those that know better
			}
			continue
		case <-grace:
		}
		break
	}
	if best.epoch < 0 {
		return best, errors.Join(errs...)
	}
	return best, nil
}

// askOne asks one node, over the connections that requests use where they work.
func (t *cluster) askOne(ctx context.Context, address string) layout {
	t.mu.Lock()
	n := t.nodes[address]
	t.mu.Unlock()
	r := layout{from: address, epoch: -1}
	var client *redis.Client
	if n != nil && n.down.Load() == nil {
		client = n.client.Load()
	} else {
		options := *t.options
		options.Addr, options.PoolSize = address, 1
		client = redis.NewClient(&options)
		defer client.Close()
		if r.err = dials(ctx, client); r.err != nil {
			return r
		}
	}
	var info *redis.StringCmd
	var slots *redis.ClusterSlotsCmd
	_, r.err = client.Pipelined(ctx, func(p redis.Pipeliner) error {
		info, slots = p.ClusterInfo(ctx), p.ClusterSlots(ctx)
		return nil
	})
	if r.err != nil {
		if strings.Contains(r.err.Error(), "cluster support disabled") {
			r.err = settingsError{errors.New("this Redis server is no node of a Cluster; write \"store redis redis://HOST:6379/0\" for one server")}
		}
		return r
	}
	_, after, _ := strings.Cut(info.Val(), "cluster_current_epoch:")
	epoch, _, _ := strings.Cut(after, "\r\n")
	r.slots = slots.Val()
	if r.epoch, r.err = strconv.ParseInt(epoch, 10, 64); r.err != nil {
		r.epoch, r.err = -1, errMalformed
	}
	return r
}

// dials dials once. go-redis writes to standard error if dialing fails, so try whether it can first.
func dials(ctx context.Context, client *redis.Client) error {
	o := client.Options()
	conn, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return err
	}
	return conn.Close()
}

// follow makes the slots' nodes those of the layout. It returns false if a node is down.
func (t *cluster) follow(l layout) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return true
	}
	t.others = nil
	var table [slotCount]*node
	used := make(map[*node]bool)
	for _, part := range l.slots {
		for i, at := range part.Nodes {
			address := at.Addr
			if host, port, err := net.SplitHostPort(address); err != nil || port == "0" || host == "?" {
				continue
			} else if host == "" {
				host, _, _ = net.SplitHostPort(l.from)
				address = net.JoinHostPort(host, port)
			}
			if i > 0 {
				t.others = append(t.others, address)
				continue
			}
			n := t.nodeAt(address)
			used[n] = true
			for slot := max(part.Start, 0); slot <= min(part.End, slotCount-1); slot++ {
				table[slot] = n
			}
		}
	}
	for slot, n := range table {
		if t.slots[slot].Load() != n {
			t.slots[slot].Store(n)
		}
	}
	up := true
	for address, n := range t.nodes {
		if !used[n] {
			delete(t.nodes, address)
			_ = n.close()
			continue
		}
		up = up && n.down.Load() == nil
	}
	return up
}

// slotOf returns the slot of a key of ours, which has a hash tag.
func slotOf(key string) int {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			key = tag
		}
	}
	var crc uint16 // CRC16-CCITT (XModem), as the Cluster specification has it
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % slotCount)
}
