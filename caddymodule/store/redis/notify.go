package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Publish sends a message to all subscribers of the firm on all machines, including this
// one. Messages are only hints: a subscriber misses messages while it is disconnected, and
// may get one twice. The message must not be empty.
func (s *Store) Publish(ctx context.Context, firm, message string) error {
	if message == "" {
		return errors.New("store: an empty message")
	}
	return s.do(ctx, request{
		script: publishScript, key: expiryKey(firm), args: []any{nil, channel(firm), message},
		read: func(answer []any) error {
			if len(answer) != 0 {
				return errWrongReply
			}
			return nil
		},
	})
}

// listenEvery is how often a silent subscription is checked.
const listenEvery = time.Second

// Subscribe calls heard with each message for the firm, one at a time, until ctx ends or
// the Store is closed. It calls heard with "" whenever the subscription begins, also after
// a reconnection: messages may have been missed, so the caller must check everything that
// it keeps in memory. A silent loss of the server is noticed within three seconds.
func (s *Store) Subscribe(ctx context.Context, firm string, heard func(message string)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	for ctx.Err() == nil {
		if n, err := s.topology.route(channel(firm)); err == nil && n.down.Load() == nil {
			s.listen(ctx, n, channel(firm), heard)
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

// listen is one subscription, until its connection fails, ctx ends, or another server has the firm.
//
// In a Cluster every node hears every message. The subscription is at the node that has the firm's
// slot, since without that node nobody can publish, and it is noticed when another node takes over.
func (s *Store) listen(ctx context.Context, n *node, channel string, heard func(string)) {
	// Reconnect here, since reconnecting inside go-redis would hide missed messages.
	ends, cancel := context.WithTimeout(context.WithoutCancel(ctx), attemptTimeout)
	client := n.client.Load()
	sub := client.Subscribe(ends, channel)
	cancel()
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	quiet := 0
	for {
		got, err := sub.ReceiveTimeout(context.WithoutCancel(ctx), listenEvery)
		switch got := got.(type) {
		case *redis.Subscription:
			heard("")
		case *redis.Message:
			heard(got.Payload)
		}
		switch {
		case err == nil:
			quiet = 0
			continue
		case ctx.Err() != nil || !timedOut(err) || quiet > 0:
			return
		}
		if now, err := s.topology.route(channel); err != nil || now != n || n.client.Load() != client {
			return
		}
		quiet++
		if sub.Ping(context.WithoutCancel(ctx)) != nil {
			return
		}
	}
}

func timedOut(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}
