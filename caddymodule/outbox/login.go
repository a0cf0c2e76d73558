package outbox

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/wneessen/go-mail/smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/loopback"
)

// mechanisms are the ways to log in, the best first.
var mechanisms = []string{"SCRAM-SHA-256", "PLAIN", "LOGIN"}

// Logins remembers which ways to log in the account can't use although the server offers
// them, so that not every message costs a failed login. It may be used by many goroutines.
type Logins struct {
	mu     sync.Mutex
	failed []string
}

func (l *Logins) remember(failed []string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = slices.Clone(failed)
}

func (l *Logins) known() []string {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.failed)
}

// login logs in to one mail server, in one way at a time. It is an smtp.Auth.
type login struct {
	username, password, host string
	token                    string // in place of the password; "": the password

	failed []string // ways that the account can't use
	more   bool     // the server offers another way
	tries  int
	way    smtp.Auth
	name   string
}

func (s SMTP) login() *login {
	host, _, _ := s.hostPort()
	return &login{username: s.Username, password: s.Password, host: host, failed: s.Logins.known()}
}

// next reports whether there is another way to try, once, and takes it.
func (l *login) next() bool {
	if l.name == "" || !l.more || l.tries > 1 {
		return false
	}
	l.failed = append(l.failed, l.name)
	return true
}

// Start implements smtp.Auth: it takes the best way that the server offers. The password
// goes over TLS, or to this machine, only.
func (l *login) Start(server *smtp.ServerInfo) (string, []byte, error) {
	l.way, l.more = nil, false
	if l.token != "" {
		return l.startOAuth(server)
	}
	for _, name := range mechanisms {
		offered := slices.ContainsFunc(server.Auth, func(s string) bool { return strings.EqualFold(s, name) })
		switch {
		case !offered || slices.Contains(l.failed, name):
			continue
		case l.way != nil:
			l.more = true
			continue
		}
		l.name, l.way = name, l.by(name)
	}
	if l.way == nil && len(l.failed) > 0 && l.tries == 0 { // the server has changed since
		l.failed = nil
		return l.Start(server)
	}
	if l.way == nil {
		return "", nil, fmt.Errorf("the server offers no way to log in that works here; leave out username and password for a relay that needs none, or write another port")
	}
	l.tries++
	return l.way.Start(server)
}

// xoauth2 is the way to log in with an access token.
const xoauth2 = "XOAUTH2"

// byOAuth marks a refusal of an access token, for Advice.
const byOAuth = " (of the access token)"

func (l *login) startOAuth(server *smtp.ServerInfo) (string, []byte, error) {
	if !slices.ContainsFunc(server.Auth, func(s string) bool { return strings.EqualFold(s, xoauth2) }) {
		return "", nil, fmt.Errorf("the server offers no login by OAuth (%s); write username and password in place of `oauth`", xoauth2)
	}
	if !server.TLS && !loopback.Is(l.host) {
		return "", nil, fmt.Errorf("the access token would be readable on the way; leave out `tls off`")
	}
	l.way = smtp.XOAuth2Auth(l.username, l.token)
	return l.way.Start(server)
}

// Next implements smtp.Auth.
func (l *login) Next(fromServer []byte, more bool) ([]byte, error) {
	return l.way.Next(fromServer, more)
}

func (l *login) by(name string) smtp.Auth {
	switch name {
	case "SCRAM-SHA-256":
		return smtp.ScramSHA256Auth(l.username, l.password)
	case "PLAIN":
		return smtp.PlainAuth("", l.username, l.password, l.host, loopback.Is(l.host))
	}
	return smtp.LoginAuth(l.username, l.password, l.host, loopback.Is(l.host))
}
