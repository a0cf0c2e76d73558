package outbox

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	// idleTime is how long a connection is kept open without a message. Servers close them
	// after some minutes.
	idleTime = time.Minute
	// openTime is how long a connection is used at most, so that a server that spreads
	// connections over several machines can move us.
	openTime = 5 * time.Minute
)

// Pool is the Sender that hands messages to a mail server over connections that it keeps open
// between them: as many as messages were sent at the same time. A connection that has ended
// meanwhile is replaced before the message is sent, so none is lost or repeated because of it.
type Pool struct {
	SMTP SMTP

	mu     sync.Mutex
	idle   []*conn // the one that was used last comes last
	closed bool
}

// Send implements Sender.
func (p *Pool) Send(ctx context.Context, m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.SMTP.timeout())
	defer cancel()
	for {
		c := p.take()
		if c == nil {
			var err error
			if c, err = p.SMTP.connect(ctx, m); err != nil {
				return err
			}
		}
		err := c.send(ctx, m)
		p.keep(c)
		if !errors.Is(err, errStale) {
			return err
		}
	}
}

// take returns a connection that was kept open, or nil.
func (p *Pool) take() *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle)
	if n == 0 {
		return nil
	}
	c := p.idle[n-1]
	p.idle = p.idle[:n-1]
	return c
}

// keep keeps a connection open for the next message, or closes it.
func (p *Pool) keep(c *conn) {
	if c.broken {
		c.wire.Close()
		return
	}
	p.mu.Lock()
	if p.closed || time.Since(c.opened) > openTime {
		p.mu.Unlock()
		c.quit()
		return
	}
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
	if c.expiry == nil {
		c.expiry = time.AfterFunc(idleTime, p.closeIdle)
	} else {
		c.expiry.Reset(idleTime)
	}
}

// closeIdle closes the connections that nobody has used for a while.
func (p *Pool) closeIdle() {
	p.closeThose(func(c *conn) bool { return time.Since(c.used) >= idleTime })
}

// Close closes the connections that are kept open. Messages under way go on, and more may be
// sent: their connections are closed behind them.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.closeThose(func(*conn) bool { return true })
	return nil
}

func (p *Pool) closeThose(which func(*conn) bool) {
	p.mu.Lock()
	var leaving sync.WaitGroup
	p.idle = slices.DeleteFunc(p.idle, func(c *conn) bool {
		leave := which(c)
		if leave {
			leaving.Go(c.quit)
		}
		return leave
	})
	p.mu.Unlock()
	leaving.Wait()
}
