package runtime

import (
	"context"
	"errors"

	"github.com/doorpost-auth/doorpost/caddymodule/audit"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/anchor"
)

// recordRestore records an event for each firm if a backup was restored before this start.
func (s *Server) recordRestore(ctx context.Context, firms map[string]*Firm) error {
	rec, err := s.Engine.Store.Get(ctx, anchor.RestoredMark)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = s.Engine.Store.Apply(ctx, store.Remove(rec.Key, rec.Value))
	}
	for _, f := range firms {
		if err == nil {
			f.Audit.Record(ctx, audit.Event{Kind: audit.Changed, By: "admin", What: "restore"})
		}
	}
	return err
}
