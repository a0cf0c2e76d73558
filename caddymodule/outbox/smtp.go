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
	"time"
	"unicode"

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

// AccessToken returns a token to log in with (XOAUTH2). refused is one that the mail server didn't
// take, or "".
type AccessToken func(ctx context.Context, refused string) (string, error)

// SMTP is how a mail server is reached, and the Sender that hands each message to it over a
// connection of its own. The certificate of the server is always checked, against its host name.
type SMTP struct {
	Address      string            // host:port
	Username     string            // empty: no authentication
	Password     string            //
	AccessToken  AccessToken       // to log in by OAuth in place of the password; nil: there is none
	TLS          TLS               //
	Helo         string            // the name to greet with; default: the domain of the sender
	RootCAs      *x509.CertPool    // default: those of the system
	Certificates []tls.Certificate // of ours, for servers that ask for one; default: none
	Logins       *Logins           // what is known about ways to log in; nil: nothing is remembered
	Timeout      time.Duration     // for one message, all in all; default 5 minutes

	tape     *tape         // takes in what is said; nil: nobody listens
	patience time.Duration // see wire.listen; default greetTime
	alive    time.Duration // default resetTime
}

// Validate returns an error that tells an operator how to correct the settings. It opens no
// connection.
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
	case s.AccessToken != nil && (s.Username == "" || s.Password != ""):
		return errors.New("oauth: write `username` with the address of the mailbox beside it, and no password")
	case s.Username == "" && s.Password != "":
		return errors.New("password: there is no username to it; write `username NAME`, or leave out the password for a relay that needs none")
	case s.Username != "" && s.Password == "" && s.AccessToken == nil:
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
// that follows makes it an error. See Pool for many messages.
func (s SMTP) Send(ctx context.Context, m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	c, err := s.connect(ctx, m)
	if err != nil {
		return err
	}
	defer c.wire.Close()
	if err := c.send(ctx, m); err != nil {
		return err
	}
	c.quit()
	return nil
}

func (s SMTP) timeout() time.Duration {
	if s.Timeout <= 0 {
		return 5 * time.Minute
	}
	return s.Timeout
}

// connect opens the connection, which ends with ctx at the latest, and logs in. Where the
// server doesn't take the login, it is tried once more in the next way that the server
// offers: an account may be unable to use the first one, as one whose password is stored
// as a hash can't use SCRAM.
func (s SMTP) connect(ctx context.Context, m Message) (*conn, error) {
	login := s.login()
	for refusedToken := ""; ; {
		if s.AccessToken != nil {
			var err error
			if login.token, err = s.AccessToken(ctx, refusedToken); err != nil {
				s.tape.note("(no access token for "+s.Username+")", "")
				return nil, serverError(ctx, stepConnect, err, m)
			}
			s.tape.note("(an access token for "+s.Username+" is there)", "It is asked for again before it expires.")
		}
		wire := &wire{left: maxAnswer, patience: s.patience}
		stop := context.AfterFunc(ctx, func() { wire.Close() })
		c, err := s.begin(ctx, m, wire, login)
		if err == nil && stop() {
			s.Logins.remember(login.failed)
			return c, nil
		}
		wire.Close()
		if err == nil {
			err = ctx.Err()
		}
		refused, ok := errors.AsType[*textproto.Error](err)
		if ctx.Err() == nil && ok && refused.Code == 535 && s.AccessToken != nil {
			refused.Msg += byOAuth
			if token, tokenErr := s.AccessToken(ctx, login.token); refusedToken == "" && tokenErr == nil && token != login.token {
				refusedToken = login.token // it may have been revoked
				continue
			}
		} else if ctx.Err() == nil && ok && refused.Code == 535 {
			if login.next() {
				s.tape.note("(once more, by another way to log in)", "An account may be unable to use a way that the server offers.")
				continue
			}
			s.Logins.remember(nil)
		}
		return nil, serverError(ctx, stepConnect, s.connectError(err), m)
	}
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

// connectError explains an error of connecting and says what to do, if its own text doesn't. The
// server's words follow.
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
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op != "dial" {
		return fmt.Errorf("%s: %w", op.Op, op.Err) // without ports, which are others each time
	}
	return err
}

// Check connects, encrypts, logs in and leaves, without a message. from is the sender's address, whose
// domain is the name to greet with where none is set.
func (s SMTP) Check(ctx context.Context, from string) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout())
	defer cancel()
	c, err := s.connect(ctx, Message{From: from})
	if err != nil {
		return err
	}
	c.quit()
	return nil
}
