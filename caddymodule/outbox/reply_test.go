package outbox

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// What real servers say, by the enhanced code of RFC 3463 and else by RFC 5321 and their
// words, is about the recipient, about us, or about the server; the step at which they say
// it doesn't matter once a recipient is named.
func TestSubjectOfAReply(t *testing.T) {
	names := map[subject]string{aboutPolicy: "policy", aboutServer: "server", aboutConnections: "connections", aboutAddress: "address"}
	for _, c := range []struct {
		step string
		code int
		says string
		want string
	}{
		// Postfix
		{stepRcpt, 554, "5.7.1 <a@b.example>: Relay access denied", "policy"},
		{stepRcpt, 553, "5.7.1 <a@b.example>: Sender address rejected: not owned by user portal", "policy"},
		{stepRcpt, 550, "5.1.0 <a@b.example>: Sender address rejected: User unknown in virtual mailbox table", "policy"},
		{stepRcpt, 450, "4.1.8 <a@b.example>: Sender address rejected: Domain not found", "policy"},
		{stepRcpt, 504, "5.5.2 <portal>: Helo command rejected: need fully-qualified hostname", "policy"},
		{stepRcpt, 554, "5.7.1 <unknown[10.0.0.1]>: Client host rejected: Access denied", "policy"},
		{stepRcpt, 450, "4.7.1 <unknown[10.0.0.1]>: Client host rejected: cannot find your hostname", "server"},
		{stepRcpt, 450, "4.7.1 Error: too many recipients from 10.0.0.1", "server"},
		{stepRcpt, 452, "4.3.1 Insufficient system storage", "policy"},
		{stepRcpt, 550, "5.1.1 <a@b.example>: Recipient address rejected: User unknown in local recipient table", "address"},
		{stepRcpt, 550, "5.1.2 <a@b.example>: Recipient address rejected: Domain not found", "address"},
		{stepRcpt, 556, "5.1.10 <a@b.example>: Recipient address rejected: Domain b.example does not accept mail (nullMX)", "address"},
		{stepRcpt, 450, "4.2.0 <a@b.example>: Recipient address rejected: Greylisted", "address"},
		{stepRcpt, 450, "4.1.1 <a@b.example>: Recipient address rejected: unverified address", "address"},
		{stepRcpt, 451, "4.7.1 Greylisting in action, please come back later", "address"},
		{stepRcpt, 421, "4.7.0 mail.example.com Error: too many errors", "server"},
		{stepConnect, 421, "4.7.0 mail.example.com Error: too many connections from 10.0.0.1", "connections"},
		{stepEnd, 552, "5.3.4 Message size exceeds fixed limit", "policy"},
		{stepEnd, 550, "5.7.1 Message contains a blocked link", "policy"},
		// Exim, which gives no enhanced codes
		{stepRcpt, 550, "relay not permitted", "policy"},
		{stepRcpt, 550, "Administrative prohibition", "policy"},
		{stepRcpt, 550, "Sender verify failed", "policy"},
		{stepRcpt, 550, "Unrouteable address", "address"},
		{stepRcpt, 550, "No Such User Here", "address"},
		{stepRcpt, 451, "Temporary local problem - please try later", "policy"},
		{stepConnect, 421, "Too many concurrent SMTP connections; please try again later.", "connections"},
		{stepConnect, 554, "no service for you", "server"},
		// Microsoft, Google
		{stepRcpt, 550, "5.7.60 SMTP; Client does not have permissions to send as this sender", "policy"},
		{stepEnd, 554, "5.2.252 SendAsDenied; portal@example.com not allowed to send as hello@example.com", "policy"},
		{stepEnd, 432, "4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", "connections"},
		{stepRcpt, 550, "5.4.5 Daily user sending limit exceeded", "policy"},
		{stepRcpt, 550, "5.1.1 The email account that you tried to reach does not exist", "address"},
		{stepRcpt, 452, "4.2.2 The email account that you tried to reach is over quota", "address"},
		// Others
		{stepMail, 550, "5.1.1 whatever", "server"},
		{stepRcpt, 530, "5.7.0 Must issue a STARTTLS command first", "server"},
		{stepRcpt, 535, "", "server"},
		{stepRcpt, 550, "", "address"},
		{stepRcpt, 450, "", "address"},
		{stepRcpt, 452, "", "policy"},
		{stepRcpt, 554, "", "policy"},
		{stepEnd, 550, "", "policy"},
		{stepEnd, 451, "", "policy"},
		{stepData, 554, "5.5.1 Error: no valid recipients", "policy"},
	} {
		r := newReply(c.step, &textproto.Error{Code: c.code, Msg: c.says}, message("ann@example.org"))
		if got := names[r.subject()]; got != c.want {
			t.Errorf("%s: %d %s is about the %s; want %s", c.step, c.code, c.says, got, c.want)
		}
		if advice := Advice(r.String()); advice == "" || c.want != "address" && strings.Contains(advice, "spelling") || c.want == "address" && c.code >= 500 && !strings.Contains(advice, "spelling") {
			t.Errorf("advice on %q = %q; want one that fits", r, advice)
		}
	}
}

func TestAdviceNamesTheSetting(t *testing.T) {
	for reason, want := range map[string]string{
		"RCPT TO: 554 5.7.1 … Relay access denied":                                  "let its admin allow this machine to relay",
		"RCPT TO: 553 5.7.1 … Sender address rejected: not owned by user …":         "`from`",
		"MAIL FROM: 530 5.7.0 Authentication required":                              "Write username and password",
		"connecting: 535 5.7.8 Error: authentication failed":                        "Check username and password",
		"end of the message: 552 5.3.4 Message size exceeds fixed limit":            "too large",
		"RCPT TO: 450 4.7.1 Error: too much mail":                                   "lower `rate`",
		"connecting: dial tcp 127.0.0.1:1: connect: connection refused":             "host and port",
		"connecting: dial tcp: lookup smtp.example.invalid: no such host":           "DNS",
		"connecting: context deadline exceeded":                                     "firewall",
		"connecting: its certificate isn't valid for smtp.example.com: x509: …":     "certificate",
		"connecting: the server is encrypted from the first byte; write `tls …`":    "",
		"outbox: the mail itself is missing in the store":                           "",
		"RCPT TO: 550 5.1.1 … User unknown; our 5.7.1 rule":                         "spelling",
		"connecting: 554 5.7.1 Client host blocked using a list of bad networks (…": "rule of the mail server",
	} {
		if got := Advice(reason); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("Advice(%q) = %q; want %q", reason, got, want)
		}
	}
}

// Servers repeat what they were told. Their words are kept without it.
func TestQuoteHidesAddressesAndLinks(t *testing.T) {
	const token, code = "q7w8e9r0t1y2u3i4o5p6a7", "k3mf-9xq2"
	m := message("ann.baker@example.org")
	m.Data = []byte("Subject: x\r\n\r\nhttps://clients.example.com/-/link?t=3D" + token[:9] + "=\r\n" + token[9:] + "\r\nor the code " + code + "\r\n")
	for said, want := range map[string]string{
		"Relay access denied":                                    "Relay access denied",
		"<ann.baker@example.org>: Relay access denied":           "… Relay access denied",
		"user ann.baker unknown":                                 "user … unknown",
		"User \"ANN.BAKER\" unknown, again\r\nand a line more":   "User … unknown, again and a line more",
		"bad link https://clients.example.com/-/link?t=" + token: "bad link …",
		"bad link clients.example.com/-/link?t=" + token + ".":   "bad link …",
		"bad word " + token:                                      "bad word …",
		"bad word t=" + token[:12]:                               "bad word …",
		"bad word " + token[3:14] + " in it":                     "bad word … in it",
		"code " + code:                                           "code …",
		"rule 5.7.26 of SPF, see X-Reason=abc1":                  "rule 5.7.26 of SPF, see …",
		"too many connections from 10.0.0.1":                     "too many connections from 10.0.0.1",
		"<a@b.c> <d@e.f>":                                        "",
		"\x1b[2J cleared":                                        "[2J cleared",
	} {
		if got := quote(said, m); got != want {
			t.Errorf("quote(%q) = %q; want %q", said, got, want)
		}
	}
	if got := quote(strings.Repeat("word ", 500), m); len(got) > 210 {
		t.Errorf("a long answer is quoted with %d bytes; want 200 or so", len(got))
	}
}

func TestReadLines(t *testing.T) {
	for _, c := range []struct {
		says string
		code int
		text string
		fail bool
	}{
		{"250 ok\r\n", 250, "ok", false},
		{"250\r\n", 250, "", false},
		{"250 \r\n", 250, "", false},
		{"250-one\r\n250 two\r\n", 250, "one two", false},
		{"250-one\r\n250\r\n", 250, "one", false},
		{"550-5.7.1 one\r\n550 5.7.1 two\r\n", 550, "5.7.1 one two", false},
		{"25\r\n", 0, "", true},
		{"ok\r\n", 0, "", true},
		{"250ok\r\n", 0, "", true},
		{"250-one\r\n", 0, "", true},
		{"", 0, "", true},
	} {
		code, lines, err := readLines(textproto.NewReader(bufio.NewReader(strings.NewReader(c.says))))
		text := joined(lines)
		if (err != nil) != c.fail || err == nil && (code != c.code || text != c.text) {
			t.Errorf("readLines(%q) = %d %q, %v; want %d %q, an error: %t", c.says, code, text, err, c.code, c.text, c.fail)
		}
	}
}

// RFC 5321, section 4.2, lets a server leave out the text; a client goes by the first digit.
func TestAFinalReplyThatBeginsWithTwoIsAcceptance(t *testing.T) {
	for _, final := range []string{"250", "250 ", "251 forwarded", "299 fine"} {
		addr := script(t, func(c net.Conn, r *bufio.Reader) {
			if heard(c, r) {
				fmt.Fprint(c, final+"\r\n")
			}
		})
		if err := (SMTP{Address: addr, TLS: TLSOff}).Send(t.Context(), message("ann@example.org")); err != nil {
			t.Errorf("after %q Send = %v; want nil", final, err)
		}
	}
	for _, final := range []string{"354 go on", "450", "whatever", ""} {
		addr := script(t, func(c net.Conn, r *bufio.Reader) {
			if heard(c, r) {
				fmt.Fprint(c, final+"\r\n")
			}
		})
		if err := (SMTP{Address: addr, TLS: TLSOff}).Send(t.Context(), message("ann@example.org")); err == nil || errors.Is(err, ErrRefused) {
			t.Errorf("after %q Send = %v; want an error that is tried again", final, err)
		}
	}
}

// A server that is encrypted from the first byte says nothing until the client does, and
// one that isn't answers a TLS handshake with words.
func TestAServerOfTheOtherKindOfTLSIsNamed(t *testing.T) {
	cert, pool := certificate(t, "127.0.0.1")
	waits := newSink(t, implicitTLS(t, cert))
	for _, mode := range []TLS{TLSStart, TLSOff, TLSDefault} {
		begin := time.Now()
		err := SMTP{Address: waits.addr, TLS: mode, RootCAs: pool, patience: 50 * time.Millisecond}.Send(t.Context(), message("ann@example.org"))
		if !errors.Is(err, ErrServer) || !strings.HasSuffix(err.Error(), "the server is encrypted from the first byte; write `tls implicit`") {
			t.Errorf("tls %s = %v after %v; want the setting to write", mode, err, time.Since(begin))
		}
	}
	err := SMTP{Address: newSink(t).addr, TLS: TLSImplicit, RootCAs: pool}.Send(t.Context(), message("ann@example.org"))
	if !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "the server doesn't begin with TLS; write `tls starttls`") {
		t.Errorf("tls implicit at a server that greets = %v; want the setting to write", err)
	}
	// A server that is only slow to greet is waited for.
	slow := script(t, func(c net.Conn, r *bufio.Reader) {
		c.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
		if _, err := r.Peek(1); err == nil {
			fmt.Fprint(c, "554 you talk before you are greeted\r\n")
			return
		}
		c.SetReadDeadline(time.Time{})
		if heard(c, r) {
			fmt.Fprint(c, "250 taken\r\n")
		}
	})
	if err := (SMTP{Address: slow, TLS: TLSOff, patience: 50 * time.Millisecond}).Send(t.Context(), message("ann@example.org")); err != nil {
		t.Errorf("a server that greets late: Send = %v; want nil", err)
	}
}

// loginServer offers ways to log in and takes those that it is told to.
func loginServer(t *testing.T, offers string, takes func(way string) bool) (addr string, tried func() []string) {
	var mu sync.Mutex
	var all []string
	addr = script(t, func(c net.Conn, r *bufio.Reader) {
		fmt.Fprint(c, "220 hello\r\n")
		for {
			line, err := r.ReadString('\n')
			word := strings.Fields(line)
			switch {
			case err != nil || len(word) == 0:
				return
			case word[0] == "EHLO":
				fmt.Fprint(c, "250-hello\r\n250 AUTH "+offers+"\r\n")
			case word[0] == "AUTH":
				mu.Lock()
				all = append(all, word[1])
				mu.Unlock()
				for i := 0; word[1] != "PLAIN" && i < 2; i++ { // SCRAM's first message, or LOGIN's name and password
					fmt.Fprint(c, "334 "+map[bool]string{true: base64.StdEncoding.EncodeToString([]byte("Username:"))}[word[1] == "LOGIN"]+"\r\n")
					if _, err := r.ReadString('\n'); err != nil || word[1] != "LOGIN" {
						break
					}
				}
				if takes(word[1]) {
					fmt.Fprint(c, "235 welcome\r\n")
				} else {
					fmt.Fprint(c, "535 5.7.8 authentication failed\r\n")
				}
			case word[0] == "DATA":
				fmt.Fprint(c, "354 go on\r\n")
				for line != ".\r\n" {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				fmt.Fprint(c, "250 taken\r\n")
			case word[0] == "*":
				fmt.Fprint(c, "501 as you like\r\n")
			default:
				fmt.Fprint(c, "250 fine\r\n")
			}
		}
	})
	return addr, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(all)
	}
}

// A server may offer a way to log in that the account can't use.
func TestTheNextWayToLogInIsTriedOnce(t *testing.T) {
	for _, c := range []struct {
		offers, takes string
		want          [2][]string // ways tried for the first message, and for both
		ok            bool
	}{
		{"SCRAM-SHA-256 PLAIN LOGIN", "PLAIN", [2][]string{{"SCRAM-SHA-256", "PLAIN"}, {"SCRAM-SHA-256", "PLAIN", "PLAIN"}}, true},
		{"scram-sha-256 login", "LOGIN", [2][]string{{"SCRAM-SHA-256", "LOGIN"}, {"SCRAM-SHA-256", "LOGIN", "LOGIN"}}, true},
		{"PLAIN LOGIN", "LOGIN", [2][]string{{"PLAIN", "LOGIN"}, {"PLAIN", "LOGIN", "LOGIN"}}, true},
		{"PLAIN", "", [2][]string{{"PLAIN"}, {"PLAIN", "PLAIN"}}, false},
		{"SCRAM-SHA-256 PLAIN LOGIN", "", [2][]string{{"SCRAM-SHA-256", "PLAIN"}, {"SCRAM-SHA-256", "PLAIN", "SCRAM-SHA-256", "PLAIN"}}, false},
	} {
		addr, tried := loginServer(t, c.offers, func(way string) bool { return way == c.takes })
		s := SMTP{Address: addr, TLS: TLSOff, Username: "portal", Password: "right", Logins: new(Logins)}
		for i := range 2 {
			err := s.Send(t.Context(), message("ann@example.org"))
			if (err == nil) != c.ok || err != nil && (!errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "535 5.7.8")) {
				t.Errorf("offers %s, takes %q: Send = %v; want sent: %t", c.offers, c.takes, err, c.ok)
			}
			if got := tried(); !slices.Equal(got, c.want[i]) {
				t.Errorf("offers %s, takes %q: after %d messages tried %q; want %q", c.offers, c.takes, i+1, got, c.want[i])
			}
		}
	}
	addr, tried := loginServer(t, "XOAUTH2", func(string) bool { return false })
	err := SMTP{Address: addr, TLS: TLSOff, Username: "portal", Password: "right"}.Send(t.Context(), message("ann@example.org"))
	if !errors.Is(err, ErrServer) || !strings.Contains(err.Error(), "no way to log in that works here") || len(tried()) != 0 {
		t.Errorf("no way that we know: Send = %v, tried %q; want an error that says so", err, tried())
	}
}

// What a server says about relaying is about us: no mail is lost, one tries for all once a
// second recipient has met it, the log tells it once, and all go out when it is repaired.
func TestARefusalAboutUsKeepsTheMail(t *testing.T) {
	for _, said := range []error{
		refusal(554, smtp.EnhancedCode{5, 7, 1}, "<ann@example.org>: Relay access denied"),
		refusal(450, smtp.EnhancedCode{4, 7, 1}, "Error: too much mail"),
		refusal(552, smtp.EnhancedCode{5, 3, 4}, "Message size exceeds fixed limit"),
	} {
		var repaired atomic.Bool
		s := newSink(t, func(s *sink) {
			s.rcpt = func(int, string) error {
				if repaired.Load() {
					return nil
				}
				return said
			}
		})
		inBubble(t, func(t *testing.T, db store.Store) {
			q, j := newQueue(t, db, s.plain())
			q.Server = NewServer(1, Pace(60_000, time.Minute), nil)
			waiting := map[string]int{}
			q.Waiting = func(_ context.Context, id, reason string) { waiting[reason]++ }
			q.Start()
			defer q.Stop()
			for i := range 10 {
				ask(t, q, "sign-in", fmt.Sprintf("client%d@example.org", i))
			}
			time.Sleep(30 * time.Minute)
			if n := inStore(t, db); n != 20 {
				t.Errorf("%v: %d records; want 10 mails, each of two", said, n)
			}
			down, ok := q.Outage()
			if !ok || !strings.HasPrefix(down.Reason, "RCPT TO: ") || strings.Contains(down.Reason, "@") || !down.Next.After(time.Now()) {
				t.Errorf("%v: the outage is %+v, %v; want the server's words and the next try", said, down, ok)
			}
			if n := s.tries(); n > 80 {
				t.Errorf("%v: %d tries in half an hour for 10 mails; want one in 24 to 30 s for all", said, n)
			}
			if n := strings.Count(j.String(), "level=WARN"); n > 6 {
				t.Errorf("%v: %d warnings in half an hour; want one, and a reminder every ten minutes", said, n)
			}
			if len(waiting) != 1 || waiting[down.Reason] != 10 {
				t.Errorf("%v: Waiting got %v; want one word for each mail", said, waiting)
			}
			repaired.Store(true)
			time.Sleep(3 * time.Minute)
			if n := len(s.got()); n != 10 || inStore(t, db) != 0 {
				t.Errorf("%v: %d mails three minutes after the repair; want 10", said, n)
			}
			if _, ok := q.Outage(); ok {
				t.Errorf("%v: the outage isn't over", said)
			}
		})
	}
}

// A rule about one recipient holds up nobody else, however often it is tried again.
func TestARefusalOfOneRecipientHoldsUpNobody(t *testing.T) {
	s := newSink(t, func(s *sink) {
		s.rcpt = func(_ int, to string) error {
			if strings.HasPrefix(to, "group") {
				return refusal(550, smtp.EnhancedCode{5, 7, 133}, "Sender not authenticated for a closed list")
			}
			return nil
		}
	})
	inBubble(t, func(t *testing.T, db store.Store) {
		q, _ := newQueue(t, db, s.plain())
		q.Server = NewServer(1, Pace(60_000, time.Minute), nil)
		var ended sync.Map // why, by ID
		q.Ended = func(_ context.Context, id string, why error) { ended.Store(id, fmt.Sprint(why)) }
		q.Start()
		defer q.Stop()
		one := ask(t, q, "sign-in", "group@example.org")
		ask(t, q, "sign-in", "group2@example.org")
		for i := range 20 {
			ask(t, q, "sign-in", "ann@example.org")
			time.Sleep(3 * time.Minute)
			if n := len(s.got()); n != i+1 {
				t.Fatalf("%d mails to others went out; want %d", n, i+1)
			}
		}
		time.Sleep(time.Minute)
		want := ErrLate.Error() + ": RCPT TO: 550 5.7.133 Sender not authenticated for a closed list"
		if got, _ := ended.Load(one); got != want {
			t.Errorf("the refused mail ended with %q; want %q", got, want)
		}
	})
}

// Wrong addresses in a row are no outage: of many clients some have moved.
func TestUnknownRecipientsInARowAreRefused(t *testing.T) {
	s := newSink(t, func(s *sink) {
		s.rcpt = func(int, string) error { return refusal(550, smtp.EnhancedCode{5, 1, 1}, "no such user") }
	})
	db := newStore(t)
	q, _ := newQueue(t, db, s.plain())
	q.Start()
	defer q.Stop()
	for i := range 5 {
		ask(t, q, "sign-in", fmt.Sprintf("client%d@example.org", i))
	}
	until(t, "all are gone", func() bool { return inStore(t, db) == 0 })
	if _, ok := q.Outage(); ok || s.tries() != 5 {
		t.Errorf("after %d refusals there is an outage: %t; want 5 and none", s.tries(), ok)
	}
}

// A server that takes one connection at a time gets one, after it said so, and the log
// isn't filled.
func TestAServerWithFewConnectionsGetsFew(t *testing.T) {
	var open atomic.Int64
	addr := script(t, func(c net.Conn, r *bufio.Reader) {
		if open.Add(1) > 1 {
			open.Add(-1)
			fmt.Fprint(c, "421 4.7.0 mail.example.com Error: too many connections from 127.0.0.1\r\n")
			return
		}
		defer open.Add(-1)
		if heard(c, r) {
			time.Sleep(5 * time.Millisecond)
			fmt.Fprint(c, "250 taken\r\n")
			open.Add(-1)
			r.ReadString('\n')
			fmt.Fprint(c, "221 bye\r\n")
			open.Add(1)
		}
	})
	db := newStore(t)
	q, j := newQueue(t, db, SMTP{Address: addr, TLS: TLSOff})
	q.Start()
	defer q.Stop()
	for i := range 30 {
		ask(t, q, "sign-in", fmt.Sprintf("client%d@example.org", i))
	}
	until(t, "all are sent", func() bool { return inStore(t, db) == 0 })
	if n := strings.Count(j.String(), "level=WARN"); n > 1 {
		t.Errorf("%d warnings for 30 mails; want one at most", n)
	}
	if !strings.Contains(j.String(), "takes fewer connections at a time") {
		t.Error("the log doesn't say that the server takes fewer connections")
	}
}

// A limit that the server says at RCPT keeps every mail waiting at once, as one in the greeting
// does, with one warning for all; and where it was about one recipient, the others go out with
// the next probe.
func TestALimitSaidOfARecipientIsTheServers(t *testing.T) {
	var one atomic.Bool // recipient alone
	s := newSink(t, func(s *sink) {
		s.rcpt = func(_ int, to string) error {
			if !one.Load() || to == "client0@example.org" {
				return refusal(450, smtp.EnhancedCode{4, 7, 1}, "Error: too much mail, try again later")
			}
			return nil
		}
	})
	inBubble(t, func(t *testing.T, db store.Store) {
		q, j := newQueue(t, db, s.plain())
		q.Server = NewServer(1, Pace(60_000, time.Minute), nil)
		q.Start()
		defer q.Stop()
		for i := range 10 {
			ask(t, q, "sign-in", fmt.Sprintf("client%d@example.org", i))
		}
		time.Sleep(3 * time.Second)
		if n := s.tries(); n != 1 {
			t.Errorf("%d tries in the first three seconds; want 1", n)
		}
		time.Sleep(5 * time.Minute)
		if n := strings.Count(j.String(), "level=WARN"); n != 1 {
			t.Errorf("%d warnings; want one for all:\n%s", n, j)
		}
		one.Store(true)
		time.Sleep(time.Minute)
		if n := len(s.got()); n != 9 {
			t.Errorf("%d mails went out within a minute; want those of the 9 other recipients", n)
		}
	})
}
