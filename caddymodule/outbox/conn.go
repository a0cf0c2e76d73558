package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"time"

	"github.com/wneessen/go-mail/smtp"
)

// conn is a connection to a mail server, on which one message after the other is sent.
type conn struct {
	text     *textproto.Conn
	wire     *wire
	eightBit bool

	opened, used time.Time
	reused       bool          // a message was sent or tried on it
	alive        time.Duration // that the answer to RSET may take
	broken       bool          // nothing more can be sent on it
	expiry       *time.Timer   // of the Pool
}

func (s SMTP) newConn(c *smtp.Client, wire *wire) *conn {
	now := time.Now()
	eightBit, _ := c.Extension("8BITMIME")
	return &conn{text: c.Text, wire: wire, eightBit: eightBit, alive: cmp.Or(s.alive, resetTime), opened: now, used: now}
}

// errStale: a connection that was kept open has ended before the server had the message.
var errStale = errors.New("outbox: the connection has ended meanwhile")

// resetTime is how long a connection that was kept open may take to answer that it is alive.
const resetTime = 10 * time.Second

// send sends one message. After errStale the server can't have it, and another connection may
// do. Once the server has said yes, nothing makes it an error.
func (c *conn) send(ctx context.Context, m Message) error {
	stop := context.AfterFunc(ctx, func() { c.wire.Close() })
	atDot, err := c.transfer(ctx, m)
	if !stop() {
		c.broken = true
	}
	if said, isReply := replyOf(err); err != nil && (!isReply || said.code == 421) {
		c.broken = true
		if c.reused && !atDot && ctx.Err() == nil {
			return errStale
		}
	}
	c.reused, c.used = true, time.Now()
	return err
}

// transfer names the sender and the one recipient, and sends the message. atDot: the server may
// have all of it.
func (c *conn) transfer(ctx context.Context, m Message) (atDot bool, err error) {
	deadline, _ := ctx.Deadline()
	c.wire.left = maxAnswer
	if c.reused {
		c.wire.SetDeadline(earlier(time.Now().Add(c.alive), deadline))
		if err := command(c.text, 2, "RSET"); err != nil {
			return false, fmt.Errorf("RSET: %w", err) // whatever it is, this connection is of no use
		}
	}
	c.wire.SetDeadline(deadline)
	body := ""
	if c.eightBit {
		body = " BODY=8BITMIME"
	}
	if err := command(c.text, 2, "MAIL FROM:<%s>%s", m.From, body); err != nil {
		return false, serverError(ctx, stepMail, err, m) // it is the same for all our messages
	}
	if err := command(c.text, 2, "RCPT TO:<%s>", m.To); err != nil {
		return false, messageError(ctx, stepRcpt, err, m)
	}
	if err := command(c.text, 3, "DATA"); err != nil {
		return false, messageError(ctx, stepData, err, m)
	}
	// After an error in here the connection is closed without another word: a QUIT would
	// end the data first, and the server might take half a message for a whole one.
	w := c.text.DotWriter()
	if _, err := w.Write(m.Data); err != nil {
		return false, messageError(ctx, "sending the message", err, m)
	}
	m.lastStep(ctx)
	if err := ctx.Err(); err != nil {
		return false, messageError(ctx, stepEnd, err, m)
	}
	err = w.Close()
	if err == nil {
		err = command(c.text, 2, "") // whatever begins with 2 is a yes
	}
	if err != nil {
		return true, messageError(ctx, stepEnd, err, m)
	}
	return true, nil
}

// quit takes leave and closes the connection.
func (c *conn) quit() {
	c.wire.SetDeadline(time.Now().Add(quitTime))
	command(c.text, 2, "QUIT")
	c.wire.Close()
}

func earlier(a, b time.Time) time.Time {
	if b.IsZero() || a.Before(b) {
		return a
	}
	return b
}

// serverError is an error from before the recipient was named: it is the same for all
// messages.
func serverError(ctx context.Context, step string, err error, m Message) error {
	err = endedBy(ctx, err)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", step, err)
	}
	if said, ok := errors.AsType[*textproto.Error](err); ok {
		return newReply(step, said, m).err()
	}
	return fmt.Errorf("%w: %s: %s", ErrServer, step, loggable(err.Error(), 300))
}

// messageError is an error from after that. Of the server's words it keeps those that
// hide nothing (see quote), since servers like to repeat the address, or the link that
// they don't like.
func messageError(ctx context.Context, step string, err error, m Message) error {
	err = endedBy(ctx, err)
	if said, ok := errors.AsType[*textproto.Error](err); ok {
		return newReply(step, said, m).err()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	return fmt.Errorf("%s: %w", step, err)
}

// endedBy returns why ctx ended, where that is what really happened: the error is then
// only what the closed connection looked like.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
