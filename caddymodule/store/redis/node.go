package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// node is a Redis server that requests are sent to, with a circuit breaker: while it doesn't reply,
// requests fail at once, and only watch waits for it.
type node struct {
	options *redis.Options // never changed; every client gets a copy
	store   string         // address of the whole store, for logs
	log     *slog.Logger
	nonce   func() string
	lost    func() // called when the circuit opens; must not block

	address atomic.Pointer[string]
	client  atomic.Pointer[redis.Client] // replaced after each problem, see replaceClient
	mu      sync.Mutex                   // guards replacing the client
	down    atomic.Pointer[outage]       // nil while the server replies
	opened  chan struct{}                // wakes watch: down was set
	ended   chan struct{}                // closed by close
	closed  bool                         // guarded by mu
}

// outage is a time during which a server doesn't reply.
type outage struct {
	since time.Time
	err   error // returned to callers without waiting
}

// errNoReply: the server doesn't reply, which has been logged.
var errNoReply = errors.New("the server does not reply")

// noReply is an errNoReply with its own text.
type noReply struct{ error }

func (e noReply) Unwrap() error        { return e.error }
func (e noReply) Is(target error) bool { return target == errNoReply }

// newNode returns a node. The caller runs watch and calls close. An empty address is unknown as yet:
// the circuit is open.
func (s *Store) newNode(options *redis.Options, address string, lost func()) *node {
	n := &node{options: options, store: s.address, log: s.log, nonce: s.nonce, lost: lost, opened: make(chan struct{}, 1), ended: make(chan struct{})}
	n.address.Store(&address)
	n.client.Store(n.dial())
	s.tasks.Go(n.watch)
	return n
}

func (n *node) addr() string { return *n.address.Load() }

// name returns the address for logs and errors.
func (n *node) name() string { return cmp.Or(n.addr(), n.store) }

func (n *node) dial() *redis.Client {
	options := *n.options
	options.Addr = n.addr()
	return redis.NewClient(&options)
}

// moveTo makes the server at another address the node's. Its connections are closed.
func (n *node) moveTo(address string) {
	n.address.Store(&address)
	n.replaceClient(n.client.Load())
}

// close closes the connections and ends watch.
func (n *node) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	close(n.ended)
	return n.client.Load().Close()
}

// replaceClient replaces a client that can't be trusted and closes its connections. It returns
// false if another caller has done so.
func (n *node) replaceClient(old *redis.Client) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.client.Load() != old {
		return false
	}
	n.client.Store(n.dial())
	_ = old.Close() // the connections may be dead, so ignore the error
	return true
}

// probeEvery is the interval of probes while a server is down.
const probeEvery = 250 * time.Millisecond

// openCircuit records that the server doesn't reply: from now on, only watch waits for it.
func (n *node) openCircuit(why error) {
	o := &outage{time.Now(), unavailable(noReply{fmt.Errorf("the Redis server at %s does not reply: %w", n.name(), why)})}
	if !n.down.CompareAndSwap(nil, o) {
		return
	}
	n.log.Error("the Redis server does not reply; requests that need it fail until it does", "address", n.name(), "error", why)
	n.opened <- struct{}{}
	n.lost()
}

// watch waits for the server to reply again after each outage, until the node is closed.
func (n *node) watch() {
	for {
		select {
		case <-n.ended:
			return
		case <-n.opened:
		}
		n.replaceClient(n.client.Load()) // its connections may hang
		for !n.responds() {
			select {
			case <-n.ended:
				return
			case <-time.After(probeEvery):
			}
		}
		o := n.down.Swap(nil)
		n.log.Info("the Redis server replies again", "address", n.name(), "away", time.Since(o.since).Round(time.Millisecond).String())
	}
}

// responds reports whether the server replies to a request.
func (n *node) responds() bool {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	client := n.client.Load()
	if client.Options().Addr == "" || dials(ctx, client) != nil {
		return false
	}
	answer, err := attempt(ctx, client, request{script: echoScript, args: []any{n.nonce()}})
	return err == nil && len(answer) == 0
}
