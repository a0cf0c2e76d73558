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

// The scripts; each says what it takes. All answer a list that begins with the nonce.
var (
	//go:embed scripts/common.lua
	commonSource string
	//go:embed scripts/get.lua
	getSource string
	//go:embed scripts/apply.lua
	applySource string
	//go:embed scripts/aside.lua
	asideSource string
	//go:embed scripts/commit.lua
	commitSource string
	//go:embed scripts/carry.lua
	carrySource string
	//go:embed scripts/scan.lua
	scanSource string
	//go:embed scripts/sweep.lua
	sweepSource string
	//go:embed scripts/publish.lua
	publishSource string
	//go:embed scripts/time.lua
	timeSource string

	getScript     = redis.NewScript(commonSource + getSource)
	applyScript   = redis.NewScript(commonSource + applySource)
	scanScript    = redis.NewScript(commonSource + scanSource)
	sweepScript   = redis.NewScript(commonSource + sweepSource)
	asideScript   = redis.NewScript(commonSource + asideSource)
	commitScript  = redis.NewScript(commitSource)
	carryScript   = redis.NewScript(commonSource + carrySource)
	publishScript = redis.NewScript(publishSource)
	timeScript    = redis.NewScript(timeSource)
)

// question is one run of a script.
type question struct {
	script *redis.Script
	key    string
	args   []any                    // the first place is left for the nonce
	read   func(answer []any) error // reads what follows the nonce; errMixed has it asked again
}

var (
	errClosed = errors.New("the store has been closed")
	errWeird  = errors.New("an answer has an unknown form")
)

// unavailable says that there is no answer, and why.
func unavailable(why error) error { return fmt.Errorf("%w: %w", store.ErrUnavailable, why) }

// ask puts the question, and once more with the same nonce when no answer came or one that
// belongs to another question. A context that has ended before is an error; one that ends
// on the way doesn't cut it short, since a caller who doesn't know whether a link was spent
// can do nothing right: within a second there is an answer, or there is none.
func (s *Store) ask(ctx context.Context, q question) error {
	if ctx.Err() != nil {
		return unavailable(context.Cause(ctx))
	}
	if s.closed.Load() {
		return unavailable(errClosed)
	}
	if why := s.unmet.Load(); why != nil && ctx.Value(greeting{}) == nil {
		return unavailable(*why)
	}
	q.args[0] = s.nonce()
	// Not the caller's deadline: see above.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempts*patience)
	defer cancel()
	var err error
	for tries, more := 0, attempts; tries < more && ctx.Err() == nil; tries++ {
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
		case errors.Is(err, errMixed):
			// What else lies in that connection can't be trusted, nor the others.
			if s.renew(client) {
				s.log.Error("the Redis server gave an answer to another question; all connections are dropped", "address", s.address)
			}
		case answered(err):
			return outcome(err)
		case s.client.Load() != client && more < 2*attempts:
			more++ // it was somebody else who dropped this connection
		}
	}
	if !errors.Is(err, errMixed) {
		s.trip(err)
	}
	return unavailable(err)
}

// attempt puts the question once.
func attempt(ctx context.Context, client *redis.Client, q question) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := q.script.Run(ctx, client, []string{q.key}, q.args...).Slice()
	if err != nil {
		return nil, err
	}
	if len(answer) == 0 || answer[0] != q.args[0] {
		return nil, errMixed
	}
	return answer[1:], nil
}

// answered reports whether the error is an answer, be it of the server, of the store or of
// a full pool, rather than silence.
func answered(err error) bool {
	_, byServer := errors.AsType[redis.Error](err)
	return byServer || errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, store.ErrNotFound) ||
		errors.Is(err, store.ErrConflict) || errors.Is(err, ErrNewer) || errors.Is(err, errWeird)
}

// outcome is what the caller gets for an answer that is an error.
func outcome(err error) error {
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return unavailable(err)
}

// renew puts a new client in the place of one that is not to be trusted any more, and drops
// all connections of that; false when somebody else has done so.
func (s *Store) renew(old *redis.Client) bool {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.closed.Load() || s.client.Load() != old {
		return false
	}
	s.client.Store(s.dial())
	_ = old.Close() // of connections that may be dead; there is nothing to be done about it
	return true
}

// outage is the time in which the server doesn't answer.
type outage struct {
	since time.Time
	err   error // what callers get, without waiting
}

// probeEvery is between two looks for a server that is gone.
const probeEvery = 250 * time.Millisecond

// trip notes that the server doesn't answer: from now on nobody waits for it but the watcher.
func (s *Store) trip(why error) {
	o := &outage{time.Now(), unavailable(fmt.Errorf("the Redis server at %s doesn't answer: %w", s.address, why))}
	if !s.down.CompareAndSwap(nil, o) {
		return
	}
	s.log.Error("the Redis server doesn't answer; what needs it is refused until it does", "address", s.address, "error", why)
	s.fell <- struct{}{}
}

// watch waits for the server to answer again, whenever it is gone.
func (s *Store) watch() {
	for {
		select {
		case <-s.life.Done():
			return
		case <-s.fell:
		}
		s.renew(s.client.Load()) // connections to a server that was gone may hang
		for !s.answers() {
			select {
			case <-s.life.Done():
				return
			case <-time.After(probeEvery):
			}
		}
		o := s.down.Swap(nil)
		s.log.Info("the Redis server answers again", "address", s.address, "away", time.Since(o.since).Round(time.Millisecond).String())
	}
}

// answers reports whether the server answers a question. It dials by itself first, since
// go-redis writes to the standard error when it can't.
func (s *Store) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := s.client.Load()
	o := client.Options()
	conn, err := o.Dialer(ctx, o.Network, o.Addr)
	if err != nil {
		return false
	}
	_ = conn.Close()
	answer, err := attempt(ctx, client, question{script: getScript, key: recordKey(nothing), args: []any{s.nonce(), base(nothing.Firm), member(nothing)}})
	return err == nil && len(answer) == 1
}

// nothing is a record that isn't there, to ask for.
var nothing = store.Key{Bucket: "probe", ID: "none"}

// nonce is what tells one question from all others, of this Store and of every other one.
func (s *Store) nonce() string { return s.nonces + strconv.FormatUint(s.asked.Add(1), 36) }
