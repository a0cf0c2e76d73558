package cli

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/action"
	"github.com/doorpost-auth/doorpost/caddymodule/admin"
	"github.com/doorpost-auth/doorpost/caddymodule/brand"
	"github.com/doorpost-auth/doorpost/caddymodule/outbox"
	"github.com/doorpost-auth/doorpost/caddymodule/site"
	"github.com/doorpost-auth/doorpost/caddymodule/token"
)

// mailServer is the desk's mail server. Until it is told otherwise it takes every email.
type mailServer struct {
	addr string

	mu     sync.Mutex
	refuse *smtp.SMTPError // what it answers to a recipient; nil: it takes the email
}

func (m *mailServer) NewSession(*smtp.Conn) (smtp.Session, error) { return m, nil }
func (m *mailServer) Mail(string, *smtp.MailOptions) error        { return nil }
func (m *mailServer) Reset()                                      {}
func (m *mailServer) Logout() error                               { return nil }

func (m *mailServer) Rcpt(string, *smtp.RcptOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse == nil {
		return nil
	}
	return m.refuse
}

func (m *mailServer) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// says has the server refuse every recipient: "550 5.1.1 no such mailbox", or take them: "".
func (m *mailServer) says(refusal string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refuse = nil; refusal == "" {
		return
	}
	word := strings.SplitN(refusal, " ", 3)
	code, _ := strconv.Atoi(word[0])
	m.refuse = &smtp.SMTPError{Code: code, Message: word[2]}
	for i, n := range strings.Split(word[1], ".") {
		m.refuse.EnhancedCode[i], _ = strconv.Atoi(n)
	}
}

// openMail starts a mail server for the firm, and its queue. The queue's clock stands still, ten
// minutes ahead, so that what waits goes on waiting.
func (d *desk) openMail(t *testing.T, f *admin.Firm) *mailServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &mailServer{addr: l.Addr().String()}
	server := smtp.NewServer(m)
	server.Domain = "mail.example.com"
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })

	f.Messages, err = brand.NewMessages(brand.Brand{Name: "Example Bookkeeping", From: "Example Bookkeeping <hello@example.com>"}, "")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(10 * time.Minute)
	pool := &outbox.Pool{SMTP: outbox.SMTP{Address: m.addr, TLS: outbox.TLSOff}}
	q := f.Queue
	q.Sender, q.Log, q.Now = pool, slog.New(slog.DiscardHandler), func() time.Time { return now }
	q.Server = outbox.NewServer(1, rate.NewLimiter(rate.Inf, 1), q.Now)
	jobs := &action.MailJobs{Directory: f.Directory, Messages: f.Messages, Audit: f.Audit, Sites: &site.Sites{URL: &url.URL{Scheme: "https", Host: "clients.example.com"}}, Prefix: "/-", Now: q.Now, Announcements: f.Announcements}
	q.Attempt, q.Failed = jobs.Attempt, jobs.Failed
	q.Prepare = func(ctx context.Context, r outbox.Request) (outbox.Prepared, error) {
		if r.Kind == "announcement" || r.Kind == "preview" || r.Kind == brand.KindPortalUpdate {
			return jobs.Prepare(ctx, r)
		}
		var ask token.MailRequest
		if err := json.Unmarshal(r.Payload, &ask); err != nil {
			return outbox.Prepared{}, err
		}
		letter, err := f.Messages.Test(string(ask.Address), now)
		if err != nil {
			return outbox.Prepared{}, err
		}
		data, err := letter.Bytes(now)
		return outbox.Prepared{Message: &outbox.Message{From: letter.From, To: letter.To, Data: data}}, err
	}
	q.Start()
	t.Cleanup(func() { q.Stop(); pool.Close() })
	return m
}

// mailed waits until the queue has tried everything, and returns the ID of the one email that waits or
// failed, if there is one.
func (d *desk) mailed() (id string) {
	d.t.Helper()
	q := d.firms["example"].Queue
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		waiting, _, err := q.List(d.t.Context(), "", 10)
		if err != nil {
			d.t.Fatal(err)
		}
		failed, _, err := q.ListUnsent(d.t.Context(), "", 10)
		if err != nil {
			d.t.Fatal(err)
		}
		switch {
		case len(waiting) == 1 && waiting[0].Tries != d.tries:
			d.tries = waiting[0].Tries
			return waiting[0].ID
		case len(waiting) == 0 && len(failed) == 1:
			return failed[0].ID
		case len(waiting) == 0 && len(failed) == 0:
			return d.mail
		}
	}
	d.t.Fatal("the queue doesn't come to rest")
	return ""
}

// announced waits until the announcement isn't running any more.
func (d *desk) announced() {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		state, err := d.firms["example"].Announcements.State(d.t.Context())
		if err != nil {
			d.t.Fatal(err)
		}
		if state.State != action.AnnouncementRunning {
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("the announcement doesn't end: %+v", state)
		}
	}
}
