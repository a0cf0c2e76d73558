package runtime

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// alarm tells operators of records in the store that none of the secrets has sealed: each is
// an event, and once a minute there is a line in the log.
type alarm struct {
	log   *slog.Logger
	audit *audit.Log
	line  *rate.Sometimes
}

func newAlarm(log *slog.Logger, events *audit.Log) *alarm {
	return &alarm{log: log, audit: events, line: &rate.Sometimes{First: 1, Interval: time.Minute}}
}

// raise is the Alarm of sealed buckets.
func (a *alarm) raise(ctx context.Context, k store.Key) {
	a.line.Do(func() {
		a.log.ErrorContext(ctx, "a record in the store is not one of ours, so it counts for nothing: somebody forged, copied or damaged it, or the secret that sealed it is no longer in the Caddyfile",
			"bucket", k.Bucket, "what_to_do", "find out who can write to the store; if you changed the secret, write the older one behind the new one")
	})
	a.audit.Record(ctx, audit.Event{Kind: audit.Untrusted, What: k.Bucket})
}
