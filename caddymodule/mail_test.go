package caddymodule_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/emersion/go-msgauth/dkim"

	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/emersion/go-smtp"
)

// sink is a mail server that keeps the mails it accepts.
type sink struct {
	addr string

	mu     sync.Mutex
	refuse error // reply to every recipient; nil accepts it
	rcpts  []string
	mails  [][]byte
}

func newSink(t *testing.T) *sink {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{addr: l.Addr().String()}
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &sinkSession{s}, nil }))
	server.Domain = "localhost"
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return s
}

type sinkSession struct{ *sink }

func (s *sinkSession) Mail(string, *smtp.MailOptions) error { return nil }
func (s *sinkSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcpts = append(s.rcpts, to)
	return s.refuse
}
func (s *sinkSession) Data(r io.Reader) error {
	b, err := io.ReadAll(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mails = append(s.mails, b)
	return err
}
func (s *sinkSession) Reset()        {}
func (s *sinkSession) Logout() error { return nil }

func (s *sink) counts() (rcpts, mails int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rcpts), len(s.mails)
}

func (s *sink) letter(t *testing.T, i int) letter {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return readLetter(t, s.mails[i])
}

// Over a real mail server: one recipient, the stored address, and the link signs in.
func TestMailOverSMTP(t *testing.T) {
	s := newSink(t)
	h := openHouse(t, layout{app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t}", s.addr)})
	b := h.browser()
	b.send("/-/sign-in", url.Values{"email": {"ANN.B@example.org"}, "to": {"/x"}})
	h.eventually("the mail", func() bool { _, n := s.counts(); return n == 1 })
	if rcpts, _ := s.counts(); rcpts != 1 || s.rcpts[0] != "ann.b@example.org" {
		t.Errorf("recipients %q; want the stored address alone", s.rcpts)
	}
	if a := b.open(s.letter(t, 0).link); a.StatusCode != 303 || a.Header.Get("Location") != "/x" {
		t.Errorf("GET link = %d to %q; want 303 to /x", a.StatusCode, a.Header.Get("Location"))
	}
}

// Mails are signed when they are sent: with the current Date, and by every key of the brand.
func TestMailIsSigned(t *testing.T) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t)
	h := openHouse(t, layout{app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t}", s.addr)})
	h.write("dkim.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	h.config = strings.Replace(h.config, "support ", "dkim 2026 "+h.path("dkim.pem")+"\n\t\t\tsupport ", 1)
	h.start()
	h.browser().send("/-/sign-in", form("email", "ann@example.com"))
	h.eventually("the mail", func() bool { _, n := s.counts(); return n == 1 })
	all, err := dkim.VerifyWithOptions(bytes.NewReader(s.mails[0]), &dkim.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
		if name != "2026._domainkey.example.com" {
			return nil, fmt.Errorf("asked for %s", name)
		}
		return []string{"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}, nil
	}})
	if err != nil || len(all) != 1 || all[0].Err != nil || all[0].Domain != "example.com" || !slices.Contains(all[0].HeaderKeys, "Date") {
		t.Errorf("the signatures are %+v, %v; want one that verifies:\n%s", all, err, s.mails[0])
	}
}

// A mail that the server refuses permanently doesn't count against the limit of links: when the
// mailbox works again, so does the link.
func TestRefusedMailsFreeTheirPlace(t *testing.T) {
	s := newSink(t)
	s.refuse = &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	h := openHouse(t, layout{app: fmt.Sprintf("mail smtp %s {\n\t\t\ttls off\n\t\t}", s.addr)})
	b := h.browser()
	for i := range 3 {
		h.mayMailAgain(i)
		b.send("/-/sign-in", url.Values{"email": {"ann@example.com"}, "to": {"/"}})
		h.eventually("the refusal", func() bool { n, _ := s.counts(); return n == i+1 })
	}
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	h.mayMailAgain(3)
	h.eventually("a mail after three refused ones", func() bool {
		if n, _ := s.counts(); n < 8 {
			b.send("/-/sign-in", url.Values{"email": {"ann@example.com"}, "to": {"/"}})
		}
		_, n := s.counts()
		return n > 0
	})
}
