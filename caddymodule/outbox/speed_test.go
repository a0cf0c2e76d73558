//go:build measure

package outbox

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
	"github.com/doorpost-auth/doorpost/caddymodule/store/bolt"
)

// speedQueue has a queue of mails of 10 KiB on a store in a file; those that are put in wait.
func speedQueue(t *testing.T, sender Sender, connections int) *Queue {
	path := filepath.Join(t.TempDir(), "doorpost.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	sent, err := OpenSentLog(t.Context(), path+".sent", db)
	if err != nil {
		t.Fatal(err)
	}
	q := &Queue{Firm: "example", Store: db, Keys: testKeys, Sender: sender, Log: slog.New(slog.DiscardHandler),
		Process: &Process{Sent: sent}, Server: NewServer(connections, rate.NewLimiter(rate.Inf, 1), nil), Max: 50_000}
	body := strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10<<10/72)
	q.Prepare = func(_ context.Context, r Request) (Prepared, error) {
		p := letterTo(r)
		p.Message.Data = append(p.Message.Data, body...)
		return p, nil
	}
	return q
}

// putIn puts in n requests of a kind.
func putIn(t *testing.T, q *Queue, kind string, n int) {
	for n > 0 {
		var ops []store.Op
		for range min(n, 200) {
			ops = append(ops, q.Add(Request{Kind: kind, Asked: time.Now(), NotAfter: time.Now().Add(48 * time.Hour), Payload: []byte("ann@example.org")}))
		}
		n -= len(ops)
		if err := q.Store.Apply(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
}

// drain returns how many mails a second the queue hands over.
func drain(t *testing.T, q *Queue, n int) float64 {
	putIn(t, q, "notice", n)
	begun := time.Now()
	q.Start()
	defer q.Stop()
	for {
		recs, err := q.Store.Scan(t.Context(), q.Firm, bucketQueue, "", "", 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) == 0 {
			return float64(n) / time.Since(begun).Seconds()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestSpeedBesidePostfix hands over to Postfix's smtp-sink beside Postfix's smtp-source.
func TestSpeedBesidePostfix(t *testing.T) {
	for _, tool := range []string{"smtp-sink", "smtp-source"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; ./test.sh long installs postfix", err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	args := []string{addr, "1000"}
	if os.Getuid() == 0 {
		args = append([]string{"-u", "nobody"}, args...)
	}
	sink := exec.Command("smtp-sink", args...)
	if err := sink.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { sink.Process.Kill(); sink.Wait() }()
	until(t, "smtp-sink listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	const n = 5000
	for _, connections := range []int{1, 4} {
		begun := time.Now()
		out, err := exec.Command("smtp-source", "-s", strconv.Itoa(connections), "-m", strconv.Itoa(n), "-l", "10240", "-d", "-f", "hello@example.com", "-t", "ann@example.org", addr).CombinedOutput()
		if err != nil {
			t.Fatalf("smtp-source: %v\n%s", err, out)
		}
		postfix := n / time.Since(begun).Seconds()
		pool := &Pool{SMTP: SMTP{Address: addr, TLS: TLSOff}}
		ours := drain(t, speedQueue(t, pool, connections), n)
		pool.Close()
		t.Logf("%d connections: %.0f mails a second; smtp-source %.0f; %.2f of it", connections, ours, postfix, ours/postfix)
		if ours < postfix/3 {
			t.Errorf("%d connections: %.0f mails a second; want a third of %.0f", connections, ours, postfix)
		}
	}
}

// TestSpeedOfASlowServer: a server that takes 0.3 s at the end of a message gets as much as its
// connections allow.
func TestSpeedOfASlowServer(t *testing.T) {
	const connections, n = 4, 400
	s := newSink(t, func(s *sink) {
		s.read = func(_ net.Conn, r io.Reader) error {
			io.Copy(io.Discard, r)
			time.Sleep(300 * time.Millisecond)
			return nil
		}
	})
	pool := &Pool{SMTP: s.plain()}
	defer pool.Close()
	ours, want := drain(t, speedQueue(t, pool, connections), n), 0.9*connections/0.3
	t.Logf("%.1f mails a second; want %.1f", ours, want)
	if ours < want {
		t.Errorf("%.1f mails a second; want %.1f", ours, want)
	}
}

// TestSpeedWithTLSAndLogin: what encryption and a login cost.
func TestSpeedWithTLSAndLogin(t *testing.T) {
	cert, roots := certificate(t, "127.0.0.1")
	const n = 5000
	plain := &Pool{SMTP: newSink(t).plain()}
	defer plain.Close()
	encrypted := &Pool{SMTP: SMTP{Address: newSink(t, withTLS(cert)).addr, RootCAs: roots, Username: "portal", Password: "right"}}
	defer encrypted.Close()
	without, with := drain(t, speedQueue(t, plain, 4), n), drain(t, speedQueue(t, encrypted, 4), n)
	t.Logf("%.0f mails a second with STARTTLS and AUTH, %.0f without: %.2f of it", with, without, with/without)
	if with < 0.7*without {
		t.Errorf("with STARTTLS and AUTH %.2f of the rate; want 0.7", with/without)
	}
}

// TestSpeedOfSignInMailBehindAnnouncements: sign-in mail is at the server within a second,
// however many announcements wait.
func TestSpeedOfSignInMailBehindAnnouncements(t *testing.T) {
	took := make(chan time.Duration, 1)
	var asked time.Time
	s := newSink(t, func(s *sink) {
		s.data = func(_ int, to string) error {
			if to == "waiting@example.org" {
				took <- time.Since(asked)
			}
			return nil
		}
	})
	pool := &Pool{SMTP: s.plain()}
	defer pool.Close()
	q := speedQueue(t, pool, 4)
	putIn(t, q, "portal-update", 40_000)
	q.Start()
	defer q.Stop()
	until(t, "announcements go out", func() bool { return len(s.got()) > 100 })
	var all []time.Duration
	for range 200 {
		asked = time.Now()
		ask(t, q, "sign-in", "waiting@example.org")
		all = append(all, <-took)
	}
	if left := q.Len(); left < 1000 {
		t.Errorf("%d announcements are left; the test shows nothing", left)
	}
	slices.Sort(all)
	t.Log(fmt.Sprintf("p50 %v, p99 %v", all[len(all)/2], all[len(all)*99/100]))
	if p99 := all[len(all)*99/100]; p99 > time.Second {
		t.Errorf("p99 = %v; want at most 1s", p99)
	}
}
