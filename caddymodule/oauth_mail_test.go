package caddymodule_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule"
)

// tokenSink is a mail server that takes the access tokens of a token server, which gives each refresh
// token once.
type tokenSink struct {
	*sink
	tokens *httptest.Server

	mu      sync.Mutex
	refresh string // that works
	access  string // that works
	given   int
}

func newTokenSink(t *testing.T) *tokenSink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &tokenSink{sink: &sink{addr: l.Addr().String()}, refresh: "refresh-token-0"}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &tokenSession{sinkSession{s.sink}, s, false}, nil }))
	server.Domain, server.AllowInsecureAuth, server.ErrorLog = "localhost", true, quietLog{}
	go func() { _ = server.Serve(l) }()
	s.tokens = httptest.NewServer(http.HandlerFunc(s.give))
	t.Cleanup(func() { server.Close(); s.tokens.Close() })
	return s
}

type quietLog struct{}

func (quietLog) Printf(string, ...any) {}
func (quietLog) Println(...any)        {}

func (s *tokenSink) give(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.FormValue("refresh_token") != s.refresh || r.FormValue("client_secret") != "client-secret" {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": "Token has been expired or revoked."})
		return
	}
	s.given++
	s.refresh, s.access = fmt.Sprint("refresh-token-", s.given), fmt.Sprint("access-token-", s.given)
	json.NewEncoder(w).Encode(map[string]any{"access_token": s.access, "token_type": "Bearer", "expires_in": 3600, "refresh_token": s.refresh})
}

type tokenSession struct {
	sinkSession
	tokens *tokenSink
	in     bool
}

func (s *tokenSession) AuthMechanisms() []string { return []string{"XOAUTH2"} }
func (s *tokenSession) Auth(string) (sasl.Server, error) {
	return xoauth2(func(user, token string) bool {
		s.tokens.mu.Lock()
		defer s.tokens.mu.Unlock()
		s.in = user == "portal@example.com" && token == s.tokens.access
		return s.in
	}), nil
}
func (s *tokenSession) Mail(from string, o *smtp.MailOptions) error {
	if !s.in {
		return smtp.ErrAuthRequired
	}
	return s.sinkSession.Mail(from, o)
}
func (s *tokenSession) Data(r io.Reader) error { return s.sinkSession.Data(r) }

// xoauth2 checks a user and an access token.
type xoauth2 func(user, token string) bool

func (x xoauth2) Next(said []byte) (challenge []byte, done bool, err error) {
	user, token, ok := strings.Cut(strings.TrimSuffix(string(said), "\x01\x01"), "\x01auth=Bearer ")
	switch {
	case said == nil:
		return nil, false, nil
	case !ok:
		return nil, false, errors.New("535 5.7.8 no access token")
	case x(strings.TrimPrefix(user, "user="), token):
		return nil, true, nil
	}
	return nil, false, smtp.ErrAuthFailed
}

// Mail goes out by access tokens that are renewed over reloads and restarts, though each refresh
// token works once; and no secret of it is in a log or in the configuration.
func TestMailByOAuthOutlivesReloadsAndRestarts(t *testing.T) {
	t.Setenv("DOORPOST_TEST_REFRESH", "refresh-token-0")
	t.Setenv("DOORPOST_TEST_CLIENT", "client-secret")
	s, log := newTokenSink(t), newLogFile(t)
	h := openHouse(t, layout{admin: freeAddress(t), global: log.global, app: fmt.Sprintf(`mail smtp %s {
			tls off
			rate 1000/s
			username portal@example.com
			oauth %s {
				client_id client
				client_secret {env.DOORPOST_TEST_CLIENT}
				refresh_token {env.DOORPOST_TEST_REFRESH}
			}
		}`, s.addr, s.tokens.URL)})
	mails := 0
	send := func(when, email string) {
		t.Helper()
		mails++
		h.browser().send("/-/sign-in", form("email", email))
		h.eventually("the mail "+when, func() bool { _, n := s.counts(); return n == mails })
	}
	send("at first", "ann@example.com")
	h.change("support ", "accent \"#0b6e4f\"\n\t\t\tsupport ") // a reload opens connections anew
	send("after a reload", "owner@example.com")
	caddymodule.Advance(t, time.Hour)
	h.change("#0b6e4f", "#0b6e50")
	send("once the token has expired", "bob@example.com")
	caddymodule.Advance(t, time.Hour)
	h.change("#0b6e50", "#0b6e51")
	send("once the token has expired again", "nameless@example.com")
	h.stop()
	h.start()
	caddymodule.Advance(t, 4*time.Hour) // the test's clock begins anew
	send("after a restart", "ann@example.com")
	s.mu.Lock()
	given := s.given
	s.mu.Unlock()
	if given != 4 {
		t.Errorf("%d access tokens were given; want one an hour, which is 4", given)
	}
	d, err := h.office().TestMail(t.Context(), "example", "you@example.org")
	if err != nil || !d.Accepted {
		t.Errorf("mail test = %+v, %v; want it accepted", d, err)
	}
	// Consent is withdrawn.
	s.mu.Lock()
	s.refresh = ""
	s.mu.Unlock()
	caddymodule.Advance(t, time.Hour)
	h.change("#0b6e51", "#0b6e52")
	h.browser().send("/-/sign-in", form("email", "bob@example.com"))
	h.eventually("the reason", func() bool {
		down := h.timeline("bob@example.com").MailServer
		return down != nil && strings.Contains(down.Reason, "OAuth: invalid_grant (Token has been expired or revoked.): consent was withdrawn") && strings.Contains(down.Reason, "write the new token as refresh_token")
	})
	resp, err := http.Get("http://" + h.admin + "/config/")
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	said, _ := json.Marshal(d)
	for where, text := range map[string]string{"the log": log.text(t), "/config": string(config), "mail test": string(said)} {
		for _, secret := range []string{"refresh-token-", "access-token-", "client-secret"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s has %q", where, secret)
			}
		}
	}
}
