package outbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// TLS says how a connection to the mail server is encrypted.
type TLS string

// The ways to encrypt. None of them ever falls back to another.
const (
	TLSDefault  TLS = ""         // implicit on port 465, else starttls
	TLSStart    TLS = "starttls" // the server must offer it
	TLSImplicit TLS = "implicit" // from the first byte
	TLSOff      TLS = "off"      // no encryption; a password only for this machine
)

const (
	portImplicit = 465

	// beginTime bounds everything before the message: nobody waits longer for a server
	// that is alive. RFC 5321, section 4.5.3.2, allows five minutes a command.
	beginTime = time.Minute
	quitTime  = 2 * time.Second
	greetTime = 5 * time.Second // after which a server that doesn't greet is looked at
	maxAnswer = 1 << 20         // bytes that a server may say in one connection
)

// SMTP is the Sender that hands messages to a mail server, each over a connection of
// its own. The certificate of the server is always checked, against its host name.
type SMTP struct {
	Address  string         // host:port
	Username string         // empty: no authentication
	Password string         //
	TLS      TLS            //
	Helo     string         // the name to greet with; default: the domain of the sender
	RootCAs  *x509.CertPool // default: those of the system
	Logins   *Logins        // what is known about ways to log in; nil: nothing is remembered
	Timeout  time.Duration  // for one message, all in all; default 5 minutes

	patience time.Duration // see wire.listen; default greetTime
}

// Validate reports what is wrong with the settings, in words for who wrote them. It
// doesn't connect to anything.
func (s SMTP) Validate() error {
	host, port, err := s.hostPort()
	if err != nil {
		return err
	}
	if !slices.Contains([]TLS{TLSDefault, TLSStart, TLSImplicit, TLSOff}, s.TLS) {
		return fmt.Errorf("tls %q: write starttls, implicit or off", s.TLS)
	}
	switch {
	case port == portImplicit && s.TLS == TLSStart:
		return errors.New("tls starttls: port 465 is encrypted from the first byte; write `tls implicit`, or use port 587")
	case s.Username == "" && s.Password != "":
		return errors.New("password: there is no username to it; write `username NAME`, or leave out the password for a relay that needs none")
	case s.Username != "" && s.Password == "":
		return errors.New("username: there is no password to it; write `password {file./path/to/it}`, or leave out the username for a relay that needs none")
	case s.Username != "" && s.TLS == TLSOff && !loopback.Is(host):
		return errors.New("tls off: the password would be readable on the way to " + host + "; leave out `tls off`")
	}
	return nil
}

func (s SMTP) hostPort() (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s.Address)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || host == "" || port < 1 || port > 65535 || strings.ContainsFunc(host, unicode.IsSpace) {
		return "", 0, fmt.Errorf("mail server %q: write it as host:port, such as smtp.example.com:587", s.Address)
	}
	return host, port, nil
}

// Send connects, sends and leaves. Once the server has said yes to the message nothing
// that follows makes it an error.
func (s SMTP) Send(ctx context.Context, m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	timeout := s.Timeout
	if timeout <= 0 {
		timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	c, wire, err := s.connect(ctx, m, timeout)
	if err != nil {
		return err
	}
	defer wire.Close()
	body := ""
	if ok, _ := c.Extension("8BITMIME"); ok {
		body = " BODY=8BITMIME"
	}
	if err := command(c.Text, 2, "MAIL FROM:<%s>%s", m.From, body); err != nil {
		return serverError(ctx, stepMail, err, m) // it is the same for all our messages
	}
	if err := transfer(ctx, c.Text, wire, m); err != nil {
		return err
	}
	wire.SetDeadline(time.Now().Add(quitTime))
	c.Quit()
	return nil
}

// connect opens the connection, which ends with ctx at the latest, and logs in. Where the
// server doesn't take the login, it is tried once more in the next way that the server
// offers: an account may be unable to use the first one, as one whose password is stored
// as a hash can't use SCRAM.
func (s SMTP) connect(ctx context.Context, m Message, timeout time.Duration) (*smtp.Client, *wire, error) {
	login := s.login()
	for {
		wire := &wire{left: maxAnswer, patience: s.patience}
		// go-mail's own contexts end with the dialling, and its deadlines with each command:
		// closing is what really ends everything.
		context.AfterFunc(ctx, func() { wire.Close() })
		client, err := s.client(m, timeout, wire, login)
		if err != nil {
			return nil, nil, serverError(ctx, "settings", err, m)
		}
		c, err := client.DialToSMTPClientWithContext(ctx)
		if err == nil {
			s.Logins.remember(login.failed)
			return c, wire, nil
		}
		wire.Close()
		refused, ok := errors.AsType[*textproto.Error](err)
		if ctx.Err() == nil && ok && refused.Code == 535 {
			if login.next() {
				continue
			}
			s.Logins.remember(nil)
		}
		return nil, nil, serverError(ctx, stepConnect, s.connectError(err), m)
	}
}

// transfer names the one recipient and sends the message.
func transfer(ctx context.Context, c *textproto.Conn, wire *wire, m Message) error {
	if err := command(c, 2, "RCPT TO:<%s>", m.To); err != nil {
		return messageError(ctx, stepRcpt, err, m)
	}
	if err := command(c, 3, "DATA"); err != nil {
		return messageError(ctx, stepData, err, m)
	}
	deadline, _ := ctx.Deadline()
	wire.SetDeadline(deadline)
	// After an error in here the connection is closed without another word: a QUIT would
	// end the data first, and the server might take half a message for a whole one.
	w := c.DotWriter()
	if _, err := w.Write(m.Data); err != nil {
		return messageError(ctx, "sending the message", err, m)
	}
	m.lastStep(ctx)
	if err := ctx.Err(); err != nil {
		return messageError(ctx, stepEnd, err, m)
	}
	err := w.Close()
	if err == nil {
		err = command(c, 2, "") // whatever begins with 2 is a yes
	}
	if err != nil {
		return messageError(ctx, stepEnd, err, m)
	}
	return nil
}

// client makes go-mail's client for one message: it is cheap, and knows its connection.
func (s SMTP) client(m Message, timeout time.Duration, wire *wire, login *login) (*mail.Client, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	host, port, err := s.hostPort()
	if err != nil {
		return nil, err
	}
	helo := s.Helo
	if helo == "" {
		helo = address.Address(m.From).Domain() // not the name of this machine, which is nobody's business
	}
	config := &tls.Config{ServerName: host, RootCAs: s.RootCAs, MinVersion: tls.VersionTLS12}
	options := []mail.Option{
		mail.WithPort(port), mail.WithHELO(helo), mail.WithTimeout(min(timeout, beginTime)),
		mail.WithoutSMTPUTF8(), // package address has ASCII addresses only
	}
	switch s.mode(port) {
	case TLSImplicit:
		options = append(options, mail.WithTLSPolicy(mail.NoTLS), // it is there when SMTP begins
			mail.WithDialContextFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
				return wire.dialTLS(ctx, network, s.Address, config)
			}))
	default:
		policy := mail.TLSMandatory
		if s.TLS == TLSOff {
			policy = mail.NoTLS
		}
		options = append(options, mail.WithTLSPolicy(policy), mail.WithTLSConfig(config),
			mail.WithDialContextFunc(func(ctx context.Context, network, _ string) (net.Conn, error) {
				if _, err := wire.dial(ctx, network, s.Address); err != nil {
					return nil, err
				}
				if s.Username != "" && s.TLS == TLSOff && !wire.isLocal() { // the name led elsewhere
					wire.Close()
					return nil, fmt.Errorf("tls off: %s isn't on this machine, and the password would be readable on the way; leave out `tls off`", host)
				}
				return wire, wire.listen(ctx, network, s.Address)
			}))
	}
	if s.Username != "" {
		options = append(options, mail.WithSMTPAuthCustom(login))
	}
	return mail.NewClient(host, options...)
}

// implicit reports whether the connection is encrypted from the first byte.
func (s SMTP) implicit() bool {
	_, port, err := s.hostPort()
	return err == nil && s.mode(port) == TLSImplicit
}

func (s SMTP) mode(port int) TLS {
	switch {
	case s.TLS != TLSDefault:
		return s.TLS
	case port == portImplicit:
		return TLSImplicit
	}
	return TLSStart
}

// wire is the connection below SMTP and TLS: closed from anywhere at any time, and with
// an end to what a server may say.
type wire struct {
	net.Conn // set by dial
	left     int
	patience time.Duration
	heard    []byte // by listen, and not yet read

	mu     sync.Mutex
	closed bool
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	w.Conn = conn
	return w, nil
}

// isLocal reports whether the server is on this machine.
func (w *wire) isLocal() bool {
	host, _, err := net.SplitHostPort(w.RemoteAddr().String())
	return err == nil && loopback.Is(host)
}

func (w *wire) dialTLS(ctx context.Context, network, addr string, config *tls.Config) (net.Conn, error) {
	if _, err := w.dial(ctx, network, addr); err != nil {
		return nil, err
	}
	conn := tls.Client(w, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn, nil
}

// errWaitsForTLS: the server expects the client to begin, with TLS.
var errWaitsForTLS = errors.New("the server is encrypted from the first byte; write `tls implicit`")

// listen waits for the server's greeting. Where none comes in some seconds, it looks by
// another connection whether the server waits for TLS; a server that is only slow to greet
// goes on being waited for.
func (w *wire) listen(ctx context.Context, network, addr string) error {
	patience := w.patience
	if patience <= 0 {
		patience = greetTime
	}
	w.Conn.SetReadDeadline(time.Now().Add(patience))
	first := make([]byte, 1)
	n, err := w.Conn.Read(first)
	w.Conn.SetReadDeadline(time.Time{}) // go-mail sets its own
	w.heard = first[:n]
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() && beginsWithTLS(ctx, network, addr, patience) {
		return errWaitsForTLS
	}
	return nil // a read that failed fails again
}

// beginsWithTLS reports whether the server answers the first message of a TLS handshake by
// TLS. Nothing else is sent.
func beginsWithTLS(ctx context.Context, network, addr string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return false
	}
	defer conn.Close()
	host, _, _ := net.SplitHostPort(addr)
	heard := &firstByte{Conn: conn}
	tls.Client(heard, &tls.Config{ServerName: host}).HandshakeContext(ctx) // only how it begins counts
	const alert, handshake = 21, 22
	return heard.b == alert || heard.b == handshake
}

// firstByte is a connection that remembers the first byte that came.
type firstByte struct {
	net.Conn
	b byte
}

func (f *firstByte) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if n > 0 && f.b == 0 {
		f.b = p[0]
	}
	return n, err
}

func (w *wire) Read(p []byte) (int, error) {
	if n := copy(p, w.heard); n > 0 {
		w.heard = w.heard[n:]
		return n, nil
	}
	if w.left <= 0 {
		return 0, errors.New("the server talks too much")
	}
	n, err := w.Conn.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// Close may be called before, while and after dialling, and more than once.
func (w *wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.Conn == nil {
		return nil
	}
	return w.Conn.Close()
}

// connectError says what an error of connecting means and what to do, where go-mail's
// words don't. What the server said stays behind it.
func (s SMTP) connectError(err error) error {
	if _, ok := errors.AsType[*textproto.Error](err); ok {
		return err
	}
	if unsafe, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		host, _, _ := s.hostPort()
		return fmt.Errorf("its certificate isn't valid for %s: %w", host, unsafe.Err)
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok && s.implicit() {
		return errors.New("the server doesn't begin with TLS; write `tls starttls`, or `tls off` for a relay on this machine")
	}
	if strings.Contains(err.Error(), "does not support STARTTLS") { // go-mail has no name for it
		return errors.New("the server offers no STARTTLS; write `tls implicit` for port 465, or `tls off` for a relay on this machine")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op != "dial" {
		return fmt.Errorf("%s: %w", op.Op, op.Err) // without ports, which are others each time
	}
	return err
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
