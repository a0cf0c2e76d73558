package password

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

const (
	// MaxPermits is how many checks there are at a time at most.
	MaxPermits = 4

	longestWait = 2 * time.Second
	lineLength  = 64 // who comes when so many wait would wait for longer than longestWait
)

// Permits bound what checks take of a machine: how many there are at a time, how many
// wait for how long, and how much memory they use. The zero value grants none.
//
// Contacts who are known, by a device that they have signed in on or by a mailed link, wait
// in a line of their own, and at least every second permit is for it, so no flood of others
// keeps them out. Each has one place in it, so none of them keeps out the rest: what more
// comes from them waits with everybody.
type Permits struct {
	most   int // how many there are
	memory memory

	mu     sync.Mutex
	free   int
	known  line
	others line
	last   *line // whose turn it was
}

// line is who waits, first come first.
type line []*waiter

type waiter struct {
	who  string        // "": unknown
	turn chan struct{} // closed when it comes
}

// NewPermits makes one fewer than there are cores, since Go's scheduler lets all else wait
// where every core computes a hash; but at least one, and at most MaxPermits.
func NewPermits() *Permits { return newPermits(min(max(runtime.GOMAXPROCS(0)-1, 1), MaxPermits)) }

func newPermits(n int) *Permits { return &Permits{most: n, free: n, memory: memory{hashes: n}} }

// run waits for a permit, calls first, and then work in a goroutine of its own. It
// returns when work has, or when ctx ends; the permit is given back when work returns,
// for the machine is at work until then, whoever waits for it. Without a permit, or with
// an error or panic of first, work isn't called. What work writes may be read after a nil error.
// who is the known contact that it is for, or "".
func (p *Permits) run(ctx context.Context, who string, first func() error, work func()) error {
	if err := p.take(ctx, who); err != nil {
		return err
	}
	working := false
	defer func() {
		if !working { // an error of first, or a panic that a server goes on after
			p.giveBack()
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
		defer p.giveBack()
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

// take gets a permit, or ErrBusy.
func (p *Permits) take(ctx context.Context, who string) error {
	p.mu.Lock()
	if p.free > 0 {
		p.free--
		p.mu.Unlock()
		return nil
	}
	l := &p.others
	if who != "" && !slices.ContainsFunc(p.known, func(w *waiter) bool { return w.who == who }) {
		l = &p.known
	}
	if p.most == 0 || len(*l) == lineLength {
		p.mu.Unlock()
		return ErrBusy
	}
	me := &waiter{who, make(chan struct{})}
	*l = append(*l, me)
	p.mu.Unlock()

	late := time.NewTimer(longestWait)
	defer late.Stop()
	err := ErrBusy
	select {
	case <-me.turn:
		return nil
	case <-late.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.Index(*l, me)
	if at < 0 {
		return nil // their turn came at that moment
	}
	*l = slices.Delete(*l, at, at+1)
	return err
}

// giveBack hands a permit on to who is next.
func (p *Permits) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := &p.known
	if len(p.known) == 0 || p.last == &p.known && len(p.others) > 0 {
		next = &p.others
	}
	p.last = next
	if len(*next) == 0 {
		p.free++
		return
	}
	close((*next)[0].turn)
	*next = slices.Delete(*next, 0, 1)
}
