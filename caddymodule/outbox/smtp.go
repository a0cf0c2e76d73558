package outbox

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
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
	maxAnswer = 1 << 20 // bytes that a server may say in one connection
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
	Timeout  time.Duration  // for one message, all in all; default 5 minutes
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
	case s.Username != "" && s.TLS == TLSOff && !loopback(host):
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

// loopback are the names that go-mail, too, takes for this machine.
func loopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
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

	wire := &wire{left: maxAnswer}
	defer wire.Close()
	client, err := s.client(m, timeout, wire)
	if err != nil {
		return serverError(ctx, "settings", err)
	}
	// go-mail's own contexts end with the dialling, and its deadlines with each command:
	// closing is what really ends everything.
	defer context.AfterFunc(ctx, func() { wire.Close() })()
	c, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return serverError(ctx, "connecting", s.connectError(err))
	}
	if err := c.Mail("<" + m.From + ">"); err != nil {
		return serverError(ctx, "MAIL FROM", err) // it is the same for all our messages
	}
	if err := transfer(ctx, c, wire, m); err != nil {
		return err
	}
	wire.SetDeadline(time.Now().Add(quitTime))
	c.Quit()
	return nil
}

// transfer names the one recipient and sends the message.
func transfer(ctx context.Context, c *smtp.Client, wire *wire, m Message) error {
	if err := c.Rcpt("<" + m.To + ">"); err != nil {
		return messageError(ctx, "RCPT TO", err)
	}
	w, err := c.Data()
	if err != nil {
		return messageError(ctx, "DATA", err)
	}
	deadline, _ := ctx.Deadline()
	wire.SetDeadline(deadline)
	// After an error in here the connection is closed without another word: a QUIT would
	// end the data first, and the server might take half a message for a whole one.
	if _, err := w.Write(m.Data); err != nil {
		return messageError(ctx, "sending the message", err)
	}
	m.lastStep(ctx)
	if err := ctx.Err(); err != nil {
		return messageError(ctx, "end of the message", err)
	}
	if err := w.Close(); err != nil {
		return messageError(ctx, "end of the message", err)
	}
	return nil
}

// client makes go-mail's client for one message: it is cheap, and knows its connection.
func (s SMTP) client(m Message, timeout time.Duration, wire *wire) (*mail.Client, error) {
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
				return wire.dial(ctx, network, s.Address)
			}))
	}
	if s.Username != "" {
		options = append(options, mail.WithUsername(s.Username), mail.WithPassword(s.Password),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin))
	}
	return mail.NewClient(host, options...)
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

func (w *wire) Read(p []byte) (int, error) {
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
	if reply, ok := errors.AsType[*textproto.Error](err); ok && (reply.Code == 534 || reply.Code == 535) {
		return fmt.Errorf("the mail server doesn't take username and password: %d %s", reply.Code, reply.Msg)
	}
	if unsafe, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		host, _, _ := s.hostPort()
		return fmt.Errorf("its certificate isn't valid for %s: %w", host, unsafe.Err)
	}
	if strings.Contains(err.Error(), "does not support STARTTLS") { // go-mail has no name for it
		return errors.New("the server offers no STARTTLS: write `tls implicit` for port 465, or `tls off` for a relay on this machine")
	}
	return err
}

// serverError is an error from before the recipient was named. It keeps the server's
// words: they tell the operator what to do, and there is nothing in them to hide yet.
func serverError(ctx context.Context, doing string, err error) error {
	err = endedBy(ctx, err)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%w: %s: %s", ErrServer, doing, loggable(err.Error()))
}

// messageError is an error from after that. Of the server's words it keeps the codes
// alone, since servers like to repeat the address, or the link that they don't like.
func messageError(ctx context.Context, doing string, err error) error {
	err = endedBy(ctx, err)
	reply, ok := errors.AsType[*textproto.Error](err)
	switch {
	case ok && slices.Contains([]int{530, 535, 538}, reply.Code): // it wants a password or TLS
		return fmt.Errorf("%w: %s: %s", ErrServer, doing, codes(reply))
	case ok && reply.Code >= 500:
		return fmt.Errorf("%w: %s: %s", ErrRefused, doing, codes(reply))
	case ok:
		return fmt.Errorf("%s: %s", doing, codes(reply))
	}
	if _, ok := errors.AsType[textproto.ProtocolError](err); ok {
		err = errors.New("the server's answer isn't SMTP")
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// endedBy returns why ctx ended, where that is what really happened: the error is then
// only what the closed connection looked like.
func endedBy(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

var enhanced = regexp.MustCompile(`^[245]\.[0-9]{1,3}\.[0-9]{1,3}\b`)

// codes returns the code of a reply, and its enhanced code where it has one (RFC 3463).
func codes(reply *textproto.Error) string {
	return strings.TrimSpace(strconv.Itoa(reply.Code) + " " + enhanced.FindString(reply.Msg))
}

// loggable makes what a server said fit for a log.
func loggable(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}
