package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Publish tells all subscribers of the firm, on every machine, this one included. It is a
// hint that saves waiting: one that comes while a subscriber is away is lost to it, and one
// may come twice. The message mustn't be empty.
func (s *Store) Publish(ctx context.Context, firm, message string) error {
	if message == "" {
		return errors.New("store: an empty message")
	}
	return s.ask(ctx, question{
		script: publishScript, key: endingsKey(firm), args: []any{nil, channel(firm), message},
		read: func(answer []any) error {
			if len(answer) != 0 {
				return errMixed
			}
			return nil
		},
	})
}

// How often a subscription that hears nothing makes sure that it still stands.
const listenEvery = time.Second

// Subscribe calls heard with each message for the firm, one at a time, until ctx ends or
// the Store is closed, and returns then. It calls heard with "" whenever the subscription
// begins, and begins anew after a trouble: what was told before may have been missed, so
// that whoever keeps something in memory has to look at all of it again. A silent loss
// of the server is noticed within three seconds.
func (s *Store) Subscribe(ctx context.Context, firm string, heard func(message string)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	for ctx.Err() == nil {
		if s.down.Load() == nil {
			s.listen(ctx, channel(firm), heard)
		}
		select {
		case <-ctx.Done():
		case <-time.After(probeEvery):
		}
	}
}

// listen is one subscription, until its connection fails or ctx ends.
func (s *Store) listen(ctx context.Context, channel string, heard func(string)) {
	// Its own attempts to connect again would hide that messages were missed.
	ends, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	sub := s.client.Load().Subscribe(ends, channel)
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
