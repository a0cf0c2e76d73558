package caddymodule

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// tellRestore makes an event of each firm's of a copy that was put back before this start.
func (a *App) tellRestore(ctx context.Context, firms map[string]*firm) error {
	_, err := a.engine.store.Take(ctx, anchor.RestoredMark)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	for _, f := range firms {
		if err == nil {
			f.audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "admin", What: "restore"})
		}
	}
	return err
}
