package store

import (
	"context"
	"sync/atomic"
)

// Others is what users of a store know of the other processes that have it open. They
// keep in memory what they have read, so each tells the others when it has changed
// something, and looks what the others have changed: when told, and every so often, since
// what was told may be lost. A nil *Others stands for a store that one process alone has.
type Others struct {
	// Tell tells the others that something has changed. It is called after the change,
	// and may fail in silence: they look all the same, a little later.
	Tell func(ctx context.Context)

	doubt atomic.Bool
}

// Doubt sets whether the others may have changed what this process hasn't heard of.
func (o *Others) Doubt(doubt bool) { o.doubt.Store(doubt) }

// Doubtful reports whether what is in memory has to be read again before it counts.
func (o *Others) Doubtful() bool { return o != nil && o.doubt.Load() }

// Changed tells the others, if there are any.
func (o *Others) Changed(ctx context.Context) {
	if o != nil {
		o.Tell(ctx)
	}
}
