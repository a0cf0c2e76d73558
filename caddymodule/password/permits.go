package password

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
	"weak"
)

const (
	// MaxPermits is how many checks there are at a time at most.
	MaxPermits = 4
	// RetryAfter is what to tell who comes while there are too many.
	RetryAfter = 2 * time.Second

	longestWait = 2 * time.Second
	queueLength = 64 // who comes when so many wait would wait for longer than longestWait
)

// Permits bound what checks take of a machine: how many there are at a time, how many
// wait for how long, and how much memory they use. One of them is kept for known
// devices, so that no flood keeps out who has signed in before; it also leaves a core to
// all else where there are but two. The zero value grants none.
type Permits struct {
	all, known chan struct{} // a place for each permit: for everybody, for known devices
	queue      chan struct{} // places to wait in, for everybody
	knownQueue chan struct{}

	mu      sync.Mutex
	running uint64  // bytes that hashes use now
	spent   []spent // what ended hashes used, as long as it may be in use
}

// NewPermits makes as many as there are cores, but at least two, since one is kept, and
// at most MaxPermits.
func NewPermits() *Permits { return newPermits(min(max(runtime.GOMAXPROCS(0), 2), MaxPermits)) }

func newPermits(n int) *Permits {
	return &Permits{
		all: make(chan struct{}, n-1), known: make(chan struct{}, 1),
		queue: make(chan struct{}, queueLength), knownQueue: make(chan struct{}, queueLength),
	}
}

// run waits for a permit, calls first, and then work in a goroutine of its own. It
// returns when work has, or when ctx ends; the permit is given back when work returns,
// for the machine is at work until then, whoever waits for it. Without a permit, or with
// an error of first, work isn't called. What work writes may be read after a nil error.
func (p *Permits) run(ctx context.Context, known bool, first func() error, work func()) error {
	giveBack, err := p.take(ctx, known)
	if err != nil {
		return err
	}
	if first != nil {
		if err := first(); err != nil {
			giveBack()
			return err
		}
	}
	done := make(chan struct{})
	go func() {
		defer giveBack()
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
func (p *Permits) take(ctx context.Context, known bool) (giveBack func(), err error) {
	queue, kept := p.queue, (chan struct{})(nil) // to send on nil blocks for ever
	if known {
		queue, kept = p.knownQueue, p.known
	}
	fromAll, fromKept := func() { <-p.all }, func() { <-p.known }
	select {
	case p.all <- struct{}{}:
		return fromAll, nil
	case kept <- struct{}{}:
		return fromKept, nil
	default:
	}
	select {
	case queue <- struct{}{}:
		defer func() { <-queue }()
	default:
		return nil, ErrBusy
	}
	late := time.NewTimer(longestWait)
	defer late.Stop()
	select {
	case p.all <- struct{}{}:
		return fromAll, nil
	case kept <- struct{}{}:
		return fromKept, nil
	case <-late.C:
		return nil, ErrBusy
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// spent is memory of a hash that ended. The mark became garbage after that memory did:
// once it is gone, the memory is free to be used again.
type spent struct {
	mark  weak.Pointer[mark]
	bytes uint64
}

// mark is of a size that isn't allocated together with others.
type mark [64]byte

// compute calls hash, which uses so much memory. The library takes new memory for each
// hash and leaves the old to the garbage collector, which lets garbage grow to the size
// of all that lives, or more. So before new memory would come on top of the garbage of
// as many hashes as there are permits, the garbage is collected: it costs a fraction of
// a hash, and only while one hash follows the other.
func (p *Permits) compute(bytes uint64, hash func()) {
	p.mu.Lock()
	if limit := bytes * uint64(cap(p.all)+cap(p.known)); bytes > 0 && p.running+p.garbage()+bytes > limit && len(p.spent) > 0 {
		runtime.GC()
	}
	p.running += bytes
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.running -= bytes
		if bytes > 0 {
			p.spent = append(p.spent, spent{weak.Make(new(mark)), bytes})
		}
	}()
	hash()
}

// garbage returns how much of what was spent isn't free yet. p.mu is held.
func (p *Permits) garbage() (bytes uint64) {
	p.spent = slices.DeleteFunc(p.spent, func(s spent) bool { return s.mark.Value() == nil })
	for _, s := range p.spent {
		bytes += s.bytes
	}
	return bytes
}
