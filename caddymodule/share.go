package caddymodule

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/doorpost-auth/doorpost/caddymodule/config"
	"github.com/doorpost-auth/doorpost/caddymodule/runtime"
)

// engines are the open stores by place. This is the one package variable
// that changes: on a reload Caddy starts the new config before it stops the old one,
// and both need the one file that only one process can hold.
var engines = caddy.NewUsagePool()

// share is one config's hold on an engine, counted per request as well: on a reload
// Caddy cleans up the old config while its requests may still be under way.
type share struct {
	users atomic.Int64 // the config itself is one of them until Cleanup
	place config.Location
}

// openEngine opens the store, or takes a share of it if it is open in this process.
// The share is the caller's, to leave once.
func openEngine(p config.Location, log *slog.Logger, late bool) (*runtime.Engine, *share, error) {
	v, _, err := engines.LoadOrNew(p, func() (caddy.Destructor, error) { return runtime.OpenEngine(p, log, late) })
	if err != nil {
		return nil, nil, fmt.Errorf("store: %w", err)
	}
	s := &share{place: p}
	s.users.Store(1)
	return v.(*runtime.Engine), s, nil
}

// isOpen reports whether this process has the store at a place open.
func isOpen(p config.Location) bool {
	_, open := engines.References(p)
	return open
}

// openEngines returns the engines of all configurations in this process.
func openEngines() (all []*runtime.Engine) {
	engines.Range(func(_, v any) bool {
		all = append(all, v.(*runtime.Engine))
		return true
	})
	return all
}

// enter adds a user; false when the last one has left.
func (s *share) enter() bool {
	for {
		n := s.users.Load()
		if n == 0 {
			return false
		}
		if s.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave takes the user away; the last one gives the share back.
func (s *share) leave() error {
	if s.users.Add(-1) > 0 {
		return nil
	}
	_, err := engines.Delete(s.place)
	return err
}
