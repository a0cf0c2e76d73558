package outbox

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"time"

	"github.com/wneessen/go-mail/smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/address"
)

// errNoSTARTTLS: the server can't encrypt the connection.
var errNoSTARTTLS = errors.New("the server offers no STARTTLS; write `tls implicit` for port 465, or `tls off` for a relay on this machine")

// begin makes a connection over which messages can be sent: it dials, greets, encrypts and logs in.
func (s SMTP) begin(ctx context.Context, m Message, wire *wire, login *login) (*conn, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	host, port, err := s.hostPort()
	if err != nil {
		return nil, err
	}
	limit := min(s.timeout(), beginTime)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	config := &tls.Config{ServerName: host, RootCAs: s.RootCAs, Certificates: s.Certificates, MinVersion: tls.VersionTLS12, VerifyConnection: s.tape.secured}
	s.tape.connects(s.Address)
	var under net.Conn
	if s.mode(port) == TLSImplicit {
		under, err = wire.dialTLS(ctx, "tcp", s.Address, config)
	} else {
		under, err = s.dialPlain(ctx, host, wire)
	}
	if err != nil {
		return nil, err
	}
	wire.SetDeadline(time.Now().Add(limit))
	now := time.Now()
	c := &conn{text: textproto.NewConn(under), wire: wire, tape: s.tape, alive: cmp.Or(s.alive, resetTime), opened: now, used: now}
	if err := c.command(2, ""); err != nil {
		return nil, err
	}
	helo := cmp.Or(s.Helo, address.Address(m.From).Domain()) // not the name of this machine, which is nobody's business
	offers, err := c.greet(helo)
	if err != nil {
		return nil, err
	}
	if s.mode(port) == TLSStart {
		if _, ok := offers["STARTTLS"]; !ok {
			return nil, errNoSTARTTLS
		}
		if offers, err = c.encrypt(ctx, config, helo); err != nil {
			return nil, err
		}
	}
	if s.Username != "" {
		server := smtp.ServerInfo{Name: host, TLS: s.mode(port) != TLSOff, Auth: strings.Fields(offers["AUTH"])}
		if err := c.logIn(&server, login); err != nil {
			c.quit()
			return nil, err
		}
	}
	_, c.eightBit = offers["8BITMIME"]
	_, c.pipelining = offers["PIPELINING"]
	c.pipelining = c.pipelining && s.tape == nil // a dialogue has each answer behind its command
	return c, nil
}

// dialPlain connects without encryption.
func (s SMTP) dialPlain(ctx context.Context, host string, wire *wire) (net.Conn, error) {
	if _, err := wire.dial(ctx, "tcp", s.Address); err != nil {
		return nil, err
	}
	if s.Username != "" && s.TLS == TLSOff && !wire.isLocal() { // the name led elsewhere
		wire.Close()
		return nil, fmt.Errorf("tls off: %s isn't on this machine, and the password would be readable on the way; leave out `tls off`", host)
	}
	return wire, wire.listen(ctx, "tcp", s.Address)
}

// greet says who we are, and returns what the server offers, by name in capitals.
func (c *conn) greet(helo string) (offers map[string]string, err error) {
	_, lines, err := c.request(2, "EHLO "+helo)
	if refused, ok := errors.AsType[*textproto.Error](err); ok && refused.Code/100 == 5 {
		_, _, err = c.request(2, "HELO "+helo) // RFC 5321, section 3.2
	}
	offers = map[string]string{}
	for i, line := range lines {
		name, values, _ := strings.Cut(strings.Replace(line, "AUTH=", "AUTH ", 1), " ")
		if i > 0 && err == nil {
			offers[strings.ToUpper(name)] = values
		}
	}
	return offers, err
}

// encrypt goes on with TLS, and greets again: nothing counts that was said before.
func (c *conn) encrypt(ctx context.Context, config *tls.Config, helo string) (offers map[string]string, err error) {
	if err := c.command(2, "STARTTLS"); err != nil {
		return nil, err
	}
	over := tls.Client(c.wire, config)
	if err := over.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	c.text = textproto.NewConn(over)
	return c.greet(helo)
}

// logIn logs in. The error is the server's answer where it refuses.
func (c *conn) logIn(server *smtp.ServerInfo, login *login) error {
	way, first, err := login.Start(server)
	if err != nil {
		return err
	}
	c.tape.loginBegins()
	defer c.tape.loginEnds()
	line := "AUTH " + way
	if len(first) > 0 {
		line += " " + base64.StdEncoding.EncodeToString(first)
	}
	for {
		if err := c.say(line); err != nil {
			return err
		}
		code, lines, err := c.request(0, "")
		switch {
		case err != nil:
			return err
		case code/100 == 2:
			// A way that proves who the server is, such as SCRAM, has heard that before.
			_, err := login.Next([]byte(strings.Join(lines, " ")), false)
			return err
		case code != 334:
			return &textproto.Error{Code: code, Msg: joined(lines)}
		}
		asked, err := base64.StdEncoding.DecodeString(strings.Join(lines, ""))
		var answer []byte
		if err == nil {
			answer, err = login.Next(asked, true)
		}
		if err != nil {
			c.request(0, "*") // RFC 4954, section 4
			return fmt.Errorf("logging in by %s: %w", way, err)
		}
		line = base64.StdEncoding.EncodeToString(answer)
	}
}

// say sends a line, which may be empty.
func (c *conn) say(line string) error {
	c.tape.said(line)
	return c.text.PrintfLine("%s", line)
}

// request sends a command, if it isn't empty, and reads the answer, which has to begin with the
// digit want (0: with any). Where it doesn't, the error is a textproto.Error.
func (c *conn) request(want int, line string) (code int, lines []string, err error) {
	if line != "" {
		if err := c.say(line); err != nil {
			return 0, nil, err
		}
	}
	code, lines, err = readLines(&c.text.Reader)
	if err != nil {
		return 0, nil, err
	}
	c.tape.heard(code, lines)
	if want > 0 && code/100 != want {
		return code, lines, &textproto.Error{Code: code, Msg: joined(lines)}
	}
	return code, lines, nil
}

// command is request where only whether it went well counts.
func (c *conn) command(want int, line string) error {
	_, _, err := c.request(want, line)
	return err
}
