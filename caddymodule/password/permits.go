package password

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// MaxConcurrent is the maximum number of concurrent checks.
	MaxConcurrent = 4

	maxWait  = 2 * time.Second
	maxQueue = 64 // a longer queue would take more than maxWait
)

// Semaphore is a semaphore with a priority queue. It limits how many checks run, how many wait and
// for how long, and how much memory they use. The zero value grants none.
//
// Known contacts, identified by a device that they have signed in on or by a mailed link, wait
// in the priority queue, which gets at least every second permit, so that a flood of other
// attempts cannot lock them out. Each contact has at most one place in it, so that one contact
// cannot block the others; further attempts of the contact wait in the other queue.
type Semaphore struct {
	size   int // number of permits
	memory memory

	mu         sync.Mutex
	free       int
	priority   queue
	others     queue
	lastServed *queue // queue that got the last permit
}

// queue holds waiting attempts, first in, first out.
type queue []*waiter

type waiter struct {
	contact string        // "": unknown
	ready   chan struct{} // closed when the permit is granted
}

// NewSemaphore returns a semaphore with one permit fewer than cores, since Go's scheduler delays
// everything else when every core computes a hash; but with at least one and at most MaxPermits.
func NewSemaphore() *Semaphore {
	return newPermits(min(max(runtime.GOMAXPROCS(0)-1, 1), MaxConcurrent))
}

func newPermits(n int) *Semaphore { return &Semaphore{size: n, free: n, memory: memory{hashes: n}} }

// run waits for a permit, calls first, and then calls work in its own goroutine. It returns when
// work returns or ctx ends. The permit is released when work returns, since the CPU is busy
// until then. Without a permit, or if first fails or panics, work isn't called. If the error is
// nil, the caller may read what work wrote. who is the known contact, or "".
func (p *Semaphore) run(ctx context.Context, who string, first func() error, work func()) error {
	if err := p.acquire(ctx, who); err != nil {
		return err
	}
	working := false
	defer func() {
		if !working { // first failed, or panicked and the server recovers
			p.release()
		}
	}()
	if first != nil {
		if err := first(); err != nil {
			return err
		}
	}
	working = true
	done := make(chan struct{})
	go func() {
		defer p.release()
		defer close(done)
		work()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// acquire gets a permit. It returns ErrBusy if the queue is full or the wait too long.
func (p *Semaphore) acquire(ctx context.Context, who string) error {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	l := &p.others
	if who != "" && !slices.ContainsFunc(p.priority, func(w *waiter) bool { return w.contact == who }) {
		l = &p.priority
	}
	if p.size == 0 || len(*l) == maxQueue {
		p.mu.Unlock()
		return ErrBusy
	}
	me := &waiter{who, make(chan struct{})}
	*l = append(*l, me)
	p.mu.Unlock()

	late := time.NewTimer(maxWait)
	defer late.Stop()
	err := ErrBusy
	select {
	case <-me.ready:
		return nil
	case <-late.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(*l, me)
	if at < 0 {
		return nil // the permit was granted at that moment
	}
	*l = slices.Delete(*l, at, at+1)
	return err
}

// Load says how busy a Semaphore is.
type Load struct {
	Permits         int // how many checks may run
	Running         int
	Waiting         int // attempts of others than known contacts
	WaitingPriority int // attempts of known contacts
}

// Load returns how busy the semaphore is now.
func (p *Semaphore) Load() Load {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Load{Permits: p.size, Running: p.size - p.free, Waiting: len(p.others), WaitingPriority: len(p.priority)}
}

// release passes a permit on to the next waiter.
func (p *Semaphore) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := &p.priority
	if len(p.priority) == 0 || p.lastServed == &p.priority && len(p.others) > 0 {
		next = &p.others
	}
	p.lastServed = next
	if len(*next) == 0 {
		p.free++
		return
	}
	close((*next)[0].ready)
	*next = slices.Delete(*next, 0, 1)
}
