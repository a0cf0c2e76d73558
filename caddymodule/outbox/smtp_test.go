package outbox

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

func TestSMTPSendsTheBytesUnchangedToOneRecipient(t *testing.T) {
	s := newSink(t)
	m := message("ann@example.org")
	if err := s.plain().Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := s.got()
	if len(got) != 1 {
		t.Fatalf("%d mails; want 1", len(got))
	}
	if got[0].data != string(m.Data) {
		t.Errorf("data = %q; want %q", got[0].data, m.Data)
	}
	if len(got[0].to) != 1 || got[0].to[0] != m.To || got[0].from != m.From {
		t.Errorf("envelope = %q → %q; want %q → %q", got[0].from, got[0].to, m.From, m.To)
	}
}

func TestSMTPRefusesWhatCouldBeReadAsMore(t *testing.T) {
	s := newSink(t)
	body := func(text string) Message {
		m := message("ann@example.org")
		m.Data = []byte("Subject: x\r\n\r\n" + text)
		return m
	}
	for name, m := range map[string]Message{
		"two recipients":    message("ann@example.org,bob@example.org"),
		"a parameter":       message("ann@example.org> NOTIFY=NEVER"),
		"a second line":     message("ann@example.org\r\nRCPT TO:<bob@example.org>"),
		"a quoted part":     message(`"ann@example.net>"@example.org`),
		"nobody":            message(""),
		"not canonical":     message("Ann@Example.org"),
		"bare LF":           body("a\n.\nMAIL FROM:<x@y.example>\r\n"),
		"bare CR":           body("a\r.\rb\r\n"),
		"LF before the end": body("a\n.\r\n"),
		"no end of line":    body("a"),
		"no data":           {From: "hello@example.com", To: "ann@example.org"},
	} {
		if err := s.plain().Send(t.Context(), m); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: Send = %v; want ErrRefused", name, err)
		}
	}
	if s.tries() != 0 || len(s.got()) != 0 {
		t.Errorf("the server saw %d recipients and %d mails; want none", s.tries(), len(s.got()))
	}
}

func TestSMTPWhatErrorsMean(t *testing.T) {
	const secretText = "<ann@example.org>: https://clients.example.com/-/link?t=SECRET"
	class := func(err error) string {
		switch {
		case err == nil:
			return "sent"
		case errors.Is(err, ErrRefused):
			return "refused"
		case errors.Is(err, ErrServer):
			return "server"
		case errors.Is(err, ErrPolicy):
			return "policy"
		}
		return "later"
	}
	for _, c := range []struct {
		step, want, text string
		err              error
	}{
		{"rcpt", "refused", "RCPT TO: 550 5.1.1", refusal(550, smtp.EnhancedCode{5, 1, 1}, secretText)},
		{"rcpt", "policy", "RCPT TO: 451 4.7.1", refusal(451, smtp.EnhancedCode{4, 7, 1}, secretText)},
		{"rcpt", "policy", "RCPT TO: 554 5.7.1", refusal(554, smtp.EnhancedCode{5, 7, 1}, secretText)},
		{"rcpt", "later", "RCPT TO: 450 4.2.0", refusal(450, smtp.EnhancedCode{4, 2, 0}, secretText)},
		{"rcpt", "server", "RCPT TO: 421", refusal(421, smtp.EnhancedCode{4, 3, 2}, secretText)},
		{"rcpt", "server", "RCPT TO: 530 5.7.0", refusal(530, smtp.EnhancedCode{5, 7, 0}, secretText)},
		{"data", "policy", "end of the message: 554 5.7.1", refusal(554, smtp.EnhancedCode{5, 7, 1}, secretText)},
		{"data", "later", "end of the message: 452", refusal(452, smtp.EnhancedCode{4, 2, 2}, secretText)},
	} {
		s := newSink(t, func(s *sink) {
			answer := func(int, string) error { return c.err }
			if c.step == "rcpt" {
				s.rcpt = answer
			} else {
				s.data = answer
			}
		})
		err := s.plain().Send(t.Context(), message("ann@example.org"))
		if class(err) != c.want || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %v: Send = %v; want %s: %s", c.step, c.err, err, c.want, c.text)
		}
		if strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "ann@") {
			t.Errorf("the error repeats what the server said: %v", err)
		}
	}
	closed, _ := net.Listen("tcp", "127.0.0.1:0")
	closed.Close()
	if err := (SMTP{Address: closed.Addr().String(), TLS: TLSOff}).Send(t.Context(), message("ann@example.org")); class(err) != "server" {
		t.Errorf("refused connection: Send = %v; want ErrServer", err)
	}
}

func TestSMTPEncryptsOrDoesNotSend(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	other, otherPool := certificate(t, "other.example.com")
	implicit := implicitTLS(t, cert)
	for _, c := range []struct {
		name string
		sink *sink
		smtp SMTP
		want error
		says string
	}{
		{"starttls", newSink(t, withTLS(cert)), SMTP{RootCAs: pool}, nil, ""},
		{"implicit", newSink(t, implicit), SMTP{RootCAs: pool, TLS: TLSImplicit}, nil, ""},
		{"starttls isn't offered", newSink(t), SMTP{RootCAs: pool}, ErrServer,
			"connecting: the server offers no STARTTLS; write `tls implicit` for port 465, or `tls off` for a relay on this machine"},
		{"nobody knows the certificate", newSink(t, withTLS(cert)), SMTP{}, ErrServer, "connecting: its certificate isn't valid for 127.0.0.1: x509: "},
		{"another host's certificate", newSink(t, withTLS(other)), SMTP{RootCAs: otherPool}, ErrServer, "connecting: its certificate isn't valid for 127.0.0.1: x509: "},
		{"implicit, unknown certificate", newSink(t, implicit), SMTP{TLS: TLSImplicit}, ErrServer, "connecting: its certificate isn't valid for 127.0.0.1: x509: "},
	} {
		c.smtp.Address, c.smtp.Username, c.smtp.Password = c.sink.addr, "portal", "right"
		err := c.smtp.Send(t.Context(), message("ann@example.org"))
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%s: Send = %v; want %v", c.name, err, c.want)
		}
		if err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: Send = %v; want %q", c.name, err, c.says)
		}
		got := c.sink.got()
		if (len(got) == 1) != (c.want == nil) {
			t.Errorf("%s: %d mails arrived; want error %v", c.name, len(got), c.want)
		}
		for _, m := range got {
			if !m.tls {
				t.Errorf("%s: the mail wasn't encrypted", c.name)
			}
		}
		if c.want != nil && len(c.sink.users) > 0 {
			t.Errorf("%s: the password was sent", c.name)
		}
	}
}

func TestSMTPShowsItsCertificateToAServerThatAsks(t *testing.T) {
	cert, roots := certificate(t, "127.0.0.1")
	ours, clients := certificate(t, "clients.example.com")
	s := newSink(t, withTLS(cert), func(s *sink) {
		s.Server.TLSConfig.ClientAuth, s.Server.TLSConfig.ClientCAs = tls.RequireAndVerifyClientCert, clients
	})
	for _, c := range []struct {
		certificates []tls.Certificate
		want         bool
	}{{nil, false}, {[]tls.Certificate{ours}, true}} {
		err := SMTP{Address: s.addr, RootCAs: roots, Certificates: c.certificates}.Send(t.Context(), message("ann@example.org"))
		if (err == nil) != c.want {
			t.Errorf("with %d certificates: Send = %v; want it sent: %v", len(c.certificates), err, c.want)
		}
	}
}

func TestSMTPPasswords(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	for _, c := range []struct {
		password string
		tls      TLS
		ok       bool
	}{
		{"right", TLSStart, true},
		{"wrong", TLSStart, false},
		{"right", TLSOff, true}, // this machine
	} {
		s := newSink(t, withTLS(cert))
		err := SMTP{Address: s.addr, Username: "portal", Password: c.password, TLS: c.tls, RootCAs: pool}.
			Send(t.Context(), message("ann@example.org"))
		if c.ok && (err != nil || len(s.users) != 1) {
			t.Errorf("%s over %s: Send = %v, users %q; want sent", c.password, c.tls, err, s.users)
		}
		if !c.ok && (!errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "connecting: 535 5.7.8") || strings.Contains(err.Error(), c.password)) {
			t.Errorf("%s over %s: Send = %v; want ErrServer with 535 and without the password", c.password, c.tls, err)
		}
	}
}

// script is a server that says what it is told to, line by line.
func script(t *testing.T, serve func(c net.Conn, r *bufio.Reader)) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			}()
		}
	}()
	return ln.Addr().String()
}

// heard answers every command up to DATA, and returns at the end of the message.
func heard(c net.Conn, r *bufio.Reader) bool {
	fmt.Fprint(c, "220 hello\r\n")
	for {
		line, err := r.ReadString('\n')
		switch {
		case err != nil:
			return false
		case strings.HasPrefix(line, "DATA"):
			fmt.Fprint(c, "354 go on\r\n")
			for line != ".\r\n" {
				if line, err = r.ReadString('\n'); err != nil {
					return false
				}
			}
			return true
		default:
			fmt.Fprint(c, "250 fine\r\n")
		}
	}
}

func TestSMTPIsDoneWhenTheServerSaysYes(t *testing.T) {
	for name, after := range map[string]func(net.Conn){
		"hangs up":       func(net.Conn) {},
		"421 afterwards": func(c net.Conn) { fmt.Fprint(c, "421 bye\r\n") },
		"silence": func(c net.Conn) {
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			io.Copy(io.Discard, c)
		},
	} {
		addr := script(t, func(c net.Conn, r *bufio.Reader) {
			if heard(c, r) {
				fmt.Fprint(c, "250 taken\r\n")
				after(c)
			}
		})
		start := time.Now()
		if err := (SMTP{Address: addr, TLS: TLSOff}).Send(t.Context(), message("ann@example.org")); err != nil {
			t.Errorf("%s: Send = %v; want nil", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// What a man in the middle puts behind the answer to STARTTLS must not count as said
// by the server over TLS (CVE-2011-0411 and its kin, for clients).
func TestSMTPDoesNotHearWhatIsInjectedBeforeTLS(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	for _, pause := range []time.Duration{0, 30 * time.Millisecond} {
		var auth, mail atomic.Bool
		addr := script(t, func(c net.Conn, r *bufio.Reader) {
			fmt.Fprint(c, "220 hello\r\n")
			for {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if strings.HasPrefix(line, "STARTTLS") {
					break
				}
				fmt.Fprint(c, "250-hello\r\n250 STARTTLS\r\n")
			}
			const injected = "250-evil\r\n250 AUTH PLAIN\r\n235 welcome\r\n250 sender\r\n250 recipient\r\n354 go\r\n250 taken\r\n"
			if pause == 0 {
				fmt.Fprint(c, "220 go\r\n"+injected)
			} else {
				fmt.Fprint(c, "220 go\r\n")
				time.Sleep(pause)
				fmt.Fprint(c, injected)
			}
			server := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})
			for r := bufio.NewReader(server); ; {
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				auth.Store(auth.Load() || strings.HasPrefix(line, "AUTH"))
				mail.Store(mail.Load() || strings.HasPrefix(line, "MAIL"))
				fmt.Fprint(server, "250 the real one\r\n") // offers no AUTH
			}
		})
		err := SMTP{Address: addr, Username: "portal", Password: "right", RootCAs: pool, Timeout: 5 * time.Second}.
			Send(t.Context(), message("ann@example.org"))
		if !errors.Is(err, ErrServer) || auth.Load() || mail.Load() {
			t.Errorf("pause %v: Send = %v, AUTH %v, MAIL %v; want ErrServer and neither", pause, err, auth.Load(), mail.Load())
		}
	}
}

func TestSMTPEndsInTimeAndOnRequest(t *testing.T) {
	stages := map[string]func(net.Conn, *bufio.Reader){
		"before the greeting": func(c net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) },
		"after the message": func(c net.Conn, r *bufio.Reader) {
			heard(c, r)
			io.Copy(io.Discard, r)
		},
	}
	for name, serve := range stages {
		addr := script(t, serve)
		start := time.Now()
		err := SMTP{Address: addr, TLS: TLSOff, Timeout: 300 * time.Millisecond}.Send(t.Context(), message("ann@example.org"))
		if took := time.Since(start); err == nil || errors.Is(err, ErrRefused) || took > 5*time.Second {
			t.Errorf("%s, time limit: Send = %v after %v; want an error that is tried again", name, err, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(200*time.Millisecond, cancel)
		start = time.Now()
		err = SMTP{Address: addr, TLS: TLSOff}.Send(ctx, message("ann@example.org"))
		if took := time.Since(start); !errors.Is(err, context.Canceled) || took > 5*time.Second {
			t.Errorf("%s, cancelled: Send = %v after %v; want context.Canceled", name, err, took)
		}
	}
}

func TestSMTPDoesNotListenForEver(t *testing.T) {
	addr := script(t, func(c net.Conn, r *bufio.Reader) {
		for err := error(nil); err == nil; {
			_, err = fmt.Fprint(c, "220-"+strings.Repeat("x", 500)+"\r\n")
		}
	})
	err := SMTP{Address: addr, TLS: TLSOff, Timeout: 10 * time.Second}.Send(t.Context(), message("ann@example.org"))
	if !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "talks too much") {
		t.Errorf("Send = %v; want ErrServer: the server talks too much", err)
	}
}

// A connection that breaks within the message must not leave half of it as a whole.
func TestSMTPDroppedInData(t *testing.T) {
	s := newSink(t)
	first := true
	s.read = func(c net.Conn, r io.Reader) error {
		if first {
			first = false
			c.Close()
			return errBoom
		}
		_, err := io.Copy(io.Discard, r)
		return err
	}
	m := message("ann@example.org")
	m.Data = append(m.Data, strings.Repeat(strings.Repeat("x", 70)+"\r\n", 50_000)...)
	err := s.plain().Send(t.Context(), m)
	if err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrServer) {
		t.Errorf("Send = %v; want an error that is tried again", err)
	}
	if err := s.plain().Send(t.Context(), m); err != nil {
		t.Errorf("second Send = %v; want nil", err)
	}
}

// What is written counts; else the port says how.
func TestSMTPMode(t *testing.T) {
	for _, c := range []struct {
		written TLS
		port    int
		want    TLS
	}{
		{TLSDefault, 465, TLSImplicit}, {TLSDefault, 587, TLSStart}, {TLSDefault, 25, TLSStart}, {TLSDefault, 2465, TLSStart},
		{TLSStart, 587, TLSStart}, {TLSImplicit, 587, TLSImplicit}, {TLSOff, 25, TLSOff}, {TLSOff, 465, TLSOff},
	} {
		if got := (SMTP{TLS: c.written}).mode(c.port); got != c.want {
			t.Errorf("tls %q on port %d is %q; want %q", c.written, c.port, got, c.want)
		}
	}
}

func TestSMTPValidate(t *testing.T) {
	for _, c := range []struct {
		smtp SMTP
		want string // in the error; "": valid
	}{
		{SMTP{Address: "smtp.example.com:587"}, ""},
		{SMTP{Address: "smtp.example.com:587", Username: "a", Password: "b"}, ""},
		{SMTP{Address: "smtp.example.com:465", TLS: TLSImplicit}, ""},
		{SMTP{Address: "smtp.example.com:465"}, ""},
		{SMTP{Address: "[::1]:25", TLS: TLSOff, Username: "a", Password: "b"}, ""},
		{SMTP{Address: "smtp.example.com:25", TLS: TLSOff}, ""},
		{SMTP{Address: "smtp.example.com"}, "host:port"},
		{SMTP{Address: "smtp.example.com:smtp"}, "host:port"},
		{SMTP{Address: "smtp.example.com:0"}, "host:port"},
		{SMTP{Address: ":587"}, "host:port"},
		{SMTP{Address: "smtp.example.com:587", TLS: "ssl"}, "starttls, implicit or off"},
		{SMTP{Address: "smtp.example.com:465", TLS: TLSStart}, "tls implicit"},
		{SMTP{Address: "smtp.example.com:587", Username: "a"}, "password"},
		{SMTP{Address: "smtp.example.com:587", Password: "a"}, "username"},
		{SMTP{Address: "smtp.example.com:25", TLS: TLSOff, Username: "a", Password: "b"}, "readable"},
	} {
		err := c.smtp.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v.Validate() = %v; want %q", c.smtp, err, c.want)
		}
	}
}

// peer is a connection to an address.
type peer struct {
	net.Conn
	at string
}

func (p peer) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(p.at)) }

// Names under localhost are this machine's, unless a resolver says something else: then no password
// goes there without TLS.
func TestPasswordsWithoutTLSStayOnThisMachine(t *testing.T) {
	for host, want := range map[string]bool{"localhost": true, "mail.localhost": true, "127.0.0.9": true, "[::1]": true, "mail.example.com": false, "10.0.0.9": false} {
		err := SMTP{Address: host + ":25", TLS: TLSOff, Username: "portal", Password: "x"}.Validate()
		if (err == nil) != want {
			t.Errorf("tls off with a password for %s: %v; want it taken: %t", host, err, want)
		}
	}
	for at, want := range map[string]bool{"127.0.0.9:25": true, "[::1]:25": true, "203.0.113.9:25": false, "[2001:db8::1]:25": false} {
		if w := (&wire{Conn: peer{at: at}}); w.isLocal() != want {
			t.Errorf("a server at %s is on this machine: %t; want %t", at, !want, want)
		}
	}
}
