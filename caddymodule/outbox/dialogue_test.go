package outbox

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// told returns the lines of a dialogue as an operator reads them.
func told(d Dialogue) string {
	var b strings.Builder
	for _, l := range d.Lines {
		fmt.Fprintf(&b, "%s: %s | %s\n", l.By, l.Text, l.Means)
	}
	return b.String()
}

func TestADialogueTellsEverythingButSecrets(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	s := newSink(t, withTLS(cert))
	q, _ := newQueue(t, newStore(t), &Pool{SMTP: SMTP{Address: s.addr, RootCAs: pool, Username: "portal", Password: "right"}})
	q.Sign = func(data []byte) ([]byte, error) {
		return append([]byte("DKIM-Signature: v=1; a=ed25519-sha256;\r\n d=example.com; s=2026; b=AAAA\r\n"), data...), nil
	}
	d, err := q.Talk(t.Context(), message("ann@example.org"))
	if err != nil || !d.Accepted || d.Reason != "" || d.Server != s.addr || len(s.got()) != 1 {
		t.Fatalf("Talk = %+v, %v; want it accepted", d, err)
	}
	text := told(d)
	at := 0
	for _, want := range []string{
		"note: (connecting to " + s.addr + ")", "server: 220 ", "doorpost: EHLO example.com | We greet", "It can encrypt the connection.",
		"doorpost: STARTTLS | We ask", "note: (TLS 1.3, ", "doorpost: AUTH PLAIN (hidden) | We log in as portal", "server: 235 ",
		"doorpost: MAIL FROM:<hello@example.com>", "It takes the sender.", "doorpost: RCPT TO:<ann@example.org>", "It takes the recipient.",
		"doorpost: DATA", "It waits for the email.", "the key belongs into DNS at 2026._domainkey.example.com", "doorpost: . |", "It has accepted the email.", "doorpost: QUIT",
	} {
		found := strings.Index(text[at:], want)
		if found < 0 {
			t.Fatalf("after %q there is no %q in\n%s", text[:at], want, text)
		}
		at += found
	}
	for _, secret := range []string{"right", base64.StdEncoding.EncodeToString([]byte("\x00portal\x00right"))} {
		if strings.Contains(text, secret) {
			t.Errorf("the dialogue has the password:\n%s", text)
		}
	}
}

func TestADialogueSaysWhatARefusalMeansAndWhatToDo(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	login := newSink(t, withTLS(cert))
	relay := newSink(t, func(s *sink) {
		s.rcpt = func(int, string) error {
			return refusal(554, smtp.EnhancedCode{5, 7, 1}, "<ann@example.org>: Relay access denied")
		}
	})
	scram, _ := loginServer(t, "SCRAM-SHA-256 LOGIN", func(way string) bool { return way == "LOGIN" })
	early := script(t, func(c net.Conn, r *bufio.Reader) { fmt.Fprint(c, "554 no SMTP service here\r\n") })
	for name, c := range map[string]struct {
		smtp     SMTP
		accepted bool
		says     []string
	}{
		"a wrong password": {SMTP{Address: login.addr, RootCAs: pool, Username: "portal", Password: "wrong"}, false, []string{"server: 535 5.7.8 ", "It refuses. The mail server doesn't take our login."}},
		"no relaying":      {SMTP{Address: relay.addr, TLS: TLSOff}, false, []string{"server: 554 5.7.1 <ann@example.org>: Relay access denied | It refuses. The mail server doesn't send for us"}},
		"the next way":     {SMTP{Address: scram, TLS: TLSOff, Username: "portal", Password: "right"}, true, []string{"AUTH SCRAM-SHA-256 |", "server: 535 ", "note: (once more, by another way to log in)", "doorpost: AUTH LOGIN", "doorpost: (hidden) | Name and password", "server: 334 (hidden)", "server: 235 "}},
		"no greeting":      {SMTP{Address: early, TLS: TLSOff}, false, []string{"server: 554 no SMTP service here | It refuses."}},
	} {
		d := c.smtp.Talk(t.Context(), message("ann@example.org"))
		text := told(d)
		if d.Accepted != c.accepted || !c.accepted && (d.Reason == "" || d.Advice == "") {
			t.Errorf("%s: accepted %t, %q, %q; want accepted: %t, with what to do if not", name, d.Accepted, d.Reason, d.Advice, c.accepted)
		}
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the dialogue has no %q:\n%s", name, want, text)
			}
		}
		if c.smtp.Password != "" && strings.Contains(text, c.smtp.Password) {
			t.Errorf("%s: the dialogue has the password:\n%s", name, text)
		}
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if d := (SMTP{Address: closed.Addr().String(), TLS: TLSOff}).Talk(t.Context(), message("ann@example.org")); d.Accepted || !strings.Contains(d.Reason, "connection refused") || !strings.Contains(d.Advice, "host and port") {
		t.Errorf("Talk with nobody = %+v; want that the connection is refused, and what to check", d)
	}
}

// A dialogue takes no turn from what waits, and has none taken from it: neither the pace nor an
// outage holds it up.
func TestADialogueWaitsForNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, db store.Store) {
		q, _ := newQueue(t, db, &talkative{recorder{answer: slowly}})
		q.Server = NewServer(1, Pace(1, time.Hour), nil)
		q.Start()
		defer q.Stop()
		for range 3 {
			ask(t, q, "sign-in", "ann@example.org")
		}
		time.Sleep(time.Minute)
		d, err := q.Talk(t.Context(), message("bob@example.org"))
		if err != nil || !d.Accepted || slices.ContainsFunc(q.Sender.(*talkative).sentAfter(0), func(m Message) bool { return m.To == "bob@example.org" }) {
			t.Errorf("Talk = %+v, %v; want it accepted at once, beside the queue", d, err)
		}
		if n := q.Sender.(*talkative).count(); n != 1 {
			t.Errorf("%d mails of the queue were sent; want 1, as before", n)
		}
	})
}

type talkative struct{ recorder }

func (t *talkative) Talk(context.Context, Message) Dialogue { return Dialogue{Accepted: true} }
