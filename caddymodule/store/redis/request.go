package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// The scripts; each describes its arguments. All replies are lists that begin with the nonce.
var (
	//go:embed scripts/common.lua
	commonSource string
	//go:embed scripts/get.lua
	getSource string
	//go:embed scripts/apply.lua
	applySource string
	//go:embed scripts/stage.lua
	stageSource string
	//go:embed scripts/commit.lua
	commitSource string
	//go:embed scripts/apply_staged.lua
	applyStagedSource string
	//go:embed scripts/scan.lua
	scanSource string
	//go:embed scripts/sweep.lua
	sweepSource string
	//go:embed scripts/publish.lua
	publishSource string
	//go:embed scripts/time.lua
	timeSource string

	getScript         = redis.NewScript(commonSource + getSource)
	applyScript       = redis.NewScript(commonSource + applySource)
	scanScript        = redis.NewScript(commonSource + scanSource)
	sweepScript       = redis.NewScript(commonSource + sweepSource)
	stageScript       = redis.NewScript(commonSource + stageSource)
	commitScript      = redis.NewScript(commitSource)
	applyStagedScript = redis.NewScript(commonSource + applyStagedSource)
	publishScript     = redis.NewScript(publishSource)
	timeScript        = redis.NewScript(timeSource)
)

// request is one run of a script.
type request struct {
	script *redis.Script
	key    string
	args   []any                    // the first is set to the nonce
	read   func(answer []any) error // reads the reply after the nonce; after errWrongReply the request is sent again
}

var (
	errClosed    = errors.New("the store has been closed")
	errMalformed = errors.New("the reply has an unknown form")
)

// unavailable returns an error for a request without a reply.
func unavailable(why error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, why) }

// do sends the request. If no reply arrives, or one to another request, it sends the request again
// with the same nonce. If ctx has ended before, do returns an error. If ctx ends later, do still
// waits, less than a second: a caller who doesn't know whether a link was used can do nothing
// right.
func (s *Store) do(ctx context.Context, q request) error {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	if s.closed.Load() {
		return unavailable(errClosed)
	}
	if why := s.notReady.Load(); why != nil && ctx.Value(settingUp{}) == nil {
		return unavailable(*why)
	}
	q.args[0] = s.nonce()
	// Without the caller's deadline: see above.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxAttempts*attemptTimeout)
	defer cancel()
	var err error
	for tries, more := 0, maxAttempts; tries < more && ctx.Err() == nil; tries++ {
		if o := s.down.Load(); o != nil {
			return o.err // others have found out meanwhile
		}
		client := s.client.Load()
		answer, failure := attempt(ctx, client, q)
		if failure == nil {
			failure = q.read(answer)
		}
		switch err = failure; {
		case err == nil:
			return nil
		case s.closed.Load():
			return unavailable(errClosed)
		case errors.Is(err, errWrongReply):
			// Neither this connection nor the others can be trusted.
			if s.replaceClient(client) {
				s.log.Error("the Redis server sent a reply to another request; all connections are closed", "address", s.address)
			}
		case isReply(err):
			return replyError(err)
		case s.client.Load() != client && more < 2*maxAttempts:
			more++ // another caller dropped this connection
		}
	}
	if !errors.Is(err, errWrongReply) {
		s.openCircuit(err)
	}
	return unavailable(err)
}

// attempt sends the request once.
func attempt(ctx context.Context, client *redis.Client, q request) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	answer, err := q.script.Run(ctx, client, []string{q.key}, q.args...).Slice()
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 || answer[0] != q.args[0] {
		return nil, errWrongReply
	}
	return answer[1:], nil
}

// isReply reports whether the error is a reply, by the server, the store or a full pool, and not a
// missing reply.
func isReply(err error) bool {
	_, byServer := errors.AsType[redis.Error](err)
	return byServer || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, store.ErrNotFound) ||
		errors.Is(err, store.ErrConflict) || errors.Is(err, ErrNewer) || errors.Is(err, errMalformed)
}

// replyError returns the caller's error for a reply that is an error.
func replyError(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return unavailable(err)
}

// replaceClient replaces a client that can't be trusted and closes its connections. It returns
// false if another caller has done so.
func (s *Store) replaceClient(old *redis.Client) bool {
	s.clientMu.Lock()
	defer s.clientMu.Unlock()
	if s.closed.Load() || s.client.Load() != old {
		return false
	}
	s.client.Store(s.dial())
	_ = old.Close() // the connections may be dead, so ignore the error
	return true
}

// outage is a time during which the server doesn't reply.
type outage struct {
	since time.Time
	err   error // returned to callers without waiting
}

// probeEvery is the interval of probes while the server is down.
const probeEvery = 250 * time.Millisecond

// openCircuit records that the server doesn't reply: from now on, only watch waits for it.
func (s *Store) openCircuit(why error) {
	o := &outage{time.Now(), unavailable(fmt.Errorf("the Redis server at %s does not reply: %w", s.address, why))}
	if !s.down.CompareAndSwap(nil, o) {
		return
	}
	s.log.Error("the Redis server does not reply; requests that need it fail until it does", "address", s.address, "error", why)
	s.circuitOpened <- struct{}{}
}

// watch waits for the server to reply again after each outage.
func (s *Store) watch() {
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.circuitOpened:
		}
		s.replaceClient(s.client.Load()) // its connections may hang
		for !s.responds() {
			select {
			case <-s.life.Done():
				return
			case <-time.After(probeEvery):
			}
		}
		o := s.down.Swap(nil)
		s.log.Info("the Redis server replies again", "address", s.address, "away", time.Since(o.since).Round(time.Millisecond).String())
	}
}

// responds reports whether the server replies to a request. It dials first, since go-redis writes
// to standard error if dialing fails.
func (s *Store) responds() bool {
	ctx, cancel := context.WithTimeout(context.Background(), attemptTimeout)
	defer cancel()
	client := s.client.Load()
	o := client.Options()
	conn, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	answer, err := attempt(ctx, client, request{script: getScript, key: recordKey(probeKey), args: []any{s.nonce(), firmPrefix(probeKey.Firm), member(probeKey)}})
	return err == nil && len(answer) == 1
}

// probeKey is a key without a record, for probes.
var probeKey = store.Key{Bucket: "probe", ID: "none"}

// nonce returns an ID for a request, unique among all Stores.
func (s *Store) nonce() string { return s.nonces + strconv.FormatUint(s.requests.Add(1), 36) }
