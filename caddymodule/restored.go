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
	rec, err := a.engine.Store.Get(ctx, anchor.RestoredMark)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = a.engine.Store.Apply(ctx, store.Remove(rec.Key, rec.Value))
	}
	for _, f := range firms {
		if err == nil {
			f.Audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "admin", What: "restore"})
		}
	}
	return err
}
