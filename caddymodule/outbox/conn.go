package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"time"
)

// conn is a connection to a mail server, on which one message after the other is sent.
type conn struct {
	text       *textproto.Conn
	wire       *wire
	tape       *tape // see SMTP
	eightBit   bool
	pipelining bool // see RFC 2920

	opened, used time.Time
	reused       bool          // a message was sent or tried on it
	alive        time.Duration // that the answer to RSET may take
	broken       bool          // nothing more can be sent on it
	expiry       *time.Timer   // of the Pool
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

// transfer sends the message, once its sender and its one recipient are named. atDot: the server
// may have all of it.
func (c *conn) transfer(ctx context.Context, m Message) (atDot bool, err error) {
	if err := c.envelope(ctx, m); err != nil {
		return false, err
	}
	if err := c.command(3, "DATA"); err != nil {
		return false, messageError(ctx, stepData, err, m)
	}
	c.tape.sends(m.Data)
	// After an error in here the connection is closed without another word: a QUIT would
	// end the data first, and the server might take half a message for a whole one.
	_, err = c.text.W.Write(dotStuffed(m.Data))
	if err == nil {
		err = c.text.W.Flush()
	}
	if err != nil {
		return false, messageError(ctx, "sending the message", err, m)
	}
	m.lastStep(ctx)
	if err := ctx.Err(); err != nil {
		return false, messageError(ctx, stepEnd, err, m)
	}
	if err := c.command(2, "."); err != nil { // whatever begins with 2 is a yes
		return true, messageError(ctx, stepEnd, err, m)
	}
	return true, nil
}

// envelope names the sender and the one recipient: without waiting for an answer in between,
// where the server allows that.
func (c *conn) envelope(ctx context.Context, m Message) error {
	type request struct{ step, line string }
	all := []request{{stepMail, "MAIL FROM:<" + m.From + ">"}, {stepRcpt, "RCPT TO:<" + m.To + ">"}}
	if c.eightBit {
		all[0].line += " BODY=8BITMIME"
	}
	c.wire.left = maxAnswer
	deadline, _ := ctx.Deadline()
	c.wire.SetDeadline(deadline)
	if c.reused {
		all = slices.Insert(all, 0, request{stepReset, "RSET"})
		c.wire.SetDeadline(earlier(time.Now().Add(c.alive), deadline))
	}
	if c.pipelining {
		for i := range all {
			c.text.W.WriteString(all[i].line + "\r\n") // what goes wrong here, Flush says
			all[i].line = ""
		}
		if err := c.text.W.Flush(); err != nil {
			return serverError(ctx, stepMail, err, m)
		}
	}
	var refused error // the first one
	for _, r := range all {
		if refused != nil && !c.pipelining {
			break
		}
		err := c.command(2, r.line)
		_, isReply := errors.AsType[*textproto.Error](err)
		switch {
		case r.step == stepReset && err != nil:
			return fmt.Errorf("%s: %w", r.step, err) // whatever it is, this connection is of no use
		case r.step == stepReset:
			c.wire.SetDeadline(deadline)
		case r.step == stepRcpt && err != nil && refused == nil:
			refused = messageError(ctx, r.step, err, m)
		case err != nil && refused == nil:
			refused = serverError(ctx, r.step, err, m) // it is the same for all our messages
		}
		if err != nil && !isReply {
			c.broken = true
			break
		}
	}
	return refused
}

// dotStuffed doubles the dot that begins a line. Every line ends in CRLF, see Message.check.
func dotStuffed(data []byte) []byte {
	if bytes.HasPrefix(data, []byte(".")) {
		data = append([]byte("."), data...)
	}
	return bytes.ReplaceAll(data, []byte("\r\n."), []byte("\r\n.."))
}

// quit takes leave and closes the connection.
func (c *conn) quit() {
	c.wire.SetDeadline(time.Now().Add(quitTime))
	c.command(2, "QUIT")
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

// endedBy returns the cause of ctx if ctx has ended, since err is then only the effect of closing
// the connection.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
