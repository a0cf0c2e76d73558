package outbox

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/doorpost-auth/doorpost/caddymodule/secret"
	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

var testKeys = newKeys("a secret for tests, and nothing else")

func newKeys(s string) *secret.Keyring {
	k, err := secret.New([]byte(s))
	if err != nil {
		panic(err)
	}
	return k
}

func newStore(t testing.TB) store.Store {
	t.Helper()
	db, err := bolt.Open(filepath.Join(t.TempDir(), "doorpost.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// journal is a log that tests read.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// newQueue returns a queue whose requests' payload is the address that the mail goes to,
// or "" for nobody.
func newQueue(t testing.TB, db store.Store, s Sender) (*Queue, *journal) {
	j := &journal{}
	q := &Queue{Firm: "example", Store: db, Keys: testKeys, Sender: s, Log: j.logger(), Server: NewServer(DefaultConnections, Pace(60_000, time.Minute), nil)}
	q.Prepare = func(_ context.Context, r Request) (Prepared, error) { return letterTo(r), nil }
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(j)
		}
	})
	return q, j
}

func letterTo(r Request) Prepared {
	to := string(r.Payload)
	if to == "" {
		return Prepared{}
	}
	data := fmt.Sprintf("From: <hello@example.com>\r\nTo: <%s>\r\nMessage-ID: <%s@example.com>\r\nSubject: Your link\r\n\r\n"+
		"https://clients.example.com/-/link?t=%s\r\n.\r\n..two dots\r\n", to, r.ID, secret.Random())
	return Prepared{Message: &Message{From: "hello@example.com", To: to, Data: []byte(data)}, Ref: "ref-" + r.ID}
}

// ask commits a request for a mail to the address, and wakes the queue.
func ask(t testing.TB, q *Queue, kind, to string) string {
	t.Helper()
	op := q.Add(Request{Kind: kind, Asked: q.now(), Payload: []byte(to)})
	if err := q.Store.Apply(t.Context(), op); err != nil {
		t.Fatal(err)
	}
	q.Wake(op.Key.ID)
	return op.Key.ID
}

// until waits for something to become true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

// inStore counts the records of both buckets.
func inStore(t testing.TB, db store.Store) (n int) {
	t.Helper()
	for _, bucket := range []string{bucketQueue, bucketLetters} {
		recs, err := db.Scan(context.Background(), "example", bucket, "", "", 20_000)
		if err != nil {
			t.Fatal(err)
		}
		n += len(recs)
	}
	return n
}

// recorder is a Sender that is a slice; answer decides about the n-th try of a message.
type recorder struct {
	mu     sync.Mutex
	tries  map[string]int
	sent   []Message
	at     []time.Time
	answer func(ctx context.Context, m Message, try int) error
}

func (r *recorder) Send(ctx context.Context, m Message) error {
	r.mu.Lock()
	if r.tries == nil {
		r.tries = map[string]int{}
	}
	r.tries[m.ID]++
	try := r.tries[m.ID]
	r.mu.Unlock()
	if r.answer != nil {
		if err := r.answer(ctx, m, try); err != nil {
			return err
		}
	}
	m.lastStep(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, m)
	r.at = append(r.at, time.Now())
	return nil
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sent)
}

func (r *recorder) all() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, tries := range r.tries {
		n += tries
	}
	return n
}

// sink is a real SMTP server; the functions decide what it answers.
type sink struct {
	*smtp.Server
	addr string

	rcpt func(n int, to string) error
	data func(n int, to string) error // after the message was read
	// read, where set, takes the place of reading the message.
	read func(c net.Conn, r io.Reader) error

	mu    sync.Mutex
	rcpts int
	datas int
	conns int
	mails []received
	users []string

	run atomic.Int64 // for tests that start several senders
}

type received struct {
	from string
	to   []string
	data string
	tls  bool
	run  int64 // see sink
}

func (s *sink) NewSession(c *smtp.Conn) (smtp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns++
	_, tls := c.TLSConnectionState()
	return &session{sink: s, conn: c.Conn(), received: received{tls: tls, run: s.run.Load()}}, nil
}

type session struct {
	*sink
	received
	conn net.Conn
}

func (s *session) Reset()        { s.received = received{tls: s.received.tls, run: s.received.run} }
func (s *session) Logout() error { return nil }
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.mu.Lock()
	s.rcpts++
	n := s.rcpts
	s.mu.Unlock()
	if s.rcpt != nil {
		if err := s.rcpt(n, to); err != nil {
			return err
		}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	if s.read != nil {
		return s.read(s.conn, r)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.received.data = string(data)
	s.mu.Lock()
	s.datas++
	n := s.datas
	s.mu.Unlock()
	if s.sink.data != nil {
		if err := s.sink.data(n, s.to[0]); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.mails = append(s.mails, s.received)
	s.mu.Unlock()
	return nil
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if password != "right" {
			return smtp.ErrAuthFailed
		}
		s.mu.Lock()
		s.users = append(s.users, user)
		s.mu.Unlock()
		return nil
	}), nil
}

func (s *sink) got() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]received(nil), s.mails...)
}

func (s *sink) tries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rcpts
}

// newSink starts a server on this machine. Options may change it before it serves.
func newSink(t testing.TB, options ...func(*sink)) *sink {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{addr: ln.Addr().String()}
	s.Server = smtp.NewServer(s)
	s.Server.Domain, s.Server.AllowInsecureAuth = "mail.example.com", true
	s.Server.ErrorLog = quiet{}
	for _, o := range options {
		o(s)
	}
	go s.Server.Serve(ln)
	t.Cleanup(func() { s.Server.Close() })
	return s
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// plain is a Sender to the sink without encryption.
func (s *sink) plain() SMTP { return SMTP{Address: s.addr, TLS: TLSOff} }

func refusal(code int, enhanced smtp.EnhancedCode, text string) error {
	return &smtp.SMTPError{Code: code, EnhancedCode: enhanced, Message: text}
}

// certificate makes one for 127.0.0.1 or another host, and the pool that trusts it.
func certificate(t testing.TB, host string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func withTLS(cert tls.Certificate) func(*sink) {
	return func(s *sink) { s.Server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}} }
}

// implicitTLS has a sink serve with TLS from the first byte.
func implicitTLS(t testing.TB, cert tls.Certificate) func(*sink) {
	return func(s *sink) {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		if err != nil {
			t.Fatal(err)
		}
		s.addr = ln.Addr().String()
		go s.Server.Serve(ln)
	}
}

func message(to string) Message {
	data := strings.Join([]string{"From: <hello@example.com>", "To: <" + to + ">", "Subject: x", "",
		"one", ".", "..two", ".three", "", "end", ""}, "\r\n")
	return Message{ID: NewID("sign-in", time.Now()), From: "hello@example.com", To: to, Data: []byte(data)}
}

var errBoom = errors.New("boom")
