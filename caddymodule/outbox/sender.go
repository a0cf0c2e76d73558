package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// The errors of a Sender say how to try again. An error that wraps none of these concerns only this
// message and may be temporary (a greylisted recipient, a broken connection): the message is tried
// again later, on its own.
var (
	// ErrRefused is final: the server will never take a message for this recipient, whose
	// address or mailbox is wrong.
	ErrRefused = errors.New("outbox: refused for good")
	// ErrPolicy is about us more likely than about the recipient: relaying, our sender's
	// address, size, quota, a limit. The message is tried again, on its own. When the server
	// says the same about another recipient, all messages wait.
	ErrPolicy = errors.New("outbox: against the mail server's policy")
	// ErrServer is about the mail server, not the message: it can't be reached, its
	// certificate is wrong, it doesn't take the password. All messages wait for it.
	ErrServer = errors.New("outbox: the mail server can't be used")
)

// Sender hands one message to a mail server. Send returns nil as soon as the server
// has taken the message, and soon after ctx is done; it may be called from many
// goroutines. Its errors hold no address, nor anything else of the message.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// Message is a mail that is ready to go: what Prepare made, kept and sent unchanged but for
// the Date, which is that of the hand-over: so a second copy after a crash is the same mail.
type Message struct {
	ID   string // the request's; set by the Queue
	From string // envelope sender, in the form of package address
	To   string // the one envelope recipient, in the form of package address
	Data []byte // RFC 5322, every line ended by CRLF

	last func(context.Context) // see lastStep
}

// lastStep is called by a Sender right before the step after which the message counts
// as sent. The Queue holds it up there while another message is between that step and
// its deletion from the store: so a crash can repeat one message, not one a worker.
func (m Message) lastStep(ctx context.Context) {
	if m.last != nil {
		m.last(ctx)
	}
}

// check refuses what would be read as more than one recipient or more than one message
// further on, whoever made it.
func (m Message) check() error {
	for _, a := range []string{m.From, m.To} {
		if canonical, err := address.Parse(a); err != nil || string(canonical) != a {
			return fmt.Errorf("%w: an envelope address isn't in its canonical form", ErrRefused)
		}
	}
	if !linesEndInCRLF(m.Data) {
		return fmt.Errorf("%w: the message has a line that doesn't end in CRLF", ErrRefused)
	}
	return nil
}

// linesEndInCRLF reports whether data has no bare CR and no bare LF and ends with CRLF.
// Servers disagree on bare ones, which is how a message smuggles in another
// (CVE-2023-51764).
func linesEndInCRLF(data []byte) bool {
	pairs := bytes.Count(data, []byte("\r\n"))
	return bytes.HasSuffix(data, []byte("\r\n")) &&
		bytes.Count(data, []byte("\r")) == pairs && bytes.Count(data, []byte("\n")) == pairs
}
