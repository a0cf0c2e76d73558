package store

import (
	"context"
	"sync/atomic"
)

// Peers connects a process to the other processes that have the same store open. Each
// keeps in memory what it has read. So each notifies the others of its changes, and
// checks for changes of others when it is notified and at regular intervals, since
// notifications can get lost. A nil *Others means that no other process uses the store.
type Peers struct {
	// Notify notifies the others of a change. It is called after the change. It may fail
	// silently, since the others check regularly.
	Notify func(ctx context.Context)

	doubt atomic.Bool
}

// SetStale sets whether other processes may have made changes that this process hasn't been
// notified of.
func (o *Peers) SetStale(doubt bool) { o.doubt.Store(doubt) }

// Stale reports whether values in memory must be read again before use.
func (o *Peers) Stale() bool { return o != nil && o.doubt.Load() }

// NotifyPeers notifies the others, if there are any.
func (o *Peers) NotifyPeers(ctx context.Context) {
	if o != nil {
		o.Notify(ctx)
	}
}
