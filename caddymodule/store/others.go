package store

import (
	"context"
	"sync/atomic"
)

// Others connects a process to the other processes that have the same store open. Each
// keeps in memory what it has read. So each notifies the others of its changes, and
// checks for changes of others when it is notified and at regular intervals, since
// notifications can get lost. A nil *Others means that no other process uses the store.
type Others struct {
	// Tell notifies the others of a change. It is called after the change. It may fail
	// silently, since the others check regularly.
	Tell func(ctx context.Context)

	doubt atomic.Bool
}

// Doubt sets whether other processes may have made changes that this process hasn't been
// notified of.
func (o *Others) Doubt(doubt bool) { o.doubt.Store(doubt) }

// Doubtful reports whether values in memory must be read again before use.
func (o *Others) Doubtful() bool { return o != nil && o.doubt.Load() }

// Changed notifies the others, if there are any.
func (o *Others) Changed(ctx context.Context) {
	if o != nil {
		o.Tell(ctx)
	}
}
