package caddymodule_test

import (
	"crypto/rand"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var onStore = flag.String("store", "bolt", "the store that houses stand on: bolt or redis")

// redisServer is a Redis server of the test. It keeps its data when it is killed, so that it can be
// started again.
type redisServer struct {
	dir, port string
	cmd       *exec.Cmd
}

// startRedis starts a server that ends with the test.
func startRedis(t *testing.T) *redisServer {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatal("there is no redis-server; ./test.sh installs it")
	}
	_, port, _ := net.SplitHostPort(freeAddress(t))
	s := &redisServer{dir: t.TempDir(), port: port}
	s.start(t)
	t.Cleanup(s.kill)
	return s
}

func (s *redisServer) start(t *testing.T) {
	t.Helper()
	s.cmd = exec.Command("redis-server", "--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir,
		"--databases", "16", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", s.address()); err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			t.Fatal("redis-server doesn't listen after 10 s")
		}
	}
}

// kill ends the server at once. A second call does nothing.
func (s *redisServer) kill() {
	if s.cmd.ProcessState == nil {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// end makes the server save its data and end.
func (s *redisServer) end(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	s.cmd.Wait() // with an error, because it was interrupted
}

func (s *redisServer) address() string { return net.JoinHostPort("127.0.0.1", s.port) }
func (s *redisServer) url() string     { return "redis://" + s.address() + "/0" }

// storeLines are the settings of the store for this run, unless the test's own settings name one.
func (h *house) storeLines(own string) string {
	if *onStore != "redis" || strings.Contains(own, "store ") {
		return ""
	}
	h.redis = startRedis(h.t)
	return h.redis.lines(h.t, own, h.dir)
}

// secretLine matches the setting secret, and no other such as client_secret.
var secretLine = regexp.MustCompile(`(?m)^\s*secret `)

// lines returns the settings of a firm on the server; own are additional ones.
func (s *redisServer) lines(t *testing.T, own, dir string) string {
	t.Helper()
	lines := "store redis " + s.url()
	if !secretLine.MatchString(own) {
		path := filepath.Join(dir, "secret")
		if err := os.WriteFile(path, []byte(strings.Repeat("correct horse ", 3)+rand.Text()), 0o600); err != nil {
			t.Fatal(err)
		}
		lines += "\n\t\tsecret {file." + path + "}"
	}
	return lines
}
