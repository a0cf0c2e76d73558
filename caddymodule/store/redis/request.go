package redis

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
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
	//go:embed scripts/echo.lua
	echoSource string

	getScript         = redis.NewScript(commonSource + getSource)
	applyScript       = redis.NewScript(commonSource + applySource)
	scanScript        = redis.NewScript(commonSource + scanSource)
	sweepScript       = redis.NewScript(commonSource + sweepSource)
	stageScript       = redis.NewScript(commonSource + stageSource)
	commitScript      = redis.NewScript(commitSource)
	applyStagedScript = redis.NewScript(commonSource + applyStagedSource)
	publishScript     = redis.NewScript(publishSource)
	timeScript        = redis.NewScript(timeSource)
	echoScript        = redis.NewScript(echoSource)
)

// request is one run of a script.
type request struct {
	script *redis.Script
	key    string                   // of the firm; "": none
	guard  bool                     // declare a second key of the firm, see the package comment
	acks   int                      // replicas that must have the change
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
	q.guard = s.where.Cluster
	// Without the caller's deadline: see above.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxAttempts*attemptTimeout)
	defer cancel()
	var err error
	var n *node
	for tries, more := 0, maxAttempts; tries < more && ctx.Err() == nil; tries++ {
		if n, err = s.topology.route(q.key); err != nil {
			return unavailable(err)
		}
		if o := n.down.Load(); o != nil {
			return o.err // others have found out meanwhile
		}
		client := n.client.Load()
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
			if n.replaceClient(client) {
				s.log.Error("the Redis server sent a reply to another request; all connections are closed", "address", n.name())
			}
		case s.where.Cluster && kindOf(err) == "MOVED" && more < 3*maxAttempts:
			fields := strings.Fields(err.Error())
			s.topology.moved(q.key, n, fields[len(fields)-1])
			more++
		case s.where.Cluster && isMoving(err):
			select { // until the keys have arrived, or the time is up
			case <-ctx.Done():
			case <-time.After(movingEvery):
			}
			more++
		case isReply(err):
			if kind := kindOf(err); kind == "READONLY" || kind == "CLUSTERDOWN" || kind == "MASTERDOWN" || kind == "MOVED" {
				s.topology.lost()
			}
			return replyError(err)
		case n.client.Load() != client && more < 2*maxAttempts:
			more++ // another caller dropped this connection
		}
	}
	switch {
	case s.where.Cluster && isMoving(err):
		err = fmt.Errorf("these keys move to another node of the Redis Cluster just now: %w", err)
	case !errors.Is(err, errWrongReply) && !isReply(err):
		n.openCircuit(err)
	}
	return unavailable(err)
}

// movingEvery is between two attempts while a slot moves.
const movingEvery = 50 * time.Millisecond

// isMoving reports whether the reply says that the keys are moving to another node. Nothing was
// changed.
func isMoving(err error) bool {
	kind := kindOf(err)
	return kind == "TRYAGAIN" || kind == "ASK"
}

// attempt sends the request once.
func attempt(ctx context.Context, client *redis.Client, q request) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	var keys []string
	if q.key != "" {
		keys = append(keys, q.key)
	}
	if q.guard {
		keys = append(keys, guardKey(q.key))
	}
	var answer []any
	var err error
	if q.acks > 0 {
		answer, err = runAcknowledged(ctx, client, q, keys)
	} else {
		answer, err = q.script.Run(ctx, client, keys, q.args...).Slice()
	}
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 || answer[0] != q.args[0] {
		return nil, errWrongReply
	}
	return answer[1:], nil
}

// ackTimeout is how long replicas may take to acknowledge a change.
const ackTimeout = 300 * time.Millisecond

// ErrFewReplicas is wrapped by errors about changes that the server made, but that fewer replicas
// than Address.ReplicasAck acknowledged in time.
var ErrFewReplicas = errors.New("the change was made, but too few replicas have it")

// runAcknowledged runs the script and, on the same connection, waits for replicas.
func runAcknowledged(ctx context.Context, client *redis.Client, q request, keys []string) ([]any, error) {
	run := func(script func(p redis.Scripter) *redis.Cmd) ([]any, int64, error) {
		var answer, wait *redis.Cmd
		_, _ = client.Pipelined(ctx, func(p redis.Pipeliner) error { // each command has its error
			answer = script(p)
			wait = p.Do(ctx, "WAIT", q.acks, ackTimeout.Milliseconds())
			return nil
		})
		reply, err := answer.Slice()
		if err != nil {
			return nil, 0, err
		}
		acks, err := wait.Int64()
		return reply, acks, err
	}
	reply, acks, err := run(func(p redis.Scripter) *redis.Cmd { return q.script.EvalSha(ctx, p, keys, q.args...) })
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		reply, acks, err = run(func(p redis.Scripter) *redis.Cmd { return q.script.Eval(ctx, p, keys, q.args...) })
	}
	if err != nil {
		return nil, err
	}
	if acks < int64(q.acks) && len(reply) == 2 && (reply[1] == "done") {
		return nil, fmt.Errorf("%w: %d of %d", ErrFewReplicas, acks, q.acks)
	}
	return reply, nil
}

// isReply reports whether the error is a reply, by the server, the store or a full pool, and not a
// missing reply.
func isReply(err error) bool {
	_, byServer := errors.AsType[redis.Error](err)
	return byServer || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, store.ErrNotFound) ||
		errors.Is(err, store.ErrConflict) || errors.Is(err, ErrNewer) || errors.Is(err, errMalformed) || errors.Is(err, ErrFewReplicas)
}

// replyError returns the caller's error for a reply that is an error.
func replyError(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return unavailable(err)
}

// nonce returns an ID for a request, unique among all Stores.
func (s *Store) nonce() string { return s.nonces + strconv.FormatUint(s.requests.Add(1), 36) }
