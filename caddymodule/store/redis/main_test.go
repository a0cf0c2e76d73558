//go:build servers

package redis

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/doorpost-auth/doorpost/caddymodule/store"
)

// server is a Redis server for tests.
type server struct {
	t    testing.TB
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
}

// startServer starts a server with durable data. It is stopped when the test ends.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("there is no redis-server; ./test.sh installs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	s := &server{t: t, dir: t.TempDir(), port: port, args: args}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.startAs(append([]string{
		"--bind", "127.0.0.1", "--port", s.port, "--unixsocket", s.socket(), "--dir", s.dir,
		"--databases", "1000", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
	}, s.args...)...)
}

// startAs starts the server with only these arguments.
func (s *server) startAs(args ...string) {
	s.t.Helper()
	s.cmd = exec.Command("redis-server", args...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.address()); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			s.t.Fatal("redis-server doesn't listen after 10 s")
		}
	}
}

func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

func (s *server) address() string { return net.JoinHostPort("127.0.0.1", s.port) }
func (s *server) socket() string  { return filepath.Join(s.dir, "redis.sock") }
func (s *server) url() string     { return "redis://" + s.address() }

// raw returns a plain client.
func (s *server) raw() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.address(), DisableIdentity: true, Protocol: 2})
	s.t.Cleanup(func() { c.Close() })
	return c
}

// openAt opens a store and closes it when the test ends.
func openAt(t testing.TB, url string, o Options) *Store {
	t.Helper()
	o.URL = cmp.Or(o.URL, url)
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("Open(%s) = %v", o.URL, err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	})
	return s
}

func key(id string) store.Key { return store.Key{Firm: "firm", Bucket: "bucket", ID: id} }

func put(t *testing.T, s *Store, id, value string) {
	t.Helper()
	if err := s.Apply(t.Context(), store.Put(key(id), []byte(value), time.Now().Add(time.Hour))); err != nil {
		t.Fatalf("Apply = %v", err)
	}
}

// holds checks that Get returns the value; "-": none.
func holds(t *testing.T, s *Store, id, want string) {
	t.Helper()
	rec, err := s.Get(context.Background(), key(id))
	got := string(rec.Value)
	if errors.Is(err, store.ErrNotFound) {
		got = "-"
	} else if err != nil {
		got = err.Error()
	}
	if got != want {
		t.Errorf("Get(%q) = %q; want %q", id, got, want)
	}
}

func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("%s: not within %v", what, within)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// journal is a log for tests.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// proxy stands between a store and its server, and simulates network failures.
type proxy struct {
	t        *testing.T
	listener net.Listener
	to       atomic.Pointer[string]

	delay  atomic.Int64                               // of each reply, in nanoseconds
	lose   atomic.Pointer[func(question []byte) bool] // true: drop the reply and close the connection
	change atomic.Pointer[func(answer []byte) []byte] // returns the replacement of a reply

	stuck atomic.Int64 // number of oldest connections whose replies are held back
	begun atomic.Int64 // number of connections so far

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, listener: l, conns: map[net.Conn]bool{}}
	p.to.Store(&to)
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) url() string { return "redis://" + p.listener.Addr().String() }

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) note(c net.Conn, there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if there {
		p.conns[c] = true
	} else {
		delete(p.conns, c)
		c.Close()
	}
}

func (p *proxy) serve(down net.Conn) {
	p.note(down, true)
	defer p.note(down, false)
	number := p.begun.Add(1)
	up, err := net.Dial("tcp", *p.to.Load())
	if err != nil {
		return
	}
	p.note(up, true)
	defer p.note(up, false)
	var lost atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		defer up.Close()
		pump(down, up, func(b []byte) []byte {
			if f := p.lose.Load(); f != nil && (*f)(b) {
				lost.Store(true)
			}
			return b
		})
	})
	defer wg.Wait()
	defer down.Close()
	pump(up, down, func(b []byte) []byte {
		if lost.Load() {
			return nil
		}
		if number <= p.stuck.Load() {
			return []byte{}
		}
		for start := time.Now(); time.Since(start) < time.Duration(p.delay.Load()); {
			time.Sleep(time.Millisecond)
		}
		if f := p.change.Load(); f != nil {
			b = (*f)(b)
		}
		return b
	})
}

// pump copies until one side ends or each returns nil.
func pump(from io.Reader, to io.Writer, each func([]byte) []byte) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			b := each(bytes.Clone(buf[:n]))
			if b == nil {
				return
			}
			if _, err := to.Write(b); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// loseAnswers loses the replies to the next n requests that contain text; it returns the
// number lost so far.
func (p *proxy) loseAnswers(n int, text string) *atomic.Int64 {
	var lost atomic.Int64
	f := func(q []byte) bool {
		return strings.Contains(string(q), text) && lost.Load() < int64(n) && lost.Add(1) <= int64(n)
	}
	p.lose.Store(&f)
	return &lost
}

func ids(recs []store.Record) (list []string) {
	for _, rec := range recs {
		list = append(list, rec.Key.ID)
	}
	return list
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func dbURL(s *server, n int) string { return fmt.Sprintf("%s/%d", s.url(), n) }
