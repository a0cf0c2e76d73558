package caddymodule

import (
	"testing"
	"time"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// OpenStore returns the store that the running config has open.
func OpenStore(t *testing.T) store.Store { return activeApp(t).engine.store }

// Advance sets the machine's clock ahead, as far as the running config can tell.
func Advance(t *testing.T, d time.Duration) { activeApp(t).engine.clock.ahead.Add(int64(d)) }
