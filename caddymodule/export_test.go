package caddymodule

import (
	"testing"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// OpenStore returns the store that the running config has open.
func OpenStore(t *testing.T) store.Store { return activeApp(t).engine.store }
